//! PROXY headers: expected from clients, sent to targets, and sessions without a good one closed.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{ProxyHeader, Scripted};
use landbridge_tests::{Config, Daemon, Group, Net, SocketExt, eventually};

/// The header of a balancer whose client is far away.
fn header(version: u8) -> ProxyHeader {
    ProxyHeader { version, source: address("192.0.2.7:4711"), destination: address("203.0.113.1:443") }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

/// A target that reads a header, greets, and returns the header and what followed.
fn target(net: &Net) -> Result<Scripted<(ProxyHeader, Vec<u8>)>> {
    Scripted::start(&net.targets[0], 9000, |mut stream| {
        let header = ProxyHeader::read(&mut stream)?;
        stream.write_all(b"hello")?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        Ok((header, rest))
    })
}

fn config(target: SocketAddr, accept: &str, send: &str) -> Config {
    let group = Group::new("onprem").target(target).with(&format!("send_proxy = {send:?}"));
    Config::new([group]).listener(&format!("accept_proxy = {accept:?}"))
}

#[test]
fn every_accepted_version_is_translated_to_every_sent_one() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net)?;
    for (accept, accepted) in [("v1", 1), ("v2", 2), ("any", 1), ("any", 2)] {
        for (send, sent) in [("v1", 1), ("v2", 2)] {
            let one = || -> Result<()> {
                let mut daemon = Daemon::start(&net.proxy, &config(target.address(), accept, send))?;
                let mut client = net.client.connect(daemon.v4())?;
                // The client's own first bytes come in the same segment.
                client.write_all(&[&header(accepted).bytes()[..], b"question"].concat())?;
                client.expect(b"hello")?;
                client.finish_writing()?;
                let (received, rest) = target.outcome()?;
                ensure!(received == header(sent), "{received:?}");
                ensure!(rest == b"question", "{:?}", String::from_utf8_lossy(&rest));
                daemon.wait_ended(1, "client_closed")?;
                daemon.stop().map(drop)
            };
            one().with_context(|| format!("{accept} with version {accepted} to {send}"))?;
        }
    }
    Ok(())
}

#[test]
fn without_a_header_the_connection_itself_is_told() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net)?;
    // A balancer's own health checks have no client: "UNKNOWN" in version 1, LOCAL in version 2.
    let local_v2 = [&header(2).bytes()[..12], b"\x20\x00\x00\x00"].concat();
    for (accept, hello) in [("off", &b""[..]), ("v1", b"PROXY UNKNOWN\r\n"), ("v2", &local_v2)] {
        let mut daemon = Daemon::start(&net.proxy, &config(target.address(), accept, "v2"))?;
        let mut client = net.client.connect(daemon.v4())?;
        client.write_all(hello)?;
        client.expect(b"hello").with_context(|| format!("accept_proxy = {accept}"))?;
        let expected = ProxyHeader { version: 2, source: client.local_addr()?, destination: daemon.v4() };
        client.finish_writing()?;
        assert_eq!(target.outcome()?, (expected, Vec::new()));
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn an_accepted_header_is_not_passed_on_by_itself() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| stream.read_to_ending())?;
    let mut daemon = Daemon::start(&net.proxy, &config(target.address(), "any", "off"))?;
    for version in [1, 2] {
        let mut client = net.client.connect(daemon.v4())?;
        client.write_all(&[&header(version).bytes()[..], b"question"].concat())?;
        client.finish_writing()?;
        let (received, _) = target.outcome()?;
        ensure!(received == b"question", "{:?}", String::from_utf8_lossy(&received));
    }
    daemon.stop().map(drop)
}

#[test]
fn a_header_may_come_in_pieces_and_with_extensions() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net)?;
    let mut daemon = Daemon::start(&net.proxy, &config(target.address(), "any", "v2"))?;
    let mut extended = header(2).bytes();
    // A NOOP extension (type 4) of three bytes, and the length of all in the header.
    extended.extend(b"\x04\x00\x03abc");
    extended[15] += 6;
    for mut hello in [header(1).bytes(), header(2).bytes(), extended] {
        let mut client = net.client.connect(daemon.v4())?;
        hello.extend(b"question");
        // One segment per byte: the client's socket does not wait for more.
        for byte in hello {
            client.write_all(&[byte])?;
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        client.expect(b"hello")?;
        client.finish_writing()?;
        assert_eq!(target.outcome()?, (header(2), b"question".to_vec()));
    }
    daemon.stop().map(drop)
}

