//! RocksDB, set up for a log: four column families, one write-ahead log, everything bounded.
//!
//! Knows: RocksDB's options and why each is as it is. May use: `options`, `keys`. Never: records, lanes.
//! In:  `Options`. Out: an open database.
//! Invariant: no number here depends on the size of the backlog; opening does not read it.

use crate::error::OpenError;
use crate::keys::{FAMILY_LANES, FAMILY_LOG, FAMILY_META, FAMILY_STATE, KEY_FORMAT};
use crate::options::{LEVEL0_FILES, Options};
use crate::{FORMAT_VERSION, home};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, LogLevel, ReadOptions, WriteOptions,
    statistics::{StatsLevel, Ticker},
};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes of one data block in a sorted file of the log: a full block of records, so that reading one costs one read.
const LOG_DATA_BLOCK_BYTES: usize = crate::BLOCK_BYTES_MAX;
/// From here on RocksDB slows writers down, then stops them. Far above the point where merging starts: a reader pays
/// a few microseconds per file, a writer that is slowed down pays hundreds of milliseconds.
const LOG_LEVEL0_FILES_SLOW: i32 = 40;
const LOG_LEVEL0_FILES_STOP: i32 = 64;
/// RocksDB's own diary: two files of this size at most.
const INFO_LOG_BYTES: usize = 1 << 20;
/// The manifest is rewritten above this size.
const MANIFEST_BYTES: usize = 4 << 20;

/// An open database with the four families of `keys`.
pub(crate) struct Engine {
    pub(crate) db: DB,
    /// Kept for what RocksDB counts.
    counting: Option<rocksdb::Options>,
    /// The directory when it was opened, as device and inode: by now another file system may be mounted over it.
    place: Option<(u64, u64)>,
}

impl Engine {
    /// Opens it for writing; makes it if `fresh`.
    pub(crate) fn open(options: &Options, path: &Path, fresh: bool) -> Result<Engine, OpenError> {
        let mut db_options = database_options(options);
        db_options.enable_statistics();
        db_options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        db_options.create_if_missing(fresh);
        db_options.create_missing_column_families(fresh);
        let db = DB::open_cf_descriptors(&db_options, path, families(options))
            .map_err(|e| OpenError::from_engine(&options.path, e))?;
        let place = place_of(path).map_err(|error| OpenError::from_io(&options.path, error))?;
        let engine = Engine { db, counting: Some(db_options), place: Some(place) };
        if fresh {
            let mut durable = WriteOptions::default();
            durable.set_sync(true);
            let family = engine.family(FAMILY_META);
            engine
                .db
                .put_cf_opt(family, KEY_FORMAT, FORMAT_VERSION.to_be_bytes(), &durable)
                .map_err(|e| OpenError::from_engine(&options.path, e))?;
        }
        engine.check_format(&options.path)?;
        Ok(engine)
    }

    /// Opens it for reading; changes nothing on the disk.
    pub(crate) fn open_read_only(options: &Options, path: &Path) -> Result<Engine, OpenError> {
        let db =
            DB::open_cf_descriptors_read_only(&database_options(options), path, families(options), false)
                .map_err(|e| OpenError::from_engine(&options.path, e))?;
        let engine = Engine { db, counting: None, place: None };
        engine.check_format(&options.path)?;
        Ok(engine)
    }

    /// Opens it for reading as strictly as for writing, and closes it again.
    pub(crate) fn open_strict(options: &Options, path: &Path) -> Result<(), OpenError> {
        Engine::open_read_only(options, path).map(drop)
    }

    /// Opens it for reading, whatever is missing or damaged in its sorted files: they are not looked at before they are
    /// read.
    pub(crate) fn open_damaged(options: &Options, path: &Path) -> Result<Engine, OpenError> {
        let mut tolerant = database_options(options);
        tolerant.set_paranoid_checks(false);
        let db = DB::open_cf_descriptors_read_only(&tolerant, path, families(options), false)
            .map_err(|e| OpenError::from_engine(&options.path, e))?;
        let engine = Engine { db, counting: None, place: None };
        engine.check_format(&options.path)?;
        Ok(engine)
    }

