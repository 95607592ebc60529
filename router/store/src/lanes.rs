//! The lanes of a store in memory: name, number, how far delivered, how far durable.
//!
//! Knows: one entry per lane, nothing per record. May use: `model`. Never: RocksDB.
//! In:  numbers from commits (tail) and from whoever delivers (head). Out: the same numbers, to any thread.
//! Invariant: `1 ≤ head ≤ tail`; both only grow while the process lives. (For a moment of [`Lane::pass`] other threads see a
//! head behind the tail, which reads as an empty lane.)

use crate::ahead::Ahead;
use crate::error::StoreError;
use crate::husks::Husks;
use crate::record;
use model::{LaneId, Seq, Timestamp};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// One lane as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// Its number, stable across restarts, never reused.
    pub id: LaneId,
    /// Its name.
    pub name: Arc<str>,
    /// The next undelivered place; equal to `tail` if nothing waits.
    pub head: Seq,
    /// The next place to be assigned: all before it are durable.
    pub tail: Seq,
    /// Bytes of the records from `head` to `tail`, `RECORD_OVERHEAD_BYTES` each included, before compression.
    /// Expired ones count until they are reclaimed; damaged ones at the head do not.
    pub bytes: u64,
    /// Places from `head` to `tail` whose records were taken out: they have expired, or are delivered.
    pub husks: u64,
    /// When the record at `head` was enqueued, or where that is damaged the first behind it that can be read; `None` if nothing
    /// waits or nothing can be read.
    pub oldest: Option<Timestamp>,
}

impl LaneState {
    /// Messages that wait.
    pub fn messages(&self) -> u64 {
        (self.tail.get() - self.head.get()).saturating_sub(self.husks)
    }
}

/// One lane. All numbers are those of `Seq`, as plain integers.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) name: Arc<str>,
    head: AtomicU64,
    tail: AtomicU64,
    /// Running sum of record bytes, as in `Block::bytes_before`, at `tail`.
    appended_bytes: AtomicU64,
    /// Bytes of records that were deleted since the files that hold them were merged.
    unmerged_bytes: AtomicU64,
    /// Whether `head` has moved since it was last handed to the writer.
    moved: AtomicBool,
    front: Mutex<Known>,
    /// What was taken out behind the head, as it is on the disk.
    husks: Mutex<Husks>,
}

/// What is known about the block that holds `head`. Kept so that asking again costs no seek.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    /// The head for which this was read.
    pub(crate) head: u64,
    /// Running sum of record bytes before `head`, or before the first place behind it that can be read.
    pub(crate) bytes_before: u64,
    /// When the record there was enqueued.
    pub(crate) oldest: Option<Timestamp>,
    /// When the last record of that block expires, as written.
    pub(crate) expires_max: u64,
}

/// What was found out about a lane's front, at great cost or little.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    /// Nothing yet.
    Nothing,
    /// It is this, for the head that it names.
    Front(Front),
    /// Nothing between these, head and tail, can be read.
    Unreadable(u64, u64),
}

