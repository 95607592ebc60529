//! What readers come across and cannot give: expired and damaged places, noted for whoever keeps the loss ledger.
//!
//! Knows: ranges of places per lane, each place once. May use: `face`, `lanes`. Never: RocksDB, the disk.
//! In:  ranges, from any thread, the same ones again after a reconnect. Out: [`Loss`]es, each place once. What is a husk was told
//! when it became one, and is noted by nobody.
//! Invariant: bounded by [`RANGES_MAX`] ranges per lane, as many of what is about to be husks, and [`WAITING_MAX`] losses that
//! nobody has taken; what is more is counted in `forgotten`. A process that starts again has forgotten what was noted: places may
//! be noted again.

use crate::face::{Loss, LossKind, Lost};
use crate::lanes::Lane;
use crate::places;
use crate::record::seq;
use model::LaneId;
use rustc_hash::FxHashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ranges remembered per lane, so that no place is noted twice.
const RANGES_MAX: usize = 256;
/// Losses that wait to be taken.
const WAITING_MAX: usize = 4_096;

/// See the charter.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By lane: ascending ranges (first, last) that do not touch.
    noted: FxHashMap<LaneId, Vec<(u64, u64)>>,
    /// The same of what is told with a group that takes it out: until that is durable readers come across it.
    leaving: FxHashMap<LaneId, Vec<(u64, u64)>>,
    waiting: Vec<Loss>,
    forgotten: u64,
}

impl Notes {
    /// These places will never be given: notes those that were not noted before. Everything before `head` is past and
    /// forgotten. The bytes go with the range as far as it is new.
    pub(crate) fn note(&self, kind: LossKind, lane: &Lane, head: u64, (first, last): (u64, u64), bytes: u64) {
        let range = Lost { lane: lane.id, from: seq(first), up_to: seq(last), bytes };
        let mut inner = self.lock();
        for lost in inner.fresh(lane, head, &range) {
            remember(inner.noted.entry(lane.id).or_default(), &lost);
            inner.wait(Loss { kind, lost });
        }
    }

    /// Remembers a range; gives the parts of it that were not noted before. What `is_leaving` will be husks with the next group,
    /// and takes no room from what readers noted.
    pub(crate) fn fresh(&self, lane: &Lane, head: u64, range: &Lost, is_leaving: bool) -> Vec<Lost> {
        let mut inner = self.lock();
        let parts = inner.fresh(lane, head, range);
        let known = if is_leaving { &mut inner.leaving } else { &mut inner.noted };
        let known = known.entry(lane.id).or_default();
        parts.iter().for_each(|part| remember(known, part));
        parts
    }

    /// The husks of this lane are durable and it knows of them: nobody need remember them here.
    pub(crate) fn settle(&self, lane: &Lane) {
        let mut inner = self.lock();
        let husks = lane.husks().within((0, u64::MAX));
        let Inner { noted, leaving, .. } = &mut *inner;
        for known in [noted, leaving] {
            if let Some(ranges) = known.get_mut(&lane.id) {
                *ranges = without(std::mem::take(ranges), &husks);
            }
        }
    }

    /// A lane is gone.
    pub(crate) fn forget(&self, lane: LaneId) {
        let mut inner = self.lock();
        inner.noted.remove(&lane);
        inner.leaving.remove(&lane);
    }

