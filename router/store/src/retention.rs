//! Giving back the space of what nobody will read: delivered, expired, given up, removed.
//!
//! Knows: how far each lane is dropped, and what dropping costs RocksDB. May use: `log`, `block`. Never: decides what is
//! delivered. In: cursors and the time. Out: deletions, in bounded portions; ranges that were lost, for the ledger.
//! Invariant: every block that is dropped lies wholly before a head that is written in the same batch, or was durable
//! before. So a crash finds either the blocks, or a head behind them.
//!
//! Three ways to drop, by size: a few blocks one by one; more by one range tombstone; whole files at once (no
//! compaction needed). Tombstones cost readers nothing: a reader starts at the head and never looks at what is hidden.

use crate::block::Block;
use crate::cursor::Blocks;
use crate::engine::Engine;
use crate::error::StoreError;
use crate::face::{Expired, LossKind, Lost, add_lost};
use crate::keys::{self, FAMILY_LANES, FAMILY_LOG, FAMILY_STATE};
use crate::lanes::Lane;
use crate::log::Log;
use crate::middle::Part;
use crate::read::{Reader, front_of, is_damage, sound_from, state_of};
use crate::record;
use crate::stats::sizes_on_disk;
use model::{LaneId, Timestamp};
use rocksdb::{BottommostLevelCompaction, CompactOptions, WriteBatch, properties};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Up to so many blocks are deleted one by one.
const SINGLE_DELETES_MAX: usize = 8;
/// A lane with so few blocks to drop is left alone for this long: a slow lane would pay one deletion per message.
const SMALL_DROP_MILLIS: u64 = 5_000;
/// Lanes looked at per call, for delivered and for expired blocks each.
const LANES_PER_CALL: usize = 64;
/// Dead bytes of a lane that are worth a merge of their own.
const MERGE_WORTH_BYTES: u64 = 256 << 10;
/// Expired blocks per call.
const EXPIRED_BLOCKS_PER_CALL: usize = 1_024;

/// How far the dropping is.
#[derive(Default)]
pub(crate) struct Retention {
    /// Lanes whose head may be behind what is dropped, each once.
    due: VecDeque<LaneId>,
    lanes: FxHashMap<LaneId, Dropped>,
    /// Lanes that are still to be looked at for expired blocks in this round.
    round: Vec<Arc<Lane>>,
    /// Lanes removed in the commit that is being collected, and in earlier ones: their files may go.
    removing: Vec<LaneId>,
    removed: Vec<LaneId>,
    /// Space is short.
    pressed: bool,
}

#[derive(Clone, Copy, Default)]
struct Dropped {
    /// Blocks that end before this place are deleted. 0 after a start: nobody remembers.
    below: u64,
    /// Running sum of record bytes up to which whole files are deleted.
    files_below_bytes: u64,
    /// The same sum up to which the blocks are deleted, if that is known.
    released_bytes: u64,
    is_known: bool,
    /// When it was dropped last.
    at: Timestamp,
    queued: bool,
}

impl Dropped {
    /// Whether a few blocks have waited long enough. A clock that was set back must not make them wait for ever.
    fn is_due(&self, now: Timestamp) -> bool {
        now < self.at || self.at.plus_millis(SMALL_DROP_MILLIS) <= now
    }
}

impl Retention {
    /// After opening: every lane that delivered something may have something to drop.
    pub(crate) fn start(&mut self, lanes: &[Arc<Lane>]) {
        for lane in lanes.iter().filter(|lane| lane.head() > 1) {
            self.note_moved(lane.id);
        }
    }

    /// The head of this lane moved.
    pub(crate) fn note_moved(&mut self, lane: LaneId) {
        let dropped = self.lanes.entry(lane).or_default();
        if !dropped.queued {
            dropped.queued = true;
            self.due.push_back(lane);
        }
    }

    /// Removals that were collected are durable now.
    pub(crate) fn on_commit(&mut self) {
        self.removed.append(&mut self.removing);
    }
}

