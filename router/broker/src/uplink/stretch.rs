//! A stretch of a lane: places that are sent in order, and those among them that are not settled yet.
//!
//! Knows: places. Never: records, senders, the link. In: what was sent, answered, held back. Out: the next places to
//! read, the first one that is not settled, and what is settled behind it.
//! Invariant: a place before `next` that is not settled is in exactly one of three: `open`, which ascends, if it was sent
//! or is on its way to the poison lane; `held`, if it was never sent and its sender waits; `freed`, if it was never sent
//! and may be. (`open` has a bounded rest of settled ones, too.) `again` holds exactly those of `open` that wait to be
//! sent. What has expired takes no room, and what was never sent takes next to none: a sender that waits for days holds up
//! nobody else.

use std::collections::{BTreeSet, VecDeque};

use model::Seq;

use self::ahead::Mark;
use super::places::Places;

mod ahead;

/// Settled places that may stay in the middle of `open` before it is tidied; above it they are at most half of it.
const SETTLED_KEPT: usize = 64;
/// Longest row of places to be sent again that is told at once.
const ROW_MAX: usize = 1_024;

/// How far an unsettled place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Sent, not answered.
    InFlight,
    /// To be sent, again or at last.
    Again,
    /// Sent before, and not now, because its sender waits.
    Held,
    /// On its way to the poison lane.
    Aside,
    /// Done; only here because it is not at the front.
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    seq: Seq,
    state: State,
    attempts: u16,
    /// It may have reached the upstream.
    was_sent: bool,
}

/// Places from `start` to `end` (not included).
#[derive(Debug)]
pub(super) struct Stretch {
    start: Seq,
    /// The first place that was never read.
    next: Seq,
    end: Seq,
    open: VecDeque<Place>,
    settled: usize,
    again: BTreeSet<Seq>,
    held: Places,
    freed: Places,
    inflight: usize,
    mark: Mark,
}

impl Stretch {
    pub(super) fn new(start: Seq, end: Seq) -> Stretch {
        Stretch {
            start,
            next: start,
            end: end.max(start),
            open: VecDeque::new(),
            settled: 0,
            again: BTreeSet::new(),
            held: Places::default(),
            freed: Places::default(),
            inflight: 0,
            mark: Mark::new(start),
        }
    }

    pub(super) fn start(&self) -> Seq {
        self.start
    }

    pub(super) fn end(&self) -> Seq {
        self.end
    }

    /// The first place that is not settled.
    pub(super) fn head(&self) -> Seq {
        let open = self.open.front().map(|place| place.seq);
        if self.waiting() == 0 {
            return open.unwrap_or(self.next);
        }
        [open, self.held.first(), self.freed.first()].into_iter().flatten().min().unwrap_or(self.next)
    }

    /// Whether nothing is left of it.
    pub(super) fn is_done(&self) -> bool {
        self.unsettled() == 0 && self.next == self.end
    }

    /// Places that are not settled, read or not.
    pub(super) fn backlog(&self) -> u64 {
        self.unsettled() as u64 + self.end.get() - self.next.get()
    }

