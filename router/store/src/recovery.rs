//! From the disk to the numbers in memory: which lanes there are, where each begins and ends.
//!
//! Knows: how head and tail follow from what is stored. May use: `engine`, `block`, `lanes`. Never: walks a backlog.
//! In:  an open database. Out: the lanes. Cost: one read of the names, one seek per lane that has blocks.
//! Invariant: `tail = max(last durable record + 1, head)`. Blocks are dropped only together with a head behind them
//! (one batch), so the head remembers the tail of a lane whose blocks are all gone, and no place is used twice.

use crate::block::{Block, HEADER_BYTES};
use crate::cursor;
use crate::engine::Engine;
use crate::error::{Fault, FaultKind, OpenError};
use crate::husks::{Husks, Range};
use crate::keys::{self, FAMILY_LANES, FAMILY_LOG, FAMILY_STATE, LaneEntry, OwnEntry};
use crate::lanes::{Lane, LaneTable};
use crate::read::is_damage;
use crate::record;
use model::LaneId;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What was found.
pub(crate) struct Found {
    pub(crate) lanes: Vec<Lane>,
    /// The number that the next new lane gets.
    pub(crate) next_lane: u32,
    /// Lanes that have blocks and no name: removed, and something of them came back when whole files were deleted.
    pub(crate) orphans: Vec<LaneId>,
}

/// What the store's own space of the small state says.
#[derive(Default)]
pub(crate) struct Own {
    /// Lanes in which something expires …
    pub(crate) timed: FxHashSet<LaneId>,
    /// … and whether all of them are noted.
    pub(crate) timed_noted: bool,
    /// Keys of what is passed.
    pub(crate) stale: Vec<Vec<u8>>,
}

/// Damaged blocks at the end of a lane that are looked at for the last sound one.
const DAMAGED_BLOCKS_MAX: usize = 64;

/// Numbers of lanes start here.
pub(crate) const FIRST_LANE: u32 = 1;

struct Known {
    name: Option<Arc<str>>,
    head: u64,
}

impl Default for Known {
    fn default() -> Self {
        Known { name: None, head: 1 }
    }
}

/// Reads all of it.
pub(crate) fn load(engine: &Engine, root: &Path) -> Result<Found, OpenError> {
    let corrupt = |detail: String| OpenError::Corrupt { path: root.to_owned(), detail };
    let (mut known, next_lane) = load_names(engine, root)?;
    let ends = load_ends(engine, root, &known)?;
    let orphans = ends.keys().filter(|lane| !known.contains_key(lane)).copied().collect();
    let mut lanes = Vec::with_capacity(known.len());
    while let Some((id, lane)) = known.pop_first() {
        let name = lane.name.ok_or_else(|| corrupt(format!("lane {id} has no name")))?;
        if id.0 >= next_lane {
            return Err(corrupt(format!("lane {id} has a number that was never given")));
        }
        let end = ends.get(&id);
        let tail = end.map_or(0, |end| end.last + 1).max(lane.head);
        let appended_bytes = end.map_or(0, |end| end.appended_bytes);
        lanes.push(Lane::new(id, name, lane.head, tail, appended_bytes));
    }
    Ok(Found { lanes, next_lane, orphans })
}

fn load_names(engine: &Engine, root: &Path) -> Result<(BTreeMap<LaneId, Known>, u32), OpenError> {
    let corrupt = |detail: &str| OpenError::Corrupt { path: root.to_owned(), detail: detail.into() };
    let mut known: BTreeMap<LaneId, Known> = BTreeMap::new();
    let mut next_lane = FIRST_LANE;
    let mut entries = engine.db.raw_iterator_cf(engine.family(FAMILY_LANES));
    entries.seek_to_first();
    while let Some((key, value)) = entries.item() {
        match keys::parse_lane_entry(key) {
            Some(LaneEntry::NextLane) => {
                next_lane = value
                    .try_into()
                    .map(u32::from_be_bytes)
                    .map_err(|_| corrupt("the next lane is no number"))?;
            }
            Some(LaneEntry::Head(id)) => {
                let head = value.try_into().map(u64::from_be_bytes).unwrap_or(0);
                if head == 0 {
                    return Err(corrupt("a lane's head is no place"));
                }
                known.entry(id).or_default().head = head;
            }
            Some(LaneEntry::Name(id)) => {
                let name = std::str::from_utf8(value).map_err(|_| corrupt("a lane's name is no text"))?;
                known.entry(id).or_default().name = Some(name.into());
            }
            None => return Err(corrupt("something unknown is among the lanes")),
        }
        entries.next();
    }
    entries.status().map_err(|e| OpenError::from_engine(root, e))?;
    Ok((known, next_lane))
}

