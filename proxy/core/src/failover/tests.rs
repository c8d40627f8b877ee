use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::health::{EjectRules, ProbeRules};

const RULES: GroupRules = GroupRules {
    min_healthy: 1,
    failback_hold: Duration::from_secs(10),
    slow_start: Duration::from_secs(20),
    max_ejected: 50,
    probes: Some(ProbeRules {
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    }),
    eject: EjectRules { after: 1, hold: Duration::from_secs(10) },
    one_way: false,
};

fn group(rules: GroupRules, targets: u64) -> Group {
    Group::new(rules, (0..targets).map(|seed| Monitor::new(rules.probes, rules.eject, seed)))
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn percents(group: &Group, now: Duration) -> Vec<u8> {
    (0..group.targets.len()).map(|index| group.percent(index, now)).collect()
}

#[test]
fn at_the_start_nothing_waits_for_hold_or_slow_start() {
    let mut group = group(RULES, 2);
    assert_eq!(group.standing(), Standing::Unable);
    assert!(!group.is_decided());
    let changes = group.probed(0, true, secs(1));
    assert_eq!(changes, [Change::Health(0, Health::Up), Change::Group(Standing::Able)]);
    assert_eq!(percents(&group, secs(1)), [100, 0]);
    group.probed(1, true, secs(2));
    assert!(group.is_decided());
    assert_eq!(percents(&group, secs(2)), [100, 100]);
    assert_eq!(group.deadline(secs(2)), None);
}

#[test]
fn a_group_that_comes_back_is_held_and_its_target_ramps_up() {
    let mut group = group(RULES, 1);
    group.probed(0, true, secs(0));
    assert_eq!(group.probed(0, false, secs(1)), [Change::Health(0, Health::Down), Change::Group(Standing::Unable)]);
    assert_eq!(group.probed(0, true, secs(5)), [Change::Health(0, Health::Up), Change::Group(Standing::Held)]);
    assert_eq!(group.percent(0, secs(5)), 10);
    assert_eq!(group.deadline(secs(5)), Some(secs(6)), "the next step of twenty");
    assert_eq!(group.tick(secs(14)), []);
    assert_eq!(group.held_until(), Some(secs(15)));
    assert_eq!(group.tick(secs(15)), [Change::Group(Standing::Able)]);
    assert_eq!(group.held_until(), None);
    assert_eq!(group.percent(0, secs(15)), 55);
    assert_eq!(group.percent(0, secs(24)), 95);
    group.tick(secs(25));
    assert_eq!(group.percent(0, secs(25)), 100);
    assert_eq!(group.deadline(secs(25)), None);
}

#[test]
fn a_relapse_starts_the_hold_again() {
    let mut group = group(RULES, 1);
    group.probed(0, true, secs(0));
    group.probed(0, false, secs(1));
    group.probed(0, true, secs(2));
    group.probed(0, false, secs(9));
    assert_eq!(group.standing(), Standing::Unable);
    group.probed(0, true, secs(11));
    group.tick(secs(20));
    assert_eq!(group.standing(), Standing::Held);
    group.tick(secs(21));
    assert_eq!(group.standing(), Standing::Able);
}

#[test]
fn a_group_that_was_down_from_the_start_comes_back_with_a_hold() {
    let mut group = group(RULES, 1);
    group.probed(0, false, secs(0));
    group.probed(0, true, secs(60));
    assert_eq!(group.standing(), Standing::Held);
}

#[test]
fn fewer_healthy_targets_than_asked_for_are_none() {
    let mut group = group(GroupRules { min_healthy: 2, failback_hold: Duration::ZERO, ..RULES }, 3);
    group.probed(0, true, secs(0));
    assert_eq!(group.standing(), Standing::Unable);
    group.probed(1, true, secs(0));
    assert_eq!(group.standing(), Standing::Able);
    group.set_target_admin(1, AdminState::Draining, secs(1));
    assert_eq!(group.standing(), Standing::Unable);
    group.probed(2, true, secs(1));
    assert_eq!(group.standing(), Standing::Able);
    assert_eq!(percents(&group, secs(1)), [100, 0, 100]);
}

#[test]
fn no_more_than_the_allowed_percentage_is_ejected() {
    let unprobed = GroupRules { probes: None, ..RULES };
    for (targets, max_ejected, expected) in [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (4, 0, 0), (3, 100, 3)] {
        let mut group = group(GroupRules { max_ejected, ..unprobed }, targets);
        for index in 0..group.targets.len() {
            group.failed(index, secs(0));
        }
        let ejected = (0..group.targets.len()).filter(|&index| group.is_ejected(index)).count();
        assert_eq!(ejected, expected, "{targets} targets, {max_ejected} percent");
    }
}

#[test]
fn an_ejection_ends_by_itself_and_with_a_slow_start() {
    let mut group = group(GroupRules { probes: None, ..RULES }, 2);
    assert_eq!(group.failed(0, secs(1)), [Change::Ejected(0, secs(11))]);
    assert_eq!(percents(&group, secs(1)), [0, 100]);
    assert_eq!(group.deadline(secs(1)), Some(secs(11)));
    assert_eq!(group.tick(secs(11)), [Change::Returned(0)]);
    assert_eq!(percents(&group, secs(11)), [10, 100]);
}

#[test]
fn admin_states_are_apart_from_health() {
    let mut group = group(RULES, 2);
    group.probed(0, true, secs(0));
    group.probed(1, true, secs(0));
    group.set_admin(AdminState::Draining, secs(1));
    assert_eq!(group.standing(), Standing::Unable);
    assert_eq!(group.target_admin(0), AdminState::Draining);
    assert_eq!(group.health(0), Health::Up);
    group.set_admin(AdminState::Active, secs(2));
    // It was the operator's wish: nothing came back from being down.
    assert_eq!((percents(&group, secs(2)), group.standing()), (vec![100, 100], Standing::Able));
    group.set_target_admin(0, AdminState::Disabled, secs(3));
    assert_eq!(percents(&group, secs(3)), [0, 100]);
    group.set_target_admin(1, AdminState::Disabled, secs(4));
    assert_eq!(group.standing(), Standing::Unable);
    group.set_target_admin(1, AdminState::Active, secs(5));
    assert_eq!((percents(&group, secs(5)), group.standing()), (vec![0, 100], Standing::Able));
}

#[test]
fn nobody_waits_for_the_verdict_on_a_target_that_is_not_probed() {
    let mut group = group(RULES, 2);
    group.set_target_admin(1, AdminState::Disabled, secs(0));
    group.probed(0, true, secs(1));
    assert!(group.is_decided());
}

#[test]
fn a_group_without_its_device_is_down_as_a_whole_and_returns_after_the_hold() {
    let mut group = group(RULES, 2);
    group.probed(0, true, secs(0));
    group.probed(1, true, secs(0));
    assert_eq!(group.set_link(false, secs(1)), [Change::Link(false), Change::Group(Standing::Unable)]);
    assert_eq!(percents(&group, secs(1)), [0, 0]);
    assert!(!group.is_healthy(0));
    assert_eq!(group.set_link(false, secs(2)), []);
    assert_eq!(group.set_link(true, secs(3)), [Change::Link(true), Change::Group(Standing::Held)]);
    // The targets have not failed: nothing has to warm up.
    assert_eq!(percents(&group, secs(3)), [100, 100]);
    assert_eq!(group.tick(secs(13)), [Change::Group(Standing::Able)]);
}

#[test]
fn a_new_configuration_inherits_by_target() {
    let mut old = group(RULES, 2);
    old.probed(0, true, secs(0));
    old.probed(1, false, secs(0));
    let mut new = group(GroupRules { slow_start: secs(5), ..RULES }, 3);
    // The second target is now the first, the first the third, and the one between them is new.
    new.inherit(&old, |index| [Some(1), None, Some(0)][index], secs(1));
    assert_eq!([new.health(0), new.health(1), new.health(2)], [Health::Down, Health::Unknown, Health::Up]);
    assert_eq!(new.standing(), Standing::Able);
    assert_eq!(percents(&new, secs(1)), [0, 0, 100]);
}

#[test]
fn a_new_configuration_shortens_neither_hold_nor_slow_start() {
    let mut old = group(RULES, 1);
    old.probed(0, true, secs(0));
    old.probed(0, false, secs(1));
    old.probed(0, true, secs(5));
    let mut new = group(RULES, 1);
    new.inherit(&old, Some, secs(13));
    assert_eq!((new.standing(), percents(&new, secs(13))), (Standing::Held, vec![46]));
    assert_eq!(new.tick(secs(14)), []);
    assert_eq!(new.tick(secs(15)), [Change::Group(Standing::Able)]);
}

#[test]
fn a_new_configuration_knows_what_is_wrong_with_the_way() {
    let mut old = good(BEHIND_ONE_DEVICE, 3);
    old.set_link(false, secs(1));
    let mut new = group(BEHIND_ONE_DEVICE, 3);
    new.inherit(&old, Some, secs(2));
    assert_eq!(new.standing(), Standing::Unable);
    assert_eq!(new.set_link(true, secs(3)), [Change::Link(true), Change::Group(Standing::Held)]);

    // The first failure was before it, the second comes after it.
    let mut old = good(BEHIND_ONE_DEVICE, 3);
    old.probed(0, false, secs(10));
    let mut new = group(BEHIND_ONE_DEVICE, 3);
    new.inherit(&old, Some, secs(11));
    assert!(new.probed(1, false, secs(12)).contains(&Change::Outage(true)));

    let inherits = |rules| {
        let mut next = group(rules, 3);
        next.inherit(&new, Some, secs(13));
        next.standing()
    };
    assert_eq!(inherits(BEHIND_ONE_DEVICE), Standing::Unable);
    // The third target has not failed itself.
    assert_eq!(inherits(GroupRules { one_way: false, ..BEHIND_ONE_DEVICE }), Standing::Held);
}

proptest! {
    /// Able exactly when the rules say so, found from the history; and deadlines never lie in the past.
    #[test]
    fn the_standing_follows_from_the_verdicts(
        steps in prop::collection::vec((0_usize..3, any::<bool>(), 0_u64..8), 1..60),
        min_healthy in 1_u32..4,
    ) {
        let mut group = group(GroupRules { min_healthy, ..RULES }, 3);
        (0..3).for_each(|index| drop(group.probed(index, true, secs(0))));
        let mut now = secs(0);
        let mut up = [true; 3];
        let mut enough_since = Some(secs(0));
        let mut ever_lost = false;
        for (index, good, later) in steps {
            now += secs(later);
            group.tick(now);
            group.probed(index, good, now);
            up[index] = good;
            let enough = up.iter().filter(|up| **up).count() >= min_healthy as usize;
            enough_since = match (enough, enough_since) {
                (false, _) => None,
                (true, None) => Some(now),
                (true, since) => since,
            };
            ever_lost |= !enough;
            let expected = match enough_since {
                None => Standing::Unable,
                Some(since) if ever_lost && now < since + RULES.failback_hold => Standing::Held,
                Some(_) => Standing::Able,
            };
            prop_assert_eq!(group.standing(), expected);
            prop_assert!(group.deadline(now).is_none_or(|due| due > now));
            for (index, up) in up.iter().enumerate() {
                prop_assert_eq!(group.percent(index, now) > 0, *up);
            }
        }
    }
}

#[test]
fn a_target_without_an_address_is_down_and_nobody_waits_for_it() {
    for probes in [RULES.probes, None] {
        let mut group = group(GroupRules { probes, ..RULES }, 2);
        group.set_absent(1, secs(0));
        group.probed(0, true, secs(1));
        assert!(group.is_decided());
        assert_eq!((group.health(1), group.is_healthy(1), group.percent(1, secs(1))), (Health::Down, false, 0));
        assert_eq!((group.percent(0, secs(1)), group.standing()), (100, Standing::Able));
    }
    let mut alone = group(GroupRules { probes: None, ..RULES }, 1);
    assert_eq!(alone.standing(), Standing::Able);
    alone.set_absent(0, secs(0));
    assert_eq!(alone.standing(), Standing::Unable);
}

/// As [`RULES`], behind one device, with three failures to eject.
const BEHIND_ONE_DEVICE: GroupRules =
    GroupRules { one_way: true, eject: EjectRules { after: 3, hold: Duration::from_secs(10) }, ..RULES };

fn good(rules: GroupRules, targets: usize) -> Group {
    let mut group = group(rules, targets as u64);
    (0..targets).for_each(|index| drop(group.probed(index, true, secs(0))));
    group
}

fn fail(group: &mut Group, target: usize, now: Duration) -> Vec<Change> {
    (0..3).flat_map(|_| group.failed(target, now)).collect()
}

#[test]
fn a_group_behind_one_device_is_down_at_once_when_most_targets_fail_together() {
    let mut group = good(BEHIND_ONE_DEVICE, 3);
    fail(&mut group, 0, secs(10));
    assert_eq!(group.standing(), Standing::Able);
    let changes = fail(&mut group, 1, secs(12));
    assert_eq!(changes, [Change::Outage(true), Change::Group(Standing::Unable)], "the third is not tried");
    assert_eq!(percents(&group, secs(12)), [0, 0, 0]);
    // One answers: it was not the way to all of them, or that is back.
    let changes = group.probed(2, true, secs(13));
    assert_eq!(changes, [Change::Outage(false), Change::Group(Standing::Held)]);
    assert_eq!(group.deadline(secs(13)), Some(secs(20)), "the ejection of the first ends");
    assert_eq!(group.tick(secs(23)), [Change::Returned(0), Change::Group(Standing::Able)]);
}

#[test]
fn probes_that_fail_together_count_likewise() {
    let mut group = good(BEHIND_ONE_DEVICE, 3);
    group.probed(0, false, secs(10));
    let changes = group.probed(1, false, secs(11));
    assert_eq!(changes, [Change::Health(1, Health::Down), Change::Outage(true), Change::Group(Standing::Unable)]);
}

#[test]
fn failures_that_are_no_majority_or_far_apart_or_on_separate_ways_are_the_targets_own() {
    let mut minority = good(BEHIND_ONE_DEVICE, 4);
    fail(&mut minority, 0, secs(10));
    fail(&mut minority, 1, secs(10));
    assert_eq!(minority.standing(), Standing::Able);

    let mut apart = good(BEHIND_ONE_DEVICE, 3);
    apart.probed(0, false, secs(10));
    apart.probed(1, false, secs(100));
    assert_eq!(apart.standing(), Standing::Able);

    let slow = ProbeRules { interval: Duration::from_mins(1), ..RULES.probes.unwrap() };
    let mut slowly_probed = good(GroupRules { probes: Some(slow), ..BEHIND_ONE_DEVICE }, 3);
    slowly_probed.probed(0, false, secs(10));
    slowly_probed.probed(1, false, secs(100));
    assert_eq!(slowly_probed.standing(), Standing::Unable, "it could not be found out sooner");

    let mut separate = good(GroupRules { one_way: false, ..BEHIND_ONE_DEVICE }, 3);
    separate.probed(0, false, secs(10));
    separate.probed(1, false, secs(10));
    assert_eq!(separate.standing(), Standing::Able);

    let mut single = good(BEHIND_ONE_DEVICE, 1);
    assert!(!fail(&mut single, 0, secs(10)).contains(&Change::Outage(true)));
}

#[test]
fn targets_that_were_never_good_have_not_failed_together() {
    let mut group = group(BEHIND_ONE_DEVICE, 3);
    group.probed(0, false, secs(0));
    group.probed(1, false, secs(0));
    assert_eq!(group.probed(2, true, secs(0)), [Change::Health(2, Health::Up), Change::Group(Standing::Able)]);
}

#[test]
fn without_probes_an_outage_ends_by_its_time_and_comes_back_with_the_next_failures() {
    let mut group = group(GroupRules { probes: None, slow_start: Duration::ZERO, ..BEHIND_ONE_DEVICE }, 3);
    fail(&mut group, 0, secs(10));
    fail(&mut group, 1, secs(12));
    assert_eq!((group.standing(), group.deadline(secs(12))), (Standing::Unable, Some(secs(20))));
    group.tick(secs(20));
    assert_eq!((group.standing(), group.deadline(secs(20))), (Standing::Unable, Some(secs(22))));
    group.tick(secs(22));
    assert_eq!(group.standing(), Standing::Held);
    group.tick(secs(32));
    assert_eq!(group.standing(), Standing::Able);
    group.failed(0, secs(33));
    group.failed(1, secs(33));
    assert_eq!(group.standing(), Standing::Unable);
}
