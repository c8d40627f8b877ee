//! Thousands of sessions that wait, as behind a balancer that keeps its connections.

use anyhow::{Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Net, SocketExt};
use nix::sys::resource::{Resource, setrlimit};

const SESSIONS: usize = 5_000;
const BYTES_PER_SESSION: u64 = 4 << 10;

/// This process holds both ends of all sessions; the daemon inherits the limit and holds both legs.
const DESCRIPTORS: u64 = 2 * SESSIONS as u64 + 1_000;

#[test]
fn an_idle_session_costs_less_than_four_kibibytes() -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let open = |sessions: usize| {
        let connect = |_| -> Result<_> {
            let mut stream = std::net::TcpStream::connect(daemon.v4())?;
            stream.expect_echo(b"hello")?;
            Ok(stream)
        };
        net.client.enter(|| (0..sessions).map(connect).collect::<Result<Vec<_>>>())
    };

    // What the daemon allocates once is not a cost of a session.
    let warm = open(100)?;
    let before = daemon.resident_bytes()?;
    let mut sessions = open(SESSIONS)?;
    let each = daemon.resident_bytes()?.saturating_sub(before) / SESSIONS as u64;
    println!("{each} bytes per session");
    ensure!(each < BYTES_PER_SESSION, "{each} bytes per session");

    for (number, session) in sessions.iter_mut().enumerate() {
        session.expect_echo(format!("session {number}").as_bytes())?;
    }
    drop((warm, sessions));
    daemon.wait_ended(SESSIONS as u32 + 100, "client_closed")?;
    daemon.stop().map(drop)
}
