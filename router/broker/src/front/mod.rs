//! The front of a lane: its newest records, in memory, as long as the upstream keeps up (durability `spill`), or as long as
//! there is room (`memory`, whose publishers wait for nothing).
//!
//! Knows: one lane, places, ages. Never: the log, the link, threads. In: records in their order, how far the uplink is, how
//! far the log is, time. Out: whether the next record may stand here, what must be written now and why, what is safe.
//! The log holds the places before the front, the front those up to the end of the lane. Data goes one way: what must be
//! written is appended to the log, where its place fits by construction, and leaves the front after that; what was
//! delivered leaves it unwritten.
//! Invariant: places in the front are dense; an *open* front takes records, a *closed* one is to be written as a whole
//! and takes none until the uplink has delivered what stood there, and has read what the log got meanwhile.
//! Bound: whoever holds fronts counts [`Front::bytes`] of all of them, and closes one when there are too many.

mod safe;

use std::collections::VecDeque;
use std::sync::Arc;

use model::{Instant, Seq, ShardId, SpillTicket, Timestamp};

pub use safe::Safe;

/// Memory that a record takes beside its bytes, about.
pub const HELD_OVERHEAD_BYTES: u64 = size_of::<Held>() as u64 + 16;

/// Why records that may stay in memory are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// There is no link to the upstream.
    LinkDown,
    /// The oldest one was not delivered within `spill_after`.
    Late,
    /// The fronts hold `limits.spill_bytes_max`.
    Full,
    /// The log has a backlog of the lane, behind which they would only wait, or gets what stood here.
    Backlog,
    /// A record behind them must be written: order first.
    Order,
    /// The router stops.
    Stop,
}

impl Why {
    /// All of them, in their order.
    pub const ALL: [Why; 6] = [Why::LinkDown, Why::Late, Why::Full, Why::Backlog, Why::Order, Why::Stop];

    /// For people and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::LinkDown => "link_down",
            Why::Late => "late",
            Why::Full => "full",
            Why::Backlog => "backlog",
            Why::Order => "order",
            Why::Stop => "stop",
        }
    }
}

/// A record that may be in no log.
#[derive(Clone, Debug)]
pub struct Held {
    /// The record.
    pub bytes: Arc<[u8]>,
    /// When it was accepted.
    pub enqueued: Timestamp,
    /// When it is worth nothing any more.
    pub expires: Option<Timestamp>,
    /// When it came here.
    pub since: Instant,
    /// Who waits for it.
    pub owner: (ShardId, SpillTicket),
    /// A reader passed over it because it has expired.
    expired: bool,
}

impl Held {
    /// A record that has just come.
    pub fn new(
        bytes: Arc<[u8]>,
        (enqueued, expires): (Timestamp, Option<Timestamp>),
        since: Instant,
        owner: (ShardId, SpillTicket),
    ) -> Held {
        Held { bytes, enqueued, expires, since, owner, expired: false }
    }

    /// Whether somebody waits until it is safe.
    fn is_waited_for(&self) -> bool {
        self.owner.1 != SpillTicket::NOBODY
    }

    fn weight(&self) -> u64 {
        self.bytes.len() as u64 + HELD_OVERHEAD_BYTES
    }
}

/// A record as a reader gets it.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its place.
    pub seq: Seq,
    /// The record.
    pub bytes: Arc<[u8]>,
    /// When it was accepted.
    pub enqueued: Timestamp,
    /// When it is worth nothing any more.
    pub expires: Option<Timestamp>,
}

/// What others know of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// There is a link to the upstream.
    pub link_up: bool,
    /// The first place that the uplink has not read.
    pub read_to: Seq,
    /// The first place that is not delivered.
    pub head: Seq,
    /// The place that the log would give next.
    pub log_end: Seq,
    /// Records of the lane are on their way into the log and not durable.
    pub writing: bool,
}

/// What left a front because it was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Records, those included that expired.
    pub messages: u64,
    /// Of them, those that nobody got because they had expired.
    pub expired: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Until the places before this one are delivered.
    Closed {
        until: Seq,
    },
}

/// See the charter.
#[derive(Debug)]
pub struct Front {
    records: VecDeque<Held>,
    /// The place behind the last record, or the least one that the next record may have.
    end: Seq,
    bytes: u64,
    /// So many of them have expired, and a reader passed over them.
    expired: usize,
    /// When those came that somebody waits for, in order.
    waited_since: VecDeque<Instant>,
    /// So many of the first records are in the group that is being collected.
    staged: usize,
    mode: Mode,
    /// The end of the log before the last group, and behind it.
    log_ends: (Seq, Seq),
    after_millis: u64,
}

