//! What the kernel tells about one TCP socket, and how to make it look at its queue.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc;

/// The parts of `TCP_INFO` that the fast path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Bytes that the peer has acknowledged; the SYN of an active open counts as one.
    pub(super) bytes_acked: u64,
    /// Bytes received in order; the FIN counts as one.
    pub(super) bytes_received: u64,
}

/// Asks for both. The kernel takes the socket's lock for it: a verdict that was running on this socket has ended when
/// this returns, and so has everything that had waited for the lock.
pub(super) fn info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // `struct tcp_info` (linux/tcp.h) only ever grows; libc's begins the same but ends before these fields.
    const ACKED: usize = 120 / 8;
    const RECEIVED: usize = 128 / 8;
    let mut info = [0_u64; RECEIVED + 1];
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(TcpInfo { bytes_acked: info[ACKED], bytes_received: info[RECEIVED] })
}

/// Bytes that were given to the socket and that its peer has not acknowledged, sent or not.
pub(super) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, tcp(7)) writes one int to the pointer.
    unsafe { siocoutq(socket.as_raw_fd(), &raw mut bytes) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Everything that was ever given to the socket, acknowledged or not, as its `bytes_acked` will count it.
///
/// Exact while nobody writes to the socket. The two numbers cannot be read at once: they are taken again until no
/// acknowledgement came in between.
pub(super) fn given(socket: BorrowedFd<'_>) -> io::Result<u64> {
    /// Between two system calls hardly an acknowledgement finds room; a storm of them must not hold up a worker.
    const ATTEMPTS: usize = 32;
    let mut acked = info(socket)?.bytes_acked;
    for _ in 0..ATTEMPTS {
        let waiting = unacknowledged(socket)?;
        let now = info(socket)?.bytes_acked;
        if now == acked {
            return Ok(acked + waiting);
        }
        acked = now;
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// At least how much was given to the socket, in one go: acknowledgements move bytes from the second number to the first.
pub(super) fn given_at_least(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let acked = info(socket)?.bytes_acked;
    Ok(acked + unacknowledged(socket)?)
}

/// Makes the kernel run the verdict on what the socket has queued: setting `SO_RCVLOWAT`, even to what it is, calls the
/// same function that arriving data calls.
pub(super) fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut low_water = [0 as libc::c_int];
    get(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &mut low_water)?;
    // SAFETY: the pointer and the size are those of one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            low_water.as_ptr().cast(),
            size_of_val(&low_water) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get<T, const N: usize>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [T; N],
) -> io::Result<()> {
    let mut size = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to the array, of which every bit pattern is a value: the callers'
    // are integers.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut size) };
    match result {
        0 if size as usize == size_of_val(value) => Ok(()),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
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
        assert_eq!(info(passive.as_fd()).unwrap().bytes_received, 8);
        kick(passive.as_fd()).unwrap();
    }
}
