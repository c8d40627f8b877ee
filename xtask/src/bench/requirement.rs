//! What landbridge promises in its default configuration, against HAProxy with splice and against plain forwarding.

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
            Self::AtLeast(limit) => formatter.pad(&format!(">= {limit:?}")),
            Self::AtMost(limit) => formatter.pad(&format!("<= {limit:?}")),
        }
    }
}

/// The requirement on a cell, if there is one.
pub(crate) fn requirement(workload: Workload, metric: Metric, peer: Contender) -> Option<Requirement> {
    use Requirement::{AtLeast, AtMost};
    let requirement = match (peer, workload, metric) {
        (Contender::Haproxy, Workload::Bulk { .. }, Metric::BytesPerCpu) => AtLeast(2.0),
        (Contender::Haproxy, Workload::Requests { connections: 8, .. }, Metric::RequestRate) => AtLeast(2.0),
        (Contender::Haproxy, Workload::Requests { connections: 1, .. }, Metric::RequestRate) => AtLeast(1.2),
        (Contender::Haproxy, Workload::Requests { .. } | Workload::Connects, Metric::RequestRate) => AtLeast(1.0),
        (Contender::Haproxy, Workload::Streams { count: 1000 }, Metric::OwnCpu) => AtMost(0.2),
        (Contender::Haproxy, Workload::Streams { count: 1000 }, Metric::GapP99) => AtMost(1.0),
        (Contender::Haproxy, Workload::Idle { .. }, Metric::SessionMemory) => AtMost(1.0),
        (Contender::Forward, Workload::Bulk { .. }, Metric::BytesPerCpu) => AtLeast(0.9),
        (Contender::Forward, Workload::Requests { .. }, Metric::RequestRate) => AtLeast(0.9),
        (Contender::Forward, Workload::Requests { .. }, Metric::LatencyP99) => AtMost(1.15),
        _ => return None,
    };
    Some(requirement)
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
    fn each_peer_is_held_against_what_was_promised() {
        let bulk = Workload::Bulk { upload: false, flows: 1 };
        assert_eq!(requirement(bulk, Metric::BytesPerCpu, Contender::Haproxy), Some(Requirement::AtLeast(2.0)));
        assert_eq!(requirement(bulk, Metric::BytesPerCpu, Contender::Forward), Some(Requirement::AtLeast(0.9)));
        assert_eq!(requirement(bulk, Metric::BytesPerCpu, Contender::Nginx), None);
        assert_eq!(requirement(bulk, Metric::Throughput, Contender::Haproxy), None);
    }

    #[test]
    fn limits_are_met_at_the_limit() {
        assert!(Requirement::AtLeast(1.2).met(1.2) && !Requirement::AtLeast(1.2).met(1.19));
        assert!(Requirement::AtMost(0.7).met(0.7) && !Requirement::AtMost(0.7).met(0.71));
        assert_eq!(Requirement::AtMost(1.15).to_string(), "<= 1.15");
    }
}
