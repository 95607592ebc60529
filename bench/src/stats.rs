//! What several rounds of one measurement say: median, extremes, and ratios pair by pair.
//!
//! Knows: numbers. Never: what they count, where they come from.

use serde::{Deserialize, Serialize};

/// The median of some rounds, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Half are below; the mean of the middle two if the number is even.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Sums up some rounds; `None` without any. Values that are no numbers are left out.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Spread { median, min, max })
    }
}

/// Where a median lies: with a chance of at least 95 % between `low` and `high`, whatever the noise is like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    /// From independent measurements; `None` if they are too few, which is below six.
    ///
    /// Each lies below the median with chance ½, so how many do follows the binomial distribution, and the k-th from
    /// either end bounds the median unless fewer than k lie beyond it.
    pub(crate) fn of_median(values: &[f64]) -> Option<Interval> {
        let mut values: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len() as i32;
        let (mut term, mut sum, mut beyond) = (0.5f64.powi(count), 0.0, 0);
        // `sum` is the chance that at most `beyond` lie on one side.
        while 2.0 * (sum + term) <= 0.05 {
            sum += term;
            term *= f64::from(count - beyond) / f64::from(beyond + 1);
            beyond += 1;
        }
        let at = usize::try_from(beyond.checked_sub(1)?).ok()?;
        let (low, high) = (values[at], values[values.len() - 1 - at]);
        Some(Interval { median: Spread::of(values)?.median, low, high })
    }
}

/// The ratios of pairs whose second value is above zero.
pub(crate) fn ratios_of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Vec<f64> {
    pairs.into_iter().filter(|(_, theirs)| *theirs > 0.0).map(|(ours, theirs)| ours / theirs).collect()
}

/// The ratio of two measurements of the same round, round by round.
///
/// A pair whose second value is not above zero has no ratio. What slows the machine for a while hits both of a pair,
/// so the median of these ratios is steadier than the ratio of two medians.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Option<Spread> {
    Spread::of(ratios_of(ours.iter().copied().zip(theirs.iter().copied())))
}

/// The value below which a share of the sorted values lies, the nearest that occurred; 0 without any.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_one() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]).map(|spread| spread.median), Some(2.5));
    }

    #[test]
    fn nothing_has_no_median_and_what_is_no_number_is_left_out() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([f64::NAN, 5.0]).map(|spread| spread.median), Some(5.0));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The second round was slow for both; the ratio of the medians would be 1.
        let found = ratios(&[1.0, 10.0, 2.0], &[2.0, 20.0, 2.0]).unwrap();
        assert_eq!(found, Spread { median: 0.5, min: 0.5, max: 1.0 });
        assert_eq!(ratios(&[1.0], &[0.0]), None, "nothing per nothing");
        assert_eq!(
            ratios(&[1.0, 3.0], &[2.0]).map(|r| r.median),
            Some(0.5),
            "a round without a partner is left out"
        );
    }

    #[test]
    fn a_median_is_known_from_six_measurements_on() {
        let up_to = |count: u32| Interval::of_median(&(1..=count).map(f64::from).collect::<Vec<_>>());
        assert_eq!(up_to(5), None);
        let interval = |median, low, high| Some(Interval { median, low, high });
        assert_eq!(up_to(6), interval(3.5, 1.0, 6.0));
        assert_eq!(up_to(8), interval(4.5, 1.0, 8.0));
        // One outlier on either side no longer counts from nine on: 96.1 % between the second and the eighth.
        assert_eq!(up_to(9), interval(5.0, 2.0, 8.0));
        assert_eq!(up_to(20), interval(10.5, 6.0, 15.0));
        assert_eq!(Interval::of_median(&[]), None);
    }

    #[test]
    fn a_quantile_is_a_value_that_occurred() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (quantile(&sorted, 0.5), quantile(&sorted, 0.99), quantile(&sorted, 1.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!((quantile(&[4.0], 0.0), quantile(&[], 0.5)), (4.0, 0.0));
    }
}
