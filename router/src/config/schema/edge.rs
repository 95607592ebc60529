//! The keys of `[edge]`: this gateway's place in Azure IoT Edge.
//!
//! Knows: keys. Out: `KEYS`. The environment variables of edgeHub that write them stand in `iotedge::environment`.

use super::{Allowed, Default, Key, integer, key, words};

pub(in super::super) static EDGE_DEVICE_ID: Key = key(
    "edge.device_id",
    Allowed::Text,
    Default::Derived("the device of `edge.connection_string`"),
    "The id of this gateway's device. With it, or any other key that says how we are an edge device, `[edge]` is on.",
);
pub(in super::super) static EDGE_MODULE_ID: Key = key(
    "edge.module_id",
    Allowed::Text,
    Default::Text("$edgeHub"),
    "The module that we are; child gateways and IoT Hub expect the default.",
);
pub(in super::super) static EDGE_HOST_NAME: Key = key(
    "edge.host_name",
    Allowed::Text,
    Default::Derived("the name of this machine"),
    "The name under which clients reach this gateway: its certificate is for it, and tokens may be.",
);
pub(in super::super) static EDGE_HUB_HOST: Key = key(
    "edge.hub_host",
    Allowed::Text,
    Default::Derived("the host of `edge.connection_string`"),
    "The host name of the IoT Hub: `NAME.azure-devices.net`. Tokens of clients may be for it. Must be known, but for \
     `edge.identities`.",
);
pub(in super::super) static EDGE_PARENT_HOST: Key = key(
    "edge.parent_host",
    Allowed::Text,
    Default::Unset,
    "The host name of the parent gateway; the device scope then comes from there and not from the IoT Hub.",
);
pub(in super::super) static EDGE_WORKLOAD_URI: Key = key(
    "edge.workload_uri",
    Allowed::WorkloadUri,
    Default::Unset,
    "Where the IoT Edge runtime's Workload API listens. It signs, encrypts and issues certificates. Exactly one of this, \
     `edge.connection_string` and `edge.identities` must be written.",
);
pub(in super::super) static EDGE_WORKLOAD_VERSION: Key = key(
    "edge.workload_version",
    Allowed::Text,
    Default::Text("2020-07-07"),
    "The newest version of the Workload API that the runtime speaks. We speak 2018-06-28, 2019-01-30 and 2020-07-07.",
);
pub(in super::super) static EDGE_GENERATION_ID: Key = key(
    "edge.generation_id",
    Allowed::Text,
    Default::Unset,
    "The generation of our module, which the runtime asks for. Needed with `edge.workload_uri`.",
);
pub(in super::super) static EDGE_CONNECTION_STRING: Key = key(
    "edge.connection_string",
    Allowed::Secret,
    Default::Unset,
    "For development, without a runtime: the connection string of the module `$edgeHub` of this gateway.",
);
pub(in super::super) static EDGE_IDENTITIES: Key = key(
    "edge.identities",
    Allowed::Text,
    Default::Unset,
    "File of identities, as `millrace identity` writes it, for a gateway without IoT Hub. A change is taken over within \
     seconds.",
);
pub(in super::super) static EDGE_CERT: Key = key(
    "edge.cert",
    Allowed::Text,
    Default::Derived("issued by the runtime"),
    "File of the gateway's certificate chain, PEM, its own first. Needs `key`. Read again on SIGHUP.",
);
pub(in super::super) static EDGE_KEY: Key =
    key("edge.key", Allowed::Text, Default::Unset, "File of its private key, PEM. Needs `cert`.");