impl Log {
    /// [`crate::CommitLog::reclaim`].
    pub(crate) fn give_back_space(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        self.check_poison()?;
        let mut batch = WriteBatch::default();
        self.put_moved_heads(&mut batch)?;
        let files = self.drop_delivered(now, &mut batch)?;
        let more = self.retention.due.len() > LANES_PER_CALL;
        if !batch.is_empty() {
            self.write(batch, false)?;
        }
        self.drop_files(files)?;
        Ok(more)
    }

    /// While space is short whole files are looked for after little progress, which costs a sync each time.
    pub fn press(&mut self, is_space_short: bool) {
        self.retention.pressed = is_space_short;
    }

    /// [`crate::CommitLog::expire`].
    pub(crate) fn pass_expired(&mut self, now: Timestamp) -> Result<Expired, StoreError> {
        self.check_poison()?;
        let mut expired = Expired::default();
        self.expire_lanes(now, &mut expired)?;
        self.expire_middle(now, &mut expired);
        Ok(expired)
    }

    /// [`crate::CommitLog::drop_oldest`].
    pub(crate) fn give_up_oldest(&mut self, lane: LaneId, bytes: u64) -> Result<Vec<Lost>, StoreError> {
        self.check_poison()?;
        let lane = self.reader.shared.lanes.get(lane)?;
        let engine = self.reader.shared.engine()?;
        let mut freed = 0;
        let to_tell = |block: &Block<'_>, from| self.to_tell(&lane, block, from);
        let lost = lose_blocks(&engine, &lane, usize::MAX, to_tell, |block_bytes, _| {
            let wanted = freed < bytes;
            freed += block_bytes;
            wanted
        })?;
        self.pass(&lane, lost)
    }

    /// What a lane has and nobody was told of, in ranges: for who removes it. Asks the disk for its head alone: what is no husk
    /// yet is among it, be it delivered behind the head, or told before it was written.
    pub fn remains_of(&self, lane: LaneId) -> Result<Vec<Lost>, StoreError> {
        let lane = self.reader.shared.lanes.get(lane)?;
        let engine = self.reader.shared.engine()?;
        let (head, tail, end) = (lane.head(), lane.tail(), lane.appended_bytes());
        let before = front_of(&engine, &lane)?.map_or(end, |front| front.bytes_before);
        let mut remains = Vec::new();
        for range in self.middle.husks_of(&lane).between((head, tail), (before, end)) {
            add_lost(&mut remains, lane.id, (range.first, range.last), range.bytes.1 - range.bytes.0);
        }
        Ok(remains)
    }

    /// Collects the deletion of every block of a lane that is being removed.
    pub(crate) fn drop_blocks_of(&mut self, lane: &Lane, staged: bool) -> Result<(), StoreError> {
        let engine = self.reader.shared.engine()?;
        let family = engine.family(FAMILY_LOG);
        let (from, to) = (keys::lane_start(lane.id), keys::lane_end(lane.id));
        let (blocks, more) = keys_between(&engine, &from, &to)?;
        if staged || more {
            self.staging.batch.delete_range_cf(family, from, to);
        } else {
            blocks.iter().for_each(|key| self.staging.batch.delete_cf(family, key));
        }
        self.retention.lanes.remove(&lane.id);
        let released = state_of(&engine, lane)?.bytes;
        crate::stats::add(&self.reader.shared.counters.released_bytes, released);
        if lane.appended_bytes() >= self.options.sorted_file_bytes {
            self.retention.removing.push(lane.id);
        }
        Ok(())
    }

    /// Moves heads over blocks that are wholly expired: the round goes on where the last call stopped. A lane that cannot be
    /// looked at hides nothing of what the others lost.
    fn expire_lanes(&mut self, now: Timestamp, found: &mut Expired) -> Result<(), StoreError> {
        if self.retention.round.is_empty() {
            self.retention.round = self.reader.shared.lanes.all();
        }
        let mut blocks_left = EXPIRED_BLOCKS_PER_CALL;
        for _ in 0..LANES_PER_CALL {
            let Some(lane) = self.retention.round.pop() else { break };
            // The list is as old as the round: a lane may be gone by now.
            if self.reader.shared.lanes.get(lane.id).is_err() {
                continue;
            }
            match self.expire_lane(&lane, now, &mut blocks_left) {
                Ok(lost) => found.lost.extend(lost),
                Err(error) => found.passed_by = Some(error),
            }
            if blocks_left == 0 {
                self.retention.round.push(lane);
                found.more = true;
                break;
            }
        }
        Ok(())
    }

