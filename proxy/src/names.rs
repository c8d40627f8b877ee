//! The DNS names of targets: resolved, and resolved again.
//!
//! One task per name ([`Names::follow`]); cancelling it keeps the answers. A name that was never resolved has no
//! address, and its target is down; one that cannot be resolved again keeps its last good answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::{Config, Dns};
use crate::stats::Counter;

/// How long one question may take, and how often it is asked, for its packets may be lost. A resolver that has the
/// answer takes milliseconds.
const QUESTION: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 2;

/// The start and a reload wait for unknown names at most this long: for every attempt, and over TCP as well.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of names. The generations of the configuration have it together.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<BTreeMap<String, Arc<Name>>>,
    changed: Notify,
}

/// One name.
#[derive(Debug, Default)]
pub(crate) struct Name {
    state: Mutex<State>,
    /// Told when traffic or a probe fails on the address.
    doubt: Notify,
    /// Whether the address is known to be bad: another one of the answer is better.
    bad: AtomicBool,
    /// Look-ups without an address.
    failures: Counter,
}

#[derive(Debug, Default)]
struct State {
    address: Option<IpAddr>,
    /// Why the last look-up gave no address, if it did not.
    problem: Option<String>,
}

impl Names {
    /// The address of `host`, as far as is known.
    pub(crate) fn address(&self, host: &str) -> Option<IpAddr> {
        self.known().get(host).and_then(|name| name.state().address)
    }

    /// Why the last look-up of `host` gave no address, if it did not.
    pub(crate) fn problem(&self, host: &str) -> Option<String> {
        self.known().get(host).and_then(|name| name.state().problem.clone())
    }

    /// How many look-ups of `host` gave no address.
    pub(crate) fn failures(&self, host: &str) -> u64 {
        self.known().get(host).map_or(0, |name| name.failures.get())
    }

    /// Something failed on the address of `host`: it is looked up afresh, as soon as its last answer is `dns.min_ttl`
    /// old. `bad`: the target is out of service, so that another address of the same answer is taken if there is one.
    pub(crate) fn doubt(&self, host: &str, bad: bool) {
        if let Some(name) = self.known().get(host) {
            name.bad.store(bad, Ordering::Relaxed);
            name.doubt.notify_one();
        }
    }

    /// Waits until some name has another address. Cancelling loses nothing.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Resolves the names of `config` that have no address yet; waits for the answers at most [`PATIENCE`].
    pub(crate) async fn learn(&self, config: &Config) {
        let unknown: Vec<_> = config.names().into_iter().filter(|host| self.address(host).is_none()).collect();
        if unknown.is_empty() {
            return;
        }
        let Some(resolver) = self.resolver(config) else { return };
        let resolver = &resolver;
        let lookups = unknown.iter().map(|host| async move {
            let name = self.name(host);
            let answer = look_up(resolver, host).await;
            name.note(host, &answer, false);
        });
        if timeout(PATIENCE, join_all(lookups)).await.is_err() {
            // What takes longer is found out while others serve.
            for host in unknown.iter().filter(|host| self.address(host).is_none() && self.problem(host).is_none()) {
                self.name(host).fail(host, "no answer yet");
            }
        }
    }

    /// Keeps the addresses of the names of `config` up to date.
    pub(crate) fn follow(self: &Arc<Self>, config: &Config) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let hosts = config.names();
        self.known().retain(|host, _| hosts.contains(host));
        let Some(resolver) = (!hosts.is_empty()).then(|| self.resolver(config)).flatten() else { return tasks };
        for host in hosts {
            let (resolver, asked) = (resolver.clone(), host.clone());
            let look_up = move || {
                let (resolver, host) = (resolver.clone(), asked.clone());
                async move { look_up(&resolver, &host).await }
            };
            tasks.spawn(follow(Arc::clone(self), host, look_up, config.dns.clone()));
        }
        tasks
    }

    /// A resolver, unless the system has none that works: then no name has an address, and says why.
    fn resolver(&self, config: &Config) -> Option<TokioResolver> {
        match resolver(&config.dns) {
            Ok(resolver) => Some(resolver),
            Err(error) => {
                config.names().iter().for_each(|host| self.name(host).fail(host, &error.to_string()));
                None
            }
        }
    }

    fn name(&self, host: &str) -> Arc<Name> {
        Arc::clone(self.known().entry(host.to_owned()).or_default())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Name>>> {
        lock(&self.known)
    }
}

