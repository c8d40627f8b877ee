//! The sessions that a former process has joined: counted and watched from now on as if they had been joined here.

use std::sync::Arc;

use landbridge_core::select::TargetId;
use landbridge_core::vigil::{Vigil, VigilRules};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::info;

use super::{JoinedLook, JoinedSessions, judge, lifetime, sign};
use crate::account::Account;
use crate::config::{OnDown, Target, TcpOptions};
use crate::fastpath::packet::{Adopted, Ending, Joined};
use crate::running::Running;
use crate::shared::Shared;
use crate::stats::{Carrier, Direction};

/// Whose a session is by the configuration of now.
enum Owner {
    /// This listener's, to this target.
    Target(usize, TargetId),
    /// Nobody's: so sessions end of what was removed.
    Removed(OnDown),
}

/// A session whose end nobody counts.
pub(super) struct Orphan {
    joined: Joined,
    /// When it has to end; `None`: when its limits say so.
    until: Option<Instant>,
    vigil: Vigil,
    _alive: TaskTrackerToken,
}

impl JoinedSessions {
    /// Takes over a session on the worker of this index; `alive` keeps the worker from ending.
    pub(crate) fn adopt(
        &self,
        worker: usize,
        (running, shared): (&Arc<Running>, &Arc<Shared>),
        session: Adopted,
        alive: TaskTrackerToken,
    ) {
        if session.joined.ending().is_told() {
            return self.linger(session.joined);
        }
        match owner(shared, &session) {
            Owner::Target(listener, id) => {
                let began = session.began;
                let (place, lease) = shared.readmit(listener, id, session.client, began.into());
                let seen = session.joined.seen();
                let account = Account::adopted((running, shared), (listener, worker), (lease, place), began);
                for (side, direction) in Direction::ALL.into_iter().enumerate() {
                    // What carried it before it was joined was not written down.
                    account.tally.add(direction, Carrier::Copy, session.read()[side]);
                    account.tally.add(direction, Carrier::Packet, seen[side].bytes);
                }
                account.cell.adoptions.add(1);
                session.joined.limit(lifetime(account.listener()));
                let vigil = Vigil::resumed(seen.map(sign), session.joined.now());
                let looked = JoinedLook {
                    asked: None,
                    moved_at: None,
                    retransmitted: seen.map(|seen| seen.retransmitted),
                    ..JoinedLook::default()
                };
                self.enter(session.joined, account, (vigil, looked), alive);
            }
            Owner::Removed(how) => {
                info!(client = %session.client, target_address = %session.target, ?how, "a session of what was removed");
                let drain = shared.config.runtime.drain_timeout;
                let until = match how {
                    OnDown::Reset => return,
                    OnDown::Drain => Some(Instant::now() + drain),
                    OnDown::Keep => None,
                };
                let joined = session.joined;
                let vigil = Vigil::resumed(joined.seen().map(sign), joined.now());
                self.orphans.borrow_mut().push(Orphan { joined, until, vigil, _alive: alive });
            }
        }
    }

    /// Lets go of those that have ended, and ends those with a dead peer and those whose time is up: the drain's, or
    /// that of the limits that they had when they were joined.
    pub(super) fn look_at_orphans(&self) {
        let now = Instant::now();
        // No table of the file is theirs.
        let TcpOptions { keepalive, user_timeout, .. } = TcpOptions::default();
        let rules = VigilRules { keepalive: [keepalive; 2], user_timeout: [user_timeout; 2], ..VigilRules::default() };
        let is_over = |Orphan { joined, until, vigil, .. }: &mut Orphan| {
            joined.ending() != Ending::No
                || joined.has_expired()
                || until.is_some_and(|until| now >= until)
                || judge(vigil, &rules, joined, joined.seen()).is_some()
        };
        for Orphan { joined, .. } in self.orphans.borrow_mut().extract_if(.., is_over) {
            if joined.ending().is_told() {
                self.linger(joined);
            }
        }
    }
}

fn owner(shared: &Shared, session: &Adopted) -> Owner {
    let config = &shared.config;
    let group = config.groups.iter().position(|group| session.is_of_group(&group.name));
    let Some(listener) = config.listeners.iter().position(|listener| session.is_of_listener(&listener.name)) else {
        // Nobody's rules hold for it any more, so that it gets the time of the usual one.
        return Owner::Removed(OnDown::Drain);
    };
    let Some(group) = group.filter(|group| config.listeners[listener].groups.contains(group)) else {
        return Owner::Removed(OnDown::Drain);
    };
    let address = session.target;
    let is_same = |of: &Target| (of.address.ip(), of.address.port()) == (address.ip(), address.port());
    match config.groups[group].targets.iter().position(is_same) {
        Some(target) => Owner::Target(listener, TargetId { group, target }),
        None => Owner::Removed(config.groups[group].on_removal),
    }
}
