use std::collections::BTreeMap;
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::*;
use crate::failover::Standing;
use crate::health::{EjectRules, ProbeRules};
use crate::select::{Balance, TargetSpec};

const CLIENT: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1));
const RULES: GroupRules = GroupRules {
    min_healthy: 1,
    failback_hold: Duration::from_secs(10),
    slow_start: Duration::ZERO,
    max_ejected: 50,
    probes: Some(ProbeRules {
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    }),
    eject: EjectRules { after: 3, hold: Duration::from_secs(10) },
    one_way: false,
};

fn spec(tier: u16, weight: u16, targets: u8) -> GroupSpec {
    let target = |number| TargetSpec {
        address: format!("10.0.{tier}.{number}:80").parse().unwrap(),
        weight: 1,
        max_sessions: None,
        load: Default::default(),
    };
    let targets = (1..=targets).map(target).collect();
    GroupSpec { tier, weight, balance: Balance::WeightedRoundRobin, targets }
}

fn pool(groups: Vec<GroupSpec>) -> Pool {
    let all = (0..groups.len()).collect();
    Pool::new(groups.into_iter().map(|spec| (spec, RULES)).collect(), vec![all], 7)
}

fn id(group: usize, target: usize) -> TargetId {
    TargetId { group, target }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn chosen(pool: &mut Pool) -> Option<TargetId> {
    pool.select(0, CLIENT, &[]).ok()
}

/// The way of an outage: the site goes down, the cloud takes over, the site returns after the hold.
#[test]
fn traffic_moves_to_the_next_tier_and_back_after_the_hold() {
    let mut pool = pool(vec![spec(0, 1, 1), spec(1, 1, 1)]);
    assert_eq!(chosen(&mut pool), None);
    pool.probed(id(0, 0), true, secs(0));
    assert!(!pool.is_decided());
    pool.probed(id(1, 0), true, secs(0));
    assert!(pool.is_decided());
    assert_eq!(chosen(&mut pool), Some(id(0, 0)));
    pool.probed(id(0, 0), false, secs(1));
    assert_eq!(chosen(&mut pool), Some(id(1, 0)));
    pool.probed(id(0, 0), true, secs(2));
    assert_eq!(chosen(&mut pool), Some(id(1, 0)));
    assert_eq!(pool.deadline(secs(2)), Some(secs(12)));
    let changes: Vec<_> = pool.tick(secs(12)).into_iter().filter(|(_, changes)| !changes.is_empty()).collect();
    assert_eq!(changes, [(0, vec![Change::Group(Standing::Able)])]);
    assert_eq!(chosen(&mut pool), Some(id(0, 0)));
}

#[test]
fn a_held_group_serves_rather_than_nobody() {
    let mut pool = pool(vec![spec(0, 1, 1), spec(1, 1, 1)]);
    for target in [id(0, 0), id(1, 0)] {
        pool.probed(target, true, secs(0));
        pool.probed(target, false, secs(1));
    }
    assert_eq!(chosen(&mut pool), None);
    pool.probed(id(0, 0), true, secs(2));
    assert_eq!(chosen(&mut pool), Some(id(0, 0)));
    assert!(pool.selector().is_able(0));
}

#[test]
fn health_outlasts_a_configuration() {
    let mut old = pool(vec![spec(0, 1, 2), spec(1, 1, 1)]);
    for target in [id(0, 0), id(0, 1), id(1, 0)] {
        old.probed(target, true, secs(0));
    }
    old.probed(id(0, 1), false, secs(1));
    // The groups change places, and the first of them is replaced by its second target and a new one.
    let from = |new: TargetId| match (new.group, new.target) {
        (0, 0) => Some(id(1, 0)),
        (1, 0) => Some(id(0, 1)),
        _ => None,
    };
    let mut new = pool(vec![spec(1, 1, 1), spec(0, 1, 2)]);
    new.inherit(&old, from, secs(2));
    assert_eq!(chosen(&mut new), Some(id(0, 0)), "the healthy target serves without a probe");
    assert!(!new.is_decided());
    // A new target does not wait for the hold of its group, which has no healthy one.
    new.probed(id(1, 1), true, secs(3));
    assert_eq!(chosen(&mut new), Some(id(1, 1)));
}

#[test]
fn targets_are_not_probed_in_step() {
    let mut pool = pool(vec![spec(0, 1, 2), spec(1, 1, 1)]);
    let mut due: Vec<_> = [id(0, 0), id(0, 1), id(1, 0)].map(|id| pool.next_probe(id, secs(0))).into();
    due.sort_unstable();
    due.dedup();
    assert_eq!(due.len(), 3, "{due:?}");
}

#[test]
fn a_target_without_an_address_is_not_chosen() {
    let unprobed = GroupRules { probes: None, ..RULES };
    let mut pool = Pool::new(vec![(spec(0, 1, 1), unprobed), (spec(1, 1, 1), unprobed)], vec![vec![0, 1]], 7);
    pool.set_absent(id(0, 0));
    assert_eq!(chosen(&mut pool), Some(id(1, 0)));
}

#[test]
fn what_is_due_first_is_due() {
    let mut pool = pool(vec![spec(0, 1, 1), spec(1, 1, 1)]);
    for (target, back) in [(id(0, 0), 5), (id(1, 0), 3)] {
        pool.probed(target, true, secs(0));
        pool.probed(target, false, secs(1));
        pool.probed(target, true, secs(back));
    }
    assert_eq!(pool.deadline(secs(5)), Some(secs(13)));
    pool.tick(secs(13));
    assert_eq!(pool.deadline(secs(13)), Some(secs(15)));
}

proptest! {
    /// After any history a choice falls on a target that is up, in the lowest tier whose group may serve, and there is
    /// one exactly when some target is up.
    #[test]
    fn only_healthy_targets_are_chosen(
        steps in prop::collection::vec((0_usize..3, 0_usize..2, any::<bool>(), 0_u64..8), 1..80),
    ) {
        let mut pool = pool(vec![spec(0, 1, 2), spec(0, 3, 2), spec(1, 1, 2)]);
        let mut up = BTreeMap::new();
        let mut now = secs(0);
        for (group, target, good, later) in steps {
            now += secs(later);
            pool.tick(now);
            pool.probed(id(group, target), good, now);
            up.insert(id(group, target), good);
            let healthy = |group: usize| (0..2).any(|target| up.get(&id(group, target)) == Some(&true));
            match chosen(&mut pool) {
                None => prop_assert!(!(0..3).any(healthy)),
                Some(choice) => {
                    prop_assert_eq!(up.get(&choice), Some(&true));
                    let held = |group: usize| pool.group(group).standing() == Standing::Held;
                    let tier = |group: usize| usize::from(group == 2);
                    let better = (0..3).filter(|&group| healthy(group)).map(|group| (held(group), tier(group))).min();
                    prop_assert_eq!(better, Some((held(choice.group), tier(choice.group))));
                }
            }
        }
    }
}
