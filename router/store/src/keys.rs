//! What the keys in RocksDB look like, and in which column family they live.
//!
//! Knows: the bytes of every key. May use: `model`. Never: values, RocksDB.
//! Invariant: keys of blocks sort by lane, then by the Seq of the *last* record. So one forward seek to a cursor
//! lands on the block that holds it, and "all blocks that are wholly delivered" is one contiguous range.

use model::{LaneId, Seq};

/// Column family of the format version; RocksDB demands that it exists.
pub(crate) const FAMILY_META: &str = "default";
/// Column family of the blocks of records.
pub(crate) const FAMILY_LOG: &str = "log";
/// Column family of lane names and cursors.
pub(crate) const FAMILY_LANES: &str = "lanes";
/// Column family of the small durable state.
pub(crate) const FAMILY_STATE: &str = "state";

/// In [`FAMILY_META`]: the format version, u32 big endian.
pub(crate) const KEY_FORMAT: &[u8] = b"format";
/// In [`FAMILY_LANES`]: the number the next new lane gets, u32 big endian.
pub(crate) const KEY_NEXT_LANE: &[u8] = b"I";

/// The space of [`FAMILY_STATE`] that is the store's own.
pub(crate) const SPACE_OWN: u8 = 255;

/// Length of a block's key.
pub(crate) const BLOCK_KEY_BYTES: usize = 12;

/// Longest name of a lane, in bytes: an MQTT client identifier (at most 65 535) and a prefix fit.
pub const LANE_NAME_BYTES_MAX: usize = 65_535 + 64;

const KIND_NAME: u8 = b'N';
const KIND_HEAD: u8 = b'H';

/// Key of the block whose last record is `last`; also where to seek for the block that holds `last`.
pub(crate) fn block(lane: LaneId, last: Seq) -> [u8; BLOCK_KEY_BYTES] {
    raw_block(lane, last.get())
}

/// Sorts before every block of the lane.
pub(crate) fn lane_start(lane: LaneId) -> [u8; BLOCK_KEY_BYTES] {
    raw_block(lane, 0)
}

/// Sorts after every block of the lane (no Seq ever gets there) and before the next lane.
pub(crate) fn lane_end(lane: LaneId) -> [u8; BLOCK_KEY_BYTES] {
    raw_block(lane, u64::MAX)
}

/// Lane and last Seq of a block's key; `None` if these bytes are no such key.
pub(crate) fn parse_block(key: &[u8]) -> Option<(LaneId, Seq)> {
    let key: &[u8; BLOCK_KEY_BYTES] = key.try_into().ok()?;
    let (lane, last) = key.split_at(4);
    Some((
        LaneId(u32::from_be_bytes(lane.try_into().ok()?)),
        Seq::new(u64::from_be_bytes(last.try_into().ok()?))?,
    ))
}

/// Where the name of a lane is kept.
pub(crate) fn lane_name(lane: LaneId) -> [u8; 5] {
    lane_key(KIND_NAME, lane)
}

/// Where the head of a lane is kept: the next undelivered Seq, u64 big endian.
pub(crate) fn lane_head(lane: LaneId) -> [u8; 5] {
    lane_key(KIND_HEAD, lane)
}

/// In the store's own space: under this key all lanes in which something expires are noted.
pub(crate) const KEY_TIMED_NOTED: [u8; 2] = [SPACE_OWN, b'V'];

const OWN_TIMED: u8 = b'T';
const OWN_HUSKS: u8 = b'H';

/// In the store's own space: something in this lane expires.
pub(crate) fn timed_lane(lane: LaneId) -> [u8; 6] {
    let mut key = [SPACE_OWN, OWN_TIMED, 0, 0, 0, 0];
    key[2..].copy_from_slice(&lane.0.to_be_bytes());
    key
}

