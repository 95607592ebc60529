//! The commit log without a disk, for the deterministic simulation and for tests.
//!
//! Knows: the contract of [`CommitLog`], and what a power cut takes. May use: `face`. Never: RocksDB, files, clocks.
//! In and out: as [`crate::Log`]; besides [`MemoryLog::crash`] and [`MemoryLog::fail_writes`], which a disk does by itself.
//! Invariant: the same calls give the same answers, always; records are grouped in blocks exactly as on the disk, so that
//! expiry and `drop_oldest` take the same ranges.

use crate::ahead::Ahead;
use crate::block::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX, HEADER_BYTES};
use crate::error::{Fault, FaultKind, StoreError};
use crate::face::{CommitLog, Committed, Expired, Lost, Space, StateVisitor, add_lost};
use crate::keys::LANE_NAME_BYTES_MAX;
use crate::lanes::LaneState;
use crate::middle::Part;
use crate::read::{ReadLimits, ReadOut};
use crate::record::{self, RECORD_OVERHEAD_BYTES, TOLD};
use crate::recovery::FIRST_LANE;
use model::{LaneId, Seq, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// See the charter.
#[derive(Debug)]
pub struct MemoryLog {
    /// What a disk would hold.
    kept: Kept,
    /// Cursors as they are in memory; at least as far as the kept ones.
    heads: BTreeMap<LaneId, u64>,
    /// What is delivered behind them.
    ahead: Ahead,
    /// Tails behind places that were passed over, of lanes whose head is not written since.
    passed: BTreeMap<LaneId, u64>,
    staged: Staged,
    committed: Vec<(LaneId, Seq)>,
    commit_bytes_max: u64,
    failing: bool,
    poison: Option<Fault>,
}

#[derive(Debug)]
struct Kept {
    lanes: BTreeMap<LaneId, Lane>,
    state: BTreeMap<(Space, Vec<u8>), Vec<u8>>,
    next_lane: u32,
}

#[derive(Debug)]
struct Lane {
    name: Arc<str>,
    head: u64,
    tail: u64,
    blocks: VecDeque<Block>,
}

#[derive(Clone, Debug, Default)]
struct Block {
    first: u64,
    records: Vec<Entry>,
    bytes: usize,
    expires_max: u64,
    /// Its records were taken out.
    is_husk: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    enqueued: Timestamp,
    expires: u64,
    /// The payload behind `RECORD_OVERHEAD_BYTES` of nothing, as [`ReadOut::push`] takes it.
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Staged {
    blocks: BTreeMap<LaneId, Vec<Block>>,
    new: BTreeMap<LaneId, Arc<str>>,
    removed: BTreeSet<LaneId>,
    state: Vec<(Space, Vec<u8>, Option<Vec<u8>>)>,
    /// Blocks that are taken out, by lane and first place.
    husks: BTreeSet<(LaneId, u64)>,
    bytes: u64,
}

impl Block {
    fn last(&self) -> u64 {
        self.first + self.records.len() as u64 - 1
    }

    /// What was told to have expired stands by itself.
    fn has_room(&self, record_bytes: usize, expires: u64) -> bool {
        let has_room = self.records.len() < BLOCK_RECORDS_MAX && self.bytes + record_bytes <= BLOCK_BYTES_MAX;
        has_room && (self.expires_max == TOLD) == (expires == TOLD)
    }

    fn is_told(&self) -> bool {
        self.is_husk || self.expires_max == TOLD
    }

    /// Bytes of the records from `from` on.
    fn bytes_from(&self, from: u64) -> u64 {
        if self.is_husk {
            return 0;
        }
        self.from(from).map(|(_, entry)| entry.bytes.len() as u64).sum()
    }

    /// Bytes of the records of these places.
    fn bytes_of(&self, (first, last): (u64, u64)) -> u64 {
        self.bytes_from(first) - self.bytes_from(last + 1)
    }

    fn from(&self, from: u64) -> impl Iterator<Item = (u64, &Entry)> {
        (self.first..).zip(&self.records).skip_while(move |(seq, _)| *seq < from)
    }
}

impl Staged {
    fn is_empty(&self) -> bool {
        let is_same = self.new.is_empty() && self.removed.is_empty() && self.husks.is_empty();
        self.bytes == 0 && is_same && self.state.is_empty()
    }
}

impl MemoryLog {
    /// An empty one. `commit_bytes_max` as in [`crate::Options`].
    pub fn new(commit_bytes_max: u64) -> MemoryLog {
        MemoryLog {
            kept: Kept { lanes: BTreeMap::new(), state: BTreeMap::new(), next_lane: FIRST_LANE },
            heads: BTreeMap::new(),
            ahead: Ahead::default(),
            passed: BTreeMap::new(),
            staged: Staged::default(),
            committed: Vec::new(),
            commit_bytes_max,
            failing: false,
            poison: None,
        }
    }

    /// A power cut and a restart: what was not committed is gone, cursors are where the last commit (or the last
    /// reclaim that dropped something) wrote them. Poison is gone, too.
    pub fn crash(&mut self) {
        self.staged = Staged::default();
        self.heads = self.kept.lanes.iter().map(|(id, lane)| (*id, lane.head)).collect();
        self.ahead = Ahead::default();
        self.passed.clear();
        self.poison = None;
    }

    /// From now on every write fails, as with a full disk, and poisons; or no longer (see [`MemoryLog::crash`]).
    pub fn fail_writes(&mut self, failing: bool) {
        self.failing = failing;
    }

    fn check_poison(&self) -> Result<(), StoreError> {
        self.poison.clone().map_or(Ok(()), |fault| Err(StoreError::Poisoned(fault)))
    }

    fn check_write(&mut self) -> Result<(), StoreError> {
        if self.failing && self.poison.is_none() {
            self.poison =
                Some(Fault { kind: FaultKind::NoSpace, detail: "as the simulation asked for".into() });
        }
        self.check_poison()
    }

    fn is_known(&self, lane: LaneId) -> Result<(), StoreError> {
        if self.heads.contains_key(&lane) { Ok(()) } else { Err(StoreError::UnknownLane(lane)) }
    }

    fn head(&self, lane: LaneId) -> u64 {
        self.heads.get(&lane).copied().unwrap_or(1)
    }

    /// The durable tail, or where passing over places has moved it.
    fn tail(&self, lane: LaneId) -> u64 {
        let kept = self.kept.lanes.get(&lane).map_or(1, |lane| lane.tail);
        kept.max(self.passed.get(&lane).copied().unwrap_or(1))
    }

    /// Durable blocks from the one that holds `from` on.
    fn blocks(&self, lane: LaneId, from: u64) -> impl Iterator<Item = &Block> {
        let blocks = self.kept.lanes.get(&lane).map(|lane| &lane.blocks);
        let start = blocks.map_or(0, |blocks| blocks.partition_point(|block| block.last() < from));
        blocks.into_iter().flat_map(move |blocks| blocks.range(start..))
    }

    /// Moves the head over blocks as long as `wanted` (given the undelivered bytes in the block) says so. Husks are gone over, and
    /// so is what will be one.
    fn lose_blocks(&mut self, lane: LaneId, mut wanted: impl FnMut(u64, &Block) -> bool) -> Vec<Lost> {
        let (head, mut passed) = (self.head(lane), 0);
        let mut lost: Vec<Lost> = Vec::new();
        for block in self.blocks(lane, head) {
            let bytes = block.bytes_from(head);
            if !wanted(bytes, block) {
                break;
            }
            passed = block.last();
            for (places, bytes) in self.to_tell(lane, block, block.first.max(head)) {
                add_lost(&mut lost, lane, places, bytes);
            }
        }
        if passed > 0 {
            self.heads.insert(lane, passed + 1);
        }
        lost
    }

    /// What nobody has of a block whose places from `from` on are given up.
    fn to_tell(&self, lane: LaneId, block: &Block, from: u64) -> Vec<Part> {
        if block.is_told() || self.staged.husks.contains(&(lane, block.first)) {
            return Vec::new();
        }
        let left = self.ahead.without(lane, (from, block.last()));
        left.into_iter().map(|places| (places, block.bytes_of(places))).collect()
    }

    /// Passes over places that have expired, and notes those that are not delivered.
    fn skip_expired(&self, lane: LaneId, block: &Block, (first, last): (u64, u64), out: &mut ReadOut) {
        for places in self.ahead.without(lane, (first, last)) {
            out.skip_expired(places.0, places.1, block.bytes_of(places));
        }
        out.give_up_to(record::seq(last + 1), 0);
    }

    /// Takes out what has expired, or is delivered, behind the head of a lane.
    fn expire_middle(&mut self, lane: LaneId, now: Timestamp, lost: &mut Vec<Lost>) {
        let head = self.head(lane);
        let is_over = |block: &&Block| {
            let is_new = !block.is_husk && !self.staged.husks.contains(&(lane, block.first));
            let is_delivered = self.ahead.covers(lane, (block.first, block.last()));
            block.first > head && is_new && (is_delivered || record::is_expired(block.expires_max, now))
        };
        let over = self.blocks(lane, head).filter(is_over);
        let over: Vec<_> = over.map(|block| (block.first, self.to_tell(lane, block, block.first))).collect();
        for (first, parts) in over {
            self.staged.husks.insert((lane, first));
            for (places, bytes) in parts {
                add_lost(lost, lane, places, bytes);
            }
        }
    }

    fn write_heads(&mut self) {
        for (id, lane) in &mut self.kept.lanes {
            if !self.passed.contains_key(id) {
                lane.head = self.heads.get(id).copied().unwrap_or(1);
                lane.tail = lane.tail.max(lane.head);
            }
        }
    }
}

impl CommitLog for MemoryLog {
    fn lane(&mut self, name: &str) -> Result<LaneId, StoreError> {
        if let Some(lane) = self.find_lane(name) {
            return Ok(lane);
        }
        self.check_poison()?;
        if name.is_empty() || name.len() > LANE_NAME_BYTES_MAX {
            return Err(StoreError::LaneName { bytes: name.len() });
        }
        let id = LaneId(self.kept.next_lane);
        self.kept.next_lane = self.kept.next_lane.checked_add(1).ok_or(StoreError::TooManyLanes)?;
        self.staged.new.insert(id, name.into());
        self.heads.insert(id, 1);
        Ok(id)
    }

    fn find_lane(&self, name: &str) -> Option<LaneId> {
        let kept = self.kept.lanes.iter().map(|(id, lane)| (id, &lane.name));
        kept.chain(&self.staged.new)
            .find(|(id, known)| known.as_ref() == name && self.heads.contains_key(id))
            .map(|(id, _)| *id)
    }

    fn append(
        &mut self,
        lane: LaneId,
        parts: &[&[u8]],
        enqueued: Timestamp,
        expires: Option<Timestamp>,
    ) -> Result<Seq, StoreError> {
        self.check_poison()?;
        let mut bytes = vec![0; RECORD_OVERHEAD_BYTES];
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let (record_bytes, staged_bytes, limit_bytes) =
            (bytes.len() as u64, self.staged.bytes, self.commit_bytes_max);
        if record_bytes > limit_bytes {
            return Err(StoreError::RecordTooLarge { record_bytes, limit_bytes });
        }
        if staged_bytes + record_bytes > limit_bytes {
            return Err(StoreError::CommitFull { staged_bytes, record_bytes, limit_bytes });
        }
        self.is_known(lane)?;
        let tail = self.tail(lane);
        let blocks = self.staged.blocks.entry(lane).or_default();
        let seq = blocks.last().map_or(tail, |block| block.last() + 1);
        let expires = record::expires_to_raw(expires);
        if !blocks.last().is_some_and(|block| block.has_room(bytes.len(), expires)) {
            blocks.push(Block { first: seq, bytes: HEADER_BYTES, ..Block::default() });
        }
        let block = blocks.last_mut().expect("one was just made sure of");
        block.bytes += bytes.len();
        block.expires_max = block.expires_max.max(expires);
        block.records.push(Entry { enqueued, expires, bytes });
        self.staged.bytes += record_bytes;
        Ok(record::seq(seq))
    }

    fn staged_bytes(&self) -> u64 {
        self.staged.bytes
    }

    fn commit(&mut self) -> Result<Committed<'_>, StoreError> {
        self.check_write()?;
        self.committed.clear();
        let (mut records, mut bytes) = (0, 0);
        let staged = std::mem::take(&mut self.staged);
        let is_empty = staged.is_empty();
        for (id, name) in staged.new {
            if !staged.removed.contains(&id) {
                self.kept.lanes.insert(id, Lane { name, head: 1, tail: 1, blocks: VecDeque::new() });
            }
        }
        for id in staged.removed {
            self.kept.lanes.remove(&id);
        }
        for (id, blocks) in staged.blocks {
            let Some(lane) = self.kept.lanes.get_mut(&id) else { continue };
            for block in blocks {
                records += block.records.len() as u64;
                bytes += block.bytes_from(0);
                lane.tail = block.last() + 1;
                lane.blocks.push_back(block);
            }
            self.committed.push((id, record::seq(lane.tail - 1)));
        }
        for (space, key, value) in staged.state {
            match value {
                Some(value) => self.kept.state.insert((space, key), value),
                None => self.kept.state.remove(&(space, key)),
            };
        }
        if !is_empty {
            self.passed.clear();
        }
        for (id, first) in staged.husks {
            let Some(lane) = self.kept.lanes.get_mut(&id) else { continue };
            lane.blocks
                .iter_mut()
                .filter(|block| block.first == first)
                .for_each(|block| block.is_husk = true);
        }
        self.write_heads();
        Ok(Committed { records, bytes, lanes: &self.committed })
    }

    fn deliver_ahead(&mut self, lane: LaneId, from: Seq, up_to: Seq) -> Result<(), StoreError> {
        self.is_known(lane)?;
        let bounds = (self.head(lane), self.tail(lane));
        self.ahead.deliver(lane, bounds, (from.get(), up_to.get()));
        Ok(())
    }

    fn advance(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        self.is_known(lane)?;
        let tail = self.tail(lane);
        if up_to.get() >= tail {
            return Err(StoreError::NotAppended { lane, up_to, tail: record::seq(tail) });
        }
        let head = self.head(lane).max(up_to.get() + 1);
        self.heads.insert(lane, head);
        Ok(())
    }

    fn pass(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        self.check_poison()?;
        self.is_known(lane)?;
        if self.staged.blocks.get(&lane).is_some_and(|blocks| !blocks.is_empty()) {
            return Err(StoreError::Collecting(lane));
        }
        let behind = up_to.get() + 1;
        if self.head(lane) < behind {
            self.heads.insert(lane, behind);
            self.passed.insert(lane, self.tail(lane).max(behind));
        }
        Ok(())
    }

    fn flush_cursors(&mut self) -> Result<(), StoreError> {
        // Written, not synced: a power cut may take it, and the simulation takes what may be taken.
        self.check_write()
    }

    fn drop_oldest(&mut self, lane: LaneId, bytes: u64) -> Result<Vec<Lost>, StoreError> {
        self.check_poison()?;
        self.is_known(lane)?;
        let mut freed = 0;
        Ok(self.lose_blocks(lane, |block_bytes, _| {
            let wanted = freed < bytes;
            freed += block_bytes;
            wanted
        }))
    }

    fn expire(&mut self, now: Timestamp) -> Result<Expired, StoreError> {
        self.check_poison()?;
        let ids: Vec<LaneId> = self.heads.keys().copied().collect();
        let is_over = |_: u64, block: &Block| block.is_husk || record::is_expired(block.expires_max, now);
        let mut lost = Vec::new();
        for id in ids {
            lost.extend(self.lose_blocks(id, is_over));
            self.expire_middle(id, now, &mut lost);
        }
        Ok(Expired { lost, collected: !self.staged.husks.is_empty(), ..Expired::default() })
    }

    fn reclaim(&mut self, _now: Timestamp) -> Result<bool, StoreError> {
        self.check_write()?;
        for (id, lane) in &mut self.kept.lanes {
            let Some(&head) = self.heads.get(id) else { continue };
            let before = lane.blocks.len();
            while lane.blocks.front().is_some_and(|block| block.last() < head) {
                lane.blocks.pop_front();
            }
            if lane.blocks.len() < before {
                lane.head = head;
                lane.tail = lane.tail.max(head);
            }
        }
        Ok(false)
    }

    fn remove_lane(&mut self, lane: LaneId) -> Result<(), StoreError> {
        self.check_poison()?;
        self.is_known(lane)?;
        self.heads.remove(&lane);
        self.passed.remove(&lane);
        self.ahead.forget(lane);
        for block in self.staged.blocks.remove(&lane).unwrap_or_default() {
            self.staged.bytes -= block.bytes_from(0);
        }
        self.staged.husks.retain(|(id, _)| *id != lane);
        self.staged.removed.insert(lane);
        Ok(())
    }

    fn state_put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.check_poison()?;
        self.staged.state.push((space, key.to_vec(), Some(value.to_vec())));
        Ok(())
    }

    fn state_delete(&mut self, space: Space, key: &[u8]) -> Result<(), StoreError> {
        self.check_poison()?;
        self.staged.state.push((space, key.to_vec(), None));
        Ok(())
    }

    fn read_lane(
        &self,
        lane: LaneId,
        from: Seq,
        limits: ReadLimits,
        now: Timestamp,
        out: &mut ReadOut,
    ) -> Result<(), StoreError> {
        self.is_known(lane)?;
        let from = from.get().max(self.head(lane));
        out.clear(from);
        for block in self.blocks(lane, from) {
            if block.is_told() {
                out.give_up_to(record::seq(block.last() + 1), 0);
                continue;
            }
            if record::is_expired(block.expires_max, now) {
                self.skip_expired(lane, block, (block.first.max(from), block.last()), out);
                continue;
            }
            for (seq, entry) in block.from(from) {
                if record::is_expired(entry.expires, now) {
                    self.skip_expired(lane, block, (seq, seq), out);
                } else if out.is_full(limits, entry.bytes.len()) {
                    return Ok(());
                } else {
                    out.push(seq, entry.enqueued, entry.expires, &entry.bytes);
                }
            }
        }
        Ok(())
    }

    fn lane_state(&self, lane: LaneId) -> Result<LaneState, StoreError> {
        self.is_known(lane)?;
        let head = self.head(lane);
        let name = self.kept.lanes.get(&lane).map(|lane| &lane.name).or_else(|| self.staged.new.get(&lane));
        Ok(LaneState {
            id: lane,
            name: name.cloned().ok_or(StoreError::UnknownLane(lane))?,
            head: record::seq(head),
            tail: record::seq(self.tail(lane)),
            bytes: self.blocks(lane, head).map(|block| block.bytes_from(head)).sum(),
            husks: self
                .blocks(lane, head)
                .filter(|block| block.is_husk)
                .map(|block| block.last() + 1 - block.first.max(head))
                .sum(),
            oldest: self
                .blocks(lane, head)
                .flat_map(|block| block.from(head))
                .next()
                .map(|(_, entry)| entry.enqueued)
                .filter(|_| self.blocks(lane, head).next().is_some_and(|block| !block.is_husk)),
        })
    }

    fn lanes(&self) -> Result<Vec<LaneState>, StoreError> {
        self.heads.keys().map(|&lane| self.lane_state(lane)).collect()
    }

    fn state_get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.kept.state.get(&(space, key.to_vec())).cloned())
    }

    fn state_scan(&self, space: Space, prefix: &[u8], visit: StateVisitor<'_>) -> Result<(), StoreError> {
        let found = self.kept.state.range((space, prefix.to_vec())..);
        for ((_, key), value) in found.take_while(|((at, key), _)| *at == space && key.starts_with(prefix)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn invariants(&self) {
        for (id, lane) in &self.kept.lanes {
            assert!(1 <= lane.head && lane.head <= lane.tail);
            let head = self.heads.get(id).copied().unwrap_or(lane.head);
            assert!(lane.head <= head && head <= self.tail(*id));
            let mut next = lane.blocks.front().map_or(lane.head, |block| block.first);
            assert!(next <= lane.head, "what is undelivered is kept");
            for block in &lane.blocks {
                let is_passed = next < block.first && block.first <= lane.head;
                assert!(block.first == next || is_passed, "places are dense where they are not delivered");
                next = block.last() + 1;
            }
            assert_eq!(next.max(lane.head), lane.tail);
        }
    }
}
