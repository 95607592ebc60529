//! Reason codes: the one number with which MQTT 5.0 says how a request went (§2.4), and its 3.1.1 forms.
//!
//! Knows: every code of MQTT 5.0 §2.4, which packet may carry it, and the return codes of 3.1.1.
//! May use: the standard library. Never: bytes, packets.
//! Invariant: a [`ReasonCode`] is always one that §2.4 names.

use std::fmt;

use crate::packet::PacketType;

/// How a request went (MQTT 5.0 §2.4). Below 0x80 it went well.
///
/// 0x00 has three names (Success, Normal disconnection, Granted QoS 0); they are equal here as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(u8);

macro_rules! reason_codes {
    ($($code:literal $constant:ident $name:literal;)*) => {
        impl ReasonCode {
            $(
                #[doc = concat!($name, ".")]
                pub const $constant: ReasonCode = ReasonCode($code);
            )*

            /// The code with this number; `None` if MQTT 5.0 §2.4 does not name it.
            #[inline]
            pub const fn from_bits(bits: u8) -> Option<ReasonCode> {
                match bits {
                    $($code => Some(ReasonCode::$constant),)*
                    _ => None,
                }
            }

            /// Its name in MQTT 5.0 §2.4; that of 0x00 is "Success".
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => $name,)*
                    _ => "reserved",
                }
            }
        }
    };
}

