//! The workloads: what each one does with a contender, and what it measures.

mod bulk;
mod failover;
mod idle;
mod requests;
mod stalled;
mod streams;

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::contender::{Contender, Running};
use super::lab::{Lab, TOKENS_PER_SECOND};
use super::metric::{Metric, Sample};

/// One way to load a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// As many bytes as possible.
    Bulk { upload: bool, flows: u16 },
    /// Requests and answers of so many bytes over so many connections, one after the other on each.
    Requests { connections: u16, bytes: u32 },
    /// A connection for every request.
    Connects,
    /// Token streams.
    Streams { count: usize },
    /// Sessions that do nothing.
    Idle { count: usize },
    /// Sessions whose client stopped reading.
    Stalled,
    /// A target that dies.
    Failover(Death),
}

/// How a target dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Its process ends: the kernel resets what it had and refuses what comes.
    Process,
    /// Its host goes away: nothing answers any more.
    Host,
}

/// How thoroughly is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) quick: bool,
    /// How often each contender runs, if that was chosen.
    pub(crate) rounds: Option<u8>,
    /// Sessions that a proxy can hold at once.
    pub(crate) sessions: usize,
}

impl Effort {
    /// How long one run measures.
    pub(crate) fn window(self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 3 })
    }

    /// The same for token streams, which need enough tokens for a 99th percentile.
    pub(crate) fn stream_window(self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 5 })
    }

    /// How many rounds a workload has: those of wrk are short, and a 99th percentile and a difference of hundredths need many.
    pub(crate) fn rounds(self, workload: Workload) -> usize {
        let rounds = self.rounds.map_or(if self.quick { 3 } else { 5 }, usize::from);
        match workload {
            Workload::Requests { .. } | Workload::Connects => 4 * rounds,
            _ => rounds,
        }
    }

    /// All workloads.
    pub(crate) fn workloads(self) -> Vec<Workload> {
        let bulk = [(false, 1), (false, 16), (true, 1), (true, 16)];
        let mut workloads: Vec<_> = bulk.map(|(upload, flows)| Workload::Bulk { upload, flows }).into();
        let sizes: &[u32] = if self.quick { &[64] } else { &[64, 16 << 10] };
        for &bytes in sizes {
            workloads.extend([1, 8, 64].map(|connections| Workload::Requests { connections, bytes }));
        }
        workloads.push(Workload::Connects);
        let streams: &[usize] = if self.quick { &[1000] } else { &[1000, 5000] };
        workloads.extend(streams.iter().map(|&count| Workload::Streams { count }));
        workloads.push(Workload::Idle { count: if self.quick { 2000 } else { 10_000 }.min(self.sessions / 100 * 100) });
        workloads.push(Workload::Stalled);
        workloads.extend([Death::Process, Death::Host].map(Workload::Failover));
        workloads
    }
}

impl Workload {
    /// Whether `--only` means it: by its name, or by the beginning of its name up to a hyphen.
    pub(crate) fn is_called(self, name: &str) -> bool {
        let id = self.to_string();
        id.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// One sentence for the document.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Bulk { upload, flows } => {
                format!(
                    "iperf3, {flows} {}, {}",
                    plural(flows, "flow"),
                    if upload { "client to target" } else { "target to client" }
                )
            }
            Self::Requests { connections, bytes } => {
                format!(
                    "wrk, keep-alive, {connections} {}, answers of {bytes} bytes",
                    plural(connections, "connection")
                )
            }
            Self::Connects => "wrk, 32 clients, a new connection for each request".to_owned(),
            Self::Streams { count } => format!("{count} token streams, {TOKENS_PER_SECOND} tokens/s each"),
            Self::Idle { count } => format!("{count} sessions after one request each, per session"),
            Self::Stalled => format!("{} sessions whose client stopped reading, per session", stalled::SESSIONS),
            Self::Failover(Death::Process) => "the first target's process is killed".to_owned(),
            Self::Failover(Death::Host) => "the first target's host stops answering".to_owned(),
        }
    }

    /// Whether one instance serves all runs; else each run has a fresh one.
    pub(crate) fn shares_instance(self) -> bool {
        match self {
            Self::Bulk { .. } | Self::Requests { .. } | Self::Connects | Self::Streams { .. } => true,
            Self::Idle { .. } | Self::Stalled | Self::Failover(_) => false,
        }
    }

    /// Whether the contender can do it at all.
    pub(crate) fn suits(self, contender: Contender) -> bool {
        !(matches!(self, Self::Failover(_)) && contender == Contender::Forward)
    }

    /// Runs once.
    pub(crate) fn run(self, lab: &Lab, running: &Running, effort: Effort) -> Result<Vec<Sample>> {
        match self {
            Self::Bulk { upload, flows } => bulk::run(lab, running, upload, flows, effort.window()),
            Self::Requests { connections, bytes } => {
                requests::keep_alive(lab, running, connections, bytes, effort.window())
            }
            Self::Connects => requests::connects(lab, running, effort.window()),
            Self::Streams { count } => streams::run(lab, running, count, effort.stream_window()),
            Self::Idle { count } => idle::run(lab, running, count),
            Self::Stalled => stalled::run(lab, running, effort.window()),
            Self::Failover(death) => failover::run(lab, running, death),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::Bulk { upload, flows } => format!("bulk-{}-{flows}", if upload { "up" } else { "down" }),
            Self::Requests { connections, bytes } => format!("requests-{connections}-{bytes}"),
            Self::Connects => "connects".to_owned(),
            Self::Streams { count } => format!("streams-{count}"),
            Self::Idle { count } => format!("idle-{count}"),
            Self::Stalled => "stalled".to_owned(),
            Self::Failover(Death::Process) => "failover-process".to_owned(),
            Self::Failover(Death::Host) => "failover-host".to_owned(),
        };
        formatter.pad(&text)
    }
}

/// A word in the singular or the plural.
fn plural(count: u16, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// CPU milliseconds for each 1,000 of `count`.
fn cpu_per_thousand(busy: Duration, count: f64) -> Sample {
    Sample::new(Metric::Cpu, busy.as_secs_f64() * 1e3 / (count / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_its_beginning_selects() {
        let bulk = Workload::Bulk { upload: true, flows: 16 };
        for name in ["bulk", "bulk-up", "bulk-up-16"] {
            assert!(bulk.is_called(name), "{name}");
        }
        for name in ["bul", "bulk-up-1", "up"] {
            assert!(!bulk.is_called(name), "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Effort { quick: false, rounds: None, sessions: 10_000 }
            .workloads()
            .iter()
            .map(ToString::to_string)
            .collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
