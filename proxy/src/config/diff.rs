//! What a reload would change: two configurations in, a plan out. Nothing here touches a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::SocketAddr;

use super::group::{BALANCES, ON_DOWN, SEND_PROXY};
use super::health::{METHODS, written_statuses};
use super::listener::{ACCEPT_PROXY, DATAPATHS};
use super::logs::FORMATS;
use super::units::{written, written_size};
use super::values::word;
use super::{Config, DatapathRules, Group, Listener, LogOutput, ProbeKind, TcpOptions};

/// The difference between the configuration that runs and another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Addresses to listen on that nobody listens on yet, or with other socket options.
    pub bind: Vec<SocketAddr>,
    /// Addresses whose sockets are closed.
    pub close: Vec<SocketAddr>,
    /// Everything that differs, in the words of the file.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What changes, such as `group onprem: weight`.
    pub what: String,
    /// The value that runs; `None`: it is new.
    pub from: Option<String>,
    /// The value that would run; `None`: it is removed.
    pub to: Option<String>,
    /// Whether it takes effect only after a restart.
    pub needs_restart: bool,
}

impl Plan {
    /// The plan that leads from `old` to `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let (before, after) = (sockets(old), sockets(new));
        let missing = |from: &BTreeMap<SocketAddr, &TcpOptions>, other: &BTreeMap<SocketAddr, &TcpOptions>| {
            let gone = from.iter().filter(|(address, tcp)| other.get(*address) != Some(*tcp));
            gone.map(|(address, _)| *address).collect()
        };
        Self { bind: missing(&after, &before), close: missing(&before, &after), changes: changes(old, new) }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "~ {}: {from} -> {to}", self.what)?,
            (None, Some(to)) => write!(f, "+ {}: {to}", self.what)?,
            (Some(from), None) => write!(f, "- {}: {from}", self.what)?,
            (None, None) => write!(f, "  {}", self.what)?,
        }
        if self.needs_restart { write!(f, " (after a restart)") } else { Ok(()) }
    }
}

/// Which sockets a configuration listens on.
fn sockets(config: &Config) -> BTreeMap<SocketAddr, &TcpOptions> {
    config.listeners.iter().flat_map(|listener| listener.bind.iter().map(|address| (*address, &listener.tcp))).collect()
}

fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (before, after) = (values(old), values(new));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let change = |key: &String| {
        let (from, to) = (before.get(key), after.get(key));
        let written = |value: Option<&Value>| value.map(|value| value.written.clone());
        (from != to).then(|| Change {
            what: key.clone(),
            from: written(from),
            to: written(to),
            needs_restart: from.or(to).is_some_and(|value| value.fixed),
        })
    };
    keys.into_iter().filter_map(change).collect()
}

/// Every value of a configuration under a name that people understand: its option, and of what. Names and addresses make
/// the keys, so that an order that means nothing makes no difference.
fn values(config: &Config) -> BTreeMap<String, Value> {
    let mut values = Values::default();
    values.process(config);
    values.datapath(&config.datapath);
    config.listeners.iter().for_each(|listener| values.listener(config, listener));
    config.groups.iter().for_each(|group| values.group(group));
    values.0
}

/// The value of an option.
#[derive(PartialEq)]
struct Value {
    /// As the file would have it, without quotes.
    written: String,
    /// Set up once, at the start.
    fixed: bool,
}

#[derive(Default)]
struct Values(BTreeMap<String, Value>);

impl Values {
    fn set(&mut self, of: &str, option: &str, value: impl Display) {
        self.0.insert(format!("{of}: {option}"), Value { written: value.to_string(), fixed: false });
    }

    /// Sets what takes effect only after a restart: see [`Config::started_as`].
    fn fixed(&mut self, of: &str, option: &str, value: impl Display) {
        self.0.insert(format!("{of}: {option}"), Value { written: value.to_string(), fixed: true });
    }

    fn process(&mut self, config: &Config) {
        let Config { runtime, admin, dns, log, session_log, .. } = config;
        self.fixed("runtime", "workers", runtime.workers.map_or(0, usize::from));
        self.set("runtime", "drain_timeout", written(runtime.drain_timeout));
        self.set("runtime", "readiness_delay", written(runtime.readiness_delay));
        self.fixed("admin", "listen", or(admin.listen, "off"));
        self.fixed("admin", "socket", or(admin.socket.as_ref().map(|path| path.display()), "off"));
        let servers = if dns.servers.is_empty() { "the system's".to_owned() } else { list(&dns.servers) };
        self.set("dns", "servers", servers);
        self.set("dns", "min_ttl", written(dns.min_ttl));
        self.set("dns", "max_ttl", written(dns.max_ttl));
        self.fixed("log", "format", word(FORMATS, &log.format));
        let path = match &session_log.output {
            None => "off".to_owned(),
            Some(LogOutput::Stdout) => "stdout".to_owned(),
            Some(LogOutput::File(path)) => path.display().to_string(),
        };
        self.fixed("session_log", "path", path);
        self.fixed("session_log", "one_in", session_log.one_in);
    }

