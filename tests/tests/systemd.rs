//! The protocols that systemd speaks with a service, spoken to real sockets, and the unit files.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{
    Config, Daemon, Ending, Group, Host, LISTENER_PORT, Net, PATIENCE, Process, SocketExt, Tool, binary, eventually,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// systemd's end of the notification socket.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let socket = UnixDatagram::bind(folder.path().join("notify"))?;
        Ok(Self { socket, folder })
    }

    /// Starts a daemon that notifies this, with these further variables.
    fn start(&self, host: &Host, config: &Config, variables: &[&str]) -> Result<Daemon> {
        let notify = format!("NOTIFY_SOCKET={}", self.folder.path().join("notify").display());
        let wrapper: Vec<&str> = ["env", &notify].into_iter().chain(variables.iter().copied()).collect();
        Daemon::start_by(&wrapper, host, config)
    }

    /// The next message within `limit`, as its lines.
    fn within(&self, limit: Duration) -> Result<Option<Vec<String>>> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Ok(Some(std::str::from_utf8(&buffer[..length])?.lines().map(str::to_owned).collect())),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message that has a line for which `wanted` is true, and what came before it.
    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<(Vec<String>, Vec<Vec<String>>)> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        while Instant::now() < deadline {
            match self.within(PATIENCE)? {
                Some(message) if message.iter().any(|line| wanted(line)) => return Ok((message, before)),
                Some(message) => before.push(message),
                None => break,
            }
        }
        bail!("{what} did not come; there were {before:?}")
    }

    fn wait_line(&self, line: &str) -> Result<Vec<String>> {
        Ok(self.wait(line, |found| found == line)?.0)
    }
}

fn value(message: &[String], key: &str) -> Result<u64> {
    let value = message.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(value.with_context(|| format!("no {key} in {message:?}"))?.parse()?)
}

fn monotonic_usec() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(now).as_micros())?)
}

#[test]
fn systemd_learns_of_every_change() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let group = Group::new("onprem").health("kind = \"tcp\"").target(echo.address());
    let config = Config::new([group.target(net.targets[0].v4(9001))]).runtime("drain_timeout = \"20s\"");
    let manager = Manager::new()?;
    let mut daemon = manager.start(&net.proxy, &config, &[])?;

    // That one target is down is known only after a probe.
    let (ready, before) = manager.wait("READY=1", |line| line == "READY=1")?;
    ensure!(before.is_empty(), "{before:?}");
    ensure!(value(&ready, "MAINPID")? == u64::from(daemon.process().id()), "{ready:?}");
    ensure!(ready.contains(&"STATUS=serving: 1 of 1 groups, 1 of 2 targets, 0 sessions".to_owned()), "{ready:?}");

    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"a session")?;
    manager.wait_line("STATUS=serving: 1 of 1 groups, 1 of 2 targets, 1 sessions")?;

    let since = monotonic_usec()?;
    daemon.reload(&config.clone().listener("max_connections = 77"))?;
    let reloading = manager.wait_line("RELOADING=1")?;
    let at = value(&reloading, "MONOTONIC_USEC")?;
    ensure!((since..=monotonic_usec()?).contains(&at), "{reloading:?} after {since}");
    manager.wait_line("READY=1")?;

    daemon.reload_text("[[listener]]\nname = 7\n")?;
    manager.wait_line("RELOADING=1")?;
    manager.wait_line("READY=1")?;
    manager.wait("the failure", |line| line.ends_with("1 sessions; the last reload failed"))?;

    daemon.process().signal(Signal::SIGTERM)?;
    let stopping = manager.wait_line("STOPPING=1")?;
    ensure!(value(&stopping, "EXTEND_TIMEOUT_USEC")? > 20_000_000, "{stopping:?}");
    manager.wait("that it drains", |line| line.starts_with("STATUS=draining: "))?;
    session.finish_writing()?;
    session.expect_ending(Ending::Closed)?;
    drop(session);
    daemon.wait_exit(PATIENCE).map(drop)
}