impl Front {
    /// An empty one of a lane whose log ends at `log_end`; closed, until a link is there and has delivered that. A record
    /// that stays for `after_millis` is written.
    pub fn new(log_end: Seq, after_millis: u64) -> Front {
        Front {
            records: VecDeque::new(),
            end: log_end,
            bytes: 0,
            expired: 0,
            waited_since: VecDeque::new(),
            staged: 0,
            mode: Mode::Closed { until: log_end },
            log_ends: (log_end, log_end),
            after_millis,
        }
    }

    /// Records here.
    pub fn messages(&self) -> usize {
        self.records.len()
    }

    /// Of them, those that nobody waits for: they were acknowledged when they came.
    pub fn acknowledged(&self) -> usize {
        self.records.len() - self.waited_since.len()
    }

    /// Memory that they take, about.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of the records, as a log counts them.
    pub fn record_bytes(&self, overhead: u64) -> u64 {
        self.bytes - self.records.len() as u64 * HELD_OVERHEAD_BYTES + self.records.len() as u64 * overhead
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The place behind the last record.
    pub fn end(&self) -> Seq {
        self.end
    }

    /// The place of the first record, or [`Front::end`].
    pub fn first(&self) -> Seq {
        Seq::new(self.end.get() - self.records.len() as u64).expect("places begin at 1")
    }

    /// Whether the next record may stand here; else why it is to be written at once, behind all that is here.
    pub fn admits(&mut self, progress: &Progress) -> Result<(), Why> {
        if !progress.link_up {
            self.mode = Mode::Closed { until: self.end.max(progress.log_end) };
            return Err(Why::LinkDown);
        }
        if progress.writing {
            return Err(Why::Order);
        }
        if let Mode::Closed { until } = self.mode {
            // The last group may be younger than the uplink's last look; what came before it must have been read.
            let is_caught_up = progress.head >= until && progress.read_to >= self.log_ends.0;
            if !is_caught_up || !self.records.is_empty() {
                return Err(Why::Backlog);
            }
            self.mode = Mode::Open;
        }
        Ok(())
    }

    /// As [`Front::admits`], for a record that nobody waits for: neither a link that is down nor a backlog is a reason to
    /// write it.
    pub fn admits_for_nobody(&mut self, progress: &Progress) -> Result<(), Why> {
        if progress.writing {
            return Err(Why::Order);
        }
        if self.is_closed() && !self.records.is_empty() {
            return Err(Why::Backlog);
        }
        self.mode = Mode::Open;
        Ok(())
    }

    /// Puts a record behind the others; its place. [`Front::admits`] must have said so.
    pub fn push(&mut self, held: Held, log_end: Seq) -> Seq {
        assert!(self.mode == Mode::Open && self.staged == 0, "only an open front takes records");
        if self.records.is_empty() {
            self.end = self.end.max(log_end);
        }
        let seq = self.end;
        self.bytes += held.weight();
        self.waited_since.extend(held.is_waited_for().then_some(held.since));
        self.records.push_back(held);
        self.end = seq.next();
        seq
    }

    /// Why everything here must be written now, if it must.
    pub fn is_due(&self, link_up: bool, now: Instant) -> Option<Why> {
        let oldest = self.waited_since.front()?;
        match self.mode {
            Mode::Closed { .. } => None, // it is on its way
            Mode::Open if !link_up => Some(Why::LinkDown),
            Mode::Open => (oldest.plus_millis(self.after_millis) <= now).then_some(Why::Late),
        }
    }

    /// When the oldest record that somebody waits for has been here for too long, if it is not on its way out.
    pub fn due_at(&self) -> Option<Instant> {
        let oldest = self.waited_since.front().filter(|_| self.mode == Mode::Open)?;
        Some(oldest.plus_millis(self.after_millis))
    }

    /// Everything here is to be written, and so is what comes, until that is delivered.
    pub fn close(&mut self) {
        self.mode = Mode::Closed { until: self.end };
    }

    /// A record was written past the front, at `seq`: what comes is written until it is delivered.
    pub fn passed_by(&mut self, seq: Seq) {
        assert!(self.staged == self.records.len(), "order first");
        self.mode = Mode::Closed { until: seq.next() };
    }

    /// Whether it takes no records: what is here is to be written.
    pub fn is_closed(&self) -> bool {
        self.mode != Mode::Open
    }

    /// The first record that is to be appended to the log and is not, with its place. Say [`Front::staged`] then.
    pub fn to_stage(&self) -> Option<(Seq, &Held)> {
        let held = self.records.get(self.staged).filter(|_| self.is_closed())?;
        Some((Seq::new(self.first().get() + self.staged as u64)?, held))
    }

    /// The record that [`Front::to_stage`] gave is in the group.
    pub fn staged(&mut self) {
        self.staged += 1;
    }

    /// Whether something of it is in the group that is being collected.
    pub fn is_staged(&self) -> bool {
        self.staged > 0
    }

    /// A group is durable, and the log ends at `log_end`: what is there leaves, and each goes to `left`. An entry of
    /// `left` that says so has expired, and a reader passed over it.
    pub fn written(&mut self, log_end: Seq, mut left: impl FnMut(Seq, &Held, bool)) {
        self.staged = 0;
        self.log_ends = (self.log_ends.1, log_end.max(self.log_ends.1));
        while self.first() < log_end && !self.records.is_empty() {
            let seq = self.first();
            let held = self.take_first();
            left(seq, &held, held.expired);
        }
    }

    /// A group came to nothing.
    pub fn start_over(&mut self) {
        self.staged = 0;
    }

    /// Records before `head` that a reader passed over because they have expired. Costs nothing while there is none at all.
    pub fn expired_before(&self, head: Seq) -> impl Iterator<Item = &Held> {
        let count = if self.expired == 0 { 0 } else { head.get().saturating_sub(self.first().get()) };
        self.records.iter().take(count as usize).filter(|held| held.expired)
    }

    /// Everything before `head` is delivered: it leaves, and each owner goes to `done`.
    pub fn delivered(&mut self, head: Seq, mut done: impl FnMut((ShardId, SpillTicket))) -> Left {
        assert!(self.staged == 0, "places are not given twice");
        let mut left = Left::default();
        while self.first() < head && !self.records.is_empty() {
            let held = self.take_first();
            left.messages += 1;
            left.expired += u64::from(held.expired);
            done(held.owner);
        }
        left
    }

    /// Reads from `from` on, within the limits, at least one record if there is one; what has expired is passed over. Says
    /// where to go on, and how many were passed over for the first time. `None` if `from` is not here: it left, or
    /// is still to come.
    pub fn read(
        &mut self,
        from: Seq,
        (messages_max, bytes_max): (usize, usize),
        now: Timestamp,
        out: &mut Vec<Given>,
    ) -> Option<(Seq, u64)> {
        let first = self.first();
        let skip = from.get().checked_sub(first.get())? as usize;
        if skip >= self.records.len() {
            return None;
        }
        let (mut next, mut bytes, mut expired) = (from, 0, 0);
        for held in self.records.iter_mut().skip(skip) {
            if held.expires.is_some_and(|at| at <= now) {
                expired += u64::from(!held.expired);
                self.expired += usize::from(!held.expired);
                held.expired = true;
            } else {
                bytes += held.bytes.len();
                if !out.is_empty() && (out.len() >= messages_max || bytes > bytes_max) {
                    break;
                }
                let (bytes, enqueued, expires) = (Arc::clone(&held.bytes), held.enqueued, held.expires);
                out.push(Given { seq: next, bytes, enqueued, expires });
            }
            next = next.next();
        }
        Some((next, expired))
    }

    fn take_first(&mut self) -> Held {
        let held = self.records.pop_front().expect("the caller has looked");
        self.bytes -= held.weight();
        self.expired -= usize::from(held.expired);
        if held.is_waited_for() {
            self.waited_since.pop_front();
        }
        // A burst is not remembered for ever.
        if self.records.is_empty() && self.records.capacity() > 4_096 {
            (self.records, self.waited_since) = (VecDeque::new(), VecDeque::new());
        }
        held
    }

    /// Panics if something that must always hold does not. For tests.
    pub fn invariants(&self) {
        assert!(self.staged <= self.records.len());
        assert_eq!(self.waited_since.len(), self.records.iter().filter(|it| it.is_waited_for()).count());
        assert_eq!(self.bytes, self.records.iter().map(Held::weight).sum::<u64>());
        assert_eq!(self.expired, self.records.iter().filter(|it| it.expired).count());
        assert!(self.end.get() > self.records.len() as u64);
        assert!(self.staged == 0 || self.is_closed());
    }
}

#[cfg(test)]
mod tests;
