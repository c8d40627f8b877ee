//! What happens when there is no room: for another session, for another descriptor.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Net, SocketExt, eventually};

#[test]
fn a_full_listener_refuses_and_recovers() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    // Over all workers together.
    let config = Config::single(echo.address()).listener("max_connections = 3").runtime("workers = 2");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut session = net.client.connect(daemon.v4())?;
        session.expect_echo(b"in")?;
        sessions.push(session);
    }
    for _ in 0..4 {
        let (received, _) = net.client.connect(daemon.v4())?.read_to_ending()?;
        ensure!(received.is_empty());
    }
    daemon.wait_ended(4, "listener_full")?;
    let seen = daemon.cli_good(&["status"])?;
    ensure!(seen.contains("full") && seen.contains("3/3"), "{seen}");
    eventually("the log says so, once", || {
        let told = daemon.process().stderr().matches("full: refusing clients").count();
        ensure!(told == 1, "{told} times");
        Ok(())
    })?;
    for session in &mut sessions {
        session.expect_echo(b"still in")?;
    }
    sessions.pop();
    daemon.wait_metric("landbridge_sessions_total", &[("end", "client_closed")], 1.0)?;
    net.client.connect(daemon.v4())?.expect_echo(b"in again")?;
    drop(sessions);
    daemon.stop().map(drop)
}

#[test]
fn running_out_of_descriptors_is_survived() -> Result<()> {
    const ROOM: u64 = 21;
    const CLIENTS: usize = 60;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).runtime("workers = 2"))?;
    let mut before = net.client.connect(daemon.v4())?;
    before.expect_echo(b"before")?;
    daemon.wait_metric("landbridge_accept_failures_total", &[], 0.0)?;
    daemon.limit_descriptors(daemon.descriptors()? as u64 + ROOM)?;

    // The kernel completes connections that the daemon cannot accept: all of them look connected.
    let mut clients = (0..CLIENTS).map(|_| net.client.connect(daemon.v4())).collect::<Result<Vec<_>>>()?;
    let served = |clients: &mut [TcpStream]| clients.iter_mut().filter_map(|client| echo_now(client).ok()).count();
    let served_first = served(&mut clients);
    ensure!(served_first >= 1, "there is room for some");
    ensure!(served_first < CLIENTS / 2, "{served_first} sessions need more than {ROOM} descriptors");
    before.expect_echo(b"an old session does not notice").context("while there is no room")?;
    daemon.process().ensure_running()?;

    drop(clients);
    eventually("new sessions are served again", || echo_now(&mut net.client.connect(daemon.v4())?))?;
    ensure!(daemon.metrics()?.value("landbridge_accept_failures_total", &[("listener", "main")]) > 0.0);
    before.expect_echo(b"after").context("when there is room again")?;
    drop(before);
    daemon.stop().map(drop)
}

/// An echo with less patience than usual, for sessions that may not be served.
fn echo_now(client: &mut TcpStream) -> Result<()> {
    use std::io::{Read, Write};
    client.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
    client.write_all(b"x")?;
    Ok(client.read_exact(&mut [0])?)
}
