//! Sessions that are joined at packet level: their bytes really go there, and they end as any other session.

use std::io::{self, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt};
use socket2::{Domain, Socket, Type};

const MESSAGE: [u8; 100] = [b'm'; 100];

/// Datapaths that join.
const DATAPATHS: [&str; 2] = ["auto", "packet"];

#[test]
fn busy_messages_are_joined() -> Result<()> {
    const MANY: u64 = 500;
    const FIRST: u64 = 20;
    let net = Net::new(1)?;
    for datapath in DATAPATHS {
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            answer(&mut stream, MANY)?;
            stream.expect_ending(Ending::Closed)
        })?;
        let mut daemon = start(&net, &target, datapath)?;
        let mut client = net.client.connect(daemon.v4())?;
        ask(&mut client, FIRST)?;
        daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
        let before = net.proxy.counter("Tcp", "InSegs")?;
        ask(&mut client, MANY - FIRST)?;
        let heard = net.proxy.counter("Tcp", "InSegs")? - before;
        ensure!(heard < FIRST, "{datapath}: {heard} segments went to sockets of the proxy");
        client.finish_writing()?;
        client.expect_ending(Ending::Closed)?;
        target.outcome()?;
        daemon.wait_ended(1, "client_closed")?;

        let metrics = daemon.metrics()?;
        let total = metrics.value("landbridge_bytes_total", &[]);
        let kernel = metrics.value("landbridge_bytes_total", &[("datapath", "packet")]);
        let sent = (2 * MANY * MESSAGE.len() as u64) as f64;
        ensure!(total == sent, "{datapath}: {total} bytes were counted, {sent} were sent");
        ensure!(kernel > sent * 0.9, "{datapath}: only {kernel} of {sent} bytes were forwarded as packets");
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn joining_under_load_costs_nobody_a_retransmission_timeout() -> Result<()> {
    const CLIENTS: u64 = 64;
    const MANY: u64 = 300;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let before = timeouts(&net)?;
    thread::scope(|scope| {
        let client = |_| {
            let mut stream = net.client.connect(daemon.v4())?;
            ask(&mut stream, MANY)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    let metrics = daemon.metrics()?;
    let joins = metrics.value("landbridge_datapath_joins_total", &[]);
    let after = timeouts(&net)?;
    ensure!(joins == CLIENTS as f64, "{joins} joins\n{}", metrics.lines("landbridge_packet_packets_total"));
    ensure!(
        before == after,
        "timeouts {before:?} became {after:?}\n{}",
        metrics.lines("landbridge_packet_packets_total")
    );
    daemon.stop().map(drop)
}

/// Retransmission timeouts and retransmitted segments of all connections of the client, the proxy and the target.
fn timeouts(net: &Net) -> Result<Vec<(u64, u64)>> {
    let hosts = [&net.client, &net.proxy, &net.targets[0]];
    hosts
        .map(|host| Ok((host.counter("TcpExt", "TCPTimeouts")?, host.counter("Tcp", "RetransSegs")?)))
        .into_iter()
        .collect()
}

fn start<T: Send + 'static>(net: &Net, target: &Scripted<T>, datapath: &str) -> Result<Daemon> {
    let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
    Daemon::start(&net.proxy, &config)
}

fn ask(stream: &mut TcpStream, rounds: u64) -> Result<()> {
    for _ in 0..rounds {
        stream.write_all(&MESSAGE)?;
        stream.expect(&MESSAGE)?;
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, rounds: u64) -> Result<()> {
    for _ in 0..rounds {
        stream.expect(&MESSAGE)?;
        stream.write_all(&MESSAGE)?;
    }
    Ok(())
}

/// A socket cannot be asked for its numbers while it has something left to send, of which its client takes little.
#[test]
fn a_session_is_watched_when_everything_is_sent() -> Result<()> {
    /// More than the client's window, less than what the proxy's socket takes.
    const ANSWER: usize = 16 * 1024;
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        stream.write_all(&[b'x'; ANSWER])?;
        stream.expect_ending(Ending::Closed)
    })?;
    // Time for the target to begin: before that nothing waits to be sent.
    let config = Config::single(target.address()).datapath("join_quiet = \"1s\"");
    let daemon = Daemon::start(&net.proxy, &config)?;
    let proxy = daemon.v4();
    let mut client = net.client.enter(|| -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(1)?;
        socket.connect(&proxy.into())?;
        Ok(socket.into())
    })?;
    let bytes = [("direction", "download")];
    daemon.wait_metric("landbridge_bytes_total", &bytes, ANSWER as f64)?;
    // It is quiet again and again; the time is the subject here.
    thread::sleep(Duration::from_millis(2_500));
    let joints = daemon.metrics()?.value("landbridge_packet_joints", &[]);
    ensure!(joints == 0.0, "{joints} sessions are watched");
    client.expect(&[b'x'; ANSWER])?;
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)
}