    fn expire_lane(
        &self,
        lane: &Arc<Lane>,
        now: Timestamp,
        blocks_left: &mut usize,
    ) -> Result<Vec<Lost>, StoreError> {
        let engine = self.reader.shared.engine()?;
        let expired = |front: crate::lanes::Front| record::is_expired(front.expires_max, now);
        if !front_of(&engine, lane)?.is_some_and(expired) {
            return Ok(Vec::new());
        }
        let to_tell = |block: &Block<'_>, from| self.to_tell(lane, block, from);
        let lost = lose_blocks(&engine, lane, *blocks_left, to_tell, |_, block| {
            let wanted = block.is_expired(now);
            *blocks_left -= usize::from(wanted);
            wanted
        })?;
        self.pass(lane, lost)
    }

    /// Moves the head of a lane over what is lost, and notes what was damaged before it.
    fn pass(&self, lane: &Arc<Lane>, lost: LostBlocks) -> Result<Vec<Lost>, StoreError> {
        let Some(last) = model::Seq::new(lost.passed) else { return Ok(Vec::new()) };
        let shared = &self.reader.shared;
        for range in lost.damaged {
            shared.notes.note(LossKind::Damaged, lane, lane.head(), range, 0);
        }
        shared.lanes.advance(lane, last)?;
        Ok(lost.taken)
    }

    /// Adds deletions of delivered blocks to `batch`; says of which lanes whole files can go when it is durable.
    fn drop_delivered(
        &mut self,
        now: Timestamp,
        batch: &mut WriteBatch,
    ) -> Result<Vec<(LaneId, u64)>, StoreError> {
        let mut files = Vec::new();
        let files_worth_bytes = match self.retention.pressed {
            true => self.options.sorted_file_bytes / 2,
            false => 2 * self.options.sorted_file_bytes,
        };
        let engine = self.reader.shared.engine()?;
        let family = engine.family(FAMILY_LOG);
        for _ in 0..self.retention.due.len().min(LANES_PER_CALL) {
            let Some(id) = self.retention.due.pop_front() else { break };
            let (Ok(lane), Some(dropped)) =
                (self.reader.shared.lanes.get(id), self.retention.lanes.get_mut(&id))
            else {
                continue; // removed meanwhile
            };
            if self.middle.is_pending(id) {
                // What is about to be written there would stay for good.
                self.retention.due.push_back(id);
                continue;
            }
            dropped.queued = false;
            let head = lane.head();
            let (from, to) = (raw_key(id, dropped.below), raw_key(id, head));
            let (blocks, more) = keys_between(&engine, &from, &to)?;
            if more {
                batch.delete_range_cf(family, from, to);
            } else if blocks.is_empty() || dropped.is_due(now) {
                blocks.iter().for_each(|key| batch.delete_cf(family, key));
            } else {
                dropped.queued = true;
                self.retention.due.push_back(id);
                continue;
            }
            dropped.at = now;
            dropped.below = head;
            batch.put_cf(engine.family(FAMILY_LANES), keys::lane_head(id), head.to_be_bytes());
            let bytes_below =
                front_of(&engine, &lane)?.map_or(lane.appended_bytes(), |front| front.bytes_before);
            self.reader.shared.lanes.ahead().forget_before(id, head);
            let (husks, husk_bytes) = {
                let mut husks = lane.husks();
                let husk_bytes = husks.bytes_between(dropped.released_bytes, bytes_below);
                (husks.forget_before(head), husk_bytes)
            };
            self.middle.forgot(husks.len());
            for first in husks {
                batch.delete_cf(engine.family(FAMILY_STATE), keys::husks(id, first));
            }
            if dropped.is_known {
                // The records of husks are counted already.
                let released = bytes_below.saturating_sub(dropped.released_bytes).saturating_sub(husk_bytes);
                crate::stats::add(&self.reader.shared.counters.released_bytes, released);
                lane.release(released);
            }
            (dropped.is_known, dropped.released_bytes) = (true, bytes_below);
            if bytes_below.saturating_sub(dropped.files_below_bytes) >= files_worth_bytes {
                dropped.files_below_bytes = bytes_below;
                files.push((id, head));
            }
        }
        Ok(files)
    }

