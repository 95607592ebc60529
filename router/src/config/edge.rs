//! `[edge]`: this gateway's place in Azure IoT Edge, as used.
//!
//! Reads: nothing but keys; files of identities and certificates are read by who uses them. In: the keys. Out: an
//! [`Edge`], or every mistake. Knows which of the three ways to be an edge device a configuration means: with an IoT Edge
//! runtime (`workload_uri`), with a connection string (development), alone (`identities`).

use std::path::PathBuf;

use hub::HubId;
use hub::connection_string::ConnectionString;

use super::checked::{Host, Secret};
use super::errors::ConfigError;
use super::judge::Judge;
use super::schema::{self, Key};
use crate::iotedge::{WorkloadUri, version_for};

/// This gateway's place in Azure IoT Edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The gateway itself, a device.
    pub device: HubId,
    /// We: its module, `$edgeHub`.
    pub module: HubId,
    /// Which of three ways.
    pub standing: Standing,
    /// The IoT Hub, where there is one.
    pub hub_host: Option<String>,
    /// The parent gateway, where there is one.
    pub parent_host: Option<String>,
    /// The name under which clients reach this gateway.
    pub host_name: String,
    /// Certificate and key of the gateway; `None` if the runtime issues them.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Authorities that clients and the parent gateway may have certificates of, beside the runtime's.
    pub trust_bundle: Option<PathBuf>,
    /// Whether certificates of clients are taken.
    pub client_certs: bool,
    /// Whether IoT Hub is asked about clients that the device scope does not know.
    pub asks_cloud: bool,
    /// The module that may speak for clients with certificates.
    pub api_proxy_module: HubId,
    /// Whether child gateways are served, and the nested API is used upstream.
    pub nested: bool,
    /// How often the device scope is read, in seconds.
    pub scope_refresh_secs: u64,
    /// Shortest time between two lookups of one identity, in seconds.
    pub scope_refresh_min_secs: u64,
    /// How long a client waits for a lookup, in milliseconds.
    pub lookup_timeout_millis: u64,
    /// Most identities connected at once; `None` is as many as the listeners take.
    pub clients_max: Option<u32>,
    /// Whether clients may name others as senders.
    pub allow_sender_mismatch: bool,
    /// Whether messages are kept for modules that have never come.
    pub keep_for_unknown: bool,
    /// Whether routes come from our module twin.
    pub config_by_twin: bool,
    /// How often that twin is read as a whole, in seconds.
    pub twin_refresh_secs: u64,
    /// The storage of an edgeHub that was here before, if its place is known.
    pub old_storage: Option<PathBuf>,
}

impl Edge {
    /// The IoT Hub as tokens name it: without a port.
    pub(crate) fn hub_name(&self) -> Option<String> {
        self.hub_host.as_deref().map(without_port)
    }

    /// Whether routes come from a twin that there is.
    pub(crate) fn is_led_by_twin(&self) -> bool {
        self.config_by_twin && self.has_cloud()
    }

    /// Whether it has an IoT Hub to send to.
    pub(crate) fn has_cloud(&self) -> bool {
        self.hub_host.is_some() && !matches!(self.standing, Standing::Alone(_))
    }
}

/// A host without its port.
pub(crate) fn without_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.to_owned(),
        _ => host.to_owned(),
    }
}

/// In which way a gateway is an edge device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An IoT Edge runtime is there: it signs, encrypts and issues certificates.
    Runtime {
        /// Where.
        uri: WorkloadUri,
        /// The version to speak.
        version: &'static str,
        /// Of the module.
        generation_id: String,
    },
    /// For development: we have the key of `$edgeHub` ourselves.
    Key(Secret),
    /// Without IoT Hub: clients are those of a local file.
    Alone(PathBuf),
}

