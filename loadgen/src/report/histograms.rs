//! The distributions of a run, whole, so that those of several processes add up to one.
//!
//! In:  histograms of equal bounds. Out: their sums, their short forms, and text that another process reads.
//! Never: means of percentiles; a percentile of several processes is that of all their values.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::Percentiles;
use crate::hlog::packed;
use crate::stats::histogram;

/// Microseconds of everything in the measured interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Histograms {
    /// From the intended send time to the arrival.
    #[serde(with = "packed")]
    pub latency: Histogram<u64>,
    /// From the intended send time to the acknowledgement.
    #[serde(with = "packed")]
    pub ack: Histogram<u64>,
    /// From the intended to the actual send time.
    #[serde(with = "packed")]
    pub lateness: Histogram<u64>,
    /// From when a client was due to connect until it was there.
    #[serde(with = "packed")]
    pub connect: Histogram<u64>,
}

impl Default for Histograms {
    fn default() -> Self {
        Histograms { latency: histogram(), ack: histogram(), lateness: histogram(), connect: histogram() }
    }
}

impl Histograms {
    /// Adds those of another part of the run.
    pub fn add(&mut self, other: &Histograms) {
        let pairs = [
            (&mut self.latency, &other.latency),
            (&mut self.ack, &other.ack),
            (&mut self.lateness, &other.lateness),
            (&mut self.connect, &other.connect),
        ];
        for (own, theirs) in pairs {
            own.add(theirs).expect("all histograms have the same bounds");
        }
    }

    /// The latency at quantiles that get closer towards 1, as a curve shows them.
    #[must_use]
    pub fn latency_curve(&self) -> Vec<(f64, u64)> {
        if self.latency.is_empty() {
            return Vec::new();
        }
        let steps = [0.0, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85];
        let tail = (1..=5).flat_map(|nines| {
            let rest = 10_f64.powi(-nines);
            [1.0, 0.75, 0.5, 0.3, 0.2].map(|part| 1.0 - rest * part)
        });
        let quantiles = steps.into_iter().chain(tail);
        quantiles.map(|quantile| (quantile, self.latency.value_at_quantile(quantile))).collect()
    }

    pub(super) fn short(&self) -> [Percentiles; 4] {
        [&self.latency, &self.ack, &self.lateness, &self.connect].map(Percentiles::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: std::ops::RangeInclusive<u64>) -> Histograms {
        let mut made = Histograms::default();
        values.for_each(|value| made.latency.saturating_record(value));
        made
    }

    /// Of 1..=900 and 901..=1000 the 90th percentile is 900; the mean of both would be 1 715.
    #[test]
    fn a_percentile_of_two_processes_is_that_of_all_their_values() {
        let mut both = of(1..=900);
        both.add(&of(901..=1_000));
        let [latency, ack, ..] = both.short();
        assert_eq!((latency.count, latency.p90, latency.max, ack.count), (1_000, 900, 1_000, 0));
    }

    #[test]
    fn another_process_reads_what_this_one_wrote() {
        let made = of(1..=1_000);
        let read: Histograms = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
        assert_eq!((read.latency, read.ack), (made.latency, made.ack));
        assert!(serde_json::from_str::<Histograms>("{\"latency\": \"hello\"}").is_err());
    }
}
