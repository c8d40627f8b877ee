//! Directions that the kernel does not take: they stay in user space one by one, counted by the reason, and lose nothing.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Checker, Config, Daemon, Ending, Net, SocketExt, Source, pump, random_chunks};

const FALLBACKS: &str = "landbridge_datapath_fallbacks_total";
const PROMOTIONS: &str = "landbridge_datapath_promotions_total";

#[test]
fn sessions_beyond_the_budget_go_on_in_user_space() -> Result<()> {
    /// The least that can be configured.
    const BUDGET: usize = 16;
    /// Each has two directions.
    const SESSIONS: usize = 3 * BUDGET;
    let net = Net::new(1)?;
    let target = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(target.address())
        .datapath(&format!("max_promoted = {BUDGET}"))
        .listener("datapath = \"sockmap\"");
    let daemon = Daemon::start(&net.proxy, &config)?;
    let talk = |clients: &mut [TcpStream]| -> Result<()> {
        for round in 0..20 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.expect_echo(format!("message {round} of session {number}").as_bytes())?;
            }
        }
        Ok(())
    };

    let mut clients = (0..SESSIONS).map(|_| net.client.connect(daemon.v4())).collect::<Result<Vec<_>>>()?;
    talk(&mut clients)?;
    daemon.wait_metric(PROMOTIONS, &[], BUDGET as f64)?;
    let refused = (2 * SESSIONS - BUDGET) as f64;
    daemon.wait_metric(FALLBACKS, &[("datapath", "sockmap"), ("reason", "budget")], refused)?;
    drop(clients);
    daemon.wait_ended(SESSIONS as u32, "client_closed")?;

    // What they had is free again.
    let mut more = vec![net.client.connect(daemon.v4())?];
    talk(&mut more)?;
    daemon.wait_metric(PROMOTIONS, &[], BUDGET as f64 + 2.0)?;
    daemon.wait_metric(FALLBACKS, &[], refused)?;
    drop(more);
    sound(daemon)
}

/// A direction whose source has ended cannot enter the kernel.
#[test]
fn a_source_that_has_ended_is_refused_and_its_bytes_arrive() -> Result<()> {
    const LENGTH: u64 = 3 << 20;
    const SEED: u64 = 5;
    const SESSIONS: u32 = 20;
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        Checker::new(SEED).drain(&stream, 5, random_chunks(SEED, Duration::ZERO))?;
        pump(&mut stream, Source::new(SEED), LENGTH, random_chunks(SEED, Duration::ZERO))?;
        stream.finish_writing()
    })?;
    // The header is read after the end of the stream has arrived.
    let config = Config::single(target.address()).listener("datapath = \"sockmap\"").listener("accept_proxy = \"v1\"");
    let daemon = Daemon::start(&net.proxy, &config)?;
    for _ in 0..SESSIONS {
        let mut client = net.client.connect(daemon.v4())?;
        let mut opening = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n12345".to_vec();
        let start = opening.len() - 5;
        Source::new(SEED).fill(&mut opening[start..]);
        client.write_all(&opening)?;
        client.finish_writing()?;
        Checker::new(SEED).drain(&client, LENGTH, random_chunks(SEED, Duration::ZERO))?;
        client.expect_ending(Ending::Closed)?;
        target.outcome()?;
    }
    daemon.wait_ended(SESSIONS, "client_closed")?;
    let metrics = daemon.metrics()?;
    let refused = metrics.value(FALLBACKS, &[("reason", "insert_refused")]);
    ensure!(refused > 0.0, "{}", metrics.lines(FALLBACKS));
    sound(daemon)
}

/// Stops the daemon, which must not have doubted a single stream.
fn sound(mut daemon: Daemon) -> Result<()> {
    let doubts = daemon.metrics()?.value("landbridge_integrity_resets_total", &[]);
    ensure!(doubts == 0.0, "{doubts} sessions were reset because their bytes did not agree");
    daemon.stop().map(drop)
}