impl Lane {
    pub(crate) fn new(id: LaneId, name: Arc<str>, head: u64, tail: u64, appended_bytes: u64) -> Lane {
        assert!(1 <= head && head <= tail, "lane {id}: head {head} and tail {tail} are in order");
        Lane {
            id,
            name,
            head: head.into(),
            tail: tail.into(),
            appended_bytes: appended_bytes.into(),
            unmerged_bytes: 0.into(),
            moved: false.into(),
            front: Mutex::new(Known::Nothing),
            husks: Mutex::new(Husks::default()),
        }
    }

    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Acquire)
    }

    /// So many bytes of records were deleted.
    pub(crate) fn release(&self, bytes: u64) {
        self.unmerged_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// See [`Lane::release`].
    pub(crate) fn unmerged_bytes(&self) -> u64 {
        self.unmerged_bytes.load(Ordering::Relaxed)
    }

    /// Somebody merges.
    pub(crate) fn merged(&self) {
        self.unmerged_bytes.store(0, Ordering::Relaxed);
    }

    /// After a commit: everything before `tail` is durable.
    pub(crate) fn set_tail(&self, tail: u64, appended_bytes: u64) {
        self.appended_bytes.store(appended_bytes, Ordering::Release);
        let before = self.tail.swap(tail, Ordering::AcqRel);
        assert!(before <= tail, "lane {}: the tail only grows", self.id);
    }

    /// After a recovery from poison: what the disk really holds. The delivered part stays delivered.
    pub(crate) fn reset(&self, tail: u64, appended_bytes: u64) {
        self.appended_bytes.store(appended_bytes, Ordering::Release);
        // A tail that the disk has lost cannot come back below the head: those places are gone, not free.
        self.tail.store(tail.max(self.head()), Ordering::Release);
        *self.front() = Known::Nothing;
    }

    /// Moves head and tail behind a place that never gets a record; says whether the head moved.
    pub(crate) fn pass(&self, up_to: u64) -> bool {
        // The head first: a reader that sees the old tail finds the lane empty, and never looks for what is not there.
        let moved = self.raise_head(up_to + 1);
        self.tail.fetch_max(up_to + 1, Ordering::AcqRel);
        moved
    }

    /// Moves the head to `head` unless it is further already; says whether it moved.
    fn raise_head(&self, head: u64) -> bool {
        self.head.fetch_max(head, Ordering::AcqRel) < head
    }

    pub(crate) fn front(&self) -> MutexGuard<'_, Known> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn husks(&self) -> MutexGuard<'_, Husks> {
        self.husks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must always hold; for tests.
    pub(crate) fn invariants(&self) {
        let (head, tail) = (self.head(), self.tail());
        assert!(1 <= head && head <= tail, "lane {}: 1 ≤ {head} ≤ {tail}", self.id);
    }
}

/// All lanes of a store.
#[derive(Debug, Default)]
pub(crate) struct LaneTable {
    lanes: RwLock<Names>,
    /// Lanes whose head has moved, each once; bounded by the number of lanes.
    moved: Mutex<Vec<Arc<Lane>>>,
    /// What is delivered behind heads.
    ahead: Mutex<Ahead>,
}

#[derive(Debug, Default)]
struct Names {
    by_id: FxHashMap<LaneId, Arc<Lane>>,
    by_name: FxHashMap<Arc<str>, LaneId>,
}

impl LaneTable {
    pub(crate) fn get(&self, id: LaneId) -> Result<Arc<Lane>, StoreError> {
        self.read().by_id.get(&id).cloned().ok_or(StoreError::UnknownLane(id))
    }

    pub(crate) fn find(&self, name: &str) -> Option<LaneId> {
        self.read().by_name.get(name).copied()
    }

    pub(crate) fn insert(&self, lane: Arc<Lane>) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        lanes.by_name.insert(lane.name.clone(), lane.id);
        lanes.by_id.insert(lane.id, lane);
    }

    pub(crate) fn remove(&self, id: LaneId) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        self.ahead().forget(id);
        if let Some(lane) = lanes.by_id.remove(&id) {
            lanes.by_name.remove(&lane.name);
        }
    }

    /// All lanes in the order of their numbers.
    pub(crate) fn all(&self) -> Vec<Arc<Lane>> {
        let mut lanes: Vec<_> = self.read().by_id.values().cloned().collect();
        lanes.sort_unstable_by_key(|lane| lane.id);
        lanes
    }

    /// Everything up to `up_to` is delivered. Going back is no error and does nothing.
    pub(crate) fn advance(&self, lane: &Arc<Lane>, up_to: Seq) -> Result<(), StoreError> {
        let tail = lane.tail();
        if up_to.get() >= tail {
            return Err(StoreError::NotAppended { lane: lane.id, up_to, tail: record::seq(tail) });
        }
        if lane.raise_head(up_to.get() + 1) {
            self.mark_moved(lane);
        }
        Ok(())
    }

    /// As [`crate::CommitLog::deliver_ahead`].
    pub(crate) fn deliver_ahead(&self, id: LaneId, (from, up_to): (Seq, Seq)) -> Result<(), StoreError> {
        let lane = self.get(id)?;
        let mut ahead = self.ahead();
        // Asked for with the lock: a recovery sets the tail first, and forgets then. What is not on the disk may yet get another
        // place there.
        ahead.deliver(id, (lane.head(), lane.tail()), (from.get(), up_to.get()));
        Ok(())
    }

    /// What is delivered behind heads.
    pub(crate) fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the head of this lane must be written.
    pub(crate) fn mark_moved(&self, lane: &Arc<Lane>) {
        if !lane.moved.swap(true, Ordering::AcqRel) {
            self.moved_list().push(lane.clone());
        }
    }

    /// Hands over the lanes whose head has moved, each once, by putting them on `into`.
    pub(crate) fn take_moved(&self, into: &mut Vec<Arc<Lane>>) {
        let mut moved = self.moved_list();
        for lane in moved.drain(..) {
            // First the flag, then the head is read (by the caller): a move in between is noted again.
            lane.moved.store(false, Ordering::Release);
            into.push(lane);
        }
    }

    /// What must always hold; for tests.
    pub(crate) fn invariants(&self) {
        let lanes = self.read();
        assert_eq!(lanes.by_id.len(), lanes.by_name.len());
        for (id, lane) in &lanes.by_id {
            assert_eq!(*id, lane.id);
            assert_eq!(lanes.by_name.get(&lane.name), Some(id));
            lane.invariants();
        }
        self.ahead().invariants();
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Names> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved_list(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Lane>>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
