//! What is learned from a packet that is sent on.

use landbridge_common::packet::{AHEAD, BY_TARGET, CLIENT, Joint, KNOWN, Leg, PHASE, event, phase};

use super::parse::{Facts, flag};
use super::phases::{is_after, reaches};
use super::window::newest;

/// Keeps the books; returns what the daemon is told.
pub fn forwarded(joint: &mut Joint, side: usize, facts: &Facts, now: u64) -> Option<u64> {
    let [client, target] = &mut joint.legs;
    let (leg, other) = if side == 0 { (client, target) } else { (target, client) };
    leg.last_seen = now;
    leg.packets += 1;
    if facts.has(flag::FIN | flag::RST) && leg.ended_at == 0 {
        leg.ended_at = now;
    }
    if facts.has(flag::RST) {
        let expected = facts.sequence == newest(leg)
            || other.acknowledged == KNOWN | u64::from(facts.sequence.wrapping_add(leg.sequence_delta));
        let by = if side == CLIENT { 0 } else { BY_TARGET };
        return if expected { end(joint, phase::RESET, by, event::RESET) } else { None };
    }
    if facts.occupies() != 0 {
        sent(leg, other, facts, now);
    }
    if facts.has(flag::ACK) {
        acknowledged(leg, facts.acknowledgement, now);
    }
    leg.window = leg.window.max(u64::from(facts.window) << leg.window_scale_in);
    let ahead = if is_after(facts.sequence, newest(leg)) { AHEAD } else { 0 };
    leg.announced = KNOWN | ahead | u64::from(facts.window);
    if is_acknowledged(leg, other) && is_acknowledged(other, leg) {
        return end(joint, phase::CLOSED, 0, event::CLOSED);
    }
    None
}

/// Ends a live joint. One that has ended stays as it is: a peer that has forgotten the connection answers with a RST to
/// what comes late.
fn end(joint: &mut Joint, phase: u64, flags: u64, event: u64) -> Option<u64> {
    if joint.state & PHASE != phase::LIVE {
        return None;
    }
    joint.state = joint.state & !PHASE | phase | flags;
    Some(event)
}

fn sent(leg: &mut Leg, other: &mut Leg, facts: &Facts, now: u64) {
    let (newest, end) = (newest(leg), facts.end());
    if is_after(end, newest) {
        leg.newest = KNOWN | u64::from(end);
        leg.bytes += u64::from(end.wrapping_sub(newest)) - u64::from(facts.has(flag::FIN));
        if is_after(newest, facts.sequence) {
            // Partly a repetition: its acknowledgement tells nothing about the time (Karn).
            other.probe = 0;
        } else if other.probe == 0 {
            other.probe = KNOWN | u64::from(end.wrapping_add(leg.sequence_delta));
            other.probe_sent = now;
        }
    } else {
        other.probe = 0;
        leg.retransmitted += u64::from(facts.payload != 0);
    }
    if facts.payload != 0 && leg.first_payload == 0 {
        leg.first_payload = now;
    }
    if facts.has(flag::FIN) {
        leg.fin = KNOWN | u64::from(end);
    }
}

fn acknowledged(leg: &mut Leg, number: u32, now: u64) {
    if leg.acknowledged & KNOWN == 0 || is_after(number, leg.acknowledged as u32) {
        leg.acknowledged = KNOWN | u64::from(number);
    }
    if leg.probe & KNOWN != 0 && reaches(number, leg.probe as u32) {
        let sample = now - leg.probe_sent;
        leg.round_trip = match leg.round_trip {
            0 => sample,
            smoothed => smoothed - smoothed / 8 + sample / 8,
        };
        leg.probe = 0;
    }
}

/// Whether this leg's peer has sent its FIN, and the other peer has acknowledged it.
fn is_acknowledged(leg: &Leg, other: &Leg) -> bool {
    let end = (leg.fin as u32).wrapping_add(leg.sequence_delta);
    leg.fin & KNOWN != 0 && other.acknowledged & KNOWN != 0 && reaches(other.acknowledged as u32, end)
}
