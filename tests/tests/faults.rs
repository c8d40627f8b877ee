//! Servers that die under load: what is lost, counted, and how long it takes. The times are those of README.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Sample, Scripted};
use landbridge_tests::{Config, Daemon, Group, Net, PATIENCE, eventually};
use nix::sys::signal::Signal;

const CLIENTS: usize = 4;

/// Two servers with the default health check, and clients that ask them for something all the time.
struct Scene {
    net: Net,
    servers: [Sample; 2],
    daemon: Daemon,
}

impl Scene {
    fn start() -> Result<Self> {
        let net = Net::new(1)?;
        let options = ["--tokens", "1000000"];
        let servers = [
            Sample::start(&net.targets[0], 9000, "a", &options)?,
            Sample::start(&net.targets[0], 9001, "b", &options)?,
        ];
        let group = Group::new("onprem").health("").target(servers[0].address()).target(servers[1].address());
        let daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
        Ok(Self { net, servers, daemon })
    }

    /// A stream of tokens that has begun.
    fn stream(&self) -> Result<TcpStream> {
        let body = r#"{"messages": [{}], "stream": true, "max_tokens": 1000000}"#;
        let mut stream = self.net.client.connect(self.daemon.v4())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin)?;
        ensure!(begin == *b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&begin));
        Ok(stream)
    }

    /// The clients whose session is on the first server.
    fn on_first(&self) -> Result<BTreeSet<SocketAddr>> {
        let listed = self.daemon.json(&["sessions"])?;
        let first = self.servers[0].address().to_string();
        let of_first = listed.as_array().context("a list")?.iter().filter(|of| of["target"] == first.as_str());
        of_first.map(|of| Ok(of["client"].as_str().context("a client")?.parse()?)).collect()
    }
}

/// Requests on a connection each, one after the other.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU32>,
    clients: Vec<JoinHandle<Vec<Failure>>>,
}

#[derive(Debug)]
struct Failure {
    at: Instant,
}

impl Load {
    fn start(scene: &Scene) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let address = scene.daemon.v4();
        let client = |_| {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            scene.net.client.spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match request(address) {
                        Ok(()) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Err(_lost) => failures.push(Failure { at: Instant::now() }),
                    }
                }
                failures
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, good, clients }
    }

    /// Waits until so many more requests were answered.
    fn answered(&self, more: u32) -> Result<()> {
        let before = self.good.load(Ordering::Relaxed);
        eventually("requests are answered", || {
            ensure!(self.good.load(Ordering::Relaxed) >= before + more);
            Ok(())
        })
    }

    /// Ends it: the requests that were lost.
    fn finish(self) -> Vec<Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    }
}

fn request(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with('}'), "{answer}");
    Ok(())
}

/// Whether a stream has come to an end, be it by force; what has arrived is thrown away.
fn has_ended(stream: &mut TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(_reset) => return Ok(true),
        }
    }
}

#[test]
fn a_server_that_is_killed_takes_only_its_own_requests_with_it() -> Result<()> {
    const STREAMS: usize = 40;
    let scene = Scene::start()?;
    let mut streams = (0..STREAMS).map(|_| scene.stream()).collect::<Result<Vec<_>>>()?;
    let load = Load::start(&scene);
    load.answered(50)?;
    let doomed = scene.on_first()?;
    let since = Instant::now();
    scene.servers[0].signal(Signal::SIGKILL)?;
    load.answered(200)?;
    eventually("it is down", || {
        let up = scene.daemon.metrics()?.value("landbridge_target_up", &[]);
        ensure!(up == 1.0, "{up} are up");
        Ok(())
    })?;
    println!("measured: killed: known to be down after {:?}", since.elapsed());
    let failures = load.finish();
    let last = failures.iter().map(|failure| failure.at.saturating_duration_since(since)).max().unwrap_or_default();
    println!("measured: killed: {} of {CLIENTS} clients lost a request, the last after {last:?}", failures.len());
    ensure!(failures.len() <= CLIENTS, "only what was on its way may be lost: {failures:?}");
    ensure!(last < Duration::from_secs(1), "a request that began later was lost: {failures:?}");

    for stream in &mut streams {
        let expected = doomed.contains(&stream.local_addr()?);
        eventually("exactly the streams of the dead server have ended", || {
            ensure!(has_ended(stream)? == expected, "ended: {}", !expected);
            Ok(())
        })?;
    }
    ensure!(streams.iter().any(|stream| stream.local_addr().is_ok_and(|client| doomed.contains(&client))));
    Ok(())
}

/// A process that is stopped still accepts, by its kernel: only its health check tells.
#[test]
fn a_server_that_freezes_is_left_out_when_its_health_check_says_so() -> Result<()> {
    let scene = Scene::start()?;
    let load = Load::start(&scene);
    load.answered(50)?;
    let since = Instant::now();
    scene.servers[0].signal(Signal::SIGSTOP)?;
    scene.daemon.wait_metric("landbridge_target_up", &[], 1.0)?;
    let known = since.elapsed();
    println!("measured: frozen: known to be down after {known:?}");
    load.answered(200)?;
    let failures = load.finish();
    let last = failures.iter().map(|failure| failure.at.saturating_duration_since(since)).max().unwrap_or_default();
    println!("measured: frozen: {} of {CLIENTS} clients lost a request, the last after {last:?}", failures.len());
    ensure!(failures.len() <= CLIENTS, "each client waits on the frozen server once: {failures:?}");
    // Two seconds between probes, three that take a second each and half a second between them, and a tenth.
    ensure!(known < Duration::from_secs(8), "it took {known:?}");
    // Their sessions were reset, or they would wait still.
    ensure!(
        failures.len()
            == scene.daemon.metrics()?.value("landbridge_sessions_total", &[("end", "target_down")]) as usize
    );
    Ok(())
}

#[test]
fn shares_are_exact_over_a_thousand_sessions() -> Result<()> {
    let net = Net::new(1)?;
    let targets = (9000..).zip(["a", "b", "c"]).map(|(port, name)| Scripted::named(&net.targets[0], port, name));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let group = targets.iter().zip([1, 3, 6]).fold(Group::new("onprem"), |group, (target, weight)| {
        group.target_with(target.address(), &format!("weight = {weight}"))
    });
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    for _ in 0..1_000 {
        net.client.connect(daemon.v4())?.read_exact(&mut [0])?;
    }
    let accepted: Vec<_> = targets.iter().map(Scripted::accepted).collect();
    assert_eq!(accepted, [100, 300, 600]);
    daemon.stop_at_once().map(drop)
}
