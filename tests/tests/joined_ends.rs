//! Joined sessions that the daemon ends: both peers are reset, by segments that they take at once.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Link, Net, PATIENCE, Process, SocketExt, Tool, eventually};
use nix::sys::signal::Signal;

const ROUNDS: u32 = 20;
const MESSAGE: &[u8] = b"message";

/// A joined session.
struct Session {
    net: Net,
    daemon: Daemon,
    target: Scripted<()>,
    client: TcpStream,
    /// What health checks ask.
    health: Option<Echo>,
}

impl Session {
    /// With a target that echoes for a while, and then waits until it is reset.
    fn start(config: impl FnOnce(SocketAddr) -> Config) -> Result<Self> {
        let net = Net::new(1)?;
        let health = Some(Echo::start(&net.targets[0], 9001)?);
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            for _ in 0..ROUNDS {
                stream.expect(MESSAGE)?;
                stream.write_all(MESSAGE)?;
            }
            is_reset(&stream)
        })?;
        let daemon = Daemon::start(&net.proxy, &config(target.address()))?;
        let mut client = net.client.connect(daemon.v4())?;
        for _ in 0..ROUNDS {
            client.expect_echo(MESSAGE)?;
        }
        daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
        Ok(Self { net, daemon, target, client, health })
    }

    /// Both peers are reset, and neither had to ask whether that was meant: a reset that does not have the very number that is
    /// expected is answered with a challenge (RFC 5961).
    fn ends(&self) -> Result<()> {
        is_reset(&self.client).context("client")?;
        self.target.outcome().context("target")?;
        for host in [&self.net.client, &self.net.targets[0]] {
            let challenges = host.counter("TcpExt", "TCPChallengeACK")?;
            ensure!(challenges == 0, "{} has challenged {challenges} segments", host.name());
        }
        Ok(())
    }

    /// The same, and the daemon counts it so.
    fn ends_as(mut self, end: &str) -> Result<()> {
        self.ends()?;
        self.daemon.wait_ended(1, end)?;
        self.daemon.stop().map(drop)
    }
}

fn is_reset(stream: &TcpStream) -> Result<()> {
    eventually("a reset", || stream.take_error()?.map(drop).context("not yet"))
}

#[test]
fn silent() -> Result<()> {
    Session::start(|target| Config::single(target).listener("idle_timeout = \"1s\""))?.ends_as("idle")
}

#[test]
fn half_closed_and_silent() -> Result<()> {
    let session = Session::start(|target| Config::single(target).listener("half_close_timeout = \"1s\""))?;
    session.client.finish_writing()?;
    session.ends_as("half_close_timeout")
}

#[test]
fn too_old() -> Result<()> {
    Session::start(|target| Config::single(target).listener("max_session_age = \"1s\""))?.ends_as("max_age")
}

#[test]
fn of_a_target_that_is_down() -> Result<()> {
    let health = "kind = \"tcp\"\nport = 9001\ninterval = \"200ms\"\nfast_interval = \"100ms\"\nfall = 2";
    let group = |target| Group::new("onprem").with("on_down = \"reset\"").health(health).target(target);
    let mut session = Session::start(|target| Config::new([group(target)]))?;
    session.health = None;
    session.ends_as("target_down")
}

#[test]
fn of_a_target_that_is_removed() -> Result<()> {
    let group = |target| Config::new([Group::new("onprem").with("on_removal = \"reset\"").target(target)]);
    let session = Session::start(group)?;
    session.daemon.reload(&group(session.net.targets[0].v4(9002)))?;
    session.ends()
}

#[test]
fn shut_down_by_the_operator() -> Result<()> {
    let session = Session::start(Config::single)?;
    session.daemon.cli_good(&["shutdown", "sessions", "onprem"])?;
    session.ends_as("shut_down")
}

#[test]
fn at_the_deadline_of_a_drain_by_the_operator() -> Result<()> {
    let session = Session::start(|target| Config::single(target).runtime("drain_timeout = \"700ms\""))?;
    session.daemon.cli_good(&["set", "state", "onprem", "draining"])?;
    session.ends_as("drained")
}

