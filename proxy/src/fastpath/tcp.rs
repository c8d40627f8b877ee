//! What the fast path asks of a socket besides what everybody does, and how it makes the kernel look at a queue.

use std::io;
use std::os::fd::BorrowedFd;

use nix::libc;

use crate::tcp::{TcpInfo, get, outstanding, set};

/// Bytes of memory that arrived packets take which nobody has read: those in order and those that wait for one before them.
pub(super) fn held(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // `SK_MEMINFO_VARS` and `SK_MEMINFO_RMEM_ALLOC` (linux/sock_diag.h).
    let mut memory = [0_u32; 9];
    get(socket, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory)?;
    Ok(memory[0])
}

/// Everything that was ever given to the socket, acknowledged or not, as [`TcpInfo::acknowledged`] will count it.
///
/// Exact while nobody writes to the socket. The two numbers cannot be read at once: they are taken again until no
/// acknowledgement came in between.
pub(super) fn given(socket: BorrowedFd<'_>) -> io::Result<u64> {
    sum(|| Ok(TcpInfo::of(socket)?.acknowledged), || outstanding(socket))
}

/// What is acknowledged and what waits for it, as of one moment.
fn sum(acked: impl Fn() -> io::Result<u64>, waiting: impl Fn() -> io::Result<u64>) -> io::Result<u64> {
    /// Between two system calls hardly an acknowledgement finds room; a storm of them must not hold up a worker.
    const ATTEMPTS: usize = 32;
    let mut before = acked()?;
    for _ in 0..ATTEMPTS {
        let waiting = waiting()?;
        let now = acked()?;
        if now == before {
            return Ok(before + waiting);
        }
        before = now;
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// At least how much was given to the socket, in one go: acknowledgements move bytes from the second number to the first.
pub(super) fn given_at_least(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let acked = TcpInfo::of(socket)?.acknowledged;
    Ok(acked + outstanding(socket)?)
}

/// Makes the kernel run the verdict on what the socket has queued: setting `SO_RCVLOWAT`, even to what it is, calls the
/// same function that arriving data calls.
pub(super) fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut low_water = [0 as libc::c_int];
    get(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &mut low_water)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &low_water)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::fastpath::PromoteError;

    #[test]
    fn a_storm_of_acknowledgements_is_given_up_and_a_pause_in_it_is_used() {
        let clock = Cell::new(0);
        let storm = |ends: u64| {
            clock.set(0);
            let acked = || {
                clock.set(clock.get() + 1);
                Ok(clock.get().min(ends))
            };
            sum(acked, || Ok(100 - clock.get().min(ends)))
        };
        assert_eq!(storm(20).unwrap(), 100);
        let error = storm(90).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(PromoteError::of_books(error).fallback().code(), "busy");
    }

    #[test]
    fn what_was_given_and_received_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut active = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut passive, _) = listener.accept().unwrap();
        assert_eq!(given(active.as_fd()).unwrap(), 1, "the SYN");
        assert_eq!(given(passive.as_fd()).unwrap(), 0);

        active.write_all(b"question").unwrap();
        passive.read_exact(&mut [0; 8]).unwrap();
        passive.write_all(b"answer").unwrap();
        assert_eq!(given(active.as_fd()).unwrap(), 9);
        assert_eq!(given_at_least(passive.as_fd()).unwrap(), 6);
        assert_eq!(TcpInfo::of(passive.as_fd()).unwrap().received, 8);
        kick(passive.as_fd()).unwrap();
    }
}
