//! Joined sessions outlive the daemon: they go on while it is killed, restarted or upgraded, and the next one adopts them.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::talk::joined;
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, PATIENCE, Process, SocketExt, binary, eventually};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

const ADOPTIONS: &str = "landbridge_datapath_adoptions_total";
const JOINS: &str = "landbridge_datapath_joins_total";

#[test]
fn nobody_notices_that_the_daemon_is_killed() -> Result<()> {
    let (sessions, kills) = if std::env::var_os("LANDBRIDGE_LONG").is_some() { (1_000, 10) } else { (100, 3) };
    let descriptors = 4 * sessions as u64 + 1_000;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let (net, _echo, mut daemon, talk) = joined(sessions, Config::single)?;
    let resets = || -> Result<u64> {
        let of = |host: &landbridge_tests::Host| host.counter("Tcp", "EstabResets");
        Ok(of(&net.client)? + of(&net.targets[0])?)
    };
    let before = resets()?;
    for kill in 1..=kills {
        daemon.kill()?;
        talk.goes_on().with_context(|| format!("after kill {kill}, without a daemon"))?;
        daemon.start_again()?;
        daemon.wait_metric(ADOPTIONS, &[], sessions as f64)?;
        talk.goes_on().with_context(|| format!("after kill {kill}, with the next daemon"))?;
    }
    let (clients, bytes) = talk.end()?;
    // They were forwarded by the kernel, and no socket of this host saw them.
    let metrics = daemon.metrics()?;
    let packets = metrics.value("landbridge_packet_packets_total", &[("verdict", "forwarded")]);
    ensure!(packets > sessions as f64, "{packets} packets were forwarded");
    ensure!(metrics.value("landbridge_bytes_total", &[("datapath", "copy")]) == 0.0, "bytes went through user space");
    ensure!(bytes > 0 && resets()? == before, "a connection was reset");
    drop(clients);
    daemon.wait_ended(sessions as u32, "client_closed")?;
    daemon.stop().map(drop)
}

/// The next daemon's first probe dials before the sessions are adopted.
#[test]
fn no_probe_gets_the_port_of_a_session_that_was_left() -> Result<()> {
    const SESSIONS: u8 = 8;
    let ports = |net: &Net, range| net.proxy.set_sysctl("ipv4/ip_local_port_range", range);
    // A dial takes an even port while there is one.
    let few_ports = |net: &Net| ports(net, "40000 40015");
    let all_ports = |net: &Net| ports(net, "32768 60999");
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    few_ports(&net)?;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = net.client.connect(daemon.v4())?;
        client.expect_echo(b"before")?;
        clients.push(client);
    }
    all_ports(&net)?;
    daemon.wait_metric(JOINS, &[], SESSIONS.into())?;
    daemon.kill()?;
    let probed = Group::new("onprem").target(echo.address());
    let probed = probed.health("kind = \"tcp\"\ninterval = \"1m\"\nfast_interval = \"1m\"\ntimeout = \"1s\"");
    daemon.change(&Config::new([probed]))?;
    few_ports(&net)?;
    daemon.start_again()?;
    daemon.process().wait_ready(|daemon| {
        ensure!(daemon.stderr().contains(" ready workers="), "not yet");
        Ok(())
    })?;
    all_ports(&net)?;
    daemon.wait_metric(ADOPTIONS, &[], SESSIONS.into())?;
    ensure!(daemon.metrics()?.value("landbridge_target_up", &[]) == 1.0, "the first probe failed");
    clients.iter_mut().try_for_each(|client| client.expect_echo(b"with the next one"))?;
    drop(clients);
    daemon.wait_ended(SESSIONS.into(), "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn adopted_sessions_have_places_and_are_drained() -> Result<()> {
    let limits = |address| Config::single(address).listener("max_connections = 5").runtime("drain_timeout = \"1s\"");
    let (net, _echo, mut daemon, talk) = joined(5, limits)?;
    daemon.restart(Signal::SIGKILL)?;
    daemon.wait_metric(ADOPTIONS, &[], 5.0)?;
    let mut sixth = net.client.connect(daemon.v4())?;
    let heard = sixth.write_all(b"?").and_then(|()| sixth.read(&mut [0]));
    ensure!(!matches!(heard, Ok(1..)), "the listener is full");
    daemon.wait_metric("landbridge_sessions_total", &[("end", "listener_full")], 1.0)?;
    talk.goes_on()?;
    let (mut clients, _) = talk.end()?;
    daemon.stop()?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))
}

#[test]
fn adopted_sessions_end_when_they_are_idle() -> Result<()> {
    let idle = |address| Config::single(address).listener("idle_timeout = \"3s\"");
    let (_net, _echo, mut daemon, talk) = joined(2, idle)?;
    let (mut clients, _) = talk.end()?;
    daemon.restart(Signal::SIGKILL)?;
    daemon.wait_metric(ADOPTIONS, &[], 2.0)?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    daemon.wait_ended(2, "idle")?;
    daemon.stop().map(drop)
}