    /// Deletes whole files. Unlike a write this cannot be undone by a crash, so what allows it must be durable first.
    fn drop_files(&mut self, delivered: Vec<(LaneId, u64)>) -> Result<(), StoreError> {
        let removed = std::mem::take(&mut self.retention.removed);
        if delivered.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let shared = self.reader.shared.clone();
        let engine = shared.engine()?;
        engine.db.flush_wal(true).map_err(|e| self.poison_with(e))?;
        crate::stats::add(&shared.counters.syncs, 1);
        // The end is inclusive here: the block that holds the head ends at the head or later.
        let delivered = delivered.into_iter().map(|(lane, head)| (lane, raw_key(lane, head - 1)));
        let removed = removed.into_iter().map(|lane| (lane, keys::lane_end(lane)));
        for (lane, to) in delivered.chain(removed) {
            engine
                .db
                .delete_file_in_range_cf(engine.family(FAMILY_LOG), keys::lane_start(lane), to)
                .map_err(|e| self.poison_with(e))?;
        }
        Ok(())
    }
}

impl Reader {
    /// Merges the sorted files of the log if more than half of what they hold is dead, and says whether it did.
    ///
    /// RocksDB merges when more is written; after a long outage was drained and little follows, this gives the space
    /// back. It blocks for as long as that takes (seconds per gigabyte that is left) and is meant for a thread that
    /// may wait. Readers and the writer go on meanwhile.
    pub fn tidy(&self) -> Result<bool, StoreError> {
        let engine = self.shared.engine()?;
        let mut live_bytes = 0;
        for lane in self.shared.lanes.all() {
            live_bytes += state_of(&engine, &lane)?.bytes;
        }
        let sorted_bytes = engine.number(FAMILY_LOG, properties::LIVE_SST_FILES_SIZE);
        if sorted_bytes <= 2 * live_bytes + (1 << 20) {
            return Ok(false);
        }
        let mut how = CompactOptions::default();
        how.set_exclusive_manual_compaction(false);
        how.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        engine.db.compact_range_cf_opt(engine.family(FAMILY_LOG), None::<&[u8]>, None::<&[u8]>, &how);
        Ok(true)
    }
}

impl Reader {
    /// Merges what holds the dead records of lanes, whatever else it holds, and says how many bytes of records that gives
    /// back at most. For when space is short: unlike [`Reader::tidy`] it leaves files alone that are all alive. It blocks
    /// for as long as that takes, and is meant for a thread that may wait.
    pub fn merge_released(&self) -> Result<u64, StoreError> {
        let counters = &self.shared.counters;
        let before = counters.released_bytes.load(Ordering::Relaxed);
        let engine = self.shared.engine()?;
        let mut how = CompactOptions::default();
        how.set_exclusive_manual_compaction(false);
        how.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        // Lanes of which little is dead share the files in which they arrive, and are merged with them.
        let worth_it = |lane: &&Arc<Lane>| lane.unmerged_bytes() >= MERGE_WORTH_BYTES;
        for lane in self.shared.lanes.all().iter().filter(worth_it) {
            lane.merged();
            let to = lane.head().max(lane.husks().last() + 1);
            let (from, to) = (keys::lane_start(lane.id), raw_key(lane.id, to));
            engine.db.compact_range_cf_opt(engine.family(FAMILY_LOG), Some(from), Some(to), &how);
        }
        let merged = before.saturating_sub(counters.merged_bytes.swap(before, Ordering::Relaxed));
        Ok(merged)
    }

    /// Merges all sorted files of the log. It blocks for as long as that takes.
    pub fn merge_all(&self) -> Result<(), StoreError> {
        let engine = self.shared.engine()?;
        let mut how = CompactOptions::default();
        how.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        engine.db.compact_range_cf_opt(engine.family(FAMILY_LOG), None::<&[u8]>, None::<&[u8]>, &how);
        Ok(())
    }

