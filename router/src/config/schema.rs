//! Every configuration key there is: its name, what it takes, its default and what it does, in one place.
//!
//! Knows: keys. Never: values of a running process, files, the environment.
//! Out: `KEYS`, from which the judge takes its rules and `reference` the page `router/docs/configuration.md`.

use model::Limits;

use super::{pacing, packing};

mod edge;
pub(super) mod kinds;
mod store;

pub(super) use edge::*;
pub(super) use store::*;

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// Dotted path; `*` stands for a name that the operator chooses.
    pub(super) path: &'static str,
    /// What it takes.
    pub(super) allowed: Allowed,
    /// What holds if nobody writes it.
    pub(super) default: Default,
    /// What it does, for `configuration.md`.
    pub(super) doc: &'static str,
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Allowed {
    /// A whole number, both ends included.
    Integer { min: u64, max: u64 },
    /// `true` or `false`.
    Boolean,
    /// One of some words; `later` are words that a later version will take.
    Choice { values: &'static [&'static str], later: &'static [&'static str] },
    /// Any text that is not empty.
    Text,
    /// Text that no error and no log line may repeat.
    Secret,
    /// IP address and port, or empty for none.
    AddressOrNone,
    /// Where an upstream is.
    Url,
    /// Where a proxy is.
    ProxyUrl,
    /// Fingerprints of public keys.
    Pins,
    /// Permissions of a file, in octal.
    FileMode,
    /// The beginning of a topic, or empty.
    TopicPrefix,
    /// The text of a route.
    Route,
    /// A list of rules of who may do what.
    Rules,
    /// A list of texts; this says which.
    List(&'static str),
    /// Letters, digits, `_`, `-` and `.`.
    Word,
    /// Any text, or empty for none.
    TextOrNone,
    /// A level, or several per part of the program.
    LogFilter,
    /// Text of a form of its own; `judge` gives a hint if it does not fit.
    Fitting { takes: &'static str, judge: fn(&str) -> Result<(), Option<String>> },
    /// Where a Workload API is.
    WorkloadUri,
}

/// What holds if nobody writes a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Default {
    Integer(u64),
    Boolean(bool),
    Text(&'static str),
    /// Something that depends on other things; the text says on what.
    Derived(&'static str),
    /// Must be written.
    Required,
    /// Not set.
    Unset,
}

impl Allowed {
    /// The values allowed, for an error and for the page of keys.
    pub(super) fn describe(&self) -> String {
        match *self {
            Allowed::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Allowed::Boolean => "true or false".to_owned(),
            Allowed::Choice { values, .. } => {
                let words: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
                match words.as_slice() {
                    [only] => only.clone(),
                    [some @ .., last] => format!("{} or {last}", some.join(", ")),
                    [] => String::new(),
                }
            }
            Allowed::Text | Allowed::Secret => "text that is not empty".to_owned(),
            Allowed::AddressOrNone => {
                "IP:PORT, for example 127.0.0.1:1883 or [::]:1883, where port 0 takes any free port, or \"\" for none".to_owned()
            }
            Allowed::FileMode => "permissions in octal, as in \"660\"".to_owned(),
            Allowed::Url => {
                "mqtt://HOST:PORT or, with TLS, mqtts://HOST:PORT; over WebSocket ws://HOST:PORT/PATH or wss://; without a port 1883, 8883, 80 and 443".to_owned()
            }
            Allowed::ProxyUrl => {
                "http://HOST:PORT or socks5://HOST:PORT; without a port 3128 and 1080".to_owned()
            }
            Allowed::Pins => "sha256/BASE64, several with spaces between".to_owned(),
            Allowed::TopicPrefix => "the beginning of a topic, without + and #, or \"\" for none".to_owned(),
            Allowed::Route => {
                "the text of a route, for example \"FROM /messages/* INTO $upstream\"".to_owned()
            }
            Allowed::Rules => {
                "a list of rules, for example [\"allow user=press7 publish plant/press7/#\"]".to_owned()
            }
            Allowed::List(which) => which.to_owned(),
            Allowed::Word => "letters, digits, _, - and .".to_owned(),
            Allowed::TextOrNone => "text, or \"\" for none".to_owned(),
            Allowed::WorkloadUri => {
                "unix:///PATH, for example unix:///var/run/iotedge/workload.sock, or http://HOST:PORT".to_owned()
            }
            Allowed::LogFilter => {
                "off, error, warn, info, debug or trace; or several, as in info,millrace=debug".to_owned()
            }
            Allowed::Fitting { takes, .. } => takes.to_owned(),
        }
    }
}

pub(super) const fn key(path: &'static str, allowed: Allowed, default: Default, doc: &'static str) -> Key {
    Key { path, allowed, default, doc }
}

pub(super) const fn integer(path: &'static str, min: u64, max: u64, default: u64, doc: &'static str) -> Key {
    key(path, Allowed::Integer { min, max }, Default::Integer(default), doc)
}

pub(super) const fn words(
    path: &'static str,
    values: &'static [&'static str],
    default: &'static str,
    doc: &'static str,
) -> Key {
    key(path, Allowed::Choice { values, later: &[] }, Default::Text(default), doc)
}

pub(super) static SHARDS: Key = integer(
    "shards",
    0,
    64,
    0,
    "Threads that serve connections. 0 means one for two cores, at least one: the rest of the machine serves its modules.",
);

pub(super) static LISTENER_BIND: Key = key(
    "listener.*.bind",
    Allowed::AddressOrNone,
    Default::Derived("`\"127.0.0.1:1883\"` for `tcp`; must be written for others"),
    "Where clients connect. With port 0 the system picks one; the `ready` line and `--ready-file` name it. \
     `[::]` takes IPv4 too. Empty: this listener is off. Every listener has a name of its own, and there may be \
     any number.",
);
pub(super) static LISTENER_KIND: Key = key(
    "listener.*.kind",
    Allowed::Choice { values: &["tcp", "tls", "ws", "wss", "unix"], later: &[] },
    Default::Derived("NAME, where it is one of these words"),
    "What is spoken there: MQTT over TCP, TLS, WebSocket, WebSocket over TLS, or a Unix socket.",
);
pub(super) static LISTENER_CONNECTIONS_MAX: Key = key(
    "listener.*.connections_max",
    Allowed::Integer { min: 1, max: 1_000_000 },
    Default::Derived("`limits.connections_max`"),
    "Connections at once through this listener.",
);
pub(super) static LISTENER_ANONYMOUS: Key = key(
    "listener.*.anonymous",
    Allowed::Boolean,
    Default::Derived("`auth.anonymous`"),
    "Whether clients may connect here without credentials, whatever holds elsewhere. Read again on SIGHUP.",
);
pub(super) static LISTENER_PACKET_BYTES_MAX: Key = key(
    "listener.*.packet_bytes_max",
    Allowed::Integer { min: 128, max: 268_435_460 },
    Default::Derived("`limits.packet_bytes_max`"),
    "Largest MQTT packet accepted here, header included; not above `limits.packet_bytes_max`. Read again on SIGHUP, \
     for clients that connect then.",
);
pub(super) static LISTENER_PROXY_PROTOCOL: Key = key(
    "listener.*.proxy_protocol",
    Allowed::Boolean,
    Default::Boolean(false),
    "Whether a proxy in front of it announces each client by a PROXY header of version 2. Then every connection \
     must begin with one, so only the proxy may reach this listener.",
);
pub(super) static LISTENER_PROXY_TRUST_CN: Key = key(
    "listener.*.proxy_trust_cn",
    Allowed::Boolean,
    Default::Boolean(false),
    "Whether the common name that the proxy reports from a client certificate it has verified is the client's user.",
);
pub(super) static LISTENER_PATH: Key = key(
    "listener.*.path",
    Allowed::Text,
    Default::Derived("any path for `ws` and `wss`; must be written for `unix`"),
    "For `ws` and `wss` the only path of a URL that is served; for `unix` the file of the socket. A socket that \
     was left behind and that nobody answers at makes room, any other file does not.",
);
pub(super) static LISTENER_ORIGINS: Key = key(
    "listener.*.origins",
    Allowed::Text,
    Default::Derived("pages of any origin"),
    "Web pages that may connect by `ws` and `wss`, as their browser names them in `Origin`: `https://panel.plant.example`, \
     several with spaces between. Clients that send no `Origin`, as programs do, are not asked. Without it every page \
     that somebody near the gateway opens may try, so write it where clients may be anonymous.",
);
pub(super) static LISTENER_MODE: Key = key(
    "listener.*.mode",
    Allowed::FileMode,
    Default::Text("660"),
    "Permissions of the file of a `unix` socket: who may write to it may connect.",
);
pub(super) static LISTENER_CERT: Key = key(
    "listener.*.cert",
    Allowed::Text,
    Default::Derived("must be written for `tls` and `wss`"),
    "File of this router's certificate chain, PEM, its own first. SIGHUP reads it anew, like every file here; \
     clients stay connected.",
);
pub(super) static LISTENER_KEY: Key = key(
    "listener.*.key",
    Allowed::Text,
    Default::Derived("must be written for `tls` and `wss`"),
    "File of that certificate's private key, PEM.",
);
pub(super) static LISTENER_SNI_CERT: Key = key(
    "listener.*.sni.*.cert",
    Allowed::Text,
    Default::Required,
    "A further certificate, under any name. It is used for clients that ask for one of the DNS names in it.",
);
pub(super) static LISTENER_SNI_KEY: Key =
    key("listener.*.sni.*.key", Allowed::Text, Default::Required, "The private key of that one.");
pub(super) static LISTENER_CLIENT_CA: Key = key(
    "listener.*.client_ca",
    Allowed::Text,
    Default::Unset,
    "File of the authorities whose client certificates are accepted, PEM.",
);
pub(super) static LISTENER_CLIENT_CERT: Key = key(
    "listener.*.client_cert",
    Allowed::Choice { values: &["none", "optional", "required"], later: &[] },
    Default::Derived("`\"required\"` with `client_ca`, else `\"none\"`"),
    "Whether clients have certificates. With `optional` a client may have none; a bad one is refused.",
);
pub(super) static LISTENER_CLIENT_CRL: Key = key(
    "listener.*.client_crl",
    Allowed::Text,
    Default::Unset,
    "File of revocation lists, PEM, one from each authority in `client_ca`: a client of an authority without a \
     list is refused.",
);
pub(super) static LISTENER_USER_FROM: Key = words(
    "listener.*.user_from",
    &["cn", "san_dns", "san_uri", "san_email"],
    "cn",
    "What in a client's certificate is its user name: the common name, or the first alternative name of this kind.",
);
pub(super) static LISTENER_TLS_VERSION_MIN: Key =
    words("listener.*.tls_version_min", &["1.2", "1.3"], "1.2", "Oldest version of TLS that is spoken.");

pub(super) static SESSION_DURABILITY: Key = key(
    "session.durability",
    Allowed::Choice { values: &["disk"], later: &["memory"] },
    Default::Text("disk"),
    "Where sessions that outlive their connection keep subscriptions and waiting messages: `disk` survives \
     a restart.",
);

pub(super) static ROUTING_DURABILITY: Key = words(
    "routing.durability",
    DURABILITIES,
    "disk",
    "What an acknowledgement promises on routes that do not say `durability` themselves.",
);
pub(super) static ROUTING_TTL_SECS: Key = integer(
    "routing.ttl",
    0,
    4_294_967_295,
    0,
    "Seconds that a message may wait for its sink on routes that do not say `ttl` themselves, before it is dropped and counted. \
     0 means for ever. Routes of a manifest or a twin have its `timeToLiveSecs`.",
);
pub(super) static ROUTING_MODE: Key = words(
    "routing.mode",
    &["millrace", "edgehub"],
    "millrace",
    "Whose rules hold where edgeHub's behaviour is a bug, or where it knows less: `millrace` is sane and has \
     more operators, `edgehub` is bug for bug (see routes.md).",
);

pub(super) static AUTH_ANONYMOUS: Key = key(
    "auth.anonymous",
    Allowed::Boolean,
    Default::Boolean(false),
    "Whether clients may connect without credentials, at listeners that do not say otherwise.",
);
pub(super) static AUTH_PASSWORD_FILE: Key = key(
    "auth.password_file",
    Allowed::Text,
    Default::Unset,
    "Users with their passwords, as `millrace passwd` writes them. Read again on SIGHUP.",
);
pub(super) static AUTH_CLIENT_ID: Key = words(
    "auth.client_id",
    &["any", "starts-with-user", "is-user"],
    "any",
    "Which client identifiers a user may have. Identifiers that the router chooses are exempt.",
);
pub(super) static AUTH_ACL: Key = key(
    "auth.acl",
    Allowed::Rules,
    Default::Unset,
    "Rules of who may publish and subscribe where; the first one that fits decides (see access.md). With any rule, what no \
     rule allows is denied.",
);
pub(super) static AUTH_ACL_FILE: Key = key(
    "auth.acl_file",
    Allowed::Text,
    Default::Unset,
    "A file with more such rules, one per line; they come after those of `auth.acl`. Read again on SIGHUP.",
);
pub(super) static AUTH_ACL_DEFAULT: Key = words(
    "auth.acl_default",
    &["deny", "allow"],
    "deny",
    "What holds where no rule fits. Without rules, and with this key not written, everything is allowed.",
);
pub(super) static AUTH_DENIED_PUBLISH_V3: Key = words(
    "auth.denied_publish_v3",
    &["acknowledge", "disconnect"],
    "acknowledge",
    "What a 3.1.1 client is told whose publication is denied: MQTT 3.1.1 has no way to refuse one, so it is acknowledged and \
     dropped, or the connection ends.",
);
pub(super) static AUTH_VERIFY_THREADS: Key = integer(
    "auth.verify_threads",
    0,
    64,
    0,
    "Threads that verify passwords. 0 means one for two cores, at least one.",
);
pub(super) static AUTH_CACHE_SECS: Key = integer(
    "auth.cache_secs",
    0,
    86_400,
    60,
    "How long credentials that were good are not verified again. 0 means that they always are.",
);
pub(super) static AUTH_FAILURES_FREE: Key = integer(
    "auth.failures_free",
    1,
    1_000_000,
    5,
    "Failed attempts of one user from one address before further ones must wait: 1 s, then twice as long each time, at \
     most a minute. One user from anywhere has ten times as many, one address with any user twenty times.",
);

pub(super) static MQTT_RESPONSE_INFORMATION: Key = key(
    "mqtt.response_information",
    Allowed::Text,
    Default::Unset,
    "What MQTT 5.0 clients that ask for Response Information are told: the beginning of their response \
     topics. `%c` stands for the client identifier. Access rules are not changed by it.",
);
pub(super) static MQTT_CHECK_PAYLOAD_FORMAT: Key = key(
    "mqtt.check_payload_format",
    Allowed::Boolean,
    Default::Boolean(false),
    "Whether a payload that its publisher calls UTF-8 (Payload Format Indicator) is refused with 0x99 if it \
     is not. Costs one look at each such payload.",
);
pub(super) static LOSSES_TOPIC: Key = key(
    "losses.topic",
    Allowed::TopicPrefix,
    Default::Text(""),
    "Where new entries of the loss ledger are published, at QoS 1, for subscribers and routes: one JSON object per interval \
     (format in operations.md). A route takes it upstream, for example `FROM \"site/losses\" INTO $upstream`. Empty publishes \
     none.",
);
pub(super) static LOSSES_INTERVAL_SECS: Key = integer(
    "losses.interval_secs",
    1,
    86_400,
    60,
    "How often `losses.topic` gets what is new, if anything is.",
);
pub(super) static MQTT_SYS_INTERVAL_SECS: Key = integer(
    "mqtt.sys_interval_secs",
    0,
    86_400,
    10,
    "How often the numbers under `$SYS/broker/` are published, as far as they have changed. 0 publishes none.",
);
pub(super) static REDIRECT_TO: Key = key(
    "redirect.to",
    Allowed::Text,
    Default::Unset,
    "Another server that MQTT 5.0 clients are told to use: `HOST` or `HOST:PORT`, several with spaces between.",
);
pub(super) static REDIRECT_WHEN: Key = words(
    "redirect.when",
    &["stopping", "always"],
    "stopping",
    "When they are told: `stopping` as this process stops (0x9C, use another server), `always` to every \
     CONNECT, and nobody is let in (0x9D, server moved; MQTT 3.1.1: return code 3).",
);

pub(super) static HTTP_BIND: Key = key(
    "http.bind",
    Allowed::AddressOrNone,
    Default::Unset,
    "Where `/healthz`, `/readyz` and `/metrics` are served. Not served if unset or empty. There is no \
     access control: bind it to an address that only operators reach.",
);

pub(super) static UPLINK_KIND: Key = key(
    "uplink.*.kind",
    Allowed::Choice { values: &["mqtt", "parent", "iothub"], later: &["kafka", "nats", "amqp"] },
    Default::Text("mqtt"),
    "What is at the other end: `mqtt`, any broker; `parent`, a Millrace of the next level, which gets everything as it is; \
     `iothub`, Azure IoT Hub or an edgeHub above this gateway.",
);
pub(super) static UPLINK_URL: Key = key(
    "uplink.*.url",
    Allowed::Url,
    Default::Derived("must be written, but for `iothub`: there the host name of the hub"),
    "Where the other end is.",
);
pub(super) static UPLINK_CA: Key = key(
    "uplink.*.ca",
    Allowed::Text,
    Default::Derived("the authorities of the system"),
    "File of the authorities whose certificates the other end may have, PEM; then no others. Like the other \
     files here it is read anew for every connection.",
);
pub(super) static UPLINK_CERT: Key = key(
    "uplink.*.cert",
    Allowed::Text,
    Default::Unset,
    "File of our client certificate chain, PEM. Needs `key`.",
);
pub(super) static UPLINK_KEY: Key =
    key("uplink.*.key", Allowed::Text, Default::Unset, "File of its private key, PEM. Needs `cert`.");
pub(super) static UPLINK_SERVER_NAME: Key = key(
    "uplink.*.server_name",
    Allowed::Text,
    Default::Derived("the host of `url`"),
    "Name that the certificate of the other end must be for, and that it is asked for (SNI).",
);
pub(super) static UPLINK_PIN: Key = key(
    "uplink.*.pin",
    Allowed::Pins,
    Default::Unset,
    "Besides everything else, the other end must have one of these public keys: SHA-256 of its \
     SubjectPublicKeyInfo.",
);
pub(super) static UPLINK_TLS_VERSION_MIN: Key =
    words("uplink.*.tls_version_min", &["1.2", "1.3"], "1.2", "Oldest version of TLS that is spoken.");
pub(super) static UPLINK_INSECURE: Key = key(
    "uplink.*.insecure",
    Allowed::Boolean,
    Default::Boolean(false),
    "Believes whoever answers, whatever its certificate. For trials: everybody on the way can read and change \
     everything. Every connection and the status say so.",
);
pub(super) static UPLINK_PROXY: Key = key(
    "uplink.*.proxy",
    Allowed::ProxyUrl,
    Default::Unset,
    "Proxy that the connection goes through: HTTP (CONNECT) or SOCKS 5. The proxy resolves the other end's \
     name. `HTTPS_PROXY` and its like in the environment are not looked at.",
);
pub(super) static UPLINK_PROXY_USER: Key = key(
    "uplink.*.proxy_user",
    Allowed::Text,
    Default::Unset,
    "User name at the proxy. Needs `proxy_password`.",
);
pub(super) static UPLINK_PROXY_PASSWORD: Key = key(
    "uplink.*.proxy_password",
    Allowed::Secret,
    Default::Unset,
    "Password there. Better in the environment than in a file. Needs `proxy_user`.",
);
pub(super) static UPLINK_VERSION: Key = words(
    "uplink.*.version",
    &["5", "3.1.1"],
    "5",
    "MQTT version spoken to it. Version 5 carries properties and message expiry.",
);
pub(super) static UPLINK_CLIENT_ID: Key = key(
    "uplink.*.client_id",
    Allowed::Text,
    Default::Derived("millrace-HOSTNAME-NAME"),
    "Client identifier there. Must be unique at the other end: two with the same one disconnect each other \
     for ever.",
);
pub(super) static UPLINK_USER: Key = key("uplink.*.user", Allowed::Text, Default::Unset, "User name there.");
pub(super) static UPLINK_PASSWORD: Key = key(
    "uplink.*.password",
    Allowed::Secret,
    Default::Unset,
    "Password there. Better in the environment (`MILLRACE__UPLINK__NAME__PASSWORD`) than in a file. Needs \
     `user`.",
);
pub(super) static UPLINK_KEEP_ALIVE_SECS: Key =
    integer("uplink.*.keep_alive_secs", 0, 65_535, 60, "Longest silence before a PINGREQ. 0 sends none.");
pub(super) static UPLINK_WINDOW: Key = key(
    "uplink.*.window",
    Allowed::Integer { min: 1, max: 32_766 },
    Default::Derived("limits.uplink_inflight_max"),
    "Most messages on their way that the other end has not acknowledged yet; how many of them are used follows round trip \
     and rate (`router/docs/bad-networks.md`). Not more than `limits.uplink_inflight_max`.",
);
pub(super) static UPLINK_TOPIC_PREFIX: Key = key(
    "uplink.*.topic_prefix",
    Allowed::TopicPrefix,
    Default::Text(""),
    "Put before the topic of every message that goes there, as it is: `plant7/` makes `a/b` arrive as \
     `plant7/a/b`.",
);
pub(super) static UPLINK_BACKOFF_MIN_MS: Key = integer(
    "uplink.*.backoff_min_ms",
    1,
    3_600_000,
    500,
    "Longest wait before the first new attempt to connect; doubled by every failure, and the actual wait \
     is drawn at random below it.",
);
pub(super) static UPLINK_BACKOFF_MAX_MS: Key =
    integer("uplink.*.backoff_max_ms", 1, 3_600_000, 60_000, "Where that doubling ends.");
pub(super) static UPLINK_PACE: Key = integer(
    "uplink.*.pace_messages_per_sec",
    0,
    10_000_000,
    0,
    "Most messages sent per second, for links and clouds with a quota. 0 means as fast as the other end \
     takes them.",
);

pub(super) static UPLINK_BYTES_MAX: Key = integer(
    "uplink.*.bytes_max",
    0,
    1 << 50,
    0,
    "Most bytes of messages that wait for this uplink, before compression, those included that are not written yet. 0 \
     means as many as the store takes. With `drop-oldest` what is not written yet may exceed it for a moment, but never \
     the disk.",
);
pub(super) static UPLINK_WHEN_FULL: Key = words(
    "uplink.*.when_full",
    &["refuse", "drop-oldest", "drop-newest"],
    "refuse",
    "What happens at that bound, and where the store as a whole is full: `refuse` tells publishers that there is no \
     room (5.0: reason 0x97; 3.1.1 clients wait), `drop-oldest` gives up the oldest of the least urgent messages, \
     `drop-newest` acknowledges and drops what comes. What is dropped is counted and stands in the loss ledger.",
);

pub(super) static UPLINK_PACE_BYTES: Key = integer(
    "uplink.*.pace_bytes_per_sec",
    0,
    1 << 40,
    0,
    "Most bytes of messages sent per second; both paces may be set. A message larger than that is sent, and made up for \
     by a pause. 0 means no such pace.",
);
pub(super) static UPLINK_SCHEDULE: Key = words(
    "uplink.*.schedule",
    &["strict", "weighted"],
    "strict",
    "How the priorities share the link: `strict` sends the most urgent messages first, always; `weighted` gives each \
     priority a part of it (0 to 9 and none: 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2), so that none starves.",
);
const DRAINS: &[&str] = &["in-order", "live-first"];

pub(super) static UPLINK_DRAIN: Key = words(
    "uplink.*.drain",
    DRAINS,
    "in-order",
    "What happens to a backlog of routes that do not say `drain` themselves when the link is back: `in-order` sends it before anything newer of its priority; with \
     `live-first` what comes from then on passes it, and order holds among the older and among the newer messages.",
);
pub(super) static UPLINK_HISTORY_SHARE: Key = integer(
    "uplink.*.history_share_percent",
    1,
    99,
    25,
    "With `live-first`, the part of the messages sent that the backlog gets while there are live ones, too. Without \
     live ones it gets all.",
);
pub(super) static UPLINK_DRAIN_JITTER_MS: Key = integer(
    "uplink.*.drain_jitter_ms",
    0,
    3_600_000,
    0,
    "Longest wait before a backlog larger than the window starts to drain on a new connection; the actual wait is drawn \
     at random, so that a fleet does not start in the same second. Lanes without a backlog do not wait.",
);
pub(super) static UPLINK_SPILL_AFTER_MS: Key = integer(
    "uplink.*.spill_after_ms",
    1,
    600_000,
    1_000,
    "Milliseconds that a message of a `spill` route may wait in memory for the upstream's acknowledgement; then it is \
     written, and its publisher gets PUBACK. Above the round trip, or everything is written.",
);
pub(super) static UPLINK_ATTEMPTS_MAX: Key = integer(
    "uplink.*.attempts_max",
    1,
    1_000,
    5,
    "Attempts after which a message that the other end refuses, or ends the connection at, is moved into the poison lane \
     (`millrace lanes poison`). Between them lie the waits of `backoff_min_ms`. A refusal for want of quota (0x97) is \
     waited out for ever.",
);
pub(super) static UPLINK_POISON_MESSAGES_MAX: Key = integer(
    "uplink.*.poison_messages_max",
    1,
    1_000_000,
    10_000,
    "Messages in the poison lane; above it the oldest is dropped and counted.",
);
pub(super) static UPLINK_POISON_BYTES_MAX: Key =
    integer("uplink.*.poison_bytes_max", 1_024, 1 << 40, 64 << 20, "The same, in bytes.");
pub(super) static CONTROL_PATH: Key = key(
    "control.path",
    Allowed::Text,
    Default::Derived("`control.sock` in `store.path`"),
    "Unix socket at which `millrace lanes` speaks to the running router. Only the user that runs it \
     may connect. `off` for none.",
);

pub(super) static ROUTE: Key = key(
    "routes.*",
    Allowed::Route,
    Default::Unset,
    "A route, by its text alone. The table form below says more.",
);
pub(super) static ROUTE_TEXT: Key =
    key("routes.*.route", Allowed::Route, Default::Required, "The text of the route.");
pub(super) static ROUTE_PRIORITY: Key = key(
    "routes.*.priority",
    Allowed::Integer { min: 0, max: 9 },
    Default::Derived("less urgent than 9"),
    "Which messages go upstream first when more wait than the link takes: 0 is the most urgent.",
);
pub(super) static ROUTE_TTL_SECS: Key = key(
    "routes.*.ttl",
    Allowed::Integer { min: 0, max: 4_294_967_295 },
    Default::Derived("as `routing.ttl`"),
    "Seconds that a message may wait for its sink before it is dropped and counted. 0 means for ever.",
);
pub(super) static ROUTE_DURABILITY: Key = key(
    "routes.*.durability",
    Allowed::Choice { values: DURABILITIES, later: &[] },
    Default::Derived("as `routing.durability`"),
    "What an acknowledgement promises to the publisher: `disk` that the message survives a crash and a \
     power cut; `spill` the same, or that the upstream has it, whichever is first: nothing is written while the upstream \
     keeps up (see `uplink.NAME.spill_after_ms`); `memory` only that the router holds it: it is written when memory is \
     short and when the router stops.",
);
pub(super) static ROUTE_DRAIN: Key = key(
    "routes.*.drain",
    Allowed::Choice { values: DRAINS, later: &[] },
    Default::Derived("as `uplink.NAME.drain`"),
    "What happens to a backlog of this route when the link is back: `in-order` sends it before anything newer; with \
     `live-first` what comes from then on passes it. Routes of one priority share a lane of an uplink: it is passed only if \
     all of them say so, and `check` warns where they do not.",
);
const DURABILITIES: &[&str] = &["disk", "spill", "memory"];

pub(super) static LOG_LEVEL: Key =
    key("log.level", Allowed::LogFilter, Default::Text("info"), "What is logged, to standard error.");
pub(super) static LOG_FORMAT: Key = words(
    "log.format",
    &["text", "json", "syslog"],
    "text",
    "`text` for people, `json` for machines: one object per line. `syslog` is the shape of edgeHub's lines, with the \
     severity in front (`<6> 2027-01-31 08:00:00.000 +00:00 [INF] - …`), by which IoT Edge filters log pulls.",
);

/// Declares the keys of `limits` and how they become `model::Limits`. A field that is missing here does not
/// compile, so a new limit gets its key, its range and its line of documentation.
macro_rules! limits {
    ($($field:ident: $kind:ty = $min:literal ..= $max:literal, $doc:literal;)*) => {
        static LIMITS: &[Key] = &[$(integer(
            concat!("limits.", stringify!($field)),
            $min,
            $max,
            Limits::DEFAULT.$field as u64,
            $doc,
        )),*];

        /// Fills every limit with what `judged` says about its key.
        pub(super) fn limits(mut judged: impl FnMut(&'static Key) -> u64) -> Limits {
            let mut keys = LIMITS.iter();
            let mut next = || keys.next().map(&mut judged).unwrap_or_default();
            // The range of the key is that of the type or narrower, which a test checks.
            Limits { $($field: <$kind>::try_from(next()).unwrap_or(<$kind>::MAX)),* }
        }

        #[cfg(test)]
        pub(super) static LIMIT_TYPES_MAX: &[(&str, u64)] =
            &[$((concat!("limits.", stringify!($field)), <$kind>::MAX as u64)),*];
    };
}

limits! {
    connections_max: u32 = 1..=1_000_000, "Connections at once, over all shards.";
    connect_timeout_millis: u64 = 100..=3_600_000,
        "How long a connection may stay without a complete CONNECT.";
    authentication_timeout_millis: u64 = 100..=3_600_000,
        "How long a client waits for its password to be verified.";
    authentication_queue_max: u32 = 1..=1_000_000,
        "Passwords that wait to be verified; above it a client is refused and told that the router is busy.";
    identities_max: u32 = 1..=1_000_000,
        "Devices and modules in the device scope or the identity file; with more, those that came last are not known.";
    identity_lookups_max: u32 = 1..=10_000,
        "Clients that wait for a lookup of their identity; one more is told that we are busy. Four lookups run at once.";
    authentication_cache_max: u32 = 0..=1_000_000,
        "Credentials that were found good a moment ago and are not verified again.";
    failed_attempts_max: u32 = 1..=1_000_000, "Users and addresses whose failed attempts are remembered.";
    password_entries_max: u32 = 1..=1_000_000, "Users in the password file.";
    password_memory_bytes_max: u32 = 65_536..=4_294_967_295, "Memory that verifying one password may take.";
    acl_rules_max: u32 = 0..=1_000_000, "Rules of who may publish and subscribe.";
    handshake_bytes_max: u32 = 1_024..=65_536,
        "Bytes of a PROXY header, TLS handshake or WebSocket request that have come and are not the whole of it.";
    packet_bytes_max: u32 = 128..=268_435_460, "Largest MQTT packet accepted, header included.";
    client_id_bytes_max: u32 = 23..=65_535, "Longest client identifier.";
    topic_bytes_max: u32 = 16..=65_535, "Longest topic.";
    topic_levels_max: u32 = 1..=32_768, "Most levels of a topic.";
    topic_alias_max: u16 = 0..=1_024, "Topic aliases of one connection, in each direction; 0 is none.";
    keep_alive_secs_max: u16 = 0..=65_535,
        "Longest keep-alive of an MQTT 5.0 client; one that wants more, or none, is told. 0 is no bound.";
    connects_per_sec_max: u32 = 0..=1_000_000,
        "Connections accepted per second, over all listeners, with a burst of as many; those above it are refused with 0x9F. 0 is no bound.";
    subscriptions_max: u32 = 1..=100_000_000, "Subscriptions of all sessions together.";
    subscriptions_per_session_max: u32 = 1..=1_000_000, "Subscriptions of one session.";
    sessions_max: u32 = 1..=10_000_000, "Sessions kept, connected or not.";
    session_inflight_max: u16 = 1..=65_535,
        "QoS 1 messages on their way to one client, not yet acknowledged.";
    session_queue_messages_max: u32 = 1..=100_000_000,
        "Messages that wait in memory for one connected session beyond those in flight.";
    session_queue_bytes_max: u32 = 1_024..=4_294_967_295, "The same, in bytes.";
    session_stored_messages_max: u64 = 0..=1_000_000_000_000, "Messages that wait on disk for one session, and in each lane of a module's inputs.";
    module_lanes_max: u16 = 0..=1_024,
        "Lanes of the inputs of one module, one for each input and priority; what goes to further ones shares the lane of its session.";
    session_expiry_secs_max: u32 = 0..=4_294_967_295, "Longest session expiry granted.";
    retained_messages_max: u32 = 0..=100_000_000, "Topics with a retained message.";
    retained_bytes_max: u64 = 0..=1_099_511_627_776,
        "Bytes of all retained messages, 128 for each of them included; every shard holds a copy of them.";
    outbox_bytes_max: u32 = 1_024..=4_294_967_295,
        "Bytes encoded for one socket that it has not taken yet; QoS 0 above it is dropped and counted.";
    waiting_bytes_max: u64 = 65_536..=1_099_511_627_776,
        "Bytes of messages that wait for all clients together; above it QoS 0 and messages for clean sessions are dropped and counted, stored sessions wait on disk.";
    turn_read_bytes_max: u32 = 1_024..=16_777_216, "Bytes read from one socket in one turn.";
    receive_max: u16 = 1..=65_535,
        "Publications that one client may have waiting for the disk (our Receive Maximum).";
    commit_bytes_max: u32 = 65_536..=4_294_967_295,
        "Bytes appended by one shard and not yet durable; above it the shard stops reading sockets, or, \
         while the store takes no writes, those whose next packet needs the disk. With `store.bytes_max`, all shards \
         together at most a sixty-fourth of it.";
    withheld_bytes_max: u32 = 0..=1_048_576,
        "Bytes read behind a packet that waits for room on the disk, to find PINGREQ and acknowledgements there.";
    handoff_batches_max: u32 = 1..=1_000_000, "Batches on their way from one shard to another.";
    handoff_batch_bytes_max: u32 = 1_024..=4_294_967_295, "Bytes of one such batch.";
    routes_max: u32 = 1..=1_000_000, "Routes in one table.";
    route_bytes_max: u32 = 64..=1_048_576, "Longest route text.";
    route_depth_max: u32 = 1..=256, "Deepest nesting of a route's condition.";
    body_path_names_max: u32 = 1..=256, "Names in one `$body` path.";
    body_scan_bytes_max: u32 = 0..=268_435_456,
        "Bytes of a body that predicates look at; a longer body is undefined to them.";
    body_depth_max: u32 = 1..=1_024, "Deepest nesting of a JSON body that predicates look at.";
    body_elements_bytes_max: u32 = 0..=4_294_967_295,
        "Bytes of arrays in one body that ANY and ALL look at, all routes together; what goes beyond is undefined.";
    route_keys_max: u32 = 2..=10_000_000,
        "Keys that one shard's SAMPLE, THROTTLE and CHANGED clauses remember; the least used are forgotten.";
    spill_bytes_max: u64 = 65_536..=1_099_511_627_776,
        "Memory that messages of `spill` and `memory` routes take while they need not be written, over all uplinks; above it the lane that has most there is written.";
    series_bytes_max: u32 = 65_536..=1_073_741_824,
        "Memory that edgeHub's series take, by identity and output, on each shard; above it further ones are counted together.";
    uplink_inflight_max: u16 = 1..=32_766, "Messages in flight to one upstream.";
    uplink_read_bytes_max: u32 = 1_024..=4_294_967_295, "Bytes read ahead from the lanes of one uplink.";
    uplink_look_ahead_max: u32 = 1..=1_000_000,
        "Messages of one lane that are sent and not settled yet.";
    uplink_held_messages_max: u32 = 1..=268_435_456,
        "Messages of one lane that wait because the upstream refuses their senders, or their links are not up, while others pass them: two bytes each, or less. Above it the lane waits.";
    uplink_waiting_senders_max: u32 = 1..=100_000,
        "Senders of one uplink that wait because the upstream refuses their messages; above it the whole lane does.";
    uplink_links_max: u32 = 1..=65_535,
        "Links of one uplink whose identities have links of their own; above it the others wait until one is idle.";
    uplink_opens_per_sec: u32 = 1..=10_000,
        "Links of one such uplink opened per second, with jitter.";
    losses_max: u32 = 16..=1_000_000,
        "Entries of the loss ledger, each at most 832 bytes; above it the oldest are forgotten and counted.";
    quarantine_bytes_max: u64 = 0..=1_099_511_627_776,
        "Bytes of damaged data that the store sets aside for inspection; what is more is only counted.";
}

/// Every key but the limits, in the order of the page.
static SERVICE_KEYS: &[&Key] = &[
    &SHARDS,
    &LISTENER_BIND,
    &LISTENER_KIND,
    &LISTENER_CONNECTIONS_MAX,
    &LISTENER_ANONYMOUS,
    &LISTENER_PACKET_BYTES_MAX,
    &packing::ACCEPT_ZSTD,
    &packing::ZSTD_DICTIONARY,
    &LISTENER_PROXY_PROTOCOL,
    &LISTENER_PROXY_TRUST_CN,
    &LISTENER_PATH,
    &LISTENER_ORIGINS,
    &LISTENER_MODE,
    &LISTENER_CERT,
    &LISTENER_KEY,
    &LISTENER_SNI_CERT,
    &LISTENER_SNI_KEY,
    &LISTENER_CLIENT_CA,
    &LISTENER_CLIENT_CERT,
    &LISTENER_CLIENT_CRL,
    &LISTENER_USER_FROM,
    &LISTENER_TLS_VERSION_MIN,
    &LISTENER_CERTIFICATE,
    &LISTENER_IDENTITIES,
    &STORE_PATH,
    &STORE_MEMTABLE_BYTES,
    &STORE_SYNC,
    &STORE_BYTES_MAX,
    &STORE_COMMIT_INTERVAL_MS,
    &STORE_RESERVE_PERCENT,
    &STORE_KEEP_VANISHED_SECS,
    &SESSION_DURABILITY,
    &AUTH_ANONYMOUS,
    &AUTH_PASSWORD_FILE,
    &AUTH_CLIENT_ID,
    &AUTH_ACL,
    &AUTH_ACL_FILE,
    &AUTH_ACL_DEFAULT,
    &AUTH_DENIED_PUBLISH_V3,
    &AUTH_VERIFY_THREADS,
    &AUTH_CACHE_SECS,
    &AUTH_FAILURES_FREE,
    &MQTT_RESPONSE_INFORMATION,
    &MQTT_CHECK_PAYLOAD_FORMAT,
    &MQTT_SYS_INTERVAL_SECS,
    &LOSSES_TOPIC,
    &LOSSES_INTERVAL_SECS,
    &REDIRECT_TO,
    &REDIRECT_WHEN,
    &HTTP_BIND,
    &CONTROL_PATH,
    &kinds::GATEWAY_NAME,
    &UPLINK_KIND,
    &UPLINK_URL,
    &kinds::UPLINK_CONNECTION_STRING,
    &kinds::UPLINK_HUB,
    &kinds::UPLINK_DEVICE,
    &kinds::UPLINK_MODULE,
    &kinds::UPLINK_SHARED_ACCESS_KEY,
    &kinds::UPLINK_TOKEN_SECS,
    &kinds::UPLINK_CHILDREN,
    &kinds::UPLINK_SPEAKERS,
    &kinds::UPLINK_IDENTITY_KEY,
    &kinds::UPLINK_IDENTITY_CERT,
    &kinds::UPLINK_IDENTITY_CERT_KEY,
    &kinds::UPLINK_LINK_IDLE_SECS,
    &kinds::UPLINK_ANSWER_SECS,
    &kinds::UPLINK_FAILOVER,
    &kinds::UPLINK_FAILOVER_ATTEMPTS,
    &kinds::UPLINK_FAILOVER_RETURN_SECS,
    &kinds::UPLINK_REQUIRED,
    &UPLINK_CA,
    &UPLINK_CERT,
    &UPLINK_KEY,
    &UPLINK_SERVER_NAME,
    &UPLINK_PIN,
    &UPLINK_TLS_VERSION_MIN,
    &UPLINK_INSECURE,
    &UPLINK_PROXY,
    &UPLINK_PROXY_USER,
    &UPLINK_PROXY_PASSWORD,
    &UPLINK_VERSION,
    &UPLINK_CLIENT_ID,
    &UPLINK_USER,
    &UPLINK_PASSWORD,
    &UPLINK_KEEP_ALIVE_SECS,
    &UPLINK_WINDOW,
    &pacing::WINDOW_MIN,
    &UPLINK_TOPIC_PREFIX,
    &kinds::UPLINK_TOPICS,
    &kinds::UPLINK_INBOUND,
    &kinds::UPLINK_QOS,
    &kinds::UPLINK_RETAIN,
    &kinds::UPLINK_PROPERTIES,
    &kinds::UPLINK_ID_PROPERTY,
    &packing::COMPRESSION,
    &packing::COMPRESSION_LEVEL,
    &packing::COMPRESSION_DICTIONARY,
    &UPLINK_BACKOFF_MIN_MS,
    &UPLINK_BACKOFF_MAX_MS,
    &pacing::CONNECT_TIMEOUT_SECS,
    &pacing::ACK_TIMEOUT_SECS,
    &UPLINK_PACE,
    &UPLINK_PACE_BYTES,
    &pacing::HOURS,
    &pacing::HOURS_UTC_OFFSET,
    &pacing::HOURS_ALWAYS,
    &UPLINK_SCHEDULE,
    &UPLINK_DRAIN,
    &UPLINK_HISTORY_SHARE,
    &UPLINK_DRAIN_JITTER_MS,
    &UPLINK_SPILL_AFTER_MS,
    &UPLINK_ATTEMPTS_MAX,
    &UPLINK_POISON_MESSAGES_MAX,
    &UPLINK_POISON_BYTES_MAX,
    &UPLINK_BYTES_MAX,
    &UPLINK_WHEN_FULL,
    &ROUTING_MODE,
    &ROUTING_DURABILITY,
    &ROUTING_TTL_SECS,
    &ROUTE,
    &ROUTE_TEXT,
    &ROUTE_PRIORITY,
    &ROUTE_TTL_SECS,
    &ROUTE_DURABILITY,
    &ROUTE_DRAIN,
    &LOG_LEVEL,
    &LOG_FORMAT,
];

/// Whether a secret key ends in this name, wherever it may have been written.
pub(super) fn is_secret_name(name: &str) -> bool {
    keys().any(|key| matches!(key.allowed, Allowed::Secret) && key.path.rsplit('.').next() == Some(name))
}

/// Every key, in the order of the page.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    SERVICE_KEYS.iter().chain(edge::KEYS).copied().chain(LIMITS)
}
