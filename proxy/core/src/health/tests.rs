use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const PROBES: ProbeRules =
    ProbeRules { interval: Duration::from_secs(2), fast_interval: Duration::from_millis(500), rise: 2, fall: 3 };
const EJECT: EjectRules = EjectRules { after: 3, hold: Duration::from_secs(10) };

fn probed() -> Monitor {
    Monitor::new(Some(PROBES), EJECT, 1)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The verdict after each result: `+` a good probe, `-` a bad one.
fn verdicts(results: &str) -> std::string::String {
    let mut monitor = probed();
    let after = |result| {
        monitor.probed(result == '+');
        match monitor.health() {
            Health::Unknown => '?',
            Health::Up => 'U',
            Health::Down => 'D',
        }
    };
    results.chars().map(after).collect()
}

#[test]
fn the_first_result_decides_and_later_ones_must_be_in_a_row() {
    for (results, expected) in [
        ("+", "U"),
        ("-", "D"),
        ("+--+--+", "UUUUUUU"),
        ("+---", "UUUD"),
        ("+---+-+", "UUUDDDD"),
        ("-++---++", "DDUUUDDU"),
        ("-+-+-++", "DDDDDDU"),
    ] {
        assert_eq!(verdicts(results), expected, "{results}");
    }
}

#[test]
fn an_unknown_target_is_healthy_only_if_nobody_probes_it() {
    assert!(!probed().is_healthy());
    assert!(Monitor::new(None, EJECT, 1).is_healthy());
}

#[test]
fn between_up_and_down_probes_come_faster() {
    let near = |due: Duration, expected: Duration| {
        let (least, most) = (expected * 9 / 10, expected * 11 / 10);
        assert!((least..=most).contains(&due), "{due:?} is not about {expected:?}");
    };
    let mut monitor = probed();
    near(monitor.next_probe(secs(0)).unwrap(), PROBES.fast_interval);
    monitor.probed(true);
    near(monitor.next_probe(secs(0)).unwrap(), PROBES.interval);
    monitor.probed(false);
    near(monitor.next_probe(secs(0)).unwrap(), PROBES.fast_interval);
    monitor.probed(true);
    near(monitor.next_probe(secs(0)).unwrap(), PROBES.interval);
    (0..3).for_each(|_| monitor.failed(secs(0), true));
    near(monitor.next_probe(secs(0)).unwrap(), PROBES.fast_interval);
    assert_eq!(Monitor::new(None, EJECT, 1).next_probe(secs(0)), None);
}

#[test]
fn jitter_depends_on_the_seed_alone_and_spreads() {
    let times = |seed| -> Vec<_> {
        let mut monitor = Monitor::new(Some(PROBES), EJECT, seed);
        (0..20).map(|_| monitor.next_probe(secs(0)).unwrap()).collect()
    };
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
    let (least, most) = (times(1).into_iter().min().unwrap(), times(1).into_iter().max().unwrap());
    assert!(most - least > PROBES.fast_interval / 10, "{least:?} to {most:?}");
}

#[test]
fn failures_in_a_row_eject_for_a_hold() {
    let mut monitor = Monitor::new(None, EJECT, 1);
    monitor.failed(secs(0), true);
    monitor.failed(secs(0), true);
    monitor.served();
    monitor.failed(secs(0), true);
    monitor.failed(secs(0), true);
    assert!(monitor.is_healthy(), "an answer lies between the failures");
    monitor.failed(secs(1), true);
    assert!(monitor.is_ejected() && !monitor.is_healthy());
    assert_eq!(monitor.deadline(), Some(secs(11)));
    monitor.tick(secs(10));
    assert!(monitor.is_ejected());
    monitor.tick(secs(11));
    assert!(monitor.is_healthy());
}

#[test]
fn an_ejected_target_that_fails_again_is_out_for_longer_up_to_a_limit() {
    let mut monitor = Monitor::new(None, EJECT, 1);
    let mut now = secs(0);
    let mut holds = Vec::new();
    monitor.failed(now, true);
    monitor.failed(now, true);
    for _ in 0..7 {
        monitor.failed(now, true);
        let until = monitor.deadline().expect("one failure more ejects it again");
        holds.push((until - now).as_secs());
        now = until;
        monitor.tick(now);
    }
    assert_eq!(holds, [10, 20, 40, 80, 160, 300, 300]);
    // After as much good time as the last hold the row is over.
    now += secs(300);
    monitor.failed(now, true);
    assert_eq!(monitor.deadline(), Some(now + secs(10)));
}

#[test]
fn a_group_that_needs_its_target_keeps_it() {
    let mut monitor = Monitor::new(None, EJECT, 1);
    for _ in 0..10 {
        monitor.failed(secs(0), false);
    }
    assert!(monitor.is_healthy());
    monitor.failed(secs(0), true);
    assert!(monitor.is_ejected());
}

#[test]
fn good_probes_bring_an_ejected_target_back_early() {
    let mut monitor = probed();
    monitor.probed(true);
    (0..3).for_each(|_| monitor.failed(secs(0), true));
    assert!(!monitor.is_healthy());
    monitor.probed(true);
    monitor.probed(false);
    monitor.probed(true);
    assert!(!monitor.is_healthy(), "two good probes in a row are asked for");
    monitor.probed(true);
    assert!(monitor.is_healthy());
}

#[test]
fn a_verdict_of_the_probes_ends_what_traffic_has_said() {
    let mut monitor = probed();
    monitor.probed(true);
    (0..3).for_each(|_| monitor.failed(secs(0), true));
    (0..3).for_each(|_| monitor.probed(false));
    assert_eq!((monitor.health(), monitor.is_ejected(), monitor.deadline()), (Health::Down, false, None));
    (0..2).for_each(|_| monitor.failed(secs(1), true));
    (0..2).for_each(|_| monitor.probed(true));
    monitor.failed(secs(2), true);
    assert!(monitor.is_healthy(), "one failure since it came up");
}

#[test]
fn without_a_number_of_failures_nothing_is_ejected() {
    let never = EjectRules { after: 0, ..EJECT };
    let mut monitor = Monitor::new(None, never, 1);
    (0..10).for_each(|_| monitor.failed(secs(0), true));
    assert!(monitor.is_healthy() && !monitor.is_failing());
    let mut monitor = Monitor::new(None, EJECT, 1);
    (0..3).for_each(|_| monitor.failed(secs(0), true));
    assert!(!monitor.is_healthy());
    assert!(monitor.with_rules(None, never).is_healthy());
}

#[test]
fn new_rules_keep_what_is_known() {
    let mut monitor = probed();
    monitor.probed(false);
    let slower = ProbeRules { fall: 9, ..PROBES };
    assert_eq!(monitor.clone().with_rules(Some(slower), EJECT).health(), Health::Down);
    // Without probes nothing would ever bring it up again.
    assert!(monitor.with_rules(None, EJECT).is_healthy());
}

proptest! {
    /// The verdict of a naive observer who keeps the whole history.
    #[test]
    fn verdicts_follow_the_history(results in prop::collection::vec(any::<bool>(), 1..60), rise in 1_u32..5, fall in 1_u32..5) {
        let mut monitor = Monitor::new(Some(ProbeRules { rise, fall, ..PROBES }), EJECT, 1);
        let mut expected = results[0];
        for end in 1..=results.len() {
            monitor.probed(results[end - 1]);
            let needed = if expected { fall } else { rise } as usize;
            let last = &results[end.saturating_sub(needed)..end];
            if last.len() == needed && last.iter().all(|&result| result != expected) {
                expected = !expected;
            }
            prop_assert_eq!(monitor.health() == Health::Up, expected);
            prop_assert_eq!(monitor.is_healthy(), expected);
        }
    }

    #[test]
    fn an_ejection_always_ends(steps in prop::collection::vec((any::<bool>(), 0_u64..30), 1..50)) {
        let mut monitor = Monitor::new(None, EJECT, 1);
        let mut now = secs(0);
        for (fails, later) in steps {
            now += secs(later);
            monitor.tick(now);
            if fails { monitor.failed(now, true) } else { monitor.served() }
            prop_assert!(monitor.deadline().is_none_or(|until| until > now && until <= now + LONGEST_EJECTION));
        }
        monitor.tick(now + LONGEST_EJECTION);
        prop_assert!(monitor.is_healthy());
    }
}
