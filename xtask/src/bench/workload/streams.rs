//! Many token streams at once, by `sse-load` from the package of the tests.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::cpu_per_thousand;
use crate::bench::contender::{Running, Service};
use crate::bench::lab::Lab;
use crate::bench::machine::CpuTime;
use crate::bench::metric::{Metric, Sample};
use crate::child::Child;

/// Time for a proxy to get used to the streams before they are measured.
const SETTLE: &str = "1s";

#[derive(Deserialize)]
struct Report {
    tokens: f64,
    delay_p50_us: f64,
    delay_p99_us: f64,
    gap_p99_us: f64,
}

pub(super) fn run(lab: &Lab, running: &Running, count: usize, window: Duration) -> Result<Vec<Sample>> {
    let mut command = lab.net.client.command(&lab.tools.sse_load);
    command.args(["read", "--connect", &running.address(Service::Streams).to_string(), "--settle", SETTLE]);
    command.args(["--streams", &count.to_string(), "--measure", &format!("{}ms", window.as_millis())]);
    let mut reader = Child::start("sse-load", command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let output = reader.process.stdout.take().context("a pipe that was asked for is missing")?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || lines.next().context("sse-load ended early").and_then(|line| Ok(line?));

    let begin = line()?;
    if begin != "measuring" {
        bail!("sse-load says {begin:?}");
    }
    let before = CpuTime::read()?;
    let report = line()?;
    let busy = CpuTime::read()?.since(before);
    let report: Report = serde_json::from_str(&report).with_context(|| format!("sse-load says {report:?}"))?;
    Ok(vec![
        cpu_per_thousand(busy, report.tokens),
        Sample::new(Metric::DelayP50, report.delay_p50_us / 1e3),
        Sample::new(Metric::DelayP99, report.delay_p99_us / 1e3),
        Sample::new(Metric::GapP99, report.gap_p99_us / 1e3),
    ])
}
