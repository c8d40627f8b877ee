//! Socket options of the legs, seen from outside.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Group, LISTENER_PORT, Net, PATIENCE, Process, SocketExt, Tool};

const FAILURES: &str = "landbridge_target_connect_failures_total";

#[test]
fn the_target_sees_the_source_that_is_configured() -> Result<()> {
    let net = Net::new(1)?;
    net.proxy.ip("addr add 10.0.1.50/24 dev target0")?;
    let target = Scripted::start(&net.targets[0], 9000, |stream| Ok(stream.peer_addr()?.ip().to_canonical()))?;
    for (line, expected) in [("", net.proxy_towards(0)), ("source = \"10.0.1.50\"", [10, 0, 1, 50].into())] {
        let group = Group::new("onprem").target(target.address()).tcp(line);
        let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
        net.client.connect(daemon.v4())?;
        assert_eq!(target.outcome()?, expected);
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_source_that_the_host_does_not_have_is_a_local_failure() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let group = Group::new("onprem").target(echo.address()).tcp("source = \"192.0.2.1\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    ensure!(net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.wait_metric(FAILURES, &[("reason", "local")], 1.0)?;
    daemon.stop().map(drop)
}

/// The same address lies behind two links; without the binding all sessions take the first.
#[test]
fn sessions_leave_by_the_interface_that_is_configured() -> Result<()> {
    let net = Net::new(2)?;
    let both: SocketAddr = ([198, 51, 100, 1], 9000).into();
    let mut targets = Vec::new();
    for (index, name) in ["by target0", "by target1"].into_iter().enumerate() {
        let host = &net.targets[index];
        host.ip(&format!("addr add {}/32 dev lo", both.ip()))?;
        net.proxy.ip(&format!("route add {} via {} metric {}", both.ip(), host.v4(0).ip(), index + 1))?;
        targets.push(Scripted::named(host, both.port(), name)?);
    }
    for (line, name) in [("", "by target0"), ("interface = \"target1\"", "by target1")] {
        let group = Group::new("onprem").target(both).tcp(line);
        let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
        net.client.connect(daemon.v4())?.expect(name.as_bytes())?;
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn congestion_control_and_keepalive_are_set_on_the_legs() -> Result<()> {
    const LASTING: Duration = Duration::from_millis(1_500);
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        stream.write_all(b"ready")?;
        stream.read_to_ending()
    })?;
    // `ss` shows for each leg what the kernel uses; "bbr" or "cubic" are the usual defaults.
    let legs = |config: Config| -> Result<[String; 2]> {
        // The sockets of a joined session are silent.
        let mut daemon = Daemon::start(&net.proxy, &config.listener("datapath = \"copy\""))?;
        net.client.connect(daemon.v4())?.expect(b"ready")?;
        let mut client = net.client.connect(daemon.v4())?;
        client.expect(b"ready")?;
        // A target leg has keepalive when it has lasted for a second.
        client.expect_quiet(LASTING)?;
        let leg = |filter: String| -> Result<String> {
            let mut ss = Tool::Ss.on(&net.proxy)?;
            ss.args(["-H", "-t", "-i", "-n", "-o", "-O", "state", "established"]).args(filter.split(' '));
            Process::start("ss", &mut ss)?.succeed(PATIENCE)
        };
        let client_leg = leg(format!("sport = :{LISTENER_PORT} and dport = :{}", client.local_addr()?.port()))?;
        let target_leg = leg("dport = :9000".to_owned())?;
        drop(client);
        daemon.stop()?;
        Ok([client_leg, target_leg])
    };
    let has = |leg: &str, word: &str| leg.split_whitespace().any(|found| found.starts_with(word));

    let plain = Config::new([Group::new("onprem").target(target.address()).tcp("keepalive = \"0s\"")]);
    let [client, target_leg] = legs(plain.listener_tcp("congestion = \"reno\"").listener_tcp("keepalive = \"90s\""))?;
    ensure!(has(&client, "reno") && has(&client, "timer:(keepalive,1min"), "client leg: {client}");
    ensure!(!has(&target_leg, "reno") && !has(&target_leg, "timer:(keepalive"), "target leg: {target_leg}");

    let other = Group::new("onprem").target(target.address()).tcp("congestion = \"reno\"").tcp("keepalive = \"90s\"");
    let [client, target_leg] = legs(Config::new([other]).listener_tcp("keepalive = \"0s\""))?;
    ensure!(has(&target_leg, "reno") && has(&target_leg, "timer:(keepalive,1min"), "target leg: {target_leg}");
    ensure!(!has(&client, "reno") && !has(&client, "timer:(keepalive"), "client leg: {client}");
    Ok(())
}

#[test]
fn the_kernel_holds_back_no_small_write() -> Result<()> {
    const TOKENS: u32 = 50;
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        stream.set_nodelay(true)?;
        // Two writes after each other: with Nagle's algorithm the second waits for an acknowledgement of the first,
        // which a receiver that has nothing to say delays by 40 ms.
        for _ in 0..TOKENS {
            stream.expect(b"?")?;
            stream.write_all(b"a")?;
            std::thread::sleep(Duration::from_millis(2));
            stream.write_all(b"b")?;
        }
        Ok(())
    })?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(target.address()))?;
    let mut client = net.client.connect(daemon.v4())?;
    let since = Instant::now();
    for _ in 0..TOKENS {
        client.write_all(b"?")?;
        client.expect(b"ab")?;
    }
    let each = since.elapsed() / TOKENS;
    ensure!(each < Duration::from_millis(20), "{each:?} for one small answer in two parts");
    target.outcome().context("target")?;
    drop(client);
    daemon.stop().map(drop)
}
