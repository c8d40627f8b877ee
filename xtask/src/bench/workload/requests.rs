//! HTTP requests, by wrk.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cpu_per_thousand;
use crate::bench::contender::{Running, Service};
use crate::bench::lab::Lab;
use crate::bench::machine::CpuTime;
use crate::bench::metric::{Metric, Sample};
use crate::bench::process;

/// Clients that connect, ask and close, at once.
const CONNECTING: u16 = 32;

/// From here on the client needs more than one thread to keep up.
const BUSY: u16 = 32;

const GRACE: Duration = Duration::from_secs(10);

/// Requests over connections that stay.
pub(super) fn keep_alive(
    lab: &Lab,
    running: &Running,
    connections: u16,
    bytes: u32,
    window: Duration,
) -> Result<Vec<Sample>> {
    measure(wrk(lab, connections, window).arg(url(running, bytes)), window)
}

/// A connection for each request. Either side may close first; the target does.
pub(super) fn connects(lab: &Lab, running: &Running, window: Duration) -> Result<Vec<Sample>> {
    let mut wrk = wrk(lab, CONNECTING, window);
    measure(wrk.args(["--header", "Connection: close"]).arg(url(running, 64)), window)
}

fn wrk(lab: &Lab, connections: u16, window: Duration) -> Command {
    let threads = if connections < BUSY { 1 } else { 2 };
    let mut wrk = lab.net.client.command("wrk");
    wrk.arg("--latency").arg("--threads").arg(threads.to_string());
    wrk.arg("--connections").arg(connections.to_string()).arg(format!("--duration={}s", window.as_secs()));
    wrk
}

fn url(running: &Running, bytes: u32) -> String {
    format!("http://{}/{bytes}", running.address(Service::Http))
}

fn measure(wrk: &mut Command, window: Duration) -> Result<Vec<Sample>> {
    let before = CpuTime::read()?;
    let text = process::run("wrk", wrk, window + GRACE)?;
    let busy = CpuTime::read()?.since(before);
    let report = Report::parse(&text).with_context(|| format!("cannot read the report of wrk:\n{text}"))?;
    ensure!(report.failed == 0, "{} of {} requests failed:\n{text}", report.failed, report.requests);
    Ok(vec![
        Sample::new(Metric::RequestRate, report.rate),
        Sample::new(Metric::LatencyP99, report.p99.as_secs_f64() * 1e3),
        cpu_per_thousand(busy, report.requests),
    ])
}

/// What wrk says.
#[derive(Debug, PartialEq)]
struct Report {
    requests: f64,
    rate: f64,
    p99: Duration,
    failed: u64,
}

impl Report {
    fn parse(text: &str) -> Option<Self> {
        let after = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        let requests = text.lines().find(|line| line.contains(" requests in "))?.split_whitespace().next()?;
        // "Socket errors: connect 0, read 3, write 0, timeout 0" and "Non-2xx or 3xx responses: 7", only if there are any.
        let numbers = |line: Option<&str>| -> u64 {
            line.into_iter().flat_map(|line| line.split([' ', ','])).filter_map(|word| word.parse::<u64>().ok()).sum()
        };
        Some(Self {
            requests: requests.parse().ok()?,
            rate: after("Requests/sec:")?.parse().ok()?,
            p99: duration(after("99%")?)?,
            failed: numbers(after("Socket errors:")) + numbers(after("Non-2xx or 3xx responses:")),
        })
    }
}

/// A time as wrk writes it: "87.00us", "1.29ms", "1.01s".
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * factor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Running 1s test @ http://10.77.2.2:8000/64
  Latency Distribution
     50%   20.00us
     99%    1.25ms
  35123 requests in 1.10s, 10.00MB read
Requests/sec:  31930.00
Transfer/sec:      9.09MB
";

    #[test]
    fn the_report_of_wrk_is_read() {
        let report = Report::parse(TEXT).unwrap();
        let p99 = Duration::from_micros(1250);
        assert_eq!(report, Report { requests: 35123.0, rate: 31930.0, p99, failed: 0 });
    }

    #[test]
    fn failures_are_counted() {
        let errors = "  Socket errors: connect 1, read 20, write 0, timeout 3\n  Non-2xx or 3xx responses: 7\n";
        assert_eq!(Report::parse(&format!("{TEXT}{errors}")).unwrap().failed, 31);
        assert_eq!(Report::parse("unable to connect"), None);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("2.50s"), Some(Duration::from_millis(2500)));
        assert_eq!(duration("87.00us"), Some(Duration::from_micros(87)));
        assert_eq!(duration("87"), None);
    }
}