    fn datapath(&mut self, rules: &DatapathRules) {
        let DatapathRules { thresholds, join, limits } = rules;
        self.set("datapath", "splice_size", written_size(thresholds.large));
        self.set("datapath", "splice_after", thresholds.splice_after);
        self.set("datapath", "copy_after", thresholds.copy_after);
        self.set("datapath", "promote_after", thresholds.promote_after);
        self.set("datapath", "promote_gap", written(thresholds.promote_gap));
        self.set("datapath", "promote_busy", thresholds.promote_busy);
        self.set("datapath", "reluctance", thresholds.reluctance);
        self.set("datapath", "join_after", join.after);
        self.set("datapath", "join_quiet", written(join.quiet));
        self.fixed("datapath", "soft_limit", written_size(limits.soft));
        self.fixed("datapath", "hard_limit", written_size(limits.hard));
        self.fixed("datapath", "bulk_limit", written_size(limits.bulk));
        self.fixed("datapath", "max_promoted", limits.budget);
    }

    fn tcp(&mut self, of: &str, tcp: &TcpOptions) {
        self.set(of, "tcp.keepalive", written(tcp.keepalive.unwrap_or_default()));
        self.set(of, "tcp.user_timeout", written(tcp.user_timeout.unwrap_or_default()));
        self.set(of, "tcp.congestion", or(tcp.congestion.as_ref(), "the system's"));
        self.set(of, "tcp.interface", or(tcp.interface.as_ref(), "any"));
    }

    fn listener(&mut self, config: &Config, listener: &Listener) {
        let of = format!("listener {}", listener.name);
        let names: BTreeSet<_> = listener.groups.iter().map(|&group| &config.groups[group].name).collect();
        let addresses: BTreeSet<_> = listener.bind.iter().map(ToString::to_string).collect();
        self.set(&of, "bind", list(addresses));
        self.set(&of, "groups", list(names));
        self.set(&of, "datapath", word(DATAPATHS, &listener.datapath));
        self.set(&of, "accept_proxy", word(ACCEPT_PROXY, &listener.accept_proxy));
        self.set(&of, "max_connections", listener.max_connections);
        self.set(&of, "queue_timeout", written(listener.queue_timeout.unwrap_or_default()));
        self.set(&of, "max_session_age", written(listener.max_session_age.unwrap_or_default()));
        self.set(&of, "idle_timeout", written(listener.idle_timeout.unwrap_or_default()));
        self.set(&of, "half_close_timeout", written(listener.half_close_timeout.unwrap_or_default()));
        self.tcp(&of, &listener.tcp);
    }

    fn group(&mut self, group: &Group) {
        let of = format!("group {}", group.name);
        self.set(&of, "tier", group.tier);
        self.set(&of, "weight", group.weight);
        self.set(&of, "balance", word(BALANCES, &group.balance));
        self.set(&of, "min_healthy", group.min_healthy);
        self.set(&of, "on_down", word(ON_DOWN, &group.on_down));
        self.set(&of, "on_removal", word(ON_DOWN, &group.on_removal));
        self.set(&of, "failback_hold", written(group.failback_hold));
        self.set(&of, "slow_start", written(group.slow_start));
        self.set(&of, "eject_after", group.eject.after);
        self.set(&of, "eject_hold", written(group.eject.hold));
        self.set(&of, "max_ejected", group.eject.most);
        self.set(&of, "send_proxy", word(SEND_PROXY, &group.send_proxy));
        self.set(&of, "tcp.connect_timeout", written(group.dial.connect_timeout));
        self.set(&of, "tcp.connect_retries", group.dial.connect_retries);
        self.set(&of, "tcp.source", or(group.dial.source, "any"));
        self.tcp(&of, &group.tcp);
        self.health(&of, group);
        for target in &group.targets {
            let of = format!("target {}/{}", group.name, target.label());
            self.set(&of, "name", &target.name);
            self.set(&of, "weight", target.weight);
            self.set(&of, "max_connections", target.max_connections.unwrap_or_default());
        }
    }

    fn health(&mut self, of: &str, group: &Group) {
        let Some(check) = &group.health else { return };
        match &check.kind {
            ProbeKind::Tcp => self.set(of, "health.kind", "tcp"),
            ProbeKind::Http(http) => {
                self.set(of, "health.kind", "http");
                self.set(of, "health.method", word(METHODS, &http.method));
                self.set(of, "health.path", &http.path);
                self.set(of, "health.host", or(http.host.as_ref(), "the target's address"));
                self.set(of, "health.expect", list(http.expect.iter().map(written_statuses)));
                // Quoted: it may be any text, of several lines too.
                self.set(of, "health.body", or(http.body.as_ref().map(|body| format!("{body:?}")), "anything"));
            }
        }
        self.set(of, "health.port", or(check.port, "the target's"));
        self.set(of, "health.interval", written(check.interval));
        self.set(of, "health.fast_interval", written(check.fast_interval));
        self.set(of, "health.timeout", written(check.timeout));
        self.set(of, "health.rise", check.rise);
        self.set(of, "health.fall", check.fall);
    }
}

/// The value of an option, or what it means that it has none.
fn or(value: Option<impl Display>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| value.to_string())
}

fn list(values: impl IntoIterator<Item = impl Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
