//! A pace: so many messages or bytes in a second, as a bucket that time fills.
//!
//! In: time, what was sent. Out: how much may be sent now, and when there is more. A message larger than what is left
//! makes a debt, which is waited for: so a pace in bytes never stops a large message, and still holds on average.

use model::Instant;

/// A millionth of a message or byte is the unit, so that nothing is lost between two looks.
const WHOLE: i64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Pace {
    per_sec: i64,
    left: i64,
    filled: Instant,
}

impl Pace {
    /// None for 0: no pace is set.
    pub(super) fn new(per_sec: u64) -> Option<Pace> {
        let per_sec = i64::try_from(per_sec.min(1 << 40)).unwrap_or(i64::MAX);
        (per_sec > 0).then_some(Pace { per_sec, left: 0, filled: Instant::default() })
    }

    /// How much may be sent now.
    pub(super) fn left(&mut self, now: Instant) -> usize {
        let micros = i64::try_from(now.0.saturating_sub(self.filled.0)).unwrap_or(i64::MAX);
        self.filled = now;
        // At most a tenth of a second at once: a pace, not bursts.
        let most = (self.per_sec / 10).max(1) * WHOLE;
        self.left = self.left.saturating_add(micros.saturating_mul(self.per_sec)).min(most);
        (self.left / WHOLE).max(0) as usize
    }

    /// So much was sent.
    pub(super) fn spent(&mut self, amount: usize) {
        self.left -= amount as i64 * WHOLE;
    }

    /// Milliseconds until something may be sent; 0 if it may now.
    pub(super) fn wait_millis(&self) -> u64 {
        let missing = (WHOLE - self.left).max(0);
        // Not for every single one: a timer costs more than a message.
        (missing / self.per_sec / 1_000).max(if missing > 0 { 10 } else { 0 }) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_holds_on_average_and_knows_no_bursts() {
        let mut pace = Pace::new(100).expect("not 0");
        let mut sent = 0;
        for millis in 0..10_000 {
            let left = pace.left(Instant::default().plus_millis(millis + 60_000));
            assert!(left <= 10);
            pace.spent(left);
            sent += left;
        }
        assert!((1_000..=1_010).contains(&sent), "{sent}");
        assert!(Pace::new(0).is_none());
    }

    #[test]
    fn a_debt_is_waited_for() {
        let mut pace = Pace::new(1_000).expect("not 0");
        pace.left(Instant::default().plus_millis(5_000));
        pace.spent(2_100);
        assert_eq!(pace.left(Instant::default().plus_millis(6_000)), 0);
        assert_eq!(pace.wait_millis(), 1_001);
        assert_eq!(pace.left(Instant::default().plus_millis(7_050)), 50);
    }
}
