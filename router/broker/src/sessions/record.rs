//! What is kept of a session on disk, as keys and values, and a message in a session's lane, as bytes.
//!
//! Session, under the client identifier, version 2: `u8` version · `u32` lane · `u32` expiry seconds · `u64` disconnected
//! at (wall milliseconds) · `u64` sent before (all ones while connected) · `u8` flags (1 there is an owner, 2 a certificate
//! named it, 4 there is a will, 8 the edge knows it as an identity) · the owner: `u32` length · user name · the will: `u64` due at (wall milliseconds; all ones
//! while connected) · `u32` delay seconds · `u8` QoS and flags · `u32` expiry seconds · `u16` topic length · topic ·
//! `u32` properties length · properties · payload.
//! Subscription, under client identifier, 0, filter: `u8` QoS and flags · `u32` identifier.
//! Received QoS 2 identifier, under client identifier, 0, `u16` big endian: nothing.
//! Mark of a sent QoS 2 message, under client identifier, 0, `u64` place big endian: `u8` (0 released, 1 completed).
//! Message: `u8` QoS and flags · `u8` identifiers, each `u32` · if it was shared `u16` length and name of the group ·
//! envelope (see [`crate::envelope`]).
//! Little endian but for keys. No client identifier holds a 0 [MQTT-1.5.4-2], so that keys of two never meet.

use std::num::NonZeroU16;

use model::{LaneId, Qos, Seq, Timestamp};

use super::{Mark, SubscriptionOptions, Vouched};
use crate::connections::Will;

const VERSION: u8 = 2;
const CONNECTED: u64 = u64::MAX;
const NO_LOCAL: u8 = 0b0100;
const RETAIN_AS_PUBLISHED: u8 = 0b1000;
const RETAIN: u8 = 0b0100;
const SHARED: u8 = 0b1_0000;
const OWNED: u8 = 0b001;
const OWNED_BY_CERTIFICATE: u8 = 0b010;
const WILL: u8 = 0b100;
const OWNED_BY_IDENTITY: u8 = 0b1000;
const EXPIRES: u8 = 0b1000;
const MARK_RELEASED: u8 = 0;
const MARK_COMPLETED: u8 = 1;

/// What survives of a session besides what has a key of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    /// Its lane.
    pub(crate) lane: LaneId,
    /// See [`super::Session`].
    pub(crate) expiry_secs: u32,
    /// When its last connection ended; when it was written, if that has not ended.
    pub(crate) disconnected_at: Timestamp,
    /// Records before this place had been sent when the connection ended; `None`: it had not ended.
    pub(crate) sent_before: Option<Seq>,
    /// The user it belongs to, and who says that there is one.
    pub(crate) owner: Option<(Box<str>, Vouched)>,
    /// Its will, and when it is due if the connection had ended.
    pub(crate) will: Option<(Will, Option<Timestamp>)>,
}

/// The bytes are nothing that this version understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session of record version 2 (damaged, or written by another version of Millrace)")]
pub struct InvalidRecord;

/// The parts of a session's record, borrowed, so that nothing is copied twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionParts<'a> {
    pub(crate) lane: LaneId,
    pub(crate) expiry_secs: u32,
    pub(crate) disconnected_at: Timestamp,
    pub(crate) sent_before: Option<Seq>,
    pub(crate) owner: Option<(&'a str, Vouched)>,
    pub(crate) will: Option<(&'a Will, Option<Timestamp>)>,
}

/// Appends a session's record to `out`.
pub(crate) fn encode_session(out: &mut Vec<u8>, parts: SessionParts<'_>) {
    out.push(VERSION);
    out.extend_from_slice(&parts.lane.0.to_le_bytes());
    out.extend_from_slice(&parts.expiry_secs.to_le_bytes());
    out.extend_from_slice(&parts.disconnected_at.0.to_le_bytes());
    out.extend_from_slice(&parts.sent_before.map_or(CONNECTED, Seq::get).to_le_bytes());
    let vouched = parts.owner.map(|(_, vouched)| vouched);
    let flags = [
        (parts.owner.is_some(), OWNED),
        (vouched == Some(Vouched::Certificate), OWNED_BY_CERTIFICATE),
        (vouched == Some(Vouched::Edge), OWNED_BY_IDENTITY),
        (parts.will.is_some(), WILL),
    ];
    out.push(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag));
    if let Some((owner, _)) = parts.owner {
        out.extend_from_slice(&(owner.len() as u32).to_le_bytes());
        out.extend_from_slice(owner.as_bytes());
    }
    let Some((will, due_at)) = parts.will else { return };
    let retain = if will.retain { RETAIN } else { 0 };
    let expires = if will.expiry_secs.is_some() { EXPIRES } else { 0 };
    out.extend_from_slice(&due_at.map_or(CONNECTED, |at| at.0).to_le_bytes());
    out.extend_from_slice(&will.delay_secs.to_le_bytes());
    out.push(will.qos.bits() | retain | expires);
    out.extend_from_slice(&will.expiry_secs.unwrap_or_default().to_le_bytes());
    out.extend_from_slice(&(will.topic.len() as u16).to_le_bytes());
    out.extend_from_slice(will.topic.as_bytes());
    out.extend_from_slice(&(will.properties.len() as u32).to_le_bytes());
    out.extend_from_slice(&will.properties);
    out.extend_from_slice(&will.payload);
}

