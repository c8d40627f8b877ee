//! The TCP options that carry numbers of the connection: timestamps and SACK.

use core::arch::asm;

use landbridge_common::packet::{Joint, KNOWN, Leg, TIMESTAMPS};

use crate::checksum::change;
use crate::exchange::compare_exchange;
use crate::leg::Arrival;
use crate::maps::{SCRATCH, Scratch, TCP_WORDS};

const END: u32 = 0;
const NOTHING: u32 = 1;
const SACK: u32 = 5;
const TIMESTAMP: u32 = 8;

/// The options area in words: from here to here in the header.
const FIRST_WORD: usize = 5;
const WORDS: usize = 15;

/// The edges of the most SACK blocks that fit.
const EDGES: u32 = 8;

/// More single options than this do not fit.
const MOST: u32 = 40;

/// Two NOPs and a timestamp, which is how nearly every packet begins its options, and most end them.
const TIMESTAMP_ALONE: u32 = 0x0101_080a_u32.to_be();

/// Translates the options of the header in the scratch, which is `header` bytes long; returns how its sum changes, or
/// `None` if they do not parse.
#[inline(always)]
pub(crate) fn translate(scratch: *mut Scratch, header: u32, arrival: Arrival, now: u64) -> Option<u64> {
    if header == 20 {
        return Some(0);
    }
    // SAFETY: the scratch is this run's.
    let tcp = unsafe { &raw mut (*scratch).tcp };
    // SAFETY: the map keeps the value in place; the daemon wrote this before it armed the joint.
    let timestamps = unsafe { (*arrival.joint).flags } & TIMESTAMPS != 0;
    // SAFETY: the scratch is this run's.
    let (first, value, echo) = unsafe { ((*tcp)[5], (*tcp)[6], (*tcp)[7]) };
    if header == 32 && first == TIMESTAMP_ALONE {
        if !timestamps {
            return Some(0);
        }
        let (new_value, new_echo) = stamps(u32::from_be(value), u32::from_be(echo), arrival, now);
        let (new_value, new_echo) = (new_value.to_be(), new_echo.to_be());
        // SAFETY: the scratch is this run's.
        unsafe {
            (*tcp)[6] = new_value;
            (*tcp)[7] = new_echo;
        }
        return Some(change(value, new_value) + change(echo, new_echo));
    }

    let found = find_options(header);
    if found == REFUSED {
        return None;
    }
    let before = !fold_words(tcp);
    // SAFETY: the map keeps the value in place; the daemon wrote this before it armed the joint.
    let delta = unsafe { (*arrival.leg).acknowledgement_delta };
    let tcp = tcp.cast();
    let (at_blocks, blocks_len) = (found >> 8 & 0xff, found >> 16);
    if at_blocks != 0 {
        blocks(tcp, at_blocks, blocks_len, delta);
    }
    let at = found & 0xff;
    if at != 0 && timestamps {
        let (value, echo) = stamps(word(tcp, at, 0), word(tcp, at, 4), arrival, now);
        set_word(tcp, at, 0, value);
        set_word(tcp, at, 4, echo);
    }
    Some(u64::from(before) + u64::from(fold_words(tcp.cast())))
}

/// What [`find_options`] returns for options that do not parse.
const REFUSED: u32 = u32::MAX;

/// Walks over the options of the header in the scratch. Returns the offset of the timestamps in the lowest byte, that
/// of the SACK blocks in the next one, 0 for what is not there, and above them the length of the blocks. More than one
/// option of a kind is refused.
///
/// A function that the verifier looks at once, for any argument: as a part of its caller it would be looked at for
/// every way that leads there, which are too many.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_options(header: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return REFUSED };
    // SAFETY: the scratch is this run's.
    let (tcp, place) = unsafe { ((&raw mut (*scratch).tcp).cast(), &raw mut (*scratch).at) };
    let (mut timestamp, mut blocks) = (0, 0);
    let mut next = 20;
    let mut n = 0;
    while n < MOST {
        n += 1;
        // Through memory, where the verifier forgets it: else it would follow every path to every offset.
        // SAFETY: the scratch is this run's.
        let at = unsafe {
            place.write_volatile(next);
            place.read_volatile()
        };
        if at >= header {
            break;
        }
        let kind = byte(tcp, at);
        if kind == END {
            break;
        }
        if kind == NOTHING {
            next = at + 1;
            continue;
        }
        let len = byte(tcp, at + 1);
        if at + 1 >= header || len < 2 || at + len > header {
            return REFUSED;
        }
        if kind == SACK {
            if blocks != 0 || len & 7 != 2 || len > 2 + EDGES * 4 {
                return REFUSED;
            }
            blocks = (at + 2) << 8 | (len - 2) << 16;
        } else if kind == TIMESTAMP {
            if timestamp != 0 || len != 10 {
                return REFUSED;
            }
            timestamp = at + 2;
        }
        next = at + len;
    }
    timestamp | blocks
}

