//! Clients that the device scope does not know and IoT Hub does: `edge.authentication = "cloud-and-scope"`
//! (`reference/edgehub.md` §5.4).
//!
//! In: what such a client shows. Out: whether IoT Hub lets it in with that, asked once for each token; the token, for the link that
//! carries its messages. Always: its own token opens that link, never ours; with another token, or after its end, IoT Hub is
//! asked again. Never: certificates, modules' device keys, somebody else's word (`auth-chain`).
//! How: a CONNECT with the client's token over TLS to port 8883, as the client itself would. It ends a connection that the
//! client has there already, as any other would. Bound: `visitors_max`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

const PORT: u16 = 8_883;
/// How long IoT Hub may take.
const PATIENCE: Duration = Duration::from_secs(10);
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
    known: Mutex<BTreeMap<HubId, (Box<str>, u64)>>,
}

impl Visitors {
    /// Nobody is known. `host`: the IoT Hub, or the parent gateway.
    pub(super) fn new(hub: &str, host: &str, tls: ClientConfig, visitors_max: usize) -> Visitors {
        let (hub, host) = (without_port(hub), without_port(host));
        Visitors { hub, host, tls: Arc::new(tls), visitors_max, known: Mutex::default() }
    }

    /// Until when a client may stay that IoT Hub has let in with this very token.
    pub(super) fn until(&self, claim: &Claim) -> Option<Until> {
        let Proof::Token(token) = &claim.proof else { return None };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (of_before, until) = known.get(&claim.name.id)?;
        (of_before == token && *until > now_secs()).then_some(Until(*until))
    }

    /// The token of a visitor and its end, in seconds since 1970.
    pub(super) fn token_of(&self, identity: &str) -> Option<(String, u64)> {
        let id = HubId::parse(identity).ok()?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).map(|(token, until)| (token.to_string(), *until))
    }

    /// Asks IoT Hub about a client that nobody here knows.
    pub(super) async fn ask(&self, claim: &Claim) -> Word {
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
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= self.visitors_max {
                    known.retain(|_, (_, until)| *until > now_secs());
                }
                if known.len() >= self.visitors_max && !known.contains_key(id) {
                    tracing::error!(client = %id, "limits.identities_max is reached; IoT Hub would let it in");
                    return Word::Out;
                }
                known.insert(id.clone(), (text.clone(), until));
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
