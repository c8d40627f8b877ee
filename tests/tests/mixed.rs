//! Token streams and bulk through one listener: each is carried by what carries it best.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Net, SocketExt, Source, large_chunks, pump};

/// What a datapath promises: which carrier takes the tokens, and which the bulk.
struct Promise {
    datapath: &'static str,
    tokens: &'static str,
    bulk: &'static str,
}

const PROMISES: [Promise; 1] = [Promise { datapath: "auto", tokens: "sockmap", bulk: "splice" }];

const TOKEN_STREAMS: u64 = 12;
const TOKENS: u64 = 100;
const TOKEN: u64 = 200;
/// Tokens of a model come slower, which would only make the test longer.
const GAP: Duration = Duration::from_millis(15);

const BULK_STREAMS: u64 = 3;
const BULK: u64 = 48 << 20;

#[test]
fn tokens_and_bulk_are_carried_apart() -> Result<()> {
    let net = Net::new(1)?;
    for Promise { datapath, tokens, bulk } in PROMISES {
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
        let carried = |by| metrics.value("landbridge_bytes_total", &[("direction", "download"), ("datapath", by)]);
        let lines = metrics.lines("landbridge_bytes_total");
        let all_tokens = (TOKEN_STREAMS * TOKENS * TOKEN) as f64;
        let by_kernel = carried(tokens) / all_tokens;
        ensure!((0.7..=1.0).contains(&by_kernel), "{tokens} carried {by_kernel} of all tokens\n{lines}");
        let spliced = carried(bulk) / (BULK_STREAMS * BULK) as f64;
        ensure!(spliced > 0.9, "{bulk} carried {spliced} of the bulk\n{lines}");
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
