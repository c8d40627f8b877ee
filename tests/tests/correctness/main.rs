//! Every byte arrives, once and in order, through every datapath, over every kind of network, with every kind of limits;
//! no stream that was cut seems whole; and the counters say that the bytes went where the test wants them.
//!
//! A random seed decides what the sessions do and is printed; `LANDBRIDGE_SEED` fixes it. `LANDBRIDGE_LONG` (`cargo xtask
//! test --long`) runs every combination, otherwise each network gets one choice of limits.

mod judge;
mod limits;
mod network;

use std::env;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use landbridge_tests::crowd::{Crowd, Habits};
use landbridge_tests::{Config, Daemon, Group, LISTENER_PORT, Net};

use judge::{Tally, judge};
use limits::Limits;
use network::Network;
use nix::sys::resource::{Resource, setrlimit};

/// Sessions at once.
const SESSIONS: u64 = 120;

/// How often `--long` runs each combination, each time with another seed.
const ROUNDS: usize = 2;

/// Where the targets listen.
const PORT: u16 = 9000;

/// A way for bytes to go.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// The option of the listener.
    datapath: &'static str,
    /// Whether sessions can be joined at packet level. What can be is no longer in the other datapaths.
    joins: bool,
}

/// What is tried at once.
#[derive(Debug, Clone, Copy)]
struct Case {
    way: Way,
    network: Network,
    limits: Limits,
    /// How many at once.
    sessions: u64,
}

/// A test for each network, for each of these ways.
macro_rules! ways {
    ($($name:ident: $way:expr),+ $(,)?) => { $(
        mod $name {
            use super::*;

            const WAY: Way = $way;

            #[test]
            fn is_exact_with_large_segments() -> Result<()> {
                exchange_all(WAY, Network::LargeSegments, Limits::Tiny)
            }

            #[test]
            fn is_exact_with_segments_put_together_on_arrival() -> Result<()> {
                exchange_all(WAY, Network::PutTogether, Limits::Huge)
            }

            #[test]
            fn is_exact_with_segments_one_by_one() -> Result<()> {
                exchange_all(WAY, Network::OneByOne, Limits::Random)
            }

            #[test]
            fn is_exact_between_small_and_large_packets() -> Result<()> {
                exchange_all(WAY, Network::UnequalPackets, Limits::Tiny)
            }

            #[test]
            fn is_exact_over_a_bad_network() -> Result<()> {
                exchange_all(WAY, Network::Bad, Limits::Random)
            }
        }
    )+ };
}

ways! {
    auto: Way { datapath: "auto", joins: true },
    packet: Way { datapath: "packet", joins: true },
    auto_apart: Way { datapath: "auto", joins: false },
    sockmap: Way { datapath: "sockmap", joins: false },
    splice: Way { datapath: "splice", joins: false },
    copy: Way { datapath: "copy", joins: false },
}

/// As many as a busy machine has, through the packet datapath; fewer if there is little time.
#[test]
fn a_large_crowd_of_packets_is_exact() -> Result<()> {
    let sessions = if env::var_os("LANDBRIDGE_LONG").is_some() { 500 } else { 250 };
    // Both ends of each are sockets of this process, beside what the crowd itself needs.
    let descriptors = 4 * sessions + 1_000;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let seed = seed()?;
    let way = Way { datapath: "packet", joins: true };
    let case = Case { way, network: Network::LargeSegments, limits: Limits::Random, sessions };
    println!("LANDBRIDGE_SEED={seed} repeats what the sessions do: {case:?}");
    let net = case.network.lay_out(seed)?;
    let failed = || format!("LANDBRIDGE_SEED={seed}, {case:?}");
    exchange(case, &net, seed).with_context(failed)?.with_context(failed)?;
    case.network.check(&net)
}

/// Over one network with all limits, or with these alone if there is little time.
fn exchange_all(way: Way, network: Network, quick: Limits) -> Result<()> {
    let mut seed = seed()?;
    let limits = match env::var_os("LANDBRIDGE_LONG") {
        Some(_) => limits::ALL.repeat(ROUNDS),
        None => vec![quick],
    };
    let net = network.lay_out(seed)?;
    if !way.joins {
        // Legs that disagree about timestamps cannot be joined.
        net.client.set_sysctl("ipv4/tcp_timestamps", "0")?;
    }
    for limits in limits {
        let case = Case { way, network, limits, sessions: SESSIONS };
        println!("LANDBRIDGE_SEED={seed} repeats what the sessions do: {case:?}");
        let failed = || format!("LANDBRIDGE_SEED={seed}, {case:?}");
        let tally = exchange(case, &net, seed).with_context(failed)?.with_context(failed);
        seed = seed.wrapping_add(1);
        if let Err(other) = tally {
            // Other sessions on the same machine have to show it. Bytes have no second chance.
            println!("once more, with LANDBRIDGE_SEED={seed}: {other:?}");
            exchange(case, &net, seed)??;
            seed = seed.wrapping_add(1);
        }
    }
    network.check(&net)
}

/// All sessions at once through one daemon.
fn exchange(case: Case, net: &Net, seed: u64) -> Result<Tally> {
    let begin = Instant::now();
    let habits = Habits { seed, small_buffers: case.network != Network::Bad };
    let crowd = Crowd::new(&net.targets[0], PORT, habits, case.sessions)?;
    // Lost packets must not make a target seem dead, and a lost RST must not hold a session up for long.
    let (patient, probes) = ("connect_timeout = \"30s\"", "keepalive = \"1s\"");
    let targets = [net.targets[0].v4(PORT), net.targets[0].v6(PORT)];
    let group = targets.into_iter().fold(Group::new("onprem").tcp(patient).tcp(probes), Group::target);
    let config = Config::new([group])
        .bind(&format!("[::]:{LISTENER_PORT}"))
        .listener(&format!("datapath = {:?}", case.way.datapath))
        .listener_tcp(probes);
    let mut daemon = Daemon::start(&net.proxy, &case.limits.apply(config, seed))?;
    let outcomes = crowd.run(&net.client, &[daemon.v4(), daemon.v6()]).with_context(|| judge::counted(&daemon))?;
    let tally = judge(&daemon, &crowd, &outcomes, case)?;
    println!("{:?}", begin.elapsed());
    daemon.stop()?;
    Ok(tally)
}

/// What the environment says, else the time.
fn seed() -> Result<u64> {
    match env::var("LANDBRIDGE_SEED") {
        Ok(seed) => seed.parse().context("LANDBRIDGE_SEED is a number"),
        Err(_) => Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64),
    }
}
