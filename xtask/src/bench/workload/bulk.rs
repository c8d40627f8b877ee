//! As many bytes as possible, by iperf3.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::contender::{Running, Service};
use crate::bench::lab::Lab;
use crate::bench::machine::CpuTime;
use crate::bench::metric::{Metric, Sample};
use crate::bench::process;

/// iperf3 connects and waits for its server for longer than the window at most this long.
const GRACE: Duration = Duration::from_secs(20);

/// The server takes one test at a time and needs a moment to be ready for the next, the more so behind a proxy that
/// still ends the connections of the last one.
const ATTEMPTS: usize = 5;

pub(super) fn run(lab: &Lab, running: &Running, upload: bool, flows: u16, window: Duration) -> Result<Vec<Sample>> {
    let address = running.address(Service::Bulk);
    let mut attempt = 1;
    loop {
        let mut iperf = lab.net.client.command("iperf3");
        iperf.args(["--json", "--client", &address.ip().to_string(), "--port", &address.port().to_string()]);
        iperf.args(["--time", &window.as_secs().to_string(), "--parallel", &flows.to_string()]);
        if !upload {
            iperf.arg("--reverse");
        }
        let before = CpuTime::read()?;
        match process::run("iperf3", &mut iperf, window + GRACE) {
            Ok(report) => {
                let busy = CpuTime::read()?.since(before);
                let (bytes, seconds) = received(&report).context("cannot read the report of iperf3")?;
                return Ok(vec![
                    Sample::new(Metric::Throughput, bytes * 8.0 / seconds / 1e9),
                    Sample::new(Metric::BytesPerCpu, bytes / 1e9 / busy.as_secs_f64()),
                ]);
            }
            Err(_) if attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Bytes that arrived, and in how many seconds.
fn received(report: &str) -> Option<(f64, f64)> {
    let report: Value = serde_json::from_str(report).ok()?;
    let sum = &report["end"]["sum_received"];
    Some((sum["bytes"].as_f64()?, sum["seconds"].as_f64().filter(|seconds| *seconds > 0.0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_counts() {
        let report = r#"{"end": {"sum_sent": {"bytes": 9, "seconds": 1}, "sum_received": {"bytes": 8, "seconds": 2}}}"#;
        assert_eq!(received(report), Some((8.0, 2.0)));
        assert_eq!(received(r#"{"error": "the server is busy"}"#), None);
    }
}