/// Reads a session's record.
pub(crate) fn decode_session(bytes: &[u8]) -> Result<SessionRecord, InvalidRecord> {
    let mut reader = Reader(bytes);
    if reader.u8()? != VERSION {
        return Err(InvalidRecord);
    }
    let lane = LaneId(reader.u32()?);
    let expiry_secs = reader.u32()?;
    let disconnected_at = Timestamp(reader.u64()?);
    let sent_before = match reader.u64()? {
        CONNECTED => None,
        number => Some(Seq::new(number).ok_or(InvalidRecord)?),
    };
    let flags = reader.u8()?;
    let owner = match flags & OWNED {
        0 => None,
        _ => {
            let len = reader.u32()? as usize;
            let user = std::str::from_utf8(reader.take(len)?).map_err(|_| InvalidRecord)?;
            let vouched = match (flags & OWNED_BY_CERTIFICATE, flags & OWNED_BY_IDENTITY) {
                (0, 0) => Vouched::Users,
                (_, 0) => Vouched::Certificate,
                (0, _) => Vouched::Edge,
                _ => return Err(InvalidRecord),
            };
            Some((user.into(), vouched))
        }
    };
    let will = match flags & WILL {
        0 if reader.0.is_empty() => None,
        0 => return Err(InvalidRecord),
        _ => Some(decode_will(reader)?),
    };
    Ok(SessionRecord { lane, expiry_secs, disconnected_at, sent_before, owner, will })
}

/// Reads a will, which is the rest of a record.
fn decode_will(mut reader: Reader<'_>) -> Result<(Will, Option<Timestamp>), InvalidRecord> {
    let due_at = match reader.u64()? {
        CONNECTED => None,
        millis => Some(Timestamp(millis)),
    };
    let delay_secs = reader.u32()?;
    let flags = reader.u8()?;
    let expiry_secs = reader.u32()?;
    let topic_len = usize::from(reader.u16()?);
    let topic = std::str::from_utf8(reader.take(topic_len)?).map_err(|_| InvalidRecord)?;
    let properties_len = reader.u32()? as usize;
    let properties = reader.take(properties_len)?;
    let will = Will {
        topic: topic.into(),
        payload: reader.0.into(),
        qos: Qos::from_bits(flags & 0b11).ok_or(InvalidRecord)?,
        retain: flags & RETAIN != 0,
        delay_secs,
        expiry_secs: (flags & EXPIRES != 0).then_some(expiry_secs),
        properties: properties.into(),
    };
    Ok((will, due_at))
}

/// Appends the key of a subscription.
pub(crate) fn subscription_key(out: &mut Vec<u8>, client_id: &str, filter: &str) {
    out.extend_from_slice(client_id.as_bytes());
    out.push(0);
    out.extend_from_slice(filter.as_bytes());
}

/// Appends the key of a received QoS 2 identifier.
pub(crate) fn received_key(out: &mut Vec<u8>, client_id: &str, packet_id: NonZeroU16) {
    out.extend_from_slice(client_id.as_bytes());
    out.push(0);
    out.extend_from_slice(&packet_id.get().to_be_bytes());
}

/// Appends the key of a mark.
pub(crate) fn mark_key(out: &mut Vec<u8>, client_id: &str, seq: Seq) {
    out.extend_from_slice(client_id.as_bytes());
    out.push(0);
    out.extend_from_slice(&seq.get().to_be_bytes());
}

