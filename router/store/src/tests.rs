//! Tests of the room through its public face, and what they share.
//!
//! Knows: random bytes, never MQTT. Each file below is named by what it shows.

mod behaviour;
mod bounds;
mod damage;
mod document;
mod kill;
mod memory;
mod middle;
mod middle_harm;
mod model;
mod poison;
mod repair;
mod space;
mod threads;

use crate::{CommitLog, Log, Options, ReadLimits, ReadOut, Seq, StoreError, Timestamp};
use ::model::LaneId;

/// Small buffers, so that tests reach sorted files and merging.
fn options(directory: &tempfile::TempDir) -> Options {
    Options { commit_bytes_max: 8 << 20, ..Options::small(directory.path().join("store")) }
}

/// One whose sorted files and write-ahead log are small, so that little data has many of them.
fn small(directory: &tempfile::TempDir) -> Options {
    Options {
        memtable_bytes: 1 << 20,
        sorted_file_bytes: 1 << 20,
        wal_bytes_max: 4 << 20,
        sync: false,
        ..options(directory)
    }
}

fn open(directory: &tempfile::TempDir) -> Log {
    Log::open(&options(directory)).unwrap()
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

/// The same bytes for the same place, different ones for another.
fn payload(lane: LaneId, place: u64, length: usize) -> Vec<u8> {
    let mut state = place.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(lane.0) << 56 | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// Places and their bytes.
type Places = Vec<(u64, Vec<u8>)>;

/// Reads everything from `from` on, in small portions; also gives how many had expired.
fn read_all(
    log: &dyn CommitLog,
    lane: LaneId,
    from: Seq,
    now: Timestamp,
) -> Result<(Places, u64), StoreError> {
    let (mut all, mut expired, mut from) = (Vec::new(), 0, from);
    let mut out = ReadOut::new();
    loop {
        let limits = ReadLimits { messages_max: 100, bytes_max: 20_000 };
        log.read_lane(lane, from, limits, now, &mut out)?;
        all.extend(out.records().map(|record| (record.seq.get(), record.bytes.to_vec())));
        expired += out.expired_messages();
        if out.next() <= from && out.is_empty() {
            return Ok((all, expired));
        }
        from = out.next();
    }
}
