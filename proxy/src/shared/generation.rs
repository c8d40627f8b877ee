//! How a generation of the configuration is made, and what it takes over from the one before.

use std::sync::{Arc, Mutex};

use landbridge_core::failover::GroupRules;
use landbridge_core::health::{EjectRules, ProbeRules};
use landbridge_core::pool::Pool;
use landbridge_core::select::{GroupSpec, TargetSpec};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{ListenerState, Shared};
use crate::config::{Config, Group, Target};
use crate::names::Names;
use crate::stats::Stats;
use crate::target::TargetState;

impl Shared {
    /// The first configuration.
    pub(crate) fn new(config: Config, workers: usize, names: Arc<Names>) -> Self {
        Self::build(config, workers, names, None)
    }

    /// The configuration after this one: whoever is in both keeps health, sessions and counters.
    pub(crate) fn next(&self, config: Config, workers: usize) -> Self {
        Self::build(config, workers, Arc::clone(&self.names), Some(self))
    }

    fn build(config: Config, workers: usize, names: Arc<Names>, former: Option<&Self>) -> Self {
        let former_target = |id| former.and_then(|former| former.config.same_target(&config, id));
        let state = |id| match (former, former_target(id)) {
            (Some(former), Some(known)) => Arc::clone(former.state(known)),
            _ => Arc::default(),
        };
        let mut targets: Vec<Vec<Arc<TargetState>>> = config.groups.iter().map(|_| Vec::new()).collect();
        config.target_ids().for_each(|id| targets[id.group].push(state(id)));
        let groups = config.groups.iter().zip(&targets);
        let groups = groups.map(|(group, targets)| (group_spec(group, targets), group_rules(group))).collect();
        let listeners = config.listeners.iter().map(|listener| listener.groups.clone()).collect();
        // The seed spreads the choices of several daemons; without a random one they are merely alike.
        let seed = SysRng.try_next_u64().unwrap_or_default();
        let mut pool = Pool::new(groups, listeners, seed);
        let epoch = former.map_or_else(Instant::now, |former| former.epoch);
        for id in config.target_ids().filter(|id| !config.groups[id.group].targets[id.target].is_resolved()) {
            pool.set_absent(id);
        }
        if let Some(former) = former {
            pool.inherit(&former.pool(), former_target, epoch.elapsed());
        }
        let listener = |name: &str| {
            let known = former.and_then(|former| former.listeners.iter().find(|known| *known.name == *name));
            known.cloned().unwrap_or_else(|| ListenerState {
                name: name.into(),
                places: Arc::default(),
                refusing: Arc::default(),
                line: Arc::default(),
            })
        };
        let next = Self {
            generation: former.map_or(0, |former| former.generation + 1),
            stats: Stats::new(&config, workers, former.map(|former| (&former.config, &former.stats))),
            pool: Mutex::new(pool),
            epoch,
            changed: Notify::new(),
            verdict: Notify::new(),
            listeners: config.listeners.iter().map(|of| listener(&of.name)).collect(),
            targets,
            vacancy: former.map(|former| Arc::clone(&former.vacancy)).unwrap_or_default(),
            names,
            orders: former.map(|former| Arc::clone(&former.orders)).unwrap_or_default(),
            config,
        };
        next.follow_orders();
        next
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
        one_way: group.tcp.interface.is_some(),
    }
}
