//! Sessions to test with: sockets, the stream that goes through them, the time that is left.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Add;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{Failure, at};

/// A session as the daemon has it, and both its ends: client <-> client leg, target leg <-> target.
pub(super) struct Session {
    pub(super) client: TcpStream,
    pub(super) client_leg: TcpStream,
    pub(super) target_leg: TcpStream,
    pub(super) target: TcpStream,
}

impl Session {
    /// Connects all, with buffers of a size in bytes that the kernel doubles, or as it makes them.
    pub(super) fn open(buffers: Option<usize>, deadline: &Deadline) -> Result<Self, Failure> {
        let (client, client_leg) = connect(buffers, deadline).map_err(at("connecting a client on loopback"))?;
        let (target_leg, target) = connect(buffers, deadline).map_err(at("connecting a target on loopback"))?;
        Ok(Self { client, client_leg, target_leg, target })
    }
}

/// What went through a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) sent: u64,
    pub(super) redirected: u64,
    pub(super) copied: u64,
    pub(super) promotions: u64,
}

impl Add for Moved {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            redirected: self.redirected + other.redirected,
            copied: self.copied + other.copied,
            promotions: self.promotions + other.promotions,
        }
    }
}

/// The largest segments, in bytes, both ways.
const MSS: u32 = 1448;

/// Two ends of one loopback connection.
fn connect(buffers: Option<usize>, deadline: &Deadline) -> io::Result<(TcpStream, TcpStream)> {
    let [listener, near] = [socket(buffers)?, socket(buffers)?];
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(8)?;
    near.connect_timeout(&listener.local_addr()?, deadline.remaining()?)?;
    let near = TcpStream::from(near);
    let near_address = near.local_addr()?;
    loop {
        listener.set_read_timeout(Some(deadline.remaining()?))?;
        let (far, peer) = listener.accept()?;
        // Anyone on this machine may connect to the port while it is open; only our own end counts.
        if peer.as_socket() == Some(near_address) {
            near.set_nodelay(true)?;
            far.set_tcp_nodelay(true)?;
            return Ok((near, far.into()));
        }
    }
}

/// An unconnected socket, which hands its buffers on to those that it accepts.
fn socket(buffers: Option<usize>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // As on a real network. Loopback's segments of 64 KB would not fit into small buffers, and TCP then waits.
    socket.set_tcp_mss(MSS)?;
    // Before they connect: a window that was offered cannot be taken back without loss.
    if let Some(buffers) = buffers {
        socket.set_recv_buffer_size(buffers)?;
        socket.set_send_buffer_size(buffers)?;
    }
    Ok(socket)
}

/// The byte at an offset of a stream. Its period is no power of two, so that a lost, doubled or swapped piece shows.
pub(super) fn pattern(offset: usize) -> u8 {
    (offset % 251) as u8 ^ (offset / 251 % 241) as u8
}

/// Sends all of it.
pub(super) fn send(mut to: &TcpStream, bytes: &[u8], deadline: &Deadline) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        to.set_write_timeout(Some(deadline.remaining()?))?;
        match to.write(&bytes[written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives some bytes; none at the end of the stream.
pub(super) fn receive(mut from: &TcpStream, into: &mut [u8], deadline: &Deadline) -> io::Result<usize> {
    loop {
        from.set_read_timeout(Some(deadline.remaining()?))?;
        match from.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The end of the whole test: every wait gets what is left.
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    pub(super) fn spent(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time left, never zero, which as a socket timeout would mean for ever.
    pub(super) fn remaining(&self) -> io::Result<Duration> {
        self.limit.checked_sub(self.spent()).filter(|left| !left.is_zero()).ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_with_the_deadline() {
        let session = Session::open(None, &Deadline::after(Duration::from_secs(5))).unwrap();
        let silent = receive(&session.client, &mut [0; 4], &Deadline::after(Duration::from_millis(20)));
        assert!(matches!(silent.unwrap_err().kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(Deadline::after(Duration::ZERO).remaining().is_err());
    }
}
