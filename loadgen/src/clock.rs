//! The one clock of a run: microseconds since 1970 that never step.
//!
//! Knows: the wall clock once, at the start; the monotonic clock after that.
//! Out: [`Micros`], comparable between processes of one host (they share the wall clock's anchor to within
//! its own precision), which is what lets a message carry its intended send time to another process.
//! Invariant: two readings of one [`Clock`] never go backwards.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Micros(pub u64);

impl Micros {
    /// Later than every time a run can see.
    pub const NEVER: Micros = Micros(u64::MAX);

    /// This time plus a span; stays at the end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, span: Duration) -> Micros {
        Micros(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Microseconds from `earlier` to this time; 0 if that is later.
    #[must_use]
    pub const fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A monotonic clock that shows wall time as it was when the clock was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_wall: Micros,
}

impl Clock {
    /// Anchors the monotonic clock at the present wall time.
    #[must_use]
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { origin: Instant::now(), origin_wall: Micros(0).plus(wall) }
    }

    /// The present time. Costs one reading of the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.origin_wall.plus(self.origin.elapsed())
    }

    /// How far somebody has set the wall clock since this clock was made, in microseconds; below 0 it went back.
    /// Slewing moves both clocks alike and does not show.
    #[must_use]
    pub fn step(&self, wall: SystemTime) -> i64 {
        let wall = Micros(0).plus(wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let now = self.now();
        let span = |span: u64| i64::try_from(span).unwrap_or(i64::MAX);
        span(wall.since(now)) - span(now.since(wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_shows_by_how_much() {
        let clock = Clock::start();
        // Between the two readings this machine may let us wait.
        let near = |step: i64, expected: i64| (step - expected).abs() < 2_000_000;
        let now = SystemTime::now();
        assert!(near(clock.step(now), 0));
        assert!(near(clock.step(now - Duration::from_secs(30)), -30_000_000));
        assert!(near(clock.step(now + Duration::from_secs(70)), 70_000_000));
        assert!(clock.step(SystemTime::UNIX_EPOCH) < -1_000_000_000);
    }
}
