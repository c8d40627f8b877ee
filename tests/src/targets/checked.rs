//! The health check of a target: a small HTTP server whose answer the test chooses.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;

use super::Scripted;
use crate::Host;

/// Answers every request with the same status and the body `state: ready`, as long as that status is 200, or else
/// `state: broken`.
#[derive(Debug)]
pub struct Checked {
    server: Scripted<SocketAddr>,
    status: Arc<AtomicU16>,
}

impl Checked {
    /// Listens on `port` of `host`; its status is 200.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let status = Arc::new(AtomicU16::new(200));
        let answer = Arc::clone(&status);
        let server = Scripted::start(host, port, move |mut stream| {
            // Before the answer: whoever has that is gone.
            let asker = stream.peer_addr()?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                request.push(byte[0]);
            }
            let status = answer.load(Ordering::SeqCst);
            let body = if status == 200 { "state: ready" } else { "state: broken" };
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n\r\n{body}")?;
            Ok(asker)
        })?;
        Ok(Self { server, status })
    }

    /// From now on it answers with this status.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// How many requests came.
    pub fn asked(&self) -> u32 {
        self.server.accepted()
    }

    /// Where the next request came from that was answered.
    pub fn asker(&self) -> Result<SocketAddr> {
        self.server.outcome()
    }
}
