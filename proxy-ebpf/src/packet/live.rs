//! A packet of a live joint: checked, translated, sent on, or answered. None of them ever reaches the socket.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use landbridge_common::packet::{LINGER, PHASE, PacketCounter, phase};

use crate::checksum::fold;
use crate::counters::{count, drop};
use crate::leg::Arrival;
use crate::maps::Scratch;
use crate::parse::{Ip, RST, SYN, Segment};
use crate::phases;
use crate::route::{self, NoWay, Question};
use crate::skb::{self, Refused, Skb};
use crate::translate::{self, Changes};
use crate::{challenge, own, too_long, track, window};

const TCP: u8 = 6;
const CHECKSUM: u32 = 16;

/// Forwards a packet, or drops it and counts why.
#[inline(always)]
pub(crate) fn forward<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    segment: Option<Segment>,
    arrival: Arrival,
    scratch: *mut Scratch,
) -> i32 {
    let joint = arrival.joint;
    // SAFETY: the helper has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if has_expired(arrival, now) {
        phases::end(joint, phase::DEAD, 0);
        return drop(joint, PacketCounter::Dead);
    }
    let Some(segment) = segment else { return drop(joint, PacketCounter::Untranslatable) };
    if segment.flags & SYN != 0 && segment.flags & RST == 0 {
        return challenge::answer(skb, ip, &segment, arrival, scratch, now);
    }
    if !window::is_plausible(&segment, arrival) {
        return drop(joint, PacketCounter::OutOfWindow);
    }
    if translate::hops(ip) <= 1 {
        return drop(joint, PacketCounter::NoRoute);
    }

    // SAFETY: the map keeps the value in place; the daemon wrote these before it armed the joint.
    let (out, to_ipv6) = unsafe { (&(*arrival.leg).out, (*arrival.other).is_ipv6 != 0) };
    let Some(header) = translate::tcp(scratch, &segment, arrival, now) else {
        return drop(joint, PacketCounter::Untranslatable);
    };
    let ip_header = if to_ipv6 { 40 } else { 20 };
    let gso_size = skb.gso_size();
    let payload = if gso_size != 0 { gso_size } else { segment.payload };
    let len = ip_header + segment.header + payload;
    // No IPv6 packet has to be shorter than the least: routers may make fragments (RFC 7915, 5.1). The sequence number tells
    // the packets apart.
    let parts = if len + 20 <= own::LEAST_V6 { Some(segment.sequence) } else { None };
    let Some(pseudo) = translate::ip(scratch, ip, out, to_ipv6, parts) else {
        return drop(joint, PacketCounter::Untranslatable);
    };
    let question = Question { protocol: TCP, class: translate::class(ip), len, is_ipv6: to_ipv6 };
    let way = if skb.can_have_link_header(len) {
        route::find(skb, scratch, arrival.leg, &question)
    } else {
        Err(NoWay::TooLong(skb::LONGEST_WITHOUT_LINK))
    };
    let way = match way {
        Ok(way) => way,
        Err(NoWay::TooLong(limit)) => return too_long::tell(skb, ip, arrival, scratch, now, limit),
        Err(NoWay::Unknown) => return drop(joint, PacketCounter::NoRoute),
    };
    if write(skb, ip, &segment, scratch, to_ipv6, &Changes { header, pseudo }).is_err() {
        return drop(joint, PacketCounter::Failed);
    }
    track::forwarded(&segment, arrival, now);
    count(PacketCounter::Forwarded);
    route::send(scratch, &way)
}

/// Whether no packet came for so long that the joint is over, or it has lived too long.
#[inline(always)]
fn has_expired(arrival: Arrival, now: u64) -> bool {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe {
        let joint = arrival.joint;
        let deadline = (&raw const (*joint).deadline).read_volatile();
        if deadline != 0 && now > deadline {
            return true;
        }
        let mut last = (&raw const (*joint).live_at).read_volatile();
        let seen = (&raw const (*arrival.leg).last_seen).read_volatile();
        if seen > last {
            last = seen;
        }
        let seen = (&raw const (*arrival.other).last_seen).read_volatile();
        if seen > last {
            last = seen;
        }
        let live = phases::state(joint) & PHASE == phase::LIVE;
        let limit = if live { (*joint).idle_limit } else { LINGER };
        // The other CPU may have seen a packet just now.
        now > last && now - last > limit
    }
}

/// Writes the new headers over the old ones.
#[inline(always)]
fn write<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    segment: &Segment,
    scratch: *mut Scratch,
    to_ipv6: bool,
    changes: &Changes,
) -> Result<(), Refused> {
    // Short frames are padded by their sender; the next device may have no use for it.
    let told = ip.len();
    if told != 0 && told < skb.len() && skb.gso_size() == 0 {
        skb.cut(told)?;
    }
    // SAFETY: the scratch is this run's.
    let (new_ip, new_tcp) = unsafe { (&raw const (*scratch).ip, &raw const (*scratch).tcp) };
    let at = if to_ipv6 {
        if !ip.is_ipv6 {
            skb.change_family(0x86dd_u16.to_be())?;
        }
        skb.store_and_sum(0, new_ip.cast(), 40)?;
        40
    } else {
        if ip.is_ipv6 {
            skb.change_family(0x0800_u16.to_be())?;
        }
        skb.store_and_sum(0, new_ip.cast(), 20)?;
        20
    };
    // The compiler knows these limits since the header was read, the verifier has lost them. In one comparison, as the
    // compiler likes it, the verifier would not understand them.
    let header = skb::unknown(segment.header);
    if header < 20 {
        return Err(Refused);
    }
    let header = skb::unknown(header);
    if header > 60 {
        return Err(Refused);
    }
    skb.store_bytes(at, new_tcp.cast(), header)?;
    skb.adjust(at + CHECKSUM, fold(changes.header))?;
    skb.adjust_pseudo(at + CHECKSUM, fold(changes.pseudo))?;
    skb.add_link_header()
}
