use std::collections::BTreeMap;
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::*;

const CLIENT: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1));

fn target(number: usize, weight: u16) -> TargetSpec {
    let address = format!("10.0.{}.{}:80", number / 250, number % 250 + 1).parse().unwrap();
    TargetSpec { address, weight, max_sessions: None, load: Arc::default() }
}

fn group(tier: u16, weight: u16, balance: Balance, weights: &[u16]) -> GroupSpec {
    let targets = weights.iter().enumerate().map(|(number, &weight)| target(number, weight)).collect();
    GroupSpec { tier, weight, balance, targets }
}

fn one_listener(groups: Vec<GroupSpec>) -> Selector {
    let all = (0..groups.len()).collect();
    Selector::new(groups, vec![all], 7)
}

fn client(number: u32) -> IpAddr {
    IpAddr::V4(core::net::Ipv4Addr::from(0xc000_0200 + number))
}

fn count(selector: &mut Selector, times: usize) -> BTreeMap<TargetId, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(selector.select(0, CLIENT, &[]).unwrap()).or_default() += 1;
    }
    counts
}

fn release(selector: &Selector, id: TargetId) {
    selector.groups[id.group].targets[id.target].spec.load.release();
}

fn id(group: usize, target: usize) -> TargetId {
    TargetId { group, target }
}