/// Translates SACK blocks, those of D-SACK included: they are numbers like the acknowledgement.
#[inline(always)]
fn blocks(tcp: *mut u8, at: u32, len: u32, delta: u32) {
    let mut n = 0;
    while n < EDGES {
        // All ones before the end, all zeros after it: with branches the verifier would have as many paths as edges.
        let within = ((n * 4).wrapping_sub(len) as i32 >> 31) as u32;
        let edge = word(tcp, at, n as usize * 4);
        set_word(tcp, at, n as usize * 4, edge.wrapping_add(delta & within));
        n += 1;
    }
}

/// Timestamp and echo for the other peer.
#[inline(always)]
fn stamps(value: u32, echo: u32, arrival: Arrival, now: u64) -> (u32, u32) {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    let back = unsafe { (&raw const (*arrival.other).timestamp_delta).read_volatile() };
    let echo = if back & KNOWN != 0 { echo.wrapping_sub(back as u32) } else { 0 };
    (value.wrapping_add(delta(value, arrival.joint, arrival.leg, now)), echo)
}

/// What is added to the timestamps of a direction. Its first packet decides, such that this one continues the clock of
/// the other leg's socket.
#[inline(always)]
fn delta(value: u32, joint: *mut Joint, leg: *mut Leg, now: u64) -> u32 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes; programs change it by this exchange alone.
    unsafe {
        let known = (&raw const (*leg).timestamp_delta).read_volatile();
        if known & KNOWN != 0 {
            return known as u32;
        }
        let passed = now.wrapping_sub((*joint).clocks_read_at) / 1_000_000;
        let delta = (*leg).clock.wrapping_add(passed as u32).wrapping_sub(value);
        let found = compare_exchange(&raw mut (*leg).timestamp_delta, known, KNOWN | u64::from(delta));
        if found == known { delta } else { found as u32 }
    }
}

/// The sum of the options area.
#[inline(always)]
fn fold_words(tcp: *const [u32; TCP_WORDS]) -> u32 {
    let mut sum = 0_u64;
    let mut n = FIRST_WORD;
    while n < WORDS {
        // SAFETY: the scratch is this run's.
        sum += u64::from(unsafe { (*tcp)[n] });
        n += 1;
    }
    crate::checksum::fold(sum)
}

/// An offset that the verifier sees to be within the scratch.
#[inline(always)]
fn masked(at: u32) -> usize {
    let mut at = u64::from(at);
    // In assembly because the compiler may know that it changes nothing, and then leaves it out.
    // SAFETY: arithmetic on one register.
    unsafe { asm!("{} &= 63", inout(reg) at, options(pure, nomem, nostack)) };
    at as usize
}

#[inline(always)]
fn byte(tcp: *const u8, at: u32) -> u32 {
    // SAFETY: `masked`.
    unsafe { *tcp.add(masked(at)) }.into()
}

#[inline(always)]
fn word(tcp: *const u8, at: u32, further: usize) -> u32 {
    // SAFETY: `masked`; the scratch is longer by what `further` can be.
    u32::from_be_bytes(unsafe { *tcp.add(masked(at)).add(further).cast() })
}

#[inline(always)]
fn set_word(tcp: *mut u8, at: u32, further: usize, value: u32) {
    // SAFETY: as `word`.
    unsafe { *tcp.add(masked(at)).add(further).cast() = value.to_be_bytes() };
}
