//! The disk thread's look at space: what the store takes, what waits for whom, what the file system still has.
//!
//! In:  the store, its file system, and what was appended between two looks. Out: numbers for `budget`, and its verdict
//! for the disk thread to publish and to act on. Cost: a look at each file once a second, at each lane of an
//! uplink a few times a second.
//! Invariant: what is appended between two looks counts at once, so that a budget is not overrun by a fast publisher.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broker::{AppendTray, Level, Rooms, Write};
use model::{LaneId, Priority};
use store::Reader;
use tracing::{info, warn};

use super::budget::{Allowance, Budget, Measured, Verdict, Waiting};
use crate::fronts::FrontBoard;

/// How often the files are looked at, if not much is appended.
const LOOK: Duration = Duration::from_secs(1);
/// How often the verdict is renewed, whatever was appended.
const JUDGE: Duration = Duration::from_millis(200);

/// What was seen last; written by the disk thread, read by everybody.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Bytes on the disk, as last seen, and what was appended since.
    pub occupied: AtomicU64,
    /// Bytes that the file system still has, as last seen.
    pub free: AtomicU64,
    /// Merging is wanted.
    pub merge: AtomicBool,
    /// Merges that were done because space was short.
    pub merges: AtomicU64,
    /// Most bytes that may wait in all lanes together (`storeLimits.maxSizeBytes`); 0 without such a bound.
    limit: AtomicU64,
}

impl Room {
    /// A manifest or a twin bounds what may wait.
    pub(crate) fn set_limit(&self, bytes: Option<u64>) {
        self.limit.store(bytes.unwrap_or(0), Ordering::Relaxed);
    }
}

/// A lane of an uplink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UplinkLane {
    /// The uplink, counted as in the configuration.
    pub uplink: usize,
    /// What goes through it.
    pub priority: Priority,
    /// Its number.
    pub lane: LaneId,
}

/// Looks and judges, for the disk thread.
pub(crate) struct SpaceWatch {
    budget: Budget,
    lanes: Vec<UplinkLane>,
    fronts: Arc<FrontBoard>,
    path: PathBuf,
    measured: Measured,
    merges: u64,
    looked: Option<Instant>,
    judged: Instant,
    /// Bytes appended since the files were looked at, and since the last verdict.
    appended: u64,
    unjudged: u64,
    waiting: Vec<Waiting>,
    /// By lane: bytes in the log, as last seen.
    in_log: Vec<u64>,
    last: Level,
    /// What waits for uplinks with a bound, written or not.
    rooms: Arc<Rooms>,
    /// By lane: its uplink, if that has a bound.
    bounded: HashMap<LaneId, usize>,
    /// By uplink: bytes of records that were taken room for and are written.
    written: Vec<u64>,
}

impl SpaceWatch {
    /// Nothing is seen yet.
    pub(crate) fn new(
        allowance: Allowance,
        lanes: Vec<UplinkLane>,
        fronts: Arc<FrontBoard>,
        rooms: Arc<Rooms>,
    ) -> SpaceWatch {
        let path = allowance.options.path.clone();
        let has_bound = |lane: &&UplinkLane| rooms.waiting(lane.uplink as u32).is_some();
        let bounded = lanes.iter().filter(has_bound).map(|it| (it.lane, it.uplink)).collect();
        let written = vec![0; allowance.uplinks.len()];
        SpaceWatch {
            budget: Budget::new(allowance),
            in_log: vec![0; lanes.len()],
            lanes,
            fronts,
            path,
            measured: Measured::default(),
            merges: 0,
            looked: None,
            judged: Instant::now(),
            appended: 0,
            unjudged: 0,
            waiting: Vec::new(),
            last: Level::Roomy,
            rooms,
            bounded,
            written,
        }
    }

    /// What earlier runs left in the lanes counts from the first message on.
    pub(crate) fn see_lanes(&mut self, reader: &Reader) {
        self.waiting = self
            .lanes
            .iter()
            .map(|it| Waiting { uplink: it.uplink, priority: it.priority, bytes: 0 })
            .collect();
        self.weigh_lanes(reader);
    }

    /// All of this tray is written.
    pub(crate) fn confirmed(&mut self, tray: &AppendTray) {
        if self.bounded.is_empty() {
            return;
        }
        for write in &tray.writes {
            if let Write::Record { lane, len, .. } = write {
                self.arrived(*lane, u64::from(*len));
            }
        }
    }

    /// A front took this record, which its tray has no longer: it is seen there until it is written or delivered.
    pub(crate) fn held(&mut self, lane: LaneId, len: u64) {
        if self.arrived(lane, len) {
            // What is delivered unwritten makes room at the next look, which must not wait for something written.
            self.unjudged += len;
        }
    }

    /// Whether its uplink has a bound, so that it is counted.
    fn arrived(&mut self, lane: LaneId, len: u64) -> bool {
        let Some(uplink) = self.bounded.get(&lane) else { return false };
        self.written[*uplink] += len + store::RECORD_OVERHEAD_BYTES as u64;
        true
    }

    /// Whether an uplink that gives up its oldest must do so before more is written.
    pub(crate) fn wants_room(&self) -> bool {
        let is_over = |uplink: usize| {
            let waiting = self.rooms.waiting(uplink as u32).unwrap_or(0);
            let is_ordinary = |lane: &&Waiting| lane.uplink == uplink && !lane.priority.is_urgent();
            let has_ordinary = self.waiting.iter().filter(is_ordinary).any(|lane| lane.bytes > 0);
            self.budget.gives_up_from(uplink, has_ordinary).is_some_and(|mark| waiting > mark)
        };
        !self.bounded.is_empty() && (0..self.written.len()).any(is_over)
    }

