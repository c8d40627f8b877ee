//! SIGHUP: another configuration takes over, and no client notices.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::streams::{Streams, TOKEN};
use landbridge_tests::targets::{Checked, Echo, Scripted, Streaming};
use landbridge_tests::{
    Config, Daemon, Ending, Group, LISTENER_PORT, Net, PATIENCE, Process, SocketExt, Tool, eventually,
};

const TRAFFIC: u16 = 9000;
const SESSIONS: &str = "landbridge_sessions_total";

/// Sessions that are kept open, by the letter of their target.
fn shares(net: &Net, daemon: &Daemon, sessions: usize) -> Result<(Vec<TcpStream>, BTreeMap<char, usize>)> {
    let mut shares = BTreeMap::new();
    let mut streams = Vec::new();
    for _ in 0..sessions {
        let mut stream = net.client.connect(daemon.v4())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut name = [0];
        stream.read_exact(&mut name)?;
        *shares.entry(char::from(name[0])).or_default() += 1;
        streams.push(stream);
    }
    Ok((streams, shares))
}

/// The inodes of the sockets that listen on a port of the proxy.
fn listening(net: &Net, port: u16) -> Result<BTreeSet<String>> {
    let mut ss = Tool::Ss.on(&net.proxy)?;
    ss.args(["-H", "-l", "-t", "-n", "-e", "sport", "=", &format!(":{port}")]);
    let lines = Process::start("ss", &mut ss)?.succeed(PATIENCE)?;
    let inodes = lines.split_whitespace().filter(|word| word.starts_with("ino:")).map(str::to_owned);
    let inodes: BTreeSet<_> = inodes.collect();
    ensure!(!inodes.is_empty(), "no inode in {lines}");
    Ok(inodes)
}

#[test]
fn weights_change_and_sessions_and_counters_stay() -> Result<()> {
    let net = Net::new(1)?;
    let targets: Vec<_> = (TRAFFIC..)
        .zip(["a", "b"])
        .map(|(port, name)| Scripted::named(&net.targets[0], port, name))
        .collect::<Result<_>>()?;
    let config = |weights: [u16; 2]| {
        let lines = weights.map(|weight| format!("weight = {weight}"));
        let group = Group::new("onprem").target_with(targets[0].address(), &lines[0]);
        Config::new([group.target_with(targets[1].address(), &lines[1])])
    };
    let mut daemon = Daemon::start(&net.proxy, &config([1, 1]))?;
    let (mut before, first) = shares(&net, &daemon, 10)?;
    assert_eq!(first, BTreeMap::from([('a', 5), ('b', 5)]));
    drop(before.pop());
    daemon.wait_ended(1, "client_closed")?;

    daemon.reload(&config([1, 4]))?;
    let (_after, second) = shares(&net, &daemon, 10)?;
    assert_eq!(second, BTreeMap::from([('a', 2), ('b', 8)]));
    daemon.wait_metric("landbridge_target_sessions", &[], 19.0)?;
    daemon.wait_metric(SESSIONS, &[("end", "client_closed")], 1.0)?;
    daemon.wait_metric("landbridge_target_connects_total", &[], 20.0)?;
    assert_eq!(daemon.metrics()?.value("landbridge_config_last_reload_success", &[]), 1.0);
    for stream in &mut before {
        stream.expect_quiet(Duration::from_millis(1))?;
        stream.finish_writing()?;
        stream.expect_ending(Ending::Closed)?;
    }
    daemon.wait_ended(10, "client_closed")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_file_with_a_mistake_changes_nothing() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let config = Config::single(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"before")?;
    daemon.reload_text(&config.to_string().replace("name = \"main\"", "nam = \"main\""))?;
    daemon.wait_metric("landbridge_config_last_reload_success", &[], 0.0)?;
    session.expect_echo(b"after")?;
    net.client.connect(daemon.v4())?.expect_echo(b"new ones too")?;
    ensure!(daemon.process().stderr().contains("did you mean name?"), "the log says what is wrong");
    daemon.reload(&config)?;
    daemon.wait_metric("landbridge_config_last_reload_success", &[], 1.0)?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn an_address_that_cannot_be_bound_changes_nothing() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let config = Config::single(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let _taken = net.proxy.listen(net.proxy.v4(8002))?;
    // The first of the new addresses could be bound; it must not stay so.
    let new = Config::new([Group::new("other").target(echo.address())]).only_bind(&["0.0.0.0:8001", "0.0.0.0:8002"]);
    daemon.reload_text(&new.to_string())?;
    daemon.wait_metric("landbridge_config_last_reload_success", &[], 0.0)?;
    net.client.connect(daemon.v4())?.expect_echo(b"the old address serves")?;
    let refused = net.client.try_connect(net.proxy.v4(8001)).map_err(|error| error.kind());
    ensure!(matches!(refused, Err(ErrorKind::ConnectionRefused)), "{refused:?}");
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("group", "other")]), 0.0);
    daemon.stop_at_once().map(drop)
}

