//! Probes: each target that has a health check is asked again and again, over connections of their own.
//!
//! One task per target on the supervisor's runtime ([`run`]); cancelling it closes the probe that is on its way.

mod http;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landbridge_core::failover::AdminState;
use landbridge_core::select::TargetId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{Group, HealthCheck, ProbeKind};
use crate::net::dial::{DialError, FailureReason, Opening, dial};
use crate::net::proxy_protocol::{self, Endpoints};
use crate::shared::Shared;
use crate::stats::Counter;
use http::AnswerError;

/// How soon a target that is disabled is looked at again.
const DISABLED_PAUSE: Duration = Duration::from_secs(1);

/// Why a probe was bad.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The PROXY header that the group's targets expect could not be sent.
    #[error("cannot send the PROXY header: {0}")]
    Header(#[source] std::io::Error),
    /// A connection, but not the answer that was expected.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Not done in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Why a probe was bad, as the metric label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// No connection.
    Connect(FailureReason),
    /// The answer was not HTTP, or ended early.
    Protocol,
    /// Another status code than expected.
    Status,
    /// The body does not contain what it must.
    Body,
}

impl ProbeFailure {
    /// All reasons, in the order of their counters.
    pub(crate) const ALL: [Self; 8] = [
        Self::Connect(FailureReason::Refused),
        Self::Connect(FailureReason::Timeout),
        Self::Connect(FailureReason::Unreachable),
        Self::Connect(FailureReason::Local),
        Self::Connect(FailureReason::Other),
        Self::Protocol,
        Self::Status,
        Self::Body,
    ];

    /// The label's value.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connect(reason) => reason.label(),
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::Body => "body",
        }
    }
}

impl ProbeError {
    /// The class of this error.
    pub(crate) fn failure(&self) -> ProbeFailure {
        match self {
            Self::Dial(error) => ProbeFailure::Connect(error.reason()),
            Self::Timeout(_) => ProbeFailure::Connect(FailureReason::Timeout),
            Self::Header(_) => ProbeFailure::Connect(FailureReason::Other),
            Self::Answer(AnswerError::Status(_)) => ProbeFailure::Status,
            Self::Answer(AnswerError::Body(_)) => ProbeFailure::Body,
            Self::Answer(AnswerError::Http(_)) => ProbeFailure::Protocol,
        }
    }
}

/// What was counted of a target's probes.
#[derive(Debug, Default)]
pub(crate) struct ProbeStats {
    last_nanos: AtomicU64,
    failures: [Counter; ProbeFailure::ALL.len()],
}

impl ProbeStats {
    /// Takes note of a probe.
    pub(crate) fn record(&self, result: &Result<(), ProbeError>, took: Duration) {
        self.last_nanos.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Err(error) = result {
            self.failures(error.failure()).add(1);
        }
    }

    /// How long the last probe took; zero before the first.
    pub(crate) fn last(&self) -> Duration {
        Duration::from_nanos(self.last_nanos.load(Ordering::Relaxed))
    }

    /// Bad probes because of `failure`.
    pub(crate) fn failures(&self, failure: ProbeFailure) -> &Counter {
        let index = ProbeFailure::ALL.iter().position(|&known| known == failure);
        &self.failures[index.unwrap_or_default()]
    }
}

/// Probes `id` for as long as it is polled; returns at once if its group has no health check, or it has no address.
pub(crate) async fn run(shared: Arc<Shared>, id: TargetId) {
    let (group, target) = shared.target(id);
    let Some(check) = group.health.as_ref().filter(|_| target.is_resolved()) else { return };
    let mut address = target.address;
    if let Some(port) = check.port {
        address.set_port(port);
    }
    // A target whose health is known from before a reload waits for its turn.
    let mut due = if shared.is_known(id) { shared.next_probe(id) } else { Some(Instant::now()) };
    let mut ended = Instant::now();
    while let Some(next) = due {
        tokio::select! {
            () = sleep_until(next) => {}
            // Traffic failed on it: look at once, but not more often than at any other time of doubt.
            () = shared.state(id).suspicion.notified() => sleep_until(next.min(ended + check.fast_interval)).await,
        }
        if shared.admin_state(id) == AdminState::Disabled {
            due = Some(Instant::now() + DISABLED_PAUSE);
            continue;
        }
        let since = Instant::now();
        let result = probe(address, group, check).await;
        ended = Instant::now();
        shared.probed(id, &result, ended - since);
        due = shared.next_probe(id);
    }
}

/// Asks `address` once, within the check's timeout.
async fn probe(address: SocketAddr, group: &Group, check: &HealthCheck) -> Result<(), ProbeError> {
    let asked = async {
        let mut stream = dial(address, &group.dial, &group.tcp, Opening::default()).await?;
        if check.port.is_none() {
            send_header(&mut stream, group).await.map_err(ProbeError::Header)?;
        }
        match &check.kind {
            ProbeKind::Tcp => Ok(()),
            ProbeKind::Http(request) => Ok(http::ask(stream, address, request).await?),
        }
    };
    timeout(check.timeout, asked).await.unwrap_or(Err(ProbeError::Timeout(check.timeout)))
}

/// A target that expects a PROXY header takes nothing else first; the probe speaks for itself in it.
async fn send_header(stream: &mut TcpStream, group: &Group) -> std::io::Result<()> {
    let Some(version) = group.send_proxy else { return Ok(()) };
    let origin = Endpoints { source: stream.local_addr()?, destination: stream.peer_addr()? };
    stream.write_all(&proxy_protocol::encode(version, origin)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_own_label_and_counter() {
        let stats = ProbeStats::default();
        for failure in ProbeFailure::ALL {
            assert_eq!(stats.failures(failure).get(), 0, "{failure:?} shares a counter");
            stats.failures(failure).add(1);
        }
        let labels: std::collections::BTreeSet<_> = ProbeFailure::ALL.iter().map(|failure| failure.label()).collect();
        assert_eq!(labels.len(), ProbeFailure::ALL.len());
    }
}
