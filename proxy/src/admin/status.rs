//! What runs now, for people and programs.

use std::time::Duration;

use landbridge_core::select::TargetId;

use super::api::{GroupStatus, ListenerStatus, SessionStatus, Share, Status, TargetStatus, WeightStatus};
use super::ready;
use crate::config::Target;
use crate::running::Running;
use crate::shared::Shared;
use crate::stats::{Direction, RouteCell};
use crate::worker::Phase;

/// Everything but the sessions.
pub(crate) fn status(running: &Running, phase: Phase) -> Status {
    let shared = running.load();
    let phase = match phase {
        Phase::Serving => "serving",
        Phase::Leaving => "leaving",
        Phase::Draining => "draining",
        Phase::Ending => "ending",
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: std::process::id(),
        generation: shared.generation,
        phase: phase.to_owned(),
        phase_left_ms: running.phase_left().map(millis),
        last_reload_good: running.last_reload().0,
        listeners: (0..shared.config.listeners.len()).map(|index| listener(&shared, index)).collect(),
        groups: (0..shared.config.groups.len()).map(|index| group(running, &shared, index)).collect(),
    }
}

/// The sessions that have a target.
pub(super) fn sessions(shared: &Shared) -> Vec<SessionStatus> {
    let of = |id: TargetId| {
        let (group, target) = shared.target(id);
        shared.state(id).handles().into_iter().map(move |handle| SessionStatus {
            listener: handle.listener.to_string(),
            client: handle.client.to_string(),
            group: group.name.clone(),
            target: target.name.clone(),
            age_ms: millis(handle.since.elapsed()),
        })
    };
    shared.config.target_ids().flat_map(of).collect()
}

/// Which fraction of a listener's new sessions each of its groups gets, by the group's index.
pub(super) fn shares(shared: &Shared, listener: usize) -> Vec<(usize, f64)> {
    let weights: Vec<(usize, u16)> = shared.pool().selector().shares(listener).collect();
    let sum: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let share = |group: usize| {
        let weight = weights.iter().find(|(able, _)| *able == group).map_or(0, |(_, weight)| *weight);
        if sum > 0.0 { f64::from(weight) / sum } else { 0.0 }
    };
    shared.config.listeners[listener].groups.iter().map(|&group| (group, share(group))).collect()
}

fn listener(shared: &Shared, index: usize) -> ListenerStatus {
    let listener = &shared.config.listeners[index];
    // On its own: a lock that is taken inside the value below is held to its end.
    let able = shared.pool().selector().is_able(index);
    let share = |(group, share): (usize, f64)| Share { group: shared.config.groups[group].name.clone(), share };
    ListenerStatus {
        name: listener.name.clone(),
        addresses: listener.bind.iter().map(ToString::to_string).collect(),
        able,
        sessions: shared.taken(index),
        max_connections: listener.max_connections,
        shares: shares(shared, index).into_iter().map(share).collect(),
    }
}

fn group(running: &Running, shared: &Shared, index: usize) -> GroupStatus {
    let group = &shared.config.groups[index];
    let (standing, state, weight) = {
        let pool = shared.pool();
        let known = pool.group(index);
        (known.standing(), known.admin(), pool.selector().group_weight(index))
    };
    GroupStatus {
        name: group.name.clone(),
        tier: group.tier,
        weight: weighed(shared, &group.name, None, weight),
        state: state.label().to_owned(),
        standing: standing.label().to_owned(),
        reason: ready::reason(shared, index),
        slow: running.pulse.group(&group.name).slow().map(|slow| slow.code().to_owned()),
        targets: (0..group.targets.len())
            .map(|target| self::target(shared, TargetId { group: index, target }))
            .collect(),
    }
}

fn target(shared: &Shared, id: TargetId) -> TargetStatus {
    let (group, target) = shared.target(id);
    let state = shared.state(id);
    let now = shared.now();
    let pool = shared.pool();
    let known = pool.group(id.group);
    let (percent, admin) = (known.percent(id.target, now), known.target_admin(id.target));
    let (health, ejected) = (known.health(id.target), known.is_ejected(id.target));
    let ejected_left = known.ejected_until(id.target).map(|until| until.saturating_sub(now));
    let weight = pool.selector().weight(id);
    drop(pool);
    TargetStatus {
        name: target.name.clone(),
        address: if target.is_resolved() { target.address.to_string() } else { "unknown".to_owned() },
        weight: weighed(shared, &group.name, Some(target.label()), weight),
        percent,
        state: admin.label().to_owned(),
        health: health.label().to_owned(),
        ejected,
        ejected_left_ms: ejected_left.map(millis),
        sessions: shared.sessions(id),
        last_failure: unresolved(shared, target).or_else(|| state.last_failure()),
        ends_in_ms: state.ends_in().map(millis),
        idle_close_ms: idle_close(shared, id).map(millis),
        sessions_ended: cells(shared, id).map(|cell| cell.ends.all()).sum(),
        upload_bytes: cells(shared, id).map(|cell| cell.moved(Direction::Upload)).sum(),
        download_bytes: cells(shared, id).map(|cell| cell.moved(Direction::Download)).sum(),
    }
}

/// How soon the target closes idle sessions, over all listeners and workers; `None`: it was not seen to.
pub(super) fn idle_close(shared: &Shared, id: TargetId) -> Option<Duration> {
    cells(shared, id).filter_map(|cell| cell.idle_close.get()).min()
}

fn cells(shared: &Shared, id: TargetId) -> impl Iterator<Item = &RouteCell> {
    shared.stats.cells_of(move |route| route == id)
}

/// Why a target has no address, if it has none.
fn unresolved(shared: &Shared, target: &Target) -> Option<String> {
    let host = target.host.as_ref().filter(|_| !target.is_resolved())?;
    let why = shared.names.problem(host);
    Some(format!("{host} has no address: {}", why.as_deref().unwrap_or("it is being looked up")))
}

fn weighed(shared: &Shared, group: &str, target: Option<String>, weight: u16) -> WeightStatus {
    let (origin, left) = match shared.ordered_weight(group, target) {
        Some(left) => ("operator", left),
        None => ("config", None),
    };
    WeightStatus { weight, origin: origin.to_owned(), left_ms: left.map(millis) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
