//! What a configuration says about the relays of a listener.

use std::time::Duration;

use landbridge_core::datapath::{Policy, Promote};
use landbridge_core::end::SessionEnd;
use landbridge_core::join::JoinRules;

use crate::config::{Datapath, DatapathRules, Listener, TcpOptions};
use crate::net::options::Liveness;

/// What a listener's configuration says about moving bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(super) policy: Policy,
    pub(super) join: Option<JoinRules>,
    pub(super) liveness: Liveness,
    idle: Option<Duration>,
    half_close: Option<Duration>,
}

impl Settings {
    /// By which numbers a session with such `target` legs is judged; `kernel`: whether there is a fast path.
    pub(crate) fn new(listener: &Listener, target: &TcpOptions, rules: &DatapathRules, kernel: bool) -> Self {
        let DatapathRules { thresholds, join, .. } = *rules;
        let (splice, promote) = match listener.datapath {
            Datapath::Auto => (true, Promote::Messages),
            Datapath::Packet => (true, Promote::Never),
            Datapath::Sockmap => (false, Promote::AtOnce),
            Datapath::Splice => (true, Promote::Never),
            Datapath::Copy => (false, Promote::Never),
        };
        // Without a fast path splicing is the fastest that is left.
        let policy = if kernel {
            Policy { splice, promote, thresholds }
        } else {
            Policy { splice: splice || promote != Promote::Never, promote: Promote::Never, thresholds }
        };
        let join = match listener.datapath {
            Datapath::Auto => Some(join),
            // This listener's operator has decided: no reason to wait.
            Datapath::Packet => Some(JoinRules { after: 1, ..join }),
            Datapath::Sockmap | Datapath::Splice | Datapath::Copy => None,
        };
        let liveness = Liveness::of(target);
        Self { policy, join, liveness, idle: listener.idle_timeout, half_close: listener.half_close_timeout }
    }

    /// How long nothing may move, and what it is called when that is over.
    pub(super) fn silence(&self, half_closed: bool) -> (Option<Duration>, SessionEnd) {
        match (self.idle, self.half_close.filter(|_| half_closed)) {
            (Some(idle), Some(half)) if idle <= half => (Some(idle), SessionEnd::Idle),
            (_, Some(half)) => (Some(half), SessionEnd::HalfCloseTimeout),
            (idle, None) => (idle, SessionEnd::Idle),
        }
    }
}
