//! What is said to a group, and what it says.

use core::time::Duration;

use crate::health::{EjectRules, Health, ProbeRules};

/// How a group fails over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRules {
    /// With fewer healthy, active targets than this the group takes no new sessions.
    pub min_healthy: u32,
    /// How long the group must have enough of them before it takes sessions back.
    pub failback_hold: Duration,
    /// How long the share of a target that came back takes to grow to its weight.
    pub slow_start: Duration,
    /// At most so many percent of the targets are ejected at once.
    pub max_ejected: u8,
    /// How its targets are probed, if they are.
    pub probes: Option<ProbeRules>,
    /// How failures of traffic count.
    pub eject: EjectRules,
    /// Whether all targets are reached through one device: if most of them fail together, the whole group is down.
    pub one_way: bool,
}

/// What the operator says of a group or a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// Takes sessions.
    #[default]
    Active,
    /// Takes no new sessions; old ones finish.
    Draining,
    /// Takes no sessions, old ones are reset, and it is not probed.
    Disabled,
}

impl AdminState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Active, Self::Draining, Self::Disabled];

    /// The word that people and programs read and write.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// Whether a group takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Able,
    /// It could, but has not been healthy for long enough: only when no other group can.
    Held,
    /// No.
    Unable,
}

impl Standing {
    /// The word that people and programs read.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Able => "able",
            Self::Held => "held",
            Self::Unable => "unable",
        }
    }
}

/// Something that changed. Targets are named by their index in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A target has a new verdict.
    Health(usize, Health),
    /// Traffic has ejected a target, until that time.
    Ejected(usize, Duration),
    /// A target is no longer ejected.
    Returned(usize),
    /// The group takes sessions, or no longer does.
    Group(Standing),
    /// The device that leads to the targets works, or no longer does.
    Link(bool),
    /// Most targets have failed together, or one of them has answered again.
    Outage(bool),
}
