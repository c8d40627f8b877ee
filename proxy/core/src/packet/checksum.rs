//! The Internet checksum (RFC 1071) and its update by difference (RFC 1624), over 16-bit words in network byte order.

/// The sum of the words; an odd byte at the end is the upper half of one.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    whole + words.remainder().first().map_or(0, |last| u64::from(*last) << 8)
}

/// A sum in 16 bits, with the carries added at the lower end.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of bytes whose checksum field is 0, on top of a sum over something else.
pub fn of(bytes: &[u8], before: u64) -> u16 {
    !fold(before + sum(bytes))
}

/// The field after `old`, of an even number of bytes, became `new`.
pub fn updated(field: u16, old: &[u8], new: &[u8]) -> u16 {
    // One's complement: to take a word away is to add its complement, which 16-bit words of the same number allow.
    let away: u64 = old.chunks_exact(2).map(|word| u64::from(!u16::from_be_bytes([word[0], word[1]]))).sum();
    !fold(u64::from(!field) + away + sum(new))
}
