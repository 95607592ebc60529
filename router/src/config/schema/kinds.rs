//! The keys of uplinks about what is at the other end: topics there and here, properties, several addresses, IoT Hub.

use super::{Allowed, Default, Key, integer, key, words};

pub(in crate::config) static GATEWAY_NAME: Key = key(
    "gateway.name",
    Allowed::Word,
    Default::Derived("the name of this machine"),
    "What this gateway is called in the ids of its messages and in `{gateway}`. Choose one that stays.",
);

pub(in crate::config) static UPLINK_FAILOVER: Key = key(
    "uplink.*.failover",
    Allowed::List("a list of urls, as in [\"mqtts://second:8883\"]"),
    Default::Unset,
    "More addresses of the other end, tried in this order when those before are down. TLS and login are the same for all; \
     without `server_name` each certificate is for the host of its url.",
);
pub(in crate::config) static UPLINK_FAILOVER_ATTEMPTS: Key = integer(
    "uplink.*.failover_attempts",
    1,
    1_000,
    3,
    "Failed attempts in a row after which the next address is tried.",
);
pub(in crate::config) static UPLINK_FAILOVER_RETURN_SECS: Key = integer(
    "uplink.*.failover_return_secs",
    0,
    604_800,
    300,
    "How long another address is used before the first one is looked at (name, TCP, TLS); if that goes well, the connection \
     goes back there, and what was in flight is sent again. 0 never goes back by itself.",
);
pub(in crate::config) static UPLINK_REQUIRED: Key = key(
    "uplink.*.required",
    Allowed::Boolean,
    Default::Boolean(false),
    "Whether `/readyz` answers 503 while this uplink is down. A gateway that buffers is ready without; one that only \
     passes on may not be.",
);
pub(in crate::config) static UPLINK_TOPICS: Key = key(
    "uplink.*.topics",
    Allowed::List(
        "a list of entries, as in [\"factory/# -> plant/{gateway}/{topic[1..]} qos=1 retain=never\"]",
    ),
    Default::Unset,
    "What topics become there: `FILTER -> TEMPLATE`, with `qos=0`, `1`, `2` or `as-published` and `retain=keep`, `never` \
     or `always` behind it. The first entry that matches decides; what none matches keeps its topic. Holes and the rest: \
     uplinks.md.",
);
pub(in crate::config) static UPLINK_INBOUND: Key = key(
    "uplink.*.inbound",
    Allowed::List("a list of entries, as in [\"cmd/gw1/# -> commands/{topic[2..]} qos=1\"]"),
    Default::Unset,
    "What is subscribed to there, and what its topics become here: `FILTER -> TEMPLATE`, with `qos=0`, `1` or `2` and \
     `retain=keep` or `never` behind it. Published here by the user `$uplink/NAME`, so `auth.acl` holds.",
);
pub(in crate::config) static UPLINK_PROPERTIES: Key = words(
    "uplink.*.properties",
    &["drop", "topic", "json"],
    "drop",
    "What becomes of properties, the id among them, in MQTT 3.1.1, which has none: `drop` leaves them out and counts the \
     messages; `topic` adds a last level `name=value&…`, percent-encoded; `json` makes the payload an object with \
     `properties` and `payload`. Both work inbound, too.",
);
pub(in crate::config) static UPLINK_QOS: Key = words(
    "uplink.*.qos",
    &["0", "1", "2", "as-published"],
    "1",
    "QoS there, where `topics` does not say it. With 0 a message counts as delivered once it is written: what a connection \
     loses is lost. With 2 it comes once, as long as the upstream keeps the session and this router does not crash.",
);
pub(in crate::config) static UPLINK_RETAIN: Key = words(
    "uplink.*.retain",
    &["keep", "never"],
    "keep",
    "Whether RETAIN goes along, where `topics` does not say it.",
);
pub(in crate::config) static UPLINK_ID_PROPERTY: Key = key(
    "uplink.*.id_property",
    Allowed::TextOrNone,
    Default::Text("millrace-id"),
    "User property that every message there carries: `GATEWAY/STORE-LIFE/LANE/SEQ`, the same for each repeat. `\"\"` writes none; \
     then loops over other brokers are not found.",
);

