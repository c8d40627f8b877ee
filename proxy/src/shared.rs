//! What all workers share: one generation of the configuration, whose turn it is, and the counters.
//!
//! A [`Shared`] never changes its configuration; a reload makes the next one, which takes over what is known and counted
//! ([`Shared::next`]), and puts it in the place of the former ([`Running`]). Sessions keep the one that they began with.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use landbridge_core::end::SessionEnd;
use landbridge_core::failover::GroupRules;
use landbridge_core::health::{EjectRules, ProbeRules};
use landbridge_core::orders::Orders;
use landbridge_core::pool::Pool;
use landbridge_core::select::{GroupSpec, NoTarget, TargetId, TargetSpec};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use crate::config::{Config, Group, Target};
use crate::names::Names;
use crate::places::{Place, Places};
use crate::pulse::Pulse;
use crate::session_log::SessionLog;
use crate::stats::Stats;
use crate::target::{Entry, Handle, TargetState, Transition};

/// The configuration that runs now.
pub(crate) struct Running {
    current: ArcSwap<Shared>,
    pub(crate) names: Arc<Names>,
    reload_failed: AtomicBool,
    /// When the last good configuration was put in force, in seconds since 1970.
    loaded_at: AtomicU64,
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

    /// Chooses a target and counts the session to it until the [`Lease`] is dropped.
    pub(crate) fn select(&self, listener: usize, client: SocketAddr, tried: &[TargetId]) -> Result<Lease, NoTarget> {
        let id = self.pool().select(listener, client.ip(), tried)?;
        let state = Arc::clone(self.state(id));
        let handle = self.handle(listener, client, Instant::now());
        let vacancy = self.target(id).1.max_connections.map(|_limited| Arc::clone(&self.vacancy));
        Ok(Lease { id, client, entry: state.enter(handle), vacancy })
    }

    /// Counts a session that a former process has begun: a place of `listener` and a [`Lease`] of `id`, limits or not.
    pub(crate) fn readmit(&self, listener: usize, id: TargetId, client: SocketAddr, began: Instant) -> (Place, Lease) {
        let places = &self.listeners[listener].places;
        let state = Arc::clone(self.state(id));
        state.load.take();
        let handle = self.handle(listener, client, began);
        let vacancy = self.target(id).1.max_connections.map(|_limited| Arc::clone(&self.vacancy));
        (places.take_anyway(), Lease { id, client, entry: state.enter(handle), vacancy })
    }

    fn handle(&self, listener: usize, client: SocketAddr, since: Instant) -> Handle {
        let oldest = self.config.listeners[listener].max_session_age.map(around);
        Handle { listener: Arc::clone(&self.listeners[listener].name), client, since, oldest }
    }

    /// As [`Self::select`], but if every target is full the client waits in line for at most the listener's `queue_timeout`, and then
    /// the session has to end. Cancelling leaves the line.
    pub(crate) async fn select_in_turn(
        &self,
        listener: usize,
        client: SocketAddr,
        tried: &[TargetId],
    ) -> Result<Lease, SessionEnd> {
        let nobody = if tried.is_empty() { SessionEnd::NoTarget } else { SessionEnd::ConnectFailed };
        let Some(limit) = self.config.listeners[listener].queue_timeout else {
            return self.select(listener, client, tried).map_err(|NoTarget| nobody);
        };
        let line = &self.listeners[listener].line;
        // Who comes while others wait goes behind them.
        if let Ok(_nobody_waits) = line.try_lock() {
            match self.select(listener, client, tried) {
                Ok(lease) => return Ok(lease),
                Err(NoTarget) if !self.is_full(listener) => return Err(nobody),
                Err(NoTarget) => {}
            }
        }
        let in_turn = async {
            let _first = line.lock().await;
            loop {
                let mut vacancy = pin!(self.vacancy.notified());
                // From here on no vacancy is missed.
                vacancy.as_mut().enable();
                match self.select(listener, client, tried) {
                    Ok(lease) => return Ok(lease),
                    Err(NoTarget) if !self.is_full(listener) => return Err(nobody),
                    Err(NoTarget) => vacancy.await,
                }
            }
        };
        timeout(limit, in_turn).await.unwrap_or(Err(SessionEnd::QueueTimeout))
    }

