//! The network of a measurement: `client - proxy - targets`, three namespaces joined by veth pairs.
//!
//! The namespaces have no names. The kernel removes them with the last process inside, so that nothing stays behind
//! however this program ends.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// The proxies' address towards clients.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Where targets are.
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
/// Where the target is that takes over.
pub(crate) const SPARE: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 3);

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const PROXY_TOWARDS_TARGETS: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);

/// The same for every host: enough ports, and ports that can be used again after a second, for a load of connections.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/ip_local_port_range", "20000 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/core/somaxconn", "4096"),
];

/// The three hosts.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) client: Host,
    pub(crate) proxy: Host,
    pub(crate) targets: Host,
}

impl Net {
    /// Makes the hosts and joins them. The proxy's host also forwards between the two links: the floor of every
    /// comparison is the same load without any proxy.
    pub(crate) fn new() -> Result<Self> {
        let net = Self { client: Host::new("client")?, proxy: Host::new("proxy")?, targets: Host::new("targets")? };
        for (device, far, near_address, far_addresses) in [
            ("client", &net.client, PROXY, &[CLIENT][..]),
            ("targets", &net.targets, PROXY_TOWARDS_TARGETS, &[TARGET, SPARE]),
        ] {
            let namespace = format!("/proc/{}/fd/{}", std::process::id(), far.namespace.as_raw_fd());
            net.proxy.ip(&format!("link add {device} type veth peer name eth0 netns {namespace}"))?;
            net.proxy.ip(&format!("addr add {near_address}/24 dev {device}"))?;
            net.proxy.ip(&format!("link set {device} up"))?;
            for address in far_addresses {
                far.ip(&format!("addr add {address}/24 dev eth0"))?;
            }
            far.ip("link set eth0 up")?;
            far.ip(&format!("route add default via {near_address}"))?;
        }
        Ok(net)
    }

    /// How receive packet steering is set on the proxy's devices, which nobody changed.
    pub(crate) fn steering(&self) -> String {
        let mut masks = Vec::new();
        for device in ["client", "targets"] {
            let path = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
            // Devices of a namespace only show in a /sys that was mounted inside it.
            let mut show = self.proxy.command("unshare");
            show.args(["--mount", "sh", "-c", &format!("mount -t sysfs sysfs /sys && cat {path}")]);
            masks.push(crate::command::output(&mut show).map_or("unknown".to_owned(), |mask| mask.trim().to_owned()));
        }
        if masks.iter().all(|mask| mask.trim_matches(['0', ',']).is_empty()) {
            "off (rps_cpus 0), the kernel's default".to_owned()
        } else {
            format!("rps_cpus {}", masks.join(" and "))
        }
    }
}

/// A network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    name: &'static str,
    namespace: Arc<File>,
}

impl Host {
    fn new(name: &'static str) -> Result<Self> {
        let make = || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        let made =
            thread::spawn(make).join().map_err(|_| anyhow!("the thread that makes {name}'s network panicked"))?;
        let namespace = made.context("cannot make a network namespace; measuring needs root")?;
        let host = Self { name, namespace: Arc::new(namespace) };
        host.ip("link set lo up")?;
        let set = || SYSCTLS.iter().try_for_each(|(key, value)| fs::write(format!("/proc/sys/{key}"), value));
        host.enter(set)?.with_context(|| format!("cannot set the network options of {name}"))?;
        Ok(host)
    }

    /// A command that will run on this host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = Arc::clone(&self.namespace);
        // SAFETY: setns is a plain system call, and the closure allocates nothing.
        unsafe { command.pre_exec(move || setns(&*namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into)) };
        command
    }

    /// Starts a thread on this host: its sockets and its `/proc/net` are the host's.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let namespace = Arc::clone(&self.namespace);
        thread::spawn(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
            work()
        })
    }

    /// Does something on this host and waits for it.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            setns(&*self.namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_| anyhow!("a thread on the host {} panicked", self.name))?
    }

    /// Runs `ip` on this host.
    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        let output = self.command("ip").args(arguments.split(' ')).output().context("cannot run `ip`")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`ip {arguments}` on {}: {}", self.name, complaint.trim());
        Ok(())
    }

    /// Waits until something accepts connections at `address` as seen from here.
    pub(crate) fn wait_for(&self, address: SocketAddr) -> Result<()> {
        self.enter(|| super::process::wait_for(address))?
    }

    /// Waits until the web server behind `address` has answered the host.
    pub(crate) fn wait_for_answer(&self, address: SocketAddr) -> Result<()> {
        self.enter(|| super::process::wait_for_answer(address))?
    }
}
