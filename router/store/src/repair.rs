//! A store with damage that RocksDB does not work around is written anew: everything that can be read goes into a fresh
//! database beside the old one, then they change places.
//!
//! Knows: how to step over what cannot be read. May use: `engine`, `keys`, `block`, `read`, `quarantine`,
//! `salvage`. Never: guesses.
//! In:  a directory that nobody else has. Out: a store that opens, and the ranges that are lost.
//! Invariant: until the new database is complete and synced the old one is untouched; a crash leaves one or the other, or
//! a change of places that the next opening finishes. Cost: reads and writes all live data once, and needs its room.
//!
//! Why not RocksDB's own repair: it puts every file into one level, so that all of them are merged at once, and forgets
//! families that have no file yet.

use crate::block::Block;
use crate::cursor::Blocks;
use crate::engine::Engine;
use crate::error::OpenError;
use crate::face::Lost;
use crate::home::{ENGINE_DIRECTORY, Home};
use crate::keys::{self, FAMILY_LANES, FAMILY_LOG, FAMILY_META, FAMILY_STATE, LaneEntry};
use crate::newest_log;
use crate::options::Options;
use crate::quarantine;
use crate::read::readable_from;
use crate::record::seq;
use crate::salvage::salvage;
use model::{LaneId, Seq};
use rocksdb::WriteBatch;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The database being written, and what the old one is called while they change places.
const REPAIRED: &str = "rocksdb.repaired";
const DAMAGED: &str = "rocksdb.damaged";
/// Second names of the files that are there, from which RocksDB makes a database as best it can.
const FILES: &str = "rocksdb.files";
/// A copy that may be opened for writing: second names of sorted files, copies of all others.
const COPY: &str = "rocksdb.copy";
/// Bytes written at once.
const BATCH_BYTES: usize = 1 << 20;

/// What became of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Undelivered places that are lost, with the name of their lane. Their bytes are not known.
    pub lost: Vec<(Arc<str>, Lost)>,
    /// Blocks that were kept.
    pub blocks: u64,
    /// Ranges of the small durable state that could not be read: sessions, retained messages, the loss ledger.
    pub state_gaps: u64,
    /// Bytes set aside in `quarantine`.
    pub set_aside_bytes: u64,
    /// A write-ahead log is missing or damaged: what was in it alone is lost, and nobody knows how much that was.
    pub lost_log: Option<String>,
    /// Lanes whose name was lost with it: they are kept as `found/NUMBER`.
    pub found_lanes: u64,
    /// The database had lost the note of its format: it was read as the format that the marker of the store names.
    pub assumed_format: bool,
}

/// Writes a store anew that is not in use. Fails without having changed anything if it is locked, newer, no store, if its
/// lanes cannot be read, or if there is no room for a second copy.
pub fn repair(options: &Options) -> Result<Repaired, OpenError> {
    let home = Home::enter_existing(&options.path)?;
    rebuild(options, &home)
}

/// As [`repair`], for who holds the lock already and has closed the database.
pub(crate) fn rebuild(options: &Options, home: &Home) -> Result<Repaired, OpenError> {
    let root = home.root();
    let (new_path, old_path) = (root.join(REPAIRED), root.join(DAMAGED));
    let io = |error| OpenError::from_io(root, error);
    clear_away(root).map_err(io)?;
    let mut repaired = Repaired { lost_log: lost_log(options, home)?, ..Repaired::default() };
    {
        let old = match &repaired.lost_log {
            None => Engine::open_damaged(options, &home.engine_path())?,
            Some(_) => {
                let copy = copy_files(options, home, &mut repaired.set_aside_bytes).map_err(io)?;
                let (engine, has_format) = Engine::open_without_logs(options, &copy)?;
                repaired.assumed_format = !has_format;
                engine
            }
        };
        let new = Engine::open(options, &new_path, true)?;
        let copied = Copy { options, old: &old, new: &new, repaired: &mut repaired, files: None }.run();
        let flushed = copied.and_then(|()| {
            [FAMILY_META, FAMILY_LOG, FAMILY_LANES, FAMILY_STATE]
                .into_iter()
                .try_for_each(|family| new.db.flush_cf(new.family(family)))
                .map_err(|error| OpenError::from_engine(root, error))
        });
        if let Err(error) = flushed {
            drop(new);
            clear_away(root).map_err(io)?;
            return Err(error);
        }
    }
    fs::rename(home.engine_path(), &old_path).map_err(io)?;
    finish_swap(root).map_err(io)?;
    clear_away(root).map_err(io)?;
    Ok(repaired)
}

