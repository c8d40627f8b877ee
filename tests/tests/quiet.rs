//! Sessions without bytes: a quiet one lives, an abandoned one is found.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Sample, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Metrics, Net, PATIENCE, Process, SocketExt, Tool};

/// Short limits for a peer that does not answer. A peer that answers and has nothing to say is not held to them.
const KEEPALIVE: &str = "keepalive = \"1s\"";
const USER_TIMEOUT: &str = "user_timeout = \"2s\"";

const IDLE_CLOSE: &str = "landbridge_target_idle_close_seconds";

/// Longer than what passes for closing at once, by more than the second in which joined sessions are looked at.
const KEEP: Duration = Duration::from_secs(4);

#[test]
fn a_target_that_closes_idle_sessions_is_told_by_the_doctor() -> Result<()> {
    /// More than the time in which two closes are taken for one, and the second in which joined sessions are looked at.
    const APART: Duration = Duration::from_millis(3_500);
    const LATE: Duration = Duration::from_secs(3);
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        for _ in 0..20 {
            stream.expect(b"hello")?;
            stream.write_all(b"hello")?;
        }
        // The time is the subject here.
        std::thread::sleep(KEEP);
        stream.finish_writing()?;
        stream.expect_ending(Ending::Closed)
    })?;
    for datapath in ["copy", "packet"] {
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config.runtime("workers = 1"))?;
        ensure!(daemon.cli_good(&["doctor"])?.contains("no target was seen to close one within 1m"));
        let mut clients = Vec::new();
        for _ in 0..3 {
            ensure!(daemon.metrics()?.value(IDLE_CLOSE, &[]) == 0.0, "less than three closes are no timeout");
            let mut client = net.client.connect(daemon.v4())?;
            for _ in 0..20 {
                client.expect_echo(b"hello")?;
            }
            // How long the client then takes is not the target's time.
            clients.push(std::thread::spawn(move || {
                client.expect_ending(Ending::Closed)?;
                std::thread::sleep(LATE);
                Ok::<_, anyhow::Error>(client)
            }));
            std::thread::sleep(APART);
        }
        for client in clients {
            drop(client.join().expect("a client does not panic")?);
            target.outcome()?;
        }
        daemon.wait_ended(3, "target_closed")?;
        let idle = daemon.metrics()?.value(IDLE_CLOSE, &[("group", "onprem")]);
        ensure!((2.5..5.5).contains(&idle), "{datapath}: {idle}");
        let told = daemon.cli_good(&["doctor"])?;
        ensure!(told.contains("no  idle connections") && told.contains("--timeout-keep-alive 65"), "{told}");
        let short = daemon.cli_good(&["doctor", "--balancer-idle-timeout", "2s"])?;
        ensure!(short.contains("no target was seen to close one within 2s"), "{short}");
        daemon.stop()?;
    }
    Ok(())
}

/// It closes all of its connections at once, and they were idle for as long as they happened to be.
#[test]
fn a_target_that_is_restarted_has_no_idle_timeout() -> Result<()> {
    let net = Net::new(1)?;
    let address = net.targets[0].v4(9000);
    let config = Config::single(address).runtime("workers = 1");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut clients = (0..20).map(|_| net.client.connect(daemon.v4())).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.expect_echo(b"hello")?;
    }
    // The time is the subject here.
    std::thread::sleep(KEEP);
    drop(echo);
    for client in &mut clients {
        client.expect_ending(Ending::Closed)?;
    }
    drop(clients);
    daemon.wait_ended(20, "target_closed")?;
    daemon.wait_metric(IDLE_CLOSE, &[], 0.0)?;
    ensure!(daemon.cli_good(&["doctor"])?.contains("no target was seen to close one within 1m"));
    daemon.stop().map(drop)
}

/// A prompt that is processed for a minute, under limits that are as much shorter than the usual ones.
#[test]
fn a_stream_that_stays_quiet_is_not_cut() -> Result<()> {
    stream_with_a_gap("auto", Duration::from_secs(6)).map(drop)
}