#[test]
fn sessions_of_a_target_that_went_down_are_reset_by_the_next_daemon() -> Result<()> {
    let group = |address| {
        let group = Group::new("onprem").with("on_down = \"reset\"").target(address);
        Config::new([group
            .health("kind = \"tcp\"\ninterval = \"200ms\"\nfast_interval = \"100ms\"\ntimeout = \"100ms\"\nfall = 2")])
    };
    let (net, _echo, mut daemon, talk) = joined(3, group)?;
    let (mut clients, _) = talk.end()?;
    daemon.restart(Signal::SIGKILL)?;
    daemon.wait_metric(ADOPTIONS, &[], 3.0)?;
    net.cut_target(0)?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    daemon.wait_ended(3, "target_down")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn sessions_of_a_target_that_is_gone_end_as_removed_ones() -> Result<()> {
    let (net, echo, mut daemon, talk) = joined(3, Config::single)?;
    let (mut clients, _) = talk.end()?;
    daemon.kill()?;
    let other = Group::new("onprem").with("on_removal = \"reset\"").target(net.targets[0].v4(9001));
    daemon.change(&Config::new([other]))?;
    daemon.start_again()?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    drop(echo);
    daemon.stop().map(drop)
}

#[test]
fn a_daemon_that_is_asked_to_leave_leaves_its_sessions_to_the_next() -> Result<()> {
    let (_net, _echo, mut daemon, talk) = joined(20, Config::single)?;
    daemon.restart(Signal::SIGQUIT)?;
    daemon.wait_metric(ADOPTIONS, &[], 20.0)?;
    talk.goes_on()?;
    let (clients, _) = talk.end()?;
    drop(clients);
    daemon.wait_ended(20, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn a_clean_stop_resets_what_is_left_and_unpins() -> Result<()> {
    let (_net, _echo, mut daemon, talk) =
        joined(3, |address| Config::single(address).runtime("drain_timeout = \"0s\""))?;
    let (mut clients, _) = talk.end()?;
    let state = daemon.state()?;
    ensure!(fs::read_dir(&state)?.count() >= 5, "maps and attachments are pinned");
    daemon.restart(Signal::SIGTERM)?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    ensure!(daemon.metrics()?.value(ADOPTIONS, &[]) == 0.0, "nothing was left");
    daemon.stop()?;
    ensure!(!state.exists(), "something is pinned");
    Ok(())
}

#[test]
fn detach_resets_what_a_dead_daemon_has_left() -> Result<()> {
    let (net, _echo, mut daemon, talk) = joined(3, Config::single)?;
    let state = daemon.state()?;
    let refused = daemon.cli_alone(&["detach"])?;
    ensure!(refused.code() == 1 && refused.stdout.contains("a daemon runs"), "{refused:?}");
    talk.goes_on()?;
    let (mut clients, _) = talk.end()?;
    daemon.kill()?;
    let detached = daemon.cli_alone(&["detach"])?;
    ensure!(detached.code() == 0 && detached.stdout.contains("removed, 3 sessions reset"), "{detached:?}");
    ensure!(!state.exists(), "something is pinned");
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    ensure!(daemon.cli_alone(&["detach"])?.stdout.contains("nothing is left"), "nothing is left");
    drop(net);
    Ok(())
}

#[test]
fn state_of_another_version_is_refused() -> Result<()> {
    let (net, _echo, mut daemon, talk) = joined(2, Config::single)?;
    let state = daemon.state()?;
    daemon.kill()?;
    let name = state.file_name().and_then(|name| name.to_str()).context("a name")?;
    let other = state.with_file_name(format!("{}-999", name.rsplit_once('-').context("a layout")?.0));
    fs::rename(&state, &other)?;
    daemon.start_again()?;
    let metrics = daemon.metrics()?;
    let refused = metrics.value("landbridge_packet_available", &[("reason", "pinned_by_other_version")]);
    ensure!(refused == 0.0 && metrics.lines("landbridge_packet_available").contains("pinned_by_other_version"));
    ensure!(daemon.process().stderr().contains("landbridge detach"), "the log says what to do");
    // It serves, and what was joined goes on.
    net.client.connect(daemon.v4())?.expect_echo(b"in user space")?;
    talk.goes_on()?;
    let (mut clients, _) = talk.end()?;
    ensure!(daemon.cli_alone(&["detach"])?.code() == 0);
    ensure!(!other.exists(), "something is pinned");
    for client in &mut clients {
        // The host knows no such connection.
        client.set_read_timeout(Some(PATIENCE))?;
        let heard = client.write_all(b"?").and_then(|()| client.read(&mut [0]));
        ensure!(heard.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "not reset");
    }
    daemon.stop().map(drop)
}

/// The state belongs to one configuration file, and another daemon runs with the same.
#[test]
fn state_of_a_daemon_that_runs_is_left_alone() -> Result<()> {
    let (net, _echo, mut daemon, talk) = joined(2, Config::single)?;
    // The one that holds the state: it takes over the joined sessions, on ports of its own.
    let text = fs::read_to_string(daemon.file())?;
    daemon.kill()?;
    let elsewhere = text.replace(":8000", ":8001").replace(":9900", ":9901").replace("admin.sock", "other.sock");
    fs::write(daemon.file(), elsewhere)?;
    let mut command = net.proxy.command(binary("landbridge")?);
    let mut holder = Process::start("the other daemon", command.arg("run").arg("--config").arg(daemon.file()))?;
    holder.wait_ready(|holder| {
        ensure!(holder.stderr().contains("adopting the joined sessions"), "not yet");
        Ok(())
    })?;
    fs::write(daemon.file(), text)?;
    daemon.start_again()?;
    let metrics = daemon.metrics()?;
    let refused = metrics.value("landbridge_packet_available", &[("reason", "pinned_by_other_daemon")]);
    ensure!(refused == 0.0 && metrics.lines("landbridge_packet_available").contains("pinned_by_other_daemon"));
    // It serves in user space, and what the other one holds goes on.
    net.client.connect(daemon.v4())?.expect_echo(b"in user space")?;
    talk.goes_on()?;
    drop(talk.end()?);
    daemon.stop()?;
    holder.signal(Signal::SIGTERM)?;
    ensure!(holder.finish(PATIENCE)?.code() == 0);
    Ok(())
}

/// Without a daemon the programs see to it themselves.
#[test]
fn no_joint_outlives_the_limits_of_its_session() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        let mut buffer = [0; 64];
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..length])?;
        }
    })?;
    let config = Config::single(target.address()).listener("max_session_age = \"1s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let began = Instant::now();
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    client.expect_echo(b"and again")?;
    daemon.wait_metric(JOINS, &[], 1.0)?;
    daemon.kill()?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut answered = Duration::ZERO;
    let silent = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    loop {
        match client.write_all(b"x").and_then(|()| client.read(&mut [0])) {
            Ok(1) => answered = began.elapsed(),
            Err(error) if silent(&error) => break,
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "it is still forwarded");
    }
    // The age, and what the daemon would need to end it.
    ensure!(answered > Duration::from_secs(1) && answered < Duration::from_secs(20), "forwarded for {answered:?}");
    ensure!(daemon.cli_alone(&["detach"])?.code() == 0);
    Ok(())
}