/// As after a power failure: the host is there again, but knows of no connection.
#[test]
fn a_client_that_has_forgotten_its_session_is_found() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        answer(&mut stream, 20)?;
        stream.expect_ending(Ending::Reset)
    })?;
    let config = Config::single(target.address()).listener_tcp("keepalive = \"1s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    ask(&mut client, 20)?;
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    client.forget()?;
    target.outcome()?;
    daemon.wait_ended(1, "client_reset")?;
    daemon.stop().map(drop)
}

/// And begins anew from the same port, as a host that has just started or a router that has lost its table does. It need
/// not wait until keepalive finds that out.
#[test]
fn a_client_that_begins_anew_from_the_same_port_is_let_in() -> Result<()> {
    /// Two repetitions of a SYN, with much to spare, and far less than the first keepalive probe.
    const AT_ONCE: Duration = Duration::from_secs(8);
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).bind("[::]:8000").listener_tcp("keepalive = \"1h\"");
    for listener in [Daemon::v4, Daemon::v6] {
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(listener(&daemon))?;
        ask(&mut client, 20)?;
        daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
        let own = client.local_addr()?;
        client.forget()?;
        let since = Instant::now();
        let mut again = net.client.connect_from_port(own, listener(&daemon))?;
        ask(&mut again, 1)?;
        ensure!(since.elapsed() < AT_ONCE, "it took {:?}", since.elapsed());
        daemon.wait_ended(1, "client_reset")?;
        let challenged = daemon.metrics()?.value("landbridge_packet_packets_total", &[("verdict", "challenged")]);
        ensure!(challenged >= 1.0, "{challenged} SYNs were answered");
        drop(again);
        daemon.stop()?;
    }
    Ok(())
}

/// As long as the kernel would keep TIME_WAIT: what is late must not come to another session.
#[test]
fn the_port_towards_the_target_rests_when_its_session_has_ended() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    // Two for dials; what asks for metrics has others.
    let ports = |range| net.proxy.set_sysctl("ipv4/ip_local_port_range", range);
    let joined = |sessions: u32| -> Result<TcpStream> {
        ports("40000 40001")?;
        let mut client = net.client.connect(daemon.v4())?;
        ask(&mut client, 20)?;
        ports("50000 60000")?;
        daemon.wait_metric("landbridge_datapath_joins_total", &[], sessions.into())?;
        Ok(client)
    };
    drop(joined(1)?);
    daemon.wait_ended(1, "client_closed")?;
    let second = joined(2)?;
    ports("40000 40001")?;
    let (received, _) = net.client.connect(daemon.v4())?.read_to_ending()?;
    ensure!(received.is_empty(), "the first session's port is used again");
    ports("50000 60000")?;
    daemon.wait_metric("landbridge_target_connect_failures_total", &[("reason", "local")], 1.0)?;
    drop(second);
    daemon.stop().map(drop)
}

/// Probes keep what is alive alive, and do no harm.
#[test]
fn a_quiet_session_is_probed_and_goes_on() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::new([Group::new("onprem").tcp("keepalive = \"1s\"").target(echo.address())]);
    let mut daemon = Daemon::start(&net.proxy, &config.listener_tcp("keepalive = \"1s\""))?;
    daemon.wait_metric("landbridge_packet_joints", &[], 0.0)?;
    let mut client = net.client.connect(daemon.v4())?;
    ask(&mut client, 20)?;
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    daemon.wait_metric("landbridge_packet_joints", &[], 1.0)?;
    // Longer than it takes to give a silent peer up.
    client.expect_quiet(Duration::from_secs(7))?;
    ask(&mut client, 20)?;
    drop(client);
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}