/// `None` if there is no `[edge]`, or something required is missing; then an error says so.
pub(super) fn check(judge: &mut Judge<'_>, host: &Host, is_wanted: bool) -> Option<Edge> {
    let string = judge.text(&schema::EDGE_CONNECTION_STRING, "");
    let string = string.and_then(|text| connection_string(judge, &text));
    let identities = judge.text(&schema::EDGE_IDENTITIES, "").map(PathBuf::from);
    let uri = judge.text(&schema::EDGE_WORKLOAD_URI, "").and_then(|text| WorkloadUri::parse(&text));
    let device = judge.text(&schema::EDGE_DEVICE_ID, "");
    let device = device.or_else(|| string.as_ref().map(|string| string.id.device_id().to_owned()));
    let module = judge.text(&schema::EDGE_MODULE_ID, "").unwrap_or_default();
    let generation_id = judge.text(&schema::EDGE_GENERATION_ID, "");
    let written = |judge: &Judge<'_>| {
        [
            &schema::EDGE_CONNECTION_STRING,
            &schema::EDGE_IDENTITIES,
            &schema::EDGE_WORKLOAD_URI,
            &schema::EDGE_DEVICE_ID,
        ]
        .iter()
        .any(|key| judge.is_written(key, ""))
    };
    if !is_wanted && !written(judge) {
        return None;
    }
    let version = judge.text(&schema::EDGE_WORKLOAD_VERSION, "").unwrap_or_default();
    let standing = standing(judge, string.as_ref(), identities, uri, (generation_id, &version));
    let Some(device) = device else {
        missing(
            judge,
            &schema::EDGE_DEVICE_ID,
            "the id of this gateway's device; an IoT Edge runtime says it as IOTEDGE_DEVICEID",
        );
        return None;
    };
    let device = id(judge, &schema::EDGE_DEVICE_ID, &device, HubId::device(&device));
    let module = device.as_ref().and_then(|device| {
        id(judge, &schema::EDGE_MODULE_ID, &module, HubId::module(device.device_id(), &module))
    });
    let proxy = judge.text(&schema::EDGE_API_PROXY_MODULE, "").unwrap_or_default();
    let proxy = device.as_ref().and_then(|device| {
        id(judge, &schema::EDGE_API_PROXY_MODULE, &proxy, HubId::module(device.device_id(), &proxy))
    });
    let hub_host = judge.text(&schema::EDGE_HUB_HOST, "").or_else(|| Some(string.as_ref()?.host.clone()));
    let parent_host = judge.text(&schema::EDGE_PARENT_HOST, "");
    let parent_host = parent_host.or_else(|| string.as_ref()?.gateway.clone());
    if hub_host.is_none() && !matches!(standing, Some(Standing::Alone(_)) | None) {
        missing(
            judge,
            &schema::EDGE_HUB_HOST,
            "the host name of the IoT Hub; an IoT Edge runtime says it as IOTEDGE_IOTHUBHOSTNAME",
        );
    }
    let file = |judge: &mut Judge<'_>, key| judge.text(key, "").map(PathBuf::from);
    let (cert, key) = (file(judge, &schema::EDGE_CERT), file(judge, &schema::EDGE_KEY));
    for (one, other, has) in [
        (&schema::EDGE_CERT, &schema::EDGE_KEY, cert.is_some() && key.is_none()),
        (&schema::EDGE_KEY, &schema::EDGE_CERT, key.is_some() && cert.is_none()),
    ] {
        if has {
            judge.complain(one, "", |error| ConfigError {
                problem: format!("needs {} beside it", other.path),
                ..error
            });
        }
    }
    Some(Edge {
        device: device?,
        module: module?,
        standing: standing?,
        hub_host,
        parent_host,
        host_name: judge.text(&schema::EDGE_HOST_NAME, "").unwrap_or_else(|| host.name.clone()),
        certificate: cert.zip(key),
        trust_bundle: file(judge, &schema::EDGE_TRUST_BUNDLE),
        client_certs: judge.boolean(&schema::EDGE_CLIENT_CERTS, "").unwrap_or(true),
        asks_cloud: judge.text(&schema::EDGE_AUTHENTICATION, "").as_deref() == Some("cloud-and-scope"),
        api_proxy_module: proxy?,
        nested: judge.boolean(&schema::EDGE_NESTED, "").unwrap_or(true),
        scope_refresh_secs: judge.integer(&schema::EDGE_SCOPE_REFRESH_SECS, "").unwrap_or_default(),
        scope_refresh_min_secs: judge.integer(&schema::EDGE_SCOPE_REFRESH_MIN_SECS, "").unwrap_or_default(),
        lookup_timeout_millis: judge.integer(&schema::EDGE_LOOKUP_TIMEOUT_MS, "").unwrap_or_default(),
        clients_max: judge
            .integer(&schema::EDGE_CLIENTS_MAX, "")
            .filter(|max| *max > 0)
            .map(|max| max as u32),
        allow_sender_mismatch: judge.boolean(&schema::EDGE_ALLOW_SENDER_MISMATCH, "").unwrap_or_default(),
        keep_for_unknown: judge.boolean(&schema::EDGE_KEEP_FOR_UNKNOWN, "").unwrap_or(true),
        config_by_twin: judge.text(&schema::EDGE_CONFIG_SOURCE, "").as_deref() == Some("twin"),
        twin_refresh_secs: judge.integer(&schema::EDGE_TWIN_REFRESH_SECS, "").unwrap_or_default(),
        old_storage: file(judge, &schema::EDGE_OLD_STORAGE),
    })
}