/// A session that is joined goes on without a daemon, and the next one adopts it.
fn is_adopted(net: &Net, config: &Config, listener: fn(&Daemon) -> SocketAddr) -> Result<()> {
    let mut daemon = Daemon::start(&net.proxy, config)?;
    let mut client = net.client.connect(listener(&daemon))?;
    for _ in 0..5 {
        client.expect_echo(b"before")?;
    }
    daemon.wait_metric(JOINS, &[], 1.0)?;
    daemon.kill()?;
    client.expect_echo(b"without a daemon")?;
    daemon.start_again()?;
    daemon.wait_metric(ADOPTIONS, &[], 1.0)?;
    client.expect_echo(b"with the next one")?;
    let copied = daemon.metrics()?.value("landbridge_bytes_total", &[("datapath", "copy")]);
    ensure!(copied == 0.0, "{copied} bytes went through user space");
    drop(client);
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn sessions_of_either_family_on_either_leg_are_adopted() -> Result<()> {
    let net = Net::new(1)?;
    let _echo = Echo::start(&net.targets[0], 9000)?;
    for target in [net.targets[0].v4(9000), net.targets[0].v6(9000)] {
        let config = Config::single(target).bind("[::]:8000");
        for listener in [Daemon::v4, Daemon::v6] {
            is_adopted(&net, &config, listener).with_context(|| format!("to {target}"))?;
        }
    }
    Ok(())
}

#[test]
fn sessions_bound_to_an_interface_are_adopted() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let group = Group::new("onprem").tcp("interface = \"target0\"").target(echo.address());
    is_adopted(&net, &Config::new([group]), Daemon::v4)
}

