//! MQTT 3.1.1 and 5.0 as a server speaks it.
//!
//! `admission`: who comes in. `connect`: how a session begins. `rights`: who may do what. `inbound`: what a client may send us. `withheld`: what must wait for room. `ending`: how a connection ends.
//! What we send stands in `dispatch`. In: bytes of one connection. Out: publications, answers, faults.

mod admission;
mod connect;
mod ending;
mod inbound;
mod rights;
mod withheld;
mod words;

/// Why a connection ends before the client wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The bytes are no packet; nothing of it may be trusted.
    #[error(transparent)]
    Malformed(#[from] wire::Malformed),
    /// A legal packet at the wrong time, or one that was not agreed on: the peer's mistake.
    #[error("{0}")]
    Peer(PeerFault),
    /// Our mistake.
    #[error("internal error in {0}, please report")]
    Bug(&'static str),
}

/// What a peer may do wrong with well-formed packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerFault {
    /// [MQTT-3.1.0-1]
    #[error("the first packet is not CONNECT")]
    NotConnected,
    /// [MQTT-3.1.0-2]
    #[error("a second CONNECT")]
    ConnectedTwice,
    /// A packet that only servers send.
    #[error("a packet that only a server may send")]
    NotForServers,
    /// More QoS 2 publications without PUBREL than our Receive Maximum [MQTT-3.3.4-7].
    #[error("more QoS 2 publications at a time than this server's Receive Maximum")]
    ReceiveMaximum,
    /// [MQTT-3.3.2-9]: above the Topic Alias Maximum of our CONNACK.
    #[error("a topic alias above the Topic Alias Maximum of CONNACK")]
    TopicAliasTooHigh,
    /// MQTT 5.0 §3.3.2.3.4: an empty topic with an alias that nothing has introduced.
    #[error("an empty topic with a topic alias that stands for nothing yet")]
    TopicAliasUnknown,
    /// MQTT 5.0 §3.3.2.3.2; only if `mqtt.check_payload_format` is on.
    #[error("a payload that is said to be UTF-8 and is not")]
    PayloadFormat,
    /// [MQTT-3.1.2-24]: what we must answer does not fit into what the client takes.
    #[error("an answer that does not fit into the client's Maximum Packet Size")]
    AnswerTooLarge,
    /// [MQTT-3.3.4-6]
    #[error("a PUBLISH with a subscription identifier, which only servers send")]
    SubscriptionId,
    /// MQTT 5.0 §3.14.2.2.2
    #[error("DISCONNECT sets a session expiry although CONNECT set none")]
    ExpiryRaised,
    /// [MQTT-4.12.0-1]: no method was agreed on.
    #[error("AUTH without an authentication method in CONNECT")]
    UnexpectedAuth,
    /// [MQTT3-3.3.5-2]: the configuration wants it so.
    #[error("a publication that the rules deny")]
    NotAuthorized,
    /// A twin topic that asks for nothing, or a publication that the dialect refuses where 3.1.1 has no word for it.
    #[error("a publication that means nothing in the IoT Hub dialect")]
    HubTopic,
    /// More requests in one turn than services are asked; 3.1.1 has no word for it.
    #[error("more requests about twins and methods at a time than this server takes")]
    HubRequests,
    /// A topic of more bytes or levels than `limits.topic_bytes_max` or `limits.topic_levels_max`.
    #[error("a topic longer than this server's limit")]
    TopicTooLong,
}

impl Fault {
    /// What DISCONNECT says about it (MQTT 5.0 §4.13).
    pub(crate) const fn reason_code(&self) -> wire::ReasonCode {
        use wire::ReasonCode;
        match self {
            Fault::Malformed(malformed) => malformed.reason_code(),
            Fault::Bug(_) => ReasonCode::UNSPECIFIED_ERROR,
            Fault::Peer(fault) => match fault {
                PeerFault::ReceiveMaximum => ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                PeerFault::TopicAliasTooHigh => ReasonCode::TOPIC_ALIAS_INVALID,
                PeerFault::PayloadFormat => ReasonCode::PAYLOAD_FORMAT_INVALID,
                PeerFault::AnswerTooLarge => ReasonCode::PACKET_TOO_LARGE,
                PeerFault::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
                PeerFault::HubRequests => ReasonCode::QUOTA_EXCEEDED,
                PeerFault::TopicTooLong | PeerFault::HubTopic => ReasonCode::TOPIC_NAME_INVALID,
                PeerFault::NotConnected
                | PeerFault::ConnectedTwice
                | PeerFault::NotForServers
                | PeerFault::SubscriptionId
                | PeerFault::ExpiryRaised
                | PeerFault::TopicAliasUnknown
                | PeerFault::UnexpectedAuth => ReasonCode::PROTOCOL_ERROR,
            },
        }
    }
}

/// Whether a topic or filter is within `limits.topic_bytes_max` and `limits.topic_levels_max`.
#[inline]
pub(crate) fn topic_fits(topic: &str, limits: &model::Limits) -> bool {
    topic.len() <= limits.topic_bytes_max as usize
        && topic.bytes().filter(|byte| *byte == b'/').count() < limits.topic_levels_max as usize
}
