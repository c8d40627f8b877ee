//! Targets and groups that go down and come back: who serves meanwhile, and what happens to sessions.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Checked, Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt, eventually};

const TRAFFIC: u16 = 9000;
const CHECK: u16 = 9100;

/// Two places, each with one target that says its letter, and a health check for each that the test controls.
struct Places {
    net: Net,
    targets: [Scripted<()>; 2],
    checks: [Checked; 2],
}

impl Places {
    fn start() -> Result<Self> {
        let net = Net::new(2)?;
        let targets =
            [Scripted::named(&net.targets[0], TRAFFIC, "a")?, Scripted::named(&net.targets[1], TRAFFIC, "b")?];
        let checks = [Checked::start(&net.targets[0], CHECK)?, Checked::start(&net.targets[1], CHECK)?];
        Ok(Self { net, targets, checks })
    }

    /// The group of a place, with lines of its own.
    fn group(&self, place: usize, lines: &[&str]) -> Group {
        let group = Group::new(["onprem", "aws"][place]).with(&format!("tier = {place}"));
        let group = lines.iter().fold(group, |group, line| group.with(line)).target(self.targets[place].address());
        group.health("port = 9100").health("interval = \"100ms\"").health("fast_interval = \"20ms\"")
    }

    /// The first place has these lines of its own.
    fn config(&self, lines: &[&str], drain_timeout: &str) -> Config {
        let config = Config::new([self.group(0, lines), self.group(1, &[])]);
        config.runtime(&format!("drain_timeout = {drain_timeout:?}"))
    }

    fn daemon(&self, lines: &[&str]) -> Result<Daemon> {
        Daemon::start(&self.net.proxy, &self.config(lines, "700ms"))
    }

    /// A session and the letter of its target.
    fn session(&self, daemon: &Daemon) -> Result<(TcpStream, char)> {
        daemon.session(&self.net.client)
    }

    fn serving(&self, daemon: &Daemon) -> Result<char> {
        daemon.serving(&self.net.client)
    }
}

fn wait_up(daemon: &Daemon, group: &str, up: f64) -> Result<()> {
    daemon.wait_metric("landbridge_target_up", &[("group", group)], up)
}

#[test]
fn a_group_that_goes_down_is_replaced_and_its_sessions_are_reset() -> Result<()> {
    let places = Places::start()?;
    let mut daemon = places.daemon(&["on_down = \"reset\"", "failback_hold = \"0s\""])?;
    let (mut session, name) = places.session(&daemon)?;
    assert_eq!(name, 'a');
    places.checks[0].answer(503);
    session.expect_ending(Ending::Reset)?;
    daemon.wait_ended(1, "target_down")?;
    assert_eq!(places.serving(&daemon)?, 'b');
    places.checks[0].answer(200);
    wait_up(&daemon, "onprem", 1.0)?;
    assert_eq!(places.serving(&daemon)?, 'a');
    daemon.stop().map(drop)
}

