//! The validated configuration: types that cannot hold an invalid value.
//!
//! [`Config::load`] reads a file, [`Config::parse`] a text. Both report every problem of the text at once
//! ([`Problems`]), each with its path, its line and what would be right. Only `raw` knows TOML.

mod address;
mod binds;
mod datapath;
pub mod diff;
mod dns;
#[cfg(test)]
mod documented;
mod durations;
mod fault;
mod group;
mod health;
mod listener;
mod load;
mod logs;
mod names;
mod notes;
mod problem;
mod process;
mod raw;
mod references;
mod suggest;
mod tcp;
mod unique;
pub mod units;
mod values;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use landbridge_core::datapath::{Limits, Thresholds};
use landbridge_core::join::JoinRules;
use landbridge_core::select::{Balance, TargetId};

pub use self::binds::overlap;
pub use self::load::LoadError;
pub use self::problem::{Problem, Problems};
pub use self::process::ADMIN_SOCKET;

/// A whole configuration file, valid in itself: every name that is referred to exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[admin]`
    pub admin: Admin,
    /// `[dns]`
    pub dns: Dns,
    /// `[log]`
    pub log: LogRules,
    /// `[session_log]`
    pub session_log: SessionLogRules,
    /// `[datapath]`
    pub datapath: DatapathRules,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<Listener>,
    /// `[[group]]`, at least one.
    pub groups: Vec<Group>,
}

impl Config {
    /// Which target of this configuration the target `id` of `other` is: the same address in the group of the same name.
    pub fn same_target(&self, other: &Self, id: TargetId) -> Option<TargetId> {
        let (name, wanted) = (&other.groups[id.group].name, &other.groups[id.group].targets[id.target]);
        let group = self.groups.iter().position(|group| group.name == *name)?;
        let same =
            |target: &Target| target.address == wanted.address && (target.is_resolved() || target.host == wanted.host);
        let target = self.groups[group].targets.iter().position(same)?;
        Some(TargetId { group, target })
    }

    /// The DNS names of targets.
    pub fn names(&self) -> BTreeSet<String> {
        self.groups.iter().flat_map(|group| &group.targets).filter_map(|target| target.host.clone()).collect()
    }

    /// This configuration with the addresses that `answer` knows for names. Targets whose address another target of the group
    /// has already are left out.
    pub fn resolved(mut self, answer: impl Fn(&str) -> Option<IpAddr>) -> Self {
        for group in &mut self.groups {
            let mut seen = BTreeSet::new();
            group.targets.retain_mut(|target| {
                if let Some(ip) = target.host.as_deref().and_then(&answer) {
                    target.address.set_ip(ip);
                }
                !target.is_resolved() || seen.insert(target.address)
            });
        }
        self
    }

    /// This configuration with the options that are set up once, at the start, as in `running`.
    pub fn started_as(mut self, running: &Self) -> Self {
        self.runtime.workers = running.runtime.workers;
        self.admin = running.admin.clone();
        self.log = running.log;
        self.session_log = running.session_log.clone();
        self.datapath.limits = running.datapath.limits;
        self
    }

    /// Every target, group by group.
    pub fn target_ids(&self) -> impl Iterator<Item = TargetId> {
        let groups = self.groups.iter().enumerate();
        groups.flat_map(|(group, of)| (0..of.targets.len()).map(move |target| TargetId { group, target }))
    }
}

/// How the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Worker threads; `None`: one per CPU.
    pub workers: Option<NonZeroUsize>,
    /// How long sessions may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// How long new sessions are still taken after SIGTERM, while `/readyz` says no.
    pub readiness_delay: Duration,
}

/// Where operators look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address of `/metrics`, `/livez` and `/readyz`; `None`: not served.
    pub listen: Option<SocketAddr>,
    /// The control socket of the command line; `None`: there is none.
    pub socket: Option<PathBuf>,
}

/// How the names of targets are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Whom to ask; empty: the system's resolvers (/etc/resolv.conf).
    pub servers: Vec<SocketAddr>,
    /// An answer is good for at least this long, whatever its TTL.
    pub min_ttl: Duration,
    /// And for at most this long.
    pub max_ttl: Duration,
}

/// How the daemon writes its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRules {
    /// What a line looks like.
    pub format: LogFormat,
}

/// What a line of the daemon's log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object of JSON.
    Json,
}

/// Which sessions are logged when they have ended, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLogRules {
    /// Where to; `None`: none are.
    pub output: Option<LogOutput>,
    /// One session in so many is logged; at least 1.
    pub one_in: u32,
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

/// When `datapath = "auto"` uses what, and what the kernel may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatapathRules {
    /// By which numbers a direction is judged.
    pub thresholds: Thresholds,
    /// When sessions are joined at packet level.
    pub join: JoinRules,
    /// Of the kernel fast path.
    pub limits: Limits,
}

/// Addresses that accept client connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Unique among the listeners.
    pub name: String,
    /// At least one; unique over all listeners. An IPv6 address takes no IPv4 connections (IPV6_V6ONLY).
    pub bind: Vec<SocketAddr>,
    /// Indexes into [`Config::groups`], at least one, no duplicates.
    pub groups: Vec<usize>,
    /// How the bytes of its sessions move.
    pub datapath: Datapath,
    /// Whether clients send a PROXY header first.
    pub accept_proxy: AcceptProxy,
    /// Sessions at once over all its addresses; a further client is refused.
    pub max_connections: u32,
    /// How long a client waits for a place when every target is full; `None`: it is refused at once.
    pub queue_timeout: Option<Duration>,
    /// A session is reset at about this age; `None`: never.
    pub max_session_age: Option<Duration>,
    /// A session without a byte for this long is reset; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A half-closed session without a byte for this long is reset; `None`: never.
    pub half_close_timeout: Option<Duration>,
    /// `[listener.tcp]`: socket options of the client legs.
    pub tcp: TcpOptions,
}

