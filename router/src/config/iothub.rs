//! An uplink to Azure IoT Hub: who this gateway is there, who else has a link, and how each proves it.
//!
//! Knows: the keys of `[uplink.NAME]` for `kind = "iothub"`. In: a `Judge`. Out: one `IotHub`; keys that are about other
//! kinds are mistakes, as are its own beside another kind.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hub::HubId;
use hub::connection_string::ConnectionString;

use super::checked::Secret;
use super::edge::{Edge, Standing};
use super::errors::ConfigError;
use super::judge::{BETWEEN_NAMES, Judge};
use super::packing;
use super::schema::{self, Key, kinds};

/// The module of a gateway that may connect on behalf of its children (`reference/edgehub.md` §5.6).
const EDGE_HUB: &str = "$edgeHub";

/// An IoT Hub and who connects to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IotHub {
    /// Its host name, which tokens are for.
    pub hub: String,
    /// Where it is; `None` where a url says it.
    pub host: Option<String>,
    /// Who this gateway is.
    pub id: HubId,
    /// Its key; `None` with a certificate, or if somebody else signs.
    pub key: Option<Secret>,
    /// Whether the gateway of `[edge]` is meant: who keeps its key signs, and its trust bundle counts.
    pub is_edge: bool,
    /// How long a token is valid, in seconds.
    pub token_secs: u64,
    /// Whether children without an identity here have a link with our token.
    pub on_behalf_of: bool,
    /// Children with keys or certificates of their own, ordered by id.
    pub children: Vec<Child>,
    /// Who may speak for others.
    pub speakers: Speakers,
    /// How long a child's link may be idle.
    pub link_idle_millis: u64,
    /// How long a link may leave everything unanswered.
    pub answer_millis: u64,
}

/// Who may say by a topic that a message is from somebody else than its publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speakers {
    /// These users; mostly nobody.
    Users(BTreeSet<String>),
    /// Whoever is let publish there.
    Anyone,
}

/// A device or module with a link of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Who.
    pub id: HubId,
    /// How it proves that.
    pub proof: Proof,
}

/// How an identity proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By tokens that are signed with this key.
    Key(Secret),
    /// By a certificate: chain and private key, PEM.
    Certificate(PathBuf, PathBuf),
}

/// Keys that say what IoT Hub leaves no choice about.
fn others() -> [&'static Key; 11] {
    [
        &schema::UPLINK_VERSION,
        &schema::UPLINK_CLIENT_ID,
        &schema::UPLINK_USER,
        &schema::UPLINK_PASSWORD,
        &schema::UPLINK_TOPIC_PREFIX,
        &kinds::UPLINK_TOPICS,
        &kinds::UPLINK_INBOUND,
        &kinds::UPLINK_QOS,
        &kinds::UPLINK_RETAIN,
        &kinds::UPLINK_PROPERTIES,
        &packing::COMPRESSION,
    ]
}

/// Keys that are for IoT Hub alone.
fn own() -> [&'static Key; 10] {
    [
        &kinds::UPLINK_CONNECTION_STRING,
        &kinds::UPLINK_HUB,
        &kinds::UPLINK_DEVICE,
        &kinds::UPLINK_MODULE,
        &kinds::UPLINK_SHARED_ACCESS_KEY,
        &kinds::UPLINK_TOKEN_SECS,
        &kinds::UPLINK_CHILDREN,
        &kinds::UPLINK_SPEAKERS,
        &kinds::UPLINK_LINK_IDLE_SECS,
        &kinds::UPLINK_ANSWER_SECS,
    ]
}

/// What another kind of uplink has no use for is a mistake.
pub(super) fn refuse(judge: &mut Judge<'_>, name: &str) {
    refuse_keys(judge, name, &own(), "is for kind = \"iothub\"");
}

