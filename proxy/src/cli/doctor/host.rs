//! Whether this machine can carry what a configuration promises: files, ports, pipes, waiting connections, and the size of
//! packets towards the targets.

use std::fs;
use std::path::Path;

use caps::{CapSet, Capability, has_cap};
use landbridge_core::join::headers;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::check::Check;
use crate::config::{Config, Group, Target};
use crate::net::listener::BACKLOG;
use crate::net::path;
use crate::net::relay::pipe::CAPACITY;

/// A session has two sockets, and each of its directions may have a pipe with two ends; the port of one that was joined and has
/// ended is held for a minute.
const FILES_PER_SESSION: u64 = 7;
/// Listening sockets, programs, maps, logs: fewer than this.
const FILES_BESIDE: u64 = 512;

/// In pages of 4 KiB.
const PAGES_PER_PIPE: u64 = CAPACITY.cast_unsigned() as u64 / 4096;

/// What this machine allows. What cannot be read is not judged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Host {
    /// The hard limit of open files, which the daemon raises its own to.
    files: Option<u64>,
    /// Whose limits these are.
    whose: &'static str,
    /// `net.ipv4.ip_local_port_range`, for both families.
    ports: Option<(u64, u64)>,
    /// `net.core.somaxconn`
    waiting: Option<u64>,
    /// `fs.pipe-user-pages-soft`; 0: no limit. `None` too where the process is exempt.
    pipe_pages: Option<u64>,
}

impl Host {
    /// Looks. The limits are those of the process `daemon`, and this process's own if there is none, as where it has another PID
    /// namespace.
    pub(super) fn observe(daemon: Option<u32>) -> Self {
        let ports = numbers("net/ipv4/ip_local_port_range");
        let daemon = daemon.filter(|id| is_landbridge(&format!("/proc/{id}")));
        let whose = if daemon.is_some() { "for the daemon" } else { "for this process" };
        let process = daemon.map_or_else(|| "/proc/self".to_owned(), |id| format!("/proc/{id}"));
        // The limit of pipes does not apply to whoever has this.
        let exempt = has_cap(daemon.map(u32::cast_signed), CapSet::Effective, Capability::CAP_SYS_RESOURCE);
        Self {
            files: open_files(&process),
            whose,
            ports: ports.as_deref().and_then(|range| Some((*range.first()?, *range.get(1)?))),
            waiting: numbers("net/core/somaxconn").and_then(|of| of.first().copied()),
            pipe_pages: if exempt.unwrap_or(false) {
                None
            } else {
                numbers("fs/pipe-user-pages-soft").and_then(|of| of.first().copied())
            },
        }
    }

    /// What of `config` this machine cannot carry, and what it can.
    pub(super) fn checks(&self, config: &Config) -> Vec<Check> {
        let sessions: u64 = config.listeners.iter().map(|listener| u64::from(listener.max_connections)).sum();
        let mut checks = Vec::new();
        checks.extend(self.files.map(|limit| files((limit, self.whose), sessions)));
        checks.extend(self.ports.iter().flat_map(|range| ports(*range, config)));
        checks.extend(self.waiting.map(waiting));
        checks.extend(self.pipe_pages.map(|pages| pipes(pages, sessions)));
        for group in &config.groups {
            checks.extend(group.targets.iter().filter(|target| target.is_resolved()).map(|target| mtu(group, target)));
        }
        checks
    }
}

/// Whether the process runs this program, perhaps another build of it.
fn is_landbridge(process: &str) -> bool {
    let name = fs::read_to_string(format!("{process}/comm"));
    name.is_ok_and(|name| name.trim_end() == env!("CARGO_PKG_NAME"))
}