/// As packets: longer than every timer of the daemon, which looks at joined sessions once a second and gives a silent peer up
/// after three probes; or for minutes if there is time.
#[test]
fn a_joined_stream_that_stays_quiet_is_not_cut() -> Result<()> {
    let is_long = std::env::var_os("LANDBRIDGE_LONG").is_some();
    let metrics = stream_with_a_gap("packet", Duration::from_secs(if is_long { 200 } else { 8 }))?;
    let joins = metrics.value("landbridge_datapath_joins_total", &[]);
    ensure!(joins == 1.0, "{joins} joins");
    // It was joined in the gap at the latest: what came after it did not go through user space.
    let packet = metrics.value("landbridge_bytes_total", &[("datapath", "packet"), ("direction", "download")]);
    ensure!(packet > 0.0, "{}", metrics.lines("landbridge_bytes_total"));
    let forwarded = metrics.value("landbridge_packet_packets_total", &[("verdict", "forwarded")]);
    ensure!(forwarded > 0.0, "{}", metrics.lines("landbridge_packet_packets_total"));
    Ok(())
}

/// A stream of six tokens with a pause in its middle; what the daemon has counted then.
fn stream_with_a_gap(datapath: &str, gap: Duration) -> Result<Metrics> {
    let net = Net::new(1)?;
    let sample = Sample::start(
        &net.targets[0],
        9000,
        "gpu-1",
        &["--quiet-gap", &format!("{}s", gap.as_secs()), "--tokens", "6"],
    )?;
    let group = Group::new("onprem").target(sample.address()).tcp(KEEPALIVE).tcp(USER_TIMEOUT);
    let config = Config::new([group.tcp("connect_timeout = \"1s\"")])
        .listener("half_close_timeout = \"1s\"")
        .listener(&format!("datapath = {datapath:?}"))
        .listener_tcp(KEEPALIVE)
        .listener_tcp(USER_TIMEOUT);
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let since = Instant::now();
    let mut curl = Tool::Curl.on(&net.client)?;
    curl.args(["--silent", "--show-error", "--fail", "--no-buffer"])
        .args(["--json", r#"{"messages": [{"role": "user", "content": "think"}], "stream": true}"#])
        .arg(format!("http://{}/v1/chat/completions", daemon.v4()));
    let stream = Process::start("curl", &mut curl)?.succeed(gap + PATIENCE)?;
    ensure!(since.elapsed() >= gap, "the gap lasted {:?}", since.elapsed());
    for token in ["gpu-1:", " token-1", " token-5"] {
        ensure!(stream.contains(&format!("{{\"content\":\"{token}\"}}")), "{token} is missing: {stream}");
    }
    ensure!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    daemon.wait_ended(1, "client_closed")?;
    let metrics = daemon.metrics()?;
    daemon.stop()?;
    Ok(metrics)
}

#[test]
fn idle_timeout_cuts_what_is_idle_and_nothing_else() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(1);
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| stream.read_to_ending())?;
    let config = Config::single(target.address()).listener("idle_timeout = \"1s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    // Bytes in one direction are enough.
    let mut last_byte = Instant::now();
    for _ in 0..8 {
        last_byte = Instant::now();
        client.write_all(b"x")?;
        client.expect_quiet(LIMIT / 4)?;
    }
    client.expect_ending(Ending::Reset)?;
    let idle = last_byte.elapsed();
    ensure!(idle >= LIMIT && idle < LIMIT * 3, "it was cut after {idle:?}");
    ensure!(target.outcome()?.1 == Ending::Reset);
    daemon.wait_ended(1, "idle")?;
    daemon.stop().map(drop)
}

#[test]
fn a_target_that_lost_power_is_found_by_a_quiet_session() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let group = Group::new("onprem").target(echo.address()).tcp(KEEPALIVE).tcp(USER_TIMEOUT);
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"alive")?;
    net.cut_target(0)?;
    client.expect_ending(Ending::Reset)?;
    daemon.wait_ended(1, "target_reset")?;
    daemon.stop().map(drop)
}

/// Keepalive does not run while data is unacknowledged; then the user timeout is what counts.
#[test]
fn a_target_that_lost_power_is_found_by_a_sending_session() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let group = Group::new("onprem").target(echo.address()).tcp("keepalive = \"1h\"").tcp(USER_TIMEOUT);
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"alive")?;
    net.cut_target(0)?;
    client.write_all(b"anybody there?")?;
    client.expect_ending(Ending::Reset)?;
    daemon.wait_ended(1, "target_reset")?;
    daemon.stop().map(drop)
}

#[test]
fn a_client_that_lost_power_is_found() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        stream.write_all(b"alive")?;
        stream.read_to_ending()
    })?;
    let config = Config::single(target.address()).listener_tcp(KEEPALIVE).listener_tcp(USER_TIMEOUT);
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect(b"alive")?;
    net.cut_client()?;
    ensure!(target.outcome()? == (Vec::new(), Ending::Reset));
    daemon.wait_ended(1, "client_reset")?;
    daemon.stop().map(drop)
}
