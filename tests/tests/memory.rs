//! Thousands of sessions that wait, as behind a balancer that keeps its connections.

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Net, SocketExt, eventually};
use nix::sys::resource::{Resource, setrlimit};

const SESSIONS: usize = 5_000;

/// Sessions that are there before the first look, for what the daemon allocates once is not a cost of a session.
const WARM: usize = 100;

/// This process holds both ends of all sessions; the daemon inherits the limit and holds both legs.
const DESCRIPTORS: u64 = 2 * SESSIONS as u64 + 1_000;

#[test]
fn a_session_in_user_space_costs_less_than_four_kibibytes() -> Result<()> {
    cost("copy", 4 << 10, |_, _| Ok(()))
}

#[test]
fn a_joined_session_costs_less_than_a_kibibyte() -> Result<()> {
    cost("packet", 1 << 10, |daemon, sessions| {
        daemon.wait_metric("landbridge_datapath_joins_total", &[], sessions as f64)
    })
}

/// Fails unless each of [`SESSIONS`] that come at once costs less than `limit` bytes, some time after they are `settled`.
fn cost(datapath: &str, limit: u64, settled: impl Fn(&Daemon, usize) -> Result<()>) -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).listener(&format!("datapath = {datapath:?}"));
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let open = |sessions: usize| {
        let connect = |_| -> Result<_> {
            let mut stream = std::net::TcpStream::connect(daemon.v4())?;
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
    // What they needed before they were joined is given back a moment later.
    let each = eventually("a session that has settled costs little", || {
        let each = daemon.anonymous_bytes()?.checked_sub(before).context("sessions cost memory")? / SESSIONS as u64;
        ensure!(each < limit, "{each} bytes per session");
        Ok(each)
    })?;
    println!("{each} bytes per session");

    for (number, session) in sessions.iter_mut().enumerate() {
        session.expect_echo(format!("session {number}").as_bytes())?;
    }
    drop((warm, sessions));
    daemon.wait_ended((WARM + SESSIONS) as u32, "client_closed")?;
    daemon.stop()?;
    Ok(())
}
