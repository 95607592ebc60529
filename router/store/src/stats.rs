//! What the store takes and has done, in numbers.
//!
//! Knows: counters, and which of RocksDB's properties are worth showing. Never: decides anything.
//! Invariant: counters only grow while the process lives.

use crate::engine::Engine;
use crate::error::StoreError;
use crate::keys::{FAMILY_LANES, FAMILY_LOG, FAMILY_META, FAMILY_STATE};
use crate::lanes::Lane;
use crate::quarantine::QUARANTINE;
use crate::read::Shared;
use rocksdb::properties;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of one store. Sizes are as of now, the others count since the process opened it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What everything in the directory of the store takes on the disk, in bytes; files that were given more room than
    /// they have filled count with that room.
    pub disk_bytes: u64,
    /// The part of it that is write-ahead log, files kept for reuse included.
    pub wal_bytes: u64,
    /// The part of it that is sorted files of the log.
    pub sorted_bytes: u64,
    /// Collected in memory, not yet in sorted files.
    pub memtable_bytes: u64,
    /// Cached blocks and indexes.
    pub cache_bytes: u64,
    /// Whether RocksDB lets writes wait because merging cannot keep up.
    pub stalled: bool,
    /// Lanes.
    pub lanes: u64,
    /// Undelivered messages of all lanes.
    pub live_messages: u64,
    /// Records made durable.
    pub records: u64,
    /// Their bytes, overhead included.
    pub record_bytes: u64,
    /// Commits that wrote something.
    pub commits: u64,
    /// Syncs of the write-ahead log that we asked for.
    pub syncs: u64,
    /// Bytes handed to the write-ahead log. Sorted files come on top; compare with what the disk says.
    pub written_bytes: u64,
    /// Bytes of records whose blocks were deleted, because delivered, expired or given up.
    pub released_bytes: u64,
    /// Bytes that reached the device: write-ahead log, sorted files, merges. The manifest and the diary are not in it.
    pub device_bytes: u64,
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) record_bytes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) released_bytes: AtomicU64,
    /// What of them a merge has taken out of the sorted files.
    pub(crate) merged_bytes: AtomicU64,
}

/// Adds to a counter that only one thread writes.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Stats {
    pub(crate) fn collect(engine: &Engine, shared: &Shared) -> Result<Stats, StoreError> {
        let sum = |property: &rocksdb::properties::PropName| {
            [FAMILY_META, FAMILY_LOG, FAMILY_LANES, FAMILY_STATE]
                .iter()
                .map(|family| engine.number(family, property))
                .sum()
        };
        let (disk_bytes, wal_bytes) = sizes_on_disk(engine);
        let counters = &shared.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lanes = shared.lanes.all();
        Ok(Stats {
            disk_bytes,
            wal_bytes,
            sorted_bytes: engine.number(FAMILY_LOG, properties::LIVE_SST_FILES_SIZE),
            memtable_bytes: sum(properties::CUR_SIZE_ALL_MEM_TABLES),
            cache_bytes: engine.number(FAMILY_LOG, properties::BLOCK_CACHE_USAGE),
            stalled: engine.number(FAMILY_LOG, properties::IS_WRITE_STOPPED) != 0,
            lanes: lanes.len() as u64,
            live_messages: lanes.iter().map(|lane| live_messages(lane)).sum(),
            records: count(&counters.records),
            record_bytes: count(&counters.record_bytes),
            commits: count(&counters.commits),
            syncs: count(&counters.syncs),
            written_bytes: count(&counters.written_bytes),
            released_bytes: count(&counters.released_bytes),
            device_bytes: engine.device_bytes(),
        })
    }
}

fn live_messages(lane: &Lane) -> u64 {
    let head = lane.head();
    lane.tail().saturating_sub(head).saturating_sub(lane.husks().behind(head, 0).0)
}

/// What the files of the store take, and those of the write-ahead log. A file that vanishes while we look is nothing.
pub(crate) fn sizes_on_disk(engine: &Engine) -> (u64, u64) {
    let inner = engine.db.path();
    let root = inner.parent().unwrap_or(inner);
    let files =
        [root.to_owned(), inner.to_owned(), root.join(QUARANTINE)].into_iter().filter_map(|directory| {
            let entries = std::fs::read_dir(directory).ok()?;
            Some(entries.filter_map(Result::ok))
        });
    files.flatten().fold((0, 0), |(all, wal), entry| {
        let bytes = entry.metadata().map_or(0, |about| about.blocks() * 512);
        let is_wal = std::path::Path::new(&entry.file_name()).extension().is_some_and(|kind| kind == "log");
        (all + bytes, if is_wal { wal + bytes } else { wal })
    })
}
