//! The blocks of one lane in order, also where RocksDB's iterator gives none of them.
//!
//! Knows: that a sorted file which cannot be read at its beginning stops an iterator over all files, also at places before it and
//! in other lanes, whose files are sound; and that a single key can be had without them (see `point_behind`).
//! May use: `engine`, `block`, `keys`. Never: decides what is lost.
//! In:  a lane and a place. Out: keys and values of blocks; where the next one is that can be read.
//! Bound: one block in memory; [`BLOCK_RECORDS_MAX`] point reads for a step, and only after an error; for a search
//! [`SEARCHED_PLACES_MAX`] and as many for each of some sixty more places as for a step.
//!
//! What this cannot reach: a block whose key lies, in a newer file, where that one is damaged. In a store that is opened for
//! reading alone, with three sorted files at most, that is the case for every newer file; a repair has other means there.

use crate::block::{BLOCK_RECORDS_MAX, Block};
use crate::engine::Engine;
use crate::keys::{self, BLOCK_KEY_BYTES, FAMILY_LOG};
use crate::read::is_of_disk;
use crate::record;
use model::LaneId;
use rocksdb::DBRawIterator;

/// Places behind damage that are asked for one by one; behind them the next readable one is searched for.
const SEARCHED_PLACES_MAX: u64 = 4_096;

/// Most places of one block: whoever holds a place ends at it, or less than this behind it.
const BLOCK_PLACES: u64 = BLOCK_RECORDS_MAX as u64;

/// A block as point reads give it.
struct Point {
    key: [u8; BLOCK_KEY_BYTES],
    value: Vec<u8>,
}

/// Stands at one block of a lane, or at none.
pub(crate) struct Blocks<'e> {
    engine: &'e Engine,
    lane: LaneId,
    iterator: DBRawIterator<'e>,
    /// What a point read gave where the iterator gives nothing.
    point: Option<Point>,
}

impl<'e> Blocks<'e> {
    /// Stands at the block of `from`, or the first one behind it; `dropped_too` as in [`Engine::range`].
    #[inline]
    pub(crate) fn from(engine: &'e Engine, lane: LaneId, from: u64, dropped_too: bool) -> Blocks<'e> {
        let start = keys::block(lane, record::seq(from));
        let mut iterator = engine.range(FAMILY_LOG, &start, &keys::lane_end(lane), dropped_too);
        iterator.seek_to_first();
        let mut blocks = Blocks { engine, lane, iterator, point: None };
        blocks.fall_back(from);
        blocks
    }

    /// Key and value of the block it stands at.
    #[inline]
    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        match &self.point {
            None => self.iterator.item(),
            Some(point) => Some((&point.key, &point.value)),
        }
    }

    /// Why there is no block: an error, or none because there is none.
    pub(crate) fn status(&self) -> Result<(), rocksdb::Error> {
        if self.point.is_some() { Ok(()) } else { self.iterator.status() }
    }

    /// Goes on to the next block; `place` is behind the last one of this.
    #[inline]
    pub(crate) fn next(&mut self, place: u64) {
        if self.point.is_some() {
            self.point = self.holding(place);
            if self.point.is_none() {
                self.iterator.seek(keys::block(self.lane, record::seq(place)));
            }
        } else {
            self.iterator.next();
            self.fall_back(place);
        }
    }

    /// Goes on to the block of `place`, or the first one behind it.
    pub(crate) fn seek(&mut self, place: u64) {
        self.point = None;
        self.iterator.seek(keys::block(self.lane, record::seq(place)));
        self.fall_back(place);
    }

    #[inline]
    fn fall_back(&mut self, place: u64) {
        // Not asked here whether the disk is there at all: where it is not, point reads find nothing either.
        if !self.iterator.valid() && self.iterator.status().is_err_and(is_of_disk) {
            self.point = self.holding(place);
        }
    }

    /// The sound block that holds `place`, by point reads.
    #[cold]
    fn holding(&self, place: u64) -> Option<Point> {
        let point = point_behind(self.engine, self.lane, (place, BLOCK_PLACES))?;
        (first_of(&point)? <= place).then_some(point)
    }
}

/// The first place in `from..good` at which point reads give a sound block, else `good`: iterators give none there, nor point
/// reads one that holds `from`.
pub(crate) fn search_points(engine: &Engine, lane: LaneId, from: u64, good: u64) -> u64 {
    // What one of the `places` from `place` on is in, or stands before.
    let sound_behind = |place: u64, places| {
        // The block of the last place before `good` may end behind it: what tells two sectors apart in an index may be behind the
        // first places of the second one, and an iterator that is to go to one in between is sent to the bad one.
        let end = good.min(place.saturating_add(places)).saturating_add(BLOCK_PLACES - 1);
        let mut at = place;
        while at < end {
            let point = point_behind(engine, lane, (at, end - at))?;
            match (first_of(&point), keys::parse_block(&point.key)) {
                (Some(first), _) => return Some(first.max(place).min(good)),
                (None, Some((_, last))) => at = last.get() + 1,
                (None, None) => return None,
            }
        }
        None
    };
    if let Some(first) = sound_behind(from, SEARCHED_PLACES_MAX) {
        return first.max(from + 1);
    }
    let asked = from.saturating_add(SEARCHED_PLACES_MAX);
    if asked >= good {
        return good;
    }
    let found = search(asked - 1, good, |place| sound_behind(place, 1).is_some());
    sound_behind(found, 1).unwrap_or(good)
}

/// A place behind `bad`, at most `end`, that is readable while the one before is not, near the first of them.
pub(crate) fn search(bad: u64, end: u64, is_readable: impl Fn(u64) -> bool) -> u64 {
    let from = bad;
    let (mut bad, mut good) = (bad, bad.saturating_add(1));
    while good < end && !is_readable(good) {
        (bad, good) = (good, good.saturating_add(2 * (good - from)));
    }
    good = good.min(end);
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if is_readable(middle) { good = middle } else { bad = middle }
    }
    good
}

/// The first block whose last place is one of the `places` from `from` on, sound or not; what cannot be read is passed over.
///
/// A point read asks the newest file first, and only files whose keys reach around its key. But where no more than three files
/// are all there is, RocksDB asks them without a look at their bounds; then [`Engine::get_between_bounds`] has it.
fn point_behind(engine: &Engine, lane: LaneId, (from, places): (u64, u64)) -> Option<Point> {
    let how = Engine::reading(true);
    let family = engine.family(FAMILY_LOG);
    (from..from.saturating_add(places)).find_map(|last| {
        let key = keys::block(lane, record::seq(last));
        let value = match engine.db.get_cf_opt(family, key, &how) {
            Ok(value) => value?,
            Err(_) => engine.get_between_bounds(FAMILY_LOG, &key)?,
        };
        Some(Point { key, value })
    })
}

/// The running sum behind the first sound block that ends at `place` or, by less than a block, behind it.
pub(crate) fn sum_behind(engine: &Engine, lane: LaneId, place: u64) -> Option<u64> {
    let point = point_behind(engine, lane, (place, BLOCK_PLACES))?;
    Block::parse(&point.key, &point.value).map(|block| block.bytes_end())
}

fn first_of(point: &Point) -> Option<u64> {
    Block::parse(&point.key, &point.value).map(|block| block.first)
}