#[test]
fn addresses_come_and_go_and_their_sessions_stay() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let config = |bind: &[&str]| Config::single(echo.address()).only_bind(bind);
    let mut daemon = Daemon::start(&net.proxy, &config(&["0.0.0.0:8000", "0.0.0.0:8001"]))?;
    let before = listening(&net, 8000)?;
    let mut old = net.client.connect(net.proxy.v4(8001))?;
    old.expect_echo(b"on an address that will go")?;
    let mut kept = net.client.connect(daemon.v4())?;
    kept.expect_echo(b"on one that stays")?;
    daemon.reload(&config(&["0.0.0.0:8000", "0.0.0.0:8002"]))?;
    assert_eq!(listening(&net, 8000)?, before, "the sockets are the same");
    eventually("the old address is closed", || {
        let refused = net.client.try_connect(net.proxy.v4(8001)).map_err(|error| error.kind());
        ensure!(matches!(refused, Err(ErrorKind::ConnectionRefused)), "{refused:?}");
        Ok(())
    })?;
    net.client.connect(net.proxy.v4(8002))?.expect_echo(b"the new one serves")?;
    old.expect_echo(b"goes on")?;
    kept.expect_echo(b"goes on")?;

    // From every address to one of this host, and to other socket options, on the same port.
    let proxy = net.proxy.v4(8000).to_string();
    daemon.reload(&config(&[&proxy]).listener_tcp("keepalive = \"7s\""))?;
    net.client.connect(daemon.v4())?.expect_echo(b"still there")?;
    old.expect_echo(b"goes on")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_target_that_is_removed_drains() -> Result<()> {
    let net = Net::new(1)?;
    let targets = [Echo::start(&net.targets[0], TRAFFIC)?, Echo::start(&net.targets[0], 9001)?];
    let config = |target: usize, removal: &str| {
        let group = Group::new("onprem").with(&format!("on_removal = {removal:?}")).target(targets[target].address());
        Config::new([group]).runtime("drain_timeout = \"700ms\"")
    };
    let mut daemon = Daemon::start(&net.proxy, &config(0, "drain"))?;
    for (target, removal) in [(1, "drain"), (0, "keep")] {
        let mut session = net.client.connect(daemon.v4())?;
        session.expect_echo(b"before")?;
        daemon.reload(&config(target, removal))?;
        session.expect_echo(b"it may finish")?;
        net.client.connect(daemon.v4())?.expect_echo(b"from the other one")?;
        match removal {
            "drain" => {
                session.expect_ending(Ending::Reset)?;
                daemon.wait_metric("landbridge_config_last_reload_success", &[], 1.0)?;
            }
            _ => session.expect_quiet(Duration::from_millis(900))?,
        }
    }
    daemon.stop_at_once().map(drop)
}

#[test]
fn health_outlasts_a_reload_and_a_new_target_is_probed_before_it_counts() -> Result<()> {
    let net = Net::new(2)?;
    let named = [Scripted::named(&net.targets[0], TRAFFIC, "a")?, Scripted::named(&net.targets[1], TRAFFIC, "b")?];
    let checks = [Checked::start(&net.targets[0], 9100)?, Checked::start(&net.targets[1], 9100)?];
    let config = |name: &str, targets: &[&Scripted<()>]| {
        // Slow probes: what is known after the reload was known before it.
        let group = Group::new(name).health("port = 9100").health("interval = \"1h\"").health("fast_interval = \"1h\"");
        Config::new([targets.iter().fold(group, |group, target| group.target(target.address()))])
    };
    checks[1].answer(503);
    let mut daemon = Daemon::start(&net.proxy, &config("onprem", &[&named[0], &named[1]]))?;
    assert_eq!(shares(&net, &daemon, 4)?.1, BTreeMap::from([('a', 4)]));
    daemon.reload(&config("onprem", &[&named[1], &named[0]]))?;
    assert_eq!(shares(&net, &daemon, 4)?.1, BTreeMap::from([('a', 4)]));
    assert_eq!((checks[0].asked(), checks[1].asked()), (1, 1));

    // A whole new group: its targets are asked first, so that no client meets one of which nothing is known.
    daemon.reload(&config("renamed", &[&named[0], &named[1]]))?;
    assert_eq!(shares(&net, &daemon, 4)?.1, BTreeMap::from([('a', 4)]));
    assert_eq!((checks[0].asked(), checks[1].asked()), (2, 2));
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("group", "onprem")]), 0.0);
    daemon.stop_at_once().map(drop)
}

