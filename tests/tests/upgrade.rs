//! SIGUSR2: a new process takes over the sockets, and no client is refused.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use landbridge_tests::streams::Streams;
use landbridge_tests::targets::{Echo, Streaming};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, ON_OLD_KERNEL, PATIENCE, SocketExt, binary, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const DRAIN: &str = "drain_timeout = \"20s\"";

/// The process that took over. It is no child of the test, so it must be ended here.
struct Successor(Pid);

impl Successor {
    /// The one that the daemon's log names.
    fn of(daemon: &mut Daemon) -> Result<Self> {
        eventually("a process is started", || {
            let log = daemon.process().stderr();
            let named = log.rsplit_once("successor=").context("none yet")?.1;
            let id = named.split_whitespace().next().context("no id")?;
            Ok(Self(Pid::from_raw(id.parse()?)))
        })
    }

    /// One that is asked for now, of a daemon whose sessions are joined: it leaves all of them, and ends.
    fn of_joined(daemon: &mut Daemon) -> Result<Self> {
        daemon.process().signal(Signal::SIGUSR2)?;
        let successor = Self::of(daemon)?;
        let id = daemon.process().id();
        eventually("the old process has nothing left and ends", || {
            ensure!(has_ended(id), "not yet");
            Ok(())
        })?;
        Ok(successor)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may have ended already.
        kill(self.0, Signal::SIGKILL).ok();
    }
}

/// Whether a process has ended; its parent may not have asked for its status yet.
fn has_ended(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[test]
fn an_upgrade_under_load_refuses_nobody() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Streaming::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).runtime(DRAIN))?;
    let streams = Streams::open(&net.client, daemon.v4(), 200)?;
    let mut old = net.client.connect(daemon.v4())?;
    old.expect_echo(b"before")?;
    // A session that cannot be joined stays where it is.
    let mut never_joined = net.proxy.connect(daemon.v4())?;
    never_joined.expect_echo(b"before")?;
    let (stop, served, address) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), daemon.v4());
    let load = || {
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        net.client.spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                TcpStream::connect(address)?.expect_echo(b"a short session")?;
                served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    let clients = [load(), load(), load()];
    let kept = {
        let stop = Arc::clone(&stop);
        let mut session = net.client.connect(address)?;
        net.client.spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                session.expect_echo(b"one of many requests")?;
            }
            Ok(())
        })
    };
    let serves = |what: &str| {
        let before = served.load(Ordering::Relaxed);
        eventually(what, || {
            ensure!(served.load(Ordering::Relaxed) > before + 20);
            Ok(())
        })
    };
    serves("the old process serves")?;
    daemon.process().signal(Signal::SIGUSR2)?;
    let _successor = Successor::of(&mut daemon)?;
    eventually("the old process drains", || {
        ensure!(daemon.process().stderr().contains("draining: no new sessions"), "not yet");
        Ok(())
    })?;
    serves("the new process serves")?;
    stop.store(true, Ordering::Relaxed);
    for client in clients.into_iter().chain([kept]) {
        client.join().expect("a client does not panic")?;
    }
    echo.end_streams();
    ensure!(streams.finish()? > 10, "the streams have run all the time");
    old.expect_echo(b"an old session goes on")?;
    never_joined.expect_echo(b"one that the old process has goes on")?;
    let id = daemon.process().id();
    ensure!(!has_ended(id), "it has a session left");
    // The admin address and the control socket are the new process's.
    assert_eq!(daemon.get("/readyz")?.0, 200);
    ensure!(daemon.cli_good(&["status"])?.contains("serving"));

    never_joined.finish_writing()?;
    never_joined.expect_ending(Ending::Closed)?;
    eventually("the old process has ended", || {
        ensure!(has_ended(id), "not yet");
        Ok(())
    })?;
    old.finish_writing()?;
    old.expect_ending(Ending::Closed)?;
    net.client.connect(daemon.v4())?.expect_echo(b"the new one goes on")?;
    Ok(())
}

#[test]
fn a_process_that_does_not_come_up_changes_nothing() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).runtime(DRAIN))?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"before")?;
    std::fs::write(daemon.file(), "[[listener]]\nname = 7\n")?;
    daemon.process().signal(Signal::SIGUSR2)?;
    let _successor = Successor::of(&mut daemon)?;
    eventually("the old process goes on", || {
        ensure!(daemon.process().stderr().contains("no upgrade, this process goes on"), "not yet");
        Ok(())
    })?;
    ensure!(daemon.process().stderr().contains("7 is a whole number, not a string"), "the log says why");
    session.expect_echo(b"after")?;
    net.client.connect(daemon.v4())?.expect_echo(b"new sessions too")?;
    drop(session);
    assert_eq!(daemon.get("/readyz")?.0, 200);
    daemon.stop_at_once().map(drop)
}

/// The binary is gone, and then it is another program, which ends at once.
#[test]
fn what_is_no_landbridge_takes_over_nothing() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let folder = TempDir::new()?;
    let program = folder.path().join("landbridge");
    std::fs::copy(binary("landbridge")?, &program)?;
    let copied = format!("shift; exec {} \"$@\"", program.display());
    let mut daemon = Daemon::start_by(&["sh", "-c", &copied, "sh"], &net.proxy, &Config::single(echo.address()))?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"before")?;
    std::fs::remove_file(&program)?;
    for attempt in 1..=2 {
        daemon.process().signal(Signal::SIGUSR2)?;
        eventually("the old process goes on", || {
            let refused = daemon.process().stderr().matches("no upgrade, this process goes on").count();
            ensure!(refused == attempt, "{refused} of {attempt}");
            Ok(())
        })?;
        session.expect_echo(b"after")?;
        net.client.connect(daemon.v4())?.expect_echo(b"new sessions too")?;
        if attempt == 1 {
            std::os::unix::fs::symlink("/bin/true", &program)?;
        }
    }
    daemon.stop_at_once().map(drop)
}

