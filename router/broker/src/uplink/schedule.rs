//! Whose turn it is among the lanes of one uplink, decided anew for each batch.
//!
//! Knows: priorities. In: which lanes have something to send, how much of it was sent. Out: a lane.
//! *Strict*: the most urgent one. *Weighted*: each gets its part of the link, and an idle lane that gets something goes
//! next (start-time fair queueing); no lane starves.

use model::Priority;

/// How lanes share a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// The most urgent lane with something to send goes first.
    #[default]
    Strict,
    /// Lanes share the link by [`weight`].
    Weighted,
}

/// Parts of the link that a lane gets beside others: twice as many for every second step of urgency.
pub const fn weight(priority: Priority) -> u64 {
    match priority.get() {
        0 => 64,
        1 => 48,
        2 => 32,
        3 => 24,
        4 => 16,
        5 => 12,
        6 => 8,
        7 => 6,
        8 => 4,
        9 => 3,
        _ => 2,
    }
}

/// Messages of a batch when lanes share: small, so that they take turns often.
pub(super) const WEIGHTED_BATCH: usize = 64;

/// What a message costs a lane of weight 1; divisible by every weight.
const COST: u64 = 192;

/// The turns of all lanes.
#[derive(Debug)]
pub(super) struct Turns {
    schedule: Schedule,
    /// Virtual time at which each lane has had its part.
    had: Vec<u64>,
    idle: Vec<bool>,
    now: u64,
}

impl Turns {
    pub(super) fn new(schedule: Schedule) -> Turns {
        Turns { schedule, had: Vec::new(), idle: Vec::new(), now: 0 }
    }

    /// Room for one more lane.
    pub(super) fn add_lane(&mut self) {
        self.had.push(self.now);
        self.idle.push(true);
    }

    /// The lane that goes next, of those that `wants` gives something for; lanes are numbered from the most urgent.
    pub(super) fn next<W>(&mut self, mut wants: impl FnMut(usize) -> Option<W>) -> Option<(usize, W)> {
        if self.schedule == Schedule::Strict {
            return (0..self.had.len()).find_map(|lane| Some((lane, wants(lane)?)));
        }
        let mut best: Option<(usize, W)> = None;
        for lane in 0..self.had.len() {
            let wanted = wants(lane);
            if wanted.is_some() && self.idle[lane] {
                self.had[lane] = self.had[lane].max(self.now);
            }
            self.idle[lane] = wanted.is_none();
            if let Some(wanted) = wanted
                && best.as_ref().is_none_or(|(best, _)| self.had[lane] < self.had[*best])
            {
                best = Some((lane, wanted));
            }
        }
        self.now = best.as_ref().map_or(self.now, |(lane, _)| self.had[*lane]);
        best
    }

    /// The lane sent so many messages.
    pub(super) fn sent(&mut self, lane: usize, priority: Priority, messages: usize) {
        self.had[lane] += messages as u64 * COST / weight(priority);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves `batches` batches of at most 16 to lanes that always have something; messages per lane.
    fn serve(schedule: Schedule, priorities: &[i64], batches: usize) -> Vec<usize> {
        let mut turns = Turns::new(schedule);
        priorities.iter().for_each(|_| turns.add_lane());
        let mut served = vec![0; priorities.len()];
        for _ in 0..batches {
            let (lane, ()) = turns.next(|_| Some(())).expect("always something");
            turns.sent(lane, Priority::new(priorities[lane]).expect("0 to 9"), 16);
            served[lane] += 16;
        }
        served
    }

    #[test]
    fn strict_serves_the_most_urgent_lane_alone() {
        assert_eq!(serve(Schedule::Strict, &[0, 5, 9], 100), [1_600, 0, 0]);
    }

    #[test]
    fn weighted_shares_by_weight_and_starves_nobody() {
        let served = serve(Schedule::Weighted, &[0, 4, 8], 2_100);
        let share = |lane: usize| served[lane] * 84 / (2_100 * 16);
        assert!((63..=65).contains(&share(0)), "{served:?}");
        assert!((15..=17).contains(&share(1)), "{served:?}");
        assert!((3..=5).contains(&share(2)), "{served:?}");
    }

    #[test]
    fn an_idle_lane_that_gets_something_goes_next_and_saves_nothing_up() {
        let mut turns = Turns::new(Schedule::Weighted);
        turns.add_lane();
        turns.add_lane();
        for _ in 0..1_000 {
            assert_eq!(turns.next(|lane| (lane == 1).then_some(())), Some((1, ())));
            turns.sent(1, Priority::DEFAULT, 16);
        }
        assert_eq!(turns.next(|_| Some(())), Some((0, ())));
        turns.sent(0, Priority::HIGHEST, 64);
        let urgent = (0..10).filter(|_| {
            let (lane, ()) = turns.next(|_| Some(())).expect("both have something");
            turns.sent(lane, [Priority::HIGHEST, Priority::DEFAULT][lane], 64);
            lane == 0
        });
        assert!(urgent.count() < 10, "the less urgent lane still has its part");
    }
}