/// How bytes move between the legs of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// The fastest that is possible for each session and direction.
    Auto,
    /// The kernel, from device to device, as soon as a session rests; else as [`Self::Splice`].
    Packet,
    /// The kernel, from socket to socket, as soon as a session stands.
    Sockmap,
    /// `recv` and `send` for small reads, `splice` for large ones.
    Splice,
    /// `recv` and `send` only.
    Copy,
}

impl Datapath {
    /// Whether its sessions are joined where that is possible.
    pub(crate) const fn joins(self) -> bool {
        matches!(self, Self::Auto | Self::Packet)
    }
}

/// Which PROXY header a listener expects in front of the client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptProxy {
    /// None: the first byte is the client's.
    Off,
    /// Version 1 (text), required.
    V1,
    /// Version 2 (binary), required.
    V2,
    /// Version 1 or 2, required.
    Any,
}

/// The version of a PROXY header that is sent to targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Targets of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Unique among the groups.
    pub name: String,
    /// Order of preference; 0 first.
    pub tier: u16,
    /// Share among the able groups of one tier; 0: no new sessions.
    pub weight: u16,
    /// How a target is chosen inside the group.
    pub balance: Balance,
    /// With fewer healthy, active targets than this the group takes no new sessions; at least 1.
    pub min_healthy: u32,
    /// What happens to the sessions of a target that went down.
    pub on_down: OnDown,
    /// What happens to the sessions of a target that a new configuration no longer has.
    pub on_removal: OnDown,
    /// How long the group must stay healthy before it takes sessions back.
    pub failback_hold: Duration,
    /// How long the share of a target that came back takes to grow to its weight.
    pub slow_start: Duration,
    /// When failures of traffic take a target out.
    pub eject: Eject,
    /// `[group.health]`; `None`: targets are not probed.
    pub health: Option<HealthCheck>,
    /// The PROXY header sent to its targets, if any.
    pub send_proxy: Option<ProxyVersion>,
    /// `[group.tcp]`: how target legs are connected.
    pub dial: Dial,
    /// `[group.tcp]`: socket options of the target legs.
    pub tcp: TcpOptions,
    /// `[[group.target]]`, at least one; addresses unique inside the group.
    pub targets: Vec<Target>,
}

/// What happens to the sessions of a target that went down or is no longer configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDown {
    /// Nothing.
    Keep,
    /// What is left after `runtime.drain_timeout` is reset.
    Drain,
    /// They are reset, within a second.
    Reset,
}

/// When failures of traffic take a target out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eject {
    /// Failures in a row; 0: never.
    pub after: u32,
    /// For how long at first.
    pub hold: Duration,
    /// At most so many percent of the group's targets.
    pub most: u8,
}

/// How targets are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: ProbeKind,
    /// Another port than the one for traffic.
    pub port: Option<u16>,
    /// The time between two probes.
    pub interval: Duration,
    /// The same while a target is between up and down.
    pub fast_interval: Duration,
    /// How long a probe may take as a whole.
    pub timeout: Duration,
    /// Good probes in a row that bring a target up.
    pub rise: u32,
    /// Bad probes in a row that take a target down.
    pub fall: u32,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// To be connected.
    Tcp,
    /// For an answer to a request.
    Http(HttpProbe),
}

/// A request over HTTP/1.1 and what the answer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The Host header; `None`: the target's address.
    pub host: Option<String>,
    /// Status codes that are good, at least one range.
    pub expect: Vec<RangeInclusive<u16>>,
    /// What the answer's body must contain.
    pub body: Option<String>,
}

/// The method of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// OPTIONS
    Options,
    /// POST, with an empty body.
    Post,
}

/// How a target leg is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// How many other targets are tried after the first.
    pub connect_retries: u32,
    /// The local address to connect from.
    pub source: Option<IpAddr>,
}

/// Socket options of one kind of leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// Idle time before the first keepalive probe and between probes (TCP_KEEPIDLE, TCP_KEEPINTVL); `None`: off.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged (TCP_USER_TIMEOUT); `None`: the kernel's own limit.
    pub user_timeout: Option<Duration>,
    /// Congestion control (TCP_CONGESTION); `None`: the system's.
    pub congestion: Option<String>,
    /// The device to bind to (SO_BINDTODEVICE).
    pub interface: Option<String>,
}

/// One address that serves sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// For people; by default the address.
    pub name: String,
    /// The DNS name that the address comes from; `None`: the file says the address.
    pub host: Option<String>,
    /// The target's identity. Of a target with a name it is unspecified until that is resolved: see [`Config::resolved`].
    pub address: SocketAddr,
    /// Share inside the group; 0: no new sessions.
    pub weight: u16,
    /// Sessions at once; `None`: no limit.
    pub max_connections: Option<u32>,
}

impl Target {
    /// Whether its address is known.
    pub fn is_resolved(&self) -> bool {
        !self.address.ip().is_unspecified()
    }

    /// The address as the file has it: with the name, if it has one.
    pub fn label(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }
}

/// A configuration for a test, with lines of its own for the listener, the group and its target, which others may follow.
#[cfg(test)]
pub(crate) fn example(listener: &str, group: &str, target: &str) -> Config {
    let text = format!(
        "[[listener]]\nname = \"in\"\nbind = [\"127.0.0.1:8000\"]\ngroups = [\"g\"]\n{listener}\n\
         [[group]]\nname = \"g\"\n{group}\n[[group.target]]\naddress = \"192.0.2.1:9000\"\n{target}\n"
    );
    Config::parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}