/// A joined session has no task that waits for this, and is looked at once a second: it has to be told. A client on the
/// daemon's own host cannot be joined, and shows when sessions are reset.
#[test]
fn joined_sessions_are_reset_as_early_as_others() -> Result<()> {
    const ROUNDS: u32 = 8;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let check = Checked::start(&net.targets[0], CHECK)?;
    let group = Group::new("onprem").with("failback_hold = \"0s\"").with("on_down = \"reset\"").target(echo.address());
    let group = group.health("port = 9100").health("interval = \"100ms\"").health("fast_interval = \"20ms\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut latest = Duration::ZERO;
    for round in 1..=ROUNDS {
        let mut joined = net.client.connect(daemon.v4())?;
        for _ in 0..5 {
            joined.expect_echo(b"joined")?;
        }
        daemon.wait_metric("landbridge_datapath_joins_total", &[], round.into())?;
        let mut relayed = net.proxy.connect(daemon.v4())?;
        relayed.expect_echo(b"relayed")?;
        check.answer(503);
        relayed.expect_ending(Ending::Reset)?;
        let since = Instant::now();
        joined.expect_ending(Ending::Reset)?;
        latest = latest.max(since.elapsed());
        check.answer(200);
        wait_up(&daemon, "onprem", 1.0)?;
    }
    daemon.wait_ended(2 * ROUNDS, "target_down")?;
    // If only the rounds told, one of so many would have had to wait for longer.
    ensure!(latest < Duration::from_millis(400), "{latest:?} after the others");
    daemon.stop().map(drop)
}

#[test]
fn sessions_may_stay_on_a_target_that_went_down() -> Result<()> {
    let places = Places::start()?;
    let mut daemon = places.daemon(&["on_down = \"keep\""])?;
    let (mut session, _) = places.session(&daemon)?;
    places.checks[0].answer(503);
    wait_up(&daemon, "onprem", 0.0)?;
    assert_eq!(places.serving(&daemon)?, 'b');
    session.expect_quiet(Duration::from_millis(900))?;
    session.finish_writing()?;
    session.expect_ending(Ending::Closed)?;
    daemon.stop().map(drop)
}

#[test]
fn sessions_may_have_until_a_deadline() -> Result<()> {
    const DRAIN: Duration = Duration::from_millis(700);
    let places = Places::start()?;
    let mut daemon = places.daemon(&["on_down = \"drain\"", "failback_hold = \"0s\""])?;
    let (mut session, _) = places.session(&daemon)?;
    let since = Instant::now();
    places.checks[0].answer(503);
    session.expect_ending(Ending::Reset)?;
    ensure!(since.elapsed() >= DRAIN, "it was reset after {:?}", since.elapsed());
    daemon.wait_metric("landbridge_sessions_total", &[("end", "target_down")], 1.0)?;

    // A target that comes back in time keeps its sessions.
    places.checks[0].answer(200);
    wait_up(&daemon, "onprem", 1.0)?;
    let (mut session, name) = places.session(&daemon)?;
    assert_eq!(name, 'a');
    daemon.reload(&places.config(&["on_down = \"drain\"", "failback_hold = \"0s\""], "3s"))?;
    places.checks[0].answer(503);
    wait_up(&daemon, "onprem", 0.0)?;
    let since = Instant::now();
    places.checks[0].answer(200);
    wait_up(&daemon, "onprem", 1.0)?;
    ensure!(since.elapsed() < Duration::from_secs(3), "it came back after {:?}", since.elapsed());
    session.expect_quiet(Duration::from_secs(4))?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_group_that_comes_back_is_held() -> Result<()> {
    const HOLD: Duration = Duration::from_secs(2);
    let places = Places::start()?;
    let mut daemon = places.daemon(&["failback_hold = \"2s\""])?;
    // Before its first verdict it would be no failback.
    assert_eq!(places.serving(&daemon)?, 'a');
    places.checks[0].answer(503);
    wait_up(&daemon, "onprem", 0.0)?;
    let since = Instant::now();
    places.checks[0].answer(200);
    wait_up(&daemon, "onprem", 1.0)?;
    assert_eq!(places.serving(&daemon)?, 'b');
    eventually("the first place serves again", || {
        ensure!(places.serving(&daemon)? == 'a');
        Ok(())
    })?;
    ensure!(since.elapsed() >= HOLD, "it was held for {:?}", since.elapsed());
    daemon.stop().map(drop)
}

#[test]
fn too_few_healthy_targets_are_none() -> Result<()> {
    let places = Places::start()?;
    let second = Scripted::named(&places.net.targets[0], 9001, "c")?;
    // The second target has no check of its own to fail: both share one, and traffic goes elsewhere as soon as it says no.
    let onprem = places.group(0, &["min_healthy = 2", "failback_hold = \"0s\""]).target(second.address());
    let aws = places.group(1, &[]);
    let mut daemon = Daemon::start(&places.net.proxy, &Config::new([onprem, aws]))?;
    ensure!("ac".contains(places.serving(&daemon)?));
    drop(second);
    daemon.stop()?;

    let refusing = places.net.targets[1].v4(9002);
    let half = Group::new("onprem").with("min_healthy = 2").health("kind = \"tcp\"");
    let half = half.target(places.targets[0].address()).target(refusing);
    let mut daemon = Daemon::start(&places.net.proxy, &Config::new([half, places.group(1, &[])]))?;
    assert_eq!(places.serving(&daemon)?, 'b');
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("group", "onprem")]), 1.0);
    assert_eq!(daemon.metrics()?.value("landbridge_group_share", &[("group", "onprem")]), 0.0);
    assert_eq!(daemon.metrics()?.value("landbridge_group_share", &[("group", "aws")]), 1.0);
    daemon.stop().map(drop)
}

