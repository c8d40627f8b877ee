//! What systemd and the daemon tell each other (sd_notify(3), sd_listen_fds(3)); all of it is silent elsewhere.
//!
//! Tasks: one that tells systemd's status line, one that answers its watchdog while the workers turn. Both end when the
//! [`Service`] is dropped; cancelling them loses a message at most.

pub(crate) mod activation;
mod watchdog;

use std::env;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use crate::admin::status;
use crate::running::Running;
use crate::worker::Phase;

pub(crate) use self::watchdog::{Heart, Heartbeat};

/// How often the status line is looked at; it is sent only when it has changed. People read it.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// What the end takes beyond the drain: the resets of what is left, and the workers' last looks.
const END_MARGIN: Duration = Duration::from_secs(10);

/// A daemon that serves, as systemd sees it.
pub(crate) struct Service {
    tasks: Vec<AbortOnDropHandle<()>>,
    /// Whether this is the process that systemd listens to.
    speaks: bool,
}

impl Service {
    /// Tells that the daemon serves, and goes on telling how it is. `heart` beats in its workers.
    pub(crate) fn ready(running: &Arc<Running>, phase: &watch::Receiver<Phase>, heart: Heart) -> Self {
        // After an upgrade systemd has yet to learn which process is the service.
        tell(&[NotifyState::MainPid(process::id()), NotifyState::Ready, NotifyState::Status(&summary(running, phase))]);
        let mut tasks = Vec::new();
        if env::var_os("NOTIFY_SOCKET").is_some() {
            tasks.push(tokio::spawn(tell_status(Arc::clone(running), phase.clone())));
        }
        if let Some(period) = sd_notify::watchdog_enabled() {
            info!(?period, "systemd's watchdog is answered while the workers turn");
            tasks.push(tokio::spawn(heart.keep_beating(period)));
        }
        Self { tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(), speaks: true }
    }

    /// Tells that a reload has begun.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!("systemd does not learn of the reload: {error}"),
        }
    }

    /// Tells that a reload is over, for good or ill.
    pub(crate) fn reloaded(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Tells that the daemon ends within `drain`.
    pub(crate) fn stopping(&self, drain: Duration) {
        let limit = u32::try_from((drain + END_MARGIN).as_micros()).unwrap_or(u32::MAX);
        self.tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(limit)]);
    }

    /// Says nothing more: the process that took over speaks now.
    pub(crate) fn hand_over(&mut self) {
        self.tasks.clear();
        self.speaks = false;
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.speaks {
            tell(states);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Nothing depends on it here; systemd has its own timeouts for what it does not hear.
    if let Err(error) = sd_notify::notify(states) {
        debug!("systemd cannot be told: {error}");
    }
}

async fn tell_status(running: Arc<Running>, mut phase: watch::Receiver<Phase>) {
    let mut told = String::new();
    let mut ticks = interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = phase.changed() => {}
        }
        let now = summary(&running, &phase);
        if now != told {
            tell(&[NotifyState::Status(&now)]);
            told = now;
        }
    }
}

/// One line on how the daemon is.
fn summary(running: &Running, phase: &watch::Receiver<Phase>) -> String {
    let status = status::status(running, *phase.borrow());
    let able = status.groups.iter().filter(|group| group.standing == "able").count();
    let targets = || status.groups.iter().flat_map(|group| &group.targets);
    let up = targets().filter(|target| target.percent > 0).count();
    let sessions: u64 = targets().map(|target| u64::from(target.sessions)).sum();
    let of = (status.groups.len(), targets().count());
    let reload = if status.last_reload_good { "" } else { "; the last reload failed" };
    format!("{}: {able} of {} groups, {up} of {} targets, {sessions} sessions{reload}", status.phase, of.0, of.1)
}
