//! Sums of the Internet checksum, in the machine's byte order as the kernel keeps them.

/// How a sum changes when one word takes the place of another.
#[inline(always)]
pub(crate) fn change(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// A sum in 32 bits, as the kernel's helpers want it.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u32 {
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    ((once & 0xffff_ffff) + (once >> 32)) as u32
}

/// A sum in 16 bits.
#[inline(always)]
pub(crate) fn fold_16(sum: u64) -> u16 {
    let sum = fold(sum);
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// A checksum field after a change of what it covers (RFC 1624).
#[inline(always)]
pub(crate) fn updated(field: u16, change: u64) -> u16 {
    !fold_16(u64::from(!field) + change)
}
