//! What is left of blocks that were taken out of the middle of a lane: which places, and how many bytes they had.
//!
//! Knows: ranges of places of one lane whose records were taken out ("husks", storage-format.md §6), as numbers. May use:
//! nothing. Never: RocksDB, blocks.
//! In:  ranges as they are taken out, the head. Out: how many messages and bytes less than its places a lane has; what must be
//! written so that the next start knows the same.
//! Invariant: ranges ascend and do not overlap; ranges that touch, in places and in running sums, are one. Bound: `middle` adds
//! none above its own, of one lane and of all.

/// Memory that a range takes.
pub(crate) const RANGE_BYTES: u64 = size_of::<Range>() as u64;

/// Bytes of a range as it is kept.
const VALUE_BYTES: usize = 24;

/// Places in a row whose records were taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Running sum of record bytes, as in `Block::bytes_before`, at `first` and behind `last`.
    pub(crate) bytes: (u64, u64),
}

impl Range {
    /// As it is kept under its first place.
    pub(crate) fn encode(&self) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        value[..8].copy_from_slice(&self.last.to_le_bytes());
        value[8..16].copy_from_slice(&self.bytes.0.to_le_bytes());
        value[16..].copy_from_slice(&self.bytes.1.to_le_bytes());
        value
    }

    /// What [`Range::encode`] gave; `None` for anything else.
    pub(crate) fn decode(first: u64, value: &[u8]) -> Option<Range> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(value.get(at..at + 8)?.try_into().ok()?));
        let range = Range { first, last: u64_at(0)?, bytes: (u64_at(8)?, u64_at(16)?) };
        let is_sound =
            value.len() == VALUE_BYTES && 1 <= first && first <= range.last && range.bytes.0 <= range.bytes.1;
        is_sound.then_some(range)
    }

    fn messages_from(&self, head: u64) -> u64 {
        (self.last + 1).saturating_sub(self.first.max(head))
    }
}

/// What must be written about ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Range),
    /// The range that begins here is no more.
    Delete(u64),
}

/// See the charter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Husks {
    ranges: Vec<Range>,
}

impl Husks {
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether all of these places are in one of them.
    pub(crate) fn hold(&self, (first, last): (u64, u64)) -> bool {
        let at = self.ranges.partition_point(|range| range.last < first);
        self.ranges.get(at).is_some_and(|range| range.first <= first && last <= range.last)
    }

    /// What of them is within these places, as (first, last).
    pub(crate) fn within(&self, (first, last): (u64, u64)) -> Vec<(u64, u64)> {
        let at = self.ranges.partition_point(|range| range.last < first);
        let meeting = self.ranges[at..].iter().take_while(|range| range.first <= last);
        meeting.map(|range| (range.first.max(first), range.last.min(last))).collect()
    }

    /// Whether this range would be one with another.
    pub(crate) fn touches(&self, range: &Range) -> bool {
        let at = self.ranges.partition_point(|known| known.last < range.first);
        let is_before =
            self.ranges.get(at).is_some_and(|next| next.first <= range.last || touches(range, next));
        is_before || at.checked_sub(1).is_some_and(|before| touches(&self.ranges[before], range))
    }

    /// What lies between them, from `head` to before `tail`; `bytes` are the running sums there.
    pub(crate) fn between(&self, (head, tail): (u64, u64), bytes: (u64, u64)) -> Vec<Range> {
        let (mut found, mut next, mut sum) = (Vec::new(), head, bytes.0);
        let end = Range { first: tail, last: tail, bytes: (bytes.1, bytes.1) };
        for range in self.ranges.iter().filter(|range| head <= range.last).chain([&end]) {
            if next < range.first {
                found.push(Range {
                    first: next,
                    last: range.first - 1,
                    bytes: (sum, range.bytes.0.max(sum)),
                });
            }
            (next, sum) = (range.last + 1, range.bytes.1.max(sum));
        }
        found
    }

    /// The last place of them, or 0.
    pub(crate) fn last(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.last)
    }

    /// The first places of all.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().map(|range| range.first)
    }

    /// How many messages there are from `head` on, and the bytes they had, of those behind a running sum of `bytes_before`.
    pub(crate) fn behind(&self, head: u64, bytes_before: u64) -> (u64, u64) {
        let at = self.ranges.partition_point(|range| range.last < head);
        self.ranges[at..].iter().fold((0, 0), |(messages, bytes), range| {
            let more = range.bytes.1.saturating_sub(range.bytes.0.max(bytes_before));
            (messages + range.messages_from(head), bytes + more)
        })
    }

    /// Adds places; what is to be written goes to `change`. Ranges that have some of them, which takes a note that cannot be true,
    /// become one with them.
    pub(crate) fn add(&mut self, range: Range, mut change: impl FnMut(Change)) {
        let at = self.ranges.partition_point(|known| known.last < range.first);
        let mut range = range;
        let meets = |range: &Range, next: &Range| next.first <= range.last || touches(range, next);
        while let Some(next) = self.ranges.get(at).filter(|next| meets(&range, next)) {
            (range.first, range.last) = (range.first.min(next.first), range.last.max(next.last));
            range.bytes = (range.bytes.0.min(next.bytes.0), range.bytes.1.max(next.bytes.1));
            change(Change::Delete(next.first));
            self.ranges.remove(at);
        }
        match at.checked_sub(1).map(|before| &mut self.ranges[before]) {
            Some(before) if touches(before, &range) => {
                (before.last, before.bytes.1) = (range.last, range.bytes.1);
                range = *before;
            }
            _ => self.ranges.insert(at, range),
        }
        change(Change::Put(range));
    }

    /// The bytes they had between two running sums.
    pub(crate) fn bytes_between(&self, from: u64, to: u64) -> u64 {
        self.ranges.iter().map(|range| range.bytes.1.min(to).saturating_sub(range.bytes.0.max(from))).sum()
    }

    /// Forgets what lies wholly before `head`; gives the first places of those.
    pub(crate) fn forget_before(&mut self, head: u64) -> Vec<u64> {
        let passed = self.ranges.partition_point(|range| range.last < head);
        self.ranges.drain(..passed).map(|range| range.first).collect()
    }
}