/// Which way is meant; exactly one must be.
fn standing(
    judge: &mut Judge<'_>,
    string: Option<&ConnectionString>,
    identities: Option<PathBuf>,
    uri: Option<WorkloadUri>,
    (generation_id, version): (Option<String>, &str),
) -> Option<Standing> {
    let ways = [
        (&schema::EDGE_WORKLOAD_URI, judge.is_written(&schema::EDGE_WORKLOAD_URI, "")),
        (&schema::EDGE_CONNECTION_STRING, judge.is_written(&schema::EDGE_CONNECTION_STRING, "")),
        (&schema::EDGE_IDENTITIES, judge.is_written(&schema::EDGE_IDENTITIES, "")),
    ];
    let mut written = ways.iter().filter(|(_, written)| *written).map(|(key, _)| *key);
    match (written.next(), written.next()) {
        (None, _) => {
            missing(
                judge,
                &schema::EDGE_WORKLOAD_URI,
                "where the IoT Edge runtime listens (it says so as IOTEDGE_WORKLOADURI); or edge.connection_string, or \
                 edge.identities",
            );
            return None;
        }
        (Some(one), Some(other)) => {
            judge.complain(other, "", |error| ConfigError {
                problem: format!(
                    "does not go together with {}: a gateway has its keys from one place",
                    one.path
                ),
                ..error
            });
            return None;
        }
        _ => {}
    }
    if let Some(path) = identities {
        return Some(Standing::Alone(path));
    }
    if let Some(string) = string {
        return string.key.clone().map(|key| Standing::Key(Secret(key)));
    }
    let uri = uri?;
    let Some(spoken) = version_for(Some(version)) else {
        judge.complain(&schema::EDGE_WORKLOAD_VERSION, "", |error| ConfigError {
            problem: "is older than every version that we speak, or no date".to_owned(),
            found: Some(format!("{version:?}")),
            allowed: Some("2018-06-28 or newer".to_owned()),
            ..error
        });
        return None;
    };
    let Some(generation_id) = generation_id else {
        missing(
            judge,
            &schema::EDGE_GENERATION_ID,
            "the module's generation id; an IoT Edge runtime says it as IOTEDGE_MODULEGENERATIONID",
        );
        return None;
    };
    Some(Standing::Runtime { uri, version: spoken, generation_id })
}

fn connection_string(judge: &mut Judge<'_>, text: &str) -> Option<ConnectionString> {
    let problems = match ConnectionString::parse(text) {
        Ok(string) if string.key.is_some() => return Some(string),
        Ok(_) => vec!["it has no SharedAccessKey, which the gateway signs its tokens with".to_owned()],
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    };
    judge.complain(&schema::EDGE_CONNECTION_STRING, "", |error| ConfigError {
        problem: format!("is no connection string of a gateway's $edgeHub: {}", problems.join("; ")),
        ..error
    });
    None
}

fn id(
    judge: &mut Judge<'_>,
    key: &'static Key,
    text: &str,
    parsed: Result<HubId, hub::id::InvalidId>,
) -> Option<HubId> {
    parsed
        .map_err(|problem| {
            judge.complain(key, "", |error| ConfigError {
                problem: format!("cannot be an id: {problem}"),
                found: Some(format!("{text:?}")),
                ..error
            });
        })
        .ok()
}

fn missing(judge: &mut Judge<'_>, key: &'static Key, what: &str) {
    if !judge.is_damaged() {
        judge.complain(key, "", |error| ConfigError {
            problem: "is missing".to_owned(),
            allowed: Some(what.to_owned()),
            ..error
        });
    }
}
