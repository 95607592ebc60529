//! What is delivered behind the heads of lanes: whoever delivers says so, and what lies wholly in it is taken out.
//!
//! Knows: rows of places, as numbers; how far each was looked at. May use: `model`. Never: RocksDB, blocks.
//! In:  ranges that are delivered, heads. Out: what was not looked at yet; whether a block is delivered, and which of its places
//! are not, so that nobody enters them as lost. In memory alone: a crash forgets it, which costs space and repeats.
//! What could not be read is not delivered, whoever passes over it: it stays, for it may be readable again.
//! Invariant: the rows of a lane ascend and do not touch. Bound: [`ROWS_MAX`] rows of all lanes; above that the lane that has most
//! gives up its oldest, one that was looked at before others. [`SPARED_MAX`] ranges that stay, and a number for each lane.

use crate::places;
use model::LaneId;
use std::collections::BTreeMap;

/// Most rows of all lanes.
const ROWS_MAX: usize = 1_024;
/// Most ranges of all lanes that stay because they could not be read.
const SPARED_MAX: usize = 256;
/// Rows of a lane keep room for twice as many, and for so many more.
const SLACK_ROWS: usize = 16;
/// Memory of all of it at most: rows take half, with that room; the rest is for what stays, floors and the slack.
pub(crate) const AHEAD_BYTES: u64 = (4 * ROWS_MAX * size_of::<Row>()) as u64;

/// See the charter.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    lanes: BTreeMap<LaneId, Vec<Row>>,
    rows: usize,
    /// What stays, the oldest first.
    spared: Vec<(LaneId, (u64, u64))>,
    /// What is said of places before these may speak of records that are gone.
    floors: BTreeMap<LaneId, u64>,
    /// Something was not looked at.
    has_unseen: bool,
    /// Places that came since all was looked at, about.
    fresh: u64,
}

/// Places in a row that are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    first: u64,
    last: u64,
    /// What lies before was looked at.
    seen: u64,
}

impl Ahead {
    /// These places of a lane, from its head to before its tail, are delivered: what of them is there is noted.
    pub(crate) fn deliver(&mut self, lane: LaneId, (head, tail): (u64, u64), (first, last): (u64, u64)) {
        self.forget_before(lane, head);
        let (first, end) = (first.max(head), (last + 1).min(tail));
        if first < end {
            self.add(lane, (first, end - 1));
        }
    }

    /// These places of a lane are delivered; saying so twice changes nothing.
    fn add(&mut self, lane: LaneId, (first, last): (u64, u64)) {
        let floor = self.floors.get(&lane).copied().unwrap_or(0);
        let mut spared: Vec<_> =
            self.spared.iter().filter(|(of, _)| *of == lane).map(|(_, it)| *it).collect();
        spared.sort_unstable();
        for range in places::without((first.max(floor), last), spared) {
            self.add_row(lane, range);
        }
    }

    fn add_row(&mut self, lane: LaneId, (first, last): (u64, u64)) {
        let rows = self.lanes.entry(lane).or_default();
        let from = rows.partition_point(|row| row.last + 1 < first);
        let known = rows[from..].partition_point(|row| row.first <= last + 1);
        if let (1, Some(row)) = (known, rows.get(from))
            && row.first <= first
            && last <= row.last
        {
            return;
        }
        self.has_unseen = true;
        self.fresh += last - first + 1;
        if known == 0 {
            rows.insert(from, Row { first, last, seen: first });
            self.rows += 1;
            if self.rows > ROWS_MAX {
                self.give_one_up();
            }
            return;
        }
        let (before, behind) = (rows[from], rows[from + known - 1]);
        let seen = if before.first <= first { before.seen } else { first };
        let row = Row { first: before.first.min(first), last: behind.last.max(last), seen };
        rows.splice(from..from + known, [row]);
        self.rows -= known - 1;
    }

    fn give_one_up(&mut self) {
        let Some(rows) = self.lanes.values_mut().max_by_key(|rows| rows.len()) else { return };
        let seen = rows.iter().position(|row| row.seen > row.last);
        rows.remove(seen.unwrap_or(0));
        self.rows -= 1;
    }

    /// These places could not be read: they stay.
    pub(crate) fn spare(&mut self, lane: LaneId, places: (u64, u64)) {
        if self.spared.contains(&(lane, places)) {
            return;
        }
        if self.spared.len() == SPARED_MAX {
            self.spared.remove(0);
        }
        self.spared.push((lane, places));
    }

