//! The fronts of all lanes of uplinks (`broker::front`), as the disk thread and the uplinks share them.
//!
//! In: from the disk thread records, and what becomes of them; from the uplinks how far they have read and delivered, and
//! whether they have a link. Out: records for the uplinks, numbers for the disk thread and for people.
//! The disk thread owns what is here: it alone puts in and takes out, so an uplink sees a record in the front or in the log,
//! or in both, never in neither. What an uplink says is a number; it rings the disk thread only if that waits for it.
//! Bound: `limits.spill_bytes_max` over all of them, which the disk thread keeps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker::front::{Front, Given, Progress, Why};
use crossbeam::channel::Sender;
use model::{LaneId, Seq, Timestamp};

use crate::disk::Job;

/// One lane.
#[derive(Debug)]
pub(crate) struct LaneFront {
    /// Which one.
    pub lane: LaneId,
    /// The uplink that it leads to, counted as in the configuration.
    pub uplink: usize,
    front: Mutex<Front>,
    /// The first place that is not delivered, and the first that the uplink has not read.
    head: AtomicU64,
    read_to: AtomicU64,
    link_up: AtomicBool,
    /// The disk thread wants to hear when the head moves.
    is_waited_for: AtomicBool,
}

impl LaneFront {
    /// A lane that the log has from `head` to `end`.
    pub(crate) fn new(
        (lane, uplink): (LaneId, usize),
        (head, end): (Seq, Seq),
        after_millis: u64,
    ) -> LaneFront {
        LaneFront {
            lane,
            uplink,
            front: Mutex::new(Front::new(end, after_millis)),
            head: head.get().into(),
            read_to: head.get().into(),
            link_up: false.into(),
            is_waited_for: false.into(),
        }
    }

    /// The front; held for a moment only.
    pub(crate) fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first place that is not delivered.
    pub(crate) fn head(&self) -> Seq {
        place(&self.head)
    }

    /// Whether its uplink has a link.
    pub(crate) fn link_up(&self) -> bool {
        self.link_up.load(Ordering::Acquire)
    }

    /// From where on nothing is on its way to the upstream.
    pub(crate) fn unread_from(&self) -> Seq {
        if self.link_up() { place(&self.read_to) } else { Seq::FIRST }
    }

    /// Everything before `head` has expired, and the log knows of it.
    pub(crate) fn pass(&self, head: Seq) {
        self.head.fetch_max(head.get(), Ordering::SeqCst);
    }

    /// What the front must know to take a record.
    pub(crate) fn progress(&self, log_end: Seq, writing: bool) -> Progress {
        let (link_up, read_to, head) = (self.link_up(), place(&self.read_to), self.head());
        Progress { link_up, read_to, head, log_end, writing }
    }

    /// Says that the disk thread waits for the head to move on from `seen`; whether it has done so already.
    pub(crate) fn wait_for(&self, seen: Seq) -> bool {
        // Both orders at once: who delivers writes the head before it looks at this.
        self.is_waited_for.store(true, Ordering::SeqCst);
        self.head.load(Ordering::SeqCst) != seen.get()
    }
}

fn place(number: &AtomicU64) -> Seq {
    Seq::new(number.load(Ordering::SeqCst)).expect("places begin at 1")
}

/// See the charter.
#[derive(Debug)]
pub(crate) struct FrontBoard {
    lanes: Vec<LaneFront>,
    by_lane: HashMap<LaneId, usize>,
    disk: Sender<Job>,
    /// Records that an upstream had before they had to be written.
    pub unwritten: AtomicU64,
    /// Records of `spill` routes that were written, by reason.
    written: [AtomicU64; Why::ALL.len()],
}

impl FrontBoard {
    /// For these lanes; `disk` leads to the disk thread.
    pub(crate) fn new(lanes: Vec<LaneFront>, disk: Sender<Job>) -> FrontBoard {
        let by_lane = lanes.iter().enumerate().map(|(index, lane)| (lane.lane, index)).collect();
        let written = std::array::from_fn(|_| AtomicU64::new(0));
        FrontBoard { lanes, by_lane, disk, unwritten: AtomicU64::new(0), written }
    }

    /// All lanes.
    pub(crate) fn lanes(&self) -> &[LaneFront] {
        &self.lanes
    }

    /// Where a lane stands among them.
    pub(crate) fn index(&self, lane: LaneId) -> Option<usize> {
        self.by_lane.get(&lane).copied()
    }

    fn lane(&self, lane: LaneId) -> Option<&LaneFront> {
        self.index(lane).map(|index| &self.lanes[index])
    }

    /// The place behind the last record of a front that has one.
    pub(crate) fn end(&self, lane: LaneId) -> Option<Seq> {
        let front = self.lane(lane)?.front();
        (!front.is_empty()).then(|| front.end())
    }

    /// Reads from a front, see [`Front::read`]: where to go on, and how many were passed over for the first time.
    pub(crate) fn read(
        &self,
        lane: LaneId,
        from: Seq,
        limits: (usize, usize),
        now: Timestamp,
        out: &mut Vec<Given>,
    ) -> Option<(Seq, u64)> {
        out.clear();
        self.lane(lane)?.front().read(from, limits, now, out)
    }

    /// The uplink has read up to here.
    pub(crate) fn read_to(&self, lane: LaneId, next: Seq) {
        if let Some(lane) = self.lane(lane) {
            lane.read_to.fetch_max(next.get(), Ordering::SeqCst);
        }
    }

    /// The uplink has delivered up to here.
    pub(crate) fn delivered(&self, lane: LaneId, up_to: Seq) {
        let Some(lane) = self.lane(lane) else { return };
        lane.head.fetch_max(up_to.next().get(), Ordering::SeqCst);
        if lane.is_waited_for.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// The link that carries these lanes came up, or is down.
    pub(crate) fn set_link(&self, lanes: impl Iterator<Item = LaneId>, up: bool) {
        let mut has_changed = false;
        for lane in lanes.filter_map(|lane| self.lane(lane)) {
            has_changed |= lane.link_up.swap(up, Ordering::AcqRel) != up;
        }
        if has_changed && !up {
            self.ring();
        }
    }

    /// A full queue need not be rung: the disk thread is awake, and looks when it has taken what is there.
    fn ring(&self) {
        drop(self.disk.try_send(Job::Look));
    }

    /// Records and bytes in the fronts of an uplink.
    pub(crate) fn held(&self, uplink: usize) -> (u64, u64) {
        let lanes = self.lanes.iter().filter(|lane| lane.uplink == uplink);
        lanes.fold((0, 0), |(messages, bytes), lane| {
            let front = lane.front();
            (messages + front.messages() as u64, bytes + front.bytes())
        })
    }

    /// Records in the front of a lane.
    pub(crate) fn messages(&self, lane: LaneId) -> u64 {
        self.lane(lane).map_or(0, |lane| lane.front().messages() as u64)
    }

    /// The bytes of the records in a front, as the log would count them.
    pub(crate) fn record_bytes(&self, lane: LaneId) -> u64 {
        self.lane(lane).map_or(0, |lane| lane.front().record_bytes(store::RECORD_OVERHEAD_BYTES as u64))
    }

    /// So many records of `spill` routes are written, for this reason.
    pub(crate) fn count_written(&self, why: Why, messages: u64) {
        self.written[why as usize].fetch_add(messages, Ordering::Relaxed);
    }

    /// How many were written, by reason.
    pub(crate) fn written(&self) -> impl Iterator<Item = (Why, u64)> {
        Why::ALL.into_iter().map(|why| (why, self.written[why as usize].load(Ordering::Relaxed)))
    }
}
