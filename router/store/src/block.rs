//! Several records of one lane in one value: the unit in which RocksDB stores, finds and drops them.
//!
//! Knows: the block layout (storage-format.md §3). May use: `record`, `keys`. Never: RocksDB.
//! In:  records of one lane and one commit, in order. Out: one value, at most [`BLOCK_RECORDS_MAX`] records and
//! [`BLOCK_BYTES_MAX`] bytes unless a single record is larger than that.
//! Invariant: `last = first + count − 1`, the key says `last`, the header says `first` and `count`. All of its records were told to
//! have expired when they were written, or none.
//!
//! Header, little endian: checksum u32 (over the rest, seeded with the place) · kind u8 = 1 · husk u8 · count u16 ·
//! first u64 · bytes before u64 · latest expiry u64. Then the records. Of a husk, whose records have expired and were taken
//! out, the header is left, with their bytes in the place of the latest expiry.
//!
//! Why blocks: measured, 256 records in one value drain four times as fast as one value each, and append
//! nearly twice as fast (`reference/core-prototype.md`).

use crate::expiry::Timed;
use crate::keys;
use crate::record::{self, NEVER, RawRecord, TOLD};
use model::{LaneId, Seq, Timestamp};

/// Bytes of one block; a record that is larger gets a block of its own.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Records of one block.
pub const BLOCK_RECORDS_MAX: usize = 256;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 32;

const KIND: u8 = 1;
/// Byte 5: whether the records are there.
const WHOLE: u8 = 0;
const HUSK: u8 = 1;
const CHECKED_FROM: usize = 4;

/// Collects the records of one lane. Its buffer is reused from block to block.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    first: u64,
    count: u16,
    bytes_before: u64,
    expires_max: u64,
    /// When the last record was enqueued.
    enqueued: u64,
}