/// In the store's own space: the range of husks that begins here.
pub(crate) fn husks(lane: LaneId, first: u64) -> [u8; 14] {
    let mut key = [0; 14];
    key[..2].copy_from_slice(&[SPACE_OWN, OWN_HUSKS]);
    key[2..6].copy_from_slice(&lane.0.to_be_bytes());
    key[6..].copy_from_slice(&first.to_be_bytes());
    key
}

/// What an entry of the store's own space is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnEntry {
    TimedNoted,
    Timed(LaneId),
    Husks(LaneId, u64),
}

/// Reads a key of the store's own space; `None` if these bytes are no such key.
pub(crate) fn parse_own_entry(key: &[u8]) -> Option<OwnEntry> {
    if key == KEY_TIMED_NOTED {
        return Some(OwnEntry::TimedNoted);
    }
    let (&kind, rest) = key.strip_prefix(&[SPACE_OWN])?.split_first()?;
    let (lane, rest) = rest.split_first_chunk()?;
    let lane = LaneId(u32::from_be_bytes(*lane));
    match kind {
        OWN_TIMED if rest.is_empty() => Some(OwnEntry::Timed(lane)),
        OWN_HUSKS => Some(OwnEntry::Husks(lane, u64::from_be_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

/// What an entry of [`FAMILY_LANES`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneEntry {
    NextLane,
    Name(LaneId),
    Head(LaneId),
}

/// Reads a key of [`FAMILY_LANES`]; `None` if these bytes are no such key.
pub(crate) fn parse_lane_entry(key: &[u8]) -> Option<LaneEntry> {
    if key == KEY_NEXT_LANE {
        return Some(LaneEntry::NextLane);
    }
    let (&kind, lane) = key.split_first()?;
    let lane = LaneId(u32::from_be_bytes(lane.try_into().ok()?));
    match kind {
        KIND_NAME => Some(LaneEntry::Name(lane)),
        KIND_HEAD => Some(LaneEntry::Head(lane)),
        _ => None,
    }
}

fn raw_block(lane: LaneId, last: u64) -> [u8; BLOCK_KEY_BYTES] {
    let mut key = [0; BLOCK_KEY_BYTES];
    key[..4].copy_from_slice(&lane.0.to_be_bytes());
    key[4..].copy_from_slice(&last.to_be_bytes());
    key
}

fn lane_key(kind: u8, lane: LaneId) -> [u8; 5] {
    let mut key = [kind; 5];
    key[1..].copy_from_slice(&lane.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_lane_then_by_last_seq() {
        let seq = |n| Seq::new(n).unwrap();
        let (a, b) = (LaneId(1), LaneId(256));
        assert!(lane_start(a) < block(a, seq(1)));
        assert!(block(a, seq(255)) < block(a, seq(256)));
        assert!(block(a, seq(u64::MAX - 1)) < lane_end(a));
        assert!(lane_end(a) < lane_start(b));
    }

    #[test]
    fn keys_are_read_back() {
        let seq = Seq::new(77).unwrap();
        assert_eq!(parse_block(&block(LaneId(9), seq)), Some((LaneId(9), seq)));
        assert_eq!(parse_block(b"short"), None);
        assert_eq!(parse_lane_entry(&lane_name(LaneId(3))), Some(LaneEntry::Name(LaneId(3))));
        assert_eq!(parse_lane_entry(&lane_head(LaneId(3))), Some(LaneEntry::Head(LaneId(3))));
        assert_eq!(parse_lane_entry(KEY_NEXT_LANE), Some(LaneEntry::NextLane));
        assert_eq!(parse_lane_entry(b"X1234"), None);
        assert_eq!(parse_own_entry(&timed_lane(LaneId(3))), Some(OwnEntry::Timed(LaneId(3))));
        assert_eq!(parse_own_entry(&husks(LaneId(3), 9)), Some(OwnEntry::Husks(LaneId(3), 9)));
        assert_eq!(parse_own_entry(&KEY_TIMED_NOTED), Some(OwnEntry::TimedNoted));
        assert_eq!(parse_own_entry(&husks(LaneId(3), 9)[..9]), None);
    }
}
