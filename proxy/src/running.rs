//! Which configuration is in force, and what outlives every one of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::names::Names;
use crate::pulse::Pulse;
use crate::session_log::SessionLog;
use crate::shared::Shared;

/// The configuration that runs now.
pub(crate) struct Running {
    current: ArcSwap<Shared>,
    pub(crate) names: Arc<Names>,
    reload_failed: AtomicBool,
    /// When the last good configuration was put in force, in seconds since 1970.
    loaded_at: AtomicU64,
    /// Whether the operator's orders are with a new process already, which does not serve yet.
    handing_over: AtomicBool,
    /// When this phase is over, if that is known.
    phase_ends: Mutex<Option<Instant>>,
    /// What is known of the groups' last minutes.
    pub(crate) pulse: Pulse,
    /// Where sessions are logged when they have ended, if they are.
    pub(crate) session_log: Option<SessionLog>,
}

impl Running {
    pub(crate) fn new(first: Arc<Shared>, session_log: Option<SessionLog>) -> Self {
        let running = Self {
            names: Arc::clone(&first.names),
            current: ArcSwap::new(first),
            reload_failed: AtomicBool::default(),
            loaded_at: AtomicU64::default(),
            handing_over: AtomicBool::default(),
            phase_ends: Mutex::default(),
            pulse: Pulse::default(),
            session_log,
        };
        running.note_reload(true);
        running
    }

    /// The configuration for a session that begins now.
    pub(crate) fn load(&self) -> Arc<Shared> {
        self.current.load_full()
    }

    /// From now on `next` is the configuration.
    pub(crate) fn replace(&self, next: Arc<Shared>) {
        self.current.store(next);
    }

    /// Takes note of when the phase is over.
    pub(crate) fn set_phase_end(&self, at: Instant) {
        *self.phase_ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// How long the phase still lasts at most, if that is known.
    pub(crate) fn phase_left(&self) -> Option<Duration> {
        let ends = *self.phase_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Takes note that the operator's orders are with a new process, or that it has failed.
    pub(crate) fn set_handing_over(&self, handing_over: bool) {
        self.handing_over.store(handing_over, Ordering::Relaxed);
    }

    /// Whether an order would be lost on the new process.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Relaxed)
    }

    /// Takes note of how a reload went.
    pub(crate) fn note_reload(&self, good: bool) {
        self.reload_failed.store(!good, Ordering::Relaxed);
        if good {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.loaded_at.store(now.as_secs(), Ordering::Relaxed);
        }
    }

    /// Whether the last reload was good, and when there was a good one, in seconds since 1970. The start is one.
    pub(crate) fn last_reload(&self) -> (bool, u64) {
        (!self.reload_failed.load(Ordering::Relaxed), self.loaded_at.load(Ordering::Relaxed))
    }
}