#[test]
fn at_the_deadline_of_a_stop() -> Result<()> {
    let mut session = Session::start(|target| Config::single(target).runtime("drain_timeout = \"700ms\""))?;
    session.daemon.process().signal(Signal::SIGTERM)?;
    session.ends()?;
    session.daemon.wait_exit(PATIENCE).map(drop)
}

/// As of a VPN's device that is set up again. What cannot be asked meanwhile says nothing about a peer, whether the ports
/// were held before or, after a restart, not yet; and both are told of the end.
#[test]
fn after_an_address_was_gone() -> Result<()> {
    const GONE: Duration = Duration::from_secs(3);
    /// More than it takes to find a peer dead.
    const SILENCE: Duration = Duration::from_secs(7);
    const KEEPALIVE: &str = "keepalive = \"1s\"";
    for restarts in [false, true] {
        let net = Net::new(1)?;
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            let mut heard = [0; MESSAGE.len()];
            loop {
                match stream.read_exact(&mut heard) {
                    Ok(()) => stream.write_all(&heard)?,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        })?;
        let group = Group::new("onprem").tcp(KEEPALIVE).target(target.address());
        let config = Config::new([group]).listener_tcp(KEEPALIVE).runtime("drain_timeout = \"0s\"");
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        for _ in 0..ROUNDS {
            client.expect_echo(MESSAGE)?;
        }
        daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
        if restarts {
            daemon.kill()?;
        }
        let address = format!("{}/24 dev target0", net.proxy_towards(0));
        net.proxy.ip(&format!("addr del {address}"))?;
        if restarts {
            daemon.start_again()?;
        }
        sleep(GONE);
        net.proxy.ip(&format!("addr add {address}"))?;
        client.expect_echo(MESSAGE)?;
        sleep(SILENCE);
        client.expect_echo(MESSAGE).with_context(|| format!("restarts: {restarts}"))?;
        daemon.stop()?;
        is_reset(&client).context("client")?;
        target.outcome().context("target")?;
    }
    Ok(())
}

/// In order, and not by the daemon: each peer ends its direction before it can have heard of the other one's end.
#[test]
fn by_both_peers_at_once() -> Result<()> {
    const SESSIONS: u32 = 3;
    /// One way; far more than it takes to wake the thread of the other peer.
    const FAR: Duration = Duration::from_millis(5);
    let far = Link { delay: FAR, ..Link::default() };
    let net = Net::with_links(far, &[far])?;
    let together = Arc::new(Barrier::new(2));
    let with_client = Arc::clone(&together);
    let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
        for _ in 0..ROUNDS {
            stream.expect(MESSAGE)?;
            stream.write_all(MESSAGE)?;
        }
        ends(stream, &with_client)
    })?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(target.address()))?;
    for session in 1..=SESSIONS {
        let mut client = net.client.connect(daemon.v4())?;
        for _ in 0..ROUNDS {
            client.expect_echo(MESSAGE)?;
        }
        daemon.wait_metric("landbridge_datapath_joins_total", &[], session.into())?;
        ends(client, &together)?;
        target.outcome()?;
    }
    eventually("all have ended in order", || {
        let metrics = daemon.metrics()?;
        let ended = |end| metrics.value("landbridge_sessions_total", &[("end", end)]);
        let in_order = ended("client_closed") + ended("target_closed");
        ensure!(in_order == f64::from(SESSIONS), "{}", metrics.lines("landbridge_sessions_total"));
        Ok(())
    })?;
    // Only a peer whose end was not the second one keeps its connection in TIME_WAIT.
    for host in [&net.client, &net.targets[0]] {
        let mut ss = Tool::Ss.on(host)?;
        ss.args(["-H", "-t", "-n", "state", "time-wait"]);
        let kept = Process::start("ss", &mut ss)?.succeed(PATIENCE)?;
        ensure!(kept.lines().count() == SESSIONS as usize, "{}: {kept}", host.name());
    }
    daemon.stop().map(drop)
}

/// Ends its direction when the other peer does, and expects the other's end.
fn ends(mut stream: TcpStream, together: &Barrier) -> Result<()> {
    together.wait();
    stream.finish_writing()?;
    stream.expect_ending(Ending::Closed)
}