impl BlockBuilder {
    /// Starts over: the next record is `first`, and the lane has had `bytes_before` of records so far.
    pub(crate) fn start(&mut self, first: u64, bytes_before: u64) {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        self.first = first;
        self.count = 0;
        self.bytes_before = bytes_before;
        self.expires_max = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a record of this size (overhead included) still belongs here. An empty block takes any.
    #[inline]
    pub(crate) fn has_room(&self, record_bytes: usize) -> bool {
        self.count == 0
            || (usize::from(self.count) < BLOCK_RECORDS_MAX
                && self.bytes.len() + record_bytes <= BLOCK_BYTES_MAX)
    }

    /// Whether a record that expires then may stand with what is here: what was told to have expired stands by itself.
    #[inline]
    pub(crate) fn goes_with(&self, expires: u64) -> bool {
        self.count == 0 || (self.expires_max == TOLD) == (expires == TOLD)
    }

    /// Adds the record for the next place.
    #[inline]
    pub(crate) fn push(
        &mut self,
        lane: LaneId,
        enqueued: Timestamp,
        expires: u64,
        parts: &[&[u8]],
        payload_bytes: usize,
    ) {
        let seq = self.first + u64::from(self.count);
        record::encode(&mut self.bytes, lane, seq, enqueued, expires, parts, payload_bytes);
        self.count += 1;
        self.expires_max = self.expires_max.max(expires);
        self.enqueued = enqueued.0;
    }

    /// What is to be known of it in time; `None` if it never expires.
    #[inline]
    pub(crate) fn timed(&self, lane: LaneId) -> Option<Timed> {
        let (first, before) = (self.first, self.bytes_before);
        (self.expires_max != NEVER && self.count > 0).then(|| Timed {
            lane,
            places: (first, first + u64::from(self.count) - 1),
            bytes: (before, before + (self.bytes.len() - HEADER_BYTES) as u64),
            expires: self.expires_max,
            enqueued: self.enqueued,
        })
    }

    /// Writes the header; gives the key and the value. At least one record must be in.
    pub(crate) fn finish(&mut self, lane: LaneId) -> ([u8; keys::BLOCK_KEY_BYTES], &[u8]) {
        assert!(self.count > 0, "an empty block has no last record");
        let last = self.first + u64::from(self.count) - 1;
        let numbers = (self.count, self.first, self.bytes_before, self.expires_max);
        write_header(&mut self.bytes[..HEADER_BYTES], lane, WHOLE, numbers);
        (keys::block(lane, record::seq(last)), &self.bytes)
    }

    /// Memory held by the buffer.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Key and value of the husk of a block, or of several in a row with [`BLOCK_RECORDS_MAX`] places at most, whose records had the
/// running sums `bytes` before and behind them.
pub(crate) fn husk(
    lane: LaneId,
    (first, last): (u64, u64),
    bytes: (u64, u64),
) -> ([u8; keys::BLOCK_KEY_BYTES], [u8; HEADER_BYTES]) {
    let count = last - first + 1;
    assert!(count <= BLOCK_RECORDS_MAX as u64, "whoever looks for a place looks no further");
    let mut header = [0; HEADER_BYTES];
    write_header(&mut header, lane, HUSK, (count as u16, first, bytes.0, bytes.1 - bytes.0));
    (keys::block(lane, record::seq(last)), header)
}

fn write_header(
    header: &mut [u8],
    lane: LaneId,
    husk: u8,
    (count, first, bytes_before, end): (u16, u64, u64, u64),
) {
    header[4] = KIND;
    header[5] = husk;
    header[6..8].copy_from_slice(&count.to_le_bytes());
    header[8..16].copy_from_slice(&first.to_le_bytes());
    header[16..24].copy_from_slice(&bytes_before.to_le_bytes());
    header[24..32].copy_from_slice(&end.to_le_bytes());
    let checksum = record::checksum(lane, first + u64::from(count) - 1, &header[CHECKED_FROM..]);
    header[..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
}

/// A block as read, its header checked, its records not yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'b> {
    pub(crate) lane: LaneId,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of records that the lane had taken before this block (a running sum; differences are what counts).
    pub(crate) bytes_before: u64,
    expires_max: u64,
    /// Of a husk: the bytes of the records that were taken out.
    taken: Option<u64>,
    body: &'b [u8],
}

impl<'b> Block<'b> {
    /// Reads the header; `None` if key and header do not belong together or the header is damaged.
    #[inline]
    pub(crate) fn parse(key: &[u8], value: &'b [u8]) -> Option<Block<'b>> {
        let (lane, last) = keys::parse_block(key)?;
        let last = last.get();
        let (header, body) = value.split_at_checked(HEADER_BYTES)?;
        let sound =
            record::checksum(lane, last, &header[CHECKED_FROM..]).to_le_bytes() == header[..CHECKED_FROM];
        let count = u64::from(u16::from_le_bytes(header[6..8].try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(header[at..at + 8].try_into().ok()?));
        let first = u64_at(8)?;
        if !sound || header[4] != KIND || count == 0 || first == 0 || first.checked_add(count - 1)? != last {
            return None;
        }
        let bytes_before = u64_at(16)?;
        let (expires_max, taken) = match (header[5], u64_at(24)?) {
            (WHOLE, expires_max) => (expires_max, None),
            (HUSK, bytes) if body.is_empty() => (TOLD, Some(bytes)),
            _ => return None,
        };
        Some(Block { lane, first, last, bytes_before, expires_max, taken, body })
    }

    /// Whether its records have expired, were told to whoever keeps the ledger, and are not here any more.
    #[inline]
    pub(crate) fn is_husk(&self) -> bool {
        self.taken.is_some()
    }

    /// Whether whoever keeps the ledger has all of it as expired: a husk, or what was written like that.
    #[inline]
    pub(crate) fn is_told(&self) -> bool {
        self.expires_max == TOLD
    }

    /// Whether no record in here matters any more at `now`.
    #[inline]
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        record::is_expired(self.expires_max, now)
    }

    /// When the last of its records expires, as written; `NEVER` if one of them does not.
    pub(crate) fn expires_max(&self) -> u64 {
        self.expires_max
    }

    /// Bytes of all its records, overhead included, header not; 0 of a husk.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// Running sum of record bytes of the lane behind this block.
    pub(crate) fn bytes_end(&self) -> u64 {
        self.bytes_before.saturating_add(self.taken.unwrap_or(self.body.len() as u64))
    }

    /// Its records with their places, unchecked. Ends early where a length cannot be true, see [`Block::damage_at`].
    #[inline]
    pub(crate) fn records(&self) -> Records<'b> {
        Records { rest: self.body, seq: self.first, last: self.last }
    }

    /// Which places cannot be trusted if `seq` turned out damaged: it alone if what follows is sound, else the rest.
    pub(crate) fn damage_at(&self, seq: u64) -> Seq {
        let mut after = self.records().skip_while(|&(place, _)| place <= seq);
        let alone = match after.next() {
            Some((place, record)) => place == seq + 1 && record.is_sound(self.lane, place),
            None => seq == self.last,
        };
        record::seq(if alone { seq } else { self.last })
    }

    /// Bytes of the records of these places, all of them in here.
    pub(crate) fn bytes_of(&self, (first, last): (u64, u64)) -> u64 {
        let end = if last == self.last { self.record_bytes() } else { self.position(last + 1).0 };
        end - self.position(first).0
    }

    /// Bytes of the records before `seq`, and when `seq` was enqueued if it can be read.
    pub(crate) fn position(&self, seq: u64) -> (u64, Option<Timestamp>) {
        let mut bytes = 0;
        for (place, record) in self.records() {
            if place >= seq {
                return (bytes, Some(record.enqueued()));
            }
            bytes += record.len() as u64;
        }
        (bytes, None)
    }
}

/// See [`Block::records`].
#[derive(Clone, Debug)]
pub(crate) struct Records<'b> {
    rest: &'b [u8],
    seq: u64,
    last: u64,
}

impl<'b> Iterator for Records<'b> {
    type Item = (u64, RawRecord<'b>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.seq > self.last {
            return None;
        }
        let (record, rest) = RawRecord::split_off(self.rest)?;
        let seq = self.seq;
        self.rest = rest;
        self.seq += 1;
        Some((seq, record))
    }
}

