//! A host: a network namespace with a name for messages and an address of each family.
//!
//! The namespace itself is anonymous. The kernel keeps it as long as something refers to it, which is this handle or a
//! socket or process inside, so nothing has to be removed and nothing stays behind when a test panics or is killed.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

/// Links between hosts lose nothing and have no delay.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A host of a test.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: Arc<OwnedFd>,
    v4: IpAddr,
    v6: IpAddr,
}

impl Host {
    /// Makes a host with nothing but a loopback device; [`crate::Net`] gives it the addresses that it is known by.
    pub(crate) fn new(name: &str, v4: IpAddr, v6: IpAddr) -> Result<Self> {
        let namespace = thread::spawn(|| -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes a network namespace panicked"))?
        .context("cannot make a network namespace; the end-to-end tests need root")?;
        let host = Self { name: name.to_owned(), namespace: Arc::new(namespace), v4, v6 };
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address with `port`.
    pub fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4, port)
    }

    /// Its IPv6 address with `port`.
    pub fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6, port)
    }

    /// Runs `work` on a thread inside the host; sockets that it makes stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let finished = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.join_namespace();
                work()
            });
            inside.join()
        });
        finished.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `work` on a thread inside the host, alongside the test.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let host = self.clone();
        thread::spawn(move || {
            host.join_namespace();
            work()
        })
    }

    /// A command that will run inside the host, and be killed when the thread that starts it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = Arc::clone(&self.namespace);
        let prepare = move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
            set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls run; they neither allocate nor take a lock.
        unsafe { command.pre_exec(prepare) };
        command
    }

    /// Runs `ip` with `arguments` inside the host.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let output = self.command("ip").args(arguments.split_whitespace()).output().context("cannot run `ip`")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`ip {arguments}` on {}: {}", self.name, complaint.trim());
        Ok(())
    }

    /// The filters at the ingress of a device that run the packet datapath's program, as `tc` shows them.
    pub fn filters(&self, device: &str) -> Result<Vec<String>> {
        let mut command = self.command("tc");
        let output = command.args(["filter", "show", "dev", device, "ingress"]).output().context("cannot run `tc`")?;
        ensure!(output.status.success(), "`tc` for {device} of {}: {output:?}", self.name);
        let shown = String::from_utf8_lossy(&output.stdout);
        Ok(shown.lines().filter(|line| line.contains("packet_ethernet")).map(String::from).collect())
    }

    /// Sets a kernel parameter of the host's network, by its path below `net`.
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<()> {
        let set = self.enter(|| std::fs::write(format!("/proc/sys/net/{path}"), value));
        set.with_context(|| format!("cannot set {path} of {}", self.name))
    }

    /// Connects from the host to `address`.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        self.try_connect(address).with_context(|| format!("{} cannot connect to {address}", self.name))
    }

    /// Connects from the host to `address`, for tests in which it may fail.
    pub fn try_connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.enter(|| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects to `address` from `source`, another address of the host.
    pub fn connect_from(&self, source: IpAddr, address: SocketAddr) -> Result<TcpStream> {
        self.connect_from_port(SocketAddr::new(source, 0), address)
    }

    /// Connects to `address` from this address and port of the host.
    pub fn connect_from_port(&self, source: SocketAddr, address: SocketAddr) -> Result<TcpStream> {
        let connect = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&source.into())?;
            socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
            Ok(socket.into())
        };
        self.enter(connect).with_context(|| format!("{} cannot connect to {address} from {source}", self.name))
    }

    /// Listens on `address` of the host.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.enter(|| TcpListener::bind(address)).with_context(|| format!("{} cannot listen on {address}", self.name))
    }

    /// A counter of the host's network stack, such as `TCPTimeouts` of `TcpExt` (`/proc/net/netstat`, `/proc/net/snmp`).
    pub fn counter(&self, protocol: &str, name: &str) -> Result<u64> {
        let read = || -> io::Result<String> {
            let [snmp, netstat] = ["snmp", "netstat"].map(|file| format!("/proc/thread-self/net/{file}"));
            Ok(std::fs::read_to_string(snmp)? + &std::fs::read_to_string(netstat)?)
        };
        let text = self.enter(read)?;
        // Two lines each: names, then values.
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split(' ').zip(values.split(' '));
        let value = pairs.find_map(|(found, value)| (found == name).then_some(value));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("no counter {name} of {protocol}"))
    }

    /// A path that names the namespace for `ip`.
    pub(crate) fn namespace_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    fn join_namespace(&self) {
        setns(&*self.namespace, CloneFlags::CLONE_NEWNET).expect("a namespace that was made can be entered");
    }
}
