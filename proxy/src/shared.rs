//! What all workers share: one generation of the configuration, what is known of its targets, and the counters.
//!
//! A [`Shared`] never changes its configuration; a reload makes the next one, which takes over what is known and counted
//! ([`Shared::next`]), and puts it in the place of the former ([`crate::running::Running`]). Sessions keep the one that they
//! began with.

mod generation;
mod lease;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landbridge_core::orders::Orders;
use landbridge_core::pool::Pool;
use landbridge_core::select::TargetId;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::lease::Lease;
use crate::config::{Config, Group, Target};
use crate::names::Names;
use crate::places::{Place, Places};
use crate::stats::Stats;
use crate::target::{TargetState, Transition};

/// One generation of the configuration.
pub(crate) struct Shared {
    /// Counts the generations from 0.
    pub(crate) generation: u64,
    pub(crate) config: Config,
    pub(crate) stats: Stats,
    /// One lock for all choices: they take some hundred nanoseconds, happen once or twice in a session's life, and only
    /// together are weights and limits exact.
    pool: Mutex<Pool>,
    /// The moment that the pool's times are counted from.
    epoch: Instant,
    /// What the operator has ordered; the generations have it together.
    pub(crate) orders: Arc<Mutex<Orders>>,
    /// Told when the pool's next deadline may have moved.
    pub(crate) changed: Notify,
    /// Told when a probe has ended.
    pub(crate) verdict: Notify,
    listeners: Vec<ListenerState>,
    targets: Vec<Vec<Arc<TargetState>>>,
    /// Told when a target that was full has a place again, or a group has changed; the generations have it together.
    vacancy: Arc<Notify>,
    /// The DNS names of targets; the generations have them together.
    pub(crate) names: Arc<Names>,
}

#[derive(Clone)]
struct ListenerState {
    name: Arc<str>,
    places: Arc<Places>,
    refusing: Arc<Transition>,
    /// The clients that wait for a place stand in line for this.
    line: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    /// The listener that has `address`.
    pub(crate) fn listener_at(&self, address: SocketAddr) -> Option<usize> {
        self.config.listeners.iter().position(|listener| listener.bind.contains(&address))
    }

    /// A place among the `max_connections` of `listener`; `None` if it is full.
    pub(crate) fn admit(&self, listener: usize) -> Option<Place> {
        self.listeners[listener].places.take(self.config.listeners[listener].max_connections)
    }

    /// Sessions that `listener` has now.
    pub(crate) fn taken(&self, listener: usize) -> u32 {
        self.listeners[listener].places.taken()
    }

    /// Whether some target of some listener can take a session now.
    pub(crate) fn is_able(&self) -> bool {
        let pool = self.pool();
        (0..self.config.listeners.len()).any(|listener| pool.selector().is_able(listener))
    }

    /// Sessions that `id` has now.
    pub(crate) fn sessions(&self, id: TargetId) -> u32 {
        self.state(id).load.sessions()
    }

    /// The group and the target of `id`.
    pub(crate) fn target(&self, id: TargetId) -> (&Group, &Target) {
        let group = &self.config.groups[id.group];
        (group, &group.targets[id.target])
    }

    /// What lives as long as the target `id`.
    pub(crate) fn state(&self, id: TargetId) -> &Arc<TargetState> {
        &self.targets[id.group][id.target]
    }

    /// Whether `listener` refuses sessions for want of a target.
    pub(crate) fn refusing(&self, listener: usize) -> &Transition {
        &self.listeners[listener].refusing
    }

    /// What is known and chosen of the targets.
    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        // A panic inside a choice leaves counts at worst off by one.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time as the pool counts it.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The moment that the pool calls `time`.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.epoch + time
    }
}
