//! The reader: one task per stream, which all add to the same samples.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::event;
use crate::samples::Samples;

const REQUEST: &[u8] = b"GET /stream HTTP/1.1\r\nhost: sample\r\naccept: text/event-stream\r\n\r\n";

/// The server answers at once; a stream whose answer takes longer is broken.
const ANSWER: Duration = Duration::from_secs(10);

/// Streams that are opened at once: one by one takes long where every answer waits for a CPU.
const OPENING: usize = 64;

#[derive(Debug, Default)]
struct Shared {
    measuring: AtomicBool,
    samples: Mutex<Samples>,
}

/// Opens the streams, measures, and prints.
pub(crate) async fn read(
    address: SocketAddr,
    streams: usize,
    settle: Duration,
    measure: Duration,
) -> anyhow::Result<()> {
    let shared = Arc::new(Shared::default());
    let mut tasks = JoinSet::new();
    let mut opening = JoinSet::new();
    for started in 1..=streams {
        opening.spawn(timeout(ANSWER, Stream::open(address)));
        while opening.len() >= OPENING || (started == streams && !opening.is_empty()) {
            let Some(opened) = opening.join_next().await else { break };
            let stream = opened?.with_context(|| format!("{address} answers no stream"))??;
            tasks.spawn(stream.follow(Arc::clone(&shared)));
        }
    }
    tokio::time::sleep(settle).await;

    shared.measuring.store(true, Ordering::Relaxed);
    let start = Instant::now();
    println!("measuring");
    tokio::time::sleep(measure).await;
    shared.measuring.store(false, Ordering::Relaxed);
    let time = start.elapsed();

    if let Some(ended) = tasks.try_join_next() {
        ended?.context("a stream ended while it was measured")?;
    }
    let samples = std::mem::take(&mut *shared.samples.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(samples.len() > 0, "no token came while measuring");
    println!("{}", serde_json::to_string(&samples.report(streams, time))?);
    Ok(())
}

struct Stream {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Stream {
    /// Connects, asks, and waits for the head of the answer.
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.write_all(REQUEST).await?;
        let mut stream = Self { stream, buffer: Vec::with_capacity(16 * event::LENGTH) };
        loop {
            stream.receive().await?;
            if let Some(end) = stream.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                stream.buffer.drain(..end + 4);
                return Ok(stream);
            }
        }
    }

    /// Reads tokens without end.
    async fn follow(mut self, shared: Arc<Shared>) -> anyhow::Result<()> {
        let mut before = None;
        loop {
            let now = event::now()?;
            while self.buffer.len() >= event::LENGTH {
                let sent = event::sent(&self.buffer[..event::LENGTH]).context("the bytes of a stream are damaged")?;
                self.buffer.drain(..event::LENGTH);
                let delay = now.saturating_sub(sent);
                if let (Some(before), true) = (before, shared.measuring.load(Ordering::Relaxed)) {
                    shared.samples.lock().unwrap_or_else(PoisonError::into_inner).add(delay, before);
                }
                before = Some(delay);
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        let length = self.stream.read_buf(&mut self.buffer).await.context("a stream broke")?;
        ensure!(length > 0, "a stream ended");
        Ok(())
    }
}
