//! How an identity gets into IoT Hub: client identifier, user name, token or certificate.
//!
//! In: identities, the time. Out: an [`Access`] for one connection, or why there is none. Never: a key in a text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hub::HubId;
use hub::connect::{UserName, user_name};
use hub::sas;
use hub::tree::AuthChain;
use time::OffsetDateTime;

use super::refusal::{Case, Facts, Way, explain};
use super::signer::{About, KeySigner, LinkNews, Signer};
use crate::config::{IotHub, Proof};

/// The version of the hub's MQTT face that is spoken (`reference/edgehub.md` §9.2).
const API_VERSION: &str = "2020-09-30";
/// When this program was written, about: a clock before that is wrong (2026-01-01).
const WRITTEN: u64 = 1_767_225_600;
/// Part of a token's life after which it is renewed, in percent, and how much of it is drawn at random.
const RENEW_PERCENT: u64 = 75;
const RENEW_JITTER_PERCENT: u64 = 10;

/// The same of a token that the identity has shown itself: from then on we look whether it has come with another one.
const OWN_RENEW_PERCENT: u64 = 80;

/// What one connection starts with.
#[derive(Debug)]
pub(in crate::upstream) struct Access {
    /// Client identifier.
    pub(in crate::upstream) client_id: String,
    /// User name.
    pub(in crate::upstream) user: String,
    /// The token; none with a certificate.
    pub(in crate::upstream) token: Option<String>,
    /// Chain and key, where they are not those of the uplink.
    pub(in crate::upstream) cert: Option<(PathBuf, PathBuf)>,
    /// What its client has said of itself.
    pub(in crate::upstream) about: About,
    /// Seconds after which a new connection with a new token is due.
    pub(in crate::upstream) renew_after_secs: Option<u64>,
}

/// Who may connect, and what they prove it with.
#[derive(Debug)]
pub(in crate::upstream) struct Keyring {
    hub: String,
    own: HubId,
    /// Signs for us; none with a certificate.
    signer: Option<Arc<dyn Signer>>,
    /// It is with the key of the configuration.
    has_key: bool,
    children: BTreeMap<String, (HubId, Proof)>,
    on_behalf_of: bool,
    token_secs: u64,
}

impl Keyring {
    /// `signer` signs for this gateway, whatever key the configuration has.
    pub(in crate::upstream) fn new(config: &IotHub, signer: Option<Arc<dyn Signer>>) -> Keyring {
        let by_key = || config.key.clone().map(|key| Arc::new(KeySigner(key)) as Arc<dyn Signer>);
        let children = config
            .children
            .iter()
            .map(|child| (child.id.to_string(), (child.id.clone(), child.proof.clone())));
        Keyring {
            hub: config.hub.clone(),
            own: config.id.clone(),
            has_key: signer.is_none(),
            signer: signer.or_else(by_key),
            children: children.collect(),
            on_behalf_of: config.on_behalf_of,
            token_secs: config.token_secs,
        }
    }

    /// What a connection of `identity` starts with. `now` in seconds since 1970; `random` is any number.
    pub(in crate::upstream) async fn access(
        &self,
        identity: &str,
        now: u64,
        random: u64,
    ) -> Result<Access, String> {
        let is_own = identity == self.own.as_str();
        let child = self.children.get(identity);
        if !is_own
            && child.is_none()
            && let Some((token, until)) = self.signer.as_ref().and_then(|signer| signer.token_of(identity))
        {
            return self.access_by_itself(identity, token, until.saturating_sub(now));
        }
        let id = match child {
            _ if is_own => self.own.clone(),
            Some((id, _)) => id.clone(),
            None if self.on_behalf_of => {
                HubId::parse(identity).map_err(|error| format!("{identity}: {error}"))?
            }
            None => return Err(format!("{identity} has no identity here")),
        };
        let (key, cert) = match child {
            Some((_, Proof::Key(key))) => (Some(Arc::new(KeySigner(key.clone())) as Arc<dyn Signer>), None),
            Some((_, Proof::Certificate(cert, key))) => (None, Some((cert.clone(), key.clone()))),
            None => (self.signer.clone(), None),
        };
        let is_ours = is_own || child.is_some();
        // On behalf of a child, the token is ours and the chain says for whom.
        let signer_id = if is_ours { &id } else { &self.own };
        let chain = self.signer.as_ref().and_then(|signer| signer.chain_of(identity));
        let chain = chain.unwrap_or_else(|| format!("{id};{}", self.own.device_id()));
        let auth_chain = if is_ours {
            None
        } else {
            Some(AuthChain::parse(&chain).map_err(|error| format!("{chain}: {error}"))?)
        };
        let token = match &key {
            None => None,
            Some(_) if now < WRITTEN => {
                return Err(format!(
                    "this machine's clock says {}, which is before this program was written: no token would be valid; set the clock",
                    clock(now)
                ));
            }
            Some(signer) => {
                let (audience, expires) = (sas::audience(&self.hub, signer_id), now + self.token_secs);
                let digest = signer.sign(&sas::text_to_sign(&audience, expires)).await;
                let digest = digest.map_err(|error| format!("a token for {id} cannot be signed: {error}"))?;
                Some(sas::token(&audience, expires, &digest))
            }
        };
        let about = if is_ours { About::default() } else { self.about(identity) };
        let renew_percent = RENEW_PERCENT + random % (RENEW_JITTER_PERCENT + 1);
        Ok(Access {
            client_id: identity.to_owned(),
            user: self.user(id, &about, auth_chain),
            renew_after_secs: token.as_ref().map(|_| self.token_secs * renew_percent / 100),
            token,
            cert,
            about,
        })
    }

