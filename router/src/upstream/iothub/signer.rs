//! Who signs tokens: a key that we have, or somebody who has it and does not give it away.
//!
//! In: a text to sign. Out: its HMAC-SHA256, or why not, in a sentence for operators.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;

use crate::config::Secret;

/// A signature, when it is there.
pub(crate) type Signature<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + 'a>>;

/// Signs tokens with one key.
pub(crate) trait Signer: fmt::Debug + Send + Sync {
    /// HMAC-SHA256 of `text`.
    fn sign<'a>(&'a self, text: &'a str) -> Signature<'a>;

    /// The links from an identity up to us, where there are gateways between; `None`: it is a child.
    fn chain_of(&self, _identity: &str) -> Option<String> {
        None
    }

    /// The token with which an identity connects by itself, and its end in seconds since 1970; `None`: it is signed for.
    fn token_of(&self, _identity: &str) -> Option<(String, u64)> {
        None
    }

    /// What a client has said of itself when it was here last, for its link.
    fn about(&self, _identity: &str) -> About {
        About::default()
    }

    /// What became of the link of an identity, for whoever wants to know.
    fn note_link(&self, _identity: &str, _link: LinkNews) {}
}

/// What a client says of itself, beside who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Its model (Plug and Play).
    pub model_id: Option<String>,
    /// Its library.
    pub client_type: Option<String>,
}

/// What became of the link of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkNews {
    /// IoT Hub has let it in.
    Up,
    /// IoT Hub did not let it in.
    Refused,
    /// IoT Hub has ended it, for whatever reason.
    Closed,
    /// It has ended otherwise.
    Down,
}

/// A key in base64.
#[derive(Debug)]
pub(super) struct KeySigner(pub(super) Secret);

impl Signer for KeySigner {
    fn sign<'a>(&'a self, text: &'a str) -> Signature<'a> {
        let signed = hub::sas::sign(self.0.reveal(), text);
        Box::pin(ready(signed.ok_or_else(|| "the key is not base64".to_owned())))
    }
}