/// Whether a write-ahead log is missing or damaged.
fn lost_log(options: &Options, home: &Home) -> Result<Option<String>, OpenError> {
    match home.check_newest_log() {
        Err(OpenError::Corrupt { detail, .. }) => return Ok(Some(detail)),
        other => other?,
    }
    let Err(error) = Engine::open_strict(options, &home.engine_path()) else { return Ok(None) };
    // A sorted file that is missing as well is found before the log.
    let behind = Engine::open_damaged(options, &home.engine_path()).map(drop).err();
    Ok([Some(error), behind].into_iter().flatten().find_map(about_logs))
}

/// RocksDB's words for a log that is gone, shorter than it was, or other than it was.
fn about_logs(error: OpenError) -> Option<String> {
    match error {
        OpenError::Corrupt { detail, .. }
            if [".log", "WAL", "log record", "point of corruption"].iter().any(|it| detail.contains(it)) =>
        {
            Some(detail)
        }
        _ => None,
    }
}

/// Makes the copy: of logs, what is whole. One with damage goes into `quarantine` as it is, if there is room.
fn copy_files(options: &Options, home: &Home, set_aside_bytes: &mut u64) -> std::io::Result<PathBuf> {
    let copy = home.root().join(COPY);
    fs::create_dir(&copy)?;
    let mut paths = Vec::new();
    for entry in fs::read_dir(home.engine_path())? {
        paths.push(entry?.path());
    }
    let newest = paths.iter().filter_map(|path| log_number(path)).max();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Its lock, and its diary of the first letters LOG.
        if name.starts_with("LO") || !path.is_file() {
            continue;
        }
        if let Some(number) = log_number(&path) {
            let mut whole = BufWriter::new(File::create(copy.join(name))?);
            let salvaged = salvage(&mut File::open(&path)?, number, &mut whole)?;
            whole.flush()?;
            // The end of the newest may be torn by a crash, as any other end may not.
            if salvaged.is_damaged || salvaged.is_torn && newest != Some(number) {
                // Without room, or on a disk that refuses, there is no copy.
                *set_aside_bytes +=
                    quarantine::keep_log(home.root(), options.quarantine_bytes_max, &path).unwrap_or(0);
            }
        } else if name.ends_with(".sst") {
            fs::hard_link(&path, copy.join(name))?;
        } else {
            fs::copy(&path, copy.join(name))?;
        }
    }
    Ok(copy)
}

/// Which write-ahead log it is, if it is one.
fn log_number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()
}

/// Finishes a change of places, whether or not a crash cut it in two: once the old database is out the new one goes in, and
/// only then it is forgotten which log of the old one was the newest. Before, it would not be missed where it is missing;
/// and the new one counts its logs from the beginning.
pub(crate) fn finish_swap(root: &Path) -> std::io::Result<()> {
    let (inside, new, old) = (root.join(ENGINE_DIRECTORY), root.join(REPAIRED), root.join(DAMAGED));
    if !old.exists() {
        return Ok(());
    }
    let sync = || File::open(root)?.sync_all();
    if !inside.exists() && new.exists() {
        fs::rename(&new, &inside)?;
        sync()?;
    }
    if inside.exists() && !new.exists() {
        newest_log::forget(root)?;
        sync()?;
    }
    Ok(())
}

