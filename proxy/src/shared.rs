//! What all workers share: one generation of the configuration, whose turn it is, and the counters.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::failover::GroupRules;
use landbridge_core::health::{EjectRules, ProbeRules};
use landbridge_core::pool::Pool;
use landbridge_core::select::{GroupSpec, NoTarget, TargetId, TargetSpec};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Group, Target};
use crate::stats::Stats;
use crate::target::{Entry, Handle, TargetState, Transition};

/// A running configuration.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) stats: Stats,
    /// One lock for all choices: they take some hundred nanoseconds, happen once or twice in a session's life, and only
    /// together are weights and limits exact.
    pool: Mutex<Pool>,
    /// The moment that the pool's times are counted from.
    epoch: Instant,
    /// Told when the pool's next deadline may have moved.
    pub(crate) changed: Notify,
    /// Told when a probe has ended.
    pub(crate) verdict: Notify,
    listeners: Vec<ListenerState>,
    targets: Vec<Vec<Arc<TargetState>>>,
}

struct ListenerState {
    name: Arc<str>,
    places: Arc<Semaphore>,
    refusing: Transition,
}

impl Shared {
    pub(crate) fn new(config: Config, workers: usize) -> Self {
        let targets: Vec<Vec<Arc<TargetState>>> =
            config.groups.iter().map(|group| group.targets.iter().map(|_| Arc::default()).collect()).collect();
        let groups = config.groups.iter().zip(&targets);
        let groups = groups.map(|(group, targets)| (group_spec(group, targets), group_rules(group))).collect();
        let listeners = config.listeners.iter().map(|listener| listener.groups.clone()).collect();
        // The seed spreads the choices of several daemons; without a random one they are merely alike.
        let seed = SysRng.try_next_u64().unwrap_or_default();
        Self {
            stats: Stats::new(&config, workers),
            pool: Mutex::new(Pool::new(groups, listeners, seed)),
            epoch: Instant::now(),
            changed: Notify::new(),
            verdict: Notify::new(),
            listeners: config
                .listeners
                .iter()
                .map(|listener| ListenerState {
                    name: listener.name.as_str().into(),
                    places: Arc::new(Semaphore::new(listener.max_connections as usize)),
                    refusing: Transition::default(),
                })
                .collect(),
            targets,
            config,
        }
    }

    /// A place among the `max_connections` of `listener`; `None` if it is full.
    pub(crate) fn admit(&self, listener: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.listeners[listener].places).try_acquire_owned().ok()
    }

    /// Chooses a target and counts the session to it until the [`Lease`] is dropped.
    pub(crate) fn select(&self, listener: usize, client: SocketAddr, tried: &[TargetId]) -> Result<Lease, NoTarget> {
        let id = self.pool().select(listener, client.ip(), tried)?;
        let state = Arc::clone(self.state(id));
        let handle = Handle::new(Arc::clone(&self.listeners[listener].name), client);
        Ok(Lease { id, entry: state.enter(handle), state })
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

    /// Every target, group by group.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TargetId> {
        let groups = self.targets.iter().enumerate();
        groups.flat_map(|(group, targets)| (0..targets.len()).map(move |target| TargetId { group, target }))
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

/// A target with a session counted to it.
#[derive(Debug)]
pub(crate) struct Lease {
    id: TargetId,
    entry: Entry,
    state: Arc<TargetState>,
}

impl Lease {
    pub(crate) fn id(&self) -> TargetId {
        self.id
    }

    /// Cancelled when the session has to end for the sake of its target: whoever forwards its bytes resets both legs
    /// then, and counts it as [`Self::cut_end`].
    pub(crate) fn cut(&self) -> &CancellationToken {
        self.entry.token()
    }

    /// How a session ends that was cut.
    pub(crate) fn cut_end(&self) -> SessionEnd {
        self.entry.end()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.load.release();
    }
}

fn group_spec(group: &Group, states: &[Arc<TargetState>]) -> GroupSpec {
    let target = |(target, state): (&Target, &Arc<TargetState>)| TargetSpec {
        address: target.address,
        weight: target.weight,
        max_sessions: target.max_connections,
        load: Arc::clone(&state.load),
    };
    GroupSpec {
        tier: group.tier,
        weight: group.weight,
        balance: group.balance,
        targets: group.targets.iter().zip(states).map(target).collect(),
    }
}

fn group_rules(group: &Group) -> GroupRules {
    GroupRules {
        min_healthy: group.min_healthy,
        failback_hold: group.failback_hold,
        slow_start: group.slow_start,
        max_ejected: group.eject.most,
        probes: group.health.as_ref().map(|check| ProbeRules {
            interval: check.interval,
            fast_interval: check.fast_interval,
            rise: check.rise,
            fall: check.fall,
        }),
        eject: EjectRules { after: group.eject.after, hold: group.eject.hold },
    }
}
