//! What goes over the control socket: JSON, the same for the daemon and its command line. And what people read of it,
//! the same in the status page, the command line and the live view.

use std::fmt::{self, Display};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::written;

/// The answer to `GET /status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Of the daemon.
    pub(crate) version: String,
    /// The daemon's process, as its own PID namespace numbers it.
    pub(crate) process: u32,
    /// Counts reloads from 0.
    pub(crate) generation: u64,
    /// `serving`, `leaving`, `draining` or `ending`.
    pub(crate) phase: String,
    /// When that phase is over at the latest, in milliseconds from now, if it is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phase_left_ms: Option<u64>,
    /// Whether the last reload was good.
    pub(crate) last_reload_good: bool,
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) groups: Vec<GroupStatus>,
}

impl Status {
    /// The phase, and how long it still lasts.
    pub(crate) fn phase_words(&self) -> String {
        match self.phase_left_ms {
            None => self.phase.clone(),
            Some(left) => format!("{}, {} left", self.phase, whole_seconds(left)),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    /// Whether it has a target for the next session.
    pub(crate) able: bool,
    /// Sessions now, and at most.
    #[serde(default)]
    pub(crate) sessions: u32,
    #[serde(default)]
    pub(crate) max_connections: u32,
    /// Which fraction of its new sessions each of its groups gets.
    pub(crate) shares: Vec<Share>,
}

impl ListenerStatus {
    /// What the next client meets while the daemon is in `phase`.
    pub(crate) fn word<'a>(&self, phase: &'a str) -> &'a str {
        match phase {
            "draining" | "ending" => phase,
            _ if !self.able => "refuses",
            _ if self.max_connections > 0 && self.sessions >= self.max_connections => "full",
            _ => "serves",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) group: String,
    pub(crate) share: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GroupStatus {
    pub(crate) name: String,
    pub(crate) tier: u16,
    pub(crate) weight: WeightStatus,
    /// What the operator says: `active`, `draining` or `disabled`.
    pub(crate) state: String,
    /// What follows from health and state: `able`, `held` or `unable`.
    pub(crate) standing: String,
    /// Why it takes no sessions, or not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What most active sessions wait for: `client`, `network` (to the targets) or `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<String>,
    pub(crate) targets: Vec<TargetStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WeightStatus {
    pub(crate) weight: u16,
    /// `config` or `operator`.
    pub(crate) origin: String,
    /// How long an operator's weight still lasts, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_ms: Option<u64>,
}

impl WeightStatus {
    /// Whose it is, and how long still; `None`: it is the configuration's.
    pub(crate) fn remark(&self) -> Option<String> {
        let Self { origin, left_ms, .. } = self;
        (origin != "config").then(|| match left_ms {
            None => origin.clone(),
            Some(left) => format!("{origin}, {} left", about(Duration::from_millis(*left))),
        })
    }
}

impl Display for WeightStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remark() {
            None => write!(f, "{}", self.weight),
            Some(remark) => write!(f, "{} ({remark})", self.weight),
        }
    }
}

pub(crate) fn whole_seconds(millis: u64) -> String {
    written(Duration::from_secs(millis / 1_000))
}

/// Minutes, where seconds would only be noise.
fn about(left: Duration) -> String {
    let seconds = left.as_secs();
    written(Duration::from_secs(if seconds < 120 { seconds } else { seconds.div_ceil(60) * 60 }))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TargetStatus {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) weight: WeightStatus,
    /// How much of the weight counts now, in percent; 0: no new sessions.
    pub(crate) percent: u8,
    pub(crate) state: String,
    /// What the probes say: `up`, `down` or `unknown`.
    pub(crate) health: String,
    /// Whether failures of traffic have taken it out.
    pub(crate) ejected: bool,
    /// When it is tried again at the latest, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ejected_left_ms: Option<u64>,
    pub(crate) sessions: u32,
    /// Why the last probe was bad, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure: Option<String>,
    /// When the sessions that are left are reset, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ends_in_ms: Option<u64>,
    /// The shortest time without a byte after which the target closes sessions first, in milliseconds, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle_close_ms: Option<u64>,
    /// Since the daemon started, like the counters of `/metrics`.
    #[serde(default)]
    pub(crate) sessions_ended: u64,
    /// Bytes from clients, likewise.
    #[serde(default)]
    pub(crate) upload_bytes: u64,
    /// Bytes to clients, likewise.
    #[serde(default)]
    pub(crate) download_bytes: u64,
}

impl TargetStatus {
    /// What the probes say, unless it is ejected.
    pub(crate) fn health_word(&self) -> &str {
        if self.ejected { "ejected" } else { &self.health }
    }

    /// What else there is to know about it.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let starting = (1..100).contains(&self.percent).then(|| format!("starting, at {}%", self.percent));
        let left = self.ends_in_ms.filter(|_| self.sessions > 0);
        let ends = left.map(|left| format!("sessions end in {}", whole_seconds(left)));
        let ejected =
            self.ejected_left_ms.map(|left| format!("sessions failed in a row, {} left", whole_seconds(left)));
        [ejected, starting, ends, self.last_failure.clone()].into_iter().flatten().collect()
    }
}

/// One line of the answer to `GET /sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionStatus {
    pub(crate) listener: String,
    pub(crate) client: String,
    pub(crate) group: String,
    pub(crate) target: String,
    /// Since its target was chosen.
    pub(crate) age_ms: u64,
}

/// The body of `POST /weight`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetWeight {
    /// `GROUP` or `GROUP/TARGET`.
    pub(crate) of: String,
    /// `null`: the configuration's again. It cannot be left out.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) weight: Option<u16>,
    /// For how long; without it until the daemon ends.
    #[serde(default)]
    pub(crate) for_ms: Option<u64>,
}

/// The body of `POST /state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetState {
    /// `GROUP` or `GROUP/TARGET`.
    pub(crate) of: String,
    /// `active`, `draining` or `disabled`.
    pub(crate) state: String,
}

/// The body of `POST /shutdown`: resets the sessions that there are, and changes nothing for new ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shutdown {
    /// `GROUP` or `GROUP/TARGET`.
    pub(crate) of: String,
}

/// The answer to `POST /reload` and `POST /plan`: what has changed, or would.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<String>,
}

/// The answer to a request that was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Why, and what would be right.
    pub(crate) error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_rounded_to_minutes() {
        for (seconds, expected) in [(0, "0s"), (119, "119s"), (1_799, "30m"), (7_200, "2h")] {
            assert_eq!(about(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_weight_tells_whose_it_is_unless_the_configurations() {
        for (origin, left_ms, expected) in [
            ("config", None, "3"),
            ("operator", None, "3 (operator)"),
            ("operator", Some(1_799_000), "3 (operator, 30m left)"),
        ] {
            assert_eq!(WeightStatus { weight: 3, origin: origin.to_owned(), left_ms }.to_string(), expected);
        }
    }
}
