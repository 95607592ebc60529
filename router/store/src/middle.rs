//! Taking out what has expired, or is delivered, behind the head of a lane: a block that is wholly over becomes a husk, its
//! header alone.
//!
//! Knows: which blocks may be taken out, and what goes into one batch. May use: `log`, `block`, `expiry`, `husks`, `ahead`.
//! Never: touches a block with a record that neither has expired nor is delivered, or one that the head stands in (that is
//! `retention`'s).
//! In:  the index of times, the time, what is delivered. Out: husks, the note of them, and ranges for the ledger, which all go with
//! the same commit: a crash leaves the records and no entry, or husks and the entry. What is delivered is in no entry.
//! Bound: [`BLOCKS_PER_LOOK`] blocks, [`LOOK_BYTES`] of them and [`RANGES_PER_LOOK`] ranges are read per look, and one more block,
//! of what has expired and as much of what is delivered; nothing where nothing is due. After a start, lanes in which something
//! expires are read through once, at the same pace. What has no room among the ranges waits, one stretch of each lane, until heads
//! have passed a share of them.

use crate::block::{self, BLOCK_RECORDS_MAX, Block};
use crate::cursor::Blocks;
use crate::error::StoreError;
use crate::expiry::{Expiries, Span, Timed};
use crate::face::{Expired, add_lost};
use crate::husks::{Change, Husks, Range};
use crate::keys::{self, FAMILY_LOG, FAMILY_STATE};
use crate::lanes::{Known, Lane, LaneTable};
use crate::log::Log;
use crate::read::readable_from;
use crate::record::{self, NEVER};
use crate::recovery::Own;
use crate::stats;
use model::{LaneId, Timestamp};
use rocksdb::WriteBatch;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Blocks that one look reads.
const BLOCKS_PER_LOOK: usize = 1_024;
/// Their bytes.
const LOOK_BYTES: usize = 1 << 20;
/// Ranges that one look takes out: each is an entry of a ledger of its own.
const RANGES_PER_LOOK: usize = 128;
/// What a look is charged for a span beside its blocks, and for damage in it: looking for what is behind took that much.
const SPAN_BLOCKS: usize = 1;
const DAMAGE_BLOCKS: usize = 64;
/// And for a lane that is read anew: at its end all spans are asked whether they are of that lane.
const ANEW_BLOCKS: usize = 16;
/// What waits for room is looked at again when such a share of all ranges was passed.
const FREED_SHARE: usize = 16;
/// Fewer places that are delivered are not worth a group of their own, until they have waited for so long.
const FEW_PLACES: u64 = 64;
const FEW_MILLIS: u64 = 5_000;
/// When what could not be read is tried again.
const AGAIN_MILLIS: u64 = 60_000;

/// See the charter.
#[derive(Default)]
pub(crate) struct Middle {
    pub(crate) expiries: Expiries,
    /// Lanes of which blocks are taken out in the batch that is being collected.
    pending: FxHashMap<LaneId, Pending>,
    /// Ranges of husks of all lanes, as they are on the disk.
    ranges: usize,
    /// Most of them; half of that in one lane.
    ranges_max: usize,
    /// What is over and had no room among them, by lane.
    waiting: BTreeMap<LaneId, (u64, u64)>,
    /// Ranges that are gone since it was looked at.
    freed: usize,
    /// What is delivered is not looked at before this time: it is little, or, and then it does not matter how much, could not
    /// be read.
    ahead_at: Option<(Timestamp, bool)>,
    /// All of it is looked at now, however little.
    is_last: bool,
}

/// What a lane's husks will be.
struct Pending {
    husks: Husks,
    /// Bytes of records that are taken out.
    bytes: u64,
}

/// What one look may still read.
struct Look {
    now: Timestamp,
    blocks: usize,
    bytes: usize,
    ranges: usize,
}

/// Some places of a block, and the bytes of their records.
pub(crate) type Part = ((u64, u64), u64);

/// A block that is to be taken out.
struct Over {
    places: (u64, u64),
    bytes: (u64, u64),
    /// What of it has expired undelivered, and was not told already: when it was written, or as is noted.
    lost: Vec<Part>,
    /// It is noted as a husk: the note is newer than the block.
    is_noted: bool,
}

/// What was found in a stretch of a lane.
#[derive(Default)]
struct Found {
    over: Vec<Over>,
    /// Husks that are not noted: the note is lost.
    unknown: Vec<Range>,
    /// Where to go on, if the look was over.
    next: Option<u64>,
    /// There was damage in it.
    is_cut: bool,
}