struct End {
    last: u64,
    appended_bytes: u64,
}

/// The last block of every lane that has one: backwards, from lane to lane, never from block to block.
///
/// Looking for what lies before a lane reads its first block. If that is damaged, or the last block of any file is, each lane is
/// looked at by itself. What then stops a start is a damaged last block of a lane in a file that goes on with another lane.
fn load_ends(
    engine: &Engine,
    root: &Path,
    known: &BTreeMap<LaneId, Known>,
) -> Result<BTreeMap<LaneId, End>, OpenError> {
    let mut ends = BTreeMap::new();
    let mut blocks = engine.db.raw_iterator_cf(engine.family(FAMILY_LOG));
    blocks.seek_to_last();
    while let Some(key) = blocks.key() {
        let Some((lane, last)) = keys::parse_block(key) else {
            let detail = "something unknown is among the blocks".into();
            return Err(OpenError::Corrupt { path: root.to_owned(), detail });
        };
        // A damaged header costs nothing of the place: that is in the key.
        ends.insert(lane, End { last: last.get(), appended_bytes: bytes_at_end(&mut blocks, lane) });
        blocks.seek_for_prev(keys::lane_start(lane));
    }
    if let Err(error) = blocks.status() {
        is_damage(engine, error.clone()).map_err(|_| OpenError::from_engine(root, error))?;
        for &lane in known.keys() {
            if !ends.contains_key(&lane)
                && let Some(end) = end_of(engine, root, lane)?
            {
                ends.insert(lane, end);
            }
        }
    }
    Ok(ends)
}

/// The end of one lane where something is damaged. If its last block is, the files say which places it holds: their last keys
/// are known without it.
fn end_of(engine: &Engine, root: &Path, lane: LaneId) -> Result<Option<End>, OpenError> {
    let mut blocks = engine.range(FAMILY_LOG, &keys::lane_start(lane), &keys::lane_end(lane), false);
    blocks.seek_to_last();
    if let Some(key) = blocks.key() {
        let last = keys::parse_block(key).map_or(0, |(_, last)| last.get());
        return Ok(Some(End { last, appended_bytes: bytes_at_end(&mut blocks, lane) }));
    }
    let Err(error) = blocks.status() else { return Ok(None) };
    match last_of_files(engine, lane) {
        Some(0) => Ok(None),
        // What lies between its last sound block and there weighs nothing, as damage does.
        Some(last) => Ok(Some(End { last, appended_bytes: bytes_up_to(engine, lane, last) })),
        None => Err(OpenError::from_engine(root, error)),
    }
}

/// The last place of a lane in sorted files, by what the files say of themselves; 0 if none has any of it. `None` if one goes on
/// into the next lane, so that nobody knows. After opening for writing all blocks are in sorted files. (A lane that is delivered as
/// a whole may get one place too many, which is then told as damaged: the end of a dropped range looks like a last key.)
fn last_of_files(engine: &Engine, lane: LaneId) -> Option<u64> {
    let (start, end) = (keys::lane_start(lane), keys::lane_end(lane));
    let files = engine.db.live_files().ok()?;
    let mut found = 0;
    for file in files.iter().filter(|file| file.column_family_name == FAMILY_LOG) {
        let (first, last) = (file.start_key.as_deref()?, file.end_key.as_deref()?);
        if last < &start[..] || first >= &end[..] {
            continue;
        }
        let (lane_of_last, place) = keys::parse_block(last)?;
        if lane_of_last != lane {
            return None;
        }
        found = found.max(place.get());
    }
    Some(found)
}

