//! Faults of the store as an uplink meets them: each is worth one line in the log when it begins and one when it is over.
//!
//! In: what was tried, what came of it, the time. Out: whether to say so, and whether it is time to try again. Never: the
//! store, the log. Always: only what was last in the way ends a fault; that another lane, or an earlier place, can be read
//! does not.
//! Bound: one fault for each kind of [`Act`].

use model::{Instant, LaneId, Seq};

/// How long a store that cannot be read is left alone: whatever wakes an uplink, and with many links much does.
const PAUSE_MILLIS: u64 = 1_000;

/// What an uplink wants of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// How far a lane reaches.
    Look,
    /// Its records.
    Read,
    /// That what is delivered is written down.
    Keep,
}

impl Act {
    /// What is so when it fails.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Act::Look => "a lane cannot be looked at; what comes into it is not seen",
            Act::Read => "a lane cannot be read; its messages wait",
            Act::Keep => "position not kept; messages may be sent again after a restart",
        }
    }
}

/// A fault that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    /// How long it was there.
    pub(super) millis: u64,
    /// How often it was met.
    pub(super) met: u64,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    lane: LaneId,
    place: Option<Seq>,
    since: Instant,
    met: u64,
}

/// All that are there now.
#[derive(Debug, Default)]
pub(super) struct Faults {
    open: [Option<Fault>; 3],
    again_at: Instant,
}

impl Faults {
    /// It failed, at this place if it is about one; whether that is news.
    pub(super) fn failed(&mut self, act: Act, lane: LaneId, place: Option<Seq>, now: Instant) -> bool {
        if act != Act::Keep {
            self.again_at = now.plus_millis(PAUSE_MILLIS);
        }
        let open = &mut self.open[act as usize];
        let is_news = open.is_none();
        let fault = open.get_or_insert(Fault { lane, place, since: now, met: 0 });
        (fault.lane, fault.place, fault.met) = (lane, place, fault.met + 1);
        is_news
    }

    /// It did not fail before the place `next`; the fault that is over by that, if one is.
    pub(super) fn went_well(
        &mut self,
        act: Act,
        lane: LaneId,
        next: Option<Seq>,
        now: Instant,
    ) -> Option<Over> {
        let is_behind = |fault: &Fault| fault.place.is_none_or(|place| next.is_some_and(|next| next > place));
        let fault = self.open[act as usize].take_if(|fault| fault.lane == lane && is_behind(fault))?;
        Some(Over { millis: now.millis_since(fault.since), met: fault.met })
    }

    /// Whether one of this kind is there.
    pub(super) fn has(&self, act: Act) -> bool {
        self.open[act as usize].is_some()
    }

    /// Milliseconds for which the store is not read, if it is left alone.
    pub(super) fn pause(&self, now: Instant) -> Option<u64> {
        let waits = (self.has(Act::Look) || self.has(Act::Read)) && now < self.again_at;
        waits.then(|| self.again_at.millis_since(now) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Instant = Instant(5_000_000);
    const LANE: LaneId = LaneId(1);

    fn place(number: u64) -> Option<Seq> {
        Seq::new(number)
    }

    #[test]
    fn a_fault_is_news_once_and_over_once_however_often_it_is_met() {
        let mut faults = Faults::default();
        assert_eq!(faults.went_well(Act::Read, LANE, place(9), AT), None);
        assert!(faults.failed(Act::Read, LANE, place(7), AT));
        for wake in 1..=400 {
            assert!(!faults.failed(Act::Read, LANE, place(7), AT.plus_millis(wake)));
        }
        assert!(faults.failed(Act::Keep, LANE, None, AT), "another kind is another fault");
        // Lanes and places that were not in the way say nothing.
        assert_eq!(faults.went_well(Act::Read, LaneId(2), place(9), AT.plus_millis(500)), None);
        assert_eq!(faults.went_well(Act::Read, LANE, place(7), AT.plus_millis(500)), None);
        assert!(faults.has(Act::Read));
        let over = faults.went_well(Act::Read, LANE, place(8), AT.plus_millis(500));
        assert_eq!(over, Some(Over { millis: 500, met: 401 }));
        assert!(!faults.has(Act::Read) && faults.has(Act::Keep));
        assert!(faults.failed(Act::Read, LANE, place(8), AT.plus_millis(600)), "the next one is news again");
        assert_eq!(faults.went_well(Act::Keep, LANE, None, AT).map(|over| over.met), Some(1));
    }

    #[test]
    fn a_store_that_fails_is_left_alone_for_a_while_and_one_that_is_well_is_not() {
        let mut faults = Faults::default();
        assert_eq!(faults.pause(AT), None);
        faults.failed(Act::Keep, LANE, None, AT);
        assert_eq!(faults.pause(AT), None, "positions that are not kept are no reason not to read");
        faults.failed(Act::Read, LANE, place(1), AT);
        assert_eq!(faults.pause(AT.plus_millis(1)), Some(PAUSE_MILLIS));
        assert_eq!(faults.pause(AT.plus_millis(PAUSE_MILLIS)), None);
        faults.failed(Act::Read, LANE, place(1), AT.plus_millis(PAUSE_MILLIS));
        faults.went_well(Act::Read, LANE, place(2), AT.plus_millis(PAUSE_MILLIS + 1));
        assert_eq!(faults.pause(AT.plus_millis(PAUSE_MILLIS + 1)), None);
    }
}