    /// Tells the clients that wait for a place to look again.
    pub(crate) fn call_waiting(&self) {
        self.vacancy.notify_waiters();
    }

    fn is_full(&self, listener: usize) -> bool {
        self.pool().selector().is_full(listener)
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

/// A target with a session counted to it.
#[derive(Debug)]
pub(crate) struct Lease {
    id: TargetId,
    client: SocketAddr,
    entry: Entry,
    /// Whom to tell that there is a place, if the target has a limit.
    vacancy: Option<Arc<Notify>>,
}

impl Lease {
    pub(crate) fn id(&self) -> TargetId {
        self.id
    }

    /// Who the client is.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    /// Ready when the session has to end for the sake of its target: whoever forwards its bytes resets both legs then, and
    /// counts it so.
    pub(crate) async fn cut(&self) -> SessionEnd {
        self.entry.cut().await
    }

    /// As what the session has to end, if it has to: [`Self::cut`] for those that are not waiting.
    pub(crate) fn is_cut(&self) -> Option<SessionEnd> {
        self.entry.end()
    }

    /// From now on `tell` gets `number` when the session is cut, which may have happened already.
    pub(crate) fn tell_cut(&self, tell: UnboundedSender<u32>, number: u32) {
        self.entry.tell_cut(tell, number);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.entry.state().load.release();
        if let Some(vacancy) = &self.vacancy {
            vacancy.notify_waiters();
        }
    }
}

/// A tenth more or less, so that what began together does not end together.
fn around(age: Duration) -> Duration {
    let random = SysRng.try_next_u64().unwrap_or(u64::MAX / 2);
    age.mul_f64(0.9 + 0.2 * (random as f64 / u64::MAX as f64))
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4711);

    /// A target for one session, with a line for the others.
    fn one_place() -> Shared {
        let config = Config::parse(
            r#"
                [[listener]]
                name = "in"
                bind = ["127.0.0.1:8000"]
                groups = ["g"]
                queue_timeout = "3s"
                [[group]]
                name = "g"
                [[group.target]]
                address = "127.0.0.1:1"
                max_connections = 1
            "#,
        );
        Shared::new(config.unwrap(), 1, Arc::default())
    }

    /// Asks once. What it wants is not told: it is asked again when it may have it.
    fn poll<F: Future>(of: &mut Pin<Box<F>>) -> Poll<F::Output> {
        of.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_a_place_as_long_as_the_listener_says() {
        let shared = one_place();
        let taken = shared.select_in_turn(0, CLIENT, &[]).await.unwrap();
        let begun = Instant::now();
        assert_eq!(shared.select_in_turn(0, CLIENT, &[]).await.err(), Some(SessionEnd::QueueTimeout));
        assert_eq!(begun.elapsed(), Duration::from_secs(3));

        let begun = Instant::now();
        let leave = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(taken);
        };
        let (waited, ()) = tokio::join!(shared.select_in_turn(0, CLIENT, &[]), leave);
        assert_eq!((waited.is_ok(), begun.elapsed()), (true, Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_others_wait_goes_behind_them() {
        let shared = one_place();
        let taken = shared.select_in_turn(0, CLIENT, &[]).await.unwrap();
        let mut first = Box::pin(shared.select_in_turn(0, CLIENT, &[]));
        assert!(poll(&mut first).is_pending());
        drop(taken);
        let mut second = Box::pin(shared.select_in_turn(0, CLIENT, &[]));
        assert!(poll(&mut second).is_pending(), "the place is the first one's");
        let Poll::Ready(Ok(taken)) = poll(&mut first) else { panic!("the first one has no place") };
        assert!(poll(&mut second).is_pending());
        drop((first, taken));
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
    }

    #[test]
    fn ages_are_spread_over_a_tenth_more_or_less() {
        let age = Duration::from_secs(100);
        let ages: Vec<_> = (0..1_000).map(|_| around(age)).collect();
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(90) && *most <= Duration::from_secs(110), "{least:?} to {most:?}");
        // Of so many, chance spares neither half of either tenth.
        assert!(*least < Duration::from_secs(95) && *most > Duration::from_secs(105), "{least:?} to {most:?}");
    }
}
