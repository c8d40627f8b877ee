//! Signals: drain, deadline, and at once.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{
    Config, Daemon, Ending, Host, LISTENER_PORT, Net, PATIENCE, Process, SocketExt, Tool, eventually,
};
use nix::sys::signal::Signal;

/// Much less than any drain timeout below that must not be waited for.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A target that echoes until the end, and returns how that was.
fn target(host: &Host) -> Result<Scripted<Ending>> {
    Scripted::start(host, 9000, |mut stream| {
        stream.expect(b"first")?;
        std::io::Write::write_all(&mut stream, b"first")?;
        let (rest, ending) = stream.read_to_ending()?;
        std::io::Write::write_all(&mut stream, &rest).ok();
        Ok(ending)
    })
}

/// Waits until nothing listens any more. Clients that only try would be sessions as long as something does.
fn wait_until_refused(net: &Net, daemon: &Daemon) -> Result<()> {
    eventually("the listener is closed", || {
        let mut ss = Tool::Ss.on(&net.proxy)?;
        ss.args(["-H", "-l", "-t", "-n", "sport", "=", &format!(":{LISTENER_PORT}")]);
        let listening = Process::start("ss", &mut ss)?.succeed(PATIENCE)?;
        ensure!(listening.is_empty(), "{listening}");
        Ok(())
    })?;
    let error = net.client.try_connect(daemon.v4()).expect_err("a new client is refused");
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
    Ok(())
}

#[test]
fn without_sessions_it_ends_at_once() -> Result<()> {
    let net = Net::new(1)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&net.proxy, &Config::single(net.targets[0].v4(9000)))?;
        daemon.process().signal(signal)?;
        daemon.wait_exit(AT_ONCE)?;
    }
    Ok(())
}

#[test]
fn sessions_finish_and_new_ones_are_refused() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net.targets[0])?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(target.address()))?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"first")?;
    daemon.process().signal(Signal::SIGTERM)?;
    wait_until_refused(&net, &daemon)?;

    daemon.process().ensure_running()?;
    std::io::Write::write_all(&mut client, b"an old session goes on")?;
    client.finish_writing()?;
    ensure!(client.read_to_ending()? == (b"an old session goes on".to_vec(), Ending::Closed));
    ensure!(target.outcome()? == Ending::Closed);
    drop(client);
    daemon.wait_exit(AT_ONCE).map(drop)
}

#[test]
fn sessions_that_outlast_the_deadline_are_reset() -> Result<()> {
    const DRAIN: Duration = Duration::from_millis(700);
    let net = Net::new(1)?;
    let target = target(&net.targets[0])?;
    let config = Config::single(target.address()).runtime("drain_timeout = \"700ms\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"first")?;
    let since = Instant::now();
    daemon.process().signal(Signal::SIGTERM)?;
    client.expect_ending(Ending::Reset)?;
    ensure!(since.elapsed() >= DRAIN, "it was reset after {:?}", since.elapsed());
    ensure!(target.outcome()? == Ending::Reset);
    daemon.wait_exit(AT_ONCE).map(drop)
}

#[test]
fn a_second_signal_ends_at_once() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net.targets[0])?;
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let config = Config::single(target.address()).runtime("drain_timeout = \"5m\"");
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        client.expect_echo(b"first")?;
        daemon.process().signal(Signal::SIGTERM)?;
        wait_until_refused(&net, &daemon)?;
        daemon.process().signal(second)?;
        let finished = daemon.process().finish(AT_ONCE)?;
        ensure!(finished.status.code().is_some(), "it was killed by its signal: {}", finished.status);
        client.read_to_ending()?;
        target.outcome()?;
    }
    Ok(())
}

/// Connections that the kernel has accepted when the signal comes are either served or refused, never left hanging.
#[test]
fn a_drain_under_load_leaves_nobody_hanging() -> Result<()> {
    let net = Net::new(1)?;
    let echo = landbridge_tests::targets::Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let address = daemon.v4();
    let load = net.client.spawn(move || -> Result<u32> {
        let mut served = 0;
        loop {
            match std::net::TcpStream::connect(address) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(served),
                Err(error) => return Err(error.into()),
                Ok(mut stream) => match stream.expect_echo(b"x") {
                    Ok(()) => served += 1,
                    // Accepted by the kernel, and then the listener was closed.
                    Err(error) => ensure!(!format!("{error:#}").contains("temporarily unavailable"), "{error:#}"),
                },
            }
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    daemon.stop()?;
    let served = load.join().expect("the load does not panic")?;
    ensure!(served > 0);
    Ok(())
}