/// Whether the second follows the first at once, in places and in running sums.
fn touches(a: &Range, b: &Range) -> bool {
    a.last + 1 == b.first && a.bytes.1 == b.bytes.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten bytes for each place.
    fn range(first: u64, last: u64) -> Range {
        Range { first, last, bytes: (10 * first, 10 * (last + 1)) }
    }

    fn add(husks: &mut Husks, first: u64, last: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        husks.add(range(first, last), |change| changes.push(change));
        changes
    }

    #[test]
    fn ranges_that_touch_become_one_and_what_is_written_says_the_same() {
        let mut husks = Husks::default();
        assert_eq!(add(&mut husks, 10, 19), [Change::Put(range(10, 19))]);
        assert_eq!(add(&mut husks, 30, 39), [Change::Put(range(30, 39))]);
        assert_eq!(add(&mut husks, 5, 9), [Change::Delete(10), Change::Put(range(5, 19))]);
        assert_eq!(add(&mut husks, 40, 41), [Change::Put(range(30, 41))]);
        assert_eq!(add(&mut husks, 20, 29), [Change::Delete(30), Change::Put(range(5, 41))]);
        assert_eq!((husks.len(), husks.last()), (1, 41));
        let held = [(4, 4), (4, 5), (5, 5), (5, 41), (41, 41), (41, 42)].map(|places| husks.hold(places));
        assert_eq!(held, [false, false, true, true, true, false]);
    }

    #[test]
    fn ranges_that_share_places_become_one() {
        let mut husks = Husks::default();
        add(&mut husks, 10, 19);
        add(&mut husks, 30, 39);
        assert_eq!(add(&mut husks, 5, 12), [Change::Delete(10), Change::Put(range(5, 19))]);
        assert!(husks.touches(&range(18, 21)) && husks.touches(&range(25, 50)));
        let whole = [Change::Delete(5), Change::Delete(30), Change::Put(range(5, 50))];
        assert_eq!(add(&mut husks, 15, 50), whole);
        assert_eq!((husks.len(), husks.behind(1, 0)), (1, (46, 460)));
    }

    #[test]
    fn running_sums_that_do_not_touch_keep_ranges_apart() {
        let mut husks = Husks::default();
        add(&mut husks, 10, 19);
        husks.add(Range { first: 20, last: 20, bytes: (0, 7) }, |_| {});
        assert_eq!((husks.len(), husks.behind(1, 0)), (2, (11, 107)));
    }

    #[test]
    fn what_the_head_has_passed_counts_no_more() {
        let mut husks = Husks::default();
        add(&mut husks, 10, 19);
        add(&mut husks, 30, 39);
        assert_eq!(husks.behind(1, 10), (20, 200));
        // The block with place 15 begins at place 12: the sum before it is what a lane knows.
        assert_eq!(husks.behind(15, 120), (15, 180));
        assert_eq!(husks.behind(20, 200), (10, 100));
        assert_eq!(
            [(0, 120), (120, 350), (350, 999)].map(|(from, to)| husks.bytes_between(from, to)),
            [20, 130, 50]
        );
        assert_eq!(husks.forget_before(15), []);
        assert_eq!(husks.forget_before(20), [10]);
        assert_eq!(husks.forget_before(99), [30]);
        assert_eq!(husks.len(), 0);
    }

    #[test]
    fn what_lies_between_them_is_what_was_not_taken_out() {
        let mut husks = Husks::default();
        assert_eq!(husks.between((1, 1), (0, 0)), [], "an empty lane");
        assert_eq!(husks.between((3, 10), (30, 100)), [range(3, 9)]);
        add(&mut husks, 10, 19);
        add(&mut husks, 30, 39);
        assert_eq!(husks.between((1, 51), (10, 510)), [range(1, 9), range(20, 29), range(40, 50)]);
        assert_eq!(husks.between((15, 40), (120, 400)), [range(20, 29)]);
        assert_eq!(
            [range(20, 20), range(29, 29), range(21, 28)].map(|it| husks.touches(&it)),
            [true, true, false]
        );
    }

    #[test]
    fn a_range_is_read_back_and_nothing_else_is() {
        let value = range(7, 9).encode();
        assert_eq!(Range::decode(7, &value), Some(range(7, 9)));
        assert_eq!(Range::decode(10, &value), None, "it ends before it begins");
        for end in 0..value.len() {
            assert_eq!(Range::decode(7, &value[..end]), None);
        }
    }
}
