//! Clients that the device scope does not know and IoT Hub does: `edge.authentication = "cloud-and-scope"`
//! (`reference/edgehub.md` §5.4).
//!
//! In: what such a client shows. Out: whether IoT Hub lets it in with that, asked once for each token; the token, for the link that
//! carries its messages. Always: its own token opens that link, never ours; with another token, or after its end, IoT Hub is
//! asked again; and so it is about visitors who stay: from time to time, and when a link of theirs ends or is refused.
//! Never: certificates, modules' device keys, somebody else's word (`auth-chain`).
//! How: a CONNECT with the client's token over TLS to port 8883, as the client itself would. It ends a connection that the
//! client has there already, as any other would: who has a link that is up is not asked about, for IoT Hub ends that itself.
//! Bound: `visitors_max`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hub::HubId;
use hub::connect::{UserName, user_name};
use hub::sas::Token;
use model::Limits;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::{Connect, Packet, ReasonCode, Version};

use super::judge::{Claim, Proof, Until};
use super::now_secs;
use crate::config::without_port;
use crate::upstream::LinkNews;

const PORT: u16 = 8_883;
/// How long IoT Hub may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon IoT Hub is asked again that has not answered.
const AGAIN: Duration = Duration::from_secs(60);
/// The version of the hub's MQTT face that is spoken.
const API_VERSION: &str = "2020-09-30";

/// What IoT Hub says of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is in, for so long.
    In(Until),
    /// It is not.
    Out,
    /// Nobody has said anything.
    Nothing,
}

/// Those that were let in.
pub(crate) struct Visitors {
    /// In user names.
    hub: String,
    /// Where it is asked.
    host: String,
    tls: Arc<ClientConfig>,
    visitors_max: usize,
    /// How long what it has said counts, while a visitor is here.
    period: Duration,
    known: Mutex<BTreeMap<HubId, Visitor>>,
}

/// Somebody who was let in once.
struct Visitor {
    token: Box<str>,
    /// The end of that, seconds since 1970.
    until: u64,
    /// When IoT Hub was asked, and when it is the next time.
    asked_at: Instant,
    ask_at: Instant,
    /// It has a link there, which IoT Hub would end.
    is_linked: bool,
    /// IoT Hub has said no since; its token stays, for what waits for its link.
    is_out: bool,
}

impl Visitor {
    fn is_in(&self, token: &str) -> bool {
        *self.token == *token && !self.is_out && self.until > now_secs()
    }
}

impl Visitors {
    /// Nobody is known. `host`: the IoT Hub, or the parent gateway.
    pub(super) fn new(
        (hub, host): (&str, &str),
        tls: ClientConfig,
        visitors_max: usize,
        period: Duration,
    ) -> Visitors {
        let (hub, host) = (without_port(hub), without_port(host));
        Visitors { hub, host, tls: Arc::new(tls), visitors_max, period, known: Mutex::default() }
    }

    /// Until when a client may stay that IoT Hub has let in with this very token.
    pub(super) fn until(&self, claim: &Claim) -> Option<Until> {
        let Proof::Token(token) = &claim.proof else { return None };
        let known = self.lock();
        let visitor = known.get(&claim.name.id)?;
        visitor.is_in(token).then_some(Until(visitor.until))
    }