/// The running sum at the last sound block up to `last`, by ever longer steps back; 0 if there is none.
fn bytes_up_to(engine: &Engine, lane: LaneId, last: u64) -> u64 {
    let steps = (0..u64::BITS).map_while(|step| last.checked_sub(1 << step).filter(|place| *place > 0));
    let found = [last].into_iter().chain(steps).find_map(|place| cursor::sum_behind(engine, lane, place));
    found.unwrap_or(0)
}

/// The running sum at the end of a lane, at whose last block `blocks` stands: what the last sound block says, and what lies behind
/// it in blocks with damaged headers. Without these the lane would weigh nothing for as long as it had weighed before.
fn bytes_at_end(blocks: &mut rocksdb::DBRawIterator<'_>, lane: LaneId) -> u64 {
    let mut behind = 0_u64;
    for _ in 0..DAMAGED_BLOCKS_MAX {
        match blocks.item() {
            Some((key, value)) if keys::parse_block(key).is_some_and(|(it, _)| it == lane) => {
                if let Some(block) = Block::parse(key, value) {
                    return block.bytes_end().saturating_add(behind);
                }
                behind += value.len().saturating_sub(HEADER_BYTES) as u64;
            }
            _ => break,
        }
        blocks.prev();
    }
    behind
}

/// Takes over what the disk says about lanes that are known already; gives back those that are new to us.
pub(crate) fn refresh(found: Vec<Lane>, known: &crate::lanes::LaneTable) {
    for lane in known.all() {
        match found.binary_search_by_key(&lane.id, |found| found.id) {
            Ok(at) => {
                let (found, tail) = (&found[at], lane.tail());
                lane.reset(found.tail(), found.appended_bytes());
                if found.tail() < tail || found.name != lane.name {
                    known.ahead().fell(lane.id, tail.max(found.tail()));
                }
            }
            Err(_) => known.remove(lane.id), // it was never committed
        }
    }
    known.ahead().look_again();
    for lane in found {
        match known.get(lane.id) {
            Ok(lane) => known.mark_moved(&lane), // the head in memory is at least as far: write it again
            Err(_) => known.insert(Arc::new(lane)), // removed in a commit that failed: it is still there
        }
    }
}

/// For a read that fails while recovering.
pub(crate) fn into_open_error(root: &Path, fault: Fault) -> OpenError {
    let (path, detail) = (root.to_owned(), fault.detail.to_string());
    match fault.kind {
        FaultKind::NoSpace => OpenError::NoSpace { path, detail },
        FaultKind::Io => OpenError::Io { path, detail },
        FaultKind::Corrupt | FaultKind::Other => OpenError::Corrupt { path, detail },
    }
}

/// Reads what the store has noted for itself, and gives lanes their husks. What cannot be read stops nobody: then lanes are read
/// through as if nothing were noted. Cost: the ranges of husks, which are bounded.
pub(crate) fn load_own(engine: &Engine, lanes: &LaneTable) -> Own {
    for lane in lanes.all() {
        *lane.husks() = Husks::default();
    }
    let mut own = Own::default();
    let mut entries = engine.db.raw_iterator_cf(engine.family(FAMILY_STATE));
    entries.seek([keys::SPACE_OWN]);
    while let Some((key, value)) = entries.item() {
        match keys::parse_own_entry(key) {
            Some(OwnEntry::TimedNoted) => own.timed_noted = true,
            Some(OwnEntry::Timed(lane)) => drop(own.timed.insert(lane)),
            Some(OwnEntry::Husks(lane, first)) => {
                let lane = lanes.get(lane).ok();
                let range = Range::decode(first, value);
                match (lane, range) {
                    (Some(lane), Some(range))
                        if lane.head() <= range.last
                            && range.last < lane.tail()
                            && lane.husks().last() < range.first =>
                    {
                        lane.husks().add(range, |_| {});
                    }
                    _ => own.stale.push(key.to_vec()),
                }
            }
            None => {}
        }
        entries.next();
    }
    own.timed_noted &= entries.status().is_ok();
    own
}

/// The first place is 1 for every lane, on the disk and in memory.
pub(crate) fn empty_lane(id: LaneId, name: Arc<str>) -> Arc<Lane> {
    let first = record::seq(1).get();
    Arc::new(Lane::new(id, name, first, first, 0))
}
