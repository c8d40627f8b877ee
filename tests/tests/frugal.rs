//! How few packets a session takes that asks once: its first bytes ride with the handshake, its last ones with the end.

use std::io::{Read, Write};
use std::net::Shutdown;

use anyhow::{Result, ensure};
use landbridge_tests::{Config, Daemon, Net, SocketExt, eventually};
use nix::sys::signal::Signal;

const REQUEST: &[u8] = b"one question";
const ANSWER: &[u8] = b"one answer";

/// The daemon is stopped while bytes arrive, so that it always sees them together.
#[test]
fn first_and_last_bytes_travel_with_handshake_and_end() -> Result<()> {
    let net = Net::new(1)?;
    let listener = net.targets[0].listen(net.targets[0].v4(9000))?;
    let config = Config::single(net.targets[0].v4(9000)).listener("datapath = \"copy\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let before = counters(&net)?;

    daemon.process().stop_running()?;
    let mut client = net.client.connect(daemon.v4())?;
    client.write_all(REQUEST)?;
    eventually("the request has arrived", || {
        ensure!(client.unacknowledged()? == 0);
        Ok(())
    })?;
    daemon.process().signal(Signal::SIGCONT)?;

    let mut target = listener.accept()?.0;
    let mut request = [0; REQUEST.len()];
    target.read_exact(&mut request)?;
    assert_eq!(request, REQUEST);
    daemon.process().stop_running()?;
    target.write_all(ANSWER)?;
    target.shutdown(Shutdown::Write)?;
    eventually("the end has arrived", || {
        ensure!(target.unacknowledged()? == 0);
        Ok(())
    })?;
    daemon.process().signal(Signal::SIGCONT)?;

    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    assert_eq!(answer, ANSWER);
    drop(client);
    ensure!(target.read(&mut [0])? == 0, "the client's end is passed on");

    let after = counters(&net)?;
    daemon.wait_ended(1, "target_closed")?;
    let [with_data, without] = [0, 1].map(|kind| after[kind] - before[kind]);
    // The request; the answer with the end; the end towards the target.
    assert_eq!(with_data, 3);
    // Both halves of a handshake; the request, the answer and the client's end acknowledged.
    assert_eq!(without, 5);
    daemon.stop().map(drop)
}

/// Segments that the proxy has sent with bytes or an end, and all others.
fn counters(net: &Net) -> Result<[u64; 2]> {
    let with_data = net.proxy.counter("TcpExt", "TCPOrigDataSent")?;
    Ok([with_data, net.proxy.counter("Tcp", "OutSegs")? - with_data])
}