#[test]
fn a_target_that_came_back_starts_slowly() -> Result<()> {
    let net = Net::new(2)?;
    let targets = [Scripted::named(&net.targets[0], TRAFFIC, "a")?, Scripted::named(&net.targets[1], TRAFFIC, "b")?];
    let checks = [Checked::start(&net.targets[0], CHECK)?, Checked::start(&net.targets[1], CHECK)?];
    let group = Group::new("onprem").with("slow_start = \"10m\"").health("port = 9100");
    let group = group.health("interval = \"100ms\"").health("fast_interval = \"20ms\"");
    let group = group.target(targets[0].address()).target(targets[1].address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let open =
        |count: usize| -> Result<Vec<(TcpStream, char)>> { (0..count).map(|_| daemon.session(&net.client)).collect() };
    // At the start both have their whole share.
    assert_eq!(open(10)?.iter().filter(|(_, name)| *name == 'a').count(), 5);
    checks[0].answer(503);
    daemon.wait_metric("landbridge_target_up", &[], 1.0)?;
    checks[0].answer(200);
    daemon.wait_metric("landbridge_target_up", &[], 2.0)?;
    let returned = open(44)?.iter().filter(|(_, name)| *name == 'a').count();
    ensure!((1..=5).contains(&returned), "a tenth of its weight is 4 of 44 sessions, not {returned}");
    daemon.stop().map(drop)
}

#[test]
fn a_silent_target_without_probes_is_taken_out_and_tried_again() -> Result<()> {
    const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let silent = net.blackhole(0, TRAFFIC)?;
    let group =
        Group::new("onprem").tcp("connect_timeout = \"250ms\"").with("eject_after = 2").with("eject_hold = \"1s\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group.target(silent).target(echo.address())]))?;
    let connects = || -> Result<f64> {
        Ok(daemon.metrics()?.value("landbridge_target_connects_total", &[("target", &silent.to_string())]))
    };
    let session = || -> Result<Duration> {
        let since = Instant::now();
        net.client.connect(daemon.v4())?.expect_echo(b"served in any case")?;
        Ok(since.elapsed())
    };
    let slow = (0..4).map(|_| session()).collect::<Result<Vec<_>>>()?;
    assert_eq!(slow.iter().filter(|time| **time >= CONNECT_TIMEOUT).count(), 2, "{slow:?}");
    assert_eq!(connects()?, 2.0);
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("target", &silent.to_string())]), 0.0);
    let fast = (0..8).map(|_| session()).collect::<Result<Vec<_>>>()?;
    ensure!(fast.iter().all(|time| *time < CONNECT_TIMEOUT), "{fast:?}");
    assert_eq!(connects()?, 2.0);
    eventually("it is tried again", || {
        session()?;
        ensure!(connects()? == 3.0);
        Ok(())
    })?;
    // One more failure was enough.
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("target", &silent.to_string())]), 0.0);
    daemon.stop().map(drop)
}

/// It accepts, so connects say nothing; that it resets before it has answered anything does.
#[test]
fn a_target_that_resets_without_an_answer_is_taken_out() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let broken = Scripted::start(&net.targets[0], 9001, |mut stream: TcpStream| {
        // Not before the session stands, or the connect fails already.
        stream.read_exact(&mut [0])?;
        stream.reset()
    })?;
    let group = Group::new("onprem").with("eject_after = 3").target(broken.address()).target(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut lost = 0_u32;
    for _ in 0..20 {
        let mut client = net.client.connect(daemon.v4())?;
        if client.expect_echo(b"hello").is_err() {
            lost += 1;
            // The client knows before it is counted.
            daemon.wait_metric("landbridge_sessions_total", &[("end", "target_reset")], lost.into())?;
        }
    }
    assert_eq!((lost, broken.accepted()), (3, 3));
    daemon.stop().map(drop)
}

/// Two of three sessions fail in a row, and the third ends as badly, but after an answer.
#[test]
fn a_target_that_answers_now_and_then_stays_in() -> Result<()> {
    const SESSIONS: u32 = 12;
    let net = Net::new(1)?;
    let turn = AtomicU32::new(0);
    let moody = Scripted::start(&net.targets[0], TRAFFIC, move |mut stream: TcpStream| {
        stream.read_exact(&mut [0])?;
        if turn.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            stream.write_all(b"an answer")?;
        }
        stream.reset()
    })?;
    let echo = Echo::start(&net.targets[0], 9001)?;
    let group = Group::new("onprem").with("eject_after = 3").target(moody.address()).target(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    for ended in 1..=SESSIONS {
        let mut clients = [net.client.connect(daemon.v4())?, net.client.connect(daemon.v4())?];
        for client in &mut clients {
            client.write_all(b"hello")?;
        }
        daemon.wait_metric("landbridge_sessions_total", &[("end", "target_reset")], ended.into())?;
    }
    assert_eq!(moody.accepted(), SESSIONS);
    daemon.stop_at_once().map(drop)
}

/// That this host has no such address is not the targets' fault.
#[test]
fn what_this_host_lacks_is_no_evidence() -> Result<()> {
    let net = Net::new(1)?;
    let echoes = [Echo::start(&net.targets[0], TRAFFIC)?, Echo::start(&net.targets[0], 9001)?];
    let group = Group::new("onprem").with("eject_after = 1").with("max_ejected = 100").tcp("source = \"10.0.1.77\"");
    let group = group.target(echoes[0].address()).target(echoes[1].address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.wait_ended(1, "connect_failed")?;
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[]), 2.0);
    daemon.stop().map(drop)
}

