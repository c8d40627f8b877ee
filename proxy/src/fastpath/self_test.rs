//! Proves at the start, on two loopback connections, that the kernel forwards bytes whole, in order and unchanged, that a
//! half-close leaves the other direction alone, and that its counters agree with what was sent.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::SockRef;

use super::PromoteError;
use super::engine::Engine;
use super::maps::{Counters, MapError};
use super::promoted::Promoted;

/// The most time that the test may take; it needs some milliseconds. Past it the kernel loses or delays bytes.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Sizes of the writes in each direction, 107 KB in all: around the sizes of tokens, segments and loopback packets, none
/// of them even, so that packets and reads never line up by chance.
const CHUNKS: [usize; 12] = [1, 3, 7, 61, 509, 1447, 1461, 4099, 9001, 16_411, 65_537, 8999];

/// What a passed test saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    /// Bytes sent through the kernel, both directions together.
    pub sent_bytes: u64,
    /// What the kernel counted while the test ran.
    pub kernel: Counters,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// What a failed test saw.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A connection failed, or bytes did not arrive in time.
    #[error("{step}")]
    Socket {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The maps could not be used.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A direction was not taken into the kernel.
    #[error(transparent)]
    Promote(#[from] PromoteError),
    /// Other bytes arrived than were sent.
    #[error("{direction}: byte {offset} arrived changed")]
    Bytes {
        /// The direction.
        direction: &'static str,
        /// The first byte that differs.
        offset: usize,
    },
    /// The kernel counted something else than was sent.
    #[error("{what}: sent {sent}, counted by the kernel {counted}")]
    Counter {
        /// What was counted.
        what: &'static str,
        /// The right number.
        sent: u64,
        /// The number in the kernel.
        counted: u64,
    },
}

/// Runs the test and leaves no entry behind, whatever comes out.
pub(super) fn run(engine: &Arc<Engine>) -> Result<SelfTest, Failure> {
    let deadline = Deadline::after(LIMIT);
    let session = Session::open(&deadline)?;
    let up = Promoted::new(Arc::clone(engine), session.client_leg.as_fd(), session.target_leg.as_fd(), 0)?;
    let down = Promoted::new(Arc::clone(engine), session.target_leg.as_fd(), session.client_leg.as_fd(), 0)?;
    session.exercise(engine, [&up, &down], &deadline)
}

/// A session as the daemon has it, and both its ends: client <-> client leg, target leg <-> target.
struct Session {
    client: TcpStream,
    client_leg: TcpStream,
    target_leg: TcpStream,
    target: TcpStream,
}

impl Session {
    fn open(deadline: &Deadline) -> Result<Self, Failure> {
        let (client, client_leg) = connect(deadline).map_err(at("connecting a client on loopback"))?;
        let (target_leg, target) = connect(deadline).map_err(at("connecting a target on loopback"))?;
        Ok(Self { client, client_leg, target_leg, target })
    }

    fn exercise(
        &self,
        engine: &Engine,
        [up, down]: [&Promoted<'_>; 2],
        deadline: &Deadline,
    ) -> Result<SelfTest, Failure> {
        let before = engine.counters().all()?;
        let (mut sent_up, mut sent_down) = (0, 0);
        for chunk in CHUNKS {
            sent_up = transfer("upload", &self.client, &self.target, sent_up, chunk, deadline)?;
            sent_down = transfer("download", &self.target, &self.client, sent_down, chunk, deadline)?;
        }

        // The client is done sending: only its FIN may come, and the answer must still go through.
        self.client.shutdown(std::net::Shutdown::Write).map_err(at("closing the upload"))?;
        while engine.counters().all()?.empty_dropped == before.empty_dropped {
            deadline.remaining().map_err(at("waiting for the kernel to see the end of the upload"))?;
            thread::sleep(Duration::from_millis(1));
        }
        sent_down = transfer("download", &self.target, &self.client, sent_down, CHUNKS[0], deadline)?;

        let (sent_up, sent_down) = (sent_up as u64, sent_down as u64);
        let kernel = engine.counters().all()?.since(&before);
        agree("upload bytes", sent_up, up.redirected().bytes)?;
        agree("download bytes", sent_down, down.redirected().bytes)?;
        agree("bytes", sent_up + sent_down, kernel.redirected_bytes)?;
        agree("packets without a flow", 0, kernel.no_flow)?;
        agree("packets without a peer", 0, kernel.no_peer)?;
        Ok(SelfTest { sent_bytes: sent_up + sent_down, kernel, took_us: deadline.spent().as_micros() as u64 })
    }
}

/// Two ends of one loopback connection.
fn connect(deadline: &Deadline) -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect_timeout(&listener.local_addr()?, deadline.remaining()?)?;
    let near_address: SocketAddr = near.local_addr()?;
    loop {
        SockRef::from(&listener).set_read_timeout(Some(deadline.remaining()?))?;
        let (far, peer) = listener.accept()?;
        // Anyone on this machine may connect to the port while it is open; only our own end counts.
        if peer == near_address {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// Sends `len` bytes of the direction's stream, which stands at `offset`, compares what arrives, and returns the new offset.
fn transfer(
    direction: &'static str,
    mut from: &TcpStream,
    mut to: &TcpStream,
    offset: usize,
    len: usize,
    deadline: &Deadline,
) -> Result<usize, Failure> {
    let sent: Vec<u8> = (offset..offset + len).map(pattern).collect();
    let mut written = 0;
    while written < len {
        let step = at("sending");
        let result = deadline.remaining().and_then(|left| from.set_write_timeout(Some(left)));
        match result.and_then(|()| from.write(&sent[written..])) {
            Ok(0) => return Err(step(ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(step(error)),
        }
    }

    let mut received = vec![0; len];
    let mut read = 0;
    while read < len {
        let step = at("waiting for bytes to come through the kernel");
        let result = deadline.remaining().and_then(|left| to.set_read_timeout(Some(left)));
        match result.and_then(|()| to.read(&mut received[read..])) {
            Ok(0) => return Err(step(ErrorKind::UnexpectedEof.into())),
            Ok(n) => read += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(step(error)),
        }
    }
    match sent.iter().zip(&received).position(|(sent, received)| sent != received) {
        None => Ok(offset + len),
        Some(differs) => Err(Failure::Bytes { direction, offset: offset + differs }),
    }
}

/// The byte at an offset of a stream. Its period is no power of two, so that a lost, doubled or swapped piece shows.
fn pattern(offset: usize) -> u8 {
    (offset % 251) as u8 ^ (offset / 251 % 241) as u8
}

fn agree(what: &'static str, sent: u64, counted: u64) -> Result<(), Failure> {
    if sent == counted { Ok(()) } else { Err(Failure::Counter { what, sent, counted }) }
}

fn at(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::Socket { step, source }
}

/// The end of the whole test: every wait gets what is left.
struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    fn spent(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time left, never zero, which as a socket timeout would mean for ever.
    fn remaining(&self) -> io::Result<Duration> {
        self.limit.checked_sub(self.spent()).filter(|left| !left.is_zero()).ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_loopback_carries_the_pattern() {
        let deadline = Deadline::after(LIMIT);
        let (near, far) = connect(&deadline).unwrap();
        let mut offset = 0;
        for chunk in CHUNKS {
            offset = transfer("upload", &near, &far, offset, chunk, &deadline).unwrap();
        }
        assert_eq!(offset, CHUNKS.iter().sum::<usize>());
    }

    #[test]
    fn changed_bytes_and_silence_are_failures() {
        let (near, far) = connect(&Deadline::after(LIMIT)).unwrap();
        // The far end answers from another place in the stream.
        (&far).write_all(&[pattern(5); 4]).unwrap();
        let echoed = transfer("download", &near, &near, 0, 4, &Deadline::after(LIMIT));
        assert!(matches!(echoed, Err(Failure::Bytes { offset: 0, .. })), "{echoed:?}");

        let silent = transfer("download", &near, &near, 0, 4, &Deadline::after(Duration::from_millis(20)));
        assert!(matches!(silent, Err(Failure::Socket { .. })), "{silent:?}");
    }

    #[test]
    fn counters_that_disagree_are_failures() {
        assert!(agree("bytes", 7, 7).is_ok());
        assert_eq!(agree("bytes", 7, 6).unwrap_err().to_string(), "bytes: sent 7, counted by the kernel 6");
    }
}
