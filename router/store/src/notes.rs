//! What readers come across and cannot give: expired and damaged places, noted for whoever keeps the loss ledger.
//!
//! Knows: ranges of places per lane, each place once. May use: `face`. Never: RocksDB, the disk.
//! In:  ranges, from any thread, the same ones again after a reconnect. Out: [`Loss`]es, each place once.
//! Invariant: bounded by [`RANGES_MAX`] ranges per lane and [`WAITING_MAX`] losses that nobody has taken; what is more is
//! counted in `forgotten`. A process that starts again has forgotten what was noted: places may be noted again.

use crate::face::{Loss, LossKind, Lost};
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
    waiting: Vec<Loss>,
    forgotten: u64,
}

impl Notes {
    /// These places will never be given: notes those that were not noted before. Everything before `head` is past and
    /// forgotten. The bytes go with the range as far as it is new.
    pub(crate) fn note(
        &self,
        kind: LossKind,
        lane: LaneId,
        head: u64,
        (first, last): (u64, u64),
        bytes: u64,
    ) {
        let range = Lost { lane, from: seq(first), up_to: seq(last), bytes };
        for lost in self.fresh(head, &range) {
            self.lock().wait(Loss { kind, lost });
        }
    }

    /// Remembers a range; gives the parts of it that were not noted before.
    pub(crate) fn fresh(&self, head: u64, range: &Lost) -> Vec<Lost> {
        let parts = self.lock().remember(range.lane, head, range.from.get(), range.up_to.get());
        // A range of which a part is known has its bytes in proportion.
        let share = |from: u64, to: u64| {
            (u128::from(range.bytes) * u128::from(to - from + 1) / u128::from(range.messages())) as u64
        };
        let lost =
            |(from, to)| Lost { lane: range.lane, from: seq(from), up_to: seq(to), bytes: share(from, to) };
        parts.into_iter().map(lost).collect()
    }

    /// A lane is gone.
    pub(crate) fn forget(&self, lane: LaneId) {
        self.lock().noted.remove(&lane);
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
    /// Adds a range to what is known of a lane; gives the parts that are new.
    fn remember(&mut self, lane: LaneId, head: u64, first: u64, last: u64) -> Vec<(u64, u64)> {
        let noted = self.noted.entry(lane).or_default();
        noted.retain(|(_, end)| *end >= head);
        let (mut fresh, mut from) = (Vec::new(), first);
        for &(start, end) in noted.iter().filter(|(start, end)| *end >= first && *start <= last) {
            if start > from {
                fresh.push((from, start - 1));
            }
            from = from.max(end + 1);
        }
        if from <= last {
            fresh.push((from, last));
        }
        noted.extend_from_slice(&fresh);
        noted.sort_unstable();
        noted.dedup_by(|next, so_far| {
            let touches = so_far.1 + 1 >= next.0;
            if touches {
                so_far.1 = so_far.1.max(next.1);
            }
            touches
        });
        if noted.len() > RANGES_MAX {
            noted.remove(0);
        }
        fresh
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

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(1);

    fn ranges(notes: &Notes) -> Vec<(u64, u64, u64)> {
        let (losses, forgotten) = notes.take();
        assert_eq!(forgotten, 0);
        losses.iter().map(|it| (it.lost.from.get(), it.lost.up_to.get(), it.lost.bytes)).collect()
    }

    #[test]
    fn a_place_is_noted_once_however_often_it_is_read() {
        let notes = Notes::default();
        notes.note(LossKind::Expired, LANE, 1, (5, 9), 50);
        notes.note(LossKind::Expired, LANE, 1, (5, 9), 50);
        assert_eq!(ranges(&notes), [(5, 9, 50)]);
        notes.note(LossKind::Expired, LANE, 1, (1, 12), 120);
        assert_eq!(ranges(&notes), [(1, 4, 40), (10, 12, 30)]);
        notes.note(LossKind::Expired, LANE, 1, (2, 11), 100);
        assert_eq!(ranges(&notes), []);
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let notes = Notes::default();
        notes.note(LossKind::Expired, LANE, 1, (1, 2), 20);
        notes.note(LossKind::Expired, LANE, 1, (3, 3), 10);
        notes.note(LossKind::Damaged, LANE, 1, (4, 4), 0);
        assert_eq!(ranges(&notes), [(1, 3, 30), (4, 4, 0)]);
    }

    #[test]
    fn memory_is_bounded_and_the_rest_is_counted() {
        let notes = Notes::default();
        for place in 1..=10_000 {
            notes.note(LossKind::Expired, LANE, 1, (2 * place, 2 * place), 1);
        }
        let (losses, forgotten) = notes.take();
        assert_eq!((losses.len(), forgotten), (WAITING_MAX, 10_000 - WAITING_MAX as u64));
    }
}
