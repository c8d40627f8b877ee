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
    /// Between two system calls hardly an acknowledgement finds room; a storm of them must not hold up a worker.
    const ATTEMPTS: usize = 32;
    let mut acked = TcpInfo::of(socket)?.acknowledged;
    for _ in 0..ATTEMPTS {
        let waiting = outstanding(socket)?;
        let now = TcpInfo::of(socket)?.acknowledged;
        if now == acked {
            return Ok(acked + waiting);
        }
        acked = now;
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
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &low_water[0])
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

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
