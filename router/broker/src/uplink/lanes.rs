//! A lane of an uplink: its stretches, how much of each share of the link they had, and how far it is delivered.
//!
//! In: how far the lane reaches, what became of its places. Out: what to read next, the last delivered place, and what is
//! delivered behind it.
//! Mostly there is one stretch. A lane that drains *live first* makes a new one at each connection that finds a backlog: what
//! comes from then on passes what waited, which keeps a share of the link. If the lane is to keep its order from some time
//! on, stretches are read one after the other.
//! Invariant: stretches ascend and do not overlap; all but the last have a fixed end; `delivered` only grows.

use std::collections::VecDeque;

use model::{Instant, LaneId, Priority, Seq};

use super::Backoff;
use super::places::Places;
use super::stretch::Stretch;

/// Stretches of one lane; with that many, the two oldest become one.
const STRETCHES_MAX: usize = 8;
/// Of the window, what history leaves to live messages: a quarter.
const RESERVE: usize = 4;

/// One lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: LaneId,
    pub(super) priority: Priority,
    /// Whether what comes after a reconnect passes what waited.
    live_first: bool,
    /// Whether it passes what waited at the reconnect that was last.
    passes: bool,
    stretches: VecDeque<Stretch>,
    /// The first place that is not reported as delivered.
    reported: Seq,
    /// What waited when the link came up is not sent before.
    history_at: Instant,
    /// Messages sent of history and of both while both had something to send; halved now and then.
    shares: (u64, u64),
    /// Nothing of it is sent before: the upstream refuses more senders than may wait.
    resting_until: Instant,
    rest: Backoff,
}

/// What a lane wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) from: Seq,
    pub(super) count: usize,
    /// It is history, and live messages may come at any time.
    pub(super) is_history: bool,
    /// Both had something to send.
    is_contested: bool,
    /// Nothing from here on: what waits in between comes first.
    pub(super) until: Option<Seq>,
}

impl Wanted {
    /// That, and nothing else is wanted.
    pub(super) fn one(from: Seq, count: usize) -> Wanted {
        Wanted { from, count, is_history: false, is_contested: false, until: None }
    }
}

impl Lane {
    /// `retry_millis`: first and last rest.
    pub(super) fn new(
        id: LaneId,
        priority: Priority,
        (head, tail): (Seq, Seq),
        live_first: bool,
        retry_millis: (u64, u64),
    ) -> Lane {
        Lane {
            id,
            priority,
            live_first,
            passes: false,
            stretches: VecDeque::from([Stretch::new(head, tail)]),
            reported: head,
            history_at: Instant::default(),
            shares: (0, 0),
            resting_until: Instant::default(),
            rest: Backoff::new(retry_millis.0, retry_millis.1),
        }
    }

    /// From the next backlog on what comes after a reconnect passes what waited; or from now on nothing passes anything.
    pub(super) fn set_live_first(&mut self, live_first: bool) {
        self.live_first = live_first;
        self.passes &= live_first;
    }

    /// More of its senders are refused than may wait: nothing of it is sent for a while.
    pub(super) fn rest(&mut self, now: Instant, random: u64) {
        if !self.is_resting(now) {
            self.resting_until = now.plus_millis(self.rest.failed(random));
        }
    }

    /// Something of it was taken: its next rest is the shortest again.
    pub(super) fn taken(&mut self) {
        self.rest.succeeded();
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        now < self.resting_until
    }

    /// The lane reaches up to here now.
    pub(super) fn grow(&mut self, tail: Seq) {
        self.live().grow(tail);
    }

    /// Messages that are not delivered yet.
    pub(super) fn backlog(&self) -> u64 {
        self.stretches.iter().map(Stretch::backlog).sum()
    }

    /// Places that were sent, or are on their way to the poison lane, and are not settled.
    pub(super) fn underway(&self) -> usize {
        self.stretches.iter().map(Stretch::underway).sum()
    }

    /// Places that were read and wait for their senders.
    pub(super) fn held(&self) -> usize {
        self.stretches.iter().map(Stretch::held).sum()
    }

    /// These wait no longer.
    pub(super) fn release_all(&mut self, places: &Places) {
        if !places.is_empty() {
            self.stretches.iter_mut().for_each(|stretch| stretch.release_all(places));
        }
    }

    /// The link is up: what waits is history until `at`, and *live first* what comes from now on passes it.
    pub(super) fn link_is_up(&mut self, window: usize, at: Instant) {
        let backlog = self.backlog();
        // What fits into the window is on its way at once, whatever the order.
        if backlog <= window as u64 {
            return;
        }
        self.history_at = at;
        if self.live_first && !self.live().is_done() {
            self.make_room();
            let mark = self.live().end();
            self.stretches.push_back(Stretch::new(mark, mark));
            self.passes = true;
            self.shares = (0, 0);
        }
    }

    /// Makes room for one more stretch: what is done goes, or the two oldest become one.
    fn make_room(&mut self) {
        if self.stretches.len() < STRETCHES_MAX {
            return;
        }
        let (first, second) = (self.stretches.pop_front(), self.stretches.pop_front());
        if let (Some(mut first), Some(second)) = (first, second) {
            first.absorb(second);
            self.stretches.push_front(first);
        }
    }

