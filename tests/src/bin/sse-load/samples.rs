//! What is measured about tokens, and its percentiles.

use std::time::Duration;

use serde::Serialize;

/// Every token's time on the way, and by how much the gap before it grew on the way.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    delays: Vec<Duration>,
    growths: Vec<Duration>,
}

/// What the reader reports.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) streams: usize,
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
    /// From sent to received, in microseconds.
    delay_p50_us: f64,
    delay_p99_us: f64,
    /// How much longer the gap between two tokens was when received than when sent, in microseconds.
    gap_p50_us: f64,
    gap_p99_us: f64,
}

impl Samples {
    /// A token that was `delay` on its way, and the one before it in its stream `before`.
    pub(crate) fn add(&mut self, delay: Duration, before: Duration) {
        self.delays.push(delay);
        // A gap that shrank follows one that grew, and hurts nobody.
        self.growths.push(delay.saturating_sub(before));
    }

    /// How many tokens there were.
    pub(crate) fn len(&self) -> usize {
        self.delays.len()
    }

    /// All of it in a few numbers.
    pub(crate) fn report(mut self, streams: usize, time: Duration) -> Report {
        self.delays.sort_unstable();
        self.growths.sort_unstable();
        Report {
            streams,
            tokens: self.delays.len(),
            seconds: time.as_secs_f64(),
            delay_p50_us: percentile(&self.delays, 50),
            delay_p99_us: percentile(&self.delays, 99),
            gap_p50_us: percentile(&self.growths, 50),
            gap_p99_us: percentile(&self.growths, 99),
        }
    }
}

/// The smallest value that so many percent do not exceed, in microseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(0.0, |value| value.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&values, 50).round(), 100.0);
        assert_eq!(percentile(&values, 99).round(), 198.0);
        assert_eq!(percentile(&values[..1], 99).round(), 1.0);
        assert_eq!(percentile(&[], 99), 0.0);
    }

    #[test]
    fn only_growing_gaps_count() {
        let mut samples = Samples::default();
        samples.add(Duration::from_micros(30), Duration::from_micros(10));
        samples.add(Duration::from_micros(10), Duration::from_micros(30));
        assert_eq!(samples.growths, [Duration::from_micros(20), Duration::ZERO]);
    }
}
