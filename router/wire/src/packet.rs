//! The face of the room: versions, packet types, and the one function that turns a frame into a packet.
//!
//! Knows: which decoder reads which packet. May use: every other file of the room. Never: state between packets;
//! what is legal *now* is the session's business.
//! In: a frame and the version of its connection. Out: a packet, borrowed where it is hot, owned where it is not.

use std::fmt;

use crate::acks::{self, Ack};
use crate::connect::{self, ConnAck, Connect};
use crate::disconnect::{self, Auth, Disconnect};
use crate::frames::Frame;
use crate::malformed::{Malformed, Rule};
use crate::publish::{self, Publish};
use crate::subscribe::{self, SubAck, Subscribe, UnsubAck, Unsubscribe};

/// The protocol of a connection. MQTT 3.1 (level 3) is refused, see [`Malformed::refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1.1, level 4.
    V3,
    /// MQTT 5.0, level 5.
    V5,
}

impl Version {
    /// The protocol level in CONNECT.
    pub const fn level(self) -> u8 {
        match self {
            Version::V3 => 4,
            Version::V5 => 5,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V3 => "3.1.1",
            Version::V5 => "5.0",
        })
    }
}

/// The type of a packet, with its number on the wire (MQTT 5.0 §2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type in the upper half of a packet's first byte; `None` for the reserved 0.
    #[inline]
    pub const fn from_header(header: u8) -> Option<PacketType> {
        Some(match header >> 4 {
            1 => PacketType::Connect,
            2 => PacketType::ConnAck,
            3 => PacketType::Publish,
            4 => PacketType::PubAck,
            5 => PacketType::PubRec,
            6 => PacketType::PubRel,
            7 => PacketType::PubComp,
            8 => PacketType::Subscribe,
            9 => PacketType::SubAck,
            10 => PacketType::Unsubscribe,
            11 => PacketType::UnsubAck,
            12 => PacketType::PingReq,
            13 => PacketType::PingResp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }

    /// The name in the standard, in capitals.
    pub const fn name(self) -> &'static str {
        match self {
            PacketType::Connect => "CONNECT",
            PacketType::ConnAck => "CONNACK",
            PacketType::Publish => "PUBLISH",
            PacketType::PubAck => "PUBACK",
            PacketType::PubRec => "PUBREC",
            PacketType::PubRel => "PUBREL",
            PacketType::PubComp => "PUBCOMP",
            PacketType::Subscribe => "SUBSCRIBE",
            PacketType::SubAck => "SUBACK",
            PacketType::Unsubscribe => "UNSUBSCRIBE",
            PacketType::UnsubAck => "UNSUBACK",
            PacketType::PingReq => "PINGREQ",
            PacketType::PingResp => "PINGRESP",
            PacketType::Disconnect => "DISCONNECT",
            PacketType::Auth => "AUTH",
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One packet. What every message costs is borrowed from the frame; what a session costs is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Packet<'t> {
    Publish(Publish<'t>),
    PubAck(Ack<'t>),
    PubRec(Ack<'t>),
    PubRel(Ack<'t>),
    PubComp(Ack<'t>),
    PingReq,
    PingResp,
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Subscribe(Box<Subscribe>),
    SubAck(Box<SubAck>),
    Unsubscribe(Box<Unsubscribe>),
    UnsubAck(Box<UnsubAck>),
    Disconnect(Box<Disconnect>),
    Auth(Box<Auth>),
}

impl Packet<'_> {
    /// The type of the packet.
    #[inline]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Publish(_) => PacketType::Publish,
            Packet::PubAck(_) => PacketType::PubAck,
            Packet::PubRec(_) => PacketType::PubRec,
            Packet::PubRel(_) => PacketType::PubRel,
            Packet::PubComp(_) => PacketType::PubComp,
            Packet::PingReq => PacketType::PingReq,
            Packet::PingResp => PacketType::PingResp,
            Packet::Connect(_) => PacketType::Connect,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

/// The same as [`decode`], where it need not be fast: not inlined, so that the fast place is.
#[inline(never)]
pub fn decode_apart(frame: Frame<'_>, version: Version) -> Result<Packet<'_>, Malformed> {
    decode(frame, version)
}

/// Reads the packet in `frame`, all rules of the standard that one packet alone can break included.
///
/// A CONNECT says its version itself; `version` is ignored then. Rules between packets (a second CONNECT, a packet
/// that only the other side may send, an identifier in use, an alias never set) are not looked at.
/// Cost: PUBLISH, its acknowledgements and pings allocate nothing.
#[inline]
pub fn decode<'t>(frame: Frame<'t>, version: Version) -> Result<Packet<'t>, Malformed> {
    // [MQTT-1.5.5-1]; 3.1.1 does not ask for it. CONNECT looks itself, once it knows its version.
    if version == Version::V5 && !frame.is_minimal() && frame.packet_type() != Some(PacketType::Connect) {
        return Err(fail(frame, version, Rule::VarintNotMinimal));
    }
    // Each arm returns by itself: where they meet, the compiler would move the packet through memory twice.
    match frame.packet_type() {
        Some(PacketType::Publish) => {
            return match publish::decode(frame, version) {
                Ok(publish) => Ok(Packet::Publish(publish)),
                Err(rule) => Err(fail(frame, version, rule)),
            };
        }
        Some(PacketType::PubAck) => {
            if let Some(ack) = acks::decode_short(frame.body()) {
                return Ok(Packet::PubAck(ack));
            }
        }
        Some(PacketType::PubRec) => {
            if let Some(ack) = acks::decode_short(frame.body()) {
                return Ok(Packet::PubRec(ack));
            }
        }
        Some(PacketType::PubRel) => {
            if let Some(ack) = acks::decode_short(frame.body()) {
                return Ok(Packet::PubRel(ack));
            }
        }
        Some(PacketType::PubComp) => {
            if let Some(ack) = acks::decode_short(frame.body()) {
                return Ok(Packet::PubComp(ack));
            }
        }
        _ => {}
    }
    decode_rare(frame, version)
}

#[cold]
fn fail(frame: Frame<'_>, version: Version, rule: Rule) -> Malformed {
    Malformed { packet: frame.packet_type(), version: Some(version), rule }
}

#[inline(never)]
fn decode_rare<'t>(frame: Frame<'t>, version: Version) -> Result<Packet<'t>, Malformed> {
    let body = frame.body();
    match frame.packet_type() {
        Some(PacketType::PubAck) => acks::decode(body, version, PacketType::PubAck).map(Packet::PubAck),
        Some(PacketType::PubRec) => acks::decode(body, version, PacketType::PubRec).map(Packet::PubRec),
        Some(PacketType::PubRel) => acks::decode(body, version, PacketType::PubRel).map(Packet::PubRel),
        Some(PacketType::PubComp) => acks::decode(body, version, PacketType::PubComp).map(Packet::PubComp),
        Some(PacketType::PingReq) => empty(frame).map(|()| Packet::PingReq),
        Some(PacketType::PingResp) => empty(frame).map(|()| Packet::PingResp),
        Some(PacketType::Connect) => {
            return match connect::decode(frame) {
                Ok(connect) => Ok(Packet::Connect(Box::new(connect))),
                Err((version, rule)) => Err(Malformed { packet: frame.packet_type(), version, rule }),
            };
        }
        Some(PacketType::ConnAck) => {
            connect::decode_connack(frame, version).map(|it| Packet::ConnAck(Box::new(it)))
        }
        Some(PacketType::Subscribe) => {
            subscribe::decode(frame, version).map(|it| Packet::Subscribe(Box::new(it)))
        }
        Some(PacketType::SubAck) => {
            subscribe::decode_suback(frame, version).map(|it| Packet::SubAck(Box::new(it)))
        }
        Some(PacketType::Unsubscribe) => {
            subscribe::decode_unsubscribe(frame, version).map(|it| Packet::Unsubscribe(Box::new(it)))
        }
        Some(PacketType::UnsubAck) => {
            subscribe::decode_unsuback(frame, version).map(|it| Packet::UnsubAck(Box::new(it)))
        }
        Some(PacketType::Disconnect) => {
            disconnect::decode(frame, version).map(|it| Packet::Disconnect(Box::new(it)))
        }
        Some(PacketType::Auth) => {
            disconnect::decode_auth(frame, version).map(|it| Packet::Auth(Box::new(it)))
        }
        // The reserved type 0, which `split` lets not pass, and the type that `decode` reads itself.
        None | Some(PacketType::Publish) => Err(Rule::ReservedPacketType),
    }
    .map_err(|rule| fail(frame, version, rule))
}

fn empty(frame: Frame<'_>) -> Result<(), Rule> {
    if frame.body().is_empty() { Ok(()) } else { Err(Rule::TrailingBytes) }
}

/// Why a packet cannot be written. Always a mistake of the caller; nothing has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unencodable {
    /// A string above 65 535 bytes, or a packet above 268 435 455.
    #[error("a string or the packet is longer than MQTT can say")]
    TooLong,
    /// A reason code that this packet may not carry ([`crate::ReasonCode::is_allowed_in`]).
    #[error("the packet may not carry this reason code")]
    ReasonCode,
    /// There is no such packet, or no such combination of fields, in this version of MQTT.
    #[error("this version of MQTT has no way to say it")]
    NotInThisVersion,
    /// A block of properties that [`crate::PublishProperties::from_block`] would not accept.
    #[error("the block of properties is broken")]
    Properties,
    /// A field that must not be empty or 0 is: no topic filter, no reason code, a Will that expires at once.
    #[error("a field that must not be empty or 0 is")]
    Empty,
}