const _: () = assert!(BLOCK_RECORDS_MAX <= u16::MAX as usize, "the count is a u16");
const _: () = assert!(NEVER == u64::MAX, "the latest expiry is a plain maximum");

#[cfg(test)]
mod tests {
    use super::*;

    fn build(lane: LaneId, first: u64, payloads: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let mut builder = BlockBuilder::default();
        builder.start(first, 1_000);
        for (at, payload) in payloads.iter().enumerate() {
            builder.push(lane, Timestamp(at as u64), 50 + at as u64, &[payload], payload.len());
        }
        let (key, value) = builder.finish(lane);
        (key.to_vec(), value.to_vec())
    }

    #[test]
    fn a_block_is_read_back() {
        let (key, value) = build(LaneId(7), 10, &[b"a", b"", b"ccc"]);
        let block = Block::parse(&key, &value).unwrap();
        assert_eq!((block.first, block.last, block.bytes_before, block.expires_max()), (10, 12, 1_000, 52));
        let seen: Vec<_> = block.records().map(|(seq, record)| (seq, record.len())).collect();
        assert_eq!(seen, [(10, 25), (11, 24), (12, 27)]);
        assert!(block.records().all(|(seq, record)| record.is_sound(LaneId(7), seq)));
        assert_eq!(block.position(12), (49, Some(Timestamp(2))));
        assert!(!block.is_expired(Timestamp(51)));
        assert!(block.is_expired(Timestamp(52)));
    }

    #[test]
    fn a_damaged_header_or_a_foreign_key_is_refused() {
        let (key, value) = build(LaneId(7), 10, &[b"a"]);
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::parse(&key, &bad).is_none(), "bit {bit}");
        }
        assert!(Block::parse(&keys::block(LaneId(8), record::seq(10)), &value).is_none());
        assert!(Block::parse(&key, &value[..HEADER_BYTES - 1]).is_none());
    }

    #[test]
    fn a_husk_has_the_places_and_the_weight_of_what_was_there_and_nothing_else() {
        let (key, value) = husk(LaneId(7), (10, 12), (1_000, 1_076));
        let block = Block::parse(&key, &value).unwrap();
        assert!(block.is_husk() && block.is_expired(Timestamp(0)), "whatever the clock says");
        assert_eq!((block.first, block.last, block.bytes_before, block.bytes_end()), (10, 12, 1_000, 1_076));
        assert_eq!((block.record_bytes(), block.records().count()), (0, 0));
        assert_eq!(block.position(12), (0, None));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = value;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::parse(&key, &bad).is_none(), "bit {bit}");
        }
        assert!(Block::parse(&key, &[&value[..], b"x"].concat()).is_none());
        let (key, value) = build(LaneId(7), 10, &[b"a", b"", b"ccc"]);
        let whole = Block::parse(&key, &value).unwrap();
        assert!(!whole.is_husk());
        assert_eq!(whole.bytes_end(), 1_076);
    }

    #[test]
    fn damage_is_as_small_as_can_be_shown() {
        let (key, value) = build(LaneId(7), 10, &[b"aaaa", b"bbbb", b"cccc"]);
        let payload = HEADER_BYTES + 28 + 24; // first byte of the second payload
        let mut bad = value.clone();
        bad[payload] ^= 1;
        assert_eq!(Block::parse(&key, &bad).unwrap().damage_at(11).get(), 11);
        let length = HEADER_BYTES + 28 + 4; // its length: what follows cannot be found
        let mut bad = value.clone();
        bad[length] ^= 1;
        assert_eq!(Block::parse(&key, &bad).unwrap().damage_at(11).get(), 12);
    }

    #[test]
    fn a_large_record_gets_a_block_of_its_own() {
        let mut builder = BlockBuilder::default();
        builder.start(1, 0);
        assert!(builder.has_room(10 * BLOCK_BYTES_MAX));
        builder.push(LaneId(1), Timestamp(0), NEVER, &[b"x"], 1);
        assert!(!builder.has_room(BLOCK_BYTES_MAX));
        assert!(builder.has_room(100));
    }
}
