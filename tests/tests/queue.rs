//! Targets with a limit of sessions and clients that wait for a place; sessions with a limit of age.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Checked, Echo};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt};

const SESSIONS: &str = "landbridge_sessions_total";

fn limited(net: &Net, echo: &Echo, queue: &str) -> Result<Daemon> {
    let group = Group::new("onprem").target_with(echo.address(), "max_connections = 1");
    Daemon::start(&net.proxy, &Config::new([group]).listener(&format!("queue_timeout = {queue:?}")))
}

#[test]
fn clients_wait_for_a_place_in_the_order_of_their_arrival() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = limited(&net, &echo, "1m")?;
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = net.client.connect(daemon.v4())?;
        if number == 0 {
            client.expect_echo(b"the first")?;
        } else {
            std::io::Write::write_all(&mut client, b"in turn")?;
            client.expect_quiet(Duration::from_millis(50))?;
        }
        clients.push(client);
    }
    daemon.wait_metric("landbridge_target_sessions", &[], 1.0)?;
    for _ in 0..3 {
        drop(clients.remove(0));
        clients[0].expect(b"in turn")?;
        for later in &mut clients[1..] {
            later.expect_quiet(Duration::from_millis(20))?;
        }
    }
    assert_eq!(daemon.metrics()?.value("landbridge_target_connects_total", &[]), 4.0);
    drop(clients);
    daemon.wait_ended(4, "client_closed")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_client_does_not_wait_for_ever() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = limited(&net, &echo, "300ms")?;
    let mut first = net.client.connect(daemon.v4())?;
    first.expect_echo(b"in")?;
    let since = Instant::now();
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    ensure!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
    daemon.wait_metric(SESSIONS, &[("end", "queue_timeout")], 1.0)?;
    first.expect_echo(b"still in")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn without_a_queue_a_client_is_refused_at_once() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = limited(&net, &echo, "0s")?;
    let mut first = net.client.connect(daemon.v4())?;
    first.expect_echo(b"in")?;
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.wait_metric(SESSIONS, &[("end", "no_target")], 1.0)?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_client_that_leaves_the_queue_makes_room_in_it() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = limited(&net, &echo, "1m")?;
    let mut first = net.client.connect(daemon.v4())?;
    first.expect_echo(b"in")?;
    let impatient = net.client.connect(daemon.v4())?;
    impatient.peer_addr()?;
    let mut patient = net.client.connect(daemon.v4())?;
    std::io::Write::write_all(&mut patient, b"in turn")?;
    patient.expect_quiet(Duration::from_millis(100))?;
    impatient.reset()?;
    daemon.wait_metric(SESSIONS, &[("end", "client_gone")], 1.0)?;
    drop(first);
    patient.expect(b"in turn")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn sessions_end_at_about_their_limit_of_age() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).listener("max_session_age = \"1s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"young")?;
    let since = Instant::now();
    session.expect_ending(Ending::Reset)?;
    // A tenth less at the earliest; and ages are looked at once a second.
    ensure!(since.elapsed() >= Duration::from_millis(850), "{:?}", since.elapsed());
    daemon.wait_ended(1, "max_age")?;
    daemon.stop_at_once().map(drop)
}

/// The only target is full; another one that could serve them comes up, and a third is given a weight.
#[test]
fn clients_that_wait_are_called_when_another_target_can_serve_them() -> Result<()> {
    let net = Net::new(1)?;
    let echoes = [9000, 9001, 9002].map(|port| Echo::start(&net.targets[0], port));
    let [first, second, third] = echoes.into_iter().collect::<Result<Vec<_>>>()?.try_into().expect("there are three");
    let check = Checked::start(&net.targets[0], 9100)?;
    check.answer(503);
    let one = "max_connections = 1";
    let group = |name, echo: &Echo, lines: &str| Group::new(name).target_with(echo.address(), lines);
    let checked = group("checked", &second, one).with("failback_hold = \"0s\"").with("slow_start = \"0s\"");
    let checked = checked.health("port = 9100").health("interval = \"50ms\"");
    let resting = group("resting", &third, one).with("weight = 0");
    let config = Config::new([group("full", &first, one), checked.health("fast_interval = \"20ms\""), resting]);
    let mut daemon = Daemon::start(&net.proxy, &config.listener("queue_timeout = \"1m\""))?;
    let mut sessions = vec![net.client.connect(daemon.v4())?];
    sessions[0].expect_echo(b"in")?;
    for called in [false, true] {
        let mut client = net.client.connect(daemon.v4())?;
        std::io::Write::write_all(&mut client, b"in turn")?;
        client.expect_quiet(Duration::from_millis(100))?;
        match called {
            false => check.answer(200),
            true => drop(daemon.cli_good(&["set", "weight", "resting", "1"])?),
        }
        client.expect(b"in turn")?;
        sessions.push(client);
    }
    daemon.stop_at_once().map(drop)
}

/// A place would be no use: the target is down.
#[test]
fn nobody_waits_for_a_target_that_could_not_serve() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let group = Group::new("onprem").with("on_down = \"keep\"").target_with(echo.address(), "max_connections = 1");
    let group = group.health("port = 9100").health("interval = \"50ms\"").health("fast_interval = \"20ms\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]).listener("queue_timeout = \"1m\""))?;
    let mut first = net.client.connect(daemon.v4())?;
    first.expect_echo(b"in")?;
    let mut waiting = net.client.connect(daemon.v4())?;
    waiting.expect_quiet(Duration::from_millis(100))?;
    check.answer(503);
    waiting.expect_ending(Ending::Closed)?;
    net.client.connect(daemon.v4())?.expect_ending(Ending::Closed)?;
    daemon.wait_metric(SESSIONS, &[("end", "no_target")], 2.0)?;
    daemon.stop_at_once().map(drop)
}
