//! Which leg is slow: the verdict of a group while its client, its network or its target is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Link, Net, SocketExt, Weather, eventually};

const LEGS: [&str; 3] = ["client", "network", "target"];

/// Waits until this leg of the group, and no other, is slow; `None`: none is.
fn wait_slow(daemon: &Daemon, expected: Option<&str>) -> Result<()> {
    eventually(&format!("{expected:?} is slow"), || {
        let metrics = daemon.metrics()?;
        let slow = |leg: &&str| metrics.value("landbridge_slow_leg", &[("group", "onprem"), ("leg", leg)]) == 1.0;
        let found = LEGS.into_iter().find(slow);
        ensure!(found == expected, "{}", metrics.lines("landbridge_slow_leg"));
        Ok(())
    })
}

fn status_says(daemon: &Daemon, leg: &str) -> Result<()> {
    let table = daemon.cli_good(&["status"])?;
    let row = table.lines().find(|line| line.starts_with("onprem ") && line.contains("able")).unwrap_or_default();
    ensure!(row.split_whitespace().last() == Some(leg), "{table}");
    let json = daemon.json(&["status"])?;
    ensure!(json["groups"][0]["slow"] == leg, "{json}");
    Ok(())
}

/// Asks and waits for the answer again and again, until told to stop.
fn ping(mut stream: TcpStream) -> (Arc<AtomicBool>, thread::JoinHandle<Result<()>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let pings = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            stream.expect_echo(b"ping")?;
            // A busy loop would only heat the machine.
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    (stop, pings)
}

#[test]
fn a_target_that_does_not_answer_is_slow_until_it_does() -> Result<()> {
    let net = Net::new(1)?;
    let answers = Arc::new(AtomicBool::new(false));
    let may_answer = Arc::clone(&answers);
    let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
        let mut question = [0; 4];
        while stream.read_exact(&mut question).is_ok() {
            while !may_answer.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            stream.write_all(&question)?;
        }
        Ok(())
    })?;
    for datapath in ["copy", "auto"] {
        answers.store(false, Ordering::Relaxed);
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        client.write_all(b"ping")?;
        wait_slow(&daemon, Some("target"))?;
        status_says(&daemon, "target")?;
        answers.store(true, Ordering::Relaxed);
        client.expect(b"ping")?;
        let (stop, pings) = ping(client);
        wait_slow(&daemon, None)?;
        stop.store(true, Ordering::Relaxed);
        pings.join().expect("the client does not panic")?;
        daemon.stop_at_once()?;
    }
    Ok(())
}

#[test]
fn a_client_that_does_not_read_is_slow() -> Result<()> {
    a_client_stops("splice", 0.0, |daemon| {
        let metrics = daemon.metrics()?;
        let unsent = metrics.value("landbridge_leg_unsent_bytes", &[("group", "onprem"), ("leg", "client")]);
        ensure!(unsent > 65_536.0, "{}", metrics.lines("landbridge_leg_unsent_bytes"));
        Ok(())
    })
}

/// What waits for it waits at the target, where nobody here sees it: its window tells.
#[test]
fn a_client_of_a_joined_session_that_does_not_read_is_slow() -> Result<()> {
    a_client_stops("packet", 1.0, |_| Ok(()))
}

/// A client whose session is joined so many times asks for a stream and reads no more than its beginning.
fn a_client_stops(datapath: &str, joins: f64, seen: impl FnOnce(&Daemon) -> Result<()>) -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        let block = [b'x'; 65_536];
        stream.read_exact(&mut [0; 1])?;
        while stream.write_all(&block).is_ok() {}
        Ok(())
    })?;
    let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    daemon.wait_metric("landbridge_datapath_joins_total", &[], joins)?;
    client.write_all(b"x")?;
    client.read_exact(&mut [0; 1])?;
    wait_slow(&daemon, Some("client"))?;
    status_says(&daemon, "client")?;
    seen(&daemon)?;
    drop(client);
    daemon.stop_at_once().map(drop)
}

/// One way; there and back is as to another continent.
const FAR: Duration = Duration::from_millis(130);

#[test]
fn a_long_way_to_the_targets_makes_the_network_slow() -> Result<()> {
    let far = Link { delay: FAR, ..Link::default() };
    let net = Net::with_links(Link::default(), &[far])?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    for datapath in ["copy", "auto"] {
        let config = Config::single(echo.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let (stop, pings) = ping(net.client.connect(daemon.v4())?);
        wait_slow(&daemon, Some("network"))?;
        status_says(&daemon, "network")?;
        if datapath == "copy" {
            eventually("what is on its way is seen", || {
                let metrics = daemon.metrics()?;
                let name = "landbridge_leg_unacknowledged_bytes";
                ensure!(metrics.value(name, &[("leg", "target")]) > 0.0, "{}", metrics.lines(name));
                Ok(())
            })?;
        }
        let metrics = daemon.metrics()?;
        let trip = |leg| metrics.value("landbridge_leg_round_trip_seconds", &[("group", "onprem"), ("leg", leg)]);
        let (client, target) = (trip("client"), trip("target"));
        ensure!(
            client < 0.1 && (0.25..0.6).contains(&target),
            "{}",
            metrics.lines("landbridge_leg_round_trip_seconds")
        );
        stop.store(true, Ordering::Relaxed);
        pings.join().expect("the client does not panic")?;
        daemon.stop_at_once()?;
    }
    Ok(())
}

/// A path that loses a twentieth of its packets.
const LOSSY: Weather = Weather { seed: 0, lost: 0.05, duplicated: 0.0, late: 0.0, latest: Duration::ZERO };

#[test]
fn repetitions_are_counted_on_their_leg() -> Result<()> {
    let lossy = Link { weather: Some(LOSSY), ..Link::default() };
    let net = Net::with_links(Link::default(), &[lossy])?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    for (datapath, joins) in [("copy", 0.0), ("packet", 1.0)] {
        let config = Config::single(echo.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let (stop, pings) = ping(net.client.connect(daemon.v4())?);
        daemon.wait_metric("landbridge_datapath_joins_total", &[], joins)?;
        let name = "landbridge_leg_retransmitted_segments_total";
        let before = daemon.metrics()?.value(name, &[("leg", "target")]);
        eventually("repetitions are seen", || {
            let metrics = daemon.metrics()?;
            ensure!(metrics.value(name, &[("leg", "target")]) > before, "{datapath}: {}", metrics.lines(name));
            // The target of a joined session repeats as well when an acknowledgement is lost on its way.
            let of_client = metrics.value(name, &[("leg", "client")]);
            ensure!(joins > 0.0 || of_client == 0.0, "{datapath}: {}", metrics.lines(name));
            Ok(())
        })?;
        stop.store(true, Ordering::Relaxed);
        pings.join().expect("the client does not panic")?;
        daemon.stop_at_once()?;
    }
    Ok(())
}
