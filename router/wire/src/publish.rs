//! PUBLISH (MQTT 5.0 §3.3): the hot path, both ways.
//!
//! Knows: the layout of PUBLISH in 3.1.1 and 5.0, and how one encoding serves many subscribers.
//! May use: `model`, `properties`, `text`, `varint`. Never: allocation (beyond the caller's own buffer), copies of
//! the payload other than into that buffer, or ntex.
//! Invariant: what [`encode_publish`] writes, `decode` reads back the same.

use std::num::{NonZeroU16, NonZeroU32};

use model::Qos;

use crate::frames::Frame;
use crate::malformed::Rule;
use crate::packet::{Unencodable, Version};
use crate::properties::{self, PublishProperties, Walk, id};
use crate::text::{Reader, contains_null_or_wildcard};
use crate::varint::{self, VARINT_MAX};

/// A PUBLISH as it was read, borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'t> {
    /// Sent before, perhaps (§3.3.1.1). Never set with QoS 0.
    pub dup: bool,
    /// The QoS of this hop.
    pub qos: Qos,
    /// Keep it for later subscribers, or: it was kept (§3.3.1.3).
    pub retain: bool,
    /// Present exactly if the QoS is above 0 [MQTT-2.2.1-2].
    pub packet_id: Option<NonZeroU16>,
    /// A valid topic name; empty exactly if a topic alias stands for it (5.0 only).
    pub topic: &'t str,
    /// None in 3.1.1.
    pub properties: PublishProperties<'t>,
    /// The message itself; may be empty.
    pub payload: &'t [u8],
}

#[inline]
pub(crate) fn decode<'t>(frame: Frame<'t>, version: Version) -> Result<Publish<'t>, Rule> {
    let header = frame.header();
    let mut reader = Reader::new(frame.body());
    // [MQTT-3.3.2-1] [MQTT3-3.3.2-1]
    let topic = reader.utf8()?;
    if contains_null_or_wildcard(topic) {
        return Err(illegal_topic(topic));
    }
    // `split` lets no QoS 3 pass; were it otherwise, this is where it would end [MQTT-3.3.1-4].
    let qos = Qos::from_bits(header >> 1 & 0b11).ok_or(Rule::QosReserved)?;
    // [MQTT-2.2.1-2] [MQTT3-2.3.1-5]: no packet identifier with QoS 0.
    let packet_id = if qos == Qos::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let properties = match version {
        Version::V3 => PublishProperties::NONE,
        Version::V5 => PublishProperties::decode(properties::take_block(&mut reader)?)?,
    };
    if topic.is_empty() && properties.topic_alias().is_none() {
        return Err(Rule::EmptyTopicName);
    }
    Ok(Publish {
        dup: header & 0b1000 != 0,
        qos,
        retain: header & 0b0001 != 0,
        packet_id,
        topic,
        properties,
        payload: reader.rest(),
    })
}

#[cold]
fn illegal_topic(topic: &str) -> Rule {
    match model::validate_name(topic) {
        Err(model::InvalidTopic::Null) => Rule::NullCharacter,
        _ => Rule::WildcardInTopicName,
    }
}

/// A PUBLISH to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutgoingPublish<'t> {
    /// Sent before, perhaps. Ignored with QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// The QoS of this hop.
    pub qos: Qos,
    /// The RETAIN flag of this hop.
    pub retain: bool,
    /// Ignored with QoS 0; with a higher QoS, `None` writes 0 as a place to patch ([`Placed::patch`]).
    pub packet_id: Option<NonZeroU16>,
    /// A valid topic name, or empty if `topic_alias` stands for it.
    pub topic: &'t str,
    /// 5.0: a topic alias that the receiver has agreed to.
    pub topic_alias: Option<NonZeroU16>,
    /// 5.0: what remains of the message's life, in seconds [MQTT-3.3.2-6].
    pub expiry_secs: Option<u32>,
    /// 5.0: the subscriptions it matched, each 1 to 268 435 455; those outside are left out.
    pub subscription_ids: &'t [u32],
    /// 5.0: a block that `decode` or `PublishProperties::from_block` has accepted ([`PublishProperties::block`]).
    ///
    /// It is passed on in order and unchanged, but for topic alias, expiry and subscription identifiers, which
    /// belong to the hop it came by and are left out.
    pub properties: &'t [u8],
    /// The message itself.
    pub payload: &'t [u8],
}

/// What [`encode_publish`] has appended, so that one encoding can be sent to many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Bytes appended. With [`encode_publish_head`] the payload is not among them.
    pub len: usize,
    /// Where the packet identifier is, counted from the start of the packet; `None` with QoS 0.
    pub packet_id_at: Option<usize>,
}

impl Placed {
    /// Writes another packet identifier into a copy of the packet. Does nothing with QoS 0.
    ///
    /// `packet` starts with the first byte of the packet.
    #[inline]
    pub fn patch(&self, packet: &mut [u8], packet_id: NonZeroU16) {
        if let Some(at) = self.packet_id_at
            && let Some(bytes) = packet.get_mut(at..at + 2)
        {
            bytes.copy_from_slice(&packet_id.get().to_be_bytes());
        }
    }
}

