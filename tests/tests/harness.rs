//! What the other tests rely on: hosts that reach each other only through the proxy, faults, targets and clients.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Nginx, Sample, Scripted};
use landbridge_tests::{Ending, Net, PATIENCE, Process, SocketExt, Tool};

#[test]
fn hosts_reach_their_neighbours_and_nobody_else() -> Result<()> {
    let net = Net::new(2)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    net.proxy.connect(echo.address())?.expect_echo(b"by IPv4")?;
    net.proxy.connect(net.targets[0].v6(9000))?.expect_echo(b"by IPv6")?;
    for host in [&net.client, &net.targets[1]] {
        let error = host.try_connect(echo.address()).expect_err("there is no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    }
    Ok(())
}

#[test]
fn faults_look_like_what_they_stand_for() -> Result<()> {
    let net = Net::new(1)?;
    let refused = net.proxy.try_connect(net.targets[0].v4(9000)).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let unreachable = net.proxy.try_connect(net.unreachable(9000)?).expect_err("there is no way");
    assert_eq!(unreachable.kind(), ErrorKind::HostUnreachable);
    let blackhole = net.blackhole(0, 9000)?;
    let limit = Duration::from_millis(300);
    let silent = net.proxy.enter(|| TcpStream::connect_timeout(&blackhole, limit)).expect_err("nobody answers");
    assert_eq!(silent.kind(), ErrorKind::TimedOut);

    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut session = net.proxy.connect(echo.address())?;
    session.expect_echo(b"before")?;
    net.cut_target(0)?;
    session.write_all(b"after")?;
    session.expect_quiet(Duration::from_millis(300))?;
    Ok(())
}

#[test]
fn both_endings_are_told_apart() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| stream.read_to_ending())?;
    let closed = net.proxy.connect(target.address())?;
    closed.finish_writing()?;
    assert_eq!(target.outcome()?, (Vec::new(), Ending::Closed));
    net.proxy.connect(target.address())?.reset()?;
    assert_eq!(target.outcome()?, (Vec::new(), Ending::Reset));
    assert_eq!(target.accepted(), 2);
    Ok(())
}

#[test]
fn the_sample_target_answers_every_client() -> Result<()> {
    let net = Net::new(1)?;
    let sample = Sample::start(&net.targets[0], 9000, "gpu-1", &["--token-interval", "1ms"])?;
    let health = format!("http://{}/health", sample.address());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = Tool::Curl.on(&net.proxy)?;
        curl.args(["--silent", "--show-error", "--fail", "--write-out", "%header{x-served-by}", version, &health]);
        let answer = Process::start("curl", &mut curl)?.succeed(PATIENCE)?;
        ensure!(answer.ends_with("gpu-1"), "{answer}");
    }
    assert_eq!(sample.served(), 2);
    Ok(())
}

#[test]
fn a_sample_target_that_cannot_listen_says_so() -> Result<()> {
    let net = Net::new(1)?;
    let _first = Sample::start(&net.targets[0], 9000, "gpu-1", &[])?;
    let error = Sample::start(&net.targets[0], 9000, "gpu-2", &[]).expect_err("the port is taken");
    let message = format!("{error:#}");
    ensure!(message.contains("exit status: 1") && message.contains("cannot listen on [::]:9000"), "{message}");
    Ok(())
}

#[test]
fn nginx_serves_its_files() -> Result<()> {
    let net = Net::new(1)?;
    let nginx = Nginx::start(&net.targets[0], 80)?;
    let mut curl = Tool::Curl.on(&net.proxy)?;
    let what = "%{http_code} %{size_download}";
    curl.args(["--silent", "--output", "/dev/null", "--write-out", what, &format!("http://{}/large", nginx.address())]);
    let answer = Process::start("curl", &mut curl)?.succeed(PATIENCE)?;
    assert_eq!(answer, format!("200 {}", Nginx::LARGE));
    Ok(())
}
