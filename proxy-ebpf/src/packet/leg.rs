//! From a four-tuple to its joint.

use landbridge_common::packet::{Joint, Leg, Tuple};

use crate::maps::{JOINTS, LEGS};

/// A leg that a packet arrived on.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// Its session.
    pub(crate) joint: *mut Joint,
    /// The leg itself.
    pub(crate) leg: *mut Leg,
    /// The session's other leg.
    pub(crate) other: *mut Leg,
    /// Which side the leg is.
    pub(crate) is_target: bool,
}

/// The leg with this four-tuple.
#[inline(always)]
pub(crate) fn find(tuple: &Tuple) -> Option<Arrival> {
    // SAFETY: the daemon removes entries, and the kernel frees them only after every program that runs now has ended.
    let reference = *unsafe { LEGS.get(tuple) }?;
    let joint = JOINTS.get_ptr_mut(reference >> 1)?;
    let is_target = reference & 1 != 0;
    // SAFETY: the map keeps the value in place; these are places in it.
    let (client, target) = unsafe { (&raw mut (*joint).legs[0], &raw mut (*joint).legs[1]) };
    let (leg, other) = if is_target { (target, client) } else { (client, target) };
    Some(Arrival { joint, leg, other, is_target })
}