#[test]
fn the_watchdog_is_answered_while_every_worker_turns() -> Result<()> {
    const PERIOD: Duration = Duration::from_millis(600);
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let manager = Manager::new()?;
    let config = Config::single(echo.address()).runtime("workers = 2");
    let mut daemon = manager.start(&net.proxy, &config, &["WATCHDOG_USEC=600000"])?;
    for _ in 0..3 {
        let since = Instant::now();
        manager.wait_line("WATCHDOG=1")?;
        // The machine may be busy, but not for as long as systemd waits.
        ensure!(since.elapsed() < PERIOD, "{:?}", since.elapsed());
    }

    let frozen = daemon.process().hold("worker-1")?;
    eventually("a worker is missed", || {
        ensure!(daemon.process().stderr().contains("do not turn"), "not yet");
        Ok(())
    })?;
    while manager.within(Duration::from_millis(1))?.is_some() {}
    let deadline = Instant::now() + 2 * PERIOD;
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let message = manager.within(left)?.unwrap_or_default();
        ensure!(!message.contains(&"WATCHDOG=1".to_owned()), "a worker is stuck, and systemd hears that all is well");
    }
    drop(frozen);
    manager.wait_line("WATCHDOG=1")?;
    daemon.stop().map(drop)
}

#[test]
fn after_an_upgrade_the_new_process_is_the_service() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let manager = Manager::new()?;
    let mut daemon = manager.start(&net.proxy, &Config::single(echo.address()), &["WATCHDOG_USEC=5000000"])?;
    manager.wait_line("READY=1")?;
    daemon.process().signal(Signal::SIGUSR2)?;
    let (ready, before) = manager.wait("the new process", |line| line == "READY=1")?;
    let successor = value(&ready, "MAINPID")?;
    ensure!(successor != u64::from(daemon.process().id()), "{ready:?}");
    let _end = Killed(Pid::from_raw(successor.try_into()?));
    let former = format!("/proc/{}/stat", daemon.process().id());
    eventually("the former process has ended", || {
        let stat = fs::read_to_string(&former)?;
        ensure!(stat.contains(") Z "), "not yet: {stat}");
        Ok(())
    })?;
    // Its own watchdog, and nothing of the end of the former process.
    let (_, more) = manager.wait("WATCHDOG=1", |line| line == "WATCHDOG=1")?;
    let stopping = |message: &Vec<String>| message.contains(&"STOPPING=1".to_owned());
    ensure!(!before.iter().chain(&more).any(stopping), "{before:?} {more:?}");
    net.client.connect(daemon.v4())?.expect_echo(b"served by the new process")
}

/// A process that is no child of the test.
struct Killed(Pid);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        kill(self.0, Signal::SIGKILL).ok();
    }
}

/// How many sockets listen on the listener's port.
fn listening(host: &Host) -> Result<usize> {
    let mut ss = Tool::Ss.on(host)?;
    ss.args(["-H", "-l", "-t", "-n", "sport", "=", &format!(":{LISTENER_PORT}")]);
    Ok(Process::start("ss", &mut ss)?.succeed(PATIENCE)?.lines().count())
}

#[test]
fn it_serves_on_the_sockets_of_systemd() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).runtime("workers = 2").bind("[::]:8000");
    let activate =
        ["systemd-socket-activate", "--listen=0.0.0.0:8000", "--listen=127.0.0.1:9900", "--listen=127.0.0.1:7"];
    let mut daemon = Daemon::start_by(&activate, &net.proxy, &config)?;
    for _ in 0..8 {
        net.client.connect(daemon.v4())?.expect_echo(b"by the socket of systemd")?;
        net.client.connect(daemon.v6())?.expect_echo(b"by the daemon's own")?;
    }
    // One of systemd, which the workers share, and one of its own for each worker.
    eventually("the sockets", || {
        let listening = listening(&net.proxy)?;
        ensure!(listening == 3, "{listening}");
        Ok(())
    })?;
    ensure!(daemon.process().stderr().contains("listens here for nobody"), "nobody serves port 7");
    daemon.stop().map(drop)
}

