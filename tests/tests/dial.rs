//! Targets that cannot be reached: others are tried, in bounded time, and the client notices nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt, eventually};

const FAILURES: &str = "landbridge_target_connect_failures_total";
const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);
const CONNECT_TIMEOUT_LINE: &str = "connect_timeout = \"400ms\"";

#[test]
fn a_target_that_refuses_is_passed_over() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let refusing = net.targets[0].v4(9001);
    let group = Group::new("onprem").with("eject_after = 0").target(refusing).target(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    for session in 0..10 {
        net.client.connect(daemon.v4())?.expect_echo(format!("session {session}").as_bytes())?;
    }
    daemon.wait_ended(10, "client_closed")?;
    let refused = daemon.metrics()?.value(FAILURES, &[("target", &refusing.to_string()), ("reason", "refused")]);
    // Half of the sessions have it as their first choice.
    assert_eq!(refused, 5.0);
    assert_eq!(daemon.metrics()?.value(FAILURES, &[]), refused);
    daemon.stop().map(drop)
}

#[test]
fn the_client_is_closed_when_all_tries_fail() -> Result<()> {
    let net = Net::new(1)?;
    let refusing = (1..=5).fold(Group::new("onprem"), |group, port| group.target(net.targets[0].v4(9000 + port)));
    let mut daemon = Daemon::start(&net.proxy, &Config::new([refusing.tcp("connect_retries = 2")]))?;
    let mut client = net.client.connect(daemon.v4())?;
    let (received, _) = client.read_to_ending()?;
    ensure!(received.is_empty());
    daemon.wait_ended(1, "connect_failed")?;
    daemon.wait_metric(FAILURES, &[("reason", "refused")], 3.0)?;
    daemon.stop().map(drop)
}

#[test]
fn a_target_that_never_answers_costs_one_connect_timeout() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let silent = net.blackhole(0, 9000)?;
    let group = Group::new("onprem").target(silent).target(echo.address()).tcp(CONNECT_TIMEOUT_LINE);
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut times = Vec::new();
    for _ in 0..2 {
        let since = Instant::now();
        let mut client = net.client.connect(daemon.v4())?;
        // What the client sends meanwhile must not be lost.
        client.expect_echo(&b"early bytes".repeat(1_000))?;
        times.push(since.elapsed());
    }
    times.sort();
    ensure!(times[0] < CONNECT_TIMEOUT, "one of two sessions has the good target first: {times:?}");
    ensure!(times[1] >= CONNECT_TIMEOUT && times[1] < CONNECT_TIMEOUT * 4, "{times:?}");
    daemon.wait_metric(FAILURES, &[("target", &silent.to_string()), ("reason", "timeout")], 1.0)?;
    daemon.wait_ended(2, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn an_unreachable_target_is_counted_as_such() -> Result<()> {
    let net = Net::new(1)?;
    let unreachable = net.unreachable(9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(unreachable))?;
    let (received, _) = net.client.connect(daemon.v4())?.read_to_ending()?;
    ensure!(received.is_empty());
    daemon.wait_ended(1, "connect_failed")?;
    daemon.wait_metric(FAILURES, &[("reason", "unreachable")], 1.0)?;
    daemon.stop().map(drop)
}

/// The kernel calls it an invalid argument.
#[test]
fn a_failure_of_no_other_kind_is_counted_as_such() -> Result<()> {
    let net = Net::new(1)?;
    net.proxy.ip("route add blackhole 10.0.2.1")?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(([10, 0, 2, 1], 9000).into()))?;
    net.client.connect(daemon.v4())?.expect_ending(Ending::Closed)?;
    daemon.wait_ended(1, "connect_failed")?;
    daemon.wait_metric(FAILURES, &[("reason", "other")], 1.0)?;
    daemon.wait_metric(FAILURES, &[], 1.0)?;
    daemon.stop().map(drop)
}

/// A connection that stood is a session: the client sees what the target did, and nobody else is asked.
#[test]
fn a_target_that_accepts_and_closes_closes_the_client() -> Result<()> {
    let net = Net::new(1)?;
    let closing = Scripted::closing(&net.targets[0], 9000)?;
    let other = Scripted::closing(&net.targets[0], 9001)?;
    let first = Group::new("onprem").target(closing.address());
    let second = Group::new("aws").with("tier = 1").target(other.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([first, second]))?;
    net.client.connect(daemon.v4())?.expect_ending(Ending::Closed)?;
    daemon.wait_ended(1, "target_closed")?;
    assert_eq!((closing.accepted(), other.accepted()), (1, 0));
    daemon.stop().map(drop)
}

#[test]
fn the_next_tier_serves_when_a_tier_is_used_up() -> Result<()> {
    let net = Net::new(2)?;
    let echo = Echo::start(&net.targets[1], 9000)?;
    let (refusing, silent) = (net.targets[0].v4(9001), net.blackhole(0, 9000)?);
    let onprem = Group::new("onprem").target(refusing).target(silent).tcp(CONNECT_TIMEOUT_LINE);
    let aws = Group::new("aws").with("tier = 1").target(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    net.client.connect(daemon.v4())?.expect_echo(b"from the cloud")?;
    daemon.wait_metric("landbridge_sessions_total", &[("group", "aws"), ("end", "client_closed")], 1.0)?;
    daemon.wait_metric(FAILURES, &[("group", "onprem")], 2.0)?;
    daemon.stop().map(drop)
}

#[test]
fn no_other_target_is_tried_when_there_shall_be_no_retry() -> Result<()> {
    let net = Net::new(1)?;
    let other = Scripted::closing(&net.targets[0], 9000)?;
    let onprem = Group::new("onprem").target(net.targets[0].v4(9001)).tcp("connect_retries = 0");
    let aws = Group::new("aws").with("tier = 1").target(other.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    let (received, _) = net.client.connect(daemon.v4())?.read_to_ending()?;
    ensure!(received.is_empty());
    daemon.wait_ended(1, "connect_failed")?;
    assert_eq!(other.accepted(), 0);
    daemon.stop().map(drop)
}

#[test]
fn a_client_that_goes_away_ends_the_search() -> Result<()> {
    let net = Net::new(1)?;
    let group = Group::new("onprem").target(net.blackhole(0, 9000)?).tcp("connect_timeout = \"60s\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_quiet(CONNECT_TIMEOUT)?;
    client.reset()?;
    daemon.wait_ended(1, "client_gone")?;
    daemon.stop().map(drop)
}

#[test]
fn a_target_that_comes_back_is_used_again() -> Result<()> {
    let net = Net::new(1)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(net.targets[0].v4(9000)))?;
    let (received, _) = net.client.connect(daemon.v4())?.read_to_ending()?;
    ensure!(received.is_empty());
    let _echo = Echo::start(&net.targets[0], 9000)?;
    eventually("the target serves", || net.client.connect(daemon.v4())?.expect_echo(b"back"))?;
    daemon.stop().map(drop)
}
