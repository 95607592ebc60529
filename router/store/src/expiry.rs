//! When blocks will be over, and where they are: an index in time, so that what expires in the middle of a lane is found without
//! reading the lane.
//!
//! Knows: spans of places with a time each, as numbers. May use: `model`. Never: RocksDB, a clock.
//! In:  blocks as they are written, those that a start finds, the time. Out: spans of places that are due, each once.
//! Invariant: a block that expires is in a span that is due no earlier than it, and at most a second or a 128th of its time to
//! live later; or its lane is among those that are to be read anew. Blocks that never expire are not here: they cost nothing.
//! Bound: as many spans as it was made for; above that a lane is to be read anew when there is room.

use model::LaneId;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Memory that a span takes, about.
pub(crate) const SPAN_BYTES: u64 = 80;

/// Blocks of the same time are one span if there is no more than this between them, which is read in vain.
const GAP_BYTES_MAX: u64 = 256 << 10;
/// What is found this late is soon enough, in milliseconds; of a longer time to live a 128th is.
const LATE_MILLIS: u64 = 1 << 10;
const LATE_SHARE: u64 = 128;
/// Lanes are read anew only while such a share of the spans is free.
const ROOM_SHARE: usize = 8;

/// A block that will be over some day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timed {
    pub(crate) lane: LaneId,
    /// Its places.
    pub(crate) places: (u64, u64),
    /// Running sum of record bytes before and behind it.
    pub(crate) bytes: (u64, u64),
    /// When the last of its records is over, Unix ms.
    pub(crate) expires: u64,
    /// When one of them was enqueued.
    pub(crate) enqueued: u64,
}

/// Places in which something may be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) lane: LaneId,
    pub(crate) from: u64,
    pub(crate) up_to: u64,
    /// Running sum of record bytes behind it.
    pub(crate) bytes_end: u64,
}

/// See the charter.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    /// By when they are due, lane and first place.
    spans: BTreeMap<(u64, LaneId, u64), Span>,
    /// Lanes that are to be read anew, from these places on up to these.
    unread: BTreeMap<LaneId, (u64, u64)>,
    /// Those of them that could not be read, and when that is tried again.
    later: FxHashMap<LaneId, u64>,
    /// Lanes of which the store knows that something in them expires.
    marked: FxHashSet<LaneId>,
    spans_max: usize,
}

impl Expiries {
    /// An empty one with room for so many spans.
    pub(crate) fn new(spans_max: usize) -> Expiries {
        Expiries { spans_max, ..Expiries::default() }
    }

    /// The store knows that something in this lane expires; says whether that is new.
    pub(crate) fn mark(&mut self, lane: LaneId) -> bool {
        self.marked.insert(lane)
    }

    pub(crate) fn is_marked(&self, lane: LaneId) -> bool {
        self.marked.contains(&lane)
    }

    /// Nothing in this lane expires; or there is no such lane any more.
    pub(crate) fn forget(&mut self, lane: LaneId) {
        self.marked.remove(&lane);
        self.unread.remove(&lane);
        self.later.remove(&lane);
    }

    /// A block is there.
    pub(crate) fn note(&mut self, block: Timed) {
        let due = due(block.expires, block.enqueued);
        let Timed { lane, places: (from, up_to), bytes, .. } = block;
        let earlier = (due, lane, 0)..=(due, lane, from);
        if let Some((_, span)) = self.spans.range_mut(earlier).next_back()
            && bytes.0.saturating_sub(span.bytes_end) <= GAP_BYTES_MAX
        {
            (span.up_to, span.bytes_end) = (span.up_to.max(up_to), span.bytes_end.max(bytes.1));
        } else if self.spans.len() < self.spans_max {
            self.spans.insert((due, lane, from), Span { lane, from, up_to, bytes_end: bytes.1 });
        } else {
            self.read_anew(lane, (from, up_to));
        }
    }

    /// These places are to be looked through when there is room.
    pub(crate) fn read_anew(&mut self, lane: LaneId, (from, up_to): (u64, u64)) {
        let places = self.unread.entry(lane).or_insert((from, up_to));
        *places = (places.0.min(from), places.1.max(up_to));
    }

    /// These places could not be read; it is to be tried again at `due`.
    pub(crate) fn read_later(&mut self, lane: LaneId, places: (u64, u64), due: u64) {
        self.read_anew(lane, places);
        self.later.insert(lane, due);
    }

    /// Takes out a span that is due at `now`, the most overdue first.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<Span> {
        let entry = self.spans.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// What is left of a span that was taken out: it is due at `due`.
    pub(crate) fn put_back(&mut self, due: u64, span: Span) {
        let key = (due, span.lane, span.from);
        if self.spans.len() >= self.spans_max && !self.spans.contains_key(&key) {
            return self.read_anew(span.lane, (span.from, span.up_to));
        }
        let known = self.spans.entry(key).or_insert(span);
        (known.up_to, known.bytes_end) = (known.up_to.max(span.up_to), known.bytes_end.max(span.bytes_end));
    }

    /// How many spans there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Takes out places that are to be read anew, if there is room for what is found there. Cost: a look at each lane that could
    /// not be read.
    pub(crate) fn take_unread(&mut self, now: u64) -> Option<(LaneId, (u64, u64))> {
        if self.spans.len() + self.spans_max / ROOM_SHARE > self.spans_max {
            return None;
        }
        let is_due = |lane: &&LaneId| self.later.get(lane).is_none_or(|due| *due <= now);
        let lane = *self.unread.keys().find(is_due)?;
        self.later.remove(&lane);
        self.unread.remove_entry(&lane)
    }

