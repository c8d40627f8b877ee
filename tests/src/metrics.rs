//! Reading `/metrics`: the Prometheus text format, as far as landbridge uses it.

use std::str::FromStr;

use anyhow::{Context, Result};

/// All series of one scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Debug, Clone)]
struct Series {
    line: String,
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// The sum of the series of `name` that have these labels, among others; 0 when there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |series: &Series, label: &str, value: &str| {
            series.labels.iter().any(|(key, held)| key == label && held == value)
        };
        let matching = self.named(name).filter(|series| labels.iter().all(|(label, value)| has(series, label, value)));
        matching.map(|series| series.value).sum()
    }

    /// The lines of the series of `name`, for messages.
    pub fn lines(&self, name: &str) -> String {
        self.named(name).map(|series| series.line.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| series.name == name)
    }
}

impl FromStr for Metrics {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = samples.map(|line| Series::parse(line).with_context(|| format!("not a sample: {line}")));
        Ok(Self { series: series.collect::<Result<_>>()? })
    }
}

impl Series {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            None => (series, Vec::new()),
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
        };
        Some(Self { line: line.to_owned(), name: name.to_owned(), labels, value: value.parse().ok()? })
    }
}

/// Label values of landbridge are names and addresses, which hold neither quotes nor backslashes.
fn parse_labels(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split("\",").map(|pair| pair.strip_suffix('"').unwrap_or(pair));
    pairs.map(|pair| pair.split_once("=\"").map(|(key, value)| (key.to_owned(), value.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_add_up_over_the_labels_that_are_not_asked_for() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"[::1]:80\"} 2\na{x=\"2\",y=\"[::1]:80\"} 3\n\nb 0.5\n";
        let metrics: Metrics = text.parse().unwrap();
        assert_eq!(metrics.value("a", &[]), 5.0);
        assert_eq!(metrics.value("a", &[("y", "[::1]:80"), ("x", "2")]), 3.0);
        assert_eq!(metrics.value("a", &[("x", "3")]), 0.0);
        assert_eq!(metrics.value("b", &[]), 0.5);
    }

    #[test]
    fn what_is_not_a_sample_is_an_error() {
        assert!("a{x=1} 2".parse::<Metrics>().is_err());
        assert!("a two".parse::<Metrics>().is_err());
    }
}
