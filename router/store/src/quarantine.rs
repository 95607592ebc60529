//! Damaged data is set aside, as it is, for whoever wants to look into it: never read again, never in the way.
//!
//! Knows: the directory `quarantine` and its bound. May use: `engine`, `keys`. Never: decides what is damaged.
//! In:  a range of places. Out: one file with the blocks as RocksDB gives them, or the sorted file that it cannot read;
//! of a log with damage, the log.
//! Invariant: the directory holds at most `Options::quarantine_bytes_max`; what is more is not kept.
//!
//! A `.blocks` file: for each block the length of its key and of its value, u32 little endian each, then key and value.

use crate::engine::Engine;
use crate::face::Lost;
use crate::keys::{self, FAMILY_LOG};
use crate::log::Log;
use model::LaneId;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Name of the directory of what was set aside.
pub(crate) const QUARANTINE: &str = "quarantine";

impl Log {
    /// Copies what is there of damaged places into `quarantine`; says how many bytes that were. 0 if nothing is there, or
    /// no room: then the damage is only reported.
    pub fn set_aside(&self, lost: &Lost) -> io::Result<u64> {
        let Ok(engine) = self.reader.shared.engine() else { return Ok(0) };
        let range = (lost.from.get(), lost.up_to.get());
        set_aside(&engine, &self.options.path, self.options.quarantine_bytes_max, lost.lane, range)
    }
}

/// See [`Log::set_aside`].
pub(crate) fn set_aside(
    engine: &Engine,
    root: &Path,
    bytes_max: u64,
    lane: LaneId,
    (from, up_to): (u64, u64),
) -> io::Result<u64> {
    let directory = root.join(QUARANTINE);
    let room = bytes_max.saturating_sub(bytes_in(&directory));
    let (blocks, is_readable) = raw_blocks(engine, lane, from, up_to, room);
    let mut kept = 0;
    if !blocks.is_empty() {
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("lane-{}-{from}-{up_to}.blocks", lane.0)), &blocks)?;
        kept += blocks.len() as u64;
    }
    if !is_readable {
        kept += keep_files(engine, &directory, room.saturating_sub(kept), lane, from, up_to)?;
    }
    Ok(kept)
}

/// Keeps a write-ahead log with damage, as it is; 0 if there is no room.
pub(crate) fn keep_log(root: &Path, bytes_max: u64, log: &Path) -> io::Result<u64> {
    let directory = root.join(QUARANTINE);
    let name = log.file_name().and_then(|name| name.to_str()).unwrap_or("log");
    if fs::metadata(log)?.len() > bytes_max.saturating_sub(bytes_in(&directory)) {
        return Ok(0);
    }
    fs::create_dir_all(&directory)?;
    // After a repair RocksDB counts from the beginning, so an earlier one may have this name.
    let names = std::iter::once(name.to_owned()).chain((1..).map(|number| format!("{number}-{name}")));
    let mut paths = names.map(|name| directory.join(name)).filter(|path| !path.exists());
    fs::copy(log, paths.next().expect("there are few files here"))
}

/// The blocks of a range as they are, at most `room` bytes of them; and whether RocksDB could read all of them.
fn raw_blocks(engine: &Engine, lane: LaneId, from: u64, up_to: u64, room: u64) -> (Vec<u8>, bool) {
    let mut bytes: Vec<u8> = Vec::new();
    let start = keys::block(lane, crate::record::seq(from.max(1)));
    let mut blocks = engine.range(FAMILY_LOG, &start, &keys::lane_end(lane), true);
    blocks.seek_to_first();
    while let Some((key, value)) = blocks.item() {
        let size = 8 + key.len() + value.len();
        if (bytes.len() + size) as u64 > room {
            break;
        }
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        if keys::parse_block(key).is_none_or(|(_, last)| last.get() >= up_to) {
            break;
        }
        blocks.next();
    }
    let is_readable = blocks.status().is_ok();
    (bytes, is_readable)
}

/// A second name for every sorted file that may hold the range: RocksDB may then delete its own.
fn keep_files(
    engine: &Engine,
    directory: &Path,
    mut room: u64,
    lane: LaneId,
    from: u64,
    up_to: u64,
) -> io::Result<u64> {
    let (first, last) = (
        keys::block(lane, crate::record::seq(from.max(1))),
        keys::block(lane, crate::record::seq(up_to.max(1))),
    );
    let mut kept = 0;
    for file in engine.db.live_files().unwrap_or_default() {
        let holds = file.column_family_name == FAMILY_LOG
            && file.end_key.as_deref().is_none_or(|end| end >= &first[..])
            && file.start_key.as_deref().is_none_or(|start| start <= &last[..]);
        let name = file.name.trim_start_matches('/');
        let size = file.size as u64;
        if !holds || size > room || directory.join(name).exists() {
            continue;
        }
        fs::create_dir_all(directory)?;
        match fs::hard_link(engine.db.path().join(name), directory.join(name)) {
            Ok(()) => {
                kept += size;
                room -= size;
            }
            // It is missing: that is the damage.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(kept)
}

fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.filter_map(Result::ok).map(|entry| entry.metadata().map_or(0, |about| about.size())).sum()
}