/// The former configuration serves until the targets of the next one are known.
#[test]
fn clients_do_not_wait_for_the_first_probes_of_a_new_group() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let _slow = Scripted::start(&net.targets[0], 9100, |mut stream| {
        Read::read(&mut stream, &mut [0; 1_024])?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?)
    })?;
    let config = |name| {
        let group = Group::new(name).health("port = 9100").health("timeout = \"5s\"").health("interval = \"10s\"");
        Config::new([group.target(echo.address())])
    };
    let mut daemon = Daemon::start(&net.proxy, &config("onprem"))?;
    daemon.reload(&config("renamed"))?;
    net.client.connect(daemon.v4())?.expect_echo(b"served by what is known")?;
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("group", "renamed")]), 1.0);
    daemon.stop_at_once().map(drop)
}

/// The limit of a listener may shrink below what is there: nobody is thrown out, and nobody let in.
#[test]
fn a_limit_of_sessions_changes_without_touching_them() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let config = |limit: u32| Config::single(echo.address()).listener(&format!("max_connections = {limit}"));
    let mut daemon = Daemon::start(&net.proxy, &config(3))?;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut session = net.client.connect(daemon.v4())?;
        session.expect_echo(b"in")?;
        sessions.push(session);
    }
    daemon.wait_metric("landbridge_listener_max_connections", &[("listener", "main")], 3.0)?;
    daemon.reload(&config(2))?;
    daemon.wait_metric("landbridge_listener_max_connections", &[("listener", "main")], 2.0)?;
    for session in &mut sessions {
        session.expect_echo(b"still in")?;
    }
    drop(sessions.pop());
    daemon.wait_metric(SESSIONS, &[("end", "client_closed")], 1.0)?;
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.wait_metric(SESSIONS, &[("end", "listener_full")], 1.0)?;
    daemon.reload(&config(3))?;
    net.client.connect(daemon.v4())?.expect_echo(b"room again")?;
    daemon.stop_at_once().map(drop)
}

/// Fifty reloads with changing weights and addresses, some of the files broken, under short sessions, long ones and token streams:
/// not one is lost or disturbed.
#[test]
fn fifty_reloads_under_load_lose_nothing() -> Result<()> {
    const RELOADS: u16 = 50;
    const STREAMS: usize = 200;
    let net = Net::new(1)?;
    let echoes = [Streaming::start(&net.targets[0], TRAFFIC)?, Streaming::start(&net.targets[0], 9001)?];
    let config = |round: u16| {
        let weight = format!("weight = {}", 1 + round % 7);
        let group = Group::new("onprem").target_with(echoes[0].address(), &weight).target(echoes[1].address());
        let config = Config::new([group]);
        if round.is_multiple_of(3) { config.bind("0.0.0.0:8001") } else { config }
    };
    let mut daemon = Daemon::start(&net.proxy, &config(0))?;
    let address = daemon.v4();
    ensure!(address.port() == LISTENER_PORT);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load = |keep: bool| {
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        net.client.spawn(move || -> Result<()> {
            let mut session = TcpStream::connect(address)?;
            while !stop.load(Ordering::Relaxed) {
                session.expect_echo(b"request")?;
                served.fetch_add(1, Ordering::Relaxed);
                if !keep {
                    session = TcpStream::connect(address)?;
                }
            }
            Ok(())
        })
    };
    let streams = Streams::open(&net.client, address, STREAMS)?;
    let begun = Instant::now();
    let clients = [load(false), load(false), load(true), load(true)];
    for round in 1..=RELOADS {
        let before = served.load(Ordering::Relaxed);
        if round.is_multiple_of(10) {
            daemon.reload_text("[[listener]]\nname = 7\n")?;
            daemon.wait_metric("landbridge_config_last_reload_success", &[], 0.0)?;
        } else {
            daemon.reload(&config(round))?;
        }
        eventually("the load goes on", || {
            ensure!(served.load(Ordering::Relaxed) > before);
            Ok(())
        })?;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client does not panic")?;
    }
    // A quarter of their usual pace: so many streams at once are slower on a busy machine.
    let expected = begun.elapsed().as_millis() / (4 * TOKEN.as_millis());
    echoes.iter().for_each(Streaming::end_streams);
    let tokens = streams.finish()?;
    ensure!(u128::from(tokens) >= expected, "a stream had {tokens} tokens, {expected} are expected");
    let metrics = daemon.metrics()?;
    for end in ["target_reset", "client_reset", "connect_failed", "no_target", "drained"] {
        assert_eq!(metrics.value(SESSIONS, &[("end", end)]), 0.0, "{}", metrics.lines(SESSIONS));
    }
    assert_eq!(metrics.value("landbridge_target_connect_failures_total", &[]), 0.0);
    daemon.stop_at_once().map(drop)
}
