//! Notices when the wall clock and the steady one part: somebody set the clock, or the machine slept.
//!
//! In: both clocks, now and then. Out: by how much the wall clock jumped. What is due by the steady clock (keep-alive,
//! backoff, windows) needs nothing; what lives by the wall clock (hours, expiry, tokens) is to be looked at anew.

use model::Now;

/// Less than this is drift, or the work of NTP, which slews.
const JUMP_MILLIS: i64 = 5_000;

/// Both clocks as they were last seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    last: Option<Now>,
}

impl ClockWatch {
    /// Milliseconds by which the wall clock went further than the steady one since the last look, if that is a jump;
    /// negative if it went back.
    pub fn look(&mut self, now: Now) -> Option<i64> {
        let last = self.last.replace(now)?;
        let steady = now.instant.millis_since(last.instant) as i64;
        let jump = now.timestamp.0 as i64 - last.timestamp.0 as i64 - steady;
        (jump.abs() >= JUMP_MILLIS).then_some(jump)
    }
}

#[cfg(test)]
mod tests {
    use model::{Instant, Timestamp};

    use super::*;

    fn at(steady: u64, wall: u64) -> Now {
        Now { instant: Instant(steady * 1_000), timestamp: Timestamp(wall) }
    }

    #[test]
    fn jumps_both_ways_are_noticed_once_and_drift_is_not() {
        let mut clocks = ClockWatch::default();
        assert_eq!(clocks.look(at(0, 1_700_000_000_000)), None);
        assert_eq!(clocks.look(at(1_000, 1_700_000_001_100)), None, "drift");
        assert_eq!(clocks.look(at(2_000, 1_700_003_602_100)), Some(3_600_000));
        assert_eq!(clocks.look(at(3_000, 1_700_003_603_100)), None);
        assert_eq!(clocks.look(at(4_000, 3_000)), Some(3_000 - 1_700_003_603_100 - 1_000));
        assert_eq!(clocks.look(at(4_000 + 86_400_000, 3_000 + 86_400_000)), None, "a long time is none");
    }
}
