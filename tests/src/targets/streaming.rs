//! A target that streams tokens to whoever asks for it, and echoes everything else.
//!
//! Each session has a thread; a stream ends in order when the test says so.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;

use anyhow::Result;

use super::Scripted;
use crate::Host;
use crate::streams::{END, REQUEST, TOKEN};

/// See the module's head.
#[derive(Debug)]
pub struct Streaming {
    scripted: Scripted<()>,
    over: Arc<AtomicBool>,
}

impl Streaming {
    /// Listens on `port` of `host`.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let scripted = Scripted::start(host, port, move |mut stream| {
            let mut first = [0; REQUEST.len()];
            let length = stream.read(&mut first)?;
            if first[..length] == *REQUEST {
                return tokens(stream, &seen);
            }
            stream.write_all(&first[..length])?;
            io::copy(&mut stream.try_clone()?, &mut stream)?;
            Ok(())
        })?;
        Ok(Self { scripted, over })
    }

    /// Its IPv4 address.
    pub fn address(&self) -> SocketAddr {
        self.scripted.address()
    }

    /// Ends all streams in order.
    pub fn end_streams(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn tokens(mut stream: TcpStream, over: &AtomicBool) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        write!(stream, "data: {number}\n\n")?;
        number += 1;
        sleep(TOKEN);
    }
    stream.write_all(END)?;
    Ok(())
}
