//! `/readyz`: whether the balancer in front should send clients here, and if not, why.

use std::time::Duration;

use hyper::StatusCode;
use landbridge_core::failover::{AdminState, Standing};
use landbridge_core::select::TargetId;

use crate::config::units::written;
use crate::shared::Shared;
use crate::worker::Phase;

/// Status and text for the query of `/readyz`: nothing, `group=NAME` or `listener=NAME`.
pub(super) fn answer(shared: &Shared, phase: Phase, query: Option<&str>) -> (StatusCode, String) {
    let refused = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why + "\n");
    let ready = || (StatusCode::OK, "ready\n".to_owned());
    if phase != Phase::Serving {
        return refused("draining".to_owned());
    }
    match query.filter(|query| !query.is_empty()).map(|query| query.split_once('=').unwrap_or((query, ""))) {
        None if shared.is_able() => ready(),
        None => {
            refused(format!("no group can take a session: {}", every_reason(shared, 0..shared.config.groups.len())))
        }
        Some(("group", name)) => match shared.config.groups.iter().position(|group| group.name == name) {
            Some(index) => reason(shared, index).map_or_else(ready, |why| refused(format!("{name} {why}"))),
            None => unknown("group", name),
        },
        Some(("listener", name)) => match shared.config.listeners.iter().position(|of| of.name == name) {
            Some(index) if shared.pool().selector().is_able(index) => ready(),
            Some(index) => refused(every_reason(shared, shared.config.listeners[index].groups.iter().copied())),
            None => unknown("listener", name),
        },
        Some(_) => (StatusCode::BAD_REQUEST, "ask for group=NAME or listener=NAME\n".to_owned()),
    }
}

fn unknown(what: &str, name: &str) -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("there is no {what} {name:?}\n"))
}

fn every_reason(shared: &Shared, groups: impl IntoIterator<Item = usize>) -> String {
    let named = |index: usize| Some(format!("{} {}", shared.config.groups[index].name, reason(shared, index)?));
    let reasons: Vec<_> = groups.into_iter().filter_map(named).collect();
    match reasons.is_empty() {
        true => "every target is full, or has no weight".to_owned(),
        false => reasons.join("; "),
    }
}

/// Why a group takes no sessions, in words that follow its name; `None`: it does.
pub(super) fn reason(shared: &Shared, index: usize) -> Option<String> {
    let group = &shared.config.groups[index];
    let now = shared.now();
    let (standing, admin, healthy, held) = {
        let pool = shared.pool();
        let known = pool.group(index);
        let healthy = (0..group.targets.len()).filter(|&target| known.is_healthy(target)).count();
        (known.standing(), known.admin(), healthy, known.held_until())
    };
    let why = match (standing, admin) {
        (Standing::Able, _) => return None,
        (_, AdminState::Draining | AdminState::Disabled) => format!("is {} by the operator", admin.label()),
        (Standing::Held, _) => {
            // Whole seconds, upwards: nobody is held for none.
            let left = held.unwrap_or_default().saturating_sub(now).as_millis().div_ceil(1_000);
            let left = Duration::from_secs(u64::try_from(left).unwrap_or(u64::MAX));
            format!("is healthy again and held back for {} more", written(left))
        }
        (Standing::Unable, _) => {
            let (of, least) = (group.targets.len(), group.min_healthy);
            format!("has {healthy} of {of} targets healthy and needs {least}{}", last_failure(shared, index))
        }
    };
    Some(why)
}

/// What the last bad probe of the group said.
fn last_failure(shared: &Shared, group: usize) -> String {
    let targets = &shared.config.groups[group].targets;
    let failure = targets.iter().enumerate().find_map(|(target, of)| {
        let why = shared.state(TargetId { group, target }).last_failure()?;
        Some(format!(" ({}: {why})", of.name))
    });
    failure.unwrap_or_default()
}
