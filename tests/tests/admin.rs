//! What the admin address tells the balancer in front and the operator.

use anyhow::{Result, ensure};
use landbridge_tests::targets::Echo;
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