#[test]
fn no_more_than_a_part_of_a_group_is_taken_out() -> Result<()> {
    let net = Net::new(1)?;
    let group = (1..=4).fold(Group::new("onprem"), |group, port| group.target(net.targets[0].v4(9000 + port)));
    let group = group.with("eject_after = 1").with("eject_hold = \"5m\"").with("max_ejected = 50");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group.tcp("connect_retries = 0")]))?;
    for sessions in 1..=8 {
        ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
        daemon.wait_ended(sessions, "connect_failed")?;
    }
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[]), 2.0);
    daemon.stop().map(drop)
}

/// Probes come once an hour: only the kernel can have told that the way is gone.
#[test]
fn a_device_that_goes_takes_its_group_with_it_and_brings_it_back() -> Result<()> {
    const HOLD: Duration = Duration::from_millis(500);
    let net = Net::new(2)?;
    let targets = [Scripted::named(&net.targets[0], TRAFFIC, "a")?, Scripted::named(&net.targets[1], TRAFFIC, "b")?];
    let onprem = Group::new("onprem").with("failback_hold = \"500ms\"").tcp("interface = \"target0\"");
    let onprem = onprem.health("kind = \"tcp\"").health("interval = \"1h\"").target(targets[0].address());
    let aws = Group::new("aws").with("tier = 1").target(targets[1].address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    let (mut session, name) = daemon.session(&net.client)?;
    assert_eq!(name, 'a');

    let since = Instant::now();
    net.proxy.ip("link set target0 down")?;
    session.expect_ending(Ending::Reset)?;
    assert_eq!(daemon.serving(&net.client)?, 'b');
    println!("measured: device down: sessions reset, the next tier serves after {:?}", since.elapsed());
    ensure!(since.elapsed() < Duration::from_secs(2), "it took {:?}", since.elapsed());
    daemon.wait_metric("landbridge_sessions_total", &[("end", "target_down")], 1.0)?;
    wait_up(&daemon, "onprem", 0.0)?;

    let since = Instant::now();
    net.proxy.ip("link set target0 up")?;
    wait_up(&daemon, "onprem", 1.0)?;
    eventually("the first place serves again", || {
        ensure!(daemon.serving(&net.client)? == 'a');
        Ok(())
    })?;
    ensure!(since.elapsed() >= HOLD, "it was held for {:?}", since.elapsed());

    // It is up, but nothing is at its other end.
    net.targets[0].ip("link set eth0 down")?;
    wait_up(&daemon, "onprem", 0.0)?;
    net.targets[0].ip("link set eth0 up")?;
    wait_up(&daemon, "onprem", 1.0)?;

    net.proxy.ip("link del target0")?;
    wait_up(&daemon, "onprem", 0.0)?;
    assert_eq!(daemon.serving(&net.client)?, 'b');
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_device_that_comes_back_in_time_keeps_its_sessions() -> Result<()> {
    const DRAIN: Duration = Duration::from_secs(3);
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let group = Group::new("onprem").with("on_down = \"drain\"").tcp("interface = \"target0\"");
    let config = Config::new([group.target(echo.address())]).runtime("drain_timeout = \"3s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"before")?;
    let since = Instant::now();
    net.targets[0].ip("link set eth0 down")?;
    wait_up(&daemon, "onprem", 0.0)?;
    net.targets[0].ip("link set eth0 up")?;
    wait_up(&daemon, "onprem", 1.0)?;
    ensure!(since.elapsed() < DRAIN, "{:?}", since.elapsed());
    session.expect_quiet(DRAIN + Duration::from_millis(500))?;
    session.expect_echo(b"after")?;
    daemon.stop_at_once().map(drop)
}

/// Probes see that an ejected target serves, and do not let it wait for the end of its hold.
#[test]
fn a_good_probe_ends_an_ejection_early() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9001)?;
    let check = Checked::start(&net.targets[0], CHECK)?;
    let refusing = net.targets[0].v4(TRAFFIC);
    let group = Group::new("onprem").with("eject_after = 1").with("eject_hold = \"5m\"").with("slow_start = \"0s\"");
    let group = group.health("port = 9100").health("interval = \"1h\"").health("fast_interval = \"500ms\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group.target(refusing).target(echo.address())]))?;
    for _ in 0..4 {
        net.client.connect(daemon.v4())?.expect_echo(b"served")?;
    }
    wait_up(&daemon, "onprem", 1.0)?;
    let _returned = Echo::start(&net.targets[0], TRAFFIC)?;
    wait_up(&daemon, "onprem", 2.0)?;
    ensure!(check.asked() >= 4);
    daemon.stop().map(drop)
}