    /// Hands over what was noted since the last call, and how many messages there was no room to note.
    pub(crate) fn take(&self) -> (Vec<Loss>, u64) {
        let mut inner = self.lock();
        (std::mem::take(&mut inner.waiting), std::mem::take(&mut inner.forgotten))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The parts of a range that nobody knows, with their share of its bytes; what is before `head` is forgotten.
    fn fresh(&mut self, lane: &Lane, head: u64, range: &Lost) -> Vec<Lost> {
        let places = (range.from.get(), range.up_to.get());
        // Asked under our lock: whoever makes husks tells the lane first, and then lets go of them here.
        let mut parts = without(vec![places], &lane.husks().within(places));
        for known in [&mut self.noted, &mut self.leaving] {
            if let Some(ranges) = known.get_mut(&lane.id) {
                ranges.retain(|(_, end)| *end >= head);
                parts = without(parts, ranges);
            }
        }
        // A range of which a part is known has its bytes in proportion.
        let share = |from: u64, to: u64| {
            (u128::from(range.bytes) * u128::from(to - from + 1) / u128::from(range.messages())) as u64
        };
        let lost =
            |(from, to)| Lost { lane: range.lane, from: seq(from), up_to: seq(to), bytes: share(from, to) };
        parts.into_iter().map(lost).collect()
    }

    fn wait(&mut self, loss: Loss) {
        if let Some(last) = self.waiting.last_mut()
            && (last.kind, last.lost.lane) == (loss.kind, loss.lost.lane)
            && last.lost.up_to.next() == loss.lost.from
        {
            last.lost.up_to = loss.lost.up_to;
            last.lost.bytes += loss.lost.bytes;
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push(loss);
        } else {
            self.forgotten += loss.lost.messages();
        }
    }
}

/// What is left of ascending ranges without others, which ascend, too.
fn without(ranges: Vec<(u64, u64)>, known: &[(u64, u64)]) -> Vec<(u64, u64)> {
    if known.is_empty() {
        return ranges;
    }
    let left = |range: (u64, u64)| {
        let at = known.partition_point(|(_, end)| *end < range.0);
        places::without(range, known[at..].iter().copied())
    };
    ranges.into_iter().flat_map(left).collect()
}

/// Adds a range to others, none of which has a place of it.
fn remember(ranges: &mut Vec<(u64, u64)>, lost: &Lost) {
    ranges.push((lost.from.get(), lost.up_to.get()));
    ranges.sort_unstable();
    ranges.dedup_by(|next, so_far| {
        let touches = so_far.1 + 1 >= next.0;
        if touches {
            so_far.1 = so_far.1.max(next.1);
        }
        touches
    });
    if ranges.len() > RANGES_MAX {
        ranges.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::husks::Range;

    fn lane() -> Lane {
        Lane::new(LaneId(1), "a".into(), 1, 1_000_000, 0)
    }

    fn ranges(notes: &Notes) -> Vec<(u64, u64, u64)> {
        let (losses, forgotten) = notes.take();
        assert_eq!(forgotten, 0);
        losses.iter().map(|it| (it.lost.from.get(), it.lost.up_to.get(), it.lost.bytes)).collect()
    }

    #[test]
    fn a_place_is_noted_once_however_often_it_is_read() {
        let (notes, lane) = (Notes::default(), lane());
        notes.note(LossKind::Expired, &lane, 1, (5, 9), 50);
        notes.note(LossKind::Expired, &lane, 1, (5, 9), 50);
        assert_eq!(ranges(&notes), [(5, 9, 50)]);
        notes.note(LossKind::Expired, &lane, 1, (1, 12), 120);
        assert_eq!(ranges(&notes), [(1, 4, 40), (10, 12, 30)]);
        notes.note(LossKind::Expired, &lane, 1, (2, 11), 100);
        assert_eq!(ranges(&notes), []);
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let (notes, lane) = (Notes::default(), lane());
        notes.note(LossKind::Expired, &lane, 1, (1, 2), 20);
        notes.note(LossKind::Expired, &lane, 1, (3, 3), 10);
        notes.note(LossKind::Damaged, &lane, 1, (4, 4), 0);
        assert_eq!(ranges(&notes), [(1, 3, 30), (4, 4, 0)]);
    }

    #[test]
    fn memory_is_bounded_and_the_rest_is_counted() {
        let (notes, lane) = (Notes::default(), lane());
        for place in 1..=10_000 {
            notes.note(LossKind::Expired, &lane, 1, (2 * place, 2 * place), 1);
        }
        let (losses, forgotten) = notes.take();
        assert_eq!((losses.len(), forgotten), (WAITING_MAX, 10_000 - WAITING_MAX as u64));
    }

    /// What leaves in a group is remembered beside what readers noted, until it has left.
    #[test]
    fn what_leaves_takes_no_room_from_what_was_noted_and_is_nobodys_then() {
        let (notes, lane) = (Notes::default(), lane());
        notes.note(LossKind::Expired, &lane, 1, (1, 4), 40);
        assert_eq!(ranges(&notes), [(1, 4, 40)]);
        let leaves = |place: u64| Lost { lane: lane.id, from: seq(place), up_to: seq(place), bytes: 10 };
        for at in 0..10 * RANGES_MAX as u64 {
            let place = 10 + 2 * at;
            let lost = leaves(place);
            assert_eq!(notes.fresh(&lane, 1, &lost, true), [lost]);
            // A reader comes across it before it has left, and behind that nobody does.
            notes.note(LossKind::Expired, &lane, 1, (place, place), 10);
            assert_eq!(ranges(&notes), []);
            lane.husks().add(Range { first: place, last: place, bytes: (0, 10) }, |_| {});
            notes.settle(&lane);
            notes.note(LossKind::Damaged, &lane, 1, (place, place), 0);
            assert_eq!((ranges(&notes), notes.fresh(&lane, 1, &lost, true)), (vec![], vec![]));
        }
        assert_eq!(notes.lock().leaving[&lane.id], []);
        let whole = Lost { up_to: seq(6), bytes: 60, ..leaves(1) };
        let rest = Lost { from: seq(5), bytes: 20, ..whole };
        assert_eq!(notes.fresh(&lane, 1, &whole, true), [rest], "what was noted first is remembered");
    }
}
