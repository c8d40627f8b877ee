//! What the kernel tells about one TCP socket, and how to make it look at its queue.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use nix::libc;

/// The parts of `TCP_INFO` that the fast path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Bytes that the peer has acknowledged; the SYN of an active open counts as one.
    pub(super) bytes_acked: u64,
    /// Bytes received in order; the FIN counts as one.
    pub(super) bytes_received: u64,
    /// Whether both directions are open (`TCP_ESTABLISHED`).
    pub(super) is_established: bool,
    /// `TCPI_OPT_*`
    pub(super) options: u8,
    /// The scale of the windows that the peer announces, and of those announced to it.
    pub(super) window_scales: (u8, u8),
    /// The largest segment that the peer was told to send, and the largest packet on the way to it, in bytes.
    pub(super) announced_mss: u32,
    /// See above.
    pub(super) path_mtu: u32,
}

/// Asks for them. The kernel takes the socket's lock for it: a verdict that was running on this socket has ended when
/// this returns, and so has everything that had waited for the lock.
pub(super) fn info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // `struct tcp_info` (linux/tcp.h) only ever grows; libc's begins the same but ends before the 64-bit fields.
    /// linux/tcp_states.h
    const ESTABLISHED: u8 = 1;
    const STATE: usize = 0;
    const OPTIONS: usize = 5;
    const SCALES: usize = 6;
    const PATH_MTU: usize = 60;
    const ANNOUNCED_MSS: usize = 84;
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    let mut info = [0_u64; (RECEIVED + 8) / 8];
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let byte = |at: usize| info[at / 8].to_ne_bytes()[at % 8];
    let word = |at: usize| u32::from_ne_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
    Ok(TcpInfo {
        bytes_acked: info[ACKED / 8],
        bytes_received: info[RECEIVED / 8],
        is_established: byte(STATE) == ESTABLISHED,
        options: byte(OPTIONS),
        window_scales: (byte(SCALES) & 0xf, byte(SCALES) >> 4),
        announced_mss: word(ANNOUNCED_MSS),
        path_mtu: word(PATH_MTU),
    })
}

/// Bytes that were given to the socket and that its peer has not acknowledged, sent or not.
pub(super) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, tcp(7)) writes one int to the pointer.
    unsafe { siocoutq(socket.as_raw_fd(), &raw mut bytes) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Bytes of memory that arrived packets take which nobody has read: those in order and those that wait for one before them.
pub(super) fn held(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // `SK_MEMINFO_VARS` and `SK_MEMINFO_RMEM_ALLOC` (linux/sock_diag.h).
    let mut memory = [0_u32; 9];
    get(socket, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory)?;
    Ok(memory[0])
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
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &low_water[0])
}

/// Sets an option of a socket.
pub(super) fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the size are those of one value, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of_val(value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of a socket that fills the array.
pub(super) fn get<T: Integer, const N: usize>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [T; N],
) -> io::Result<()> {
    let mut size = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to the array of integers, of which every bit pattern is a value.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut size) };
    match result {
        0 if size as usize == size_of_val(value) => Ok(()),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Every bit pattern is a value of such a type.
pub(super) trait Integer {}

impl Integer for u64 {}
impl Integer for u32 {}
impl Integer for libc::c_int {}

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
