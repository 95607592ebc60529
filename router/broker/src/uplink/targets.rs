//! Which of several addresses of one upstream is connected to: in order, with a way back to the first.
//!
//! In: how attempts went, time. Out: the address to try next, and whether the first one should be looked at again.
//! Always: an address is left after `attempts` failures in a row; while another one is in use the first is looked at once
//! every `return_millis`, and only if that look went well is the connection given up for it. A look sees that the first takes
//! connections, not that it is any good: if the first attempt there fails, the other one is taken up again at once, and the
//! next look comes twice as late, up to [`VAIN_MAX`] times.

use model::Instant;

/// Ways back in vain that double the time until the next look: 5 make 300 seconds 160 minutes.
const VAIN_MAX: u32 = 5;

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
    /// The first address has just been gone back to, from this one.
    returns_from: Option<usize>,
    /// Ways back that came to nothing, in a row.
    vain: u32,
}

impl Targets {
    /// Begins with the first one.
    pub fn new(rules: TargetRules) -> Targets {
        Targets {
            rules,
            current: 0,
            failures: 0,
            look_at: Instant::default(),
            changes: 0,
            returns_from: None,
            vain: 0,
        }
    }

    /// The one to connect to.
    pub fn current(&self) -> usize {
        self.current
    }

    /// How often the address was changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The upstream has let us in.
    pub fn let_in(&mut self, now: Instant) {
        self.look_at = now.plus_millis(self.return_millis());
    }

    /// The connection is of use: something was answered, or it has lasted.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.returns_from = None;
        if self.current == 0 {
            self.vain = 0;
        }
    }

    /// An attempt failed, or a connection ended before it was any good. Whether another address is tried next.
    pub fn failed(&mut self) -> bool {
        if let Some(other) = self.returns_from.take() {
            self.vain = (self.vain + 1).min(VAIN_MAX);
            (self.current, self.failures) = (other, 0);
            self.changes += 1;
            return true;
        }
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
        self.look_at = now.plus_millis(self.return_millis());
        true
    }

    fn return_millis(&self) -> u64 {
        self.rules.return_millis.saturating_mul(1 << self.vain)
    }

    /// The first address takes connections again: it is the next one.
    pub fn go_back(&mut self) {
        self.returns_from = Some(self.current).filter(|from| *from != 0);
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
        targets.succeeded();
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
        targets.let_in(at(0));
        targets.succeeded();
        assert!(!targets.should_look(at(999)));
        assert!(targets.should_look(at(1_000)) && !targets.should_look(at(1_001)));
        assert!(targets.should_look(at(2_000)));
        targets.go_back();
        assert_eq!((targets.current(), targets.changes()), (0, 2));
        assert!(!targets.should_look(at(9_000)));
    }

    #[test]
    fn to_be_let_in_is_no_success() {
        let mut targets = Targets::new(TargetRules { count: 2, attempts: 2, return_millis: 1_000 });
        targets.let_in(at(0));
        assert!(!targets.failed());
        targets.let_in(at(1));
        assert!(targets.failed(), "it lets us in, and is no good");
    }

    #[test]
    fn a_way_back_in_vain_costs_one_attempt_and_the_next_comes_later() {
        let mut targets = Targets::new(TargetRules { count: 3, attempts: 3, return_millis: 1_000 });
        (0..6).for_each(|_| _ = targets.failed());
        assert_eq!(targets.current(), 2);
        targets.let_in(at(0));
        targets.succeeded();
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 32_000] {
            assert!(!targets.should_look(at(now + wait - 1)));
            assert!(targets.should_look(at(now + wait)));
            now += wait;
            targets.go_back();
            // The front end lets us in, and nothing comes of it.
            targets.let_in(at(now));
            assert!(targets.failed() && targets.current() == 2, "where it was good");
            targets.let_in(at(now));
            targets.succeeded();
        }
        assert!(targets.should_look(at(now + 32_000)));
        targets.go_back();
        targets.succeeded();
        assert!(!targets.failed(), "it was good: so many attempts as ever");
        (0..5).for_each(|_| _ = targets.failed());
        targets.let_in(at(0));
        assert_eq!(targets.current(), 2);
        assert!(targets.should_look(at(1_000)));
    }
}
