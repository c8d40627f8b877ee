//! Health checks: what is probed, what follows for new sessions, and what the operator sees.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Checked, Echo, Scripted};
use landbridge_tests::{Config, Daemon, Group, Net, SocketExt, eventually};

const TRAFFIC: u16 = 9000;
const CHECK: u16 = 9100;

/// Quick enough that a test waits for a verdict for well under a second.
fn quick(group: Group) -> Group {
    group.health("interval = \"100ms\"").health("fast_interval = \"20ms\"")
}

fn up(daemon: &Daemon, group: &str) -> Result<f64> {
    Ok(daemon.metrics()?.value("landbridge_target_up", &[("group", group)]))
}

#[test]
fn a_target_that_is_down_from_the_start_gets_no_session() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let (refusing, silent) = (net.targets[0].v4(9001), net.blackhole(0, 9002)?);
    let group = Group::new("onprem").target(refusing).target(silent).target(echo.address());
    let group = group.health("kind = \"tcp\"").health("timeout = \"300ms\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    for _ in 0..6 {
        net.client.connect(daemon.v4())?.expect_echo(b"only the good one is asked")?;
    }
    let metrics = daemon.metrics()?;
    assert_eq!(metrics.value("landbridge_target_connects_total", &[]), 6.0);
    assert_eq!(metrics.value("landbridge_target_connect_failures_total", &[]), 0.0);
    for (target, expected) in [(refusing, 0.0), (silent, 0.0), (echo.address(), 1.0)] {
        assert_eq!(metrics.value("landbridge_target_up", &[("target", &target.to_string())]), expected, "{target}");
    }
    for (target, reason) in [(refusing, "refused"), (silent, "timeout")] {
        // A probe without an answer lasts for as long as the daemon waits for the first verdicts.
        eventually("its failed probe is counted", || {
            let labels = [("target", &*target.to_string()), ("reason", reason)];
            ensure!(daemon.metrics()?.value("landbridge_probe_failures_total", &labels) >= 1.0, "{target} {reason}");
            Ok(())
        })?;
    }
    daemon.stop().map(drop)
}

#[test]
fn sessions_follow_the_status_of_the_health_check() -> Result<()> {
    let net = Net::new(2)?;
    let first = Scripted::named(&net.targets[0], TRAFFIC, "a")?;
    let second = Scripted::named(&net.targets[1], TRAFFIC, "b")?;
    let checks = [Checked::start(&net.targets[0], CHECK)?, Checked::start(&net.targets[1], CHECK)?];
    let group = quick(Group::new("onprem").with("slow_start = \"0s\"")).health("port = 9100");
    let group = group.target(first.address()).target(second.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let greeting = || -> Result<u8> {
        let mut name = [0];
        std::io::Read::read_exact(&mut net.client.connect(daemon.v4())?, &mut name)?;
        Ok(name[0])
    };
    assert_eq!(greeting()?.min(greeting()?), b'a', "both are used");

    checks[0].answer(503);
    daemon.wait_metric("landbridge_target_up", &[], 1.0)?;
    for _ in 0..6 {
        assert_eq!(greeting()?, b'b');
    }
    ensure!(daemon.metrics()?.value("landbridge_probe_failures_total", &[("reason", "status")]) >= 3.0);

    checks[0].answer(204);
    daemon.wait_metric("landbridge_target_up", &[], 2.0)?;
    let mut names = [greeting()?, greeting()?];
    names.sort_unstable();
    assert_eq!(names, *b"ab");
    ensure!(daemon.metrics()?.value("landbridge_probe_seconds", &[]) > 0.0);
    daemon.stop().map(drop)
}

#[test]
fn readiness_and_refusal_follow_health() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let check = Checked::start(&net.targets[0], CHECK)?;
    let group =
        quick(Group::new("onprem")).health("port = 9100").health("body = \"ready\"").health("expect = [\"100-599\"]");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group.target(echo.address())]))?;
    net.client.connect(daemon.v4())?.expect_echo(b"it serves")?;
    assert_eq!(daemon.get("/readyz")?.0, 200);

    check.answer(500);
    eventually("it is not ready", || {
        ensure!(daemon.get("/readyz")?.0 == 503);
        Ok(())
    })?;
    assert_eq!(up(&daemon, "onprem")?, 0.0);
    assert_eq!(daemon.metrics()?.value("landbridge_group_share", &[("group", "onprem")]), 0.0);
    ensure!(daemon.metrics()?.value("landbridge_probe_failures_total", &[("reason", "body")]) >= 3.0);
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.wait_metric("landbridge_sessions_total", &[("end", "no_target")], 1.0)?;

    check.answer(200);
    // Nobody else can serve, so the hold before a failback does not keep the clients waiting.
    eventually("it is ready again", || {
        ensure!(daemon.get("/readyz")?.0 == 200);
        Ok(())
    })?;
    net.client.connect(daemon.v4())?.expect_echo(b"it serves again")?;
    daemon.stop().map(drop)
}