/// The hard limit of open files of a process.
fn open_files(process: &str) -> Option<u64> {
    let limits = fs::read_to_string(format!("{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        limit => limit.parse().ok(),
    }
}

/// The numbers of a kernel parameter.
fn numbers(path: &str) -> Option<Vec<u64>> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

fn files((limit, whose): (u64, &str), sessions: u64) -> Check {
    const NAME: &str = "open files";
    let needed = sessions * FILES_PER_SESSION + FILES_BESIDE;
    let detail = format!("{limit} {whose}; {sessions} sessions (max_connections of all listeners) take up to {needed}");
    match limit >= needed {
        true => Check::good(NAME, detail),
        false => Check::breaks(NAME, detail, format!("LimitNOFILE={needed} in the unit, or `ulimit -Hn {needed}`")),
    }
}

/// One check for each target that more sessions may be sent to than there are ports.
fn ports((first, last): (u64, u64), config: &Config) -> Vec<Check> {
    const NAME: &str = "local ports";
    let there = last.saturating_sub(first) + 1;
    let mut checks = Vec::new();
    for (index, group) in config.groups.iter().enumerate() {
        let users = config.listeners.iter().filter(|listener| listener.groups.contains(&index));
        let most: u64 = users.map(|listener| u64::from(listener.max_connections)).sum();
        for target in &group.targets {
            let most = target.max_connections.map_or(most, |limit| most.min(limit.into()));
            if most > there {
                let detail = format!("{there}, and {}/{} may get {most} sessions", group.name, target.name);
                let remedy = "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or max_connections for the target";
                checks.push(Check::breaks(NAME, detail, remedy));
            }
        }
    }
    if checks.is_empty() {
        checks.push(Check::good(NAME, format!("{there} for each target, as many as it may get sessions")));
    }
    checks
}

fn waiting(limit: u64) -> Check {
    const NAME: &str = "waiting connections";
    match limit >= u64::from(BACKLOG.cast_unsigned()) {
        true => Check::good(NAME, format!("{limit} (net.core.somaxconn)")),
        false => Check::bad(
            NAME,
            format!("{limit} (net.core.somaxconn): of more that come at once some wait a second"),
            format!("sysctl -w net.core.somaxconn={BACKLOG}"),
        ),
    }
}

fn pipes(pages: u64, sessions: u64) -> Check {
    const NAME: &str = "pipes for splicing";
    let large = pages / PAGES_PER_PIPE;
    match pages == 0 || large >= 2 * sessions {
        true => Check::good(NAME, "as many as there can be sessions"),
        false => Check::bad(
            NAME,
            format!(
                "{large} large ones (fs.pipe-user-pages-soft), for this user lacks CAP_SYS_RESOURCE; more are slower"
            ),
            "sysctl -w fs.pipe-user-pages-soft=0",
        ),
    }
}

/// Whether packets to a target may be as large as its device takes them.
fn mtu(group: &Group, target: &Target) -> Check {
    let name = format!("way to {}/{}", group.name, target.name);
    let segment = match path::segment_towards(target.address, &group.dial, &group.tcp) {
        Ok(segment) => segment,
        Err(error) => {
            let remedy = "look at `ip route get`, and whether the VPN is up and group.tcp is right";
            return Check::bad(name, format!("no route to {}: {error}", target.address), remedy);
        }
    };
    let route = segment + headers(target.address.is_ipv6());
    let Some(Device::Of { name: device, mtu: Some(limit) }) = device_towards(group, target) else {
        return Check::good(name, format!("packets of {route} bytes"));
    };
    match route < limit {
        false => Check::good(name, format!("{device}, packets of {route} bytes")),
        true => Check::bad(
            name,
            format!("{device} takes packets of {limit} bytes, but somebody on the way only {route}"),
            format!("ip link set {device} mtu {route}, or in the VPN's settings: large packets are lost at first"),
        ),
    }
}

/// What packets to a target leave by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// Nothing: the target is on this host.
    Loopback,
    /// This device.
    Of {
        name: String,
        /// Its largest packet, in bytes; `None` where /sys does not show this network namespace.
        mtu: Option<u32>,
    },
}

/// The device that packets to a target leave by; `None`: it is not known.
pub(super) fn device_towards(group: &Group, target: &Target) -> Option<Device> {
    let name = match &group.tcp.interface {
        Some(name) => name.clone(),
        None => {
            let any = if target.address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = std::net::UdpSocket::bind(any).ok()?;
            socket.connect(target.address).ok()?;
            let local = socket.local_addr().ok()?.ip();
            let is_it = |address: &nix::sys::socket::SockaddrStorage| {
                let v4 = address.as_sockaddr_in().map(|of| of.ip().into());
                v4.or_else(|| address.as_sockaddr_in6().map(|of| of.ip().into())) == Some(local)
            };
            let found = getifaddrs().ok()?.find(|of| of.address.as_ref().is_some_and(is_it))?;
            // The way to this host's own addresses is loopback, whatever device has them.
            if found.flags.contains(InterfaceFlags::IFF_LOOPBACK) || local == target.address.ip() {
                return Some(Device::Loopback);
            }
            found.interface_name
        }
    };
    let mtu = fs::read_to_string(Path::new("/sys/class/net").join(&name).join("mtu")).ok();
    Some(Device::Of { name, mtu: mtu.and_then(|mtu| mtu.trim().parse().ok()) })
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit};

    use super::*;
    use crate::config::example;

    fn config(max_connections: u32, target: &str) -> Config {
        example(&format!("max_connections = {max_connections}"), "", target)
    }

    fn broken(host: Host, config: &Config) -> Vec<(String, bool, Option<String>)> {
        let checks = host.checks(config).into_iter().filter(|check| !check.ok);
        checks.map(|check| (check.name, check.breaks, check.remedy)).collect()
    }

    #[test]
    fn the_limits_of_a_process_are_those_that_the_kernel_tells_it() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(open_files("/proc/self"), Some(hard));
        assert_eq!(open_files("/proc/nobody"), None);
        assert!(!is_landbridge("/proc/self"));
    }

    #[test]
    fn a_machine_that_is_too_small_is_told_what_to_change() {
        let roomy = Host {
            files: Some(1 << 20),
            whose: "for the daemon",
            ports: Some((1024, 65535)),
            waiting: Some(4096),
            pipe_pages: Some(0),
        };
        assert_eq!(broken(roomy, &config(20_000, "")), []);

        let files = broken(Host { files: Some(1024), ..roomy }, &config(1_000, ""));
        assert_eq!(files[0].0, "open files");
        assert!(files[0].1 && files[0].2.as_ref().is_some_and(|of| of.contains("LimitNOFILE=7512")), "{files:?}");

        let few = Host { ports: Some((32_768, 60_999)), ..roomy };
        let ports = broken(few, &config(40_000, ""));
        assert!(ports.len() == 1 && ports[0].0 == "local ports" && ports[0].1, "{ports:?}");
        assert_eq!(broken(few, &config(40_000, "max_connections = 20000")), [], "a target with a limit of its own");

        let slow = broken(Host { waiting: Some(128), pipe_pages: Some(16_384), ..roomy }, &config(20_000, ""));
        let names: Vec<_> = slow.iter().map(|(name, breaks, _)| (name.as_str(), *breaks)).collect();
        assert_eq!(names, [("waiting connections", false), ("pipes for splicing", false)]);
    }
}
