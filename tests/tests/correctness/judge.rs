//! What the daemon's counters must say about a crowd.

use anyhow::{Result, ensure};
use landbridge_tests::crowd::{Crowd, Outcome, Outcomes, Reset, Role};
use landbridge_tests::{Daemon, Metrics, eventually};

use crate::Case;
use crate::limits::Limits;
use crate::network::Network;

const ENDS: &str = "landbridge_sessions_total";
const BYTES: &str = "landbridge_bytes_total";
const DEMOTIONS: &str = "landbridge_datapath_demotions_total";
const PROMOTIONS: &str = "landbridge_datapath_promotions_total";
const DOUBTS: &str = "landbridge_integrity_resets_total";
const JOINS: &str = "landbridge_datapath_joins_total";
const PACKETS: &str = "landbridge_packet_packets_total";
const OPEN: &str = "landbridge_datapath_sessions";

/// What the daemon has counted, for messages.
pub(crate) fn counted(daemon: &Daemon) -> String {
    let lines = |metrics: Metrics| {
        [ENDS, BYTES, PROMOTIONS, DEMOTIONS, DOUBTS, JOINS, PACKETS].map(|name| metrics.lines(name)).join("\n")
    };
    daemon.metrics().map_or_else(|error| error.to_string(), lines)
}

/// Whether the counters say what the case is there for.
pub(crate) type Tally = Result<()>;

/// Compares the daemon's counters with what the two ends of all sessions saw. An error is one of the daemon's; how often what
/// happened depends on the machine too, and is told apart.
pub(crate) fn judge(daemon: &Daemon, crowd: &Crowd, outcomes: &Outcomes, case: Case) -> Result<Tally> {
    let unseen = unseen(crowd, outcomes);
    let metrics = eventually("all sessions have ended", || {
        let metrics = daemon.metrics()?;
        let (ended, open) = (metrics.value(ENDS, &[]), metrics.value(OPEN, &[]));
        let all = (case.sessions as f64 - unseen..=case.sessions as f64).contains(&ended) && open == 0.0;
        ensure!(all, "{ended} have, {open} directions are open, {unseen} may be unknown\n{}", metrics.lines(ENDS));
        Ok(metrics)
    })?;
    println!("{}", counted(daemon));
    let doubts = metrics.value(DOUBTS, &[]);
    ensure!(doubts == 0.0, "{doubts} sessions were reset because their bytes did not agree");
    bytes(&metrics, outcomes)?;
    Ok(ends(&metrics, crowd, unseen, case.sessions).and_then(|()| carriers(&metrics, case)))
}

/// Sessions that no target saw because their client reset them at once. On a bad network its reset can be the first packet
/// that arrives after the handshake began, and then the daemon does not hear of the session either.
fn unseen(crowd: &Crowd, outcomes: &Outcomes) -> f64 {
    let by_clients = crowd.resets().filter(|(_, role, _)| *role == Role::Client);
    let seen = |session| outcomes.targets.iter().any(|target| target.session == Some(session));
    by_clients.filter(|(session, ..)| !seen(*session)).count() as f64
}

/// Sessions end by the code of what their ends did.
fn ends(metrics: &Metrics, crowd: &Crowd, unseen: f64, sessions: u64) -> Result<()> {
    let ended = |ends: &[&str]| ends.iter().map(|end| metrics.value(ENDS, &[("end", end)])).sum::<f64>();
    let resets = |by, certain| {
        let by = crowd.resets().filter(move |(_, role, _)| *role == by);
        // What an end resets after it sent all can have ended in order before, at the proxy.
        by.filter(|(.., reset)| matches!(reset, Reset::AfterSending(_)) >= certain).count() as f64
    };
    let within = |ends: &[&str], least: f64, most: f64| {
        let found = ended(ends);
        ensure!((least..=most).contains(&found), "{found} of {least} to {most} {ends:?}\n{}", metrics.lines(ENDS));
        Ok(())
    };
    let by_clients = resets(Role::Client, true) - unseen..=resets(Role::Client, false);
    within(&["client_reset", "client_gone"], *by_clients.start(), *by_clients.end())?;
    within(&["target_reset"], resets(Role::Target, true), resets(Role::Target, false))?;
    let closed = |certain| sessions as f64 - resets(Role::Client, certain) - resets(Role::Target, certain);
    within(&["client_closed", "target_closed"], closed(false), closed(true))
}

