//! Fields of the kernel's TCP sockets.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_skc_to_tcp_sock;

/// Where `bytes_acked`, `data_segs_in` and `copied_seq` are in the running kernel's `struct tcp_sock`, in bytes. The loader knows it
/// from the kernel's type information: Rust programs carry no relocations for it.
#[unsafe(no_mangle)]
static BYTES_ACKED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DATA_SEGS_IN: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static COPIED_SEQ: Global<u32> = Global::new(0);

/// A TCP socket's structure; the verifier checks every read of it.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(*const u8);

impl TcpSock {
    /// The TCP part of a socket.
    ///
    /// # Safety
    /// `socket` must be a socket that a helper or the context gave, and stay valid as long as the value is used.
    #[inline(always)]
    pub(crate) unsafe fn of<T>(socket: *mut T) -> Option<Self> {
        if socket.is_null() {
            return None;
        }
        // SAFETY: the caller's.
        let tcp: *const u8 = unsafe { bpf_skc_to_tcp_sock(socket.cast()) }.cast();
        if tcp.is_null() { None } else { Some(Self(tcp)) }
    }

    /// Bytes that the peer has acknowledged; the SYN of an active open counts as one.
    #[inline(always)]
    pub(crate) fn bytes_acked(self) -> u64 {
        // SAFETY: the offset is that of a `u64` of this structure.
        unsafe { self.0.add(BYTES_ACKED.load() as usize).cast::<u64>().read_volatile() }
    }

    /// Segments with payload that have come to TCP, whatever became of them.
    #[inline(always)]
    pub(crate) fn data_segs_in(self) -> u32 {
        // SAFETY: the offset is that of a `u32` of this structure.
        unsafe { self.0.add(DATA_SEGS_IN.load() as usize).cast::<u32>().read_volatile() }
    }

    /// The sequence number of the first byte that nobody has taken yet.
    #[inline(always)]
    pub(crate) fn copied_seq(self) -> u32 {
        // SAFETY: the offset is that of a `u32` of this structure.
        unsafe { self.0.add(COPIED_SEQ.load() as usize).cast::<u32>().read_volatile() }
    }
}