    /// Bytes of records that are deleted and that no [`Reader::merge_released`] has looked for yet.
    pub fn unmerged_bytes(&self) -> u64 {
        let counters = &self.shared.counters;
        let merged = counters.merged_bytes.load(Ordering::Relaxed);
        counters.released_bytes.load(Ordering::Relaxed).saturating_sub(merged)
    }

    /// What the directory of the store takes on the disk, and what of that is sorted files. Cost: a look at each file.
    pub fn occupied(&self) -> Result<Occupied, StoreError> {
        let engine = self.shared.engine()?;
        let sorted_bytes = engine.number(FAMILY_LOG, properties::LIVE_SST_FILES_SIZE);
        Ok(Occupied { bytes: sizes_on_disk(&engine).0, sorted_bytes })
    }
}

/// What a store takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Everything in its directory.
    pub bytes: u64,
    /// What of that is sorted files of the log.
    pub sorted_bytes: u64,
}

/// What was taken from the head of a lane.
#[derive(Default)]
struct LostBlocks {
    /// In ascending ranges that do not touch.
    taken: Vec<Lost>,
    /// The last place of what was gone over; 0 if nothing was.
    passed: u64,
    /// Places (first, last) before and between them that cannot be read.
    damaged: Vec<(u64, u64)>,
}

/// Goes over the blocks of a lane from its head on, at most `blocks_max` of them, as long as `wanted` (given the bytes
/// that are undelivered in the block, and the block) says so. Damage goes with the block behind it. Husks are gone over; what is
/// lost of another block, from some place of it on, is what `to_tell` says.
fn lose_blocks(
    engine: &Engine,
    lane: &Lane,
    blocks_max: usize,
    to_tell: impl Fn(&Block<'_>, u64) -> Vec<Part>,
    mut wanted: impl FnMut(u64, &Block<'_>) -> bool,
) -> Result<LostBlocks, StoreError> {
    let (head, tail) = (lane.head(), lane.tail());
    let mut lost = LostBlocks::default();
    let mut blocks = Blocks::from(engine, lane.id, head, true);
    let mut next = head;
    for _ in 0..blocks_max {
        let readable = sound_from(engine, &mut blocks, lane.id, next, tail)?;
        let block = blocks.item().and_then(|(key, value)| Block::parse(key, value));
        let Some(block) = block.filter(|block| readable < tail && block.last < tail) else { break };
        let bytes = block.record_bytes() - block.position(readable).0;
        if !wanted(bytes, &block) {
            break;
        }
        if readable > next {
            lost.damaged.push((next, readable - 1));
        }
        for (places, bytes) in to_tell(&block, readable) {
            add_lost(&mut lost.taken, lane.id, places, bytes);
        }
        (lost.passed, next) = (block.last, block.last + 1);
        blocks.next(next);
    }
    Ok(lost)
}

/// The first keys of blocks in a range, and whether there are more: more than are deleted one by one, or such as cannot be read.
/// Blocks that a tombstone hides are among them; deleting them again is harmless, and looking through tombstones is what costs.
fn keys_between(engine: &Engine, from: &[u8], to: &[u8]) -> Result<(Vec<Vec<u8>>, bool), StoreError> {
    let mut found = Vec::new();
    let mut blocks = engine.range(FAMILY_LOG, from, to, true);
    blocks.seek_to_first();
    while let (Some(key), true) = (blocks.key(), found.len() <= SINGLE_DELETES_MAX) {
        found.push(key.to_vec());
        blocks.next();
    }
    match blocks.status() {
        Ok(()) => {
            let more = found.len() > SINGLE_DELETES_MAX;
            Ok((found, more))
        }
        // What is damaged is dropped like the rest; a reader has told of it.
        Err(error) => is_damage(engine, error).map(|()| (found, true)),
    }
}

/// Like `keys::block`, also for place 0, which no record has.
fn raw_key(lane: LaneId, place: u64) -> [u8; keys::BLOCK_KEY_BYTES] {
    model::Seq::new(place).map_or(keys::lane_start(lane), |seq| keys::block(lane, seq))
}