    /// Looks how much lies in each lane, and how much is on its way there.
    fn weigh_lanes(&mut self, reader: &Reader) {
        for (at, (lane, waiting)) in self.lanes.iter().zip(&mut self.waiting).enumerate() {
            // While the store recovers nobody can look; what was seen last stands.
            if let Ok(state) = reader.lane_state(lane.lane) {
                self.in_log[at] = state.bytes;
            }
            // What is only in memory counts, too: it may have to be written at any moment.
            waiting.bytes = self.in_log[at] + self.fronts.record_bytes(lane.lane);
        }
        for uplink in 0..self.written.len() {
            let lanes = self.waiting.iter().filter(|it| it.uplink == uplink);
            let in_lanes: u64 = lanes.map(|it| it.bytes).sum();
            self.rooms.set_written(uplink as u32, in_lanes, self.written[uplink]);
            let waiting = self.rooms.waiting(uplink as u32).unwrap_or(in_lanes);
            let missed = self.rooms.take_missed(uplink as u32);
            self.budget.set_coming(uplink, waiting.saturating_sub(in_lanes), missed);
        }
    }

    /// So many bytes were written.
    pub(crate) fn appended(&mut self, bytes: u64) {
        self.appended += bytes;
        self.unjudged += bytes;
    }

    /// Whether it is time for [`SpaceWatch::look`].
    pub(crate) fn is_due(&self) -> bool {
        self.unjudged >= self.budget.judge_every_bytes() || self.judged.elapsed() >= JUDGE
    }

    /// Looks and judges. What `drops` of the verdict count are the lanes given to [`SpaceWatch::new`].
    pub(crate) fn look(&mut self, reader: &Reader, room: &Room) -> Verdict {
        self.judged = Instant::now();
        self.unjudged = 0;
        let merges = room.merges.load(Ordering::Relaxed);
        let is_much = self.appended >= 4 * self.budget.judge_every_bytes();
        if is_much || self.looked.is_none_or(|at| at.elapsed() >= LOOK) || merges != self.merges {
            (self.looked, self.merges) = (Some(Instant::now()), merges);
            self.measure(reader);
            room.free.store(self.measured.free.unwrap_or(0), Ordering::Relaxed);
        }
        let appended = self.appended;
        let measured = Measured {
            occupied: self.measured.occupied + appended,
            free: self.measured.free.map(|free| free.saturating_sub(appended)),
            released: reader.unmerged_bytes(),
            ..self.measured
        };
        room.occupied.store(measured.occupied, Ordering::Relaxed);
        if self.budget.needs_lanes() {
            self.weigh_lanes(reader);
        }
        let mut verdict = self.budget.judge(measured, &self.waiting);
        if self.is_over_limit(reader, room) {
            // As in edgeHub, for every message alike: it is not acknowledged until some are delivered.
            verdict.store = Level::FullForUrgent;
            verdict.uplinks.fill(Level::FullForUrgent);
        }
        self.report(verdict.store, &measured);
        room.merge.store(verdict.merge, Ordering::Relaxed);
        verdict
    }

    /// Whether as much waits as a manifest or a twin allows.
    fn is_over_limit(&self, reader: &Reader, room: &Room) -> bool {
        let limit = room.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return false;
        }
        // While the store recovers nobody can look.
        let Ok(lanes) = reader.lanes() else { return false };
        let waiting =
            lanes.iter().filter(|lane| lane.tail > model::Seq::FIRST).map(|lane| lane.bytes).sum::<u64>();
        waiting >= limit
    }

    /// The lane that a drop of the verdict counts.
    pub(crate) fn lane(&self, at: usize) -> LaneId {
        self.lanes[at].lane
    }

    fn measure(&mut self, reader: &Reader) {
        // While the store recovers nobody can look; what was seen last stands.
        if let Ok(occupied) = reader.occupied() {
            self.measured.occupied = occupied.bytes;
            self.measured.sorted = occupied.sorted_bytes;
            self.appended = 0;
        }
        (self.measured.free, self.measured.inodes_free) = left_on(&self.path);
    }

    fn report(&mut self, level: Level, measured: &Measured) {
        if level == self.last {
            return;
        }
        let (occupied, free) = (measured.occupied, measured.free.unwrap_or(0));
        match level {
            Level::Roomy => info!(occupied, free, "the store has room again"),
            Level::FullForOrdinary => {
                warn!(occupied, free, "the store is full but for the reserve of priorities 0 to 2")
            }
            Level::FullForUrgent => warn!(
                occupied,
                free,
                "the store is full: what cannot be dropped is refused until messages are delivered or space is freed"
            ),
        }
        self.last = level;
    }
}

/// Bytes and inodes that a file system still gives to us; `None` where it does not say.
fn left_on(path: &Path) -> (Option<u64>, Option<u64>) {
    match nix::sys::statvfs::statvfs(path) {
        Ok(about) => {
            let bytes = about.blocks_available() * about.fragment_size();
            // Some file systems make inodes as they need them, and say 0 of 0.
            let inodes = (about.files() > 0).then(|| about.files_available());
            (Some(bytes), inodes)
        }
        Err(_) => (None, None),
    }
}
