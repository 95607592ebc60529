//! How long to wait before the next attempt to connect.

/// Exponential backoff with full jitter.
///
/// Full jitter: after a site-wide outage a fixed delay would bring every gateway back in the same second.
#[derive(Clone, Debug)]
pub struct Backoff {
    min_millis: u64,
    max_millis: u64,
    failures: u32,
}

impl Backoff {
    /// Waits between `min_millis` and `max_millis` once attempts keep failing.
    pub fn new(min_millis: u64, max_millis: u64) -> Backoff {
        Backoff { min_millis, max_millis: max_millis.max(min_millis), failures: 0 }
    }

    /// Notes a failure; milliseconds to wait. `random` is any number, the caller's randomness.
    ///
    /// The delay is spread evenly over 1/2 to 1 times `min · 2^failures`, at most `max`: never zero, so that a refusing
    /// upstream is not hammered.
    pub fn failed(&mut self, random: u64) -> u64 {
        let ceiling = self.min_millis.saturating_mul(1 << self.failures.min(20)).clamp(1, self.max_millis);
        self.failures += 1;
        let half = ceiling / 2;
        half + random % (ceiling - half + 1)
    }

    /// Notes a success that lasted: the next failure starts from the shortest delay again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_are_never_zero() {
        let mut backoff = Backoff::new(100, 5_000);
        for ceiling in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let (least, most) = (backoff.clone().failed(0), backoff.clone().failed(ceiling / 2));
            assert_eq!((least, most), (ceiling / 2, ceiling));
            assert!((least..=most).contains(&backoff.failed(u64::MAX)));
        }
        backoff.succeeded();
        assert!((50..=100).contains(&backoff.failed(3)));
        assert!(Backoff::new(1, 1).failed(0) <= 1);
    }
}
