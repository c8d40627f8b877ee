use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::config::{Admin, Limits, LogFormat, SessionLogRules};

/// A configuration out of small numbers: which listeners bind what, and which groups have which targets and weights.
fn config(listeners: &[(u8, BTreeSet<u8>, u8)], groups: &[(u8, Vec<(u8, u8)>)]) -> Config {
    let mut text = String::new();
    let names: Vec<_> = groups.iter().map(|(name, _)| format!("g{name}")).collect();
    for (name, ports, keepalive) in listeners {
        let bind: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{}", 8000 + u32::from(*port))).collect();
        text += &format!("[[listener]]\nname = \"l{name}\"\nbind = {bind:?}\ngroups = {names:?}\n");
        text += &format!("tcp = {{ keepalive = \"{}s\" }}\n", 10 + keepalive);
    }
    for (name, targets) in groups {
        text += &format!("[[group]]\nname = \"g{name}\"\n");
        for (address, weight) in targets {
            text += &format!("[[group.target]]\naddress = \"10.0.0.{address}:80\"\nweight = {weight}\n");
        }
    }
    Config::parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn configs() -> impl Strategy<Value = Config> {
    // Each port belongs to one listener: 1 to 4 to the first, and so on.
    let ports = |of: u8| prop::collection::btree_set(of * 4 + 1..of * 4 + 5, 1..4);
    let listener = move |name: u8| (Just(name), ports(name), 0_u8..2);
    let listeners = (listener(0), listener(1), listener(2), 1_usize..4).prop_map(|(a, b, c, count)| {
        let mut all = vec![a, b, c];
        all.truncate(count);
        all
    });
    let targets = prop::collection::btree_map(1_u8..5, 0_u8..4, 1..4).prop_map(|targets| targets.into_iter().collect());
    let groups = prop::collection::btree_map(0_u8..3, targets, 1..3)
        .prop_map(|groups: BTreeMap<u8, Vec<(u8, u8)>>| groups.into_iter().collect::<Vec<_>>());
    (listeners, groups).prop_map(|(listeners, groups)| config(&listeners, &groups))
}

fn bound(config: &Config) -> BTreeSet<(SocketAddr, String)> {
    let of = |listener: &Listener| {
        let tcp = format!("{:?}", listener.tcp);
        listener.bind.iter().map(|address| (*address, tcp.clone())).collect::<Vec<_>>()
    };
    config.listeners.iter().flat_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Carried out one step after the other on a naive model of sockets, the plan leads from one configuration to the other,
    /// and touches no socket that both have.
    #[test]
    fn the_sockets_are_those_of_the_new_configuration(old in configs(), new in configs()) {
        let plan = Plan::between(&old, &new);
        let (before, after) = (bound(&old), bound(&new));
        let mut open: BTreeSet<_> = before.iter().filter(|(address, _)| !plan.close.contains(address)).cloned().collect();
        for kept in before.intersection(&after) {
            prop_assert!(open.contains(kept) && !plan.bind.contains(&kept.0), "{kept:?} is touched");
        }
        for (address, tcp) in after.iter().filter(|(address, _)| plan.bind.contains(address)) {
            prop_assert!(open.insert((*address, tcp.clone())), "{address} would be bound twice");
        }
        prop_assert_eq!(open, after);
    }

    #[test]
    fn there_is_a_change_exactly_when_something_differs(old in configs(), new in configs()) {
        let plan = Plan::between(&old, &new);
        prop_assert!(Plan::between(&old, &old).is_empty());
        prop_assert_eq!(plan.is_empty(), old == new);
        let back = Plan::between(&new, &old);
        prop_assert_eq!(plan.changes.len(), back.changes.len());
        for (there, back) in plan.changes.iter().zip(&back.changes) {
            prop_assert_eq!((&there.what, &there.from, &there.to), (&back.what, &back.to, &back.from));
        }
    }
}

/// What needs a restart is as it was, and told again, until there is one.
#[test]
fn what_needs_a_restart_stays_as_it_is() {
    let old = config(&[(0, [1].into(), 0)], &[(0, vec![(1, 1)])]);
    let mut new = config(&[(0, [1].into(), 0)], &[(0, vec![(1, 5)])]);
    new.runtime.workers = std::num::NonZeroUsize::new(9);
    new.admin = Admin { listen: None, socket: None };
    new.log.format = LogFormat::Json;
    new.session_log = SessionLogRules { output: Some(LogOutput::Stdout), one_in: 7 };
    new.datapath.limits = Limits { soft: 1, hard: 2, bulk: 3, budget: 4 };
    let restarts = |plan: Plan| plan.changes.iter().filter(|change| change.needs_restart).count();
    let fixed = values(&old).values().filter(|value| value.fixed).count();
    assert_eq!(restarts(Plan::between(&old, &new)), fixed);
    let running = new.clone().started_as(&old);
    assert_eq!(Plan::between(&old, &running).changes.len(), 1);
    assert_eq!(restarts(Plan::between(&running, &new)), fixed);
    assert_eq!(restarts(Plan::between(&running, &old)), 0);
}

#[test]
fn a_plan_is_told_in_the_words_of_the_file() {
    let one = |ports: &[u8]| vec![(0, ports.iter().copied().collect(), 0)];
    let old = config(&one(&[1, 2]), &[(0, vec![(1, 1), (2, 1)])]);
    let mut new = config(&one(&[2, 3]), &[(0, vec![(1, 5), (3, 1)])]);
    new.runtime.workers = std::num::NonZeroUsize::new(9);
    let plan = Plan::between(&old, &new);
    let told: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
    for line in [
        "~ listener l0: bind: 127.0.0.1:8001, 127.0.0.1:8002 -> 127.0.0.1:8002, 127.0.0.1:8003",
        "~ target g0/10.0.0.1:80: weight: 1 -> 5",
        "- target g0/10.0.0.2:80: weight: 1",
        "+ target g0/10.0.0.3:80: weight: 1",
        "~ runtime: workers: 0 -> 9 (after a restart)",
    ] {
        assert!(told.iter().any(|told| told == line), "{line} is not in {told:#?}");
    }
    assert_eq!(plan.bind, ["127.0.0.1:8003".parse().unwrap()]);
    assert_eq!(plan.close, ["127.0.0.1:8001".parse().unwrap()]);
}
