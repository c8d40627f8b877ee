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
use landbridge_tests::crowd::Crowd;
use landbridge_tests::{Config, Daemon, Group, LISTENER_PORT, Net};

use judge::judge;
use limits::Limits;
use network::Network;

/// Sessions at once.
const SESSIONS: u64 = 120;

/// How often `--long` runs each combination, each time with another seed.
const ROUNDS: usize = 2;

/// Where the targets listen.
const PORT: u16 = 9000;

/// A test for each network, for each of these datapaths.
macro_rules! datapaths {
    ($($datapath:ident),+) => { $(
        mod $datapath {
            use super::*;

            const DATAPATH: &str = stringify!($datapath);

            #[test]
            fn is_exact_with_large_segments() -> Result<()> {
                exchange_all(DATAPATH, Network::LargeSegments, Limits::Tiny)
            }

            #[test]
            fn is_exact_with_segments_put_together_on_arrival() -> Result<()> {
                exchange_all(DATAPATH, Network::PutTogether, Limits::Huge)
            }

            #[test]
            fn is_exact_with_segments_one_by_one() -> Result<()> {
                exchange_all(DATAPATH, Network::OneByOne, Limits::Random)
            }

            #[test]
            fn is_exact_between_small_and_large_packets() -> Result<()> {
                exchange_all(DATAPATH, Network::UnequalPackets, Limits::Tiny)
            }

            #[test]
            fn is_exact_over_a_bad_network() -> Result<()> {
                exchange_all(DATAPATH, Network::Bad, Limits::Random)
            }
        }
    )+ };
}

datapaths!(auto, sockmap, splice, copy);

/// Over one network with all limits, or with these alone if there is little time.
fn exchange_all(datapath: &str, network: Network, quick: Limits) -> Result<()> {
    let mut seed = seed()?;
    let limits = match env::var_os("LANDBRIDGE_LONG") {
        Some(_) => limits::ALL.repeat(ROUNDS),
        None => vec![quick],
    };
    let net = network.lay_out(seed)?;
    for limits in limits {
        println!("LANDBRIDGE_SEED={seed} repeats what the sessions do: {datapath}, {network:?}, {limits:?}");
        let run = exchange(datapath, &net, limits, seed);
        run.with_context(|| format!("LANDBRIDGE_SEED={seed}, {datapath}, {network:?}, {limits:?}"))?;
        seed = seed.wrapping_add(1);
    }
    network.check(&net)
}

/// All sessions at once through one daemon.
fn exchange(datapath: &str, net: &Net, limits: Limits, seed: u64) -> Result<()> {
    let begin = Instant::now();
    let crowd = Crowd::new(&net.targets[0], PORT, seed, SESSIONS)?;
    // Lost packets must not make a target seem dead, and a lost RST must not hold a session up for long.
    let (patient, probes) = ("connect_timeout = \"30s\"", "keepalive = \"1s\"");
    let targets = [net.targets[0].v4(PORT), net.targets[0].v6(PORT)];
    let group = targets.into_iter().fold(Group::new("onprem").tcp(patient).tcp(probes), Group::target);
    let config = Config::new([group])
        .bind(&format!("[::]:{LISTENER_PORT}"))
        .listener(&format!("datapath = {datapath:?}"))
        .listener_tcp(probes);
    let mut daemon = Daemon::start(&net.proxy, &limits.apply(config, seed))?;
    let outcomes = crowd.run(&net.client, &[daemon.v4(), daemon.v6()]).with_context(|| {
        let counted = |metrics: landbridge_tests::Metrics| {
            ["landbridge_bytes_total", "landbridge_packet_packets_total"].map(|name| metrics.lines(name)).join("\n")
        };
        daemon.metrics().map(counted).unwrap_or_else(|error| error.to_string())
    })?;
    judge(&daemon, &crowd, &outcomes, datapath, limits)?;
    println!("{:?}", begin.elapsed());
    daemon.stop().map(drop)
}

/// What the environment says, else the time.
fn seed() -> Result<u64> {
    match env::var("LANDBRIDGE_SEED") {
        Ok(seed) => seed.parse().context("LANDBRIDGE_SEED is a number"),
        Err(_) => Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64),
    }
}
