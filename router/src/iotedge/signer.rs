//! Signatures and tokens of the gateway's own identity, whoever keeps its key.
//!
//! In: text. Out: HMAC-SHA256 by the key of `$edgeHub`; tokens for IoT Hub or a parent gateway, made anew when half of
//! their time is over. Never: the key outside.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hub::HubId;
use hub::sas;
use tokio::sync::Mutex;

use super::cards::Cards;
use super::directory::Directory;
use super::visitors::Visitors;
use super::workload::{Workload, WorkloadError};
use crate::config::Secret;

/// How long a token is good, in seconds.
const TOKEN_SECS: u64 = 3_600;

/// What somebody is waiting for.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] WorkloadError),
    /// The key of the connection string.
    #[error("the key of the gateway is not base64")]
    Key,
}

/// Whoever keeps the key of the gateway's identity.
pub(crate) trait Signer: fmt::Debug + Send + Sync {
    /// Signs `text`.
    fn sign<'a>(&'a self, text: &'a str) -> Pending<'a, Result<Vec<u8>, SignError>>;
}

impl Signer for Workload {
    fn sign<'a>(&'a self, text: &'a str) -> Pending<'a, Result<Vec<u8>, SignError>> {
        Box::pin(async move { Ok(Workload::sign(self, text.as_bytes()).await?) })
    }
}

impl Signer for Secret {
    fn sign<'a>(&'a self, text: &'a str) -> Pending<'a, Result<Vec<u8>, SignError>> {
        Box::pin(async move { sas::sign(self.reveal(), text).ok_or(SignError::Key) })
    }
}

/// Signs for an uplink, whose thread is another one.
#[derive(Debug)]
pub(super) struct ForUplink {
    pub(super) signer: Arc<dyn Signer>,
    pub(super) visitors: Option<Arc<Visitors>>,
    pub(super) directory: Arc<Directory>,
    pub(super) cards: Arc<Cards>,
}

impl crate::upstream::Signer for ForUplink {
    fn sign<'a>(&'a self, text: &'a str) -> crate::upstream::Signature<'a> {
        Box::pin(async move { self.signer.sign(text).await.map_err(|error| error.to_string()) })
    }

    fn token_of(&self, identity: &str) -> Option<(String, u64)> {
        self.visitors.as_ref()?.token_of(identity)
    }

    fn about(&self, identity: &str) -> crate::upstream::About {
        HubId::parse(identity).map(|id| self.cards.of(&id)).unwrap_or_default()
    }

    fn note_link(&self, identity: &str, link: crate::upstream::LinkNews) {
        if let Some(visitors) = &self.visitors {
            visitors.note_link(identity, link);
        }
    }

    fn chain_of(&self, identity: &str) -> Option<String> {
        let id = HubId::parse(identity).ok()?;
        self.directory.tree().chain_of(&id).map(|chain| chain.to_string())
    }
}

/// Tokens of the gateway's identity for one IoT Hub.
#[derive(Debug)]
pub(crate) struct Tokens {
    signer: Arc<dyn Signer>,
    audience: String,
    /// The last one, and when it expires.
    latest: Mutex<Option<(String, u64)>>,
}

impl Tokens {
    /// Tokens of `id` for the IoT Hub `hub_host`.
    pub(crate) fn new(signer: Arc<dyn Signer>, hub_host: &str, id: &HubId) -> Tokens {
        Tokens { signer, audience: sas::audience(hub_host, id), latest: Mutex::new(None) }
    }

    /// A token that is good for at least half an hour from `now`, in seconds since 1970. Asks the signer only if the last
    /// one is older than that.
    pub(crate) async fn token(&self, now: u64) -> Result<String, SignError> {
        let mut latest = self.latest.lock().await;
        if let Some((token, expires)) = &*latest
            && now + TOKEN_SECS / 2 < *expires
            // A clock that was set back would make it last for ever.
            && *expires <= now + TOKEN_SECS
        {
            return Ok(token.clone());
        }
        let expires = now + TOKEN_SECS;
        let digest = self.signer.sign(&sas::text_to_sign(&self.audience, expires)).await?;
        let token = sas::token(&self.audience, expires, &digest);
        *latest = Some((token.clone(), expires));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Counting(std::sync::atomic::AtomicU32);

    impl Signer for Counting {
        fn sign<'a>(&'a self, text: &'a str) -> Pending<'a, Result<Vec<u8>, SignError>> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async move { sas::sign("a2V5", text).ok_or(SignError::Key) })
        }
    }

    #[tokio::test]
    async fn a_token_is_made_anew_when_half_of_its_time_is_over() {
        let signer = Arc::new(Counting::default());
        let id = HubId::parse("gw1/$edgeHub").expect("an id");
        let tokens = Tokens::new(signer.clone(), "hub.example", &id);
        let first = tokens.token(1_000).await.expect("a token");
        assert_eq!(first, sas::token_with_key("hub.example", &id, "a2V5", 4_600).expect("a token"));
        for (now, asked) in [(1_000, 1), (2_799, 1), (2_800, 2), (4_599, 2), (10_000, 3), (1_000, 4)] {
            tokens.token(now).await.expect("a token");
            assert_eq!(signer.0.load(std::sync::atomic::Ordering::Relaxed), asked, "{now}");
        }
    }

    #[tokio::test]
    async fn a_key_of_our_own_signs_as_the_runtime_does() {
        let secret = Secret("a2V5".to_owned());
        assert_eq!(
            Signer::sign(&secret, "text").await.expect("a digest"),
            sas::sign("a2V5", "text").expect("one")
        );
        assert!(matches!(Signer::sign(&Secret("%".to_owned()), "text").await, Err(SignError::Key)));
    }
}
