//! Token streams and bulk through one listener: each is carried by what carries it best.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Net, SocketExt, Source, large_chunks, pump};

/// What carries tokens and bulk.
struct Promise {
    datapath: &'static str,
    /// Whether sessions can be joined at packet level.
    joins: bool,
    /// Which carriers take the tokens, and which the bulk.
    tokens: &'static [&'static str],
    bulk: &'static [&'static str],
}

const PROMISES: [Promise; 2] = [
    Promise { datapath: "auto", joins: false, tokens: &["sockmap"], bulk: &["splice"] },
    // Bulk that begins after a quiet moment is joined before.
    Promise { datapath: "auto", joins: true, tokens: &["packet"], bulk: &["splice", "packet"] },
];

const TOKEN_STREAMS: u64 = 12;
const TOKENS: u64 = 100;
const TOKEN: u64 = 200;
/// Tokens of a model come slower, which would only make the test longer.
const GAP: Duration = Duration::from_millis(15);

const BULK_STREAMS: u64 = 3;
const BULK: u64 = 48 << 20;

#[test]
fn tokens_and_bulk_are_carried_apart() -> Result<()> {
    for Promise { datapath, joins, tokens, bulk } in PROMISES {
        let net = Net::new(1)?;
        if !joins {
            // Legs that disagree about timestamps cannot be joined.
            net.client.set_sysctl("ipv4/tcp_timestamps", "0")?;
        }
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            let mut wish = [0; 8];
            stream.read_exact(&mut wish)?;
            serve(&stream, u64::from_be_bytes(wish))?;
            stream.finish_writing()
        })?;
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        thread::scope(|scope| -> Result<()> {
            let clients: Vec<_> = (0..TOKEN_STREAMS + BULK_STREAMS)
                .map(|seed| {
                    let (net, address) = (&net, daemon.v4());
                    scope.spawn(move || -> Result<()> {
                        let mut stream = net.client.connect(address)?;
                        stream.write_all(&seed.to_be_bytes())?;
                        Checker::new(seed).drain(&stream, length(seed), large_chunks())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
        })?;
        for _ in 0..TOKEN_STREAMS + BULK_STREAMS {
            target.outcome()?;
        }
        let sessions = u32::try_from(TOKEN_STREAMS + BULK_STREAMS)?;
        daemon.wait_ended(sessions, "target_closed")?;

        let metrics = daemon.metrics()?;
        let carried = |by: &[&str]| {
            let by = by.iter().map(|by| [("direction", "download"), ("datapath", *by)]);
            by.map(|labels| metrics.value("landbridge_bytes_total", &labels)).sum::<f64>()
        };
        let lines = metrics.lines("landbridge_bytes_total");
        let (all_tokens, all_bulk) = ((TOKEN_STREAMS * TOKENS * TOKEN) as f64, (BULK_STREAMS * BULK) as f64);
        // What carries bulk too cannot be told apart by bytes.
        let of_tokens = if bulk.iter().any(|by| tokens.contains(by)) { all_tokens + all_bulk } else { all_tokens };
        let by_tokens = carried(tokens);
        let enough = (all_tokens * 0.7..=of_tokens).contains(&by_tokens);
        ensure!(enough, "{tokens:?} carried {by_tokens} of {all_tokens} bytes of tokens\n{lines}");
        let by_bulk = carried(bulk);
        ensure!(by_bulk > all_bulk * 0.9, "{bulk:?} carried {by_bulk} of {all_bulk} bytes of bulk\n{lines}");
        ensure!(metrics.value("landbridge_integrity_resets_total", &[]) == 0.0);
        daemon.stop()?;
    }
    Ok(())
}

fn length(seed: u64) -> u64 {
    if seed < TOKEN_STREAMS { TOKENS * TOKEN } else { BULK }
}

fn serve(mut stream: &TcpStream, seed: u64) -> Result<()> {
    if seed >= TOKEN_STREAMS {
        return Ok(pump(stream, Source::new(seed), BULK, large_chunks())?);
    }
    stream.set_nodelay(true)?;
    let mut source = Source::new(seed);
    let mut token = [0; TOKEN as usize];
    for _ in 0..TOKENS {
        source.fill(&mut token);
        stream.write_all(&token)?;
        thread::sleep(GAP);
    }
    Ok(())
}
