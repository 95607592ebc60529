//! Station 6: the one thread that writes. It collects what all shards appended, writes it at once, syncs once,
//! and reports how far it is.
//!
//! In: trays of writes, cursors, requests. Out: watermarks to the shards, tails to the uplinks, answers.
//! The group grows by itself: while one group is being synced the next one collects, so that an idle gateway answers
//! after one sync and a busy one pays one sync for thousands of messages. In between a small group waits a moment (`pacing`).
//! After a failed write nothing is acknowledged: the shards hear nothing, their credit runs out, they stop reading
//! (DESIGN §8, never 4). What they wrote is kept, the disk is tried again and again, and when it takes writes everything
//! goes on where it stopped; see `unconfirmed`.

pub(crate) mod budget;
mod expired;
mod fronts;
mod growing;
mod house;
pub(crate) mod losses;
mod pacing;
mod reading;
pub(crate) mod reports;
pub(crate) mod space;
mod spaces;
mod unconfirmed;
pub(crate) mod vanished;
mod whose;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broker::{AppendTray, Levels, Loss, Request, Write, input_lane_name};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use model::{LaneId, RouteId, Seq, ShardId, SpillTicket, Ticket};
use store::{CommitLog, FaultKind, StoreError};
use tracing::{error, info, warn};

use self::fronts::DiskFronts;
use self::losses::Ledger;
use self::pacing::{Pacing, Waits};
use self::space::{Room, SpaceWatch};
use self::unconfirmed::Unconfirmed;
use self::vanished::VanishedLanes;
use crate::clock::Clock;
use crate::fronts::FrontBoard;
use crate::levels::LevelBoard;
use crate::mail::{Mail, Mailbox};
use crate::upstream::Tails;

pub(crate) use self::losses::{Dropped, LOSS_BYTES_MAX, Reason};
pub(crate) use self::reading::{ReadJob, run_lane_reader, run_merger};
pub(crate) use self::spaces::{GATEWAY, space_of};

/// How often delivered and expired data is given back, and cursors of an idle store are written.
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// The same while a drain leaves much behind.
const RECLAIM_AGAIN: Duration = Duration::from_millis(10);

/// How often a group that waits for more is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Looks of a stop for what is delivered behind heads.
const LAST_LOOKS_MAX: u32 = 64;

/// When a disk that failed is tried again, at first and at last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(15);

/// A job for the disk thread.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make this durable.
    Append {
        /// Whose.
        shard: ShardId,
        /// What.
        tray: AppendTray,
    },
    /// The same for a tray that drops messages from a poison lane; the ledger has them in the same group.
    Drop {
        /// Whose.
        shard: ShardId,
        /// What.
        tray: AppendTray,
        /// Which messages.
        dropped: Vec<Dropped>,
    },
    /// These lanes are delivered up to here.
    Advance(Vec<(LaneId, Seq)>),
    /// Messages that sinks did not get.
    Lost(Vec<Loss>),
    /// Uplinks have delivered what somebody waits for, or a link is down: look at the fronts.
    Look,
    /// A question of a shard.
    Ask {
        /// Whose.
        shard: ShardId,
        /// What.
        request: Request,
    },
    /// Write everything that waits, then stop.
    Stop,
}

/// What the disk thread lets others see.
#[derive(Debug, Default)]
pub(crate) struct DiskState {
    /// A write failed; nothing is acknowledged until the disk takes writes again.
    pub poisoned: AtomicBool,
    /// How often it did so.
    pub recoveries: AtomicU64,
    /// Group commits since the start.
    pub commits: AtomicU64,
    /// Records written.
    pub records: AtomicU64,
    /// Messages that expired before they were delivered.
    pub expired: AtomicU64,
    /// Whose they were, as far as that was looked at, where somebody asks; see `expired`.
    pub expired_of: Option<Mutex<hub::series::Series>>,
    /// Messages given up because what is kept of them cannot be read.
    pub damaged: AtomicU64,
    /// Ranges that were found damaged since the start, set aside as far as there was room. Above 0 is an alarm.
    pub quarantined: AtomicU64,
    /// Lost messages that the ledger had no room to note.
    pub unnoted: AtomicU64,
    /// How much room there is.
    pub room: Room,
    /// What was lost, and why.
    pub ledger: Ledger,
    /// Lanes that nobody leads to.
    pub vanished: VanishedLanes,
    /// What routes are called, and where they lead.
    routes: Mutex<Arc<RouteNames>>,
}

