//! What is settled in a stretch behind the head of its lane, told once.
//!
//! Knows: places that are not settled, as the stretch has them. In: what settles, looks now and then. Out: rows of places that
//! nobody needs any more.
//! A mark goes on to the first place that is underway, or to the end of what was read, and passes over what is held; what it has
//! passed is told when it settles. So nothing is missed, and nothing of it happens where everything settles in order.
//! Invariant: what is told is settled. Bound: [`LOOK_MAX`] places and rows per look; `late` holds places that were held.

use model::Seq;

use super::super::places::Places;
use super::{Place, State, Stretch};

/// What one look may cost: a place that is looked at is 1, and a row that is told this much.
const LOOK_MAX: usize = 16_384;
const ROW_COST: usize = 32;
/// Looks for which a place that is underway is waited for: what is behind it must not wait for a link that hangs.
const PATIENCE: u8 = 4;

/// How far a stretch has told.
#[derive(Debug)]
pub(super) struct Mark {
    /// What was settled before when the mark passed it was told.
    pub(super) told: Seq,
    /// Settled before the mark since then, and not told.
    late: Places,
    /// What is waited for, how far was read when that began, and the looks since then.
    waits: Option<(Seq, Seq, u8)>,
}

impl Mark {
    pub(super) fn new(start: Seq) -> Mark {
        Mark { told: start, late: Places::default(), waits: None }
    }

    /// A place is settled.
    #[inline]
    pub(super) fn settled(&mut self, seq: Seq) {
        if seq < self.told {
            self.late.insert(seq);
        }
    }

    /// These are settled.
    pub(super) fn all_settled(&mut self, mut places: Places) {
        places.remove_range(self.told, Seq::new(u64::MAX).unwrap_or(self.told));
        self.late.add(places);
    }

    /// How long something underway before the end of a look has been there: if for long, how far was read when that began.
    fn is_over(&mut self, first: Option<Seq>, next: Seq) -> Option<Seq> {
        let waits = self.waits.filter(|(seq, _, _)| Some(*seq) == first);
        let (seq, read, looks) = waits.or(first.map(|seq| (seq, next, 0)))?;
        if looks == PATIENCE {
            // If there is nothing behind it, there may be something behind what is read by now.
            self.waits = None;
            return Some(read);
        }
        self.waits = Some((seq, read, looks + 1));
        None
    }

    /// Rows of what has settled late.
    fn tell_late(&mut self, left: &mut usize, tell: &mut impl FnMut(Seq, Seq)) {
        while *left > 0
            && let Some(first) = self.late.pop_first()
        {
            let mut last = first;
            while *left > 0 && self.late.remove(last.next()) {
                last = last.next();
                *left = left.saturating_sub(1);
            }
            tell(first, last);
            *left = left.saturating_sub(ROW_COST);
        }
    }

    #[cfg(test)]
    pub(super) fn late(&self) -> &Places {
        &self.late
    }
}

impl Stretch {
    /// Tells of settled places behind the head of the lane that were not told, in rows (both ends included). `is_first`: the head
    /// of the lane is here.
    ///
    /// Cost: next to none where nothing waits but what is underway; else what is new, and bounded.
    pub(in super::super) fn tell_ahead(&mut self, is_first: bool, mut tell: impl FnMut(Seq, Seq)) {
        if is_first {
            let head = self.head();
            self.mark.told = self.mark.told.max(head);
            self.mark.late.remove_range(self.start, head);
        }
        let mut left = LOOK_MAX;
        self.mark.tell_late(&mut left, &mut tell);
        let from = self.mark.told;
        let end = self.look_end(from);
        let open = self.open_from(from).filter(|place| place.state != State::Settled).map(|place| place.seq);
        let open = open.take_while(|seq| *seq < end);
        let waiting = self.held.count(from, end) + self.freed.count(from, end) + open.clone().count() as u64;
        if end.get() - from.get() == waiting {
            return; // nothing is settled
        }
        let (mut open, mut held) = (open.peekable(), self.held.from(from).peekable());
        let (mut freed, mut next) = (self.freed.from(from).peekable(), from);
        while left > 0 && next < end {
            let waits = [open.peek(), held.peek(), freed.peek()].into_iter().flatten().min();
            let row_end = waits.map_or(end, |seq| end.min(*seq));
            if next < row_end {
                tell(next, Seq::new(row_end.get() - 1).unwrap_or(next));
                left = left.saturating_sub(ROW_COST);
            }
            next = if row_end < end { row_end.next() } else { end };
            open.next_if_eq(&row_end);
            held.next_if_eq(&row_end);
            freed.next_if_eq(&row_end);
            left = left.saturating_sub(1);
        }
        drop((open, held, freed));
        self.mark.told = next;
    }

    /// Up to where it is known what is settled and what is not for a while.
    fn look_end(&mut self, from: Seq) -> Seq {
        let first = self.underway_from(from);
        let end = match self.mark.is_over(first, self.next) {
            None => first,
            Some(read) => self.underway_from(read.max(from)),
        };
        end.unwrap_or(self.next)
    }

