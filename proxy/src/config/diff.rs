//! What a reload would change: two configurations in, a plan out. Nothing here touches a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::SocketAddr;

use super::units::{written, written_size};
use super::{Config, Group, Listener, LogOutput, ProbeKind, TcpOptions};

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
    let of = |listener: &'_ Listener| listener.bind.clone();
    config
        .listeners
        .iter()
        .flat_map(|listener| of(listener).into_iter().map(|address| (address, &listener.tcp)))
        .collect()
}

fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (before, after) = (values(old), values(new));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differing = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let change = |key: &String| Change {
        what: key.clone(),
        from: before.get(key).cloned(),
        to: after.get(key).cloned(),
        needs_restart: needs_restart(key),
    };
    differing.map(change).collect()
}

/// What was set up once, at the start.
fn needs_restart(what: &str) -> bool {
    let fixed = [
        "runtime: workers",
        "admin: listen",
        "admin: socket",
        "log: format",
        "session_log: path",
        "session_log: one_in",
        "datapath: kernel limits",
    ];
    fixed.contains(&what)
}

/// Every value of a configuration under a name that people understand. Names and addresses make the keys, so that an
/// order that means nothing makes no difference.
fn values(config: &Config) -> BTreeMap<String, String> {
    let mut values = Values::default();
    let runtime = &config.runtime;
    values.set("runtime", "workers", runtime.workers.map_or(0, usize::from));
    values.set("runtime", "drain_timeout", written(runtime.drain_timeout));
    values.set("runtime", "readiness_delay", written(runtime.readiness_delay));
    values.set("log", "format", format_args!("{:?}", config.log.format).to_string().to_lowercase());
    let output = match &config.session_log.output {
        None => "off".to_owned(),
        Some(LogOutput::Stdout) => "stdout".to_owned(),
        Some(LogOutput::File(path)) => path.display().to_string(),
    };
    values.set("session_log", "path", output);
    values.set("session_log", "one_in", config.session_log.one_in);
    values.set("admin", "listen", config.admin.listen.map_or_else(|| "off".to_owned(), |address| address.to_string()));
    let socket = config.admin.socket.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string());
    values.set("admin", "socket", socket);
    let servers: Vec<_> = config.dns.servers.iter().map(ToString::to_string).collect();
    values.set("dns", "servers", servers.join(", "));
    values.set("dns", "min_ttl", written(config.dns.min_ttl));
    values.set("dns", "max_ttl", written(config.dns.max_ttl));
    let limits = &config.datapath.limits;
    values.set(
        "datapath",
        "kernel limits",
        format_args!(
            "soft {}, hard {}, bulk {}, {} promoted",
            written_size(limits.soft),
            written_size(limits.hard),
            written_size(limits.bulk),
            limits.budget
        ),
    );
    values.set("datapath", "thresholds", format_args!("{:?}", config.datapath.thresholds));
    values.set("datapath", "join", format_args!("{:?}", config.datapath.join));
    config.listeners.iter().for_each(|listener| values.listener(config, listener));
    config.groups.iter().for_each(|group| values.group(group));
    values.0
}

#[derive(Default)]
struct Values(BTreeMap<String, String>);

impl Values {
    fn set(&mut self, of: &str, option: &str, value: impl Display) {
        self.0.insert(format!("{of}: {option}"), value.to_string());
    }

    fn tcp(&mut self, of: &str, tcp: &TcpOptions) {
        let default = || "the system's".to_owned();
        self.set(of, "tcp.keepalive", written(tcp.keepalive.unwrap_or_default()));
        self.set(of, "tcp.user_timeout", written(tcp.user_timeout.unwrap_or_default()));
        self.set(of, "tcp.congestion", tcp.congestion.clone().unwrap_or_else(default));
        self.set(of, "tcp.interface", tcp.interface.clone().unwrap_or_else(|| "any".to_owned()));
    }

    fn listener(&mut self, config: &Config, listener: &Listener) {
        let of = format!("listener {}", listener.name);
        let names: BTreeSet<_> = listener.groups.iter().map(|&group| config.groups[group].name.as_str()).collect();
        let addresses: BTreeSet<_> = listener.bind.iter().map(ToString::to_string).collect();
        self.set(&of, "bind", addresses.into_iter().collect::<Vec<_>>().join(", "));
        self.set(&of, "groups", names.into_iter().collect::<Vec<_>>().join(", "));
        self.set(&of, "datapath", format_args!("{:?}", listener.datapath));
        self.set(&of, "accept_proxy", format_args!("{:?}", listener.accept_proxy));
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
        self.set(&of, "balance", format_args!("{:?}", group.balance));
        self.set(&of, "min_healthy", group.min_healthy);
        self.set(&of, "on_down", format_args!("{:?}", group.on_down));
        self.set(&of, "on_removal", format_args!("{:?}", group.on_removal));
        self.set(&of, "failback_hold", written(group.failback_hold));
        self.set(&of, "slow_start", written(group.slow_start));
        self.set(&of, "eject_after", group.eject.after);
        self.set(&of, "eject_hold", written(group.eject.hold));
        self.set(&of, "max_ejected", group.eject.most);
        self.set(&of, "send_proxy", format_args!("{:?}", group.send_proxy));
        self.set(&of, "tcp.connect_timeout", written(group.dial.connect_timeout));
        self.set(&of, "tcp.connect_retries", group.dial.connect_retries);
        let source = group.dial.source.map_or_else(|| "any".to_owned(), |source| source.to_string());
        self.set(&of, "tcp.source", source);
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
                self.set(of, "health.request", format_args!("{:?} {} of {:?}", http.method, http.path, http.host));
                self.set(of, "health.answer", format_args!("{:?} with {:?}", http.expect, http.body));
            }
        }
        self.set(of, "health.port", check.port.unwrap_or_default());
        self.set(of, "health.interval", written(check.interval));
        self.set(of, "health.fast_interval", written(check.fast_interval));
        self.set(of, "health.timeout", written(check.timeout));
        self.set(of, "health.rise", check.rise);
        self.set(of, "health.fall", check.fall);
    }
}

#[cfg(test)]
mod tests;