/// Sets the DUP flag in an encoded PUBLISH with a QoS above 0 [MQTT-3.3.1-1]; leaves QoS 0 as it is.
#[inline]
pub fn set_dup(packet: &mut [u8]) {
    if let Some(header) = packet.first_mut()
        && *header & 0b0110 != 0
    {
        *header |= 0b1000;
    }
}

/// Appends a PUBLISH to `out`.
///
/// For a fan-out, encode once per class (version, QoS, RETAIN, subscription identifiers, alias), copy the bytes
/// for each subscriber and [`Placed::patch`] its packet identifier in.
/// Fails, with `out` as it was, if topic or packet are longer than MQTT can say. The receiver's Maximum Packet
/// Size is the caller's business: compare it with [`Placed::len`] [MQTT-3.1.2-24].
#[inline]
pub fn encode_publish(
    out: &mut Vec<u8>,
    version: Version,
    publish: &OutgoingPublish<'_>,
) -> Result<Placed, Unencodable> {
    let mut placed = encode_publish_head(out, version, publish)?;
    out.extend_from_slice(publish.payload);
    placed.len += publish.payload.len();
    Ok(placed)
}

/// Appends a PUBLISH without its payload, but with its length counted in: for gathered writes that send one
/// payload to many. Otherwise like [`encode_publish`].
#[inline]
pub fn encode_publish_head(
    out: &mut Vec<u8>,
    version: Version,
    publish: &OutgoingPublish<'_>,
) -> Result<Placed, Unencodable> {
    let has_id = publish.qos != Qos::AtMostOnce;
    let block_len = match version {
        Version::V3 => 0,
        Version::V5 => block_len(publish),
    };
    if publish.topic.len() > usize::from(u16::MAX) || block_len > VARINT_MAX as usize {
        return Err(Unencodable::TooLong);
    }
    let properties_len = match version {
        Version::V3 => 0,
        Version::V5 => varint::len(block_len as u32) + block_len,
    };
    let head_len = 2 + publish.topic.len() + 2 * usize::from(has_id) + properties_len;
    let remaining = head_len + publish.payload.len();
    if remaining > VARINT_MAX as usize {
        return Err(Unencodable::TooLong);
    }

    let start = out.len();
    out.reserve(5 + remaining);
    out.push(
        0x30 | u8::from(publish.dup && has_id) << 3 | publish.qos.bits() << 1 | u8::from(publish.retain),
    );
    varint::write(out, remaining as u32);
    out.extend_from_slice(&(publish.topic.len() as u16).to_be_bytes());
    out.extend_from_slice(publish.topic.as_bytes());
    let packet_id_at = has_id.then_some(out.len() - start);
    if has_id {
        out.extend_from_slice(&publish.packet_id.map_or(0, NonZeroU16::get).to_be_bytes());
    }
    if version == Version::V5 {
        varint::write(out, block_len as u32);
        if block_len > 0 {
            write_block(out, publish);
        }
    }
    Ok(Placed { len: out.len() - start, packet_id_at })
}

/// What belongs to the hop a message came by and is never passed on.
#[inline]
const fn belongs_to_the_hop(property: u8) -> bool {
    matches!(property, id::TOPIC_ALIAS | id::MESSAGE_EXPIRY | id::SUBSCRIPTION_ID)
}

#[inline]
fn valid_subscription_ids<'t>(publish: &OutgoingPublish<'t>) -> impl Iterator<Item = u32> + use<'t> {
    publish.subscription_ids.iter().copied().filter(|&id| NonZeroU32::new(id).is_some() && id <= VARINT_MAX)
}

#[inline]
fn block_len(publish: &OutgoingPublish<'_>) -> usize {
    let mut len =
        3 * usize::from(publish.topic_alias.is_some()) + 5 * usize::from(publish.expiry_secs.is_some());
    for id in valid_subscription_ids(publish) {
        len += 1 + varint::len(id);
    }
    let mut walk = Walk::new(publish.properties);
    while let Some((property, bytes)) = walk.next_raw() {
        if !belongs_to_the_hop(property) {
            len += bytes.len();
        }
    }
    len
}

fn write_block(out: &mut Vec<u8>, publish: &OutgoingPublish<'_>) {
    if let Some(alias) = publish.topic_alias {
        out.push(id::TOPIC_ALIAS);
        out.extend_from_slice(&alias.get().to_be_bytes());
    }
    if let Some(expiry) = publish.expiry_secs {
        out.push(id::MESSAGE_EXPIRY);
        out.extend_from_slice(&expiry.to_be_bytes());
    }
    for id in valid_subscription_ids(publish) {
        out.push(id::SUBSCRIPTION_ID);
        varint::write(out, id);
    }
    // Unaltered and in order:
    // [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20].
    let mut walk = Walk::new(publish.properties);
    while let Some((property, bytes)) = walk.next_raw() {
        if !belongs_to_the_hop(property) {
            out.extend_from_slice(bytes);
        }
    }
}
