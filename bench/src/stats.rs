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

/// The ratio of two measurements of the same round, round by round.
///
/// A pair whose second value is not above zero has no ratio. What slows the machine for a while hits both of a pair,
/// so the median of these ratios is steadier than the ratio of two medians.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Option<Spread> {
    let pairs = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
    Spread::of(pairs.map(|(ours, theirs)| ours / theirs))
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
    fn a_quantile_is_a_value_that_occurred() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (quantile(&sorted, 0.5), quantile(&sorted, 0.99), quantile(&sorted, 1.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!((quantile(&[4.0], 0.0), quantile(&[], 0.5)), (4.0, 0.0));
    }
}