impl DiskState {
    /// Of a store with this ledger and these lanes that nobody leads to. `series_bytes_max`: whose messages expire is counted,
    /// in so many bytes.
    pub(crate) fn new(ledger: Ledger, vanished: VanishedLanes, series_bytes_max: Option<usize>) -> DiskState {
        let expired_of = series_bytes_max.map(|bytes_max| Mutex::new(hub::series::Series::within(bytes_max)));
        DiskState { ledger, vanished, expired_of, ..DiskState::default() }
    }

    /// The routes were replaced.
    pub(crate) fn set_routes(&self, routes: RouteNames) {
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    fn routes(&self) -> Arc<RouteNames> {
        Arc::clone(&self.routes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The names of routes, for the loss ledger. Bound: `limits.routes_max` names, and a lane for each way of each.
#[derive(Debug, Default)]
pub(crate) struct RouteNames {
    names: Vec<String>,
    /// By name of a lane: the route that leads there, `None` if several do.
    to_lane: HashMap<String, Option<String>>,
}

impl RouteNames {
    /// Adds the next route, with the names of the lanes it leads to.
    pub(crate) fn add(&mut self, name: &str, lanes: impl Iterator<Item = String>) {
        self.names.push(name.to_owned());
        for lane in lanes {
            let only = self.to_lane.entry(lane).or_insert_with(|| Some(name.to_owned()));
            only.take_if(|it| it.as_str() != name);
        }
    }

    fn name(&self, route: RouteId) -> Option<&str> {
        self.names.get(route.0 as usize).map(String::as_str)
    }

    /// The only route that leads to a lane.
    fn to_lane(&self, lane: &str) -> Option<&str> {
        self.to_lane.get(lane)?.as_deref()
    }
}

/// What waits before it is written, and how.
pub(crate) struct Waiting {
    /// Least time between two small groups.
    pub(crate) commit_interval: Duration,
    /// What need not be written at all as long as the upstream keeps up, and most bytes of that.
    pub(crate) fronts: Arc<FrontBoard>,
    /// See `fronts`.
    pub(crate) spill_bytes_max: u64,
}

/// The disk thread.
pub(crate) struct Disk {
    log: store::Log,
    jobs: Receiver<Job>,
    reader: Sender<ReadJob>,
    mailboxes: Vec<Arc<Mailbox>>,
    tails: Arc<Tails>,
    state: Arc<DiskState>,
    levels: Arc<LevelBoard>,
    space: SpaceWatch,
    /// The group that is being collected has entries of the ledger, and what came to nothing begins with this one.
    has_entries: bool,
    entries_from: u64,
    clock: Clock,
    /// What is not durable yet.
    unconfirmed: Unconfirmed,
    /// When small groups wait.
    pacing: Pacing,
    /// What need not be written as long as the upstream keeps up.
    fronts: DiskFronts,
    /// The first record of the group that is being collected.
    group_first: Option<(LaneId, Seq)>,
    /// Highest ticket and bytes that are durable, indexed by shard.
    durable: Vec<(Ticket, u64)>,
    /// Positions to keep once the group is written.
    advances: Vec<(LaneId, Seq)>,
    /// What can only be done once the group is written.
    after_commit: Vec<(ShardId, Request)>,
    /// Lanes whose removal is part of the next group.
    removing: Vec<(ShardId, Request)>,
    /// When a disk that failed is tried again, and how long to wait after that.
    retry: Option<(Instant, Duration)>,
    /// Answers that a full mailbox did not take.
    unsent: Vec<(ShardId, Mail)>,
    /// The last look found more to give back than one look may.
    much_to_reclaim: bool,
    stopping: bool,
}

impl Disk {
    /// A disk thread's state; [`Disk::run`] is the thread.
    pub(crate) fn new(
        log: store::Log,
        jobs: Receiver<Job>,
        reader: Sender<ReadJob>,
        mailboxes: Vec<Arc<Mailbox>>,
        tails: Arc<Tails>,
        state: Arc<DiskState>,
        (levels, space, Waiting { commit_interval, fronts, spill_bytes_max }): (
            Arc<LevelBoard>,
            SpaceWatch,
            Waiting,
        ),
    ) -> Disk {
        let entries_from = state.ledger.newest();
        let durable = vec![(Ticket(0), 0); mailboxes.len()];
        let fronts = DiskFronts::new(fronts, spill_bytes_max, mailboxes.len());
        Disk {
            log,
            jobs,
            reader,
            mailboxes,
            tails,
            state,
            levels,
            space,
            has_entries: false,
            entries_from,
            clock: Clock::default(),
            unconfirmed: Unconfirmed::default(),
            pacing: Pacing::new(commit_interval),
            fronts,
            group_first: None,
            durable,
            removing: Vec::new(),
            retry: None,
            advances: Vec::new(),
            after_commit: Vec::new(),
            unsent: Vec::new(),
            much_to_reclaim: false,
            stopping: false,
        }
    }

    /// Runs until told to stop, or until every sender is gone. The log is closed at the end.
    pub(crate) fn run(mut self) {
        let mut housekeeping = Instant::now();
        while !self.stopping {
            self.send_unsent();
            let pause = if self.much_to_reclaim { RECLAIM_AGAIN } else { HOUSEKEEPING };
            let wait = self.fronts.wait(self.clock.now().instant).map_or(pause, |wait| wait.min(pause));
            match self.jobs.recv_timeout(wait) {
                Ok(job) => self.collect(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.ring_for_fronts();
            self.wait_for_more();
            self.commit();
            self.look_at_fronts(false);
            self.tell_shards();
            self.tell_of_holding();
            self.retry_if_due();
            self.watch_space();
            if housekeeping.elapsed() >= pause {
                housekeeping = Instant::now();
                self.keep_house();
            }
        }
        // What uplinks have said at last goes from behind what waits: it would be sent again.
        self.log.take_out_all();
        for _ in 0..LAST_LOOKS_MAX {
            self.keep_house();
            if !self.much_to_reclaim {
                break;
            }
        }
        self.write_all_fronts();
        if let Err(error) = self.log.close() {
            warn!(%error, "positions were not written; some messages will be sent again after the next start");
        }
    }

    /// Takes this job and everything that came meanwhile. Under load that has no end: budgets are looked at in between.
    fn collect(&mut self, first: Job) {
        self.take(first);
        while !self.space.is_due()
            && !self.space.wants_room()
            && let Ok(job) = self.jobs.try_recv()
        {
            self.take(job);
        }
    }

    /// A small group close behind another one waits a moment.
    fn wait_for_more(&mut self) {
        if !self.may_wait() {
            return;
        }
        let bytes = self.log.staged_bytes();
        let Some(Waits { echo, more }) = self.pacing.waits(Instant::now(), bytes) else { return };
        let before = self.sleep_and_collect(echo);
        let (mut after, until) = (before, Instant::now() + more);
        while self.may_wait() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !Pacing::is_small(after) {
                return self.pacing.waited(before, after);
            }
            after = self.sleep_and_collect(left.min(LOOK_AGAIN));
        }
    }

    /// Whether nothing is to be done but to collect.
    fn may_wait(&self) -> bool {
        let is_room_short = self.space.is_due() || self.space.wants_room();
        !self.stopping && !self.is_poisoned() && self.after_commit.is_empty() && !is_room_short
    }

    /// The bytes of the group after that. Woken by each message, this thread would cost more than the sync that is spared.
    fn sleep_and_collect(&mut self, time: Duration) -> u64 {
        std::thread::sleep(time);
        if let Ok(job) = self.jobs.try_recv() {
            self.collect(job);
            self.ring_for_fronts();
        }
        self.log.staged_bytes()
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Append { shard, tray } => {
                self.take_in(shard, tray);
                self.stage();
            }
            Job::Drop { shard, tray, dropped } => {
                self.take_in(shard, tray);
                self.stage();
                self.enter_dropped(&dropped);
            }
            // After the group: a subscriber may acknowledge what is not written yet.
            Job::Advance(lanes) => self.advances.extend(lanes),
            Job::Lost(losses) => self.enter_losses(losses),
            Job::Ask { shard, request } => self.after_commit.push((shard, request)),
            Job::Look => {} // that follows
            Job::Stop => self.stopping = true,
        }
    }

    fn is_poisoned(&self) -> bool {
        self.state.poisoned.load(Ordering::Relaxed)
    }

    /// Puts everything that is not durable into the group.
    ///
    /// What belongs together in a tray (a publication and its QoS 2 identifier, a head and the marks it makes needless)
    /// is durable at once or not at all: a tray that the group has no room for begins the next one. Only a tray that is
    /// more than a group by itself is cut, in its order.
    fn stage(&mut self) {
        if self.is_poisoned() {
            return;
        }
        loop {
            if let Some((Write::Record { lane, .. }, _)) = self.unconfirmed.next()
                && let Err(error) = self.stage_front_of(lane)
            {
                return self.poison(&error);
            }
            let staged_bytes = self.log.staged_bytes();
            if staged_bytes > 0
                && staged_bytes + self.unconfirmed.tray_ahead() > self.log.commit_bytes_max()
                && let Err(error) = self.make_room().and_then(|()| self.write_group())
            {
                return self.poison(&error);
            }
            let Some((write, bytes)) = self.unconfirmed.next() else { return };
            match write_one(&mut self.log, &write, bytes) {
                Ok(place) => {
                    self.group_first = self.group_first.or(place);
                    self.unconfirmed.staged(&write);
                    if let (Write::Record { spill: SpillTicket(0), .. }, Some((lane, seq))) = (&write, place)
                    {
                        self.passed_by(lane, seq);
                    }
                }
                // Half a tray is durable earlier than its ticket says: early is allowed, late is not. Or a position lies
                // behind a record of this group.
                Err(StoreError::CommitFull { .. } | StoreError::NotAppended { .. }) if staged_bytes > 0 => {
                    if let Err(error) = self.write_group() {
                        return self.poison(&error);
                    }
                }
                Err(error) => return self.poison(&error),
            }
        }
    }

    /// Writes the group and reports it.
    fn commit(&mut self) {
        if let Err(error) = self.stage_due_fronts() {
            self.poison(&error);
        }
        if !self.is_poisoned()
            && let Err(error) = self.make_room().and_then(|()| self.write_group())
        {
            self.poison(&error);
        }
        for (lane, up_to) in self.advances.drain(..) {
            // A lane that was removed meanwhile needs no cursor.
            if let Err(error) = self.log.advance(lane, up_to)
                && !matches!(error, StoreError::UnknownLane(_))
            {
                warn!(%error, %lane, "position not kept; messages may be sent again after a restart");
            }
        }
        for (shard, request) in std::mem::take(&mut self.after_commit) {
            self.answer(shard, request);
        }
    }

    fn write_group(&mut self) -> Result<(), StoreError> {
        if self.log.staged_bytes() > 0 {
            self.pacing.begin(Instant::now());
        }
        let committed = self.log.commit()?;
        self.space.appended(committed.bytes);
        if std::mem::take(&mut self.has_entries) {
            self.entries_from = self.state.ledger.newest();
            self.state.ledger.written();
        }
        if committed.records > 0 {
            self.state.commits.fetch_add(1, Ordering::Relaxed);
            self.state.records.fetch_add(committed.records, Ordering::Relaxed);
            self.tails.grown(committed.lanes);
        }
        self.group_is_durable();
        Ok(())
    }

    fn group_is_durable(&mut self) {
        self.group_first = None;
        self.removing.clear();
        while let Some(kept) = self.unconfirmed.confirmed() {
            self.space.confirmed(&kept.tray);
            let (ticket, bytes) = &mut self.durable[usize::from(kept.shard.0)];
            *ticket = kept.tray.last;
            *bytes += kept.tray.bytes.len() as u64;
            self.fronts.confirmed(kept.shard, &kept.spills);
        }
        self.group_left_fronts();
        self.tell_shards();
    }

    /// Says how far each shard's writes are, where that has changed.
    fn tell_shards(&self) {
        for (index, (mailbox, (ticket, bytes))) in self.mailboxes.iter().zip(&self.durable).enumerate() {
            let safe = self.fronts.safe(index);
            if mailbox.durable_up_to() != (*ticket, *bytes) || mailbox.spilled_up_to() != safe {
                mailbox.durable(*ticket, *bytes, safe);
            }
        }
    }

    /// Tries a disk that failed again: from what is on it, with everything that it had not confirmed.
    fn retry_if_due(&mut self) {
        let Some((_, wait)) = self.retry.filter(|(at, _)| *at <= Instant::now()) else { return };
        let is_log_poisoned = self.log.poison().is_some();
        match self.log.try_recover() {
            Ok(repaired) => repaired.iter().for_each(tell_repaired),
            Err(error) => {
                info!(%error, "the store still takes no writes");
                self.retry = Some((Instant::now() + wait, (wait * 2).min(RETRY_LAST)));
                return;
            }
        }
        self.retry = None;
        self.state.poisoned.store(false, Ordering::Relaxed);
        self.state.recoveries.fetch_add(1, Ordering::Relaxed);
        self.tell_levels(|levels| levels.takes_writes = true);
        info!("the store takes writes again");
        if !is_log_poisoned {
            return self.stage(); // it only refused to take something: what is in the group still is
        }
        // A group is there as a whole or not at all: its first record tells. Recovering made durable what is there.
        let is_there = self
            .group_first
            .take()
            .is_some_and(|(lane, seq)| self.log.lane_state(lane).is_ok_and(|state| seq < state.tail));
        if is_there {
            let grown = self.log.lanes().unwrap_or_default();
            let last = |tail: Seq| Seq::new(tail.get() - 1);
            let grown: Vec<_> =
                grown.iter().filter_map(|state| Some((state.id, last(state.tail)?))).collect();
            self.tails.grown(&grown);
            self.group_is_durable();
        } else {
            self.after_commit.append(&mut self.removing);
        }
        self.unconfirmed.start_over();
        // What was delivered meanwhile keeps its places.
        self.look_at_fronts(true);
        if self.has_entries
            && let Err(error) = self.state.ledger.stage_again(&mut self.log, self.entries_from)
        {
            return self.poison(&error);
        }
        self.stage();
        self.commit();
    }

    /// Before a stop: a disk that fails may be well by now, and nobody tries it after that. A store that would have to be
    /// written anew would take too long; the next start does it.
    fn retry_at_last(&mut self) {
        let is_quick = self.log.poison().is_none_or(|fault| fault.kind != FaultKind::Corrupt);
        if let Some((at, _)) = self.retry.as_mut().filter(|_| is_quick) {
            *at = Instant::now();
            self.retry_if_due();
        }
    }

    fn answer(&mut self, shard: ShardId, request: Request) {
        if self.is_poisoned() && !matches!(request, Request::ReadLane { .. }) {
            return self.after_commit.push((shard, request)); // bounded by `limits.sessions_max`, and lanes of inputs
        }
        match request {
            Request::OpenLane { session, generation, client_id, input } => {
                let name = match &input {
                    Some((input, priority)) => input_lane_name(&client_id, input, *priority),
                    None => session_lane_name(&client_id),
                };
                match self.open_lane(&name) {
                    Ok((lane, head, next)) => {
                        self.send(shard, Mail::LaneOpened { session, generation, lane, head, next });
                    }
                    Err(error) => {
                        self.poison(&error);
                        let request = Request::OpenLane { session, generation, client_id, input };
                        self.after_commit.push((shard, request));
                    }
                }
            }
            Request::ReadLane { session, generation, lane, from, bytes_max, expired_too } => {
                let job = ReadJob { shard, session, generation, lane, from, bytes_max, expired_too };
                // Bounded by one read per session; a full queue makes the disk thread wait for the reader, which
                // depends on nobody.
                if self.reader.send(job).is_err() {
                    warn!("the lane reader is gone; a stored session cannot be served");
                }
            }
            Request::RemoveLane { lane } => {
                self.removing.push((shard, Request::RemoveLane { lane }));
                if let Err(error) = self.log.remove_lane(lane)
                    && !matches!(error, StoreError::UnknownLane(_))
                {
                    self.poison(&error);
                }
            }
        }
    }

    fn open_lane(&mut self, name: &str) -> Result<(LaneId, Seq, Seq), StoreError> {
        let lane = self.log.lane(name)?;
        self.log.commit()?;
        let state = self.log.lane_state(lane)?;
        Ok((lane, state.head, state.tail))
    }

    fn poison(&mut self, cause: &StoreError) {
        if !self.state.poisoned.swap(true, Ordering::Relaxed) {
            error!(
                %cause,
                "the store takes no writes: acknowledgements wait, nothing acknowledged is lost; free space or mend \
                 the disk, it is tried again every few seconds"
            );
            self.retry = Some((Instant::now() + RETRY_FIRST, RETRY_FIRST));
            if self.log.poison().is_some() {
                self.group_failed_fronts();
            }
            self.tell_levels(|levels| levels.takes_writes = false);
            self.tell_of_holding();
        }
    }

    /// Tells the shards how much room there is.
    fn tell_levels(&self, change: impl FnOnce(&mut Levels)) {
        if self.levels.change(change) {
            self.mailboxes.iter().for_each(|mailbox| mailbox.ring());
        }
    }

    fn send(&mut self, shard: ShardId, mail: Mail) {
        if let Err(mail) = self.mailboxes[usize::from(shard.0)].send(mail) {
            self.unsent.push((shard, mail));
        }
    }

    fn send_unsent(&mut self) {
        for (shard, mail) in std::mem::take(&mut self.unsent) {
            self.send(shard, mail);
        }
    }
}

/// Says what a store that was written anew has lost; messages stand in the ledger, too.
pub(crate) fn tell_repaired(repaired: &store::Repaired) {
    let messages: u64 = repaired.lost.iter().map(|(_, lost)| lost.messages()).sum();
    let (state_gaps, found_lanes) = (repaired.state_gaps, repaired.found_lanes);
    let lost_log = repaired.lost_log.as_deref().unwrap_or("none");
    error!(
        messages,
        state_gaps,
        found_lanes,
        lost_log,
        "the store was written anew: so many messages, and parts of sessions, retained messages and the ledger, could not be read; \
         look at the disk"
    );
}

/// Puts one write into the group; the place of a record.
fn write_one(log: &mut store::Log, write: &Write, bytes: &[u8]) -> Result<Option<(LaneId, Seq)>, StoreError> {
    match *write {
        Write::Record { lane, enqueued, expires, .. } => {
            match log.append(lane, &[bytes], enqueued, expires) {
                // The session ended while its last messages were on their way.
                Err(StoreError::UnknownLane(_)) => Ok(None),
                result => result.map(|seq| Some((lane, seq))),
            }
        }
        Write::Put { space, key_len, .. } => {
            let (key, value) = bytes.split_at(key_len as usize);
            log.state_put(space_of(space), key, value).map(|()| None)
        }
        Write::Delete { space, .. } => log.state_delete(space_of(space), bytes).map(|()| None),
        Write::Advance { lane, up_to } => match log.advance(lane, up_to) {
            // The session has ended.
            Err(StoreError::UnknownLane(_)) => Ok(None),
            result => result.map(|()| None),
        },
    }
}

/// What the names of stored sessions' lanes begin with.
pub(crate) const SESSION_LANES: &str = "s/";

/// The lane of a stored session.
pub(crate) fn session_lane_name(client_id: &str) -> String {
    format!("{SESSION_LANES}{client_id}")
}
