//! What a packet does to the phase of its joint.

use landbridge_common::packet::{CLIENT, CLIENT_ACKED, DIRTY, Joint, KNOWN, PHASE, TARGET_ACKED, WAS_RESET, phase};

use super::parse::{Facts, flag};

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// To its socket.
    Pass,
    /// Its headers to its socket, all of it to the other peer: it made the joint live.
    Turn,
    /// To the other peer.
    Live,
    /// Nowhere.
    Dead,
}

/// Changes the phase as a packet demands it, and notes how far it reaches. `None` is a packet that cannot be
/// translated.
///
/// This is one step of what the programs do in two: between note and decision they read the phase again.
pub fn advance(joint: &mut Joint, side: usize, facts: Option<&Facts>, now: u64) -> Course {
    let current = joint.state & PHASE;
    match current {
        phase::FREE => return Course::Pass,
        phase::WATCHED | phase::PREPARED | phase::ARMED => {}
        phase::CLOSED | phase::RESET if facts.is_some_and(|facts| facts.has(flag::SYN)) => {
            let reset = if current == phase::RESET { WAS_RESET } else { 0 };
            joint.state = joint.state & !PHASE | phase::FREE | reset;
            return Course::Pass;
        }
        phase::LIVE | phase::CLOSED | phase::RESET => return Course::Live,
        _ => return Course::Dead,
    }
    if joint.legs[side].last_seen == 0 {
        joint.legs[side].last_seen = now;
    }
    let Some(facts) = facts else {
        joint.state |= DIRTY;
        return Course::Pass;
    };
    if facts.occupies() != 0 {
        note(&mut joint.legs[side].passed, facts.end());
    }
    if current == phase::WATCHED || joint.state & DIRTY != 0 {
        return Course::Pass;
    }
    let is_taken_in = facts.payload != 0 || facts.has(flag::FIN | flag::SYN | flag::RST);
    if current == phase::PREPARED {
        if is_taken_in {
            joint.state |= DIRTY;
        }
        return Course::Pass;
    }

    let (mine, others) = if side == CLIENT { (CLIENT_ACKED, TARGET_ACKED) } else { (TARGET_ACKED, CLIENT_ACKED) };
    let leg = &joint.legs[side];
    let acknowledges_all = facts.has(flag::ACK) && facts.acknowledgement == leg.sent;
    let other_is_done = joint.state & others != 0;
    let is_next = facts.sequence == leg.received && !facts.has(flag::FIN | flag::SYN | flag::RST);
    if !is_taken_in {
        if acknowledges_all && other_is_done {
            go_live(joint, now);
        } else if acknowledges_all {
            joint.state |= mine;
        }
        Course::Pass
    } else if is_next && acknowledges_all && other_is_done {
        go_live(joint, now);
        Course::Turn
    } else {
        joint.state |= DIRTY;
        Course::Pass
    }
}

fn go_live(joint: &mut Joint, now: u64) {
    joint.live_at = now;
    joint.state = joint.state & !(PHASE | CLIENT_ACKED | TARGET_ACKED | DIRTY) | phase::LIVE;
}

fn note(passed: &mut u64, end: u32) {
    if *passed & KNOWN == 0 || is_after(end, *passed as u32) {
        *passed = KNOWN | u64::from(end);
    }
}

/// Whether one sequence number comes after another.
pub fn is_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) as i32 > 0
}

/// Whether one sequence number is another or comes after it.
pub fn reaches(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) as i32 >= 0
}
