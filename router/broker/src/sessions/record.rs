//! A session on disk, and a message in a session's lane, as bytes.
//!
//! Session, version 1: `u8` version · `u32` lane · `u32` expiry seconds · `u64` disconnected at (wall milliseconds) ·
//! `u64` sent before (all ones while connected) · `u32` subscriptions, each: `u8` QoS and flags · `u32` identifier · `u16` filter length · filter; little endian.
//! Message: `u8` QoS and flags · `u8` identifiers, each `u32` · if it was shared `u16` length and name of the group ·
//! envelope (see [`crate::envelope`]).

use std::collections::BTreeMap;

use model::{LaneId, Qos, Seq, Timestamp};

use super::SubscriptionOptions;

const VERSION: u8 = 1;
const CONNECTED: u64 = u64::MAX;
const NO_LOCAL: u8 = 0b0100;
const RETAIN_AS_PUBLISHED: u8 = 0b1000;
const RETAIN: u8 = 0b0100;
const SHARED: u8 = 0b1_0000;

/// What survives of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its lane.
    pub lane: LaneId,
    /// See [`super::Session`].
    pub expiry_secs: u32,
    /// When its last connection ended; when it was written, if that has not ended.
    pub disconnected_at: Timestamp,
    /// Records before this place had been sent when the connection ended; `None`: it had not ended.
    pub sent_before: Option<Seq>,
    /// Its subscriptions.
    pub subscriptions: BTreeMap<Box<str>, SubscriptionOptions>,
}

/// The bytes are no record that this version understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session record of version 1 (damaged, or written by a newer Millrace)")]
pub struct InvalidRecord;

/// Appends a session's record to `out`; borrowed parts, so that nothing is copied twice.
pub(crate) fn encode_session(
    out: &mut Vec<u8>,
    lane: LaneId,
    expiry_secs: u32,
    disconnected_at: Timestamp,
    sent_before: Option<Seq>,
    subscriptions: &BTreeMap<Box<str>, SubscriptionOptions>,
) {
    out.push(VERSION);
    out.extend_from_slice(&lane.0.to_le_bytes());
    out.extend_from_slice(&expiry_secs.to_le_bytes());
    out.extend_from_slice(&disconnected_at.0.to_le_bytes());
    out.extend_from_slice(&sent_before.map_or(CONNECTED, Seq::get).to_le_bytes());
    out.extend_from_slice(&(subscriptions.len() as u32).to_le_bytes());
    for (filter, options) in subscriptions {
        let no_local = if options.no_local { NO_LOCAL } else { 0 };
        let retain = if options.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 };
        out.push(options.qos.bits() | no_local | retain);
        out.extend_from_slice(&options.subscription_id.to_le_bytes());
        out.extend_from_slice(&(filter.len() as u16).to_le_bytes());
        out.extend_from_slice(filter.as_bytes());
    }
}

/// Reads a session's record.
pub fn decode_session(bytes: &[u8]) -> Result<SessionRecord, InvalidRecord> {
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
    let mut subscriptions = BTreeMap::new();
    for _ in 0..reader.u32()? {
        let flags = reader.u8()?;
        let subscription_id = reader.u32()?;
        let len = usize::from(reader.u16()?);
        let filter = std::str::from_utf8(reader.take(len)?).map_err(|_| InvalidRecord)?;
        let options = SubscriptionOptions {
            qos: Qos::from_bits(flags & 0b11).ok_or(InvalidRecord)?,
            no_local: flags & NO_LOCAL != 0,
            retain_as_published: flags & RETAIN_AS_PUBLISHED != 0,
            subscription_id,
        };
        subscriptions.insert(filter.into(), options);
    }
    if reader.0.is_empty() {
        Ok(SessionRecord { lane, expiry_secs, disconnected_at, sent_before, subscriptions })
    } else {
        Err(InvalidRecord)
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
