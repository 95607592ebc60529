//! Shared access signatures: read, verified, built (`reference/edgehub.md` §5.3 and §5.4).
//!
//! May use: `escape`, `id`, HMAC-SHA256. Time is an argument, in seconds since 1970.
//! In: a token and the keys of an identity. Out: whether it holds, and until when; or a token of our own.
//! Invariant: signatures are compared in constant time, and before anything about the key is said.
//! Never: a key or a signature in an error or in `Debug`.

use std::fmt;

use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::escape::{escape, escape_into, unescape};
use crate::id::HubId;

/// How wrong a clock may be, as in IoT Hub's own libraries: a token is taken for so long after it expired.
pub const CLOCK_SKEW_SECS: u64 = 300;

/// Longest token we read, in bytes. Those of SDKs have about 200.
pub const TOKEN_BYTES_MAX: usize = 4_096;

const PREFIX: &str = "SharedAccessSignature";

/// A token as a client gave it: read, not verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Token<'t> {
    /// `sr` as written: this is what is signed.
    resource: &'t str,
    /// `se` as written.
    expiry: &'t str,
    expires: u64,
    signature: Vec<u8>,
    policy: Option<&'t str>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    /// Not a token.
    #[error("this is no SharedAccessSignature")]
    NotAToken,
    /// `sr`, `sig` or `se`.
    #[error("the token has no {0}")]
    Missing(&'static str),
    /// Not a number, or not base64.
    #[error("{0} of the token cannot be read")]
    Unreadable(&'static str),
    /// In the past, by more than clocks differ.
    #[error("the token has expired")]
    Expired,
    /// For another hub or gateway.
    #[error("the token is for another host")]
    Host,
    /// For another device or module.
    #[error("the token is for another device or module")]
    Identity,
    /// Not made with one of the keys.
    #[error("the token's signature is not by one of the identity's keys")]
    Signature,
}

impl SasError {
    /// For counters and logs: one word.
    pub const fn label(self) -> &'static str {
        match self {
            SasError::NotAToken => "not_a_token",
            SasError::Missing(_) => "incomplete",
            SasError::Unreadable(_) => "unreadable",
            SasError::Expired => "expired",
            SasError::Host => "host",
            SasError::Identity => "identity",
            SasError::Signature => "signature",
        }
    }
}

/// What a token must be for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The client; a token for its device is taken for a module as well.
    pub id: &'a HubId,
    /// Host names the token may name: the hub, the gateway. Case does not count.
    pub hosts: &'a [&'a str],
    /// In seconds since 1970.
    pub now: u64,
    /// How wrong a clock may be.
    pub skew_secs: u64,
}

