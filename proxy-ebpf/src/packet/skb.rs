//! The packet in the kernel's buffer: what the helpers do to it, with their return codes as results.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_csum_update, bpf_l4_csum_replace, bpf_skb_change_head, bpf_skb_change_proto,
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;

/// What a program returns for a packet that is not its own, or that goes to its socket: the next program decides. On
/// TCX it is `TCX_NEXT`, on clsact `TC_ACT_UNSPEC`, which is the same number.
pub(crate) const NEXT: i32 = -1;
/// `TCX_DROP`, and `TC_ACT_SHOT`.
pub(crate) const DROP: i32 = 2;

/// The length of a MAC header.
pub(crate) const ETHERNET: u32 = 14;

/// The longest packet that gets a MAC header put before it, in bytes from the IP header on. The kernel refuses that to one
/// that fills four pages (`BPF_SKB_MAX_LEN`), of which it needs some hundred bytes itself, unless it is to be cut into several.
pub(crate) const LONGEST_WITHOUT_LINK: u32 = 15 * 1024;

/// The kernel refused to change or to read the packet: it is too short, or there is no memory.
pub(crate) struct Refused;

/// A packet whose IP header begins after `LINK` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Skb<const LINK: u32>(*mut __sk_buff);

impl<const LINK: u32> Skb<LINK> {
    #[inline(always)]
    pub(crate) fn of(context: &TcContext) -> Self {
        Self(context.skb.skb)
    }