    /// The first place from `from` on that is sent, or is to be.
    fn underway_from(&self, from: Seq) -> Option<Seq> {
        let is_underway = |place: &&Place| !matches!(place.state, State::Held | State::Settled);
        let open = self.open_from(from).find(is_underway).map(|place| place.seq);
        open.into_iter().chain(self.freed.first_from(from)).min()
    }

    fn open_from(&self, from: Seq) -> impl Iterator<Item = &Place> + Clone {
        self.open.range(self.open.partition_point(|place| place.seq < from)..)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::super::tests::seq;
    use super::*;

    const END: u64 = 120;

    #[derive(Clone, Debug)]
    enum Step {
        Send,
        Hold,
        Free,
        /// The next ones have expired, so many.
        Skip(u64),
        /// One of those that are not settled.
        Settle(usize),
        SettleAll(usize, u64),
        HoldAgain(usize),
        Release(usize),
        Rewind,
        Look(bool),
        Absorb,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let one = 0..200_usize;
        prop_oneof![
            8 => Just(Step::Send),
            4 => Just(Step::Hold),
            1 => Just(Step::Free),
            1 => (1..5_u64).prop_map(Step::Skip),
            9 => one.clone().prop_map(Step::Settle),
            1 => (one.clone(), 1..9_u64).prop_map(|(one, more)| Step::SettleAll(one, more)),
            2 => one.clone().prop_map(Step::HoldAgain),
            2 => one.prop_map(Step::Release),
            1 => Just(Step::Rewind),
            4 => any::<bool>().prop_map(Step::Look),
            1 => Just(Step::Absorb),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens: what is told is settled, and in the end all that is settled behind the head was told.
        #[test]
        fn what_is_settled_is_told_and_nothing_else(steps in vec(any_step(), 0..250)) {
            let mut stretch = Stretch::new(seq(1), seq(END));
            let (mut open, mut told) = (BTreeSet::new(), BTreeSet::new());
            let pick = |open: &BTreeSet<u64>, one: usize| open.iter().nth(one % open.len().max(1)).copied();
            let mut ends = END;
            for step in steps {
                let next = stretch.next;
                let may_read = next < stretch.end;
                match step {
                    Step::Send | Step::Hold | Step::Free if may_read => {
                        match step {
                            Step::Send => stretch.sent(next),
                            Step::Hold => stretch.hold(next),
                            _ => stretch.release(next),
                        }
                        open.insert(next.get());
                    }
                    Step::Skip(count) if may_read => {
                        stretch.passed(next, seq((next.get() + count).min(stretch.end.get())));
                    }
                    Step::Settle(one) => if let Some(place) = pick(&open, one) {
                        stretch.settle(seq(place));
                        open.remove(&place);
                    },
                    Step::SettleAll(one, more) => if let Some(place) = pick(&open, one) {
                        let mut gone = Places::default();
                        gone.insert_range(seq(place), seq(place + more));
                        let inflight = |at: &u64| {
                            let index = stretch.index(seq(*at));
                            index.is_some_and(|index| stretch.open[index].state == State::InFlight)
                        };
                        let stays: BTreeSet<_> = (place..place + more).filter(inflight).collect();
                        stretch.settle_all(&gone);
                        open.retain(|at| !(place..place + more).contains(at) || stays.contains(at));
                    },
                    Step::HoldAgain(one) => if let Some(place) = pick(&open, one) { stretch.hold(seq(place)) },
                    Step::Release(one) => if let Some(place) = pick(&open, one) { stretch.release(seq(place)) },
                    Step::Rewind => stretch.rewind(),
                    Step::Look(is_first) => stretch.tell_ahead(is_first, |from, up_to| {
                        told.extend(from.get()..=up_to.get());
                    }),
                    Step::Absorb if ends < END + 60 => {
                        // What was not read of the first is to be read at last.
                        open.extend(stretch.next.get()..stretch.end.get());
                        let mut behind = Stretch::new(seq(ends), seq(ends + 20));
                        (ends..ends + 10).for_each(|place| behind.sent(seq(place)));
                        assert!((ends..ends + 4).all(|place| behind.settle(seq(place))));
                        open.extend(ends + 4..ends + 10);
                        ends += 20;
                        stretch.absorb(behind);
                    }
                    _ => {}
                }
                stretch.invariants();
                prop_assert!(told.is_disjoint(&open), "{told:?} of {open:?}");
                prop_assert!(told.iter().all(|place| *place < stretch.next.get()));
            }
            for _ in 0..4 * PATIENCE {
                stretch.tell_ahead(false, |from, up_to| told.extend(from.get()..=up_to.get()));
            }
            let head = stretch.head().get();
            let settled: BTreeSet<_> = (head..stretch.next.get()).filter(|place| !open.contains(place)).collect();
            prop_assert!(settled.is_subset(&told), "{settled:?} and {told:?}");
            let before = told.len();
            stretch.tell_ahead(false, |from, up_to| told.extend(from.get() + 1_000..=up_to.get() + 1_000));
            prop_assert_eq!(before, told.len(), "once");
        }
    }
}