impl Middle {
    /// After opening, with what the disk has noted; what is to be written for it goes to `batch`. `entries_max` bounds spans, and
    /// ranges of husks; a lane that has some may exceed that by what one look finds. Lanes that are `left_whole` are not looked at.
    pub(crate) fn start(
        entries_max: usize,
        own: &Own,
        lanes: &LaneTable,
        state: &rocksdb::ColumnFamily,
        batch: &mut WriteBatch,
        left_whole: impl Fn(&Lane) -> bool,
    ) -> Middle {
        let mut middle =
            Middle { expiries: Expiries::new(entries_max), ranges_max: entries_max, ..Middle::default() };
        for key in &own.stale {
            batch.delete_cf(state, key);
        }
        if !own.timed_noted {
            // Written by an earlier version, or the note is lost: something may expire in any of them.
            batch.put_cf(state, keys::KEY_TIMED_NOTED, b"");
        }
        for lane in lanes.all() {
            middle.ranges += lane.husks().len();
            let is_new = !own.timed_noted && lane.head() < lane.tail() && !left_whole(&lane);
            if is_new {
                batch.put_cf(state, keys::timed_lane(lane.id), b"");
            }
            if is_new || own.timed.contains(&lane.id) {
                middle.expiries.mark(lane.id);
                middle.expiries.read_anew(lane.id, (lane.head(), lane.tail()));
            }
        }
        middle
    }

    /// Whether this lane's husks are about to change.
    pub(crate) fn is_pending(&self, lane: LaneId) -> bool {
        self.pending.contains_key(&lane)
    }

    /// Whether the batch that is being collected takes something out.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether these places of a block are taken out in the batch that is being collected, or were before.
    pub(crate) fn is_told(&self, lane: &Lane, places: (u64, u64)) -> bool {
        let pending = self.pending.get(&lane.id);
        pending.is_some_and(|pending| pending.husks.hold(places)) || lane.husks().hold(places)
    }

    /// A lane's husks as they are with the batch that is being collected.
    pub(crate) fn husks_of(&self, lane: &Lane) -> Husks {
        self.pending.get(&lane.id).map_or_else(|| lane.husks().clone(), |pending| pending.husks.clone())
    }

    /// So many ranges are passed and forgotten.
    pub(crate) fn forgot(&mut self, ranges: usize) {
        self.ranges = self.ranges.saturating_sub(ranges);
        self.freed += ranges;
    }

    /// Whether there is room for this range among those of its lane; one that touches another takes none.
    fn has_room(&self, husks: &Husks, range: &Range) -> bool {
        let is_full = husks.len() >= self.ranges_max / 2 || self.ranges >= self.ranges_max;
        !is_full || husks.touches(range)
    }

    /// These places are over and have no room.
    fn wait(&mut self, lane: LaneId, (from, up_to): (u64, u64)) {
        let places = self.waiting.entry(lane).or_insert((from, up_to));
        *places = (places.0.min(from), places.1.max(up_to));
    }

    /// Whether what is delivered is looked at now.
    fn has_waited(&mut self, now: Timestamp, is_enough: bool) -> bool {
        match self.ahead_at {
            // A clock that was set back must not make it wait for ever.
            Some((at, failed)) if now < at && at.0 <= now.0.saturating_add(AGAIN_MILLIS) => {
                if failed || !is_enough {
                    return false;
                }
            }
            Some(_) => {}
            None if is_enough => {}
            None => {
                self.ahead_at = Some((now.plus_millis(FEW_MILLIS), false));
                return false;
            }
        }
        self.ahead_at = None;
        true
    }

    /// What waits is read anew if there may be room.
    fn wake(&mut self) {
        if self.freed > self.ranges_max / FREED_SHARE {
            self.freed = 0;
            let woken = std::mem::take(&mut self.waiting);
            woken.into_iter().for_each(|(lane, places)| self.expiries.read_anew(lane, places));
        }
    }
}

impl Look {
    fn new(now: Timestamp) -> Look {
        Look { now, blocks: BLOCKS_PER_LOOK, bytes: LOOK_BYTES, ranges: RANGES_PER_LOOK }
    }

    fn is_over(&self) -> bool {
        self.blocks == 0 || self.bytes == 0 || self.ranges == 0
    }

    /// Most likely the disk is away, and would be for what else is due.
    fn fails(&mut self, error: StoreError, found: &mut Expired) {
        (found.passed_by, found.more) = (Some(error), false);
        self.blocks = 0;
    }

