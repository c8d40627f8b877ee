//! What is measured, in which unit, and which way is better.

use serde::Serialize;

/// One kind of number that a run yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// Goodput.
    Throughput,
    /// Goodput for the work of the whole machine.
    BytesPerCpu,
    /// Answers.
    RequestRate,
    /// Of answers, as the client sees it.
    LatencyP99,
    /// Work of the whole machine for 1,000 requests or tokens.
    Cpu,
    /// The same minus that of plain forwarding: what the proxy costs. Per GB for bulk.
    OwnCpu,
    /// A token's time on the way.
    DelayP50,
    /// The same of the slow ones.
    DelayP99,
    /// How much longer the gap between two tokens was when received than when sent.
    GapP99,
    /// The proxy's processes.
    ProcessMemory,
    /// Kernel objects and socket memory, minus those of plain forwarding.
    KernelMemory,
    /// Both.
    SessionMemory,
    /// What the machine loses to a session whose reader stopped, minus what it loses without a proxy.
    StalledMemory,
    /// From a target's death to the first answer of the other.
    Takeover,
    /// Requests without an answer meanwhile.
    LostRequests,
}

impl Metric {
    /// In tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::BytesPerCpu => "bytes for CPU",
            Self::RequestRate => "rate",
            Self::LatencyP99 => "latency p99",
            Self::Cpu => "CPU",
            Self::OwnCpu => "own CPU",
            Self::DelayP50 => "token delay p50",
            Self::DelayP99 => "token delay p99",
            Self::GapP99 => "added gap p99",
            Self::ProcessMemory => "process memory",
            Self::KernelMemory => "kernel memory",
            Self::SessionMemory => "memory in all",
            Self::StalledMemory => "memory",
            Self::Takeover => "takeover",
            Self::LostRequests => "lost requests",
        }
    }

    /// Of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::BytesPerCpu => "GB/CPU-s",
            Self::RequestRate => "1/s",
            Self::LatencyP99 | Self::DelayP50 | Self::DelayP99 | Self::GapP99 | Self::Takeover => "ms",
            Self::Cpu | Self::OwnCpu => "CPU-ms",
            Self::ProcessMemory | Self::KernelMemory | Self::SessionMemory | Self::StalledMemory => "KiB",
            Self::LostRequests => "",
        }
    }

    /// Whether more is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::Throughput | Self::BytesPerCpu | Self::RequestRate)
    }

    /// Whether its ratio to plain forwarding means anything.
    pub(crate) fn has_floor(self) -> bool {
        !matches!(
            self,
            Self::OwnCpu | Self::ProcessMemory | Self::KernelMemory | Self::SessionMemory | Self::StalledMemory
        )
    }
}

/// One number of one run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

impl Sample {
    pub(crate) fn new(metric: Metric, value: f64) -> Self {
        Self { metric, value }
    }
}