#[test]
fn smooth_round_robin_spreads_a_heavy_target() {
    let mut selector = one_listener(vec![group(0, 1, Balance::WeightedRoundRobin, &[5, 1, 1])]);
    let order: Vec<usize> = (0..7).map(|_| selector.select(0, CLIENT, &[]).unwrap().target).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn group_weight_comes_before_target_weight() {
    let groups = vec![
        group(0, 3, Balance::WeightedRoundRobin, &[2, 1]),
        group(0, 1, Balance::WeightedRoundRobin, &[1, 1]),
        group(1, 9, Balance::WeightedRoundRobin, &[1]),
    ];
    let counts = count(&mut one_listener(groups), 24);
    let expected = [(id(0, 0), 12), (id(0, 1), 6), (id(1, 0), 3), (id(1, 1), 3)];
    assert_eq!(counts, BTreeMap::from(expected));
}

#[test]
fn a_used_up_tier_passes_on_to_the_next() {
    let groups = vec![
        group(0, 1, Balance::WeightedRoundRobin, &[1, 1]),
        group(1, 1, Balance::WeightedRoundRobin, &[1]),
        group(7, 1, Balance::WeightedRoundRobin, &[1]),
    ];
    let mut selector = one_listener(groups);
    let mut tried = Vec::new();
    while let Ok(next) = selector.select(0, CLIENT, &tried) {
        release(&selector, next);
        tried.push(next);
    }
    assert_eq!(tried, [id(0, 0), id(0, 1), id(1, 0), id(2, 0)]);
}

#[test]
fn weight_zero_takes_nothing() {
    let groups = vec![
        group(0, 0, Balance::LeastConnections, &[1]),
        group(0, 1, Balance::LeastConnections, &[0, 0]),
        group(1, 1, Balance::LeastConnections, &[0, 1]),
    ];
    let mut selector = one_listener(groups);
    assert!(selector.is_able(0));
    assert_eq!(count(&mut selector, 5), BTreeMap::from([(id(2, 1), 5)]));

    let mut idle = one_listener(vec![group(0, 1, Balance::RandomTwo, &[0])]);
    assert!(!idle.is_able(0));
    assert_eq!(idle.select(0, CLIENT, &[]), Err(NoTarget));
}

#[test]
fn a_full_target_spills_over_until_released() {
    let mut spec = group(0, 1, Balance::SourceHash, &[1]);
    spec.targets[0].max_sessions = Some(2);
    let mut selector = one_listener(vec![spec, group(1, 1, Balance::SourceHash, &[1])]);
    let picks: Vec<usize> = (0..3).map(|_| selector.select(0, CLIENT, &[]).unwrap().group).collect();
    assert_eq!(picks, [0, 0, 1]);
    release(&selector, id(0, 0));
    assert_eq!(selector.select(0, CLIENT, &[]), Ok(id(0, 0)));
}

#[test]
fn listeners_use_only_their_groups() {
    let groups = vec![group(0, 1, Balance::RandomTwo, &[1]), group(0, 1, Balance::RandomTwo, &[1])];
    let mut selector = Selector::new(groups, vec![vec![0], vec![1]], 7);
    for _ in 0..10 {
        assert_eq!(selector.select(0, CLIENT, &[]), Ok(id(0, 0)));
        assert_eq!(selector.select(1, CLIENT, &[]), Ok(id(1, 0)));
    }
}

#[test]
fn source_hash_sees_through_mapped_addresses() {
    let mut selector = one_listener(vec![group(0, 1, Balance::SourceHash, &[1; 8])]);
    for number in 0..50 {
        let IpAddr::V4(v4) = client(number) else { unreachable!() };
        let plain = selector.select(0, v4.into(), &[]);
        assert_eq!(selector.select(0, v4.to_ipv6_mapped().into(), &[]), plain);
    }
}

#[test]
fn source_hash_shares_follow_the_weights() {
    let mut selector = one_listener(vec![group(0, 1, Balance::SourceHash, &[1, 3, 6])]);
    let mut counts = [0_i32; 3];
    for number in 0..20_000 {
        counts[selector.select(0, client(number), &[]).unwrap().target] += 1;
    }
    // Six standard deviations of the middle share are 367; the hash is fixed, so this either holds or does not.
    for (count, expected) in counts.into_iter().zip([2_000, 6_000, 12_000]) {
        assert!((count - expected).abs() < 400, "{counts:?}");
    }
}

#[test]
fn random_two_draws_by_weight_and_prefers_the_idle() {
    let mut selector = one_listener(vec![group(0, 1, Balance::RandomTwo, &[1, 1, 1, 1])]);
    let counts = count(&mut selector, 4_000);
    // Two choices keep the gap between targets at a few sessions; one random choice would scatter it by about 27.
    let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    assert!(most - least < 12, "{counts:?}");
}

fn balances() -> impl Strategy<Value = Balance> {
    prop_oneof![
        Just(Balance::WeightedRoundRobin),
        Just(Balance::LeastConnections),
        Just(Balance::RandomTwo),
        Just(Balance::SourceHash),
    ]
}

fn specs() -> impl Strategy<Value = Vec<GroupSpec>> {
    let limits = (0_u16..5, prop::option::of(0_u32..4));
    let group = (0_u16..3, 0_u16..4, balances(), prop::collection::vec(limits, 1..5));
    prop::collection::vec(group, 1..5).prop_map(|groups| {
        groups
            .into_iter()
            .map(|(tier, weight, balance, targets)| GroupSpec {
                tier,
                weight,
                balance,
                targets: targets
                    .into_iter()
                    .enumerate()
                    .map(|(number, (weight, max_sessions))| TargetSpec { max_sessions, ..target(number, weight) })
                    .collect(),
            })
            .collect()
    })
}

/// All that may be chosen, found the slow way: every target of every group of the lowest tier that has one.
fn naive(groups: &[GroupSpec], sessions: &BTreeMap<TargetId, u32>, tried: &[TargetId]) -> Vec<TargetId> {
    let mut able = Vec::new();
    for (g, spec) in groups.iter().enumerate().filter(|(_, spec)| spec.weight > 0) {
        for (t, target) in spec.targets.iter().enumerate().filter(|(_, target)| target.weight > 0) {
            let used = sessions.get(&id(g, t)).copied().unwrap_or(0);
            if target.max_sessions.is_none_or(|max| used < max) && !tried.contains(&id(g, t)) {
                able.push(id(g, t));
            }
        }
    }
    let tier = able.iter().map(|id| groups[id.group].tier).min();
    able.retain(|id| Some(groups[id.group].tier) == tier);
    able
}

#[test]
fn a_group_that_is_held_serves_only_when_no_other_can() {
    let groups = vec![
        group(0, 1, Balance::WeightedRoundRobin, &[1]),
        group(1, 1, Balance::WeightedRoundRobin, &[1]),
        group(2, 1, Balance::WeightedRoundRobin, &[1]),
    ];
    let mut selector = one_listener(groups);
    for (standings, expected) in [
        ([Standing::Able, Standing::Able, Standing::Able], Some(0)),
        ([Standing::Held, Standing::Able, Standing::Able], Some(1)),
        ([Standing::Held, Standing::Unable, Standing::Able], Some(2)),
        ([Standing::Unable, Standing::Held, Standing::Held], Some(1)),
        ([Standing::Unable; 3], None),
    ] {
        for (index, standing) in standings.into_iter().enumerate() {
            selector.set_standing(index, standing);
        }
        assert_eq!(selector.select(0, CLIENT, &[]).ok().map(|id| id.group), expected, "{standings:?}");
        assert_eq!(selector.is_able(0), expected.is_some());
        let shares: Vec<_> = selector.shares(0).collect();
        assert_eq!(shares, expected.map(|group| (group, 1)).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_group_without_a_healthy_target_has_a_share_of_zero() {
    let groups =
        vec![group(0, 9, Balance::WeightedRoundRobin, &[1, 1]), group(0, 1, Balance::WeightedRoundRobin, &[1])];
    let mut selector = one_listener(groups);
    selector.set_percent(id(0, 0), 0);
    assert_eq!(selector.shares(0).collect::<Vec<_>>(), [(0, 9), (1, 1)]);
    selector.set_percent(id(0, 1), 0);
    assert_eq!(selector.shares(0).collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(count(&mut selector, 7), BTreeMap::from([(id(1, 0), 7)]));
}

#[test]
fn a_part_of_a_weight_is_exact_too() {
    let mut selector = one_listener(vec![group(0, 1, Balance::WeightedRoundRobin, &[1, 1])]);
    // Sessions end at once, so that only the share of turns counts.
    selector.set_percent(id(0, 0), 25);
    let mut counts = [0; 2];
    for _ in 0..50 {
        let chosen = selector.select(0, CLIENT, &[]).unwrap();
        release(&selector, chosen);
        counts[chosen.target] += 1;
    }
    assert_eq!(counts, [10, 40]);
}

#[test]
fn a_target_that_came_back_is_not_filled_faster_than_its_share() {
    for balance in [Balance::WeightedRoundRobin, Balance::LeastConnections, Balance::RandomTwo, Balance::SourceHash] {
        let mut selector = one_listener(vec![group(0, 1, balance, &[1, 1])]);
        selector.set_percent(id(0, 1), 0);
        count(&mut selector, 40);
        selector.set_percent(id(0, 1), 25);
        for number in 0..20 {
            selector.select(0, client(number), &[]).unwrap();
            let (calm, ramping) = (selector.sessions(id(0, 0)), selector.sessions(id(0, 1)));
            assert!(ramping <= calm / 4 + 1, "{balance:?}: {calm} and {ramping}");
        }
        // Alone, it must serve.
        selector.set_percent(id(0, 0), 0);
        assert_eq!(selector.select(0, CLIENT, &[]).unwrap(), id(0, 1));
    }
}

/// Its sessions last, those of the calm target are short: by its share of turns alone it would have more and more.
#[test]
fn a_target_that_came_back_has_no_more_sessions_at_once_than_its_share() {
    let mut selector = one_listener(vec![group(0, 1, Balance::WeightedRoundRobin, &[1, 1, 1])]);
    // What the third kept through its failure is no measure for the second.
    (0..2).for_each(|other| selector.set_percent(id(0, other), 0));
    count(&mut selector, 10);
    for (target, percent) in [(0, 100), (1, 50), (2, 50)] {
        selector.set_percent(id(0, target), percent);
    }
    for _ in 0..60 {
        selector.select(0, CLIENT, &[]).unwrap();
        if selector.sessions(id(0, 0)) > 4 {
            release(&selector, id(0, 0));
        }
    }
    assert_eq!([0, 1, 2].map(|target| selector.sessions(id(0, target))), [4, 3, 10]);
}

#[test]
fn a_target_that_came_back_may_have_one_session_in_any_case() {
    let mut selector = one_listener(vec![group(0, 1, Balance::WeightedRoundRobin, &[1, 1])]);
    selector.set_percent(id(0, 1), 25);
    for expected in [0, 0, 1, 0, 0] {
        let chosen = selector.select(0, CLIENT, &[]).unwrap();
        assert_eq!(chosen.target, expected);
        release(&selector, chosen);
    }
}

#[test]
fn a_listener_is_full_when_only_limits_stand_in_the_way() {
    let mut spec = group(0, 1, Balance::WeightedRoundRobin, &[1, 1]);
    spec.targets[0].max_sessions = Some(1);
    let mut selector = one_listener(vec![spec]);
    selector.set_percent(id(0, 1), 0);
    assert!(!selector.is_full(0));
    selector.select(0, CLIENT, &[]).unwrap();
    assert!(selector.is_full(0) && !selector.is_able(0));
    selector.set_standing(0, Standing::Unable);
    assert!(!selector.is_full(0), "nothing would change if a session ended");
    selector.set_standing(0, Standing::Able);
    selector.set_percent(id(0, 1), 100);
    assert!(!selector.is_full(0), "the other target has no limit");
    selector.set_percent(id(0, 1), 0);
    selector.set_weight(id(0, 0), 0);
    assert!(!selector.is_full(0), "it would take none with room either");
    selector.set_weight(id(0, 0), 1);
    selector.set_group_weight(0, 0);
    assert!(!selector.is_full(0), "nor would its group");
}

#[test]
fn weights_can_be_changed_while_it_runs() {
    let groups =
        vec![group(0, 1, Balance::WeightedRoundRobin, &[1, 1]), group(0, 1, Balance::WeightedRoundRobin, &[1])];
    let mut selector = one_listener(groups);
    selector.set_group_weight(0, 3);
    selector.set_weight(id(0, 1), 0);
    assert_eq!((selector.group_weight(0), selector.weight(id(0, 1))), (3, 0));
    assert_eq!(count(&mut selector, 8), BTreeMap::from([(id(0, 0), 6), (id(1, 0), 2)]));
}

#[test]
fn counts_outlast_a_selector() {
    let mut spec = group(0, 1, Balance::WeightedRoundRobin, &[1]);
    spec.targets[0].max_sessions = Some(2);
    let mut old = one_listener(vec![spec.clone()]);
    old.select(0, CLIENT, &[]).unwrap();
    let mut new = one_listener(vec![spec]);
    new.select(0, CLIENT, &[]).unwrap();
    assert_eq!(new.select(0, CLIENT, &[]), Err(NoTarget));
    release(&old, id(0, 0));
    new.select(0, CLIENT, &[]).unwrap();
}

proptest! {
    #[test]
    fn every_choice_is_one_the_naive_model_allows(
        groups in specs(),
        steps in prop::collection::vec((any::<bool>(), 0_u32..20, prop::collection::vec((0_usize..4, 0_usize..4), 0..3)), 1..60),
    ) {
        let mut selector = one_listener(groups.clone());
        let mut sessions = BTreeMap::new();
        for (gives_back, who, tried) in steps {
            let held = sessions.iter().find(|&(_, &count)| count > 0).map(|(&held, _)| held);
            if let (true, Some(held)) = (gives_back, held) {
                release(&selector, held);
                *sessions.get_mut(&held).unwrap() -= 1;
                continue;
            }
            let tried: Vec<TargetId> = tried.into_iter().map(|(g, t)| id(g, t)).collect();
            let allowed = naive(&groups, &sessions, &tried);
            match selector.select(0, client(who), &tried) {
                Ok(chosen) => {
                    prop_assert!(allowed.contains(&chosen), "{chosen:?} is not in {allowed:?}");
                    if groups[chosen.group].balance == Balance::LeastConnections {
                        let load = |id: &TargetId| {
                            let weight = groups[id.group].targets[id.target].weight;
                            f64::from(sessions.get(id).copied().unwrap_or(0) + 1) / f64::from(weight)
                        };
                        let least = allowed.iter().filter(|id| id.group == chosen.group).map(load).fold(f64::MAX, f64::min);
                        prop_assert!(load(&chosen) <= least + 1e-9);
                    }
                    *sessions.entry(chosen).or_insert(0) += 1;
                }
                Err(NoTarget) => prop_assert!(allowed.is_empty(), "{allowed:?} could take it"),
            }
            for (id, count) in &sessions {
                prop_assert_eq!(selector.sessions(*id), *count);
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_every_cycle(weights in prop::collection::vec(0_u16..40, 1..8), cycles in 1_usize..4) {
        let sum: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
        prop_assume!(sum > 0);
        let mut selector = one_listener(vec![group(0, 1, Balance::WeightedRoundRobin, &weights)]);
        for _ in 0..cycles {
            let counts = count(&mut selector, sum);
            for (number, &weight) in weights.iter().enumerate() {
                prop_assert_eq!(counts.get(&id(0, number)).copied().unwrap_or(0), usize::from(weight));
            }
        }
    }

    #[test]
    fn removing_a_target_moves_only_its_own_clients(
        weights in prop::collection::vec(1_u16..10, 2..8),
        gone in any::<prop::sample::Index>(),
    ) {
        let gone = gone.index(weights.len());
        let mut before = one_listener(vec![group(0, 1, Balance::SourceHash, &weights)]);
        for number in 0..200 {
            let first = before.select(0, client(number), &[]).unwrap();
            let second = before.select(0, client(number), &[id(0, gone)]).unwrap();
            prop_assert!(second.target != gone);
            prop_assert!(first.target == gone || first == second);
        }
    }
}
