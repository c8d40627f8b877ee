//! The sender: one wheel of slots, a millisecond apart, over which the streams are spread evenly.
//!
//! One task turns the wheel, one accepts, and one per new connection reads its request. A stream that cannot take a
//! token at once ends: its reader has fallen behind by a whole socket buffer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::MissedTickBehavior;

use crate::event;

const SLOT: Duration = Duration::from_millis(1);

/// Readers connect by the thousand.
const BACKLOG: u32 = 4096;

/// A request is shorter.
const REQUEST_LIMIT: usize = 16 << 10;

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nconnection: close\r\n\r\n";

#[derive(Debug, Default)]
struct Wheel {
    slots: Vec<Vec<TcpStream>>,
    next: usize,
}

/// Serves until the process ends.
pub(crate) async fn serve(listen: SocketAddr, interval: Duration) -> anyhow::Result<()> {
    let slots = interval.as_millis() / SLOT.as_millis();
    ensure!(slots > 0, "the interval is {interval:?}; at least 1ms is possible");
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let listener = socket.listen(BACKLOG).with_context(|| format!("cannot listen on {listen}"))?;

    let wheel = Wheel { slots: (0..slots).map(|_| Vec::new()).collect(), next: 0 };
    let wheel = Arc::new(Mutex::new(wheel));
    tokio::spawn(turn(Arc::clone(&wheel)));
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let wheel = Arc::clone(&wheel);
        tokio::spawn(async move {
            if let Some(stream) = begin(stream).await {
                let mut wheel = wheel.lock().unwrap_or_else(PoisonError::into_inner);
                let slot = wheel.next;
                wheel.next = (slot + 1) % wheel.slots.len();
                wheel.slots[slot].push(stream);
            }
        });
    }
}

/// Answers a request with the head of a stream; `None` if the client went away or sent nonsense.
async fn begin(mut stream: TcpStream) -> Option<TcpStream> {
    stream.set_nodelay(true).ok()?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.ok()? == 0 || request.len() > REQUEST_LIMIT {
            return None;
        }
    }
    stream.write_all(HEAD).await.ok()?;
    Some(stream)
}

/// Sends the tokens. Ticks that were missed follow at once, so that the pace holds over time.
async fn turn(wheel: Arc<Mutex<Wheel>>) -> nix::Result<()> {
    let mut ticks = tokio::time::interval(SLOT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for slot in 0.. {
        ticks.tick().await;
        let mut wheel = wheel.lock().unwrap_or_else(PoisonError::into_inner);
        let count = wheel.slots.len();
        let mut kept = Vec::with_capacity(wheel.slots[slot % count].len());
        for stream in wheel.slots[slot % count].drain(..) {
            let token = event::write(event::now()?);
            if stream.try_write(&token).is_ok_and(|length| length == token.len()) {
                kept.push(stream);
            }
        }
        wheel.slots[slot % count] = kept;
    }
    Ok(())
}
