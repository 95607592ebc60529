//! One record as bytes: who wrote what when, until when it matters, and a checksum over all of it.
//!
//! Knows: the record layout (storage-format.md §4). May use: `model`, crc32fast. Never: blocks, RocksDB.
//! In:  the parts of one record. Out: `RECORD_OVERHEAD_BYTES` of header and the payload, appended to a buffer.
//! Invariant: the checksum is seeded with lane and Seq, so a record that sits in the wrong place is not sound either.
//!
//! Layout, little endian: checksum u32 · payload length u32 · enqueued u64 ms · expires u64 ms · payload.

use model::{LaneId, Seq, Timestamp};

/// What a record takes beyond its payload, before compression.
pub const RECORD_OVERHEAD_BYTES: usize = 24;

/// How "never expires" is written.
pub(crate) const NEVER: u64 = u64::MAX;

/// Bytes 4.. of the header and the payload are under the checksum.
const CHECKED_FROM: usize = 4;

/// Appends one record to `out`, its payload being the `parts` in turn.
///
/// `payload_bytes` must be the sum of the parts and fit in u32; the caller has judged it.
#[inline]
pub(crate) fn encode(
    out: &mut Vec<u8>,
    lane: LaneId,
    seq: u64,
    enqueued: Timestamp,
    expires: u64,
    parts: &[&[u8]],
    payload_bytes: usize,
) {
    let start = out.len();
    let mut header = [0; RECORD_OVERHEAD_BYTES];
    header[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    header[8..16].copy_from_slice(&enqueued.0.to_le_bytes());
    header[16..24].copy_from_slice(&expires.to_le_bytes());
    out.extend_from_slice(&header);
    for part in parts {
        out.extend_from_slice(part);
    }
    debug_assert_eq!(out.len(), start + RECORD_OVERHEAD_BYTES + payload_bytes);
    let checksum = checksum(lane, seq, &out[start + CHECKED_FROM..]);
    out[start..start + CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
}

/// How a time of expiry is written.
#[inline]
pub(crate) fn expires_to_raw(expires: Option<Timestamp>) -> u64 {
    expires.map_or(NEVER, |at| at.0)
}

/// How "expired, and whoever keeps the ledger has it" is written: the beginning of time.
pub(crate) const TOLD: u64 = 0;

/// What was written by [`expires_to_raw`].
#[inline]
pub(crate) fn expires_from_raw(raw: u64) -> Option<Timestamp> {
    (raw != NEVER).then_some(Timestamp(raw))
}

/// Whether something that expires at `expires` (as written) is over at `now`. The end of time never comes.
#[inline]
pub(crate) fn is_expired(expires: u64, now: Timestamp) -> bool {
    expires <= now.0 && expires != NEVER
}

/// One record, not yet checked, inside the body of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRecord<'b> {
    bytes: &'b [u8],
}

impl<'b> RawRecord<'b> {
    /// Takes the first record off `body`; `None` if its length cannot be true.
    #[inline]
    pub(crate) fn split_off(body: &'b [u8]) -> Option<(RawRecord<'b>, &'b [u8])> {
        let length = u32::from_le_bytes(body.get(4..8)?.try_into().ok()?) as usize;
        let (bytes, rest) = body.split_at_checked(RECORD_OVERHEAD_BYTES.checked_add(length)?)?;
        Some((RawRecord { bytes }, rest))
    }

    /// Whether every byte is as it was written for this place.
    #[inline]
    pub(crate) fn is_sound(&self, lane: LaneId, seq: u64) -> bool {
        checksum(lane, seq, &self.bytes[CHECKED_FROM..]).to_le_bytes() == self.bytes[..CHECKED_FROM]
    }

    #[inline]
    pub(crate) fn enqueued(&self) -> Timestamp {
        Timestamp(self.u64_at(8))
    }

    #[inline]
    pub(crate) fn expires(&self) -> u64 {
        self.u64_at(16)
    }

    /// Header and payload.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    #[inline]
    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
    }
}

/// CRC-32 (IEEE) seeded with the place, so that the place is under the checksum without being stored.
#[inline]
pub(crate) fn checksum(lane: LaneId, seq: u64, bytes: &[u8]) -> u32 {
    let seed = lane.0.rotate_left(16) ^ (seq as u32) ^ ((seq >> 32) as u32);
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The place after `seq` as a number; only for arithmetic inside the store.
#[inline]
pub(crate) fn seq(number: u64) -> Seq {
    Seq::new(number).expect("places start at 1 and only grow")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_is_bound_to_its_place() {
        let mut out = vec![9; 3];
        encode(&mut out, LaneId(4), 17, Timestamp(5), 6, &[b"ab", b"", b"c"], 3);
        let (record, rest) = RawRecord::split_off(&out[3..]).unwrap();
        assert!(rest.is_empty());
        assert_eq!(record.len(), RECORD_OVERHEAD_BYTES + 3);
        assert_eq!(&record.bytes()[RECORD_OVERHEAD_BYTES..], b"abc");
        assert_eq!((record.enqueued(), record.expires()), (Timestamp(5), 6));
        assert!(record.is_sound(LaneId(4), 17));
        assert!(!record.is_sound(LaneId(4), 18));
        assert!(!record.is_sound(LaneId(5), 17));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut out = Vec::new();
        encode(&mut out, LaneId(1), 1, Timestamp(1), NEVER, &[b"payload"], 7);
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let sound = RawRecord::split_off(&bad).is_some_and(|(record, _)| record.is_sound(LaneId(1), 1));
            assert!(!sound, "bit {bit}");
        }
    }

    #[test]
    fn a_length_beyond_the_block_is_refused() {
        let mut out = Vec::new();
        encode(&mut out, LaneId(1), 1, Timestamp(1), NEVER, &[b"payload"], 7);
        assert!(RawRecord::split_off(&out[..out.len() - 1]).is_none());
        assert!(RawRecord::split_off(&out[..5]).is_none());
    }

    #[test]
    fn the_end_of_time_never_comes() {
        assert!(is_expired(10, Timestamp(10)));
        assert!(!is_expired(11, Timestamp(10)));
        assert!(!is_expired(NEVER, Timestamp(u64::MAX)));
        assert_eq!(expires_from_raw(expires_to_raw(None)), None);
        assert_eq!(expires_from_raw(expires_to_raw(Some(Timestamp(3)))), Some(Timestamp(3)));
    }
}
