//! What the kernel knows of one TCP socket, and its options: for the legs in user space as for those on the fast path.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;
use std::time::Duration;

use nix::libc;

/// What is used of `TCP_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Whether both directions are open (`TCP_ESTABLISHED`).
    pub(crate) is_established: bool,
    /// `TCPI_OPT_*`
    pub(crate) options: u8,
    /// The scale of the windows that the peer announces, and of those announced to it.
    pub(crate) window_scales: (u8, u8),
    /// The largest packet on the way to the peer, in bytes.
    pub(crate) path_mtu: u32,
    /// The largest segment that the peer was told to send, in bytes.
    pub(crate) announced_mss: u32,
    /// The smoothed round-trip time.
    pub(crate) round_trip: Duration,
    /// Segments that were sent again, since the connection began.
    pub(crate) retransmitted: u32,
    /// Timeouts in a row without an acknowledgement.
    pub(crate) timeouts: u8,
    /// Bytes that wait to be sent.
    pub(crate) unsent: u32,
    /// Bytes that were sent, repetitions included.
    pub(crate) sent: u64,
    /// Bytes that the peer has acknowledged; the SYN of an active open counts as one.
    pub(crate) acknowledged: u64,
    /// Bytes received in order; the FIN counts as one.
    pub(crate) received: u64,
    /// Segments with payload that have come, whatever became of them; wraps.
    pub(crate) segments: u32,
    /// How long ago payload was sent and received; both count from the handshake at most.
    pub(crate) sent_ago: Duration,
    pub(crate) received_ago: Duration,
    /// The window that the peer has announced, and its largest segment, in bytes.
    pub(crate) window: u32,
    pub(crate) segment: u32,
}

impl TcpInfo {
    /// Asks the kernel for them, which takes the socket's lock for it: a verdict that was running on this socket has ended
    /// when this returns, and so has everything that had waited for the lock.
    ///
    /// # Errors
    /// The socket is not connected any more, or the kernel is older than Linux 5.4, which tells less.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        /// linux/tcp_states.h
        const ESTABLISHED: u8 = 1;
        // Offsets into `struct tcp_info` (linux/tcp.h), which only ever grows; libc's ends before most of them.
        const STATE: usize = 0;
        const TIMEOUTS: usize = 2;
        const OPTIONS: usize = 5;
        const SCALES: usize = 6;
        const SEGMENT: usize = 16;
        const SENT_AGO: usize = 44;
        const RECEIVED_AGO: usize = 52;
        const PATH_MTU: usize = 60;
        const ROUND_TRIP: usize = 68;
        const ANNOUNCED_MSS: usize = 84;
        const RETRANSMITTED: usize = 100;
        const ACKNOWLEDGED: usize = 120;
        const RECEIVED: usize = 128;
        const UNSENT: usize = 144;
        const SEGMENTS: usize = 152;
        const SENT: usize = 200;
        const WINDOW: usize = 228;
        let mut info = [0_u64; (WINDOW + 4) / 8];
        get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
        let byte = |at: usize| info[at / 8].to_ne_bytes()[at % 8];
        let word = |at: usize| u32::from_ne_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        Ok(Self {
            is_established: byte(STATE) == ESTABLISHED,
            options: byte(OPTIONS),
            window_scales: (byte(SCALES) & 0xf, byte(SCALES) >> 4),
            path_mtu: word(PATH_MTU),
            announced_mss: word(ANNOUNCED_MSS),
            round_trip: Duration::from_micros(word(ROUND_TRIP).into()),
            retransmitted: word(RETRANSMITTED),
            timeouts: byte(TIMEOUTS),
            unsent: word(UNSENT),
            sent: info[SENT / 8],
            acknowledged: info[ACKNOWLEDGED / 8],
            received: info[RECEIVED / 8],
            segments: word(SEGMENTS),
            sent_ago: Duration::from_millis(word(SENT_AGO).into()),
            received_ago: Duration::from_millis(word(RECEIVED_AGO).into()),
            window: word(WINDOW),
            segment: word(SEGMENT),
        })
    }

    /// How long ago the peer was sent something that it has not answered; `None`: it owes no answer.
    pub(crate) fn waiting(&self) -> Option<Duration> {
        // A question that leaves with the handshake is as old as the connection, and so is its answer as the kernel has it.
        let owes = self.sent_ago < self.received_ago || self.received == 0;
        (self.sent > 0 && owes).then_some(self.sent_ago)
    }
}

/// Bytes that were given to the socket and that its peer has not acknowledged, sent or not.
///
/// # Errors
/// The socket is not connected any more.
pub(crate) fn outstanding(socket: BorrowedFd<'_>) -> io::Result<u64> {
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, tcp(7)) writes one int to the pointer.
    unsafe { siocoutq(socket.as_raw_fd(), &raw mut bytes) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Sets an option of a socket.
pub(crate) fn set<T: Integer, const N: usize>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &[T; N],
) -> io::Result<()> {
    // SAFETY: the pointer and the size are those of one array of integers, which has no padding and which the kernel only
    // reads.
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
pub(crate) fn get<T: Integer, const N: usize>(
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

/// Every bit pattern is a value of such a type, and it has no padding.
pub(crate) trait Integer {}

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
    fn the_kernel_tells_who_owes_an_answer_and_what_waits() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut asking = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut answering, _) = listener.accept().unwrap();
        let info = |of: &TcpStream| TcpInfo::of(of.as_fd()).unwrap();
        assert_eq!(info(&asking).waiting(), None, "nothing was asked");
        asking.write_all(b"question").unwrap();
        answering.read_exact(&mut [0; 8]).unwrap();
        let asked = info(&asking);
        assert!(asked.waiting().is_some() && asked.round_trip > Duration::ZERO && asked.window > 0, "{asked:?}");
        assert_eq!((asked.sent, asked.acknowledged, asked.received), (8, 9, 0), "the SYN is acknowledged too");
        answering.write_all(b"answer").unwrap();
        asking.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(info(&asking).received, 6);

        asking.set_nonblocking(true).unwrap();
        while asking.write(&[0; 65_536]).is_ok() {}
        let stuck = info(&asking);
        assert!(stuck.unsent > 0 && u64::from(stuck.unsent) <= outstanding(asking.as_fd()).unwrap(), "{stuck:?}");
    }
}