    /// Whether all of these places are delivered.
    pub(crate) fn covers(&self, lane: LaneId, (first, last): (u64, u64)) -> bool {
        let Some(rows) = self.lanes.get(&lane) else { return false };
        let at = rows.partition_point(|row| row.last < first);
        rows.get(at).is_some_and(|row| row.first <= first && last <= row.last)
    }

    /// Those of these places that are not delivered, as far as is known.
    pub(crate) fn without(&self, lane: LaneId, (first, last): (u64, u64)) -> Vec<(u64, u64)> {
        let rows = self.lanes.get(&lane).map_or(&[][..], Vec::as_slice);
        let at = rows.partition_point(|row| row.last < first);
        places::without((first, last), rows[at..].iter().map(|row| (row.first, row.last)))
    }

    /// Places that came since all was looked at, about; `None` if all was.
    pub(crate) fn fresh(&self) -> Option<u64> {
        self.has_unseen.then_some(self.fresh)
    }

    /// At most so many rows that were not looked at to their end, and from where on.
    pub(crate) fn unseen(&self, most: usize) -> Vec<(LaneId, (u64, u64))> {
        if !self.has_unseen {
            return Vec::new();
        }
        let rows = self.lanes.iter().flat_map(|(lane, rows)| rows.iter().map(move |row| (*lane, row)));
        let unseen = rows.filter(|(_, row)| row.seen <= row.last);
        unseen.map(|(lane, row)| (lane, (row.seen, row.last))).take(most).collect()
    }

    /// The places from `from` to before `next` were looked at.
    pub(crate) fn seen(&mut self, lane: LaneId, from: u64, next: u64) {
        let Some(rows) = self.lanes.get_mut(&lane) else { return };
        let at = rows.partition_point(|row| row.last < from);
        // A row that has grown meanwhile to the front is looked at from there.
        if let Some(row) = rows.get_mut(at).filter(|row| row.first <= from && from <= row.seen) {
            row.seen = row.seen.max(next);
        }
    }

    /// What comes from now on is new, if all was looked at.
    pub(crate) fn look_is_over(&mut self) {
        if !self.lanes.values().flatten().any(|row| row.seen <= row.last) {
            (self.has_unseen, self.fresh) = (false, 0);
        }
    }

    /// What was to be taken out is not: all is looked at once more.
    pub(crate) fn look_again(&mut self) {
        self.lanes.values_mut().flatten().for_each(|row| row.seen = row.first);
        (self.has_unseen, self.fresh) = (true, u64::MAX >> 1);
    }

    /// What lies wholly before `head` is delivered anyway.
    pub(crate) fn forget_before(&mut self, lane: LaneId, head: u64) {
        self.spared.retain(|(of, (_, last))| *of != lane || *last >= head);
        if let Some(rows) = self.lanes.get_mut(&lane) {
            let passed = rows.partition_point(|row| row.last < head);
            rows.drain(..passed);
            rows.shrink_to(2 * rows.len() + SLACK_ROWS);
            self.rows -= passed;
            if rows.is_empty() {
                self.lanes.remove(&lane);
            }
        }
    }

    /// The lane is not what it was: it ended before `tail`, and places before that may hold something else by now.
    pub(crate) fn fell(&mut self, lane: LaneId, tail: u64) {
        self.forget(lane);
        self.floors.insert(lane, tail);
    }

    /// There is no such lane any more.
    pub(crate) fn forget(&mut self, lane: LaneId) {
        self.rows -= self.lanes.remove(&lane).map_or(0, |rows| rows.len());
        self.spared.retain(|(of, _)| *of != lane);
        self.floors.remove(&lane);
    }

