//! Times by how long they took, as Prometheus wants them: written by one worker each, summed when somebody looks.

use std::fmt::Write as _;
use std::time::Duration;

use crate::stats::Counter;

/// Upper bounds of the buckets, in seconds. A round trip inside a data centre is below the first one, one through a VPN has
/// several around it, and connects give up after seconds; an answer may have to wait until a long prompt is processed. The same
/// for all histograms, so that dashboards compare them.
pub(crate) const BOUNDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Times that were seen by one worker.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One per bound, and one for what took longer.
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

impl Histogram {
    /// Something took that long.
    pub(crate) fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[BOUNDS.partition_point(|&bound| bound < seconds)].add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Writes the head of a histogram family.
pub(crate) fn describe(text: &mut String, name: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
}

/// Writes the series of one set of labels, which are already in the text format and not empty.
pub(crate) fn write<'a>(text: &mut String, name: &str, labels: &str, of: impl Iterator<Item = &'a Histogram> + Clone) {
    let mut count = 0;
    for (index, bound) in BOUNDS.iter().map(f64::to_string).chain([String::from("+Inf")]).enumerate() {
        count += of.clone().map(|histogram| histogram.buckets[index].get()).sum::<u64>();
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let micros: u64 = of.map(|histogram| histogram.micros.get()).sum();
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}", micros as f64 / 1e6);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let [first, second] = [Histogram::default(), Histogram::default()];
        for micros in [1, 500, 501, 1_000_000] {
            first.record(Duration::from_micros(micros));
        }
        second.record(Duration::from_mins(3));
        let mut text = String::new();
        write(&mut text, "x", "a=\"b\"", [&first, &second].into_iter());
        for line in [
            "x_bucket{a=\"b\",le=\"0.0005\"} 2",
            "x_bucket{a=\"b\",le=\"0.001\"} 3",
            "x_bucket{a=\"b\",le=\"0.5\"} 3",
            "x_bucket{a=\"b\",le=\"1\"} 4",
            "x_bucket{a=\"b\",le=\"120\"} 4",
            "x_bucket{a=\"b\",le=\"+Inf\"} 5",
            "x_sum{a=\"b\"} 181.001002",
            "x_count{a=\"b\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