#[test]
fn an_upgrade_takes_the_joined_sessions_along() -> Result<()> {
    takes_sessions_along(&[])
}

#[test]
fn an_upgrade_takes_the_joined_sessions_along_on_an_old_kernel() -> Result<()> {
    takes_sessions_along(&ON_OLD_KERNEL)
}

fn takes_sessions_along(wrapper: &[&str]) -> Result<()> {
    const SESSIONS: usize = 20;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start_by(wrapper, &net.proxy, &Config::single(echo.address()).runtime(DRAIN))?;
    let mut clients = (0..SESSIONS).map(|_| net.client.connect(daemon.v4())).collect::<Result<Vec<_>>>()?;
    let mut talk = |what: &str| clients.iter_mut().try_for_each(|client| client.expect_echo(what.as_bytes()));
    for _ in 0..5 {
        talk("before")?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], SESSIONS as f64)?;
    let _successor = Successor::of_joined(&mut daemon)?;
    daemon.wait_metric("landbridge_datapath_adoptions_total", &[], SESSIONS as f64)?;
    talk("after")?;
    drop(clients);
    daemon.wait_ended(SESSIONS as u32, "client_closed")?;
    // New sessions are joined by the new process.
    let mut client = net.client.connect(daemon.v4())?;
    for _ in 0..5 {
        client.expect_echo(b"a new session")?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)
}

/// The new process fails after the joined sessions were left to it. Nobody counts them any more, which is said, but they go on.
#[test]
fn an_upgrade_that_fails_late_leaves_joined_sessions_to_the_kernel_and_says_so() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).runtime(DRAIN))?;
    let mut session = net.client.connect(daemon.v4())?;
    for _ in 0..5 {
        session.expect_echo(b"before")?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    // It binds its admin address after it has taken over.
    let taken = net.proxy.listen((Ipv4Addr::LOCALHOST, 0).into())?;
    let text = std::fs::read_to_string(daemon.file())?;
    let line = text.lines().find(|line| line.starts_with("listen = ")).context("an admin address")?;
    std::fs::write(daemon.file(), text.replacen(line, &format!("listen = \"{}\"", taken.local_addr()?), 1))?;
    daemon.process().signal(Signal::SIGUSR2)?;
    let _successor = Successor::of(&mut daemon)?;
    eventually("the old process goes on", || {
        ensure!(daemon.process().stderr().contains("the packet datapath was handed over already"), "not yet");
        Ok(())
    })?;
    session.expect_echo(b"after")?;
    net.client.connect(daemon.v4())?.expect_echo(b"new sessions too")?;
    let metrics = daemon.metrics()?;
    ensure!(metrics.lines("landbridge_packet_available").contains("handed_over"), "the metrics do not say it");
    let retired = metrics.value("landbridge_datapath_fallbacks_total", &[("reason", "retired")]);
    ensure!(retired == 1.0, "{retired} sessions were not joined because the datapath was handed over");
    // The next daemon adopts it.
    std::fs::write(daemon.file(), text)?;
    daemon.kill()?;
    daemon.start_again()?;
    daemon.wait_metric("landbridge_datapath_adoptions_total", &[], 1.0)?;
    session.expect_echo(b"and after that")?;
    drop(session);
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn an_upgrade_keeps_what_the_operator_has_ordered() -> Result<()> {
    let net = Net::new(1)?;
    let targets = [Echo::start(&net.targets[0], 9000)?, Echo::start(&net.targets[0], 9001)?];
    let first = Group::new("first").target_with(targets[0].address(), "name = \"gpu\"");
    let config = Config::new([first, Group::new("second").target(targets[1].address())]);
    let mut daemon = Daemon::start(&net.proxy, &config.runtime("drain_timeout = \"12s\""))?;
    let mut joined = net.client.connect(daemon.v4())?;
    for _ in 0..5 {
        joined.expect_echo(b"before")?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    daemon.cli_good(&["set", "weight", "first/gpu", "7", "--for", "1h"])?;
    daemon.cli_good(&["set", "weight", "second", "9"])?;
    daemon.cli_good(&["set", "state", "first", "draining"])?;
    let _successor = Successor::of_joined(&mut daemon)?;
    let status = daemon.json(&["status"])?;
    ensure!(status["process"] != daemon.process().id(), "{status}");
    let (first, second) = (&status["groups"][0], &status["groups"][1]);
    assert_eq!((&first["state"], &second["state"]), (&"draining".into(), &"active".into()));
    let weight = &first["targets"][0]["weight"];
    assert_eq!((&weight["weight"], &weight["origin"]), (&7.into(), &"operator".into()));
    let left = weight["left_ms"].as_u64().context("a time")?;
    ensure!((3_500_000..3_600_000).contains(&left), "{left} ms are left");
    assert_eq!(second["weight"], serde_json::json!({ "weight": 9, "origin": "operator" }));

    // What drains has no longer than it had.
    let left = first["targets"][0]["ends_in_ms"].as_u64().context("a deadline")?;
    ensure!(left < 12_000, "{left} ms are left");
    joined.expect_echo(b"after")?;
    // The deadline may be further away than a test's patience.
    sleep(Duration::from_millis(left).saturating_sub(PATIENCE / 2));
    joined.expect_ending(Ending::Reset)?;
    daemon.wait_ended(1, "drained")?;
    net.client.connect(daemon.v4())?.expect_echo(b"the other group serves")
}
