//! Clients of long token streams: each compares every token, and notices a gap, a repetition or an early end.
//!
//! Each stream has a thread, which ends with it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::{Host, PATIENCE};

/// The pause between two tokens: about as fast as a model writes.
pub const TOKEN: Duration = Duration::from_millis(50);

/// What asks a [`crate::targets::Streaming`] for a stream.
pub(crate) const REQUEST: &[u8] = b"GET /stream HTTP/1.1\r\n\r\n";
/// The last event of a stream.
pub(crate) const END: &[u8] = b"data: [DONE]\n\n";

/// Streams that are open.
#[derive(Debug)]
pub struct Streams {
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Streams {
    /// Opens so many from `host`, and waits for the first token of each.
    pub fn open(host: &Host, address: SocketAddr, count: usize) -> Result<Self> {
        let (began, first) = channel();
        let mut threads = Vec::new();
        for _ in 0..count {
            let mut stream = host.connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(REQUEST)?;
            let began = began.clone();
            threads.push(host.spawn(move || {
                let mut lines = BufReader::new(stream).split(b'\n');
                let mut number = 0;
                loop {
                    let line = lines.next().with_context(|| format!("a stream ended after {number} tokens"))?;
                    let line = line.with_context(|| format!("a stream broke after {number} tokens"))?;
                    let blank = lines.next().context("an event is cut")??;
                    ensure!(blank.is_empty(), "an event is not followed by an empty line");
                    if line == END.trim_ascii_end() {
                        ensure!(lines.next().is_none(), "something follows the end of a stream");
                        return Ok(number);
                    }
                    let expected = format!("data: {number}");
                    ensure!(line == expected.as_bytes(), "{} in place of {expected}", String::from_utf8_lossy(&line));
                    if number == 0 {
                        // Nobody waits any more if another stream has failed.
                        began.send(()).ok();
                    }
                    number += 1;
                }
            }));
        }
        for _ in 0..count {
            first.recv_timeout(PATIENCE).context("a stream does not begin")?;
        }
        Ok(Self { threads })
    }

    /// Waits until all have ended; the number of tokens of the shortest one.
    pub fn finish(self) -> Result<u64> {
        let join = |thread: JoinHandle<Result<u64>>| thread.join().map_err(|_| anyhow!("a client panicked"))?;
        let tokens = self.threads.into_iter().map(join).collect::<Result<Vec<_>>>()?;
        Ok(tokens.into_iter().min().unwrap_or_default())
    }
}