    /// Opens a copy of a database whose write-ahead logs are missing or damaged, with whatever can be read of them. Only a
    /// database that is opened for writing forgets which logs there should be; so it must be a copy. Also says whether its
    /// format is known: the first log has it until it is written out; then the marker of the store alone has it.
    pub(crate) fn open_without_logs(options: &Options, path: &Path) -> Result<(Engine, bool), OpenError> {
        let mut tolerant = database_options(options);
        tolerant.set_paranoid_checks(false);
        tolerant.set_track_and_verify_wals_in_manifest(false);
        tolerant.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        let db = DB::open_cf_descriptors(&tolerant, path, families(options))
            .map_err(|e| OpenError::from_engine(&options.path, e))?;
        let engine = Engine { db, counting: None, place: None };
        let format = engine.db.get_cf(engine.family(FAMILY_META), KEY_FORMAT);
        let has_format = format.map_err(|e| OpenError::from_engine(&options.path, e))?.is_some();
        if has_format {
            engine.check_format(&options.path)?;
        }
        Ok((engine, has_format))
    }

    /// Makes a database of the sorted files and logs in a directory, and opens it for reading. What it lacks is missing
    /// from the answer; so this is for blocks alone, which know themselves whether they are sound.
    pub(crate) fn make_from_files(options: &Options, path: &Path) -> Result<Engine, rocksdb::Error> {
        let mut how = database_options(options);
        how.set_compression_type(DBCompressionType::Lz4);
        DB::repair(&how, path)?;
        let found = DB::list_cf(&how, path)?;
        let families =
            found.iter().map(|name| ColumnFamilyDescriptor::new(name, rocksdb::Options::default()));
        let db = DB::open_cf_descriptors_read_only(&how, path, families, false)?;
        match db.cf_handle(FAMILY_LOG) {
            Some(_) => Ok(Engine { db, counting: None, place: None }),
            None => DB::open_cf_descriptors_read_only(&how, path, self::families(options), false)
                .map(|db| Engine { db, counting: None, place: None }),
        }
    }

    /// One of the families of `keys`.
    pub(crate) fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every family was named at open")
    }

    /// Goes over keys of `family` from `from` (inclusive) to `to` (exclusive).
    ///
    /// `dropped_too` leaves out the work of hiding dropped ranges, which grows with their number: for readers, who never
    /// look before the head (everything dropped is before the head), and for whoever does not mind.
    pub(crate) fn range(&self, family: &str, from: &[u8], to: &[u8], dropped_too: bool) -> DBRawIterator<'_> {
        let mut read = Engine::reading(dropped_too);
        read.set_iterate_lower_bound(from);
        read.set_iterate_upper_bound(to);
        self.db.raw_iterator_cf_opt(self.family(family), read)
    }

    /// The value of a key, from the files whose keys reach around it: an iterator that follows new data leaves out the others, but
    /// not in a database that is opened for reading alone. Also finds what was dropped.
    pub(crate) fn get_between_bounds(&self, family: &str, key: &[u8]) -> Option<Vec<u8>> {
        let mut read = Engine::reading(true);
        read.set_tailing(true);
        read.set_iterate_upper_bound([key, &[0]].concat());
        let mut entries = self.db.raw_iterator_cf_opt(self.family(family), read);
        entries.seek(key);
        let found = entries.item().filter(|(found, _)| *found == key);
        found.map(|(_, value)| value.to_vec())
    }

    /// How blocks are read; `dropped_too` as in [`Engine::range`].
    #[expect(
        deprecated,
        reason = "RocksDB calls it needless without range tombstones; we write them, see retention"
    )]
    pub(crate) fn reading(dropped_too: bool) -> ReadOptions {
        let mut read = ReadOptions::default();
        read.set_ignore_range_deletions(dropped_too);
        read
    }

    /// Whether the file system still takes and syncs a file, or is only full. With a bad sector it does; a disk that is away does
    /// not, and then nothing is damaged because it cannot be read now. One that came back under the same path answers, but not to
    /// us: our open files stay with the one that is away until the database is opened anew. Not asked of one that is opened for
    /// reading alone.
    pub(crate) fn disk_answers(&self) -> bool {
        if self.counting.is_none() {
            return true;
        }
        let path = self.db.path().with_extension("probe");
        let asked = home::write_durably(&path, &[0]);
        drop(fs::remove_file(&path)); // if it stays, the next one writes over it
        let is_full =
            |error: io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        asked.map_or_else(is_full, |()| true) && self.is_at_its_place()
    }

    /// Whether the directory at its path is the one that was opened. RocksDB holds files in it, so no other can have its numbers.
    pub(crate) fn is_at_its_place(&self) -> bool {
        self.place.is_none_or(|place| place_of(self.db.path()).is_ok_and(|found| found == place))
    }

    /// A number that RocksDB knows about one family; 0 where it does not.
    pub(crate) fn number(&self, family: &str, property: &rocksdb::properties::PropName) -> u64 {
        self.db.property_int_value_cf(self.family(family), property).ok().flatten().unwrap_or(0)
    }

    /// Bytes that RocksDB wrote since it was opened: write-ahead log, memory written out, merges.
    pub(crate) fn device_bytes(&self) -> u64 {
        let count = |ticker| self.counting.as_ref().map_or(0, |options| options.get_ticker_count(ticker));
        count(Ticker::WalFileBytes) + count(Ticker::FlushWriteBytes) + count(Ticker::CompactWriteBytes)
    }

    /// The format is in the marker and in the database; a directory put together from two stores differs.
    fn check_format(&self, root: &Path) -> Result<(), OpenError> {
        let found = self
            .db
            .get_cf(self.family(FAMILY_META), KEY_FORMAT)
            .map_err(|e| OpenError::from_engine(root, e))?;
        match found.as_deref().map(<[u8; 4]>::try_from) {
            Some(Ok(bytes)) => match u32::from_be_bytes(bytes) {
                found if found > FORMAT_VERSION => {
                    Err(OpenError::NewerFormat { path: root.to_owned(), found, supported: FORMAT_VERSION })
                }
                _ => Ok(()),
            },
            _ => {
                let detail = format!("its {} has no format", home::ENGINE_DIRECTORY);
                Err(OpenError::Corrupt { path: root.to_owned(), detail })
            }
        }
    }
}

