//! Messages both ways, the first of which are queued before the promotion; then a half-close, which must leave the other
//! direction alone.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::session::{Deadline, Moved, Session, pattern, receive, send};
use super::{Failure, agree, at, same};
use crate::fastpath::Limits;
use crate::fastpath::engine::Engine;
use crate::fastpath::promoted::Promoted;

pub(super) const NAME: &str = "messages";

/// Sizes of the writes in each direction, 107 KB in all: around the sizes of tokens, segments and loopback packets, none
/// of them even, so that packets and reads never line up by chance.
const SIZES: [usize; 12] = [1461, 1, 3, 7, 61, 509, 1447, 4099, 9001, 16_411, 65_537, 8999];

pub(super) fn run(engine: &Arc<Engine>, deadline: &Deadline) -> Result<Moved, Failure> {
    let session = Session::open(None, deadline)?;
    let mut up = Stream { from: &session.client, to: &session.target, sent: 0, received: 0 };
    let mut down = Stream { from: &session.target, to: &session.client, sent: 0, received: 0 };
    up.send(SIZES[0], deadline)?;
    down.send(SIZES[0], deadline)?;
    let (client, target) = (session.client_leg.as_fd(), session.target_leg.as_fd());
    let limits = Limits::default();
    let kernel_up = Promoted::new(Arc::clone(engine), client, target, 0, &limits)?;
    let kernel_down = Promoted::new(Arc::clone(engine), target, client, 0, &limits)?;
    up.receive(deadline)?;
    down.receive(deadline)?;
    for size in &SIZES[1..] {
        for stream in [&mut up, &mut down] {
            stream.send(*size, deadline)?;
            stream.receive(deadline)?;
        }
    }

    // The client is done sending: only its FIN may come, and the answer must still go through.
    let fins = engine.counters().all()?.empty_dropped;
    session.client.shutdown(Shutdown::Write).map_err(at("closing the upload"))?;
    while engine.counters().all()?.empty_dropped == fins {
        deadline.remaining().map_err(at("waiting for the kernel to see the end of the upload"))?;
        thread::sleep(Duration::from_micros(200));
    }
    down.send(SIZES[0], deadline)?;
    down.receive(deadline)?;

    let mut moved = Moved { promotions: 2, ..Moved::default() };
    for (stream, mut kernel) in [(&up, kernel_up), (&down, kernel_down)] {
        kernel.stop().map_err(at("taking messages out of the kernel"))?;
        let redirected = kernel.finish().map_err(at("taking messages out of the kernel"))?.bytes;
        agree("messages", stream.sent as u64, redirected)?;
        moved.sent += stream.sent as u64;
        moved.redirected += redirected;
    }
    Ok(moved)
}

/// One direction of the session.
struct Stream<'s> {
    from: &'s TcpStream,
    to: &'s TcpStream,
    sent: usize,
    received: usize,
}

impl Stream<'_> {
    fn send(&mut self, len: usize, deadline: &Deadline) -> Result<(), Failure> {
        let bytes: Vec<u8> = (self.sent..self.sent + len).map(pattern).collect();
        send(self.from, &bytes, deadline).map_err(at("sending a message"))?;
        self.sent += len;
        Ok(())
    }

    /// Receives and compares all that was sent.
    fn receive(&mut self, deadline: &Deadline) -> Result<(), Failure> {
        let step = at("waiting for a message to come through the kernel");
        let mut block = vec![0; self.sent - self.received];
        while self.received < self.sent {
            let len = receive(self.to, &mut block, deadline).map_err(&step)?;
            if len == 0 {
                return Err(step(ErrorKind::UnexpectedEof.into()));
            }
            same(NAME, self.received, &block[..len])?;
            self.received += len;
        }
        Ok(())
    }
}