/// What arrived was counted, and nothing that was not sent.
fn bytes(metrics: &Metrics, Outcomes { clients, targets }: &Outcomes) -> Result<()> {
    for (direction, from, to) in [("upload", clients, targets), ("download", targets, clients)] {
        let counted = metrics.value(BYTES, &[("direction", direction)]);
        let sum = |ends: &[Outcome], bytes: fn(&Outcome) -> u64| ends.iter().map(bytes).sum::<u64>() as f64;
        let (sent, received) = (sum(from, |end| end.sent), sum(to, |end| end.received));
        let agrees = (received..=sent).contains(&counted);
        ensure!(agrees, "{direction}: {sent} sent, {counted} counted, {received} received");
    }
    Ok(())
}

/// The bytes went the way that the datapath stands for, and changed it as the limits demand.
fn carriers(metrics: &Metrics, Case { way, network, limits, sessions }: Case) -> Result<()> {
    let carried = |by| metrics.value(BYTES, &[("datapath", by)]);
    let [copied, spliced, redirected, joined] = ["copy", "splice", "sockmap", "packet"].map(carried);
    let sum = copied + spliced + redirected + joined;
    let what = || metrics.lines(BYTES);
    ensure!(way.joins || joined == 0.0, "joined\n{}", what());
    match way.datapath {
        "copy" => ensure!(copied == sum, "not only copied\n{}", what()),
        "splice" => {
            // Chance can demand more large reads in a row than most streams have.
            let least = if limits == Limits::Random { 0.0 } else { sum / 20.0 };
            ensure!(spliced > least, "hardly spliced\n{}", what());
            ensure!(redirected == 0.0, "redirected\n{}", what());
        }
        "sockmap" => {
            ensure!(redirected > sum / 10.0, "hardly redirected\n{}", what());
            ensure!(spliced == 0.0, "spliced\n{}", what());
        }
        _ if way.joins => {
            // Nothing may be missing on either leg when a session is joined, and there something mostly is.
            let least = if network == Network::Bad { 0.0 } else { sum / 10.0 };
            ensure!(joined > least, "hardly joined\n{}", what());
        }
        _ => ensure!(redirected > 0.0 && spliced > 0.0 && copied > 0.0, "one carried nothing\n{}", what()),
    }
    // What is joined neither falls behind nor comes back.
    if matches!(way.datapath, "auto" | "sockmap") && !way.joins { demotions(metrics, limits, sessions) } else { Ok(()) }
}

/// Directions left the kernel for what the limits say.
fn demotions(metrics: &Metrics, limits: Limits, sessions: u64) -> Result<()> {
    let demoted = |why: &[&str]| why.iter().map(|why| metrics.value(DEMOTIONS, &[("reason", why)])).sum::<f64>();
    let [for_load, at_the_end] = [demoted(&["behind", "bulk"]), demoted(&["ended"])];
    let counts = || format!("{}\n{}", metrics.lines(PROMOTIONS), metrics.lines(DEMOTIONS));
    ensure!(metrics.value(PROMOTIONS, &[]) >= for_load + at_the_end, "more came back than went\n{}", counts());
    // Chance can drive all of them out before.
    ensure!(at_the_end > 0.0 || limits == Limits::Random, "no stream ended in the kernel\n{}", counts());
    match limits {
        Limits::Tiny => {
            // On a busy machine reads are larger, and fewer directions look like messages at all.
            ensure!(for_load > sessions as f64 / 10.0 && for_load > at_the_end, "few demotions\n{}", counts());
        }
        Limits::Huge => ensure!(for_load == 0.0, "demotions although nothing crosses the limits\n{}", counts()),
        Limits::Usual | Limits::Random => {}
    }
    Ok(())
}