fn place_of(directory: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(directory).map(|about| (about.dev(), about.ino()))
}

fn database_options(options: &Options) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();

    // The write-ahead log. Writers are one thread, so none of the machinery for many is wanted.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db.set_use_fsync(false); // fdatasync
    db.set_wal_bytes_per_sync(0); // we sync per commit; a second writer of pages only makes that sync slower
    db.set_max_total_wal_size(options.wal_bytes_max);
    // A reused file has its blocks and its length already: fdatasync then writes data only, no file system journal.
    db.set_recycle_log_file_num(2);
    // Stop at the first record that is not whole. The other candidate, "tolerate a torn tail", refuses to open when
    // a power cut wrote the second page of an unsynced tail and not the first, and forbids reusing files. What this
    // mode could hide, a hole inside what was synced, is excluded for closed files by the next option.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db.set_track_and_verify_wals_in_manifest(true);

    // Bounds.
    db.set_max_open_files(i32::try_from(options.open_files_max).unwrap_or(i32::MAX));
    db.set_max_background_jobs(2);
    db.set_max_manifest_file_size(MANIFEST_BYTES);
    db.set_manifest_preallocation_size(64 << 10);
    db.set_log_level(LogLevel::Warn);
    db.set_max_log_file_size(INFO_LOG_BYTES);
    db.set_keep_log_file_num(2);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_skip_stats_update_on_db_open(true); // would read every sorted file at open
    db.set_bytes_per_sync(1 << 20); // sorted files reach the disk evenly, so that a commit's sync does not wait for one
    db
}

fn families(options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(usize::try_from(options.cache_bytes).unwrap_or(usize::MAX));
    let side = || {
        let mut family = family_options(&cache, 4 << 10);
        family.set_write_buffer_size(options.side_memtable_bytes() as usize);
        family
    };
    let mut log = family_options(&cache, LOG_DATA_BLOCK_BYTES);
    log.set_write_buffer_size(options.memtable_bytes as usize);
    log.set_target_file_size_base(options.sorted_file_bytes);
    log.set_level_zero_file_num_compaction_trigger(LEVEL0_FILES as i32);
    log.set_level_zero_slowdown_writes_trigger(LOG_LEVEL0_FILES_SLOW);
    log.set_level_zero_stop_writes_trigger(LOG_LEVEL0_FILES_STOP);
    // A lane only grows at its end, so a file by lane overlaps nothing below and moves down without being rewritten,
    // provided that the level where files arrive is kept almost empty: small, and above the larger ones.
    log.set_level_compaction_dynamic_level_bytes(false);
    log.set_max_bytes_for_level_base(options.memtable_bytes);
    vec![
        ColumnFamilyDescriptor::new(FAMILY_META, side()),
        ColumnFamilyDescriptor::new(FAMILY_LOG, log),
        ColumnFamilyDescriptor::new(FAMILY_LANES, side()),
        ColumnFamilyDescriptor::new(FAMILY_STATE, side()),
    ]
}

fn family_options(cache: &Cache, data_block_bytes: usize) -> rocksdb::Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(data_block_bytes);
    table.set_cache_index_and_filter_blocks(true); // so that indexes are inside the cache's bound
    let mut family = rocksdb::Options::default();
    family.set_block_based_table_factory(&table);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_max_write_buffer_number(2);
    family
}