impl<'t> Token<'t> {
    /// Reads `SharedAccessSignature sr=…&sig=…&se=…`.
    pub fn parse(text: &'t str) -> Result<Token<'t>, SasError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(SasError::NotAToken);
        }
        let fields = text.strip_prefix(PREFIX).ok_or(SasError::NotAToken)?;
        let fields = fields.strip_prefix(' ').ok_or(SasError::NotAToken)?.trim();
        let field = |name: &str| {
            let mut pairs = fields.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value).filter(|value| !value.is_empty())
        };
        let resource = field("sr").ok_or(SasError::Missing("sr"))?;
        let signature = field("sig").ok_or(SasError::Missing("sig"))?;
        let expiry = field("se").ok_or(SasError::Missing("se"))?;
        let signature = unescape(signature).ok_or(SasError::Unreadable("sig"))?;
        Ok(Token {
            resource,
            expiry,
            // Some clients write a fraction; IoT Hub does not take it and neither do we.
            expires: expiry.parse().map_err(|_| SasError::Unreadable("se"))?,
            signature: Base64::decode_vec(&signature).map_err(|_| SasError::Unreadable("sig"))?,
            policy: field("skn"),
        })
    }

    /// When it expires, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// `skn`: the policy whose key signed it; devices' tokens have none.
    pub fn policy(&self) -> Option<&'t str> {
        self.policy
    }

    /// What it is for, unescaped: `host/devices/d[/modules/m]`.
    pub fn audience(&self) -> Option<String> {
        unescape(self.resource).map(std::borrow::Cow::into_owned)
    }

    /// Whether it is for `wanted`, has not expired, and is signed with one of `keys` (base64, as IoT Hub gives them).
    ///
    /// Errors: the first thing that does not hold. Cost: one HMAC for each key.
    pub fn verify(&self, wanted: &Wanted<'_>, keys: &[&str]) -> Result<(), SasError> {
        self.check_expiry(wanted.now, wanted.skew_secs)?;
        self.check_audience(wanted)?;
        let signed = keys.iter().filter_map(|key| Base64::decode_vec(key).ok());
        // Every key is tried, so that time does not tell which one it was.
        let mut found = false;
        for key in signed {
            found |= self.is_signed_with(&key);
        }
        if found { Ok(()) } else { Err(SasError::Signature) }
    }

    /// Whether it is still worth something at `now`, in seconds since 1970.
    pub fn check_expiry(&self, now: u64, skew_secs: u64) -> Result<(), SasError> {
        if now > self.expires.saturating_add(skew_secs) { Err(SasError::Expired) } else { Ok(()) }
    }

    fn check_audience(&self, wanted: &Wanted<'_>) -> Result<(), SasError> {
        let audience = self.audience().ok_or(SasError::Unreadable("sr"))?;
        let audience = audience.trim_end_matches('/');
        let (host, path) = audience.split_once('/').ok_or(SasError::Identity)?;
        if !wanted.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Err(SasError::Host);
        }
        let parts: Vec<&str> = path.split('/').collect();
        let (device, module) = match parts[..] {
            ["devices", device] => (device, None),
            ["devices", device, "modules", module] => (device, Some(module)),
            _ => return Err(SasError::Identity),
        };
        let own = is_id(device, wanted.id.device_id())
            && match (module, wanted.id.module_id()) {
                // The token of a device is good for its modules too.
                (None, _) => true,
                (Some(module), Some(own)) => is_id(module, own),
                (Some(_), None) => false,
            };
        if own { Ok(()) } else { Err(SasError::Identity) }
    }

    fn is_signed_with(&self, key: &[u8]) -> bool {
        let mut mac = mac(key);
        mac.update(self.resource.as_bytes());
        mac.update(b"\n");
        mac.update(self.expiry.as_bytes());
        mac.verify_slice(&self.signature).is_ok()
    }
}

/// Ids may be escaped twice: `$edgeHub` then comes out as `%24edgeHub` here.
fn is_id(written: &str, own: &str) -> bool {
    written.eq_ignore_ascii_case(own)
        || unescape(written).is_some_and(|plain| plain.eq_ignore_ascii_case(own))
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(sr={}, se={})", self.resource, self.expiry)
    }
}

/// What a token of ours is for: `escape("<hub>/devices/" + escape(device) + "/modules/" + escape(module))`.
pub fn audience(hub: &str, id: &HubId) -> String {
    let mut plain = format!("{hub}/devices/");
    escape_into(id.device_id(), &mut plain);
    if let Some(module) = id.module_id() {
        plain.push_str("/modules/");
        escape_into(module, &mut plain);
    }
    escape(&plain)
}

/// The text to sign, here or by the Workload API.
pub fn text_to_sign(audience: &str, expires: u64) -> String {
    format!("{audience}\n{expires}")
}

/// Signs with a key in base64, as IoT Hub gives them. `None` if it is not base64.
pub fn sign(key: &str, text: &str) -> Option<Vec<u8>> {
    let key = Base64::decode_vec(key).ok()?;
    let mut mac = mac(&key);
    mac.update(text.as_bytes());
    Some(mac.finalize().into_bytes().to_vec())
}

/// Puts a token together. `audience` as [`audience`] gives it, `digest` as [`sign`] or the Workload API does.
pub fn token(audience: &str, expires: u64, digest: &[u8]) -> String {
    let mut out = format!("{PREFIX} sr={audience}&sig=");
    escape_into(&Base64::encode_string(digest), &mut out);
    out.push_str(&format!("&se={expires}"));
    out
}

/// A token for `id` with its own key. `None` if the key is not base64.
pub fn token_with_key(hub: &str, id: &HubId, key: &str, expires: u64) -> Option<String> {
    let audience = audience(hub, id);
    let digest = sign(key, &text_to_sign(&audience, expires))?;
    Some(token(&audience, expires, &digest))
}

#[cfg(test)]
mod tests;