pub(in crate::config) static UPLINK_CONNECTION_STRING: Key = key(
    "uplink.*.connection_string",
    Allowed::Secret,
    Default::Unset,
    "`iothub`: what the portal gives for the device or module, `HostName=…;DeviceId=…;SharedAccessKey=…`; instead of `hub`, \
     `device`, `module` and `shared_access_key`. Better in the environment than in a file.",
);
pub(in crate::config) static UPLINK_HUB: Key =
    key("uplink.*.hub", Allowed::Word, Default::Unset, "`iothub`: host name of the hub.");
pub(in crate::config) static UPLINK_DEVICE: Key =
    key("uplink.*.device", Allowed::Text, Default::Unset, "`iothub`: id of the device that this gateway is.");
pub(in crate::config) static UPLINK_MODULE: Key = key(
    "uplink.*.module",
    Allowed::Text,
    Default::Unset,
    "`iothub`: id of its module, if it connects as one.",
);
pub(in crate::config) static UPLINK_SHARED_ACCESS_KEY: Key = key(
    "uplink.*.shared_access_key",
    Allowed::Secret,
    Default::Unset,
    "`iothub`: its key, base64. Without one it has a certificate (`cert`, `key`).",
);
pub(in crate::config) static UPLINK_TOKEN_SECS: Key = integer(
    "uplink.*.token_secs",
    60,
    2_592_000,
    3_600,
    "`iothub`: how long a token is valid. After four fifths of it the link rests until nothing is in flight, at most ten \
     seconds, and is made anew.",
);
pub(in crate::config) static UPLINK_CHILDREN: Key = words(
    "uplink.*.children",
    &["own", "on-behalf-of"],
    "own",
    "`iothub`: what becomes of messages of other devices and modules. `own`: those with an `identity` here have a link with \
     their own key or certificate, others go to the poison lane. `on-behalf-of`: others have a link with this gateway's \
     token, as edgeHub does it: for the module `$edgeHub` of a gateway; they must be its children in the hub.",
);
pub(in crate::config) static UPLINK_SPEAKERS: Key = key(
    "uplink.*.speakers",
    Allowed::List("a list of users, as in [\"gateway-app\"], or [\"*\"]"),
    Default::Unset,
    "`iothub`: users who may say by a topic `devices/D[/modules/M]/messages/events/…` that a message is from `D[/M]`; without a \
     word that is the user `D[/M]` alone, and what others publish there goes to the poison lane. `*` is whoever the rules \
     (`auth.acl`) let publish there. `edge.allow_sender_mismatch` means `*`, too.",
);
pub(in crate::config) static UPLINK_IDENTITY_KEY: Key = key(
    "uplink.*.identity.*.shared_access_key",
    Allowed::Secret,
    Default::Unset,
    "`iothub`: the key of a child; its name is `DEVICE` or `\"DEVICE/MODULE\"`.",
);
pub(in crate::config) static UPLINK_IDENTITY_CERT: Key = key(
    "uplink.*.identity.*.cert",
    Allowed::Text,
    Default::Unset,
    "`iothub`: file of the child's certificate chain, PEM, instead of a key. Needs `key`.",
);
pub(in crate::config) static UPLINK_IDENTITY_CERT_KEY: Key = key(
    "uplink.*.identity.*.key",
    Allowed::Text,
    Default::Unset,
    "`iothub`: file of that certificate's private key, PEM.",
);
pub(in crate::config) static UPLINK_LINK_IDLE_SECS: Key = integer(
    "uplink.*.link_idle_secs",
    1,
    604_800,
    3_600,
    "`iothub`: how long the link of a child may be without messages before it is closed. The gateway's own stays.",
);
pub(in crate::config) static UPLINK_ANSWER_SECS: Key = integer(
    "uplink.*.answer_secs",
    1,
    3_600,
    30,
    "`iothub`: how long a link may leave everything unanswered before it is given up for a new one.",
);
