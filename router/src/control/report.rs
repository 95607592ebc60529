//! Lanes and poison lanes as they stand in a store, for people and programs.
//!
//! In: a reader of the store, of a running router or of one that is stopped. Out: values that become JSON or lines.
//! Bound: [`LISTED_MAX`] messages of a poison lane, [`SHOWN_BYTES_MAX`] bytes of one.

use broker::Envelope;
use broker::uplink::Poison;
use model::{LaneId, Seq};
use serde::{Deserialize, Serialize};
use store::{ReadOut, Reader, StoreError};

use crate::upstream::poison::{places, read_one};

/// Messages of one poison lane that are listed.
pub(super) const LISTED_MAX: usize = 1_000;
/// Bytes of a payload that are shown.
const SHOWN_BYTES_MAX: usize = 64 << 10;

/// One lane.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaneReport {
    pub(super) name: String,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The first place that is not delivered, and the place that the next record gets.
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) oldest_unix_ms: Option<u64>,
}

/// What is in poison lanes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct PoisonList {
    /// The oldest ones.
    pub(super) messages: Vec<PoisonReport>,
    /// How many there are.
    pub(super) total: u64,
}

/// One message in a poison lane.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PoisonReport {
    pub(super) uplink: String,
    pub(super) place: u64,
    /// Why it is there.
    pub(super) reason: String,
    pub(super) attempts: u16,
    /// Where it comes from.
    pub(super) lane: String,
    pub(super) lane_place: u64,
    pub(super) moved_unix_ms: u64,
    pub(super) enqueued_unix_ms: u64,
    pub(super) expires_unix_ms: Option<u64>,
    pub(super) topic: Option<String>,
    pub(super) sender: Option<String>,
    pub(super) payload_bytes: usize,
    /// As text, if it is some; only when one message is shown.
    pub(super) payload: Option<String>,
    pub(super) payload_hex: Option<String>,
}

/// Every lane that ever had a message.
pub(super) fn lanes(reader: &Reader) -> Result<Vec<LaneReport>, StoreError> {
    let used = reader.lanes()?.into_iter().filter(|state| state.tail > Seq::FIRST);
    Ok(used
        .map(|state| LaneReport {
            name: state.name.to_string(),
            messages: state.messages(),
            bytes: state.bytes,
            head: state.head.get(),
            tail: state.tail.get(),
            oldest_unix_ms: state.oldest.map(|at| at.0),
        })
        .collect())
}

/// The poison lanes, of all uplinks or of one; `None` if there is no such uplink.
pub(super) fn poison(reader: &Reader, uplink: Option<&str>) -> Result<Option<PoisonList>, StoreError> {
    let mut list = PoisonList::default();
    let mut out = ReadOut::new();
    let mut is_known = uplink.is_none();
    for state in reader.lanes()? {
        let Some(name) = state.name.strip_prefix("p/").filter(|name| uplink.is_none_or(|it| it == *name))
        else {
            continue;
        };
        is_known = true;
        let places = places(reader, state.id)?;
        list.total += places.len() as u64;
        for seq in places {
            if list.messages.len() >= LISTED_MAX {
                break;
            }
            list.messages.extend(one(reader, name, state.id, seq, &mut out, false));
        }
    }
    Ok(is_known.then_some(list))
}

/// One message with its payload; `None` if it is not there.
pub(super) fn poisoned(reader: &Reader, uplink: &str, place: u64) -> Option<PoisonReport> {
    let lane = reader.find_lane(&crate::upstream::poison::poison_lane_name(uplink))?;
    let seq = Seq::new(place)?;
    let is_there = places(reader, lane).ok()?.contains(&seq);
    is_there.then(|| one(reader, uplink, lane, seq, &mut ReadOut::new(), true)).flatten()
}

fn one(
    reader: &Reader,
    uplink: &str,
    lane: LaneId,
    seq: Seq,
    out: &mut ReadOut,
    with_payload: bool,
) -> Option<PoisonReport> {
    let record = read_one(reader, lane, seq, out)?;
    let poison = Poison::decode(record.bytes).ok()?;
    let envelope = Envelope::decode(poison.record).ok();
    let payload = envelope.map_or(poison.record, |envelope| envelope.payload);
    let shown = with_payload.then(|| &payload[..payload.len().min(SHOWN_BYTES_MAX)]);
    let text = shown.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let origin = reader.lane_state(poison.lane).map(|state| state.name.to_string());
    Some(PoisonReport {
        uplink: uplink.to_owned(),
        place: seq.get(),
        reason: poison.why.to_string(),
        attempts: poison.attempts,
        lane: origin.unwrap_or_else(|_| format!("lane {} (gone)", poison.lane)),
        lane_place: poison.seq.get(),
        moved_unix_ms: poison.moved.0,
        enqueued_unix_ms: poison.enqueued.0,
        expires_unix_ms: poison.expires.map(|at| at.0),
        topic: envelope.map(|envelope| envelope.topic.to_owned()),
        sender: envelope.map(|envelope| envelope.client_id.to_owned()),
        payload_bytes: payload.len(),
        payload: text.map(str::to_owned),
        payload_hex: shown.filter(|_| text.is_none()).map(hex),
    })
}
