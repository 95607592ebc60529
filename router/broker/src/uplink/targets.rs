//! Which of several addresses of one upstream is connected to: in order, with a way back to the first.
//!
//! In: how attempts went, time. Out: the address to try next, and whether the first one should be looked at again.
//! Always: an address is left after `attempts` failures in a row; while another one is in use the first is looked at once
//! every `return_millis`, and only if that look went well is the connection given up for it.

use model::Instant;

/// When addresses are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRules {
    /// How many addresses there are, at least 1.
    pub count: usize,
    /// Failed attempts in a row after which the next one is tried.
    pub attempts: u32,
    /// How long another one than the first is used before the first is looked at; and again after a look that failed.
    pub return_millis: u64,
}

/// The addresses of one upstream.
#[derive(Debug)]
pub struct Targets {
    rules: TargetRules,
    current: usize,
    failures: u32,
    look_at: Instant,
    changes: u64,
}

impl Targets {
    /// Begins with the first one.
    pub fn new(rules: TargetRules) -> Targets {
        Targets { rules, current: 0, failures: 0, look_at: Instant::default(), changes: 0 }
    }

    /// The one to connect to.
    pub fn current(&self) -> usize {
        self.current
    }

    /// How often the address was changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The upstream took the connection.
    pub fn succeeded(&mut self, now: Instant) {
        self.failures = 0;
        self.look_at = now.plus_millis(self.rules.return_millis);
    }

    /// An attempt failed, or a connection ended before it was any good. Whether another address is tried next.
    pub fn failed(&mut self) -> bool {
        self.failures += 1;
        if self.rules.count < 2 || self.failures < self.rules.attempts {
            return false;
        }
        self.failures = 0;
        self.current = (self.current + 1) % self.rules.count;
        self.changes += 1;
        true
    }

    /// Whether the first address should be looked at, because another one is in use for long enough. Once per period.
    pub fn should_look(&mut self, now: Instant) -> bool {
        if self.current == 0 || self.rules.return_millis == 0 || now < self.look_at {
            return false;
        }
        self.look_at = now.plus_millis(self.rules.return_millis);
        true
    }

    /// The first address takes connections again: it is the next one.
    pub fn go_back(&mut self) {
        self.current = 0;
        self.failures = 0;
        self.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::default().plus_millis(millis)
    }

    #[test]
    fn addresses_go_round_after_so_many_failures() {
        let mut targets = Targets::new(TargetRules { count: 3, attempts: 2, return_millis: 1_000 });
        let seen: Vec<_> = (0..7)
            .map(|_| {
                targets.failed();
                targets.current()
            })
            .collect();
        assert_eq!(seen, [0, 1, 1, 2, 2, 0, 0]);
        targets.succeeded(at(5));
        assert!(!targets.failed() && targets.failed(), "a success begins the count anew");
    }

    #[test]
    fn one_address_is_never_left() {
        let mut targets = Targets::new(TargetRules { count: 1, attempts: 1, return_millis: 1_000 });
        assert!(!targets.failed() && targets.current() == 0 && targets.changes() == 0);
        assert!(!targets.should_look(at(1 << 40)));
    }

    #[test]
    fn the_first_is_looked_at_once_per_period_while_another_is_in_use() {
        let mut targets = Targets::new(TargetRules { count: 2, attempts: 1, return_millis: 1_000 });
        assert!(targets.failed());
        targets.succeeded(at(0));
        assert!(!targets.should_look(at(999)));
        assert!(targets.should_look(at(1_000)) && !targets.should_look(at(1_001)));
        assert!(targets.should_look(at(2_000)));
        targets.go_back();
        assert_eq!((targets.current(), targets.changes()), (0, 2));
        assert!(!targets.should_look(at(9_000)));
    }
}