    /// The token of a visitor and its end, in seconds since 1970.
    pub(super) fn token_of(&self, identity: &str) -> Option<(String, u64)> {
        let id = HubId::parse(identity).ok()?;
        self.lock().get(&id).map(|visitor| (visitor.token.to_string(), visitor.until))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HubId, Visitor>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When IoT Hub is to be asked again about somebody who is here with `claim`; `None`: it is none of ours, or not yet.
    pub(super) fn due_since(&self, claim: &Claim) -> Option<Instant> {
        let Proof::Token(token) = &claim.proof else { return None };
        let known = self.lock();
        let visitor =
            known.get(&claim.name.id).filter(|visitor| visitor.is_in(token) && !visitor.is_linked)?;
        (visitor.ask_at <= Instant::now()).then_some(visitor.ask_at)
    }

    /// Somebody knows that something may have changed.
    pub(super) fn doubt(&self, id: &HubId) {
        if let Some(visitor) = self.lock().get_mut(id) {
            visitor.ask_at = Instant::now();
        }
    }

    /// What became of a link of an identity.
    pub(super) fn note_link(&self, identity: &str, link: LinkNews) {
        let Ok(id) = HubId::parse(identity) else { return };
        let mut known = self.lock();
        let Some(visitor) = known.get_mut(&id) else { return };
        visitor.is_linked = link == LinkNews::Up;
        match link {
            LinkNews::Up => (visitor.is_out, visitor.ask_at) = (false, Instant::now() + self.period),
            LinkNews::Refused => visitor.ask_at = Instant::now(),
            // Perhaps by our own question.
            LinkNews::Closed => {
                let soon = (visitor.asked_at + AGAIN.min(self.period)).max(Instant::now());
                visitor.ask_at = visitor.ask_at.min(soon);
            }
            LinkNews::Down => {}
        }
    }

    /// Asks IoT Hub again about somebody who is here; whether it may stay.
    pub(super) async fn ask_again(&self, claim: &Claim) -> Word {
        // Whatever comes of it, the others are asked about first.
        self.put_off(claim, AGAIN.min(self.period));
        let word = self.ask_about(claim, true).await;
        let Proof::Token(token) = &claim.proof else { return word };
        if word == Word::Out
            && let Some(visitor) =
                self.lock().get_mut(&claim.name.id).filter(|visitor| visitor.token == *token)
        {
            visitor.is_out = true;
        }
        word
    }

    fn put_off(&self, claim: &Claim, pause: Duration) {
        if let Some(visitor) = self.lock().get_mut(&claim.name.id) {
            visitor.asked_at = Instant::now();
            visitor.ask_at = visitor.asked_at + pause;
        }
    }

    /// Asks IoT Hub about a client that nobody here knows.
    pub(super) async fn ask(&self, claim: &Claim) -> Word {
        self.ask_about(claim, false).await
    }

    async fn ask_about(&self, claim: &Claim, is_here: bool) -> Word {
        let Proof::Token(text) = &claim.proof else { return Word::Out };
        let until = match Token::parse(text) {
            Ok(token) if token.expires() > now_secs() => token.expires(),
            _ => return Word::Out,
        };
        if claim.name.auth_chain.as_ref().is_some_and(|chain| chain.is_on_behalf()) {
            return Word::Out;
        }
        let id = &claim.name.id;
        match tokio::time::timeout(PATIENCE, self.connect(&claim.name, text)).await {
            Ok(Ok(ReasonCode::SUCCESS)) => {
                let mut known = self.lock();
                // Meanwhile it may have come again, with a newer token.
                if is_here && known.get(id).is_none_or(|visitor| visitor.token != *text) {
                    return Word::In(Until(until));
                }
                if known.len() >= self.visitors_max {
                    known.retain(|_, visitor| visitor.until > now_secs());
                }
                if known.len() >= self.visitors_max && !known.contains_key(id) {
                    tracing::error!(client = %id, "limits.identities_max is reached; IoT Hub would let it in");
                    return Word::Out;
                }
                let is_linked = known.get(id).is_some_and(|visitor| visitor.is_linked);
                let asked_at = Instant::now();
                let ask_at = asked_at + self.period;
                known.insert(
                    id.clone(),
                    Visitor { token: text.clone(), until, asked_at, ask_at, is_linked, is_out: false },
                );
                Word::In(Until(until))
            }
            Ok(Ok(ReasonCode::SERVER_UNAVAILABLE)) => Word::Nothing,
            Ok(Ok(reason)) => {
                tracing::debug!(client = %id, %reason, "IoT Hub does not let it in");
                Word::Out
            }
            Ok(Err(problem)) => {
                tracing::warn!(client = %id, problem, "IoT Hub cannot be asked about a client");
                Word::Nothing
            }
            Err(_) => Word::Nothing,
        }
    }

    /// What IoT Hub's CONNACK says.
    async fn connect(&self, name: &UserName, token: &str) -> Result<ReasonCode, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let tcp = TcpStream::connect((self.host.as_str(), PORT)).await.map_err(|error| said(&error))?;
        let server = ServerName::try_from(self.host.clone()).map_err(|error| said(&error))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let mut stream = connector.connect(server, tcp).await.map_err(|error| said(&error))?;
        let name = UserName { api_version: API_VERSION.to_owned(), auth_chain: None, ..name.clone() };
        let connect = Connect {
            client_id: name.id.as_str().to_owned(),
            user_name: Some(user_name(&self.hub, &name)),
            password: Some(token.as_bytes().to_vec()),
            // What waits for it there stays for the link that comes later.
            clean_start: false,
            ..Connect::new(Version::V3, name.id.as_str())
        };
        let mut out = Vec::new();
        wire::encode_connect(&mut out, &connect).map_err(|error| format!("{error:?}"))?;
        stream.write_all(&out).await.map_err(|error| said(&error))?;
        let mut read = Vec::new();
        loop {
            if let Some(frame) =
                wire::split(&read, Limits::DEFAULT.packet_bytes_max).map_err(|it| format!("{it:?}"))?
            {
                let packet = wire::decode(frame, Version::V3).map_err(|it| format!("{it:?}"))?;
                let Packet::ConnAck(ack) = packet else { return Err("no CONNACK".to_owned()) };
                drop(stream.shutdown().await); // it has said what was asked
                return Ok(ack.reason);
            }
            if stream.read_buf(&mut read).await.map_err(|error| said(&error))? == 0 {
                return Err("the connection was closed instead of a CONNACK".to_owned());
            }
        }
    }
}

impl std::fmt::Debug for Visitors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitors").field("host", &self.host).finish_non_exhaustive()
    }
}