    /// Places that were read and are not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.underway() + self.waiting()
    }

    /// Of these, those that were sent, or are on their way to the poison lane.
    pub(super) fn underway(&self) -> usize {
        self.open.len() - self.settled
    }

    /// Of these, those that were never sent.
    pub(super) fn waiting(&self) -> usize {
        (self.held.len() + self.freed.len()) as usize
    }

    /// Of these, those whose sender waits.
    pub(super) fn held(&self) -> usize {
        self.held.len() as usize
    }

    pub(super) fn inflight(&self) -> usize {
        self.inflight
    }

    /// It reaches up to here now.
    pub(super) fn grow(&mut self, end: Seq) {
        self.end = self.end.max(end);
    }

    /// The next places to read, and how many in a row: what was read before first, then at most `room` that never were.
    pub(super) fn to_read(&self, room: usize) -> Option<(Seq, usize)> {
        if let Some(first) = self.first_again() {
            let row = (first.get()..).take(ROW_MAX).filter_map(Seq::new).take_while(|seq| self.waits(*seq));
            return Some((first, row.count()));
        }
        let count = (self.end.get() - self.next.get()).min(room as u64) as usize;
        (count > 0).then_some((self.next, count))
    }

    /// Whether this place waits to be sent.
    pub(super) fn wants(&self, seq: Seq) -> bool {
        seq >= self.next && seq < self.end || self.waits(seq)
    }

    /// Whether this place, which was read before, waits to be sent.
    pub(super) fn waits(&self, seq: Seq) -> bool {
        self.again.contains(&seq) || self.freed.contains(seq)
    }

    /// Whether this place, which was read before, is still to be sent, now or later.
    pub(super) fn is_open(&self, seq: Seq) -> bool {
        let state = self.index(seq).map(|index| self.open[index].state);
        matches!(state, Some(State::InFlight | State::Again | State::Held))
            || self.held.contains(seq)
            || self.freed.contains(seq)
    }

    /// Whether something that was read before waits to be sent.
    pub(super) fn has_again(&self) -> bool {
        self.first_again().is_some()
    }

    /// Whether something before this place waits to be sent again.
    pub(super) fn waits_before(&self, seq: Seq) -> bool {
        self.first_again().is_some_and(|first| first < seq)
    }

    fn first_again(&self) -> Option<Seq> {
        let again = self.again.first().copied();
        if self.freed.is_empty() { again } else { again.into_iter().chain(self.freed.first()).min() }
    }

    /// Whether this place may have reached the upstream before.
    pub(super) fn is_repeat(&self, seq: Seq) -> bool {
        self.index(seq).is_some_and(|index| self.open[index].was_sent)
    }

    /// The place is sent.
    pub(super) fn sent(&mut self, seq: Seq) {
        self.set(seq, State::InFlight);
    }

    /// The place is not sent now, because its sender waits.
    pub(super) fn hold(&mut self, seq: Seq) {
        if self.is_unsent(seq) {
            self.held.insert(seq);
        } else {
            self.set(seq, State::Held);
        }
    }

    /// The place is to be sent, again or at last.
    pub(super) fn release(&mut self, seq: Seq) {
        if self.is_unsent(seq) {
            self.freed.insert(seq);
        } else {
            self.set(seq, State::Again);
        }
    }

    /// As [`Stretch::release`], for all of these that are held here.
    pub(super) fn release_all(&mut self, places: &Places) {
        let freed = self.held.take(places);
        self.freed.add(freed);
        for place in &mut self.open {
            if place.state == State::Held && places.contains(place.seq) {
                place.state = State::Again;
                self.again.insert(place.seq);
            }
        }
    }

    /// The place leaves for the poison lane; it is unsettled until it is there.
    pub(super) fn set_aside(&mut self, seq: Seq) {
        self.set(seq, State::Aside);
    }

    /// Counts an attempt that failed; how many there were.
    pub(super) fn failed(&mut self, seq: Seq) -> u16 {
        let Some(index) = self.index(seq) else { return 1 };
        let place = &mut self.open[index];
        place.attempts = place.attempts.saturating_add(1);
        place.attempts
    }

    /// A read from `from` went on to `next`: what waited in between and was not given has expired or is gone.
    pub(super) fn passed(&mut self, from: Seq, next: Seq) {
        let gone: Vec<Seq> = self.again.range(from..next.max(from)).copied().collect();
        for seq in gone {
            self.settle(seq);
        }
        self.mark.all_settled(self.freed.take_range(from, next));
        if from <= self.next {
            self.next = self.next.max(next.min(self.end));
        }
    }

    /// The place needs nothing any more. Says whether it was unsettled.
    pub(super) fn settle(&mut self, seq: Seq) -> bool {
        let Some(index) = self.index(seq) else {
            let is_new = self.held.remove(seq) || self.freed.remove(seq);
            if is_new {
                self.mark.settled(seq);
            }
            return is_new;
        };
        if self.open[index].state == State::Settled {
            return false;
        }
        self.leave(index);
        self.open[index].state = State::Settled;
        self.settled += 1;
        self.mark.settled(seq);
        self.tidy();
        true
    }

    fn tidy(&mut self) {
        while self.open.front().is_some_and(|place| place.state == State::Settled) {
            self.open.pop_front();
            self.settled -= 1;
        }
        if self.settled > SETTLED_KEPT && self.settled * 2 > self.open.len() {
            self.open.retain(|place| place.state != State::Settled);
            self.settled = 0;
        }
    }

    /// As [`Stretch::settle`], for all of these that wait here; what is in flight is answered some day.
    pub(super) fn settle_all(&mut self, places: &Places) {
        self.mark.all_settled(self.held.take(places));
        self.mark.all_settled(self.freed.take(places));
        let waits =
            |place: &&Place| matches!(place.state, State::Held | State::Again) && places.contains(place.seq);
        let gone: Vec<Seq> = self.open.iter().filter(waits).map(|place| place.seq).collect();
        for seq in gone {
            self.settle(seq);
        }
    }

    /// The link is lost: what was in flight is sent again.
    pub(super) fn rewind(&mut self) {
        for place in self.open.iter_mut().filter(|place| place.state == State::InFlight) {
            place.state = State::Again;
            self.again.insert(place.seq);
        }
        self.inflight = 0;
    }

    /// Whether this place was never sent. It is in none of the three then.
    fn is_unsent(&mut self, seq: Seq) -> bool {
        if seq >= self.next {
            assert!(seq < self.end, "only what is in the lane is read");
            self.next = seq.next();
            return true;
        }
        self.held.remove(seq) || self.freed.remove(seq)
    }

    fn set(&mut self, seq: Seq, state: State) {
        let place = Place { seq, state, attempts: 0, was_sent: state == State::InFlight };
        if seq >= self.next {
            assert!(seq < self.end, "only what is in the lane is read");
            self.open.push_back(place);
            self.next = seq.next();
        } else if let Some(index) = self.index(seq) {
            self.leave(index);
            self.open[index].state = state;
            self.open[index].was_sent |= state == State::InFlight;
        } else if self.is_unsent(seq) {
            let index = self.open.partition_point(|before| before.seq < seq);
            self.open.insert(index, place);
        } else {
            return; // settled meanwhile
        }
        match state {
            State::InFlight => self.inflight += 1,
            State::Again => drop(self.again.insert(seq)),
            State::Held | State::Aside | State::Settled => {}
        }
    }

    /// What its old state counted, it counts no more.
    fn leave(&mut self, index: usize) {
        let place = self.open[index];
        match place.state {
            State::InFlight => self.inflight -= 1,
            State::Again => drop(self.again.remove(&place.seq)),
            State::Settled => self.settled -= 1,
            State::Held | State::Aside => {}
        }
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        // Mostly nothing is missing in between, so that the distance from the front is the index.
        let distance = seq.get().checked_sub(self.open.front()?.seq.get())? as usize;
        if self.open.get(distance).is_some_and(|place| place.seq == seq) {
            return Some(distance);
        }
        self.open.binary_search_by_key(&seq, |place| place.seq).ok()
    }

    /// Takes over all of the stretch behind it. What was not read of this one is read first; what is settled is told from the own
    /// mark on.
    pub(super) fn absorb(&mut self, next: Stretch) {
        assert_eq!(self.end, next.start, "stretches stand side by side");
        self.freed.insert_range(self.next, self.end);
        (self.next, self.end) = (next.next, next.end);
        self.open.extend(next.open);
        self.settled += next.settled;
        self.again.extend(next.again);
        self.held.add(next.held);
        self.freed.add(next.freed);
        self.inflight += next.inflight;
        self.tidy();
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        self.held.invariants();
        self.freed.invariants();
        let is_open = |seq: Option<Seq>| seq.is_some_and(|seq| self.index(seq).is_some());
        assert!(!is_open(self.held.first()) && !is_open(self.freed.first()));
        assert!(self.held.first().is_none_or(|seq| seq < self.next && !self.freed.contains(seq)));
        let count = |state| self.open.iter().filter(|place| place.state == state).count();
        assert!(self.start <= self.next && self.next <= self.end);
        assert!(self.start <= self.mark.told && self.mark.told <= self.next);
        let late: Vec<Seq> = self.mark.late().from(self.start).collect();
        assert!(late.iter().all(|seq| *seq < self.mark.told && !self.is_open(*seq)));
        assert!(self.open.iter().zip(self.open.iter().skip(1)).all(|(a, b)| a.seq < b.seq));
        assert!(self.open.back().is_none_or(|last| last.seq < self.next));
        assert_eq!(count(State::InFlight), self.inflight);
        assert_eq!(count(State::Settled), self.settled);
        let again = self.open.iter().filter(|place| place.state == State::Again).map(|place| place.seq);
        assert!(again.eq(self.again.iter().copied()));
        assert!(self.open.front().is_none_or(|place| place.state != State::Settled));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::seq;
    use super::*;

    /// A budget that drops the oldest leaves a hole in front of the reader, as large as an outage was long.
    #[test]
    fn a_jump_over_millions_of_places_takes_no_room() {
        const LEFT: u64 = 10_000_001;
        let mut stretch = Stretch::new(seq(1), seq(LEFT + 10));
        (1..=3).for_each(|place| stretch.sent(seq(place)));
        stretch.hold(seq(2));
        stretch.release(seq(3));
        // The store gives the first place that is left, whatever is asked for.
        stretch.passed(seq(3), seq(LEFT));
        stretch.invariants();
        assert_eq!(stretch.to_read(50), Some((seq(LEFT), 10)));
        assert_eq!((stretch.unsettled(), stretch.backlog()), (2, 12), "in flight, and held");
        assert!(stretch.open.capacity() <= 8, "{}", stretch.open.capacity());
        stretch.settle(seq(1));
        assert_eq!(stretch.head(), seq(2), "what is held is not delivered");
        stretch.release(seq(2));
        stretch.passed(seq(2), seq(LEFT));
        stretch.invariants();
        assert_eq!((stretch.head(), stretch.backlog()), (seq(LEFT), 10));
    }
}