/// `None` if something that is needed is missing or refused; then an error says so. Where no key says who connects, it is
/// the gateway of `[edge]`, if that has an IoT Hub.
pub(super) fn check(judge: &mut Judge<'_>, name: &str, edge: Option<&Edge>) -> Option<IotHub> {
    refuse_keys(judge, name, &others(), "is not for kind = \"iothub\", which leaves no choice about it");
    let speakers = check_speakers(judge, name, edge);
    let edge = edge.filter(|edge| edge.has_cloud() && !says_who(judge, name));
    let for_all = edge.is_some_and(|edge| edge.module.module_id() == Some(EDGE_HUB));
    let for_all = for_all && !judge.is_written(&kinds::UPLINK_CHILDREN, name);
    let on_behalf_of =
        judge.text(&kinds::UPLINK_CHILDREN, name).as_deref() == Some("on-behalf-of") || for_all;
    let token_secs = judge.integer(&kinds::UPLINK_TOKEN_SECS, name);
    let idle_secs = judge.integer(&kinds::UPLINK_LINK_IDLE_SECS, name);
    let answer_secs = judge.integer(&kinds::UPLINK_ANSWER_SECS, name);
    let children = check_children(judge, name);
    let (hub, host, id, key) = match (judge.text(&kinds::UPLINK_CONNECTION_STRING, name), edge) {
        (Some(text), _) => from_string(judge, name, &text)?,
        (None, Some(edge)) => from_edge(edge)?,
        (None, None) => from_keys(judge, name)?,
    };
    if let Some(key) = &key {
        check_key(judge, &kinds::UPLINK_SHARED_ACCESS_KEY, name, key);
    }
    if key.is_none() && edge.is_none() && !judge.is_written(&schema::UPLINK_CERT, name) {
        judge.complain(&kinds::UPLINK_SHARED_ACCESS_KEY, name, |error| ConfigError {
            problem: "is missing: without a key or a certificate the hub lets nobody in".to_owned(),
            hint: Some("write connection_string, shared_access_key, or cert and key".to_owned()),
            ..error
        });
    }
    if on_behalf_of && id.module_id() != Some(EDGE_HUB) {
        let found = id.to_string();
        judge.complain(&kinds::UPLINK_CHILDREN, name, |error| ConfigError {
            problem: format!("is for the module {EDGE_HUB} of a gateway alone: with another token the hub lets nobody in on behalf of others"),
            found: Some(format!("\"on-behalf-of\", and this uplink connects as {found}")),
            hint: Some(format!("connect as module {EDGE_HUB}, or give each child its own identity")),
            ..error
        });
    }
    Some(IotHub {
        hub,
        host,
        id,
        key,
        is_edge: edge.is_some(),
        token_secs: token_secs?,
        on_behalf_of,
        children,
        speakers,
        link_idle_millis: idle_secs? * 1_000,
        answer_millis: answer_secs? * 1_000,
    })
}

type Parts = (String, Option<String>, HubId, Option<Secret>);

/// Whether the uplink itself says who connects.
fn says_who(judge: &Judge<'_>, name: &str) -> bool {
    let keys = [
        &kinds::UPLINK_CONNECTION_STRING,
        &kinds::UPLINK_HUB,
        &kinds::UPLINK_DEVICE,
        &kinds::UPLINK_MODULE,
        &kinds::UPLINK_SHARED_ACCESS_KEY,
        &schema::UPLINK_CERT,
    ];
    keys.iter().any(|key| judge.is_written(key, name))
}

fn from_edge(edge: &Edge) -> Option<Parts> {
    let key = match &edge.standing {
        Standing::Key(key) => Some(key.clone()),
        Standing::Runtime { .. } => None,
        Standing::Alone(_) => return None,
    };
    let host = edge.parent_host.clone().or_else(|| edge.hub_host.clone())?;
    Some((edge.hub_name()?, Some(host), edge.module.clone(), key))
}

fn from_string(judge: &mut Judge<'_>, name: &str, text: &str) -> Option<Parts> {
    let beside =
        [&kinds::UPLINK_HUB, &kinds::UPLINK_DEVICE, &kinds::UPLINK_MODULE, &kinds::UPLINK_SHARED_ACCESS_KEY];
    refuse_keys(judge, name, &beside, "is said by connection_string already; write one of the two");
    match ConnectionString::parse(text) {
        Ok(parsed) => {
            let host = parsed.gateway.unwrap_or_else(|| parsed.host.clone());
            Some((parsed.host, Some(host), parsed.id, parsed.key.map(Secret)))
        }
        Err(errors) => {
            let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
            judge.complain(&kinds::UPLINK_CONNECTION_STRING, name, |error| ConfigError {
                problem: format!("is no connection string: {}", problems.join("; ")),
                allowed: Some("HostName=…;DeviceId=…;SharedAccessKey=…, as the portal gives it".to_owned()),
                ..error
            });
            None
        }
    }
}

