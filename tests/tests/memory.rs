//! Thousands of sessions that wait, as behind a balancer that keeps its connections.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Ending, Net, SocketExt};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

const SESSIONS: usize = 5_000;

/// Sessions that are there before the first look, for what the daemon allocates once is not a cost of a session.
const WARM: usize = 100;

/// This process holds both ends of all sessions; the daemon inherits the limit and holds both legs.
const DESCRIPTORS: u64 = 2 * SESSIONS as u64 + 1_000;

#[test]
fn a_session_in_user_space_costs_less_than_four_kibibytes() -> Result<()> {
    let end = |_: &mut Daemon, sessions| {
        drop::<Vec<TcpStream>>(sessions);
        Ok(())
    };
    cost("copy", 4 << 10, |_, _| Ok(()), end)
}

/// When all of them end while the daemon stands still, the kernel cannot tell it of each, and it finds them all the same.
#[test]
fn a_joined_session_costs_less_than_a_kibibyte_and_is_found_when_its_end_is_not_told() -> Result<()> {
    /// How many ends the kernel keeps for the daemon.
    const TOLD: f64 = 4_096.0;
    let joined =
        |daemon: &Daemon, sessions| daemon.wait_metric("landbridge_datapath_joins_total", &[], sessions as f64);
    cost("packet", 1 << 10, joined, |daemon, sessions| {
        let untold = |daemon: &Daemon| {
            let metrics = daemon.metrics()?;
            Ok::<_, anyhow::Error>(metrics.value("landbridge_packet_packets_total", &[("verdict", "event_lost")]))
        };
        let before = untold(daemon)?;
        daemon.process().stop_running()?;
        let ends = sessions.len() as f64;
        sessions.into_iter().try_for_each(|mut session| {
            session.finish_writing()?;
            session.expect_ending(Ending::Closed)
        })?;
        daemon.process().signal(Signal::SIGCONT)?;
        let untold = untold(daemon)? - before;
        ensure!(untold > 0.9 * (ends - TOLD), "{untold} of {ends} were not told");
        Ok(())
    })
}

/// Fails unless each of [`SESSIONS`] that come at once costs less than `limit` bytes, once they are `settled`, and
/// all are counted after their `end`.
fn cost(
    datapath: &str,
    limit: u64,
    settled: impl Fn(&Daemon, usize) -> Result<()>,
    end: impl FnOnce(&mut Daemon, Vec<TcpStream>) -> Result<()>,
) -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).listener(&format!("datapath = {datapath:?}"));
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let open = |sessions: usize| {
        let connect = |_| -> Result<_> {
            let mut stream = TcpStream::connect(daemon.v4())?;
            stream.expect_echo(b"hello")?;
            Ok(stream)
        };
        net.client.enter(|| (0..sessions).map(connect).collect::<Result<Vec<_>>>())
    };

    let warm = open(WARM)?;
    settled(&daemon, WARM)?;
    let before = daemon.anonymous_bytes()?;
    let mut sessions = open(SESSIONS)?;
    settled(&daemon, WARM + SESSIONS)?;
    let each = daemon.anonymous_bytes()?.checked_sub(before).context("sessions cost memory")? / SESSIONS as u64;
    println!("{each} bytes per session");
    ensure!(each < limit, "{each} bytes per session");

    for (number, session) in sessions.iter_mut().enumerate() {
        session.expect_echo(format!("session {number}").as_bytes())?;
    }
    sessions.extend(warm);
    end(&mut daemon, sessions)?;
    daemon.wait_ended((WARM + SESSIONS) as u32, "client_closed")?;
    daemon.stop()?;
    Ok(())
}