pub(in super::super) static EDGE_TRUST_BUNDLE: Key = key(
    "edge.trust_bundle",
    Allowed::Text,
    Default::Derived("the runtime's"),
    "File of the authorities that certificates of devices and of the parent gateway may come from, PEM.",
);
pub(in super::super) static EDGE_CLIENT_CERTS: Key = key(
    "edge.client_certs",
    Allowed::Boolean,
    Default::Boolean(true),
    "Whether devices may authenticate by certificates. TLS asks for one; it is judged when the client says who it is.",
);
pub(in super::super) static EDGE_AUTHENTICATION: Key = words(
    "edge.authentication",
    &["scope", "cloud-and-scope"],
    "scope",
    "Who knows clients: `scope`, the device scope or the identity file alone; `cloud-and-scope`, IoT Hub is asked, with its own \
     token, about a client that the scope does not know. It needs IoT Hub to come in, and its messages go up with that token.",
);
pub(in super::super) static EDGE_API_PROXY_MODULE: Key = key(
    "edge.api_proxy_module",
    Allowed::Text,
    Default::Text("IoTEdgeAPIProxy"),
    "The module of this gateway that may forward the certificate of a client (`x-ms-edge-clientcert`).",
);
pub(in super::super) static EDGE_NESTED: Key = key(
    "edge.nested",
    Allowed::Boolean,
    Default::Boolean(true),
    "Whether the device scope is read with the API for nested gateways. `false` reads the devices and modules of this \
     gateway alone.",
);
pub(in super::super) static EDGE_SCOPE_REFRESH_SECS: Key = integer(
    "edge.scope_refresh_secs",
    10,
    604_800,
    3_600,
    "How often the device scope is read from IoT Hub.",
);
pub(in super::super) static EDGE_SCOPE_REFRESH_MIN_SECS: Key = integer(
    "edge.scope_refresh_min_secs",
    1,
    86_400,
    120,
    "Shortest time between two lookups of one identity; a client that is refused in between is refused at once.",
);
pub(in super::super) static EDGE_LOOKUP_TIMEOUT_MS: Key = integer(
    "edge.lookup_timeout_ms",
    100,
    100_000,
    10_000,
    "How long a client that is not known waits for IoT Hub to say who it is.",
);
pub(in super::super) static EDGE_CLIENTS_MAX: Key = integer(
    "edge.clients_max",
    0,
    1_000_000,
    0,
    "Identities connected at once; one more is refused with CONNACK, before it has a session. 0 means no such bound.",
);
pub(in super::super) static EDGE_ALLOW_SENDER_MISMATCH: Key = key(
    "edge.allow_sender_mismatch",
    Allowed::Boolean,
    Default::Boolean(false),
    "Whether a client may name another device or module as the sender of its telemetry, as edgeHub lets it. Otherwise such a \
     message is refused, as by IoT Hub.",
);
pub(in super::super) static EDGE_KEEP_FOR_UNKNOWN: Key = key(
    "edge.keep_for_unknown",
    Allowed::Boolean,
    Default::Boolean(true),
    "Whether messages for an input of a module that has never connected are kept until it comes. Without, they are dropped \
     and counted.",
);
pub(in super::super) static EDGE_CONFIG_SOURCE: Key = words(
    "edge.config_source",
    &["file", "twin", "manifest"],
    "file",
    "Where routes come from: `file`, from `[routes]`; `manifest`, from the deployment manifest of `edge.manifest`; `twin`, from the desired properties of our module twin (schema 1.0 to \
     1.3), as edgeHub's do. Then `[routes]` means nothing, and no client is let in before the twin was read once, from IoT Hub \
     or from the copy of an earlier run. Without an IoT Hub it is always `file`.",
);
pub(in super::super) static EDGE_TWIN_REFRESH_SECS: Key = integer(
    "edge.twin_refresh_secs",
    10,
    604_800,
    3_600,
    "How often our module twin is read as a whole, besides its patches, and after every reconnect and every gap.",
);
pub(in super::super) static EDGE_MANIFEST: Key = key(
    "edge.manifest",
    Allowed::Text,
    Default::Unset,
    "File of a deployment manifest, or of desired properties of `$edgeHub` (JSON, schema 1.0 to 1.3): its routes, times to live \
     and store limits, with `edge.config_source = \"manifest\"`. Read again on SIGHUP.",
);
pub(in super::super) static EDGE_OLD_STORAGE: Key = key(
    "edge.old_storage",
    Allowed::Text,
    Default::Unset,
    "Folder in which an edgeHub kept its storage before. It is not read and not touched; if it is there, the log says so.",
);
pub(in super::super) static LISTENER_IDENTITIES: Key = words(
    "listener.*.identities",
    &["none", "iothub"],
    "none",
    "Whose user names with a `/` are: with `iothub` those of devices and modules (`HOST/DEVICE/?api-version=…`), which \
     `[edge]` knows; all others are still users of `[auth]`. With TLS, devices may show certificates.",
);
pub(in super::super) static LISTENER_CERTIFICATE: Key = words(
    "listener.*.certificate",
    &["files", "edge"],
    "files",
    "Where this router's certificate comes from: `cert` and `key`, or the gateway's of `[edge]`, which is renewed by \
     itself.",
);

/// Every key of `[edge]`, in the order of the page.
pub(super) static KEYS: &[&Key] = &[
    &EDGE_DEVICE_ID,
    &EDGE_MODULE_ID,
    &EDGE_HOST_NAME,
    &EDGE_HUB_HOST,
    &EDGE_PARENT_HOST,
    &EDGE_WORKLOAD_URI,
    &EDGE_WORKLOAD_VERSION,
    &EDGE_GENERATION_ID,
    &EDGE_CONNECTION_STRING,
    &EDGE_IDENTITIES,
    &EDGE_CERT,
    &EDGE_KEY,
    &EDGE_TRUST_BUNDLE,
    &EDGE_CLIENT_CERTS,
    &EDGE_AUTHENTICATION,
    &EDGE_API_PROXY_MODULE,
    &EDGE_NESTED,
    &EDGE_SCOPE_REFRESH_SECS,
    &EDGE_SCOPE_REFRESH_MIN_SECS,
    &EDGE_LOOKUP_TIMEOUT_MS,
    &EDGE_CLIENTS_MAX,
    &EDGE_ALLOW_SENDER_MISMATCH,
    &EDGE_KEEP_FOR_UNKNOWN,
    &EDGE_CONFIG_SOURCE,
    &EDGE_TWIN_REFRESH_SECS,
    &EDGE_MANIFEST,
    &EDGE_OLD_STORAGE,
];
