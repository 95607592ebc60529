//! Why bytes are not a packet we accept: which rule, where it is written, and what to answer.
//!
//! Knows: every rule that `wire` enforces, its clause in MQTT 5.0 and 3.1.1, and its reason code.
//! May use: `reason`, `packet` (names of types). Never: bytes.
//! Invariant: one rule, one clause per version, one reason code; nobody else in the program decides this.

use std::fmt;

use crate::packet::{PacketType, Version};
use crate::reason::ReasonCode;

/// A packet that we do not accept. The connection must be closed (MQTT 5.0 §4.13, 3.1.1 §4.8).
///
/// Nothing of the packet may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Malformed {
    /// The type that its first byte claims; `None` for the reserved type 0.
    pub packet: Option<PacketType>,
    /// The version that applies; `None` while a packet is split off or a CONNECT has not said it yet.
    pub version: Option<Version>,
    /// What was broken.
    pub rule: Rule,
}

impl Malformed {
    /// What DISCONNECT or CONNACK says about it (MQTT 5.0 §4.13).
    ///
    /// [`ReasonCode::MALFORMED_PACKET`] where the bytes cannot be parsed, [`ReasonCode::PROTOCOL_ERROR`] or a
    /// closer code where they can, but may not be sent.
    pub const fn reason_code(&self) -> ReasonCode {
        self.rule.reason_code()
    }

    /// Where the rule is written, in the numbering of the version that applies (5.0 if none is known).
    pub const fn clause(&self) -> &'static str {
        match (self.version, self.rule, self.packet) {
            // Each packet has a clause of its own that says the same.
            (Some(Version::V5), Rule::ReasonCodeNotAllowed, Some(packet)) => match packet {
                PacketType::ConnAck => "MQTT-3.2.2-8",
                PacketType::PubAck => "MQTT-3.4.2-1",
                PacketType::PubRec => "MQTT-3.5.2-1",
                PacketType::PubRel => "MQTT-3.6.2-1",
                PacketType::PubComp => "MQTT-3.7.2-1",
                PacketType::SubAck => "MQTT-3.9.3-2",
                PacketType::UnsubAck => "MQTT-3.11.3-2",
                PacketType::Disconnect => "MQTT-3.14.2-1",
                PacketType::Auth => "MQTT-3.15.2-1",
                _ => self.rule.clause(),
            },
            (Some(Version::V3), Rule::ReasonCodeNotAllowed, Some(PacketType::SubAck)) => "MQTT3-3.9.3-2",
            (Some(Version::V5), Rule::EmptyAcknowledgement, Some(PacketType::UnsubAck)) => "5.0 §3.11.3",
            (Some(Version::V5), Rule::AuthenticationMethodMissing, Some(PacketType::Connect)) => {
                "5.0 §3.1.2.11.10"
            }
            (Some(Version::V3), rule, _) => rule.clause_v3(),
            (_, rule, _) => rule.clause(),
        }
    }

    /// The CONNACK that tells the client why its CONNECT fails; `None` if we must close without one.
    ///
    /// 3.1.1 has an answer for two cases only: an unacceptable protocol level [MQTT3-3.1.2-2] and a client
    /// identifier that is refused [MQTT3-3.1.3-8]; any other broken CONNECT is closed without a word
    /// [MQTT3-3.1.4-1]. 5.0 may always say why [MQTT-3.1.4-1].
    pub const fn refusal(&self) -> Option<Refusal> {
        match (self.packet, self.version) {
            (Some(PacketType::Connect), Some(Version::V5)) => {
                Some(Refusal { version: Version::V5, reason: self.reason_code() })
            }
            (Some(PacketType::Connect), Some(Version::V3)) => match self.rule {
                Rule::UnsupportedVersion | Rule::EmptyClientId => {
                    Some(Refusal { version: Version::V3, reason: self.reason_code() })
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The CONNACK with which a CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The form that the client can most likely read.
    pub version: Version,
    /// Why; in the 3.1.1 form it becomes a return code ([`ReasonCode::connect_return_code_v3`]).
    pub reason: ReasonCode,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packet {
            Some(packet) => write!(f, "{packet}: ")?,
            None => f.write_str("reserved packet type: ")?,
        }
        write!(f, "{} [{}]", self.rule.explanation(), self.clause())
    }
}

macro_rules! rules {
    ($($rule:ident, $reason:ident, $clause:literal, $clause_v3:literal, $explanation:literal;)*) => {
        /// Every rule that `wire` enforces.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(
                #[doc = concat!("The packet ", $explanation, ". 5.0: ", $clause, "; 3.1.1: ", $clause_v3, ".")]
                $rule,
            )*
        }

        impl Rule {
            /// All of them, in the order of the list.
            pub const ALL: &'static [Rule] = &[$(Rule::$rule),*];

            /// What the packet does wrong; completes "the packet …".
            pub const fn explanation(self) -> &'static str {
                match self { $(Rule::$rule => $explanation,)* }
            }

            /// Clause or section of MQTT 5.0; "-" if the rule is one of 3.1.1 only.
            pub const fn clause(self) -> &'static str {
                match self { $(Rule::$rule => $clause,)* }
            }

            /// Clause or section of MQTT 3.1.1; "-" if the rule is one of 5.0 only.
            pub const fn clause_v3(self) -> &'static str {
                match self { $(Rule::$rule => $clause_v3,)* }
            }

            /// The code that MQTT 5.0 has for it.
            pub const fn reason_code(self) -> ReasonCode {
                match self { $(Rule::$rule => ReasonCode::$reason,)* }
            }
        }
    };
}