#[test]
fn clients_wait_while_an_activated_daemon_is_restarted() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).runtime("workers = 2");
    let socket: OwnedFd = net.proxy.listen(net.proxy.v4(LISTENER_PORT))?.into();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
    // What systemd does: the socket as descriptor 3, and the id of the very process.
    let script = format!("exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", socket.as_raw_fd());
    let activate = ["bash", "-c", &script, "bash"];
    let config = config.only_bind(&[&net.proxy.v4(LISTENER_PORT).to_string()]);

    let mut first = Daemon::start_by(&activate, &net.proxy, &config)?;
    net.client.connect(first.v4())?.expect_echo(b"the first")?;
    first.stop()?;
    let mut waiting = net.client.connect(net.proxy.v4(LISTENER_PORT))?;
    let mut second = Daemon::start_by(&activate, &net.proxy, &config)?;
    waiting.expect_echo(b"nobody was there, and nothing is lost")?;
    drop(waiting);
    second.stop().map(drop)
}

#[test]
fn the_control_socket_of_systemd_outlives_the_daemon() -> Result<()> {
    let net = Net::new(1)?;
    let folder = TempDir::new()?;
    let [path, file] = ["admin.sock", "landbridge.toml"].map(|name| folder.path().join(name));
    fs::write(&file, Config::single(net.targets[0].v4(9000)).socket(&path).to_string())?;
    let socket: OwnedFd = UnixListener::bind(&path)?.into();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let script = format!("exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", socket.as_raw_fd());
    let mut command = net.proxy.command("bash");
    command.args(["-c", &script, "bash"]).arg(binary("landbridge")?).arg("run").arg("--config").arg(&file);
    let mut daemon = Process::start("landbridge", &mut command)?;
    eventually("it is ready", || {
        ensure!(daemon.stderr().contains("ready"), "{}", daemon.stderr());
        Ok(())
    })?;
    let mut status = net.proxy.command(binary("landbridge")?);
    status.arg("status").arg("--socket").arg(&path);
    ensure!(Process::start("landbridge", &mut status)?.succeed(PATIENCE)?.contains("serving"));
    daemon.signal(Signal::SIGTERM)?;
    let finished = daemon.finish(PATIENCE)?;
    ensure!(finished.code() == 0, "{finished:?}");
    UnixStream::connect(&path).context("systemd still listens there")?;
    Ok(())
}

#[test]
fn a_socket_of_another_kind_is_refused() -> Result<()> {
    let net = Net::new(1)?;
    let folder = TempDir::new()?;
    let file = folder.path().join("landbridge.toml");
    fs::write(&file, Config::single(net.targets[0].v4(9000)).to_string())?;
    let script = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let mut command = net.proxy.command("sh");
    command.args(["-c", script, "sh"]).arg(binary("landbridge")?).arg("run").arg("--config").arg(&file);
    let finished = Process::start("landbridge", &mut command)?.finish(PATIENCE)?;
    ensure!(finished.code() == 1 && finished.stderr.contains("socket 0 of systemd"), "{finished:?}");
    Ok(())
}

#[test]
fn the_units_are_valid() -> Result<()> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let folder = TempDir::new()?;
    let mut verify = Command::new("systemd-analyze");
    // Their manual page is not installed here, and neither is the daemon where the package has it.
    verify.args(["verify", "--man=no"]);
    let daemon = binary("landbridge")?.display().to_string();
    for unit in ["landbridge.service", "landbridge.socket", "run-landbridge-bpf.mount"] {
        let text = fs::read_to_string(units.join(unit))?.replace("/usr/bin/landbridge", &daemon);
        fs::write(folder.path().join(unit), text)?;
        verify.arg(folder.path().join(unit));
    }
    let finished = Process::start("systemd-analyze", &mut verify)?.finish(PATIENCE)?;
    // It only warns about keys that it does not know.
    ensure!(finished.code() == 0 && finished.stderr.is_empty(), "{finished:?}");
    Ok(())
}