    /// Whether a span of this lane is here, or something of it is to be read. Cost: a look at each span.
    pub(crate) fn has(&self, lane: LaneId) -> bool {
        self.unread.contains_key(&lane) || self.spans.keys().any(|(_, it, _)| *it == lane)
    }
}

/// When it is looked at: with others that are over at about the same time.
fn due(expires: u64, enqueued: u64) -> u64 {
    let late = (expires.saturating_sub(enqueued) / LATE_SHARE).max(LATE_MILLIS);
    // Powers of two, so that blocks with about the same time to live share their times.
    let late = 1_u64 << late.ilog2();
    expires.div_ceil(late).saturating_mul(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(1);
    const SPANS_MAX: usize = 1_000;

    fn block(place: u64, bytes: (u64, u64), (enqueued, expires): (u64, u64)) -> Timed {
        Timed { lane: LANE, places: (place, place), bytes, expires, enqueued }
    }

    fn taken(expiries: &mut Expiries, now: u64) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| expiries.take_due(now)).map(|span| (span.from, span.up_to)).collect()
    }

    #[test]
    fn what_is_over_at_about_the_same_time_is_one_span_and_due_at_most_a_second_late() {
        let mut expiries = Expiries::new(SPANS_MAX);
        for place in 1..=100 {
            let enqueued = 1_000_000 + 100 * place;
            expiries.note(block(place, (place * 500, place * 500 + 500), (enqueued, enqueued + 60_000)));
        }
        assert!((10..=11).contains(&expiries.spans.len()), "{:?}", expiries.spans);
        let mut seen = 0;
        for now in 1_000_000..1_080_000 {
            for (from, up_to) in taken(&mut expiries, now) {
                assert_eq!(from, seen + 1);
                seen = up_to;
                let expires = |place: u64| 1_060_000 + 100 * place;
                assert!(expires(up_to) <= now && now < expires(from) + 1_024, "{from} to {up_to} at {now}");
            }
        }
        assert_eq!(seen, 100);
    }

    #[test]
    fn what_lies_far_apart_is_not_read_for_each_other() {
        let mut expiries = Expiries::new(SPANS_MAX);
        let far = 100 * GAP_BYTES_MAX;
        // An hour's time to live, and a minute's, over at the same moment.
        expiries.note(block(1, (0, 500), (0, 3_600_000)));
        expiries.note(block(9_000, (far, far + 500), (3_540_000, 3_600_000)));
        let mut taken = taken(&mut expiries, 3_700_000);
        taken.sort_unstable();
        assert_eq!(taken, [(1, 1), (9_000, 9_000)]);
    }

    #[test]
    fn a_long_time_to_live_takes_few_spans() {
        let mut expiries = Expiries::new(SPANS_MAX);
        let day = 86_400_000;
        for minute in 0..1_440 {
            let enqueued = minute * 60_000;
            expiries.note(block(minute + 1, (minute, minute + 1), (enqueued, enqueued + day)));
        }
        assert!(expiries.spans.len() <= 2 * LATE_SHARE as usize + 2, "{}", expiries.spans.len());
    }

    #[test]
    fn what_is_put_back_is_bounded_like_what_is_new() {
        let mut expiries = Expiries::new(SPANS_MAX);
        for place in 1..=SPANS_MAX as u64 + 100 {
            expiries.put_back(place, Span { lane: LANE, from: place, up_to: place, bytes_end: 0 });
        }
        let end = SPANS_MAX as u64;
        assert_eq!(
            (expiries.spans.len(), expiries.unread.get(&LANE)),
            (SPANS_MAX, Some(&(end + 1, end + 100)))
        );
        let first = Span { lane: LANE, from: 1, up_to: 9, bytes_end: 0 };
        expiries.put_back(1, first);
        assert_eq!((expiries.spans.len(), expiries.take_due(1)), (SPANS_MAX, Some(first)), "it is there");
    }

    #[test]
    fn memory_is_bounded_and_what_had_no_room_is_read_later() {
        let mut expiries = Expiries::new(SPANS_MAX);
        for place in 1..=SPANS_MAX as u64 + 100 {
            let far = place * 2 * GAP_BYTES_MAX;
            expiries.note(block(place, (far, far), (place * 5_000, place * 5_000 + 1_000)));
        }
        let end = SPANS_MAX as u64;
        assert_eq!(
            (expiries.spans.len(), expiries.unread.get(&LANE)),
            (SPANS_MAX, Some(&(end + 1, end + 100)))
        );
        assert_eq!(expiries.take_unread(0), None, "there is no room for what would be found");
        assert_eq!(taken(&mut expiries, u64::MAX).len(), SPANS_MAX);
        assert_eq!(expiries.take_unread(0), Some((LANE, (end + 1, end + 100))));
    }

    #[test]
    fn what_cannot_be_read_keeps_no_other_lane_from_being_read() {
        let mut expiries = Expiries::new(SPANS_MAX);
        expiries.read_anew(LANE, (1, 9));
        expiries.read_anew(LaneId(2), (1, 5));
        assert_eq!(expiries.take_unread(1_000), Some((LANE, (1, 9))));
        expiries.read_later(LANE, (1, 9), 61_000);
        expiries.read_anew(LANE, (20, 29));
        assert_eq!(expiries.take_unread(1_000), Some((LaneId(2), (1, 5))));
        assert_eq!(expiries.take_unread(60_999), None);
        assert!(expiries.has(LANE));
        assert_eq!(expiries.take_unread(61_000), Some((LANE, (1, 29))));
        expiries.read_anew(LANE, (1, 1));
        assert_eq!(expiries.take_unread(61_000), Some((LANE, (1, 1))), "it could be read meanwhile");
    }
}