rules! {
    // Every packet
    ReservedPacketType, MALFORMED_PACKET, "5.0 §2.1.2", "3.1.1 §2.2.1", "has a reserved packet type";
    ReservedFlags, MALFORMED_PACKET, "MQTT-2.1.3-1", "MQTT3-2.2.2-2", "has wrong flags in its first byte";
    VarintTooLong, MALFORMED_PACKET, "5.0 §1.5.5", "3.1.1 §2.2.3", "has a length of more than four bytes";
    VarintNotMinimal, MALFORMED_PACKET, "MQTT-1.5.5-1", "-", "has a length in more bytes than needed";
    PacketTooLarge, PACKET_TOO_LARGE, "MQTT-3.2.2-15", "MQTT3-4.8.0-2", "is larger than we accept";
    Truncated, MALFORMED_PACKET, "MQTT-4.13.1-1", "MQTT3-4.8.0-1", "ends in the middle of a field";
    TrailingBytes, MALFORMED_PACKET, "MQTT-4.13.1-1", "MQTT3-4.8.0-1", "goes on after its last field";
    InvalidUtf8, MALFORMED_PACKET, "MQTT-1.5.4-1", "MQTT3-1.5.3-1", "has a string that is not UTF-8";
    NullCharacter, MALFORMED_PACKET, "MQTT-1.5.4-2", "MQTT3-1.5.3-2", "has a string with the character U+0000";
    PacketIdZero, PROTOCOL_ERROR, "MQTT-2.2.1-3", "MQTT3-2.3.1-1", "has the packet identifier 0";
    ReasonCodeNotAllowed, PROTOCOL_ERROR, "5.0 §2.4", "3.1.1 §3.2.2.3", "has a reason code that it may not carry";

    // Properties (5.0)
    UnknownProperty, MALFORMED_PACKET, "5.0 §2.2.2.2", "-", "has a property that does not exist";
    PropertyNotAllowed, MALFORMED_PACKET, "5.0 §2.2.2.2", "-", "has a property that it may not carry";
    DuplicateProperty, PROTOCOL_ERROR, "5.0 §2.2.2.2", "-", "has a property twice that may be there once";
    PropertyValue, PROTOCOL_ERROR, "5.0 §2.2.2.2", "-", "has a property with a value that is not allowed";

    // PUBLISH, and the Will that becomes one
    QosReserved, MALFORMED_PACKET, "MQTT-3.3.1-4", "MQTT3-3.3.1-4", "has QoS 3";
    DupWithQos0, PROTOCOL_ERROR, "MQTT-3.3.1-2", "MQTT3-3.3.1-2", "has DUP set with QoS 0";
    WildcardInTopicName, TOPIC_NAME_INVALID, "MQTT-3.3.2-2", "MQTT3-3.3.2-2", "has a topic name with a wildcard";
    EmptyTopicName, PROTOCOL_ERROR, "5.0 §3.3.2.1", "MQTT3-4.7.3-1", "has neither a topic name nor a topic alias";
    TopicAliasZero, TOPIC_ALIAS_INVALID, "MQTT-3.3.2-8", "-", "has the topic alias 0";
    WildcardInResponseTopic, PROTOCOL_ERROR, "MQTT-3.3.2-14", "-", "has a response topic with a wildcard";

    // CONNECT
    ProtocolName, UNSUPPORTED_PROTOCOL_VERSION, "MQTT-3.1.2-1", "MQTT3-3.1.2-1", "names another protocol";
    UnsupportedVersion, UNSUPPORTED_PROTOCOL_VERSION, "MQTT-3.1.2-2", "MQTT3-3.1.2-2", "has a protocol version that we do not speak";
    ConnectReservedFlag, MALFORMED_PACKET, "MQTT-3.1.2-3", "MQTT3-3.1.2-3", "has the reserved connect flag set";
    WillQosWithoutWill, MALFORMED_PACKET, "MQTT-3.1.2-11", "MQTT3-3.1.2-13", "has a Will QoS and no Will";
    WillQosReserved, MALFORMED_PACKET, "MQTT-3.1.2-12", "MQTT3-3.1.2-14", "has Will QoS 3";
    WillRetainWithoutWill, MALFORMED_PACKET, "MQTT-3.1.2-13", "MQTT3-3.1.2-15", "has Will Retain set and no Will";
    PasswordWithoutUserName, MALFORMED_PACKET, "-", "MQTT3-3.1.2-22", "has a password and no user name";
    EmptyClientId, CLIENT_IDENTIFIER_NOT_VALID, "-", "MQTT3-3.1.3-8", "has no client identifier and wants a lasting session";
    EmptyWillTopic, TOPIC_NAME_INVALID, "MQTT-4.7.3-1", "MQTT3-4.7.3-1", "has a Will without a topic";
    AuthenticationMethodMissing, PROTOCOL_ERROR, "5.0 §3.15.2.2.2", "-", "has authentication data or an exchange without a method";

    // CONNACK
    ConnAckFlags, MALFORMED_PACKET, "MQTT-3.2.2-1", "3.1.1 §3.2.2.1", "has reserved acknowledge flags set";
    SessionPresentWithError, PROTOCOL_ERROR, "MQTT-3.2.2-6", "MQTT3-3.2.2-4", "refuses the connection and has Session Present set";

    // SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK
    EmptySubscribe, PROTOCOL_ERROR, "MQTT-3.8.3-2", "MQTT3-3.8.3-3", "has no topic filter";
    EmptyUnsubscribe, PROTOCOL_ERROR, "MQTT-3.10.3-2", "MQTT3-3.10.3-2", "has no topic filter";
    EmptyTopicFilter, TOPIC_FILTER_INVALID, "MQTT-4.7.3-1", "MQTT3-4.7.3-1", "has an empty topic filter";
    MisplacedHash, TOPIC_FILTER_INVALID, "MQTT-4.7.1-1", "MQTT3-4.7.1-2", "has a topic filter with '#' before its end or beside other characters";
    MisplacedPlus, TOPIC_FILTER_INVALID, "MQTT-4.7.1-2", "MQTT3-4.7.1-3", "has a topic filter with '+' beside other characters";
    ShareName, TOPIC_FILTER_INVALID, "MQTT-4.8.2-1", "-", "has a shared filter that is not '$share/NAME/FILTER'";
    SubscribeReservedBits, MALFORMED_PACKET, "MQTT-3.8.3-5", "MQTT3-3.8.3-4", "has reserved subscription options set";
    SubscribeQosReserved, PROTOCOL_ERROR, "5.0 §3.8.3.1", "MQTT3-3.8.3-4", "asks for QoS 3";
    RetainHandlingReserved, PROTOCOL_ERROR, "5.0 §3.8.3.1", "-", "asks for Retain Handling 3";
    NoLocalOnShared, PROTOCOL_ERROR, "MQTT-3.8.3-4", "-", "sets No Local on a shared subscription";
    EmptyAcknowledgement, PROTOCOL_ERROR, "5.0 §3.9.3", "3.1.1 §3.9.3", "acknowledges no topic filter";
}
