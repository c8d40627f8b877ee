//! What landbridge promises against HAProxy with splice, in its default configuration.

use std::fmt;

use serde::Serialize;

use super::contender::Contender;
use super::metric::Metric;
use super::workload::Workload;

/// A limit for the median of the ratios.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Requirement {
    AtLeast(f64),
    AtMost(f64),
}

impl Requirement {
    /// Whether a ratio is good enough.
    pub(crate) fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(limit) => ratio >= limit,
            Self::AtMost(limit) => ratio <= limit,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(limit) => formatter.pad(&format!(">= {limit:.1}")),
            Self::AtMost(limit) => formatter.pad(&format!("<= {limit:.1}")),
        }
    }
}

/// The requirement on a cell, if there is one.
pub(crate) fn requirement(workload: Workload, metric: Metric, peer: Contender) -> Option<Requirement> {
    if peer != Contender::Haproxy {
        return None;
    }
    match (workload, metric) {
        (Workload::Bulk { .. }, Metric::BytesPerCpu) => Some(Requirement::AtLeast(1.5)),
        (Workload::Requests { connections: 1 | 8, .. }, Metric::RequestRate) => Some(Requirement::AtLeast(1.2)),
        (Workload::Requests { .. } | Workload::Connects, Metric::RequestRate) => Some(Requirement::AtLeast(1.0)),
        (Workload::Streams { count: 1000 }, Metric::OwnCpu) => Some(Requirement::AtMost(0.7)),
        (Workload::Streams { count: 1000 }, Metric::GapP99) | (Workload::Idle { .. }, Metric::SessionMemory) => {
            Some(Requirement::AtMost(1.0))
        }
        _ => None,
    }
}

/// The metric that stands for a workload in the chart.
pub(crate) fn headline(workload: Workload) -> Metric {
    match workload {
        Workload::Bulk { .. } => Metric::BytesPerCpu,
        Workload::Requests { .. } | Workload::Connects => Metric::RequestRate,
        Workload::Streams { .. } => Metric::OwnCpu,
        Workload::Idle { .. } => Metric::SessionMemory,
        Workload::Stalled => Metric::StalledMemory,
        Workload::Failover(_) => Metric::Takeover,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_peer_is_held_against() {
        let bulk = Workload::Bulk { upload: false, flows: 1 };
        assert_eq!(requirement(bulk, Metric::BytesPerCpu, Contender::Haproxy), Some(Requirement::AtLeast(1.5)));
        assert_eq!(requirement(bulk, Metric::BytesPerCpu, Contender::Nginx), None);
        assert_eq!(requirement(bulk, Metric::Throughput, Contender::Haproxy), None);
    }

    #[test]
    fn limits_are_met_at_the_limit() {
        assert!(Requirement::AtLeast(1.2).met(1.2) && !Requirement::AtLeast(1.2).met(1.19));
        assert!(Requirement::AtMost(0.7).met(0.7) && !Requirement::AtMost(0.7).met(0.71));
    }
}