fn from_keys(judge: &mut Judge<'_>, name: &str) -> Option<Parts> {
    let hub = judge.text(&kinds::UPLINK_HUB, name);
    let device = judge.text(&kinds::UPLINK_DEVICE, name);
    let module = judge.text(&kinds::UPLINK_MODULE, name);
    let key = judge.text(&kinds::UPLINK_SHARED_ACCESS_KEY, name).map(Secret);
    for (key, value) in [(&kinds::UPLINK_HUB, &hub), (&kinds::UPLINK_DEVICE, &device)] {
        if value.is_none() && !judge.is_written(key, name) {
            judge.complain(key, name, |error| ConfigError {
                problem: "is missing".to_owned(),
                hint: Some("or write connection_string, which says everything".to_owned()),
                ..error
            });
        }
    }
    let (hub, device) = (hub?, device?);
    match HubId::new(&device, module.as_deref()) {
        Ok(id) => Some((hub.clone(), Some(hub), id, key)),
        Err(problem) => {
            judge.complain(&kinds::UPLINK_DEVICE, name, |error| ConfigError {
                problem: format!("and module are no ids: {problem}"),
                ..error
            });
            None
        }
    }
}

fn check_speakers(judge: &mut Judge<'_>, name: &str, edge: Option<&Edge>) -> Speakers {
    let mut users = BTreeSet::new();
    for (user, origin) in judge.list(&kinds::UPLINK_SPEAKERS, name).unwrap_or_default() {
        if user.is_empty() {
            judge.complain(&kinds::UPLINK_SPEAKERS, name, |error| ConfigError {
                origin,
                problem: "names nobody: a client without a user cannot be told from another".to_owned(),
                found: Some("\"\"".to_owned()),
                allowed: Some(kinds::UPLINK_SPEAKERS.allowed.describe()),
                hint: Some("\"*\" lets everybody speak for everybody".to_owned()),
                ..error
            });
            continue;
        }
        users.insert(user);
    }
    if users.contains("*") || edge.is_some_and(|edge| edge.allow_sender_mismatch) {
        Speakers::Anyone
    } else {
        Speakers::Users(users)
    }
}

fn check_children(judge: &mut Judge<'_>, name: &str) -> Vec<Child> {
    let mut children = Vec::new();
    for child in judge.names(&["uplink", name, "identity"]) {
        let both = format!("{name}{BETWEEN_NAMES}{child}");
        let key = judge.text(&kinds::UPLINK_IDENTITY_KEY, &both).map(Secret);
        let cert = judge.text(&kinds::UPLINK_IDENTITY_CERT, &both).map(PathBuf::from);
        let cert_key = judge.text(&kinds::UPLINK_IDENTITY_CERT_KEY, &both).map(PathBuf::from);
        if let Some(key) = &key {
            check_key(judge, &kinds::UPLINK_IDENTITY_KEY, &both, key);
        }
        let proof = match (key, cert, cert_key) {
            (Some(key), None, None) => Some(Proof::Key(key)),
            (None, Some(cert), Some(key)) => Some(Proof::Certificate(cert, key)),
            _ => None,
        };
        match (HubId::parse(&child), proof) {
            (Ok(id), Some(proof)) => children.push(Child { id, proof }),
            (id, proof) => {
                let problem = match (id, proof) {
                    (Err(problem), _) => format!("is the key of no identity: {child:?}: {problem}"),
                    (_, _) => "needs either shared_access_key, or cert and key".to_owned(),
                };
                judge.complain(&kinds::UPLINK_IDENTITY_KEY, &both, |error| ConfigError { problem, ..error });
            }
        }
    }
    children
}

fn check_key(judge: &mut Judge<'_>, key: &'static Key, name: &str, secret: &Secret) {
    if hub::sas::sign(secret.reveal(), "").is_none() {
        judge.complain(key, name, |error| ConfigError {
            problem: "is not base64; copy the whole key, with the = at its end".to_owned(),
            ..error
        });
    }
}

fn refuse_keys(judge: &mut Judge<'_>, name: &str, keys: &[&'static Key], problem: &str) {
    for key in keys {
        if judge.is_written(key, name) {
            judge.complain(key, name, |error| ConfigError { problem: problem.to_owned(), ..error });
        }
    }
}
