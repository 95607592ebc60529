//! The front of a lane: its newest records, in memory, as long as the upstream keeps up (durability `spill`), or as long as
//! there is room (`memory`, whose publishers wait for nothing).
//!
//! Knows: one lane, places, ages. Never: the log, the link, threads. In: records in their order, how far the uplink is, how
//! far the log is, time. Out: whether the next record may stand here, what must be written now and why, what is safe.
//! The log holds the places before the front, the front those up to the end of the lane. Data goes one way: what must be
//! written is appended to the log, where its place fits by construction, and leaves the front after that; what was
//! delivered leaves it unwritten. What has expired leaves its bytes behind at the next look ([`Front::expire`]), and its place
//! when those before it have left; if it must be written meanwhile, it is written without content, for the places are dense.
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
    /// Whether it has expired, as far as anybody has looked.
    ended: Ended,
}

/// How a record comes to its end undelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has not.
    No,
    /// A reader passed over it because it has expired; nobody was told.
    Passed,
    /// It has expired, who keeps the ledger was told, and its bytes are gone.
    Told,
}

impl Held {
    /// A record that has just come.
    pub fn new(
        bytes: Arc<[u8]>,
        (enqueued, expires): (Timestamp, Option<Timestamp>),
        since: Instant,
        owner: (ShardId, SpillTicket),
    ) -> Held {
        Held { bytes, enqueued, expires, since, owner, ended: Ended::No }
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
    /// Of them, those of which it was told before that they have expired.
    pub told: u64,
    /// Of the others, those that nobody got because they had expired.
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
    /// So many of them have expired, and a reader passed over them; and so many of which it was told.
    passed: usize,
    told: usize,
    /// Nothing here expires before this, but for what was told. 2⁶⁴ − 1 is never.
    soonest: u64,
    /// A look for what has expired that is not at its end: where it goes on, and the soonest of what it saw.
    sweep: Option<(Seq, u64)>,
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
            passed: 0,
            told: 0,
            soonest: u64::MAX,
            sweep: None,
            waited_since: VecDeque::new(),
            staged: 0,
            mode: Mode::Closed { until: log_end },
            log_ends: (log_end, log_end),
            after_millis,
        }
    }

    /// Records here; what was told to have expired is none any more.
    pub fn messages(&self) -> usize {
        self.records.len() - self.told
    }

    /// Of them, those that nobody waits for: they were acknowledged when they came. Cost: a look at each.
    pub fn acknowledged(&self) -> usize {
        self.records.iter().filter(|held| !held.is_waited_for() && held.ended != Ended::Told).count()
    }

    /// Memory that they take, about.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of the records, as a log counts them.
    pub fn record_bytes(&self, overhead: u64) -> u64 {
        self.bytes - self.records.len() as u64 * HELD_OVERHEAD_BYTES + self.messages() as u64 * overhead
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
        self.soonest = self.soonest.min(held.expires.map_or(u64::MAX, |at| at.0));
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

    /// A group is durable, and the log ends at `log_end`: what is there leaves, and each goes to `left`, with whether it has
    /// expired before somebody could read it.
    pub fn written(&mut self, log_end: Seq, mut left: impl FnMut(Seq, &Held, Ended)) {
        self.staged = 0;
        self.log_ends = (self.log_ends.1, log_end.max(self.log_ends.1));
        while self.first() < log_end && !self.records.is_empty() {
            let seq = self.first();
            let held = self.take_first();
            left(seq, &held, held.ended);
        }
    }

    /// A group came to nothing.
    pub fn start_over(&mut self) {
        self.staged = 0;
    }

    /// Records before `head` that a reader passed over because they have expired, and of which nobody was told. Costs nothing
    /// while there is none at all.
    pub fn expired_before(&self, head: Seq) -> impl Iterator<Item = &Held> {
        let count = if self.passed == 0 { 0 } else { head.get().saturating_sub(self.first().get()) };
        self.records.iter().take(count as usize).filter(|held| held.ended == Ended::Passed)
    }

    /// Takes the bytes of what has expired at `now` and stands at `from` or behind it, and shows each to `told`, once; looks at
    /// `records_max` records at most, and goes on there the next time. How many it looked at: 0 while nothing is due.
    ///
    /// What stands before `from` and was given to a reader is on its way to the upstream: it may arrive, or is read again.
    pub fn expire(
        &mut self,
        now: Timestamp,
        from: Seq,
        records_max: usize,
        mut told: impl FnMut(&Held),
    ) -> usize {
        if self.staged > 0 || self.sweep.is_none() && self.soonest > now.0 {
            return 0;
        }
        let (at, mut soonest) = self.sweep.unwrap_or((self.first(), u64::MAX));
        let first = self.first().get();
        let at = at.get().max(first);
        let mut looked = 0;
        for (place, held) in (at..).zip(self.records.iter_mut().skip((at - first) as usize)).take(records_max)
        {
            looked += 1;
            let Some(expires) = held.expires.filter(|_| held.ended != Ended::Told) else { continue };
            if expires > now || place < from.get() && held.ended == Ended::No {
                soonest = soonest.min(expires.0);
                continue;
            }
            told(held);
            self.bytes -= held.bytes.len() as u64;
            self.passed -= usize::from(held.ended == Ended::Passed);
            self.told += 1;
            // For ever, wherever it is written: a clock that is set back must not bring it back without its content.
            let (bytes, expires) = (Arc::from(&[][..]), Some(Timestamp::default()));
            (held.bytes, held.expires, held.ended) = (bytes, expires, Ended::Told);
        }
        let next = Seq::new(at + looked as u64).expect("places begin at 1");
        self.sweep = (next < self.end).then_some((next, soonest));
        if self.sweep.is_none() {
            self.soonest = soonest;
        }
        looked
    }

    /// Whether what stands there was told to have expired.
    pub fn is_told(&self, seq: Seq) -> bool {
        let index = seq.get().checked_sub(self.first().get());
        index.and_then(|index| self.records.get(index as usize)).is_some_and(|held| held.ended == Ended::Told)
    }

    /// The place behind the records at the beginning that were told to have expired; [`Front::first`] if there is none.
    pub fn told_to(&self) -> Seq {
        let told = match self.told {
            0 => 0,
            _ => self.records.iter().take_while(|held| held.ended == Ended::Told).count() as u64,
        };
        Seq::new(self.first().get() + told).expect("places begin at 1")
    }

    /// Everything before `head` is delivered: it leaves, and each owner goes to `done`.
    pub fn delivered(&mut self, head: Seq, mut done: impl FnMut((ShardId, SpillTicket))) -> Left {
        assert!(self.staged == 0, "places are not given twice");
        let mut left = Left::default();
        while self.first() < head && !self.records.is_empty() {
            let held = self.take_first();
            left.messages += 1;
            match held.ended {
                Ended::No => {}
                Ended::Told => left.told += 1,
                Ended::Passed => left.expired += 1,
            }
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
            if held.ended == Ended::Told || held.expires.is_some_and(|at| at <= now) {
                if held.ended == Ended::No {
                    (self.passed, expired, held.ended) = (self.passed + 1, expired + 1, Ended::Passed);
                }
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
        self.passed -= usize::from(held.ended == Ended::Passed);
        self.told -= usize::from(held.ended == Ended::Told);
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
        let ended = |end| self.records.iter().filter(|it| it.ended == end).count();
        assert_eq!((self.passed, self.told), (ended(Ended::Passed), ended(Ended::Told)));
        let alive = self.records.iter().filter(|it| it.ended != Ended::Told);
        let soonest = alive.filter_map(|it| Some(it.expires?.0)).min().unwrap_or(u64::MAX);
        assert!(self.soonest <= soonest && self.sweep.is_none_or(|(next, _)| next < self.end));
        assert!(self.end.get() > self.records.len() as u64);
        assert!(self.staged == 0 || self.is_closed());
    }
}

#[cfg(test)]
mod tests;