    fn about(&self, identity: &str) -> About {
        self.signer.as_ref().map_or_else(About::default, |signer| signer.about(identity))
    }

    /// Whether a client has come since that is of another model than its link says, which cannot be changed while it is up.
    pub(in crate::upstream) fn has_another_model(&self, access: &Access) -> bool {
        if access.client_id == self.own.as_str() || self.children.contains_key(&access.client_id) {
            return false;
        }
        let now = self.about(&access.client_id).model_id;
        now.is_some() && now != access.about.model_id
    }

    fn user(&self, id: HubId, about: &About, auth_chain: Option<AuthChain>) -> String {
        let name = UserName {
            id,
            api_version: API_VERSION.to_owned(),
            client_type: Some(product(about)),
            model_id: about.model_id.clone(),
            auth_chain,
        };
        user_name(&self.hub, &name)
    }

    /// With a token that the identity itself has shown, and which is good for `secs`.
    fn access_by_itself(&self, identity: &str, token: String, secs: u64) -> Result<Access, String> {
        if secs == 0 {
            return Err(format!("the token of {identity} is over, and it has not come with another one"));
        }
        let about = self.about(identity);
        let id = HubId::parse(identity).map_err(|error| format!("{identity}: {error}"))?;
        Ok(Access {
            client_id: identity.to_owned(),
            user: self.user(id, &about, None),
            token: Some(token),
            cert: None,
            about,
            renew_after_secs: Some(secs * OWN_RENEW_PERCENT / 100),
        })
    }

    /// What to do about a refusal of `identity`, with what is known.
    pub(in crate::upstream) fn advice(&self, identity: &str, uplink: &str, facts: &Facts) -> String {
        let is_own = identity == self.own.as_str();
        let way = match self.children.get(identity) {
            Some((_, Proof::Certificate(..))) => Way::Certificate,
            Some((_, Proof::Key(_))) => Way::Key,
            None if !is_own => Way::OnBehalf,
            None if self.signer.is_none() => Way::Certificate,
            None if self.has_key => Way::Key,
            None => Way::Signer,
        };
        let case = Case {
            identity,
            gateway: self.own.device_id(),
            hub: &self.hub,
            uplink,
            is_own,
            way,
            token_secs: self.token_secs,
        };
        explain(&case, facts)
    }

    /// Says what became of a link.
    pub(in crate::upstream) fn note_link(&self, identity: &str, link: LinkNews) {
        if let Some(signer) = &self.signer {
            signer.note_link(identity, link);
        }
    }

    /// The host name that tokens are for.
    pub(in crate::upstream) fn hub(&self) -> &str {
        &self.hub
    }
}

/// What speaks to IoT Hub: the client's library and we, as with edgeHub (`reference/edgehub.md` §9.2).
fn product(about: &About) -> String {
    let own = concat!("Millrace/", env!("CARGO_PKG_VERSION"));
    about.client_type.as_ref().map_or_else(|| own.to_owned(), |library| format!("{library} {own}"))
}

/// A time as operators read it.
pub(super) fn clock(now: u64) -> String {
    OffsetDateTime::from_unix_timestamp(now.cast_signed()).map_or_else(
        |_| "nothing sensible".to_owned(),
        |at| format!("{} {:02}:{:02}:{:02} UTC", at.date(), at.hour(), at.minute(), at.second()),
    )
}

#[cfg(test)]
mod tests;
