//! What was collected since the last commit: open blocks per lane, and the batch they end in.
//!
//! Knows: places that are handed out and not yet durable. May use: `block`, `lanes`. Never: syncs.
//! In:  records, one by one. Out: one `WriteBatch`, and per lane the tail that its success will mean.
//! Invariant: per lane the places handed out are `tail, tail + 1, …` of the durable tail, without a hole;
//! memory is bounded by `commit_bytes_max` while collecting and by [`POOL_BLOCKS`] buffers between commits.

use crate::block::{BLOCK_BYTES_MAX, BlockBuilder};
use crate::expiry::Timed;
use crate::lanes::Lane;
use crate::record::{self, RECORD_OVERHEAD_BYTES};
use model::{LaneId, Seq, Timestamp};
use rocksdb::WriteBatch;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Buffers kept from one commit to the next.
const POOL_BLOCKS: usize = 16;
/// Most entries for blocks that expire which the next group starts with.
const TIMED_KEPT: usize = 256;
/// Most bytes that the next batch starts with.
const BATCH_BYTES_KEPT: usize = 1 << 20;

/// See the charter.
#[derive(Default)]
pub(crate) struct Staging {
    /// Closed blocks, cursors, names, state: everything that is written at once.
    pub(crate) batch: WriteBatch,
    /// The first `slots.len()` (or more, if lanes were removed) are in use.
    blocks: Vec<OpenBlock>,
    used: usize,
    slots: FxHashMap<LaneId, usize>,
    bytes: u64,
    /// Blocks in the batch that expire some day.
    pub(crate) timed: Vec<Timed>,
}

#[derive(Default)]
struct OpenBlock {
    /// `None` after the lane was removed.
    lane: Option<Arc<Lane>>,
    builder: BlockBuilder,
    /// The place of the next record.
    next: u64,
    /// Running sum of record bytes.
    appended_bytes: u64,
    /// What this commit has for this lane so far.
    records: u64,
    bytes: u64,
}

/// What a lane gets by a commit.
pub(crate) struct Growth<'s> {
    pub(crate) lane: &'s Arc<Lane>,
    pub(crate) tail: u64,
    pub(crate) appended_bytes: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Staging {
    /// Bytes of records collected, overhead included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a commit would write nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.batch.is_empty()
    }

    /// Where this lane collects, if it has begun to.
    #[inline]
    pub(crate) fn slot(&self, lane: LaneId) -> Option<usize> {
        self.slots.get(&lane).copied()
    }

    /// Lets this lane begin to collect.
    pub(crate) fn open_slot(&mut self, lane: Arc<Lane>) -> usize {
        let slot = self.used;
        if slot == self.blocks.len() {
            self.blocks.push(OpenBlock::default());
        }
        self.used += 1;
        self.slots.insert(lane.id, slot);
        let block = &mut self.blocks[slot];
        (block.next, block.appended_bytes) = (lane.tail(), lane.appended_bytes());
        (block.records, block.bytes) = (0, 0);
        block.builder.start(block.next, block.appended_bytes);
        block.lane = Some(lane);
        slot
    }

    /// Whether the open block must be closed before a record of this size (overhead included) that expires then fits.
    #[inline]
    pub(crate) fn must_close(&self, slot: usize, record_bytes: u64, expires: Option<Timestamp>) -> bool {
        let builder = &self.blocks[slot].builder;
        !builder.has_room(record_bytes as usize) || !builder.goes_with(record::expires_to_raw(expires))
    }

    /// Moves the open block into the batch.
    pub(crate) fn close_block(&mut self, slot: usize, family: &rocksdb::ColumnFamily) {
        let block = &mut self.blocks[slot];
        if let (Some(lane), false) = (&block.lane, block.builder.is_empty()) {
            self.timed.extend(block.builder.timed(lane.id));
            let (key, value) = block.builder.finish(lane.id);
            self.batch.put_cf(family, key, value);
            block.builder.start(block.next, block.appended_bytes);
        }
    }

    /// Adds a record to the open block.
    #[inline]
    pub(crate) fn push(
        &mut self,
        slot: usize,
        lane: LaneId,
        parts: &[&[u8]],
        payload_bytes: usize,
        enqueued: Timestamp,
        expires: Option<Timestamp>,
    ) -> Seq {
        let block = &mut self.blocks[slot];
        block.builder.push(lane, enqueued, record::expires_to_raw(expires), parts, payload_bytes);
        let bytes = (RECORD_OVERHEAD_BYTES + payload_bytes) as u64;
        let seq = record::seq(block.next);
        block.next += 1;
        block.appended_bytes += bytes;
        block.records += 1;
        block.bytes += bytes;
        self.bytes += bytes;
        seq
    }

    /// Moves all open blocks into the batch.
    pub(crate) fn close_all(&mut self, family: &rocksdb::ColumnFamily) {
        for slot in 0..self.used {
            self.close_block(slot, family);
        }
    }

    /// Forgets what was collected for a lane and is not in the batch yet; says whether anything was collected at all.
    pub(crate) fn drop_lane(&mut self, lane: LaneId) -> bool {
        let Some(slot) = self.slots.remove(&lane) else { return false };
        let block = &mut self.blocks[slot];
        block.lane = None;
        self.bytes -= block.bytes;
        true
    }

    /// What each lane gets if this is written.
    pub(crate) fn growth(&self) -> impl Iterator<Item = Growth<'_>> {
        self.blocks[..self.used].iter().filter_map(|block| {
            Some(Growth {
                lane: block.lane.as_ref()?,
                tail: block.next,
                appended_bytes: block.appended_bytes,
                records: block.records,
                bytes: block.bytes,
            })
        })
    }

    /// Starts over, keeping a bounded number of buffers.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
        for block in &mut self.blocks[..self.used] {
            block.lane = None;
        }
        self.blocks.truncate(POOL_BLOCKS);
        for block in &mut self.blocks {
            if block.builder.capacity() > 2 * BLOCK_BYTES_MAX {
                block.builder = BlockBuilder::default();
            }
        }
        self.used = 0;
        self.slots.clear();
        self.timed.clear();
        self.timed.shrink_to(TIMED_KEPT);
        if self.slots.capacity() > 1_024 {
            self.slots = FxHashMap::default();
        }
        self.bytes = 0;
    }

    /// Hands over the batch; the next one starts as large as this one was, since growing copies it again and again.
    pub(crate) fn take_batch(&mut self) -> WriteBatch {
        let next = WriteBatch::with_capacity_bytes(self.batch.size_in_bytes().min(BATCH_BYTES_KEPT));
        std::mem::replace(&mut self.batch, next)
    }
}