#[test]
fn a_session_with_a_bad_header_is_closed_before_any_target_sees_it() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net)?;
    let (v1, v2) = (header(1).bytes(), header(2).bytes());
    let edited = |at: usize, byte: u8| {
        let mut bytes = v2.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        ("any", "no header", b"GET / HTTP/1.1\r\nHost: gpu-1\r\n\r\n".to_vec()),
        ("any", "no addresses", b"PROXY TCP4\r\n".to_vec()),
        ("any", "not an address", b"PROXY TCP4 192.0.2.300 203.0.113.1 4711 443\r\n".to_vec()),
        ("any", "not a port", b"PROXY TCP4 192.0.2.7 203.0.113.1 70000 443\r\n".to_vec()),
        ("any", "wrong family", b"PROXY TCP6 192.0.2.7 203.0.113.1 4711 443\r\n".to_vec()),
        ("any", "unknown family", b"PROXY TCP5 192.0.2.7 203.0.113.1 4711 443\r\n".to_vec()),
        ("any", "endless line", [b"PROXY TCP4 ", &[b'1'; 400][..]].concat()),
        ("any", "wrong signature", edited(11, b'!')),
        ("any", "version 3", edited(12, 0x31)),
        ("any", "unknown command", edited(12, 0x2f)),
        ("any", "too short for its addresses", edited(15, 4)),
        ("v1", "version 2 where 1 is due", v2.clone()),
        ("v2", "version 1 where 2 is due", v1.clone()),
    ];
    for accept in ["any", "v1", "v2"] {
        let mut daemon = Daemon::start(&net.proxy, &config(target.address(), accept, "v2"))?;
        let mut sessions = 0;
        for (_, what, hello) in cases.iter().filter(|case| case.0 == accept) {
            let mut client = net.client.connect(daemon.v4())?;
            client.write_all(&[&hello[..], b"more"].concat())?;
            let (received, _) = client.read_to_ending().with_context(|| format!("{what} is not closed"))?;
            ensure!(received.is_empty(), "{what} is answered");
            sessions += 1;
            daemon.wait_ended(sessions, "bad_proxy_header").with_context(|| format!("{what} is not counted"))?;
        }
        let peer = format!("peer={}:", net.client.v4(0).ip());
        eventually("the log names the peers", || {
            let told = daemon.process().stderr().matches(&peer).count();
            ensure!(told == sessions as usize, "{told} of {sessions}");
            Ok(())
        })?;
        daemon.stop()?;
    }
    assert_eq!(target.accepted(), 0);
    Ok(())
}

#[test]
fn a_session_whose_header_does_not_come_in_time_is_closed() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net)?;
    let mut daemon = Daemon::start(&net.proxy, &config(target.address(), "any", "v2"))?;
    let mut clients = Vec::new();
    for hello in [&b""[..], b"PROXY TCP4 192.0.2.7 203.0", &header(2).bytes()[..20]] {
        let mut client = net.client.connect(daemon.v4())?;
        client.write_all(hello)?;
        clients.push(client);
    }
    for mut client in clients {
        ensure!(client.read_to_ending()?.0.is_empty());
    }
    daemon.wait_ended(3, "bad_proxy_header")?;
    assert_eq!(target.accepted(), 0);
    daemon.stop().map(drop)
}

#[test]
fn a_header_that_ends_too_early_closes_the_session() -> Result<()> {
    let net = Net::new(1)?;
    let target = target(&net)?;
    let mut daemon = Daemon::start(&net.proxy, &config(target.address(), "any", "v2"))?;
    for hello in [&b"PROXY TCP4 192.0.2.7 203.0"[..], &header(2).bytes()[..20]] {
        let mut client = net.client.connect(daemon.v4())?;
        client.write_all(hello)?;
        client.finish_writing()?;
        ensure!(client.read_to_ending()?.0.is_empty());
    }
    daemon.wait_ended(2, "bad_proxy_header")?;
    // As the checks of balancers.
    drop(net.client.connect(daemon.v4())?);
    net.client.connect(daemon.v4())?.reset()?;
    daemon.wait_metric("landbridge_sessions_total", &[("end", "client_gone")], 2.0)?;
    assert_eq!(target.accepted(), 0);
    daemon.stop().map(drop)
}
