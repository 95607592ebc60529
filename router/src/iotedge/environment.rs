//! edgeHub's environment variables: every one that is documented (`reference/edgehub.md` §5.2 and §7), and what becomes of it.
//!
//! In: the environment, as edgeAgent and operators set it. Out: values of our own keys, variables that are not understood,
//! and for each that does nothing here the reason why. Names are taken as .NET takes them: any case, `__` or `:` between
//! sections. Read by the profile `edgehub` alone; what `MILLRACE__…` says is stronger.
//! The table is also the page `router/docs/edgehub-environment.md`.

use std::fmt::Write as _;

use hub::connection_string::ConnectionString;

/// One variable.
pub(crate) struct Variable {
    /// As in edgeHub's documents. `*` stands for the rest of the name.
    pub name: &'static str,
    /// edgeHub's default.
    pub default: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a variable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It writes one of our keys.
    Key(&'static str, Form),
    /// It does nothing, and why.
    Ignored(&'static str),
}

/// How a value becomes one of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// As it is.
    Same,
    /// `true` or `false` in any case.
    Boolean,
    /// A port; the key is an address on all interfaces.
    Port,
    /// Whether a listener is on: `false` turns it off, `true` changes nothing.
    Enabled,
    /// `d.hh:mm:ss` or `hh:mm:ss`, as milliseconds.
    SpanMillis,
    /// A folder of edgeHub's; ours is `millrace` in it.
    Folder,
    /// .NET's log levels.
    LogLevel,
    /// `tls1.2,tls1.3`: the oldest version of it.
    TlsVersions,
    /// `Scope`, `CloudAndScope`, `Cloud`.
    AuthenticationMode,
    /// `twin` or `local`.
    ConfigSource,
    /// `Amqp`, `AmqpWs`, `Mqtt`, `MqttWs`: those with `Ws` are port 443.
    UpstreamProtocol,
    /// A proxy; only for a WebSocket, as in edgeHub.
    Proxy,
}

/// What the environment came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Key, value, name of the variable.
    pub values: Vec<(&'static str, String, String)>,
    /// Name of the variable, what is wrong, what is allowed.
    pub faults: Vec<(String, String, &'static str)>,
    /// Name of the variable, and why it does nothing.
    pub ignored: Vec<(String, String)>,
}

use Fate::{Ignored, Key};
use Form::{
    AuthenticationMode, Boolean, ConfigSource, Enabled, Folder, LogLevel, Port, Proxy, Same, SpanMillis,
    TlsVersions, UpstreamProtocol,
};

const fn variable(name: &'static str, default: &'static str, fate: Fate) -> Variable {
    Variable { name, default, fate }
}

const AMQP: &str = "AMQP is not served in this version";
const DOTNET: &str = "it tunes the .NET program; the router's threads and buffers are its own";
const ROCKSDB: &str = "it tunes edgeHub's store; see [store]";
const ALWAYS_PERSISTENT: &str = "messages are always kept on the disk";
const URL: &str = "uplink.upstream.url";
const PROXY: &str = "uplink.upstream.proxy";
const UPSTREAM: &str = "the connection upstream is configured as an uplink; see [uplink]";
const TWIN: &str = "reported properties go up at most every 5 s for each client, and twins are fetched after every reconnect";
const TEMPLATES: &str = "the topics of the dialect are fixed";
const METRICS: &str = "as with edgeHub itself, the listener of the metrics is HttpSettings__metrics_port";

/// Every documented variable.
pub(crate) static VARIABLES: &[Variable] = &[
    // What edgeAgent injects, and the ways around it.
    variable("IOTEDGE_WORKLOADURI", "unix:///var/run/iotedge/workload.sock", Key("edge.workload_uri", Same)),
    variable("IOTEDGE_APIVERSION", "–", Key("edge.workload_version", Same)),
    variable("IOTEDGE_MODULEID", "–", Key("edge.module_id", Same)),
    variable("IOTEDGE_MODULEGENERATIONID", "–", Key("edge.generation_id", Same)),
    variable("IOTEDGE_DEVICEID", "–", Key("edge.device_id", Same)),
    variable("IOTEDGE_IOTHUBHOSTNAME", "–", Key("edge.hub_host", Same)),
    variable("IOTEDGE_GATEWAYHOSTNAME", "–", Key("edge.parent_host", Same)),
    variable("EDGEDEVICEHOSTNAME", "–", Key("edge.host_name", Same)),
    variable("IotHubConnectionString", "–", Key("edge.connection_string", Same)),
    variable("EdgeHubDevServerCertificateFile", "–", Key("edge.cert", Same)),
    variable("EdgeHubDevServerPrivateKeyFile", "–", Key("edge.key", Same)),
    variable("EdgeHubDevTrustBundleFile", "–", Key("edge.trust_bundle", Same)),
    variable(
        "EdgeModuleHubServerCertificateFile",
        "–",
        Ignored(
            "a PFX file is not read; give PEM files as EdgeHubDevServerCertificateFile and …PrivateKeyFile",
        ),
    ),
    variable(
        "EdgeModuleHubServerCAChainCertificateFile",
        "–",
        Ignored("the chain stands in EdgeHubDevServerCertificateFile, behind the certificate itself"),
    ),
    variable(
        "IOTEDGE_AUTHSCHEME",
        "–",
        Ignored("the Workload API has one way to authenticate, which is used"),
    ),
    variable(
        "IOTEDGE_MANAGEMENTURI",
        "–",
        Ignored("the management API is edgeAgent's; the router does not ask it"),
    ),
    // Heads.
    variable("AmqpSettings__Enabled", "true", Ignored(AMQP)),
    variable("AmqpSettings__Port", "5671", Ignored(AMQP)),
    variable("AmqpSettings__Scheme", "amqps", Ignored(AMQP)),
    variable("AmqpSettings__DelayedBatchingEnabled", "false", Ignored(AMQP)),
    variable("MqttSettings__Enabled", "true", Key("listener.tls.bind", Enabled)),
    variable("HttpSettings__Enabled", "true", Key("listener.wss.bind", Enabled)),
    variable("HttpSettings__Port", "443", Key("listener.wss.bind", Port)),
    variable("HttpSettings__metrics_port", "9600", Key("http.bind", Port)),
    variable("MqttSettings__UsePooledBuffers", "false", Ignored(DOTNET)),
    variable("MqttSettings__MaxPendingInboundAcknowledgements", "16", Key("limits.receive_max", Same)),
    variable("MqttSettings__MaxInboundMessageSize", "262144", Key("limits.packet_bytes_max", Same)),
    variable(
        "MqttSettings__ConnectArrivalTimeout",
        "00:01:00",
        Key("limits.connect_timeout_millis", SpanMillis),
    ),
    variable(
        "MqttSettings__MaxKeepAliveTimeout",
        "00:10:00",
        Ignored(
            "the keep-alive of a 3.1.1 client is taken as it says; limits.keep_alive_secs_max bounds that of MQTT 5.0",
        ),
    ),
    variable("MqttSettings__ThreadCount", "2 for each core", Ignored(DOTNET)),
    variable("MqttSettings__ListenBacklogSize", "200", Ignored("the kernel keeps 1 024 connections for us")),
    variable("MqttSettings__EventLoopCount", "1", Ignored(DOTNET)),
    variable(
        "MqttSettings__DefaultPublishToClientQoS",
        "1",
        Ignored("a message has the QoS of its subscription, at most 1"),
    ),
    variable("MqttSettings__RetainPropertyName", "mqtt-retain", Ignored("the name is fixed")),
    variable("MqttSettings__DupPropertyName", "mqtt-dup", Ignored("the name is fixed")),
    variable(
        "MqttSettings__QoSPropertyName",
        "mqtt-qos",
        Ignored(
            "such a property is passed on and changes nothing: a message has the QoS of its subscription, at most 1",
        ),
    ),
    variable(
        "MqttSettings__AbortOnOutOfOrderPubAck",
        "false",
        Ignored("acknowledgements are matched by their packet identifiers, in any order"),
    ),
    variable("mqttTopicNameConversion__InboundTemplates__*", "edgeHub's topics", Ignored(TEMPLATES)),
    variable("mqttTopicNameConversion__OutboundTemplates__*", "edgeHub's topics", Ignored(TEMPLATES)),
    // Who comes in.
    variable("AuthenticationMode", "Scope", Key("edge.authentication", AuthenticationMode)),
    variable("ClientCertAuthEnabled", "true", Key("edge.client_certs", Boolean)),
    variable("ApiProxyModuleId", "IoTEdgeAPIProxy", Key("edge.api_proxy_module", Same)),
    variable(
        "CacheTokens",
        "false",
        Ignored(
            "tokens of clients are not kept: identities are, sealed, and verify any token after a restart",
        ),
    ),
    variable(
        "TrackDeviceState",
        "true",
        Ignored("an identity that is disabled or gone is always sent away; its messages are not dropped"),
    ),
    variable("NestedEdgeEnabled", "true", Key("edge.nested", Boolean)),
    variable("DeviceScopeCacheRefreshRateSecs", "3600", Key("edge.scope_refresh_secs", Same)),
    variable("DeviceScopeCacheRefreshDelaySecs", "120", Key("edge.scope_refresh_min_secs", Same)),
    variable("MaxConnectedClients", "100", Key("edge.clients_max", Same)),
    variable("SslProtocols", "tls1.2,tls1.3", Key("listener.*.tls_version_min", TlsVersions)),
    variable(
        "ServerCertificateRenewAfterInMs",
        "2147483647",
        Ignored("the certificate is renewed in place when a fifth of its time is left"),
    ),
    variable(
        "MaxCheckCertExpiryInMs",
        "–",
        Ignored("the certificate is renewed in place when a fifth of its time is left"),
    ),
    // What is done.
    variable("ConfigSource", "twin", Key("edge.config_source", ConfigSource)),
    variable("ConfigRefreshFrequencySecs", "3600", Key("edge.twin_refresh_secs", Same)),
    variable("routes__*", "FROM /* INTO $upstream", Key("routes.*", Same)),
    variable(
        "storeAndForward__timeToLiveSecs",
        "-1",
        Ignored("it was the time to live before the twin came; a route has its own, see ttl_secs"),
    ),
    variable("storeAndForwardEnabled", "true", Ignored(ALWAYS_PERSISTENT)),
    // Where it is kept.
    variable("StorageFolder", "the system's temporary folder", Key("store.path", Folder)),
    variable("BackupFolder", "the system's temporary folder", Ignored(ALWAYS_PERSISTENT)),
    variable("UsePersistentStorage", "true", Ignored(ALWAYS_PERSISTENT)),
    variable("EnableNonPersistentStorageBackup", "false", Ignored(ALWAYS_PERSISTENT)),
    variable("OptimizeForPerformance", "true", Ignored(ROCKSDB)),
    variable("RocksDB_MaxOpenFiles", "5000", Ignored(ROCKSDB)),
    variable("RocksDB_MaxTotalWalSize", "512 MiB", Ignored(ROCKSDB)),
    variable("RocksDB_MaxManifestFileSize", "64 MiB", Ignored(ROCKSDB)),
    variable("Storage_LogLevel", "NONE", Ignored("the store writes no log of its own")),
    variable("EncryptTwinStore", "true", Ignored("what is secret is always sealed on the disk")),
    variable(
        "CheckEntireQueueOnCleanup",
        "false",
        Ignored("an expired message is removed wherever it stands"),
    ),
    variable(
        "MessageCleanupIntervalSecs",
        "1800",
        Ignored("what is delivered is removed as the cursor moves, not from time to time"),
    ),
    // To clients.
    variable(
        "MessageAckTimeoutSecs",
        "30",
        Ignored(
            "several messages are on their way at once, and one is sent again on the next connection alone",
        ),
    ),
    // Upstream.
    variable(
        "MaxUpstreamBatchSize",
        "10",
        Ignored("a window of messages is on its way; see uplink.NAME.window"),
    ),
    variable(
        "UpstreamFanOutFactor",
        "10",
        Ignored("a window of messages is on its way; see uplink.NAME.window"),
    ),
    variable("UpstreamProtocol", "Amqp", Key(URL, UpstreamProtocol)),
    variable("IotHubConnectionPoolSize", "1", Ignored(UPSTREAM)),
    variable("UseServerHeartbeat", "true", Ignored(UPSTREAM)),
    variable("Https_Proxy", "–", Key(PROXY, Proxy)),
    variable("CloudConnectionIdleTimeoutSecs", "3600", Ignored(UPSTREAM)),
    variable("CloseCloudConnectionOnIdleTimeout", "true", Ignored(UPSTREAM)),
    variable("CloseCloudConnectionOnDeviceDisconnect", "true", Ignored(UPSTREAM)),
    variable("CloudOperationTimeoutSecs", "20", Ignored(UPSTREAM)),
    variable("CloudConnectionHangingTimeoutSecs", "50", Ignored(UPSTREAM)),
    variable(
        "ConnectivityCheckFrequencySecs",
        "300",
        Ignored("keep-alives of the uplink say whether it is there"),
    ),
    // Twins.
    variable("MinTwinSyncPeriodSecs", "120", Ignored(TWIN)),
    variable("ReportedPropertiesSyncFrequencySecs", "5", Ignored(TWIN)),
    variable("TwinManagerVersion", "v2", Ignored("there is one way to keep twins")),
    variable("ModuleRequestThrottleTimeout", "240", Ignored("the throttle is the IoT Edge runtime's")),
    // What is said.
    variable("RuntimeLogLevel", "info", Key("log.level", LogLevel)),
    variable("EnableRoutingLogging", "false", Ignored("millrace route explain shows what a route does")),
    variable("EnableSdkDebugLogs", "false", Ignored("no SDK is inside")),
    variable(
        "Metrics__Listener__MetricsEnabled",
        "true",
        Ignored(
            "metrics are numbers that are kept anyway; to serve none, HttpSettings__metrics_port is empty",
        ),
    ),
    variable(
        "Metrics__Listener__MetricsHistogramMaxAge",
        "01:00:00",
        Ignored("no series of this version has a window"),
    ),
    variable("Metrics__Listener__Host", "*", Ignored(METRICS)),
    variable("Metrics__Listener__Port", "9600", Ignored(METRICS)),
    variable("Metrics__Listener__Suffix", "metrics", Ignored(METRICS)),
    // The process.
    variable("ShutdownWaitPeriod", "60", Ignored("a stop waits for what was acknowledged to be on the disk")),
    variable(
        "protocolTimeoutInSecs",
        "180",
        Ignored("a stop waits for what was acknowledged to be on the disk"),
    ),
    variable("experimentalFeatures__*", "false", Ignored("edgeHub's experiments are its own")),
    variable(
        "EDGEHUBUSER_ID",
        "13623",
        Ignored("the user is that of the container; the folders must belong to it"),
    ),
    variable("MqttEventsProcessorThreadCount", "1 on ARM", Ignored(DOTNET)),
];

/// The keys that a variable about every TLS listener of the profile writes.
const TLS_LISTENERS: [&str; 2] = ["listener.tls.tls_version_min", "listener.wss.tls_version_min"];

/// Maps an environment. Order does not matter.
pub(crate) fn map(env: &[(String, String)]) -> Mapped {
    let mut mapped = Mapped::default();
    let mut env: Vec<_> = env.iter().collect();
    env.sort();
    for (name, value) in env {
        let Some((variable, rest)) = find(name) else { continue };
        // edgeAgent sets what it does not know to nothing.
        if value.is_empty() {
            continue;
        }
        match variable.fate {
            Ignored(reason) => mapped.ignored.push((name.clone(), reason.to_owned())),
            Key(key, form) => take(&mut mapped, (name, value), key, form, rest),
        }
    }
    // A folder that is given, and a head that is off, say more than the port that it would have.
    let is_off = |key: &str, values: &[(&str, String, String)]| {
        values.iter().any(|(other, value, _)| *other == key && value.is_empty())
    };
    if is_off("listener.wss.bind", &mapped.values) {
        mapped.values.retain(|(key, value, _)| *key != "listener.wss.bind" || value.is_empty());
    }
    lead_upstream(&mut mapped);
    mapped
}

/// The way upstream over port 443: several variables say it together.
fn lead_upstream(mapped: &mut Mapped) {
    let value = |wanted: &str| {
        mapped.values.iter().find(|(key, ..)| *key == wanted).map(|(_, value, _)| value.clone())
    };
    let by_string = value("edge.connection_string").and_then(|text| ConnectionString::parse(&text).ok());
    let by_string = by_string.map(|string| string.gateway.unwrap_or(string.host));
    let host = value("edge.parent_host").or_else(|| value("edge.hub_host")).or(by_string);
    let is_websocket = value(URL).is_some() && host.is_some();
    let mut named = None;
    mapped.values.retain_mut(|(key, value, name)| match *key {
        URL => {
            *value = format!("wss://{}", host.as_deref().unwrap_or_default());
            named = Some(name.clone());
            is_websocket
        }
        PROXY if !is_websocket => {
            let reason = "it is for a WebSocket alone, as in edgeHub: UpstreamProtocol = MqttWs or AmqpWs";
            mapped.ignored.push((name.clone(), reason.to_owned()));
            false
        }
        _ => true,
    });
    if let Some(name) = named.filter(|_| is_websocket) {
        mapped.values.push(("uplink.upstream.kind", "iothub".to_owned(), name));
    }
}

/// The variable of this name, and the rest of the name where the variable has a `*`.
fn find(name: &str) -> Option<(&'static Variable, &str)> {
    let folded = name.replace(':', "__").to_lowercase();
    VARIABLES.iter().find_map(|variable| {
        let known = variable.name.to_lowercase();
        match known.strip_suffix('*') {
            None => (known == folded).then_some((variable, "")),
            Some(prefix) => {
                let rest = folded.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
                Some((variable, &name[name.len() - rest.len()..]))
            }
        }
    })
}

fn take(mapped: &mut Mapped, (name, value): (&String, &String), key: &'static str, form: Form, rest: &str) {
    let mut write = |key, value| mapped.values.push((key, value, name.clone()));
    let allowed = match form {
        Same if key == "routes.*" => {
            // The name of the route is the operator's; it travels in the value's place.
            mapped.values.push((key, format!("{rest}\n{value}"), name.clone()));
            return;
        }
        Same => return write(key, value.clone()),
        Boolean => match value.to_lowercase().as_str() {
            "true" | "false" => return write(key, value.to_lowercase()),
            _ => "true or false",
        },
        Enabled => match value.to_lowercase().as_str() {
            "true" => return,
            "false" => return write(key, String::new()),
            _ => "true or false",
        },
        Port => match value.parse::<u16>() {
            Ok(port) => return write(key, format!("[::]:{port}")),
            Err(_) => "a port from 0 to 65535",
        },
        SpanMillis => match span_secs(value) {
            Some(secs) => return write(key, (secs * 1_000).to_string()),
            None => "a time as hh:mm:ss or d.hh:mm:ss",
        },
        Folder => {
            write(key, format!("{}/millrace", value.trim_end_matches('/')));
            return write("edge.old_storage", value.clone());
        }
        LogLevel => match value.to_lowercase().as_str() {
            "verbose" => return write(key, "trace".to_owned()),
            "debug" => return write(key, "debug".to_owned()),
            "info" | "information" => return write(key, "info".to_owned()),
            "warning" => return write(key, "warn".to_owned()),
            "error" | "fatal" => return write(key, "error".to_owned()),
            _ => "verbose, debug, info, warning, error or fatal",
        },
        TlsVersions => {
            let mut versions = value.split(',').map(|version| version.trim().to_lowercase());
            let known = [
                "tls", "tls1.0", "tls10", "tls1.1", "tls11", "tls1.2", "tls12", "tls1_2", "tls1.3", "tls13",
                "tls1_3",
            ];
            if versions.clone().all(|version| known.contains(&version.as_str())) {
                let is_new = |version: String| matches!(version.as_str(), "tls1.3" | "tls13" | "tls1_3");
                let oldest = if versions.all(is_new) { "1.3" } else { "1.2" };
                TLS_LISTENERS.into_iter().for_each(|key| write(key, oldest.to_owned()));
                return;
            }
            "tls1.2 and tls1.3, with commas between"
        }
        ConfigSource => match value.to_lowercase().as_str() {
            "twin" => return write(key, "twin".to_owned()),
            "local" => return write(key, "file".to_owned()),
            _ => "twin or local",
        },
        UpstreamProtocol => match value.to_lowercase().as_str() {
            "amqp" | "mqtt" => return,
            // Where to stands in another variable.
            "amqpws" | "mqttws" => return write(key, String::new()),
            _ => "Amqp, AmqpWs, Mqtt or MqttWs",
        },
        Proxy => return write(key, value.clone()),
        AuthenticationMode => match value.to_lowercase().as_str() {
            "scope" => return write(key, "scope".to_owned()),
            "cloudandscope" => return write(key, "cloud-and-scope".to_owned()),
            "cloud" => {
                mapped.ignored.push((
                    name.clone(),
                    "Cloud is CloudAndScope here: who is in the device scope is known without IoT Hub"
                        .to_owned(),
                ));
                return write(key, "cloud-and-scope".to_owned());
            }
            _ => "Scope, CloudAndScope or Cloud",
        },
    };
    mapped.faults.push((name.clone(), value.clone(), allowed));
}

/// `d.hh:mm:ss[.fff]`, `hh:mm:ss` or `hh:mm`; parts of a second are left out.
fn span_secs(text: &str) -> Option<u64> {
    let (days, clock) = match text.split_once('.') {
        Some((days, clock)) if clock.contains(':') => (days.parse().ok()?, clock),
        _ => (0, text),
    };
    let clock = clock.split('.').next()?;
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (hours, minutes, secs) = match parts[..] {
        [hours, minutes, secs] => (hours, minutes, secs),
        [hours, minutes] => (hours, minutes, 0),
        _ => return None,
    };
    (hours < 24 && minutes < 60 && secs < 60 && days < 10_000)
        .then_some(days * 86_400 + hours * 3_600 + minutes * 60 + secs)
}

/// The text of `router/docs/edgehub-environment.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for Variable { name, default, fate } in VARIABLES {
        let fate = match fate {
            Key(key, Enabled) => format!("`false` turns `{key}` off"),
            Key(key, AuthenticationMode) => {
                format!(
                    "`{key}`: `CloudAndScope` is `cloud-and-scope`, and `Cloud` is taken as that, with a warning"
                )
            }
            Key(_, TlsVersions) => {
                format!(
                    "`{}` and `{}`: the oldest that is named; nothing older than 1.2",
                    TLS_LISTENERS[0], TLS_LISTENERS[1]
                )
            }
            Key(key, Folder) => {
                format!("`{key}` = FOLDER/millrace; an `edgeHub` in FOLDER is left alone, and said")
            }
            Key(key, UpstreamProtocol) => format!(
                "`AmqpWs` and `MqttWs`: `{key}` = `wss://` and the host of the parent gateway or the IoT Hub; else MQTT over TLS"
            ),
            Key(key, Proxy) => {
                format!("`{key}` with `AmqpWs` and `MqttWs`; not for the REST of the device scope")
            }
            Key(key, ConfigSource) => format!("`{key}`: `local` is `file`"),
            Key(key, Port) => format!("`{key}` = `[::]:PORT`"),
            Key(key, SpanMillis) => format!("`{key}`, converted"),
            Key(key, LogLevel) => {
                format!("`{key}`: `verbose` is `trace`, `warning` is `warn`, `fatal` is `error`")
            }
            Key(key, _) => format!("`{}`", key.replace('*', "NAME")),
            Ignored(reason) => format!("ignored: {reason}"),
        };
        let (name, default) = (name.replace('*', "NAME"), default.replace('*', "\\*"));
        // Writing to a `String` does not fail.
        writeln!(page, "| `{name}` | {default} | {fate} |").unwrap_or_default();
    }
    page
}

const HEAD: &str = "\
# The environment of edgeHub

Generated from `router/src/iotedge/environment.rs`; a test keeps the two equal (`MILLRACE_BLESS=1` writes it).

With `--profile edgehub` the router reads the variables that the IoT Edge runtime and the deployment manifest set for
edgeHub. Each either writes one of our keys or is ignored, and then the log says so once, with the reason. Names are taken
in any case, with `__` or `:` between their parts. A value that cannot be understood is a mistake of the configuration,
with exit code 2. What `MILLRACE__SECTION__KEY` says is stronger, and so is `--set`; a file is weaker.

| Variable | edgeHub's default | Here |
|---|---|---|
";

#[cfg(test)]
mod tests;