    fn takes(&mut self, blocks: usize, bytes: usize) {
        self.blocks = self.blocks.saturating_sub(blocks);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Log {
    /// The part of [`crate::CommitLog::expire`] behind heads.
    pub(crate) fn expire_middle(&mut self, now: Timestamp, found: &mut Expired) {
        self.middle.wake();
        self.take_out_delivered(now, found);
        let mut look = Look::new(now);
        while !look.is_over()
            && let Some(span) = self.middle.expiries.take_due(now.0)
        {
            match self.look_through(span.lane, (span.from, span.up_to), &mut look, None) {
                Ok(seen) => {
                    if let Some(from) = seen.next {
                        self.middle.expiries.put_back(now.0, Span { from, ..span });
                        found.more = true;
                    }
                    self.take_out(span.lane, seen, found);
                }
                Err(error) => {
                    self.middle.expiries.put_back(now.0.saturating_add(AGAIN_MILLIS), span);
                    look.fails(error, found);
                }
            }
        }
        while !look.is_over()
            && let Some((lane, places)) = self.middle.expiries.take_unread(now.0)
        {
            self.read_anew(lane, places, &mut look, found);
        }
        found.collected |= self.middle.has_pending();
    }

    /// From now on whatever is delivered behind a head is taken out at once, however little it is: before a stop.
    pub fn take_out_all(&mut self) {
        self.middle.is_last = true;
    }

    /// What is delivered goes for that alone, whenever it would expire.
    fn take_out_delivered(&mut self, now: Timestamp, found: &mut Expired) {
        let shared = self.reader.shared.clone();
        let Some(fresh) = shared.lanes.ahead().fresh() else {
            self.middle.ahead_at = None;
            return;
        };
        let is_enough = self.middle.is_last || fresh >= FEW_PLACES;
        if !self.middle.has_waited(now, is_enough) {
            return;
        }
        let mut look = Look::new(now);
        let unseen = shared.lanes.ahead().unseen(RANGES_PER_LOOK);
        found.more |= unseen.len() == RANGES_PER_LOOK;
        for (lane, (from, up_to)) in unseen {
            if look.is_over() {
                found.more = true;
                return;
            }
            if shared.lanes.get(lane).is_err() {
                shared.lanes.ahead().forget(lane);
                continue;
            }
            match self.look_through(lane, (from, up_to), &mut look, None) {
                Ok(seen) => {
                    found.more |= seen.next.is_some();
                    shared.lanes.ahead().seen(lane, from, seen.next.unwrap_or(up_to + 1));
                    self.take_out(lane, seen, found);
                }
                Err(error) => {
                    self.middle.ahead_at = Some((now.plus_millis(AGAIN_MILLIS), true));
                    found.passed_by = Some(error);
                    return;
                }
            }
        }
        shared.lanes.ahead().look_is_over();
    }

    /// Reads on in a lane of which nobody knows what expires when.
    fn read_anew(&mut self, lane: LaneId, places: (u64, u64), look: &mut Look, found: &mut Expired) {
        let mut timed = Vec::new();
        look.takes(ANEW_BLOCKS, 0);
        let seen = match self.look_through(lane, places, look, Some(&mut timed)) {
            Ok(seen) => seen,
            Err(error) => {
                let again = look.now.0.saturating_add(AGAIN_MILLIS);
                self.middle.expiries.read_later(lane, places, again);
                return look.fails(error, found);
            }
        };
        timed.into_iter().for_each(|block| self.middle.expiries.note(block));
        if let Some(next) = seen.next {
            self.middle.expiries.read_anew(lane, (next, places.1));
        }
        let is_cut = seen.is_cut;
        self.take_out(lane, seen, found);
        let middle = &self.middle;
        let has_more = middle.expiries.has(lane) || middle.waiting.contains_key(&lane);
        if !is_cut && !has_more && middle.expiries.is_marked(lane) {
            self.unmark(lane);
        }
    }

    /// Nothing in this lane expires any more.
    fn unmark(&mut self, lane: LaneId) {
        let Ok(engine) = self.reader.shared.engine() else { return };
        self.staging.batch.delete_cf(engine.family(FAMILY_STATE), keys::timed_lane(lane));
        self.middle.expiries.forget(lane);
    }

    /// Goes over the blocks of some places behind the head. With `timed` it is not known what expires there when.
    fn look_through(
        &self,
        id: LaneId,
        (from, up_to): (u64, u64),
        look: &mut Look,
        mut timed: Option<&mut Vec<Timed>>,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        look.takes(SPAN_BLOCKS, 0);
        let Ok(lane) = self.reader.shared.lanes.get(id) else { return Ok(found) };
        if self.is_left_whole(&lane) {
            return Ok(found);
        }
        let engine = self.reader.shared.engine()?;
        let (head, tail) = (lane.head(), lane.tail());
        let end = tail.min(up_to.saturating_add(1));
        let mut next = from.max(head);
        if next >= end {
            return Ok(found);
        }
        let mut blocks = Blocks::from(&engine, id, next, true);
        while next < end {
            let Some((key, value)) = blocks.item() else {
                // What is damaged is told by whoever reads it. A start looks at it again: the sector may be back by then.
                found.is_cut = true;
                look.takes(DAMAGE_BLOCKS, 0);
                let Err(error) = blocks.status() else { break };
                next = readable_from(&engine, id, next, end, error)?;
                if next < end {
                    blocks.seek(next);
                }
                continue;
            };
            if look.is_over() {
                found.next = Some(next);
                break;
            }
            look.takes(1, value.len());
            let block = Block::parse(key, value);
            let Some((_, last)) = keys::parse_block(key) else { break };
            if let Some(block) = block.filter(|block| block.first < end && block.last < tail) {
                let places = (block.first, block.last);
                let is_noted = lane.husks().hold(places);
                let is_coming = !is_noted && self.middle.is_told(&lane, places);
                if !is_coming && self.is_over(&block, is_noted, head, look.now) {
                    let lost = self.to_tell(&lane, &block, block.first);
                    let ends_at = |over: &Over| over.lost.last().map(|((_, last), _)| *last);
                    let before = found.over.last().and_then(ends_at);
                    let goes_on = lost.first().is_some_and(|((first, _), _)| before == Some(first - 1));
                    look.ranges = look.ranges.saturating_sub(lost.len() - usize::from(goes_on));
                    found.over.push(Over {
                        places,
                        bytes: (block.bytes_before, block.bytes_end()),
                        lost,
                        is_noted,
                    });
                } else if let Some(timed) = timed.as_deref_mut() {
                    if block.is_husk() && !is_noted && !is_coming {
                        let bytes = (block.bytes_before, block.bytes_end());
                        found.unknown.push(Range { first: block.first, last: block.last, bytes });
                    } else if !block.is_husk() && block.expires_max() != NEVER && !is_coming {
                        timed.push(timed_of(&block));
                    }
                }
            }
            next = next.max(last.get() + 1);
            blocks.next(next);
        }
        Ok(found)
    }

    /// Collects the husks of what is over, and notes them; tells of the places.
    fn take_out(&mut self, lane: LaneId, seen: Found, found: &mut Expired) {
        let shared = self.reader.shared.clone();
        let (Ok(lane), Ok(engine)) = (shared.lanes.get(lane), shared.engine()) else { return };
        if seen.over.is_empty() && seen.unknown.is_empty() {
            return;
        }
        let (log, state) = (engine.family(FAMILY_LOG), engine.family(FAMILY_STATE));
        let current = || Pending { husks: lane.husks().clone(), bytes: 0 };
        let mut pending = self.middle.pending.remove(&lane.id).unwrap_or_else(current);
        let batch = &mut self.staging.batch;
        let note = |batch: &mut WriteBatch, change| match change {
            Change::Put(range) => batch.put_cf(state, keys::husks(lane.id, range.first), range.encode()),
            Change::Delete(first) => batch.delete_cf(state, keys::husks(lane.id, first)),
        };
        for range in seen.unknown {
            if !self.middle.has_room(&pending.husks, &range) {
                continue; // they count as messages until a reader has passed them
            }
            pending.husks.add(range, |change| note(batch, change));
        }
        for group in groups(&seen.over) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let range =
                Range { first: first.places.0, last: last.places.1, bytes: (first.bytes.0, last.bytes.1) };
            if !first.is_noted && !self.middle.has_room(&pending.husks, &range) {
                self.middle.wait(lane.id, (range.first, range.last));
                continue;
            }
            for block in &group[..group.len() - 1] {
                batch.delete_cf(log, keys::block(lane.id, record::seq(block.places.1)));
            }
            let (key, value) = block::husk(lane.id, (range.first, range.last), range.bytes);
            batch.put_cf(log, key, value);
            if !first.is_noted {
                pending.husks.add(range, |change| note(batch, change));
            }
            pending.bytes += range.bytes.1 - range.bytes.0;
            for (places, bytes) in group.iter().flat_map(|block| &block.lost) {
                add_lost(&mut found.lost, lane.id, *places, *bytes);
            }
        }
        // Where nothing had room there is nothing to write, and no commit that would take it from here.
        if pending.bytes > 0 || pending.husks != *lane.husks() {
            self.middle.pending.insert(lane.id, pending);
        }
    }

    /// Before a group is written: lanes in which something expires for the first time are noted with it.
    pub(crate) fn mark_timed(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        if self.staging.timed.is_empty() {
            return Ok(());
        }
        let engine = self.reader.shared.engine()?;
        for timed in &self.staging.timed {
            if self.middle.expiries.is_marked(timed.lane) {
                continue;
            }
            let lane = self.reader.shared.lanes.get(timed.lane);
            if lane.is_ok_and(|lane| !self.is_left_whole(&lane)) && self.middle.expiries.mark(timed.lane) {
                batch.put_cf(engine.family(FAMILY_STATE), keys::timed_lane(timed.lane), b"");
            }
        }
        Ok(())
    }

    /// A group is durable: what expires in it is known, and what was taken out is.
    pub(crate) fn middle_is_durable(&mut self) {
        for timed in self.staging.timed.drain(..) {
            if self.middle.expiries.is_marked(timed.lane) {
                self.middle.expiries.note(timed);
            }
        }
        for (id, pending) in self.middle.pending.drain() {
            let Ok(lane) = self.reader.shared.lanes.get(id) else { continue };
            let mut husks = lane.husks();
            self.middle.ranges = (self.middle.ranges + pending.husks.len()).saturating_sub(husks.len());
            self.middle.freed += husks.len().saturating_sub(pending.husks.len());
            *husks = pending.husks;
            drop(husks);
            self.reader.shared.notes.settle(&lane);
            // The head may stand in one by now.
            *lane.front() = Known::Nothing;
            lane.release(pending.bytes);
            stats::add(&self.reader.shared.counters.released_bytes, pending.bytes);
        }
    }

    /// Collects that nothing is noted of a lane which is being removed.
    pub(crate) fn forget_middle_of(&mut self, lane: &Lane) -> Result<(), StoreError> {
        let engine = self.reader.shared.engine()?;
        let state = engine.family(FAMILY_STATE);
        let pending = self.middle.pending.remove(&lane.id).map(|pending| pending.husks);
        self.middle.forgot(lane.husks().len());
        self.middle.waiting.remove(&lane.id);
        for first in pending.unwrap_or_else(|| lane.husks().clone()).firsts() {
            self.staging.batch.delete_cf(state, keys::husks(lane.id, first));
        }
        if self.middle.expiries.is_marked(lane.id) {
            self.staging.batch.delete_cf(state, keys::timed_lane(lane.id));
        }
        self.middle.expiries.forget(lane.id);
        Ok(())
    }

    /// Whether a block may be taken out: all of it lies behind the head, and nobody needs any of its records.
    fn is_over(&self, block: &Block<'_>, is_noted: bool, head: u64, now: Timestamp) -> bool {
        let is_delivered = || self.reader.shared.lanes.ahead().covers(block.lane, (block.first, block.last));
        block.first > head && !block.is_husk() && (is_noted || block.is_expired(now) || is_delivered())
    }

    /// What nobody has of a block whose places from `from` on are given up: not those that were told, or are delivered.
    pub(crate) fn to_tell(&self, lane: &Lane, block: &Block<'_>, from: u64) -> Vec<Part> {
        if block.is_told() || self.middle.is_told(lane, (from, block.last)) {
            return Vec::new();
        }
        let left = self.reader.shared.lanes.ahead().without(block.lane, (from, block.last));
        left.into_iter().map(|places| (places, block.bytes_of(places))).collect()
    }

    fn is_left_whole(&self, lane: &Lane) -> bool {
        self.options.leaves_whole(&lane.name)
    }
}

fn timed_of(block: &Block<'_>) -> Timed {
    Timed {
        lane: block.lane,
        places: (block.first, block.last),
        bytes: (block.bytes_before, block.bytes_end()),
        expires: block.expires_max(),
        enqueued: block.position(block.first).1.map_or(0, |at| at.0),
    }
}

/// Blocks in a row that one husk takes the place of.
fn groups(over: &[Over]) -> impl Iterator<Item = &[Over]> {
    let mut first = 0;
    over.chunk_by(move |a, b| {
        if first == 0 {
            first = a.places.0;
        }
        let touches = a.places.1 + 1 == b.places.0 && a.bytes.1 == b.bytes.0 && a.is_noted == b.is_noted;
        let fits = b.places.1 - first < BLOCK_RECORDS_MAX as u64;
        if !(touches && fits) {
            first = b.places.0;
        }
        touches && fits
    })
}