impl Name {
    /// Takes an answer; whether the address is another one than before.
    fn note(&self, host: &str, answer: &Result<Answer, NetError>, bad: bool) -> bool {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.fail(host, &said(error));
                return false;
            }
        };
        let mut state = self.state();
        let chosen = choose(&answer.addresses, state.address, bad);
        if state.problem.take().is_some() {
            info!(host, "resolved again");
        }
        if state.address == chosen {
            return false;
        }
        info!(host, address = ?chosen, of = answer.addresses.len(), "resolved");
        state.address = chosen;
        true
    }

    /// Takes note of a look-up without an address; logged once per change.
    fn fail(&self, host: &str, why: &str) {
        self.failures.add(1);
        let mut state = self.state();
        if state.problem.is_none() {
            match state.address {
                Some(address) => warn!(host, %address, "cannot be resolved, its last address is kept: {why}"),
                None => warn!(host, "has no address: {why}"),
            }
        }
        state.problem = Some(why.to_owned());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A panic inside leaves at worst an answer that is out of date.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks `host` up for ever: when its answer is too old, or earlier in doubt.
async fn follow<F>(names: Arc<Names>, host: String, look_up: impl Fn() -> F, dns: Dns)
where
    F: Future<Output = Result<Answer, NetError>>,
{
    let name = names.name(&host);
    loop {
        let answer = look_up().await;
        if name.note(&host, &answer, name.bad.swap(false, Ordering::Relaxed)) {
            names.changed.notify_one();
        }
        let left = answer.map_or(Duration::ZERO, |answer| answer.until.saturating_duration_since(StdInstant::now()));
        let wait = left.clamp(dns.min_ttl, dns.max_ttl);
        sleep(dns.min_ttl).await;
        tokio::select! {
            () = sleep(wait - dns.min_ttl) => {}
            () = name.doubt.notified() => {}
        }
    }
}

/// The address to use: `known` for as long as it is in the answer, so that an answer in another order changes nothing;
/// if it is bad the one after it. `addresses` is in order and not empty.
fn choose(addresses: &[IpAddr], known: Option<IpAddr>, bad: bool) -> Option<IpAddr> {
    let Some(known) = known else { return addresses.first().copied() };
    if addresses.contains(&known) && !bad {
        return Some(known);
    }
    addresses.iter().find(|address| **address > known).or(addresses.first()).copied()
}

/// What a name server said.
struct Answer {
    /// At least one, in order.
    addresses: Vec<IpAddr>,
    until: StdInstant,
}

async fn look_up(resolver: &TokioResolver, host: &str) -> Result<Answer, NetError> {
    let answer = resolver.lookup_ip(host).await?;
    // Some resolvers block a name by an address that means nothing.
    let usable = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    let mut addresses: Vec<IpAddr> = answer.iter().filter(usable).collect();
    addresses.sort_unstable();
    if addresses.is_empty() {
        return Err(NetError::from("the answer has no usable address"));
    }
    Ok(Answer { addresses, until: answer.valid_until() })
}

/// An error in words for operators.
fn said(error: &NetError) -> String {
    if error.is_nx_domain() {
        "there is no such name".to_owned()
    } else if error.is_no_records_found() {
        "the name has no address".to_owned()
    } else {
        error.to_string()
    }
}

fn resolver(dns: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // A fresh answer is asked for only when it is wanted.
    options.cache_size = 0;
    options.timeout = QUESTION;
    options.attempts = ATTEMPTS;
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep_until};

    use super::*;

    fn ips(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    fn chosen(answer: &[u8], known: Option<u8>, bad: bool) -> IpAddr {
        choose(&ips(answer), known.map(|last| ips(&[last])[0]), bad).unwrap()
    }

    #[test]
    fn an_address_stays_while_it_is_in_the_answer_and_good() {
        assert_eq!(chosen(&[1, 2, 3], None, false), ips(&[1])[0]);
        assert_eq!(chosen(&[1, 2, 3], Some(2), false), ips(&[2])[0]);
        assert_eq!(chosen(&[1, 3], Some(2), false), ips(&[3])[0]);
        assert_eq!(chosen(&[1], Some(2), false), ips(&[1])[0]);
    }

    #[test]
    fn a_bad_address_gives_way_to_the_next_one_of_the_answer() {
        assert_eq!(chosen(&[1, 2, 3], Some(2), true), ips(&[3])[0]);
        assert_eq!(chosen(&[1, 2, 3], Some(3), true), ips(&[1])[0]);
        assert_eq!(chosen(&[2], Some(2), true), ips(&[2])[0]);
    }

    /// How long after each other a name is looked up whose answers hold for `ttl` seconds, or that has none; with
    /// doubts of it so many milliseconds after the first look-up. Times are rounded to seconds.
    async fn gaps(ttl: Option<u64>, doubts: &[u64]) -> Vec<u64> {
        let names = Arc::new(Names::default());
        let dns = Dns { servers: Vec::new(), min_ttl: Duration::from_secs(5), max_ttl: Duration::from_secs(300) };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let look_up = {
            let asked = Arc::clone(&asked);
            move || {
                lock(&asked).push(Instant::now());
                let answer =
                    ttl.map(|ttl| Answer { addresses: ips(&[1]), until: StdInstant::now() + Duration::from_secs(ttl) });
                async move { answer.ok_or_else(|| NetError::from("broken")) }
            }
        };
        let following = tokio::spawn(follow(Arc::clone(&names), "gpu.example".to_owned(), look_up, dns));
        let begun = Instant::now();
        for after in doubts {
            sleep_until(begun + Duration::from_millis(*after)).await;
            names.doubt("gpu.example", false);
        }
        sleep_until(begun + Duration::from_secs(1_000)).await;
        following.abort();
        let asked = lock(&asked);
        asked.windows(2).take(3).map(|pair| (pair[1] - pair[0]).as_secs_f64().round() as u64).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_when_its_answer_is_too_old() {
        for (ttl, expected) in [(Some(60), 60), (Some(0), 5), (Some(100_000), 300), (None, 5)] {
            assert_eq!(gaps(ttl, &[]).await, [expected; 3], "an answer for {ttl:?} seconds");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_is_followed_as_soon_as_the_answer_is_old_enough() {
        assert_eq!(gaps(Some(300), &[20_000]).await, [20, 300, 300]);
        assert_eq!(gaps(Some(300), &[1_000]).await, [5, 300, 300], "the answer is hardly older than the doubt");
        assert_eq!(gaps(Some(300), &[20_000, 21_000, 22_000]).await, [20, 5, 300], "of several doubts");
    }

    #[test]
    fn the_last_good_answer_is_kept_and_failures_are_counted() {
        let names = Names::default();
        let name = names.name("gpu.example");
        let answer = |last: &[u8]| Ok(Answer { addresses: ips(last), until: StdInstant::now() });
        assert!(name.note("gpu.example", &answer(&[1]), false));
        assert!(!name.note("gpu.example", &Err(NetError::from("broken")), false));
        assert_eq!(names.address("gpu.example"), Some(ips(&[1])[0]));
        assert_eq!(names.problem("gpu.example").as_deref(), Some("broken"));
        assert_eq!(names.failures("gpu.example"), 1);
        assert!(!name.note("gpu.example", &answer(&[1, 2]), false), "it is the same address");
        assert_eq!(names.problem("gpu.example"), None);
        assert!(name.note("gpu.example", &answer(&[2]), false));
        assert_eq!(names.address("gpu.example"), Some(ips(&[2])[0]));
    }
}
