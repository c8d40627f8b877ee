//! Medians, ranges and ratios: what is said about a handful of noisy numbers.

use serde::Serialize;

/// The middle of some values, and where the middle of many more would be with a confidence of 95 %: of five or fewer, which
/// cannot tell, between the extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// How many values there were.
    pub(crate) count: usize,
}

impl Summary {
    /// `None` without a value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (count, left_out) = (sorted.len(), outside_the_interval(sorted.len()));
        let mirrored = |index: usize| sorted.get((count - 1).checked_sub(index)?).copied();
        let (&low, high) = (sorted.get(left_out)?, mirrored(left_out)?);
        let median = f64::midpoint(sorted[count / 2], mirrored(count / 2)?);
        Some(Self { median, low, high, count })
    }

    /// How far the interval is from 1, as a factor of at least 1.
    pub(crate) fn spread(self) -> f64 {
        self.high.max(1.0 / self.low)
    }

    /// Whether the interval has 1 in it, so that it cannot be said which of two measurements is the larger.
    pub(crate) fn is_undecided(self) -> bool {
        (self.low..=self.high).contains(&1.0)
    }
}

/// How many values on each side of so many lie outside the interval that has their median in it with a confidence of 95 %. Each
/// value is as likely below the median as above it, so that the number of those below is binomial.
fn outside_the_interval(count: usize) -> usize {
    const ONE_SIDE: f64 = 0.025;
    let mut chance = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut sum = chance;
    let mut outside = 0;
    while sum <= ONE_SIDE {
        outside += 1;
        chance *= (count + 1 - outside) as f64 / outside as f64;
        sum += chance;
    }
    outside.saturating_sub(1)
}

/// The quotient of two measurements; `None` where none has a meaning: measurements are positive, and one that is not
/// (a difference of two noisy ones) says nothing.
pub(crate) fn ratio(ours: f64, theirs: f64) -> Option<f64> {
    (ours > 0.0 && theirs > 0.0).then(|| ours / theirs).filter(|ratio| ratio.is_finite())
}

/// Whether a ratio is nearer to 1 than the spread, so that it may come from chance alone.
pub(crate) fn within(ratio: f64, spread: f64) -> bool {
    ratio.max(1.0 / ratio) <= spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[7.0]).unwrap(), Summary { median: 7.0, low: 7.0, high: 7.0, count: 1 });
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap(), Summary { median: 2.0, low: 1.0, high: 3.0, count: 3 });
        assert_eq!(Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap().median, 2.5);
    }

    #[test]
    fn the_interval_is_the_one_of_the_sign_test() {
        // The usual tables of ranks: 6 of 20 values are on or outside each end, 10 of 30, 18 of 50.
        for (count, outside) in [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (20, 5), (30, 9), (50, 17)] {
            assert_eq!(outside_the_interval(count), outside, "{count}");
        }
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let Summary { low, high, .. } = Summary::of(&values).unwrap();
        assert_eq!((low, high), (6.0, 15.0));
    }

    #[test]
    fn a_ratio_needs_two_positive_numbers() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        for (ours, theirs) in [(1.0, 0.0), (0.0, 1.0), (-1.0, 2.0), (1.0, -2.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0)]
        {
            assert_eq!(ratio(ours, theirs), None, "{ours} / {theirs}");
        }
    }

    #[test]
    fn the_spread_counts_both_ways() {
        let spread = |ratios: &[f64]| Summary::of(ratios).unwrap().spread();
        assert_eq!((spread(&[1.1, 0.5, 1.0]), spread(&[1.1, 2.5, 1.0])), (2.0, 2.5));
        assert!(within(1.9, 2.0) && within(0.51, 2.0));
        assert!(!within(2.1, 2.0) && !within(0.49, 2.0));
    }

    #[test]
    fn an_interval_with_1_in_it_decides_nothing() {
        assert!(Summary::of(&[0.9, 1.2, 1.3]).unwrap().is_undecided());
        assert!(!Summary::of(&[1.1, 1.2, 1.3]).unwrap().is_undecided());
    }
}