/// Removes what an earlier repair left behind.
pub(crate) fn clear_away(root: &Path) -> std::io::Result<()> {
    for name in [REPAIRED, DAMAGED, FILES, COPY] {
        let path: PathBuf = root.join(name);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Makes a database of every file that is there and can be read from its beginning to its end, without the list of files
/// that says what is missing. `None` if RocksDB cannot.
fn open_files(options: &Options) -> Result<Option<Engine>, OpenError> {
    let (root, scratch) = (&options.path, options.path.join(FILES));
    let io = |error| OpenError::from_io(root, error);
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(io)?;
    }
    fs::create_dir(&scratch).map_err(io)?;
    for entry in fs::read_dir(root.join(ENGINE_DIRECTORY)).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        let Some(name) = path.file_name().filter(|_| matches!(kind, Some("sst" | "log"))) else { continue };
        fs::hard_link(&path, scratch.join(name)).map_err(io)?;
    }
    Ok(Engine::make_from_files(options, &scratch).ok())
}

struct Copy<'c> {
    options: &'c Options,
    old: &'c Engine,
    new: &'c Engine,
    repaired: &'c mut Repaired,
    /// A database of the files that are there and whole by themselves, once it was needed; `None` inside if there is none.
    files: Option<Option<Engine>>,
}

