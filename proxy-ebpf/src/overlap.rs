//! Cuts off what a packet repeats.
//!
//! A sender that has to repeat small segments puts them together, although some of them may have arrived. TCP queues such a
//! segment whole, and every reader has to skip what it has read before. The kernel does not do that for a verdict: without
//! this the sink would get these bytes twice.

use aya_ebpf::programs::SkBuffContext;
use landbridge_common::Counter;

use crate::counters::count;
use crate::tcp::TcpSock;

/// The packet cannot be cut; it is out of step with the stream.
pub(crate) struct Stuck;

/// What the helper takes off at once, at most, in bytes.
const LONGEST_CUT: u32 = 0xfff;

/// So many of these are more than the longest packet, of 512 KiB (`GSO_MAX_SIZE`): loopback makes such ones, and every device may
/// that is told to.
const CUTS: u32 = 129;

/// The helper's only mode for this kind of program.
const AT_THE_FRONT: u32 = 0;

/// Removes the bytes before the first one that `source` has not forwarded or read yet.
#[inline(always)]
pub(crate) fn cut(packet: &SkBuffContext, source: TcpSock) -> Result<(), Stuck> {
    // SAFETY: the context is the one the kernel called the program with. TCP keeps the packet's first sequence number in
    // the first word of the control block, which the daemon has looked up before it loaded this.
    let begin = unsafe { (*packet.skb.skb).cb[0] };
    let repeated = source.copied_seq().wrapping_sub(begin);
    // Half of the sequence numbers lie behind, half ahead. Ahead is nothing to cut.
    if repeated == 0 || repeated > i32::MAX as u32 {
        return Ok(());
    }
    count(Counter::Overlapping, 1);
    // All of it at once into the packet's head, where the helper takes it from; else it would copy the head for each step.
    if packet.skb.pull_data(repeated).is_err() {
        return Err(Stuck);
    }
    let mut left = repeated;
    let mut done = 0;
    while done < CUTS {
        if left == 0 {
            return Ok(());
        }
        let length = if left > LONGEST_CUT { LONGEST_CUT } else { left };
        if packet.skb.adjust_room(-(length as i32), AT_THE_FRONT, 0).is_err() {
            return Err(Stuck);
        }
        left -= length;
        done += 1;
    }
    if left == 0 { Ok(()) } else { Err(Stuck) }
}