    /// These need nothing any more.
    pub(super) fn settle_all(&mut self, places: &Places) {
        self.stretches.iter_mut().for_each(|stretch| stretch.settle_all(places));
    }

    /// Whether something that waited is passed by what comes.
    pub(super) fn has_history(&self) -> bool {
        self.stretches.len() > 1
    }

    /// Next places to read, if there are any and they may be sent now.
    pub(super) fn to_read(&self, rules: &ReadRules) -> Option<Wanted> {
        if self.is_resting(rules.now) {
            return None;
        }
        let look_ahead = rules.underway_max.saturating_sub(self.underway());
        let look_ahead = look_ahead.min(rules.held_max.saturating_sub(self.held()));
        let read = |stretch: &Stretch| stretch.to_read(look_ahead);
        let last = self.stretches.len() - 1;
        let waits = rules.now < self.history_at;
        if last == 0 || !self.passes {
            // In order: until then what came since waits, too.
            let mut all = self.stretches.iter().filter(|_| !waits);
            // A row that is to go again may have expired by now: then the read must not run into what is behind it.
            if let Some((from, count)) = all.clone().find(|it| it.has_again()).and_then(read) {
                let until = Seq::new(from.get() + count as u64);
                return Some(Wanted { until, ..Wanted::one(from, count) });
            }
            let (from, count) = all.find_map(read)?;
            return Some(Wanted::one(from, count));
        }
        let live = read(&self.stretches[last]);
        let inflight: usize = self.stretches.range(..last).map(Stretch::inflight).sum();
        let room = (rules.window - rules.window / RESERVE).saturating_sub(inflight);
        let may = !waits && room > 0 && rules.history_fits;
        // What was read before comes first, wherever it is: while it waits, nobody whom it holds up is tried.
        let old = || self.stretches.range(..last);
        let again = old().filter(|stretch| stretch.has_again());
        let history = if may { again.chain(old()).find_map(read) } else { None };
        let (sent, total) = self.shares;
        let is_due = sent * 100 < total * u64::from(rules.history_share_percent);
        let is_contested = live.is_some() && history.is_some();
        let is_history = live.is_none() || history.is_some() && is_due;
        let (from, count) =
            if is_history { history.map(|(from, count)| (from, count.min(room))) } else { live }?;
        Some(Wanted { from, count, is_history, is_contested, until: None })
    }

    /// So many messages were sent of what it wanted.
    pub(super) fn shared(&mut self, wanted: &Wanted, sent: usize) {
        if !wanted.is_contested {
            return;
        }
        self.shares.0 += if wanted.is_history { sent as u64 } else { 0 };
        self.shares.1 += sent as u64;
        // A long silence of the one must not become a long silence of the other.
        if self.shares.1 > 1_024 {
            self.shares = (self.shares.0 / 2, self.shares.1 / 2);
        }
    }

    /// Whether a held place may be sent now: nothing before it waits to be sent again, which may be its sender's.
    pub(super) fn may_try(&self, seq: Seq) -> bool {
        !self.stretches.iter().any(|stretch| stretch.waits_before(seq))
    }

    /// The stretch of a place.
    pub(super) fn stretch(&mut self, seq: Seq) -> &mut Stretch {
        let index = self.stretches.iter().rposition(|stretch| stretch.start() <= seq).unwrap_or(0);
        &mut self.stretches[index]
    }

    /// A read from `from` went on to `next`.
    pub(super) fn passed(&mut self, from: Seq, next: Seq) {
        self.stretch(from).passed(from, next);
    }

    /// The link is lost.
    pub(super) fn rewind(&mut self) {
        self.stretches.iter_mut().for_each(Stretch::rewind);
    }

    /// The last delivered place, if it has moved since the last time.
    pub(super) fn delivered(&mut self) -> Option<Seq> {
        while self.stretches.len() > 1 && self.stretches[0].is_done() {
            self.stretches.pop_front();
        }
        let head = self.stretches[0].head();
        if head <= self.reported {
            return None;
        }
        self.reported = head;
        Seq::new(head.get() - 1)
    }

    /// Tells of what is delivered behind its first place that is not, and was not told.
    pub(super) fn tell_ahead(&mut self, mut tell: impl FnMut(Seq, Seq)) {
        for (index, stretch) in self.stretches.iter_mut().enumerate() {
            stretch.tell_ahead(index == 0, &mut tell);
        }
    }

    /// When something of it may be sent that may not now, if these are later than now.
    pub(super) fn waits_until(&self) -> [Instant; 2] {
        [self.history_at, self.resting_until]
    }

    fn live(&mut self) -> &mut Stretch {
        self.stretches.back_mut().expect("a lane has at least one stretch")
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        self.stretches.iter().for_each(Stretch::invariants);
        assert!((1..=STRETCHES_MAX).contains(&self.stretches.len()));
        assert!(self.reported <= self.stretches.iter().map(Stretch::head).max().expect("one at least"));
    }
}

/// What decides how much a lane may read now.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRules {
    pub(super) now: Instant,
    /// Publications that may be in flight.
    pub(super) window: usize,
    /// Places of one lane that may be sent and not settled.
    pub(super) underway_max: usize,
    /// Places of one lane that may wait for their senders.
    pub(super) held_max: usize,
    /// Little enough waits for the socket for history to be read.
    pub(super) history_fits: bool,
    pub(super) history_share_percent: u8,
}
