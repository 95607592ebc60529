//! What one can choose about a store, and what each choice bounds.
//!
//! Knows: numbers and their defaults. Never: RocksDB (that is `engine`).
//! Invariant: memory, open files, log files and the write-ahead log are bounded by what is named here.

use crate::ahead::AHEAD_BYTES;
use crate::expiry::SPAN_BYTES;
use crate::husks::RANGE_BYTES;
use std::path::{Path, PathBuf};

/// Sorted files of the log that pile up, each spanning all lanes, before they are merged into files by lane. Merging
/// writes everything once more, so short outages should end before it; files that pile up cannot be deleted whole.
pub(crate) const LEVEL0_FILES: u64 = 8;

/// How a store is opened. Every field has a default that suits a gateway with 512 MiB or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory of the store. It belongs to the store alone.
    pub path: PathBuf,
    /// Whether a missing or empty directory becomes a new store (default) or is an error.
    pub create_if_missing: bool,
    /// Whether a commit reaches the medium before it returns (default). `false` is for tests and for routes that
    /// promise less: a power cut may then take what was committed last; a crash of the process may not.
    pub sync: bool,
    /// Bytes collected in memory before they are written as a sorted file. What is delivered and reclaimed earlier
    /// is never written a second time, so this is what saves flash while the uplink is healthy. Two of them at most.
    pub memtable_bytes: u64,
    /// Bytes of the write-ahead log above which RocksDB writes sorted files to shorten it. Bounds the time to open.
    pub wal_bytes_max: u64,
    /// Bytes for cached blocks, indexes included.
    pub cache_bytes: u64,
    /// Files open at once. Sorted files have `sorted_file_bytes` each.
    pub open_files_max: u32,
    /// Bytes of one sorted file: the unit in which space comes back after a long outage.
    pub sorted_file_bytes: u64,
    /// Bytes that may be appended between two commits; also the largest record.
    pub commit_bytes_max: u64,
    /// Bytes of damaged data that are set aside for inspection.
    pub quarantine_bytes_max: u64,
    /// Of lanes whose names begin so, only what is at the head expires: their readers may need what has expired behind it.
    pub whole_lanes: Option<&'static str>,
}

impl Options {
    /// The defaults, at `path`.
    pub fn new(path: impl AsRef<Path>) -> Options {
        Options {
            path: path.as_ref().to_owned(),
            create_if_missing: true,
            sync: true,
            memtable_bytes: 64 << 20,
            wal_bytes_max: 160 << 20,
            cache_bytes: 8 << 20,
            open_files_max: 256,
            sorted_file_bytes: 32 << 20,
            commit_bytes_max: 32 << 20,
            quarantine_bytes_max: 16 << 20,
            whole_lanes: None,
        }
    }

    /// For a small gateway: at most about 24 MiB of memory.
    pub fn small(path: impl AsRef<Path>) -> Options {
        Options {
            memtable_bytes: 4 << 20,
            wal_bytes_max: 16 << 20,
            cache_bytes: 2 << 20,
            open_files_max: 64,
            sorted_file_bytes: 8 << 20,
            commit_bytes_max: 4 << 20,
            ..Options::new(path)
        }
    }

    /// Most memory that the store takes, by who holds it; small constants of RocksDB excluded.
    pub const fn memory_bytes_max(&self) -> u64 {
        2 * self.memtable_bytes                 // records: one filling, one being written out
            + 2 * 2 * self.side_memtable_bytes() // cursors and state, likewise
            + self.cache_bytes
            + self.expiry_entries_max() as u64 * (SPAN_BYTES + RANGE_BYTES) // what expires where, and what was taken out
            + AHEAD_BYTES // what is delivered behind heads
            + 3 * self.commit_bytes_max // open blocks, the batch, the write-ahead log's buffer
    }

    /// Most bytes on the disk that are not messages: write-ahead log with the files kept for reuse, cursors and state
    /// of a usual size, manifest, diary, the file that probes the disk.
    pub const fn resting_bytes_max(&self) -> u64 {
        self.wal_bytes_max + 3 * self.memtable_bytes + 4 * self.side_memtable_bytes() + (8 << 20)
    }

    /// Most bytes of sorted files that may hold dead records only, because merging has not begun yet.
    pub const fn unmerged_bytes_max(&self) -> u64 {
        LEVEL0_FILES * self.memtable_bytes
    }

    /// What writing out memory and merging sorted files take for a while on top of what is there, if the sorted files
    /// have `sorted_bytes`: a merge never takes more than all of them.
    pub const fn merging_bytes_max(&self, sorted_bytes: u64) -> u64 {
        let most = (LEVEL0_FILES + 2) * self.memtable_bytes;
        let now = 2 * self.memtable_bytes + sorted_bytes;
        if now < most { now } else { most }
    }

    /// Spans of places that expire at about the same time, and rows of blocks that were taken out of the middle of lanes.
    pub(crate) const fn expiry_entries_max(&self) -> usize {
        let entries = self.memtable_bytes >> 11;
        if entries < 2_048 {
            2_048
        } else if entries > 16_384 {
            16_384
        } else {
            entries as usize
        }
    }

    /// Whether nothing is taken out of the middle of the lane with this name.
    pub(crate) fn leaves_whole(&self, lane: &str) -> bool {
        self.whole_lanes.is_some_and(|prefix| lane.starts_with(prefix))
    }

    /// Bytes collected in memory for cursors, and the same for state.
    pub(crate) const fn side_memtable_bytes(&self) -> u64 {
        let share = self.memtable_bytes / 16;
        if share < 256 << 10 { 256 << 10 } else { share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_add_up_to_what_the_docs_say() {
        assert!(Options::small("x").memory_bytes_max() <= 24 << 20);
        assert!(Options::new("x").memory_bytes_max() <= 256 << 20);
    }
}