    /// What must always hold; for tests.
    pub(crate) fn invariants(&self) {
        assert_eq!(self.lanes.values().map(Vec::len).sum::<usize>(), self.rows);
        assert!(self.rows <= ROWS_MAX && self.spared.len() <= SPARED_MAX);
        for rows in self.lanes.values() {
            assert!(rows.iter().all(|row| row.first <= row.last));
            assert!(rows.windows(2).all(|pair| pair[0].last + 1 < pair[1].first), "{rows:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LANE: LaneId = LaneId(3);

    #[test]
    fn what_is_looked_at_is_looked_at_once_unless_the_row_grows_to_the_front() {
        let mut ahead = Ahead::default();
        ahead.add(LANE, (10, 19));
        assert_eq!(ahead.unseen(9), [(LANE, (10, 19))]);
        ahead.seen(LANE, 10, 15);
        assert_eq!(ahead.unseen(9), [(LANE, (15, 19))], "the look was over");
        ahead.seen(LANE, 15, 20);
        assert_eq!(ahead.unseen(9), []);
        ahead.add(LANE, (12, 19));
        assert_eq!(ahead.unseen(9), [], "it is known");
        ahead.add(LANE, (20, 24));
        assert_eq!(ahead.unseen(9), [(LANE, (20, 24))]);
        ahead.seen(LANE, 20, 25);
        ahead.add(LANE, (5, 9));
        assert_eq!(ahead.unseen(9), [(LANE, (5, 24))], "a block may begin before 10");
        ahead.seen(LANE, 10, 25);
        assert_eq!(ahead.unseen(9), [(LANE, (5, 24))], "what was looked at when it began at 10");
        ahead.seen(LANE, 5, 25);
        ahead.look_again();
        assert_eq!(ahead.unseen(9), [(LANE, (5, 24))]);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go() {
        let mut ahead = Ahead::default();
        for place in 1..=3 * ROWS_MAX as u64 {
            ahead.add(LANE, (2 * place, 2 * place));
            ahead.invariants();
        }
        let end = 6 * ROWS_MAX as u64;
        assert!(ahead.covers(LANE, (end, end)) && !ahead.covers(LANE, (2, 2)));
        ahead.seen(LANE, end - 20, end - 19);
        ahead.add(LaneId(4), (1, 9));
        assert!(ahead.covers(LaneId(4), (1, 9)), "a lane that has many makes room");
        assert!(!ahead.covers(LANE, (end - 20, end - 20)), "by what was looked at");
        ahead.forget_before(LANE, end);
        assert!(ahead.covers(LaneId(4), (1, 9)) && ahead.covers(LANE, (end, end)));
        ahead.forget(LANE);
        ahead.invariants();
    }

    #[test]
    fn what_could_not_be_read_stays_and_so_does_what_is_said_of_a_lane_that_was_another() {
        let mut ahead = Ahead::default();
        ahead.spare(LANE, (10, 12));
        ahead.spare(LANE, (3, 4));
        ahead.add(LANE, (1, 20));
        let is_covered = |ahead: &Ahead| (1..=20).map(|it| ahead.covers(LANE, (it, it))).collect::<Vec<_>>();
        let expected: Vec<_> = (1..=20).map(|it| !matches!(it, 3 | 4 | 10..=12)).collect();
        assert_eq!(is_covered(&ahead), expected);
        ahead.add(LANE, (11, 11));
        assert_eq!(is_covered(&ahead), expected, "nothing of it is left");
        ahead.fell(LANE, 15);
        ahead.invariants();
        ahead.add(LANE, (1, 20));
        assert_eq!(is_covered(&ahead), (1..=20).map(|it| it >= 15).collect::<Vec<_>>());
        for place in 1..=2 * SPARED_MAX as u64 {
            ahead.spare(LaneId(4), (place, place));
        }
        ahead.invariants();
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_are_a_set_of_places(ranges in vec((1..200u64, 0..20u64), 0..60), head in 1..200u64) {
            let (mut ahead, mut places) = (Ahead::default(), BTreeSet::new());
            for (first, more) in ranges {
                ahead.add(LANE, (first, first + more));
                places.extend(first..=first + more);
                ahead.invariants();
            }
            for first in 1..220 {
                for last in [first, first + 3, first + 30] {
                    prop_assert_eq!(ahead.covers(LANE, (first, last)), (first..=last).all(|it| places.contains(&it)));
                    let left = ahead.without(LANE, (first, last));
                    prop_assert!(left.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
                    let left: Vec<_> = left.into_iter().flat_map(|(first, last)| first..=last).collect();
                    prop_assert_eq!(left, (first..=last).filter(|it| !places.contains(it)).collect::<Vec<_>>());
                }
            }
            ahead.forget_before(LANE, head);
            ahead.invariants();
            prop_assert!((head..220).all(|it| ahead.covers(LANE, (it, it)) == places.contains(&it)));
        }
    }
}