/// The client identifier in such a key, and what stands behind it.
pub(crate) fn split_key(key: &[u8]) -> Result<(&str, &[u8]), InvalidRecord> {
    let at = key.iter().position(|byte| *byte == 0).ok_or(InvalidRecord)?;
    let client_id = std::str::from_utf8(&key[..at]).map_err(|_| InvalidRecord)?;
    Ok((client_id, &key[at + 1..]))
}

/// Appends the value of a subscription.
pub(crate) fn encode_subscription(out: &mut Vec<u8>, options: &SubscriptionOptions) {
    let no_local = if options.no_local { NO_LOCAL } else { 0 };
    let retain = if options.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 };
    out.push(options.qos.bits() | no_local | retain);
    out.extend_from_slice(&options.subscription_id.to_le_bytes());
}

/// Reads the value of a subscription.
pub(crate) fn decode_subscription(bytes: &[u8]) -> Result<SubscriptionOptions, InvalidRecord> {
    let mut reader = Reader(bytes);
    let flags = reader.u8()?;
    let subscription_id = reader.u32()?;
    if !reader.0.is_empty() {
        return Err(InvalidRecord);
    }
    Ok(SubscriptionOptions {
        qos: Qos::from_bits(flags & 0b11).ok_or(InvalidRecord)?,
        no_local: flags & NO_LOCAL != 0,
        retain_as_published: flags & RETAIN_AS_PUBLISHED != 0,
        subscription_id,
    })
}

/// The value of a mark; `None` for what is not written.
pub(crate) const fn encode_mark(mark: Mark) -> Option<u8> {
    match mark {
        Mark::Released => Some(MARK_RELEASED),
        Mark::Completed => Some(MARK_COMPLETED),
        Mark::Settled => None,
    }
}

/// Reads the value of a mark.
pub(crate) fn decode_mark(bytes: &[u8]) -> Result<Mark, InvalidRecord> {
    match bytes {
        [MARK_RELEASED] => Ok(Mark::Released),
        [MARK_COMPLETED] => Ok(Mark::Completed),
        _ => Err(InvalidRecord),
    }
}

/// Appends the head of a message record; the envelope follows.
pub(crate) fn encode_head(out: &mut Vec<u8>, qos: Qos, retain: bool, subscription_ids: &[u32], share: &str) {
    let ids = &subscription_ids[..subscription_ids.len().min(255)];
    let shared = if share.is_empty() { 0 } else { SHARED };
    out.push(qos.bits() | if retain { RETAIN } else { 0 } | shared);
    out.push(ids.len() as u8);
    for id in ids {
        out.extend_from_slice(&id.to_le_bytes());
    }
    if !share.is_empty() {
        out.extend_from_slice(&(share.len() as u16).to_le_bytes());
        out.extend_from_slice(share.as_bytes());
    }
}

/// The head of a message record, and the envelope behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageHead<'a> {
    /// QoS to deliver with.
    pub(crate) qos: Qos,
    /// RETAIN flag to deliver with.
    pub(crate) retain: bool,
    /// Subscription identifiers, each four little endian bytes.
    ids: &'a [u8],
    /// The group whose member the session is, `$share` included; empty if it was not shared.
    pub(crate) share: &'a str,
    /// The envelope's bytes.
    pub(crate) envelope: &'a [u8],
}

impl MessageHead<'_> {
    /// The subscription identifiers.
    pub(crate) fn subscription_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
    }
}

/// Reads the head of a message record.
pub(crate) fn decode_head(bytes: &[u8]) -> Result<MessageHead<'_>, InvalidRecord> {
    let mut reader = Reader(bytes);
    let flags = reader.u8()?;
    let count = usize::from(reader.u8()?);
    let ids = reader.take(count * 4)?;
    let share_len = if flags & SHARED == 0 { 0 } else { usize::from(reader.u16()?) };
    let share = std::str::from_utf8(reader.take(share_len)?).map_err(|_| InvalidRecord)?;
    let qos = Qos::from_bits(flags & 0b11).ok_or(InvalidRecord)?;
    Ok(MessageHead { qos, retain: flags & RETAIN != 0, ids, share, envelope: reader.0 })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], InvalidRecord> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(InvalidRecord)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidRecord> {
        self.take(N)?.try_into().map_err(|_| InvalidRecord)
    }

    fn u8(&mut self) -> Result<u8, InvalidRecord> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, InvalidRecord> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, InvalidRecord> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, InvalidRecord> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
