//! When messages are due: an absolute schedule that does not wait for anybody.
//!
//! Knows: rates and how arrivals are spread. May use: a seeded random stream. Never: clocks, sockets.
//! In:  a start, a rate, a shape. Out: the intended send time of message 1, 2, 3 …
//! Invariant: due times never go backwards, and do not depend on when they are asked for; so the mean rate is
//! met over any span and a late message does not make the later ones late (no coordinated omission).

use crate::clock::Micros;
use crate::random::Random;

/// How the arrivals of one publisher are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly, one period apart.
    Constant,
    /// As independent events: gaps are exponentially distributed around the period.
    Poisson,
    /// In groups of this many messages with one due time, evenly spaced groups.
    Bursts(u32),
}

/// The due times of a recording, for one publisher; nothing is due after the last.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    start: Micros,
    times: Vec<u64>,
    next: usize,
}

impl Recorded {
    pub(crate) fn new(start: Micros, times: &[u64]) -> Recorded {
        Recorded { start, times: times.to_vec(), next: 0 }
    }

    pub(crate) fn next_due(&mut self) -> Micros {
        let since = self.times.get(self.next).copied();
        self.next += 1;
        since.map_or(Micros::NEVER, |since| Micros(self.start.0.saturating_add(since)))
    }
}

/// The due times of one publisher.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    /// Microseconds; a fraction of one matters above 10⁶ messages a second.
    period: f64,
    start: Micros,
    shift: f64,
    index: u64,
    random: Random,
    elapsed: f64,
}

impl Schedule {
    /// Due times from `start` on at `rate` messages a second.
    ///
    /// `phase` in 0..1 shifts evenly spaced arrivals by that part of a period, so that a fleet does not send in
    /// lockstep. `seed` decides the gaps of [`Arrivals::Poisson`]. `rate` must be above 0.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, start: Micros, phase: f64, seed: u64) -> Schedule {
        let period = 1e6 / rate;
        let shift = match arrivals {
            Arrivals::Constant => phase * period,
            Arrivals::Poisson => 0.0,
            Arrivals::Bursts(size) => phase * period * f64::from(size),
        };
        Schedule { arrivals, period, start, shift, index: 0, random: Random::new(seed), elapsed: 0.0 }
    }

    /// The due time of the next message; each call is one message.
    pub fn next_due(&mut self) -> Micros {
        let offset = match self.arrivals {
            Arrivals::Constant => self.index as f64 * self.period,
            Arrivals::Poisson => {
                self.elapsed -= self.random.unit().ln() * self.period;
                self.elapsed
            }
            Arrivals::Bursts(size) => {
                let size = u64::from(size.max(1));
                (self.index / size * size) as f64 * self.period
            }
        };
        self.index += 1;
        Micros(self.start.0.saturating_add((self.shift + offset) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(arrivals: Arrivals, rate: f64, phase: f64, count: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(arrivals, rate, Micros(1_000_000), phase, 7);
        (0..count).map(|_| schedule.next_due().0 - 1_000_000).collect()
    }

    #[test]
    fn constant_arrivals_are_a_period_apart() {
        assert_eq!(dues(Arrivals::Constant, 1_000.0, 0.0, 4), [0, 1_000, 2_000, 3_000]);
        assert_eq!(dues(Arrivals::Constant, 10.0, 0.5, 2), [50_000, 150_000]);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        assert_eq!(dues(Arrivals::Constant, 3_000_000.0, 0.0, 3_000_001).last(), Some(&1_000_000));
        assert_eq!(dues(Arrivals::Constant, 7.0, 0.0, 701).last(), Some(&100_000_000));
    }

    #[test]
    fn bursts_share_a_due_time_and_keep_the_mean_rate() {
        let times = dues(Arrivals::Bursts(3), 300.0, 0.0, 7);
        assert_eq!(times, [0, 0, 0, 10_000, 10_000, 10_000, 20_000]);
    }

    #[test]
    fn poisson_arrivals_keep_the_mean_and_the_spread() {
        let times = dues(Arrivals::Poisson, 1_000.0, 0.0, 100_000);
        assert!(times.is_sorted());
        let mean = *times.last().unwrap() as f64 / times.len() as f64;
        assert!((990.0..1_010.0).contains(&mean), "mean gap {mean} µs");
        // For exponential gaps the share below the mean is 1 - 1/e = 63.2 %.
        let below = times.windows(2).filter(|pair| pair[1] - pair[0] < 1_000).count() as f64;
        assert!((0.62..0.645).contains(&(below / times.len() as f64)));
    }

    #[test]
    fn one_seed_is_one_schedule() {
        assert_eq!(dues(Arrivals::Poisson, 50.0, 0.0, 50), dues(Arrivals::Poisson, 50.0, 0.0, 50));
    }
}
