//! PUBACK, PUBREC, PUBREL, PUBCOMP, PINGREQ, PINGRESP (MQTT 5.0 §3.4 to §3.7, §3.12, §3.13): hot path.
//!
//! Knows: the one layout that the four acknowledgements share. May use: `properties`, `text`, `reason`.
//! Never: allocation beyond the caller's buffer, ntex.

use std::num::NonZeroU16;

use crate::malformed::Rule;
use crate::packet::{PacketType, Version};
use crate::properties::{self, Carrier, UserProperties, Walk, id};
use crate::reason::ReasonCode;
use crate::text::Reader;
use crate::varint;

/// A PUBACK, PUBREC, PUBREL or PUBCOMP as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'t> {
    /// Never 0.
    pub packet_id: NonZeroU16,
    /// One that the packet may carry; always [`ReasonCode::SUCCESS`] in 3.1.1.
    pub reason: ReasonCode,
    block: &'t [u8],
}

impl<'t> Ack<'t> {
    /// An acknowledgement without properties.
    pub const fn new(packet_id: NonZeroU16, reason: ReasonCode) -> Ack<'static> {
        Ack { packet_id, reason, block: &[] }
    }

    /// Reason String, for a person.
    pub fn reason_string(&self) -> Option<&'t str> {
        Walk::new(self.block).find(id::REASON_STRING).map(properties::Value::text)
    }

    /// User properties, in order.
    pub fn user_properties(&self) -> UserProperties<'t> {
        UserProperties::new(self.block)
    }
}

/// Which of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    /// The type of the packet.
    #[inline]
    pub const fn packet_type(self) -> PacketType {
        match self {
            AckKind::PubAck => PacketType::PubAck,
            AckKind::PubRec => PacketType::PubRec,
            AckKind::PubRel => PacketType::PubRel,
            AckKind::PubComp => PacketType::PubComp,
        }
    }

    #[inline]
    const fn header(self) -> u8 {
        match self {
            AckKind::PubAck => 0x40,
            AckKind::PubRec => 0x50,
            AckKind::PubRel => 0x62, // [MQTT-3.6.1-1] [MQTT3-3.6.1-1]
            AckKind::PubComp => 0x70,
        }
    }
}

/// Reads the form that nearly all acknowledgements have: a packet identifier and nothing else, which is
/// Success (5.0 §3.4.2.1).
///
/// `None` for any other, legal or not; [`decode`] knows.
#[inline]
pub(crate) fn decode_short(body: &[u8]) -> Option<Ack<'static>> {
    let id = <[u8; 2]>::try_from(body).ok()?;
    Some(Ack::new(NonZeroU16::new(u16::from_be_bytes(id))?, ReasonCode::SUCCESS))
}

pub(crate) fn decode(body: &[u8], version: Version, packet: PacketType) -> Result<Ack<'_>, Rule> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    if reader.is_empty() {
        return Ok(Ack::new(packet_id, ReasonCode::SUCCESS));
    }
    // 3.1.1 has no reason codes.
    if version == Version::V3 {
        return Err(Rule::TrailingBytes);
    }
    // [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
    let reason = ReasonCode::from_bits(reader.byte()?)
        .filter(|reason| reason.is_allowed_in(packet))
        .ok_or(Rule::ReasonCodeNotAllowed)?;
    // 5.0 §3.4.2.2.1: with nothing after the reason code there are no properties.
    if reader.is_empty() {
        return Ok(Ack::new(packet_id, reason));
    }
    let block = properties::take_block(&mut reader)?;
    reader.finish()?;
    properties::check(block, Carrier::packet(packet), |_, _| Ok(()))?;
    Ok(Ack { packet_id, reason, block })
}

/// Appends an acknowledgement, in its shortest form. 3.1.1 has no reason codes: `reason` is left out there.
///
/// A reason that the packet may not carry is a mistake of the caller ([`ReasonCode::is_allowed_in`]).
#[inline]
pub fn encode_ack(
    out: &mut Vec<u8>,
    version: Version,
    kind: AckKind,
    packet_id: NonZeroU16,
    reason: ReasonCode,
) {
    debug_assert!(reason == ReasonCode::SUCCESS || reason.is_allowed_in(kind.packet_type()));
    let [high, low] = packet_id.get().to_be_bytes();
    if version == Version::V3 || reason == ReasonCode::SUCCESS {
        out.extend_from_slice(&[kind.header(), 2, high, low]);
    } else {
        out.extend_from_slice(&[kind.header(), 3, high, low, reason.bits()]);
    }
}

/// Appends an acknowledgement that says why not, for a program and, unless `words` is empty, for a person (5.0 §3.4.2.2.2).
///
/// 3.1.1 has no way to say so: not for it. `words` are short: what is behind the first 16 000 bytes is left out.
pub fn encode_refusal(
    out: &mut Vec<u8>,
    kind: AckKind,
    packet_id: NonZeroU16,
    reason: ReasonCode,
    words: &str,
) {
    if words.is_empty() {
        return encode_ack(out, Version::V5, kind, packet_id, reason);
    }
    debug_assert!(reason.is_allowed_in(kind.packet_type()));
    let words = &words[..words.floor_char_boundary(16_000)];
    let properties_len = 3 + words.len() as u32;
    let body_len = 3 + varint::len(properties_len) as u32 + properties_len;
    out.push(kind.header());
    varint::write(out, body_len);
    out.extend_from_slice(&packet_id.get().to_be_bytes());
    out.push(reason.bits());
    varint::write(out, properties_len);
    out.push(id::REASON_STRING);
    out.extend_from_slice(&(words.len() as u16).to_be_bytes());
    out.extend_from_slice(words.as_bytes());
}

/// Appends a PINGREQ.
#[inline]
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends a PINGRESP.
#[inline]
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}