/// A probe that took another way than the traffic would tell of another network.
#[test]
fn probes_leave_from_the_address_and_device_of_the_group() -> Result<()> {
    let net = Net::new(2)?;
    net.proxy.ip("addr add 10.0.1.77/24 dev target0")?;
    let check = Checked::start(&net.targets[0], TRAFFIC)?;
    let target = net.targets[0].v4(TRAFFIC);
    let group = quick(Group::new("onprem")).tcp("source = \"10.0.1.77\"").tcp("interface = \"target0\"");
    // Its device does not lead there.
    let astray = quick(Group::new("astray")).tcp("interface = \"target1\"").health("timeout = \"300ms\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group.target(target), astray.target(target)]))?;
    eventually("a probe is lost", || {
        let failures = daemon.metrics()?.value("landbridge_probe_failures_total", &[("group", "astray")]);
        ensure!(failures >= 1.0);
        Ok(())
    })?;
    daemon.wait_metric("landbridge_target_up", &[("group", "onprem")], 1.0)?;
    assert_eq!(up(&daemon, "astray")?, 0.0);
    assert_eq!(check.asker()?.ip().to_canonical(), std::net::IpAddr::from([10, 0, 1, 77]));
    daemon.stop().map(drop)
}

/// It answers, one byte after the other, and never comes to an end.
#[test]
fn an_answer_that_trickles_in_is_no_answer() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let slow = Scripted::start(&net.targets[0], CHECK, |mut stream| {
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            std::io::Write::write_all(&mut stream, &[*byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })?;
    let group = Group::new("onprem").health("port = 9100").health("timeout = \"200ms\"").target(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    eventually("a probe runs into its timeout", || {
        let timeouts = daemon.metrics()?.value("landbridge_probe_failures_total", &[("reason", "timeout")]);
        ensure!(timeouts >= 1.0);
        Ok(())
    })?;
    assert_eq!(up(&daemon, "onprem")?, 0.0);
    ensure!(slow.accepted() >= 1);
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.stop().map(drop)
}

/// Targets that are bad in every way that is told apart, but for what the other tests show.
#[test]
fn every_reason_for_a_bad_probe_is_counted() -> Result<()> {
    let net = Net::new(1)?;
    let _mail = Scripted::start(&net.targets[0], 9001, |mut stream| {
        std::io::Write::write_all(&mut stream, b"220 mail.example ESMTP\r\n")?;
        stream.read_to_ending().map(drop)
    })?;
    let _closing = Scripted::closing(&net.targets[0], 9002)?;
    // The kernel calls it an invalid argument to connect to such an address.
    net.proxy.ip("route add blackhole 10.0.2.1")?;
    let (at, odd) = (|port| net.targets[0].v4(port), ([10, 0, 2, 1], 9000).into());
    let bad = quick(Group::new("bad")).health("timeout = \"500ms\"");
    let bad = bad.target(at(9001)).target(at(9002)).target(at(9003)).target(net.unreachable(9000)?).target(odd);
    let stranger = quick(Group::new("stranger")).tcp("source = \"192.0.2.1\"").target(at(9001));
    let mut daemon = Daemon::start(&net.proxy, &Config::new([bad, stranger]))?;
    for (group, target, reason) in [
        ("bad", at(9001), "protocol"),
        ("bad", at(9002), "protocol"),
        ("bad", at(9003), "refused"),
        ("bad", net.unreachable(9000)?, "unreachable"),
        ("bad", odd, "other"),
        ("stranger", at(9001), "local"),
    ] {
        let of = [("group", group), ("target", &*target.to_string())];
        eventually(reason, || {
            let metrics = daemon.metrics()?;
            let all = metrics.value("landbridge_probe_failures_total", &of);
            let these = metrics.value("landbridge_probe_failures_total", &[of[0], of[1], ("reason", reason)]);
            ensure!(these >= 2.0 && these == all, "{target}\n{}", metrics.lines("landbridge_probe_failures_total"));
            Ok(())
        })?;
    }
    daemon.stop().map(drop)
}

/// Up and down in turn, faster than any verdict: nobody believes either.
#[test]
fn a_target_that_flaps_keeps_its_verdict() -> Result<()> {
    let net = Net::new(1)?;
    let turn = std::sync::atomic::AtomicU32::new(0);
    let flapping = Scripted::start(&net.targets[0], CHECK, move |mut stream| {
        let good = turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2);
        let status = if good { 200 } else { 503 };
        std::io::Read::read(&mut stream, &mut [0; 1_024])?;
        std::io::Write::write_all(&mut stream, format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
        Ok(())
    })?;
    let group = quick(Group::new("onprem")).health("port = 9100").target(net.targets[0].v4(TRAFFIC));
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let asked = flapping.accepted();
    eventually("it was asked thirty times", || {
        ensure!(flapping.accepted() >= asked + 30);
        Ok(())
    })?;
    assert_eq!(up(&daemon, "onprem")?, 1.0);
    ensure!(!daemon.process().stderr().contains("down"), "it was never called down");
    ensure!(daemon.metrics()?.value("landbridge_probe_failures_total", &[("reason", "status")]) >= 10.0);
    daemon.stop().map(drop)
}

#[test]
fn a_target_is_asked_again_and_again_and_faster_in_doubt() -> Result<()> {
    let net = Net::new(1)?;
    let check = Checked::start(&net.targets[0], CHECK)?;
    let group =
        Group::new("onprem").health("port = 9100").health("interval = \"400ms\"").health("fast_interval = \"20ms\"");
    let group = group.health("rise = 30").health("fall = 1").target(net.targets[0].v4(TRAFFIC));
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let since = Instant::now();
    let asked = check.asked();
    eventually("it is asked again", || {
        ensure!(check.asked() >= asked + 2);
        Ok(())
    })?;
    ensure!(since.elapsed() >= Duration::from_millis(360), "after {:?}", since.elapsed());
    check.answer(503);
    eventually("it is down", || {
        ensure!(up(&daemon, "onprem")? == 0.0);
        Ok(())
    })?;
    check.answer(200);
    eventually("a first good probe", || {
        let asked = check.asked();
        eventually("the next probe", || {
            ensure!(check.asked() > asked);
            Ok(())
        })
    })?;
    let (since, asked) = (Instant::now(), check.asked());
    eventually("ten probes", || {
        ensure!(check.asked() >= asked + 10);
        Ok(())
    })?;
    // At the usual pace they would take four seconds.
    ensure!(since.elapsed() < Duration::from_secs(2), "they took {:?}", since.elapsed());
    eventually("it is up", || {
        ensure!(up(&daemon, "onprem")? == 1.0);
        Ok(())
    })?;
    daemon.stop().map(drop)
}

#[test]
fn the_start_waits_for_the_first_round_and_not_for_its_timeout() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let check = Checked::start(&net.targets[0], CHECK)?;
    let group = Group::new("onprem").health("port = 9100").health("timeout = \"9s\"").health("interval = \"10s\"");
    let since = Instant::now();
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group.target(echo.address())]))?;
    net.client.connect(daemon.v4())?.expect_echo(b"it serves")?;
    ensure!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    assert_eq!(check.asked(), 1);
    daemon.stop().map(drop)
}
