//! A summary as Prometheus knows it: how many, their sum, and quantiles of what came within the last hour or so.
//!
//! In: values, the time. Out: quantiles, within 5 % of the truth. How: values fall into boxes, eight to each doubling; two
//! windows of half an hour follow one another, so that a quantile is about the last 30 to 60 minutes, as edgeHub's is about its
//! window. Bound: a box for each size that has occurred, 1 024 at most.

use std::collections::BTreeMap;

use model::Timestamp;

/// Length of a window.
const WINDOW_MILLIS: u64 = 1_800_000;
/// Boxes to each doubling.
const FINENESS: f64 = 8.0;
/// What edgeHub shows.
pub const QUANTILES: [f64; 4] = [0.1, 0.5, 0.9, 0.99];

/// See the head of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    count: u64,
    sum: f64,
    /// The window now, and the one before, each with its number.
    now: (u64, Boxes),
    before: (u64, Boxes),
}

type Boxes = BTreeMap<i16, u32>;

impl Summary {
    /// A value was measured.
    pub fn observe(&mut self, value: f64, at: Timestamp) {
        self.count += 1;
        self.sum += value;
        let window = at.0 / WINDOW_MILLIS;
        if window != self.now.0 {
            self.before = std::mem::replace(&mut self.now, (window, Boxes::new()));
        }
        let number = (value.max(1e-9).log2() * FINENESS).floor().clamp(-512.0, 511.0) as i16;
        let held = self.now.1.entry(number).or_default();
        *held = held.saturating_add(1);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What they were together.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The value that this share of the last ones did not exceed; `None` without any.
    pub fn quantile(&self, share: f64, at: Timestamp) -> Option<f64> {
        let window = at.0 / WINDOW_MILLIS;
        let windows = [&self.now, &self.before];
        let mut all = Boxes::new();
        for (_, boxes) in windows.into_iter().filter(|(number, _)| number + 1 >= window) {
            for (number, held) in boxes {
                *all.entry(*number).or_default() += held;
            }
        }
        let total: u64 = all.values().map(|held| u64::from(*held)).sum();
        let wanted = (share * total as f64).ceil().max(1.0) as u64;
        let mut passed = 0;
        let found = all.into_iter().find(|(_, held)| {
            passed += u64::from(*held);
            passed >= wanted
        });
        found.map(|(number, _)| ((f64::from(number) + 0.5) / FINENESS).exp2())
    }

    /// Adds what another one knows.
    pub fn merge(&mut self, other: &Summary) {
        self.count += other.count;
        self.sum += other.sum;
        let newest = self.now.0.max(other.now.0);
        let mut now = (newest, Boxes::new());
        let mut before = (newest.saturating_sub(1), Boxes::new());
        for (number, boxes) in [&self.now, &self.before, &other.now, &other.before] {
            let place = [&mut now, &mut before].into_iter().find(|place| place.0 == *number);
            let Some((_, place)) = place else { continue };
            for (number, held) in boxes {
                *place.entry(*number).or_default() += held;
            }
        }
        (self.now, self.before) = (now, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn quantiles_are_near_the_truth_and_forget() {
        let mut summary = Summary::default();
        assert_eq!(summary.quantile(0.5, Timestamp(0)), None);
        for value in 1..=1_000 {
            summary.observe(f64::from(value) / 1_000.0, Timestamp(HOUR));
        }
        for share in QUANTILES {
            let found = summary.quantile(share, Timestamp(HOUR)).expect("values");
            assert!((found / share - 1.0).abs() < 0.05, "{share}: {found}");
        }
        assert_eq!((summary.count(), summary.sum().round()), (1_000, 501.0));
        summary.observe(8.0, Timestamp(HOUR + WINDOW_MILLIS));
        assert!(summary.quantile(0.5, Timestamp(HOUR + WINDOW_MILLIS)).is_some_and(|it| it < 0.6));
        summary.observe(8.0, Timestamp(2 * HOUR + WINDOW_MILLIS));
        assert!(summary.quantile(0.1, Timestamp(2 * HOUR + WINDOW_MILLIS)).is_some_and(|it| it > 7.0));
        assert_eq!(summary.quantile(0.5, Timestamp(9 * HOUR)), None);
        assert_eq!(summary.count(), 1_002, "what is counted is not forgotten");
    }

    #[test]
    fn two_shards_are_one() {
        let (mut one, mut two) = (Summary::default(), Summary::default());
        one.observe(1.0, Timestamp(HOUR));
        two.observe(100.0, Timestamp(HOUR + WINDOW_MILLIS));
        two.observe(0.0, Timestamp(HOUR + WINDOW_MILLIS));
        one.merge(&two);
        let at = Timestamp(HOUR + WINDOW_MILLIS);
        assert_eq!((one.count(), one.sum()), (3, 101.0));
        assert!(one.quantile(0.99, at).is_some_and(|it| (it / 100.0 - 1.0).abs() < 0.05));
        assert!(one.quantile(0.5, at).is_some_and(|it| (it - 1.0).abs() < 0.1));
    }
}