#[test]
fn a_session_that_is_half_closed_is_adopted() -> Result<()> {
    let net = Net::new(1)?;
    let turn = Arc::new(AtomicU64::new(0));
    let turns = Arc::clone(&turn);
    let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
        for _ in 0..5 {
            stream.expect(b"before")?;
            stream.write_all(b"before")?;
        }
        stream.expect_ending(Ending::Closed)?;
        for expected in 1..=2 {
            eventually("it is the target's turn", || {
                ensure!(turns.load(Ordering::Relaxed) >= expected, "not yet");
                Ok(())
            })?;
            stream.write_all(b"more")?;
        }
        Ok(())
    })?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(target.address()))?;
    let mut client = net.client.connect(daemon.v4())?;
    for _ in 0..5 {
        client.expect_echo(b"before")?;
    }
    daemon.wait_metric(JOINS, &[], 1.0)?;
    client.finish_writing()?;
    daemon.kill()?;
    turn.store(1, Ordering::Relaxed);
    client.expect(b"more")?;
    daemon.start_again()?;
    daemon.wait_metric(ADOPTIONS, &[], 1.0)?;
    turn.store(2, Ordering::Relaxed);
    client.expect(b"more")?;
    client.expect_ending(Ending::Closed)?;
    target.outcome()?;
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

/// One has ended before the daemon did, one while there was none: repetitions may still come, and nobody counts them again.
#[test]
fn sessions_that_linger_are_kept_and_not_counted() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let mut clients = [net.client.connect(daemon.v4())?, net.client.connect(daemon.v4())?];
    for client in &mut clients {
        for _ in 0..5 {
            client.expect_echo(b"before")?;
        }
    }
    daemon.wait_metric(JOINS, &[], 2.0)?;
    let [mut before, mut meanwhile] = clients;
    let end = |client: &mut TcpStream| client.finish_writing().and_then(|()| client.expect_ending(Ending::Closed));
    end(&mut before)?;
    daemon.wait_ended(1, "client_closed")?;
    daemon.kill()?;
    end(&mut meanwhile)?;
    daemon.start_again()?;
    let metrics = daemon.metrics()?;
    ensure!(metrics.value("landbridge_packet_joints", &[]) == 2.0, "{}", metrics.lines("landbridge_packet_joints"));
    ensure!(metrics.value(ADOPTIONS, &[]) == 0.0 && metrics.value("landbridge_sessions_total", &[]) == 0.0);
    // Their places are not taken.
    is_served(&net, &mut daemon)?;
    daemon.stop().map(drop)
}

fn is_served(net: &Net, daemon: &mut Daemon) -> Result<()> {
    let mut client = net.client.connect(daemon.v4())?;
    for _ in 0..5 {
        client.expect_echo(b"another")?;
    }
    daemon.wait_metric(JOINS, &[], 1.0)
}

#[test]
fn sessions_of_a_listener_that_is_gone_have_the_time_of_a_drain() -> Result<()> {
    let drain = |address| Config::single(address).runtime("drain_timeout = \"1s\"");
    let (_net, _echo, mut daemon, talk) = joined(2, drain)?;
    let (mut clients, _) = talk.end()?;
    daemon.kill()?;
    let text = fs::read_to_string(daemon.file())?;
    fs::write(daemon.file(), text.replacen("name = \"main\"", "name = \"another\"", 1))?;
    daemon.start_again()?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    daemon.stop().map(drop)
}

/// A stop is no reason to end them before that.
#[test]
fn sessions_of_a_listener_that_is_gone_are_drained_by_a_stop() -> Result<()> {
    let drain = |address| Config::single(address).runtime("drain_timeout = \"5s\"");
    let (_net, _echo, mut daemon, talk) = joined(2, drain)?;
    daemon.kill()?;
    let text = fs::read_to_string(daemon.file())?;
    fs::write(daemon.file(), text.replacen("name = \"main\"", "name = \"another\"", 1))?;
    daemon.start_again()?;
    daemon.process().signal(Signal::SIGTERM)?;
    sleep(Duration::from_secs(2));
    talk.goes_on()?;
    let (mut clients, _) = talk.end()?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    daemon.wait_exit(PATIENCE).map(drop)
}

/// The programs would keep to the former ones.
#[test]
fn adopted_sessions_have_the_limits_of_the_next_daemon() -> Result<()> {
    /// As soon as this the programs would have ended it: the former limit, and what they leave to the daemon.
    const SILENCE: Duration = Duration::from_secs(13);
    let limits = |address| {
        let config = Config::single(address).listener("idle_timeout = \"1s\"").listener("half_close_timeout = \"1s\"");
        config.runtime("workers = 1")
    };
    let (_net, _echo, mut daemon, talk) = joined(1, limits)?;
    daemon.kill()?;
    let text = fs::read_to_string(daemon.file())?;
    fs::write(daemon.file(), text.replace("_timeout = \"1s\"", "_timeout = \"1m\""))?;
    daemon.start_again()?;
    daemon.wait_metric(ADOPTIONS, &[], 1.0)?;
    let (mut clients, _) = talk.end()?;
    sleep(SILENCE);
    clients[0].expect_echo(b"still there")?;
    drop(clients);
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}
