//! What all workers share: the configuration, whose turn it is, and the counters.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landbridge_core::select::{GroupSpec, NoTarget, Selector, TargetId, TargetSpec};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{Config, Group, Target};
use crate::stats::Stats;

/// A running configuration.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) stats: Stats,
    /// One lock for all choices: they take some hundred nanoseconds, happen once or twice in a session's life, and only
    /// together are weights and limits exact.
    selector: Mutex<Selector>,
    listeners: Vec<ListenerState>,
    failing: Vec<Vec<Transition>>,
}

struct ListenerState {
    places: Arc<Semaphore>,
    refusing: Transition,
}

/// Tells whether something is true that was not before, so that it is logged once per change.
#[derive(Default)]
pub(crate) struct Transition(AtomicBool);

impl Transition {
    /// Whether `now` is a change.
    pub(crate) fn set(&self, now: bool) -> bool {
        // The plain load keeps the cache line shared while nothing changes.
        self.0.load(Ordering::Relaxed) != now && self.0.swap(now, Ordering::Relaxed) != now
    }
}

impl Shared {
    pub(crate) fn new(config: Config, workers: usize) -> Self {
        let groups = config.groups.iter().map(group_spec).collect();
        let listeners = config.listeners.iter().map(|listener| listener.groups.clone()).collect();
        // The seed spreads the choices of several daemons; without a random one they are merely alike.
        let seed = SysRng.try_next_u64().unwrap_or_default();
        Self {
            stats: Stats::new(&config, workers),
            selector: Mutex::new(Selector::new(groups, listeners, seed)),
            listeners: config
                .listeners
                .iter()
                .map(|listener| ListenerState {
                    places: Arc::new(Semaphore::new(listener.max_connections as usize)),
                    refusing: Transition::default(),
                })
                .collect(),
            failing: config.groups.iter().map(|g| g.targets.iter().map(|_| Transition::default()).collect()).collect(),
            config,
        }
    }

    /// A place among the `max_connections` of `listener`; `None` if it is full.
    pub(crate) fn admit(&self, listener: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.listeners[listener].places).try_acquire_owned().ok()
    }

    /// Chooses a target and counts the session to it until the [`Lease`] is dropped.
    pub(crate) fn select(
        self: &Arc<Self>,
        listener: usize,
        client: IpAddr,
        tried: &[TargetId],
    ) -> Result<Lease, NoTarget> {
        let id = self.selector().select(listener, client, tried)?;
        Ok(Lease { shared: Arc::clone(self), id })
    }

    /// Whether some target of some listener can take a session now.
    pub(crate) fn is_able(&self) -> bool {
        let selector = self.selector();
        (0..self.config.listeners.len()).any(|listener| selector.is_able(listener))
    }

    /// Sessions that `id` has now.
    pub(crate) fn sessions(&self, id: TargetId) -> u32 {
        self.selector().sessions(id)
    }

    /// The group and the target of `id`.
    pub(crate) fn target(&self, id: TargetId) -> (&Group, &Target) {
        let group = &self.config.groups[id.group];
        (group, &group.targets[id.target])
    }

    /// Whether `listener` refuses sessions for want of a target.
    pub(crate) fn refusing(&self, listener: usize) -> &Transition {
        &self.listeners[listener].refusing
    }

    /// Whether the last connect to `id` failed.
    pub(crate) fn failing(&self, id: TargetId) -> &Transition {
        &self.failing[id.group][id.target]
    }

    fn selector(&self) -> MutexGuard<'_, Selector> {
        // A panic inside a choice leaves counts at worst off by one.
        self.selector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A target with a session counted to it.
pub(crate) struct Lease {
    shared: Arc<Shared>,
    id: TargetId,
}

impl Lease {
    pub(crate) fn id(&self) -> TargetId {
        self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.selector().release(self.id);
    }
}

fn group_spec(group: &Group) -> GroupSpec {
    let target = |target: &Target| TargetSpec {
        address: target.address,
        weight: target.weight,
        max_sessions: target.max_connections,
    };
    GroupSpec {
        tier: group.tier,
        weight: group.weight,
        balance: group.balance,
        targets: group.targets.iter().map(target).collect(),
    }
}
