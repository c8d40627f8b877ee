//! Medians, ranges and ratios: what is said about a handful of noisy numbers.

use serde::Serialize;

/// The middle and the extremes of some values.
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
        let (&low, &high) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted.get(middle.wrapping_sub(1)).copied().unwrap_or(low), sorted[middle])
        };
        Some(Self { median, low, high, count: sorted.len() })
    }
}

/// The quotient of two measurements; `None` where none has a meaning: measurements are positive, and one that is not
/// (a difference of two noisy ones) says nothing.
pub(crate) fn ratio(ours: f64, theirs: f64) -> Option<f64> {
    (ours > 0.0 && theirs > 0.0).then(|| ours / theirs).filter(|ratio| ratio.is_finite())
}

/// How far apart two measurements of the same thing were at worst, as a factor of at least 1.
pub(crate) fn spread(ratios: &[f64]) -> Option<f64> {
    ratios.iter().map(|ratio| ratio.max(1.0 / ratio)).max_by(f64::total_cmp)
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
    fn a_ratio_needs_two_positive_numbers() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        for (ours, theirs) in [(1.0, 0.0), (0.0, 1.0), (-1.0, 2.0), (1.0, -2.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0)]
        {
            assert_eq!(ratio(ours, theirs), None, "{ours} / {theirs}");
        }
    }

    #[test]
    fn the_spread_counts_both_ways() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[1.1, 0.5, 1.0]), Some(2.0));
        assert!(within(1.9, 2.0) && within(0.51, 2.0));
        assert!(!within(2.1, 2.0) && !within(0.49, 2.0));
    }
}
