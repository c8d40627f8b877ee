//! The verbs that talk to a running daemon: `status`, `sessions`, `set weight`, `set state`, `shutdown
//! sessions`, `reload`.

use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{self, ClientError};
use super::{Exit, table};
use crate::admin::api::{
    Changes, GroupStatus, SessionStatus, SetState, SetWeight, Shutdown, Status, TargetStatus, whole_seconds,
};

/// `landbridge status`
pub(super) fn status(socket: &Path, json: bool) -> Exit {
    told(client::get::<Status>(socket, "/status"), json, status_text)
}

/// `landbridge sessions`
pub(super) fn sessions(socket: &Path, json: bool) -> Exit {
    told(client::get::<Vec<SessionStatus>>(socket, "/sessions"), json, |sessions| {
        let row = |of: &SessionStatus| {
            let target = format!("{}/{}", of.group, of.target);
            [of.client.clone(), of.listener.clone(), target, whole_seconds(of.age_ms)]
        };
        table::aligned(["CLIENT", "LISTENER", "TARGET", "AGE"], sessions.iter().map(row))
    })
}

/// A weight as the command line has it: a number, or `config` for the configuration's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight(Option<u16>);

impl FromStr for Weight {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "config" => Ok(Self(None)),
            _ => text.parse().map(|weight| Self(Some(weight))).map_err(|_| "use 0 to 65535, or config"),
        }
    }
}

/// `landbridge set weight`
pub(super) fn set_weight(socket: &Path, of: String, weight: Weight, duration: Option<Duration>, json: bool) -> Exit {
    let for_ms = duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    told(client::post::<Status>(socket, "/weight", &SetWeight { of, weight: weight.0, for_ms }), json, status_text)
}

/// `landbridge set state`
pub(super) fn set_state(socket: &Path, of: String, state: String, json: bool) -> Exit {
    told(client::post::<Status>(socket, "/state", &SetState { of, state }), json, status_text)
}

/// `landbridge shutdown sessions`
pub(super) fn shut_down_sessions(socket: &Path, of: String, json: bool) -> Exit {
    told(client::post::<Status>(socket, "/shutdown", &Shutdown { of }), json, status_text)
}

/// `landbridge reload`
pub(super) fn reload(socket: &Path, json: bool) -> Exit {
    told(client::post::<Changes>(socket, "/reload", &()), json, |changes| lines(changes, "nothing has changed"))
}

/// What a file would change: `landbridge check --against-running`.
pub(super) fn plan(socket: &Path, text: String) -> Exit {
    told(ask_plan(socket, text), false, |changes| lines(changes, "nothing would change"))
}

/// The same as a list.
pub(super) fn changes(socket: &Path, text: String) -> Result<Vec<String>, ClientError> {
    ask_plan(socket, text).map(|Changes { changes }| changes)
}

fn ask_plan(socket: &Path, text: String) -> Result<Changes, ClientError> {
    client::post_text(socket, "/plan", text)
}

fn lines(Changes { changes }: &Changes, nothing: &str) -> String {
    match changes.is_empty() {
        true => format!("{nothing}\n"),
        false => changes.iter().map(|change| format!("{change}\n")).collect(),
    }
}

/// Prints an answer to stdout, or an error to stderr.
fn told<T: Serialize + DeserializeOwned>(
    answer: Result<T, ClientError>,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> Exit {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("{error}");
            return error.exit();
        }
    };
    let text = match json {
        true => serde_json::to_string_pretty(&answer).map(|text| text + "\n").map_err(io::Error::from),
        false => Ok(text(&answer)),
    };
    match text.and_then(|text| io::stdout().write_all(text.as_bytes())) {
        Ok(()) => Exit::Good,
        // Nobody reads stdout any more: there is nobody to tell either.
        Err(_) => Exit::Failed,
    }
}

fn status_text(status: &Status) -> String {
    let mut text = format!("landbridge {} {}, generation {}", status.version, status.phase_words(), status.generation);
    text += if status.last_reload_good { "\n\n" } else { "; the last reload failed, see the log\n\n" };
    let listeners = status.listeners.iter().map(|listener| {
        let shares = listener.shares.iter().map(|of| format!("{} {:.0}%", of.group, of.share * 100.0));
        let now = listener.word(&status.phase);
        let sessions = format!("{}/{}", listener.sessions, listener.max_connections);
        let addresses = listener.addresses.join(" ");
        [listener.name.clone(), addresses, now.to_owned(), sessions, shares.collect::<Vec<_>>().join(", ")]
    });
    text += &table::aligned(["LISTENER", "ADDRESSES", "NOW", "SESSIONS", "SHARES"], listeners);
    text += "\n";
    let groups = status.groups.iter().map(|group| {
        let GroupStatus { name, tier, weight, state, standing, slow, reason, .. } = group;
        let slow = slow.as_deref().unwrap_or("-").to_owned();
        [
            name.clone(),
            tier.to_string(),
            weight.to_string(),
            state.clone(),
            standing.clone(),
            slow,
            reason.clone().unwrap_or_default(),
        ]
    });
    text += &table::aligned(["GROUP", "TIER", "WEIGHT", "STATE", "STANDING", "SLOW", "REMARK"], groups);
    text += "\n";
    let targets = status.groups.iter().flat_map(|group| group.targets.iter().map(|of| target_row(&group.name, of)));
    text + &table::aligned(["TARGET", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SESSIONS", "REMARK"], targets)
}

fn target_row(group: &str, target: &TargetStatus) -> [String; 7] {
    [
        format!("{group}/{}", target.name),
        target.address.clone(),
        target.weight.to_string(),
        target.state.clone(),
        target.health_word().to_owned(),
        target.sessions.to_string(),
        target.remarks().join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::example;

    #[test]
    fn a_listener_tells_what_the_next_client_meets() {
        let mut listener = example::status().listeners.remove(0);
        assert_eq!(listener.word("leaving"), "serves");
        listener.sessions = listener.max_connections;
        assert_eq!((listener.word("serving"), listener.word("draining")), ("full", "draining"));
        listener.able = false;
        assert_eq!(listener.word("serving"), "refuses");
    }

    #[test]
    fn a_target_tells_what_is_the_matter_with_it() {
        let mut target = example::status().groups.remove(0).targets.remove(0);
        assert_eq!(target_row("g", &target), ["g/gpu-1", "192.0.2.1:8000", "3", "active", "up", "5", ""]);
        (target.ejected, target.ejected_left_ms) = (true, Some(9_000));
        (target.percent, target.ends_in_ms) = (40, Some(61_500));
        target.last_failure = Some("timed out".to_owned());
        let [.., health, _, remark] = target_row("g", &target);
        assert_eq!(
            (&*health, &*remark),
            ("ejected", "sessions failed in a row, 9s left; starting, at 40%; sessions end in 61s; timed out")
        );
    }
}
