//! What the daemon's counters must say about a crowd.

use anyhow::{Result, ensure};
use landbridge_tests::crowd::{Crowd, Outcome, Outcomes, Reset, Role};
use landbridge_tests::{Daemon, Metrics, eventually};

use crate::SESSIONS;
use crate::limits::Limits;

const ENDS: &str = "landbridge_sessions_total";
const BYTES: &str = "landbridge_bytes_total";
const DEMOTIONS: &str = "landbridge_datapath_demotions_total";
const PROMOTIONS: &str = "landbridge_datapath_promotions_total";
const DOUBTS: &str = "landbridge_integrity_resets_total";

/// Compares the daemon's counters with what the two ends of all sessions saw.
pub(crate) fn judge(daemon: &Daemon, crowd: &Crowd, outcomes: &Outcomes, datapath: &str, limits: Limits) -> Result<()> {
    let metrics = eventually("all sessions have ended", || {
        let metrics = daemon.metrics()?;
        let ended = metrics.value(ENDS, &[]);
        ensure!(ended == SESSIONS as f64, "{ended} have\n{}", metrics.lines(ENDS));
        Ok(metrics)
    })?;
    for name in [ENDS, BYTES, PROMOTIONS, DEMOTIONS] {
        println!("{}", metrics.lines(name));
    }
    let doubts = metrics.value(DOUBTS, &[]);
    ensure!(doubts == 0.0, "{doubts} sessions were reset because their bytes did not agree");
    ends(&metrics, crowd)?;
    bytes(&metrics, outcomes)?;
    carriers(&metrics, datapath, limits)
}

/// Sessions end by the code of what their ends did.
fn ends(metrics: &Metrics, crowd: &Crowd) -> Result<()> {
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
    within(&["client_reset", "client_gone"], resets(Role::Client, true), resets(Role::Client, false))?;
    within(&["target_reset"], resets(Role::Target, true), resets(Role::Target, false))?;
    let closed = |certain| SESSIONS as f64 - resets(Role::Client, certain) - resets(Role::Target, certain);
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
fn carriers(metrics: &Metrics, datapath: &str, limits: Limits) -> Result<()> {
    let carried = |by| metrics.value(BYTES, &[("datapath", by)]);
    let [copied, spliced, redirected] = ["copy", "splice", "sockmap"].map(carried);
    let sum = copied + spliced + redirected;
    let what = || metrics.lines(BYTES);
    match datapath {
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
        _ => ensure!(redirected > 0.0 && spliced > 0.0 && copied > 0.0, "one of them carried nothing\n{}", what()),
    }
    if !matches!(datapath, "auto" | "sockmap") {
        return Ok(());
    }

    let demoted = |why: &[&str]| why.iter().map(|why| metrics.value(DEMOTIONS, &[("reason", why)])).sum::<f64>();
    let [for_load, at_the_end] = [demoted(&["behind", "bulk"]), demoted(&["ended"])];
    let counts = || format!("{}\n{}", metrics.lines(PROMOTIONS), metrics.lines(DEMOTIONS));
    ensure!(metrics.value(PROMOTIONS, &[]) >= for_load + at_the_end, "more came back than went\n{}", counts());
    ensure!(at_the_end > 0.0, "no stream ended in the kernel\n{}", counts());
    match limits {
        Limits::Tiny => ensure!(for_load > SESSIONS as f64, "few demotions\n{}", counts()),
        Limits::Huge => ensure!(for_load == 0.0, "demotions although nothing crosses the limits\n{}", counts()),
        Limits::Usual | Limits::Random => {}
    }
    Ok(())
}