impl Copy<'_> {
    fn run(mut self) -> Result<(), OpenError> {
        let lanes = self.copy_lanes()?;
        self.repaired.state_gaps = self.copy_family(FAMILY_STATE)?;
        // What is noted about blocks may be newer than what is kept of them: the next start reads all lanes through.
        let state = self.new.family(FAMILY_STATE);
        let forgotten = self.new.db.delete_cf(state, keys::KEY_TIMED_NOTED);
        forgotten.map_err(|error| OpenError::from_engine(&self.options.path, error))?;
        let ends = self.known_ends();
        let lanes = if self.repaired.lost_log.is_some() { self.add_nameless(lanes)? } else { lanes };
        for (lane, (name, head)) in lanes {
            self.copy_lane(lane, &name, head, ends.get(&lane).copied().unwrap_or(0))?;
        }
        Ok(())
    }

    /// Names and heads; without all of them nobody can say what the blocks are.
    fn copy_lanes(&mut self) -> Result<BTreeMap<LaneId, (Arc<str>, u64)>, OpenError> {
        let corrupt =
            |detail: &str| OpenError::Corrupt { path: self.options.path.clone(), detail: detail.to_owned() };
        if self.copy_family(FAMILY_LANES)? > 0 {
            return Err(corrupt("the names and positions of its lanes cannot be read"));
        }
        let mut lanes: BTreeMap<LaneId, (Arc<str>, u64)> = BTreeMap::new();
        let mut entries = self.new.db.raw_iterator_cf(self.new.family(FAMILY_LANES));
        entries.seek_to_first();
        while let Some((key, value)) = entries.item() {
            match keys::parse_lane_entry(key) {
                Some(LaneEntry::Name(id)) => {
                    lanes.entry(id).or_insert_with(|| ("".into(), 1)).0 =
                        String::from_utf8_lossy(value).into();
                }
                Some(LaneEntry::Head(id)) => {
                    let head = value.try_into().map(u64::from_be_bytes).unwrap_or(1);
                    lanes.entry(id).or_insert_with(|| ("".into(), 1)).1 = head.max(1);
                }
                _ => {}
            }
            entries.next();
        }
        Ok(lanes)
    }

    /// Lanes that have blocks and no name, because the log that had it is lost, get one: their messages are somebody's.
    fn add_nameless(
        &mut self,
        mut lanes: BTreeMap<LaneId, (Arc<str>, u64)>,
    ) -> Result<BTreeMap<LaneId, (Arc<str>, u64)>, OpenError> {
        let mut batch = WriteBatch::default();
        let family = self.new.family(FAMILY_LANES);
        let mut blocks = self.old.db.raw_iterator_cf(self.old.family(FAMILY_LOG));
        blocks.seek_to_first();
        while let Some((key, value)) = blocks.item() {
            let Some((lane, _)) = keys::parse_block(key) else {
                blocks.next();
                continue;
            };
            let known = lanes.entry(lane).or_insert_with(|| ("".into(), 0));
            if known.0.is_empty() {
                // What was delivered of it is not known either; what is there waits.
                let first = Block::parse(key, value).map_or(1, |block| block.first);
                *known = (format!("found/{lane}").into(), known.1.max(first));
                batch.put_cf(family, keys::lane_name(lane), known.0.as_bytes());
                batch.put_cf(family, keys::lane_head(lane), known.1.to_be_bytes());
                self.repaired.found_lanes += 1;
            }
            blocks.seek(keys::lane_end(lane));
        }
        lanes.retain(|_, (name, _)| !name.is_empty());
        let next = lanes.keys().next_back().map_or(1, |lane| lane.0 + 1);
        let noted = self.new.db.get_cf(family, keys::KEY_NEXT_LANE).ok().flatten();
        let noted = noted.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        if next > noted {
            batch.put_cf(family, keys::KEY_NEXT_LANE, next.to_be_bytes());
        }
        self.write_if_large(&mut batch, 0)?;
        Ok(lanes)
    }

    /// Copies a whole family; how many ranges of it could not be read.
    fn copy_family(&self, family: &str) -> Result<u64, OpenError> {
        let mut gaps = 0;
        let mut batch = WriteBatch::default();
        let mut last_key: Vec<u8> = Vec::new();
        let mut entries = self.old.db.raw_iterator_cf(self.old.family(family));
        entries.seek_to_first();
        loop {
            while let Some((key, value)) = entries.item() {
                batch.put_cf(self.new.family(family), key, value);
                last_key = key.to_vec();
                self.write_if_large(&mut batch, BATCH_BYTES)?;
                entries.next();
            }
            if entries.status().is_ok() {
                break;
            }
            gaps += 1;
            // On behind the sorted file that cannot be read: nobody knows the keys between.
            let Some(next) = self.next_file_end(family, &last_key) else { break };
            entries.seek(&next);
            last_key = next;
        }
        self.write_if_large(&mut batch, 0)?;
        Ok(gaps)
    }

    /// The smallest key behind `after` at which a sorted file ends.
    fn next_file_end(&self, family: &str, after: &[u8]) -> Option<Vec<u8>> {
        let files = self.old.db.live_files().ok()?;
        let ends = files.into_iter().filter(|file| file.column_family_name == family);
        ends.filter_map(|file| file.end_key).filter(|end| end.as_slice() > after).min()
    }

    /// The last place of each lane that the names of files tell, whether or not it can be read.
    fn known_ends(&self) -> BTreeMap<LaneId, u64> {
        let mut ends: BTreeMap<LaneId, u64> = BTreeMap::new();
        let files = self.old.db.live_files().unwrap_or_default();
        for file in files.iter().filter(|file| file.column_family_name == FAMILY_LOG) {
            let bounds = [&file.start_key, &file.end_key].into_iter().flatten();
            for (lane, last) in bounds.filter_map(|key| keys::parse_block(key)) {
                let end = ends.entry(lane).or_default();
                *end = last.get().max(*end);
            }
        }
        ends
    }

    /// Copies the undelivered blocks of a lane that can be read; `end` is at least its last place, or 0.
    fn copy_lane(&mut self, lane: LaneId, name: &Arc<str>, head: u64, end: u64) -> Result<(), OpenError> {
        let mut batch = WriteBatch::default();
        let family = self.new.family(FAMILY_LOG);
        let (mut next, mut last_kept) = (head, 0);
        loop {
            let mut blocks = Blocks::from(self.old, lane, next, true);
            while let Some((key, value)) = blocks.item() {
                let last = keys::parse_block(key).map_or(next, |(_, last)| last.get());
                match Block::parse(key, value) {
                    Some(block) => {
                        if block.first > next {
                            self.lose(lane, name, next, block.first - 1);
                        }
                        batch.put_cf(family, key, value);
                        self.repaired.blocks += 1;
                        last_kept = last;
                    }
                    None => self.lose(lane, name, next, last),
                }
                next = last + 1;
                self.write_if_large(&mut batch, BATCH_BYTES)?;
                blocks.next(next);
            }
            let Err(error) = blocks.status() else { break };
            // Whether anything readable follows is found by looking: the end is known only where a file ends.
            let bound = (end + 1).max(next.saturating_add(1 << 40));
            let good = readable_from(self.old, lane, next, bound, error).map_err(|error| {
                OpenError::Corrupt { path: self.options.path.clone(), detail: error.to_string() }
            })?;
            // Without one of the files in which lanes arrive RocksDB finds nothing in any of them; by itself each is sound.
            let (kept_to, blocks) = self.copy_from_files(lane, name, next, good)?;
            last_kept = last_kept.max(kept_to);
            self.repaired.blocks += blocks;
            next = next.max(kept_to + 1);
            if good >= bound {
                break;
            }
            if good > next {
                self.lose(lane, name, next, good - 1);
                next = good;
            }
        }
        if end >= next {
            self.lose(lane, name, next, end);
            next = end + 1;
        }
        // A block without content keeps the end of the lane, so that no place is used twice.
        if next > head && last_kept + 1 < next {
            batch.put_cf(family, keys::block(lane, seq(next - 1)), b"");
        }
        self.write_if_large(&mut batch, 0)
    }

    /// Copies the blocks of a lane from `from` to before `to` that single files hold; how far that came, and how many.
    fn copy_from_files(
        &mut self,
        lane: LaneId,
        name: &Arc<str>,
        from: u64,
        to: u64,
    ) -> Result<(u64, u64), OpenError> {
        if self.files.is_none() {
            self.files = Some(open_files(self.options)?);
        }
        let Some(Some(files)) = self.files.take() else { return Ok((0, 0)) };
        let mut batch = WriteBatch::default();
        let (mut next, mut count) = (from, 0);
        let mut blocks = files.range(FAMILY_LOG, &keys::block(lane, seq(from)), &keys::lane_end(lane), true);
        blocks.seek_to_first();
        while let Some((key, value)) = blocks.item() {
            let Some(block) = Block::parse(key, value).filter(|block| block.first < to) else { break };
            if block.first > next {
                self.lose(lane, name, next, block.first - 1);
            }
            batch.put_cf(self.new.family(FAMILY_LOG), key, value);
            (next, count) = (block.last + 1, count + 1);
            self.write_if_large(&mut batch, BATCH_BYTES)?;
            blocks.next();
        }
        drop(blocks);
        self.write_if_large(&mut batch, 0)?;
        self.files = Some(Some(files));
        Ok((if count > 0 { next - 1 } else { 0 }, count))
    }

    fn lose(&mut self, lane: LaneId, name: &Arc<str>, from: u64, up_to: u64) {
        let (root, bytes_max) = (&self.options.path, self.options.quarantine_bytes_max);
        // Without room, or on a disk that refuses, it is lost without a copy.
        self.repaired.set_aside_bytes +=
            quarantine::set_aside(self.old, root, bytes_max, lane, (from, up_to)).unwrap_or(0);
        let lost = Lost { lane, from: seq(from), up_to: seq(up_to), bytes: 0 };
        self.repaired.lost.push((name.clone(), lost));
    }

    fn write_if_large(&self, batch: &mut WriteBatch, bytes_min: usize) -> Result<(), OpenError> {
        if batch.is_empty() || batch.size_in_bytes() < bytes_min {
            return Ok(());
        }
        // Not synced: everything is written out before the databases change places.
        self.new
            .db
            .write(std::mem::take(batch))
            .map_err(|error| OpenError::from_engine(&self.options.path, error))
    }
}

const _: () = assert!(Seq::FIRST.get() == 1, "a head of 1 is a lane from its beginning");
