//! Finds out that an upstream ends connections because it is sent too much, where it has no words for that.
//!
//! In: when a link came up, when the other side ended it without a word, how much was in flight. Out: whether that is a
//! sign of throttling: soon after it came up, with much in flight, and not for the first time.

use model::Instant;

/// A link that the other side ends within so many milliseconds, with so much in flight, was ended in a burst.
const SOON_MILLIS: u64 = 10_000;
const BURST: usize = 16;

/// Ends in the middle of a burst.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    /// In a row.
    ends: u32,
    up_at: Instant,
}

impl Bursts {
    /// The link has come up.
    pub(super) fn up(&mut self, now: Instant) {
        self.up_at = now;
    }

    /// The other side has ended it without a word, with so much in flight of what was allowed. Whether it wants less.
    ///
    /// `is_throttled`: that is known already, and a small window is no proof of the contrary.
    pub(super) fn ended(&mut self, inflight: usize, window: usize, is_throttled: bool, now: Instant) -> bool {
        let least = if is_throttled { 2 } else { BURST };
        let is_burst = inflight >= least && inflight * 2 >= window;
        let is_soon = now.millis_since(self.up_at) <= SOON_MILLIS;
        self.ends = if is_burst && is_soon { self.ends + 1 } else { 0 };
        self.ends >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_burst_that_ends_a_young_link_is_a_sign() {
        let mut bursts = Bursts::default();
        bursts.up(Instant(0));
        assert!(!bursts.ended(64, 64, false, Instant(1_000_000)), "once is chance");
        assert!(bursts.ended(64, 64, false, Instant(2_000_000)));
        assert!(!bursts.ended(3, 64, false, Instant(3_000_000)), "little was in flight");
        assert!(!bursts.ended(64, 64, false, Instant(4_000_000)));
        assert!(bursts.ended(4, 5, true, Instant(5_000_000)), "that it is throttled is known");
        assert!(!bursts.ended(64, 64, false, Instant(60_000_000)), "it has carried for a while");
    }
}
