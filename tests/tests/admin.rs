//! What the admin address tells the balancer in front and the operator.

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Checked, Echo};
use landbridge_tests::{Config, Daemon, Group, Net, SocketExt, eventually};
use nix::sys::signal::Signal;

#[test]
fn it_is_ready_while_it_can_serve() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    assert_eq!(daemon.get("/livez")?.0, 200);
    assert_eq!(daemon.get("/readyz")?.0, 200);
    assert_eq!(daemon.get("/nothing")?.0, 404);

    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"a session that the drain waits for")?;
    daemon.process().signal(Signal::SIGTERM)?;
    eventually("a draining daemon is not ready", || {
        let (status, body) = daemon.get("/readyz")?;
        ensure!(status == 503, "{status} {body}");
        Ok(())
    })?;
    assert_eq!(daemon.get("/livez")?.0, 200);
    drop(client);
    daemon.wait_exit(landbridge_tests::PATIENCE).map(drop)
}

#[test]
fn it_is_not_ready_when_no_group_can_take_a_session() -> Result<()> {
    let net = Net::new(1)?;
    let group = Group::new("onprem").target_with(net.targets[0].v4(9000), "weight = 0");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    assert_eq!(daemon.get("/livez")?.0, 200);
    assert_eq!(daemon.get("/readyz")?.0, 503);
    daemon.stop().map(drop)
}

#[test]
fn bytes_and_connects_are_counted_by_target() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let group = Group::new("onprem").target_with(echo.address(), "name = \"gpu-1\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    for _ in 0..3 {
        net.client.connect(daemon.v4())?.expect_echo(&[b'x'; 1_000])?;
    }
    daemon.wait_ended(3, "client_closed")?;
    let route = [("listener", "main"), ("group", "onprem"), ("target", "gpu-1")];
    let metrics = daemon.metrics()?;
    for (name, more, expected) in [
        ("landbridge_target_connects_total", None, 3.0),
        ("landbridge_target_connect_failures_total", None, 0.0),
        ("landbridge_sessions_total", Some(("end", "client_closed")), 3.0),
        ("landbridge_bytes_total", Some(("direction", "upload")), 3_000.0),
        ("landbridge_bytes_total", Some(("direction", "download")), 3_000.0),
    ] {
        let labels: Vec<_> = route.into_iter().chain(more).collect();
        assert_eq!(metrics.value(name, &labels), expected, "{name} {labels:?}\n{}", metrics.lines(name));
    }
    daemon.stop().map(drop)
}

#[test]
fn readiness_is_told_by_group_and_listener_with_the_reason() -> Result<()> {
    let net = Net::new(2)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let check = Checked::start(&net.targets[1], 9100)?;
    check.answer(503);
    let down = Group::new("onprem").target_with(net.targets[1].v4(9000), "name = \"gpu-1\"");
    let down = down.health("port = 9100").health("interval = \"100ms\"").health("fast_interval = \"20ms\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([down, Group::new("aws").target(echo.address())]))?;
    let answers = |path: &str, status: u16, text: &str| {
        eventually(path, || {
            let (found, body) = daemon.get(path)?;
            ensure!(found == status && body.contains(text), "{found} {body}");
            Ok(())
        })
    };
    answers("/readyz", 200, "ready")?;
    answers("/readyz?listener=main", 200, "ready")?;
    answers("/readyz?group=aws", 200, "ready")?;
    answers("/readyz?group=onprem", 503, "onprem has 0 of 1 targets healthy and needs 1 (gpu-1: ")?;
    answers("/readyz?group=nobody", 404, "there is no group \"nobody\"")?;
    answers("/readyz?listener=nobody", 404, "there is no listener \"nobody\"")?;
    answers("/readyz?colour=red", 400, "ask for group=NAME or listener=NAME")?;
    daemon.cli_good(&["set", "state", "aws", "draining"])?;
    answers("/readyz?group=aws", 503, "aws is draining by the operator")?;
    answers("/readyz?listener=main", 503, "aws is draining by the operator")?;
    answers("/readyz", 503, "no group can take a session: onprem has 0 of 1")?;
    daemon.stop().map(drop)
}

#[test]
fn a_daemon_that_leaves_says_so_before_it_refuses_clients() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).runtime("readiness_delay = \"1500ms\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    daemon.process().signal(Signal::SIGTERM)?;
    let began = std::time::Instant::now();
    eventually("it is not ready", || {
        let (status, body) = daemon.get("/readyz")?;
        ensure!(status == 503 && body == "draining\n", "{status} {body}");
        Ok(())
    })?;
    let mut late = net.client.connect(daemon.v4())?;
    late.expect_echo(b"the balancer did not know yet")?;
    eventually("it takes no clients any more", || {
        ensure!(net.client.try_connect(daemon.v4()).is_err());
        Ok(())
    })?;
    ensure!(began.elapsed() >= std::time::Duration::from_millis(1_500), "too early: {:?}", began.elapsed());
    late.expect_echo(b"a session may go on")?;
    drop(late);
    daemon.wait_exit(landbridge_tests::PATIENCE).map(drop)
}

#[test]
fn a_second_signal_ends_a_daemon_that_leaves_at_once() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).runtime("readiness_delay = \"5m\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    daemon.process().signal(Signal::SIGTERM)?;
    eventually("it leaves", || {
        ensure!(daemon.process().stderr().contains("leaving: "));
        Ok(())
    })?;
    daemon.process().signal(Signal::SIGTERM)?;
    daemon.wait_exit(landbridge_tests::PATIENCE)?;
    client.expect_ending(landbridge_tests::Ending::Reset)
}