    #[inline(always)]
    pub(crate) fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// The length from the IP header on.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        // SAFETY: the context is the one the kernel called the program with.
        unsafe { (*self.0).len }.wrapping_sub(LINK)
    }

    /// The `EtherType`, in network byte order.
    #[inline(always)]
    pub(crate) fn protocol(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).protocol }
    }

    /// Whether the packet is for this host, and not to be seen again without its VLAN tag.
    #[inline(always)]
    pub(crate) fn is_for_us(self) -> bool {
        /// `PACKET_HOST`: the MAC address is the device's.
        const HOST: u32 = 0;
        // Without MAC addresses there is nobody else whom it could be for.
        // SAFETY: as in `len`.
        unsafe { (*self.0).vlan_present == 0 && (LINK == 0 || (*self.0).pkt_type == HOST) }
    }

    /// The payload of each packet that this one will be cut into; 0 if it is sent as it is.
    #[inline(always)]
    pub(crate) fn gso_size(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).gso_size }
    }

    /// Whether the packet, `len` bytes long from the new IP header on, can be sent on a device with MAC addresses.
    #[inline(always)]
    pub(crate) fn can_have_link_header(self, len: u32) -> bool {
        LINK != 0 || self.gso_size() != 0 || len <= LONGEST_WITHOUT_LINK
    }

    /// Reads a `T` that begins `offset` bytes after the IP header does.
    #[inline(always)]
    pub(crate) fn load<T>(self, offset: u32, to: *mut T) -> Result<(), Refused> {
        self.load_bytes(offset, to.cast(), size_of::<T>() as u32)
    }

    /// Reads `len` bytes, for which there must be room.
    #[inline(always)]
    pub(crate) fn load_bytes(self, offset: u32, to: *mut c_void, len: u32) -> Result<(), Refused> {
        // SAFETY: the verifier checks that there is room for `len` bytes.
        done(unsafe { bpf_skb_load_bytes(self.0.cast_const().cast(), LINK + offset, to, len) })
    }

    /// Overwrites a part whose checksum is inside or that [`Self::adjust`] follows for.
    #[inline(always)]
    pub(crate) fn store_bytes(self, offset: u32, from: *const c_void, len: u32) -> Result<(), Refused> {
        // SAFETY: the verifier checks that there are `len` bytes.
        done(unsafe { bpf_skb_store_bytes(self.0, LINK + offset, from, len, 0) })
    }

    /// Overwrites a part, and corrects the sum over all of the packet that some devices deliver with it.
    #[inline(always)]
    pub(crate) fn store_and_sum(self, offset: u32, from: *const c_void, len: u32) -> Result<(), Refused> {
        // SAFETY: the verifier checks that there are `len` bytes.
        done(unsafe { bpf_skb_store_bytes(self.0, LINK + offset, from, len, u64::from(BPF_F_RECOMPUTE_CSUM)) })
    }

    /// Corrects a transport checksum for a difference in what it covers of the packet. Nothing if the checksum is yet
    /// to be computed.
    #[inline(always)]
    pub(crate) fn adjust(self, offset: u32, difference: u32) -> Result<(), Refused> {
        // SAFETY: the context is the kernel's.
        done(unsafe { bpf_l4_csum_replace(self.0, LINK + offset, 0, difference.into(), 0) })
    }

    /// Corrects a transport checksum for a difference in its pseudo header.
    #[inline(always)]
    pub(crate) fn adjust_pseudo(self, offset: u32, difference: u32) -> Result<(), Refused> {
        // SAFETY: the context is the kernel's.
        done(unsafe { bpf_l4_csum_replace(self.0, LINK + offset, 0, difference.into(), u64::from(BPF_F_PSEUDO_HDR)) })
    }

    /// Adds to the sum over all of the packet, if the device delivered one.
    #[inline(always)]
    pub(crate) fn add_to_sum(self, difference: u32) {
        // SAFETY: the context is the kernel's. The only error is that there is no sum.
        unsafe { bpf_csum_update(self.0, difference) };
    }

    /// Makes the packet end `len` bytes after the beginning of the IP header. One that was put together becomes one
    /// ordinary packet.
    #[inline(always)]
    pub(crate) fn cut(self, len: u32) -> Result<(), Refused> {
        // SAFETY: the context is the kernel's.
        done(unsafe { bpf_skb_change_tail(self.0, LINK + len, 0) })
    }

    /// Makes room for the header of the other family, or takes away what is too much. The header's bytes are undefined.
    #[inline(always)]
    pub(crate) fn change_family(self, protocol: u16) -> Result<(), Refused> {
        // SAFETY: the context is the kernel's.
        done(unsafe { bpf_skb_change_proto(self.0, protocol, 0) })
    }

    /// Puts an empty MAC header before a packet that has none, which `bpf_redirect_neigh` replaces.
    #[inline(always)]
    pub(crate) fn add_link_header(self) -> Result<(), Refused> {
        if LINK == 0 {
            // SAFETY: the context is the kernel's.
            done(unsafe { bpf_skb_change_head(self.0, ETHERNET, 0) })
        } else {
            Ok(())
        }
    }

    /// Makes room for `len` bytes before the IP header, and for the MAC header that `bpf_redirect_neigh` replaces. What is
    /// returned is the packet with its beginning there.
    #[inline(always)]
    pub(crate) fn grow(self, len: u32) -> Result<Skb<ETHERNET>, Refused> {
        let more = if LINK == 0 { len + ETHERNET } else { len };
        // SAFETY: the context is the kernel's.
        done(unsafe { bpf_skb_change_head(self.0, more, 0) })?;
        Ok(Skb(self.0))
    }

    /// Lets a copy of the packet arrive once more.
    #[inline(always)]
    pub(crate) fn repeat(self) {
        // SAFETY: the context is the kernel's. A copy that finds no room is a lost packet, which its sender repeats.
        unsafe { bpf_clone_redirect(self.0, (*self.0).ingress_ifindex, u64::from(BPF_F_INGRESS)) };
    }
}

#[inline(always)]
fn done(code: i64) -> Result<(), Refused> {
    if code == 0 { Ok(()) } else { Err(Refused) }
}

/// The same value, of which the compiler knows nothing any more, so that a check of it stays in the program.
#[inline(always)]
pub(crate) fn unknown(value: u32) -> u32 {
    let same: u64;
    // A real instruction: what has none spoils the debug information, which the verifier refuses.
    // SAFETY: a move between registers.
    unsafe { asm!("{} = {}", out(reg) same, in(reg) u64::from(value), options(pure, nomem, nostack)) };
    same as u32
}