reason_codes! {
    0x00 SUCCESS "Success";
    0x01 GRANTED_QOS_1 "Granted QoS 1";
    0x02 GRANTED_QOS_2 "Granted QoS 2";
    0x04 DISCONNECT_WITH_WILL_MESSAGE "Disconnect with Will Message";
    0x10 NO_MATCHING_SUBSCRIBERS "No matching subscribers";
    0x11 NO_SUBSCRIPTION_EXISTED "No subscription existed";
    0x18 CONTINUE_AUTHENTICATION "Continue authentication";
    0x19 RE_AUTHENTICATE "Re-authenticate";
    0x80 UNSPECIFIED_ERROR "Unspecified error";
    0x81 MALFORMED_PACKET "Malformed Packet";
    0x82 PROTOCOL_ERROR "Protocol Error";
    0x83 IMPLEMENTATION_SPECIFIC_ERROR "Implementation specific error";
    0x84 UNSUPPORTED_PROTOCOL_VERSION "Unsupported Protocol Version";
    0x85 CLIENT_IDENTIFIER_NOT_VALID "Client Identifier not valid";
    0x86 BAD_USER_NAME_OR_PASSWORD "Bad User Name or Password";
    0x87 NOT_AUTHORIZED "Not authorized";
    0x88 SERVER_UNAVAILABLE "Server unavailable";
    0x89 SERVER_BUSY "Server busy";
    0x8A BANNED "Banned";
    0x8B SERVER_SHUTTING_DOWN "Server shutting down";
    0x8C BAD_AUTHENTICATION_METHOD "Bad authentication method";
    0x8D KEEP_ALIVE_TIMEOUT "Keep Alive timeout";
    0x8E SESSION_TAKEN_OVER "Session taken over";
    0x8F TOPIC_FILTER_INVALID "Topic Filter invalid";
    0x90 TOPIC_NAME_INVALID "Topic Name invalid";
    0x91 PACKET_IDENTIFIER_IN_USE "Packet Identifier in use";
    0x92 PACKET_IDENTIFIER_NOT_FOUND "Packet Identifier not found";
    0x93 RECEIVE_MAXIMUM_EXCEEDED "Receive Maximum exceeded";
    0x94 TOPIC_ALIAS_INVALID "Topic Alias invalid";
    0x95 PACKET_TOO_LARGE "Packet too large";
    0x96 MESSAGE_RATE_TOO_HIGH "Message rate too high";
    0x97 QUOTA_EXCEEDED "Quota exceeded";
    0x98 ADMINISTRATIVE_ACTION "Administrative action";
    0x99 PAYLOAD_FORMAT_INVALID "Payload format invalid";
    0x9A RETAIN_NOT_SUPPORTED "Retain not supported";
    0x9B QOS_NOT_SUPPORTED "QoS not supported";
    0x9C USE_ANOTHER_SERVER "Use another server";
    0x9D SERVER_MOVED "Server moved";
    0x9E SHARED_SUBSCRIPTIONS_NOT_SUPPORTED "Shared Subscriptions not supported";
    0x9F CONNECTION_RATE_EXCEEDED "Connection rate exceeded";
    0xA0 MAXIMUM_CONNECT_TIME "Maximum connect time";
    0xA1 SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED "Subscription Identifiers not supported";
    0xA2 WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// 0x00 under its name in DISCONNECT.
    pub const NORMAL_DISCONNECTION: ReasonCode = ReasonCode::SUCCESS;
    /// 0x00 under its name in SUBACK.
    pub const GRANTED_QOS_0: ReasonCode = ReasonCode::SUCCESS;

    /// The number on the wire.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether it reports a failure (0x80 and above).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// What SUBACK says when a subscription is granted with this QoS.
    #[inline]
    pub const fn granted(qos: model::Qos) -> ReasonCode {
        ReasonCode(qos.bits())
    }

    /// The return code of a 3.1.1 CONNACK that comes closest (3.1.1 §3.2.2.3): 0 to 5.
    ///
    /// 3.1.1 knows no way to say anything else; "server unavailable" (3) stands for whatever has no code,
    /// since it is the one that invites a later attempt.
    pub const fn connect_return_code_v3(self) -> u8 {
        match self {
            Self::SUCCESS => 0,
            Self::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Self::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Self::BAD_USER_NAME_OR_PASSWORD => 4,
            Self::NOT_AUTHORIZED | Self::BANNED | Self::BAD_AUTHENTICATION_METHOD => 5,
            _ => 3,
        }
    }

    /// The meaning of a 3.1.1 CONNACK return code; `None` above 5, which is reserved (3.1.1 §3.2.2.3).
    pub const fn from_connect_return_code_v3(code: u8) -> Option<ReasonCode> {
        Some(match code {
            0 => Self::SUCCESS,
            1 => Self::UNSUPPORTED_PROTOCOL_VERSION,
            2 => Self::CLIENT_IDENTIFIER_NOT_VALID,
            3 => Self::SERVER_UNAVAILABLE,
            4 => Self::BAD_USER_NAME_OR_PASSWORD,
            5 => Self::NOT_AUTHORIZED,
            _ => return None,
        })
    }

    /// Whether a packet of this type may carry the code (the last column of MQTT 5.0 §2.4).
    pub const fn is_allowed_in(self, packet: PacketType) -> bool {
        match packet {
            // [MQTT-3.2.2-8]
            PacketType::ConnAck => matches!(
                self.0,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            // [MQTT-3.4.2-1], [MQTT-3.5.2-1]
            PacketType::PubAck | PacketType::PubRec => {
                matches!(self.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            // [MQTT-3.6.2-1], [MQTT-3.7.2-1]
            PacketType::PubRel | PacketType::PubComp => matches!(self.0, 0x00 | 0x92),
            // [MQTT-3.9.3-2]
            PacketType::SubAck => {
                matches!(self.0, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            // [MQTT-3.11.3-2]
            PacketType::UnsubAck => matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            // [MQTT-3.14.2-1]
            PacketType::Disconnect => matches!(
                self.0,
                0x00 | 0x04
                    | 0x80..=0x83
                    | 0x87
                    | 0x89
                    | 0x8B..=0x90
                    | 0x93..=0xA2
            ),
            // [MQTT-3.15.2-1]
            PacketType::Auth => matches!(self.0, 0x00 | 0x18 | 0x19),
            _ => false,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.0)
    }
}
