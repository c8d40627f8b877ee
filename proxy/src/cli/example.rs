//! What a daemon could answer to `GET /status`, for the tests of those who read it.

use crate::admin::api::{GroupStatus, ListenerStatus, Share, Status, TargetStatus, WeightStatus};

/// Two groups, of which the first serves.
pub(super) fn status() -> Status {
    let share = |group: &str, share| Share { group: group.to_owned(), share };
    Status {
        version: "1.2.3".to_owned(),
        process: 1,
        generation: 0,
        phase: "serving".to_owned(),
        phase_left_ms: None,
        last_reload_good: true,
        listeners: vec![ListenerStatus {
            name: "main".to_owned(),
            addresses: Vec::new(),
            able: true,
            sessions: 12,
            max_connections: 20_000,
            shares: vec![share("onprem", 1.0), share("aws", 0.0)],
        }],
        groups: vec![
            group("onprem", 0, vec![target("gpu-1", 3, 5), target("gpu-2", 1, 7)]),
            group("aws", 1, vec![target("ec2", 1, 0)]),
        ],
    }
}

fn weight(weight: u16) -> WeightStatus {
    WeightStatus { weight, origin: "config".to_owned(), left_ms: None }
}

fn target(name: &str, its_weight: u16, sessions: u32) -> TargetStatus {
    TargetStatus {
        name: name.to_owned(),
        address: "192.0.2.1:8000".to_owned(),
        weight: weight(its_weight),
        percent: 100,
        state: "active".to_owned(),
        health: "up".to_owned(),
        ejected: false,
        ejected_left_ms: None,
        sessions,
        last_failure: None,
        ends_in_ms: None,
        idle_close_ms: None,
        sessions_ended: 10,
        upload_bytes: 1_000,
        download_bytes: 2_000,
    }
}

fn group(name: &str, tier: u16, targets: Vec<TargetStatus>) -> GroupStatus {
    let (state, standing) = ("active".to_owned(), "able".to_owned());
    GroupStatus { name: name.to_owned(), tier, weight: weight(100), state, standing, reason: None, slow: None, targets }
}
