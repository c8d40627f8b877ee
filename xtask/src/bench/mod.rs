//! `cargo xtask bench`: landbridge against its peers, in namespaces, as ratios of runs that follow each other.
//!
//! The machine is small and shared, so that no number of one run means anything by itself. Each pair of runs gives one
//! ratio; what is reported is their median with its confidence interval, beside the spread of landbridge against itself.

mod burden;
mod chart;
mod contender;
mod document;
mod host;
mod lab;
mod limits;
mod machine;
mod measure;
mod metric;
mod peer_config;
mod process;
mod report;
mod requirement;
mod results;
mod stats;
mod table;
mod tools;
mod workload;

use std::fs;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use self::contender::Contender;
use self::lab::Lab;
use self::machine::Machine;
use self::measure::Field;
use self::report::Report;
use self::tools::Tools;
use self::workload::{Effort, Workload};
use crate::progress::Progress;
use crate::workspace;

/// What to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Short rounds against HAProxy and plain forwarding, in about eight minutes.
    #[arg(long)]
    quick: bool,
    /// How often each contender runs, and four times as often with the requests of wrk; 5 times, 3 times with --quick.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Only these workloads: names like `requests-8-64`, or their beginnings like `requests`.
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<String>,
    /// Only against these; plain forwarding always takes part, because own costs are what is above it.
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    against: Vec<Contender>,
    /// Write the results to docs/benchmarks.md and docs/benchmarks.svg.
    #[arg(long)]
    publish: bool,
}

/// Sets up, measures and reports.
pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "measuring needs root (network namespaces)");
    let effort = Effort { quick: arguments.quick, rounds: arguments.rounds, sessions: limits::raise()? };
    let workloads = selected(effort, &arguments.only)?;
    let peers = peers(effort, &arguments.against);

    let tools = Tools::ensure()?;
    let versions = tools.versions();
    let started = Instant::now();
    let lab = Lab::new(tools, effort.sessions)?;
    let machine = Machine::read()?;
    if machine.is_busy() {
        eprintln!(
            "{:.1} CPUs are busy: others use this machine, and what they do is measured too",
            machine.busy_before
        );
    }
    let mut field = Field::start(&lab, effort, &peers)?;
    let mut progress = Progress::of(workloads.len());
    let mut measured = Vec::new();
    for workload in workloads {
        let step = || {
            let measured = field.measure(workload)?;
            let failed: Vec<&str> = measured.failures.iter().map(|(failed, _)| failed.name()).collect();
            let result = if failed.is_empty() { "done".to_owned() } else { format!("failed: {}", failed.join(", ")) };
            Ok((measured, result))
        };
        measured.push(progress.step(&workload.to_string(), step)?);
    }

    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let report = Report {
        command: command(arguments),
        date: date.clone(),
        seconds: started.elapsed().as_secs(),
        machine,
        steering: lab.net.steering(),
        versions,
        missing: field.missing,
        peers,
        measured,
    };
    print!("{}", report.text());
    let folder = process::folder()?;
    let json = folder.join(format!("{}.json", date.replace(':', "-")));
    fs::write(&json, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    eprintln!("\nall numbers: {}\nconfigurations of the peers: {}", json.display(), folder.display());
    let svg = chart::draw(&report);
    let drawn = folder.join("benchmarks.svg");
    fs::write(&drawn, &svg).with_context(|| format!("cannot write {}", drawn.display()))?;
    if arguments.publish {
        document::publish(&workspace::root().join("docs"), &report, &svg)?;
    }
    Ok(())
}

fn selected(effort: Effort, only: &[String]) -> Result<Vec<Workload>> {
    let all = effort.workloads();
    for name in only {
        if !all.iter().any(|workload| workload.is_called(name)) {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            bail!("there is no workload {name:?}; there are: {}", names.join(", "));
        }
    }
    let chosen = |workload: &Workload| only.is_empty() || only.iter().any(|name| workload.is_called(name));
    Ok(all.into_iter().filter(chosen).collect())
}

/// Plain forwarding first, because a round without it says little.
fn peers(effort: Effort, against: &[Contender]) -> Vec<Contender> {
    use Contender::{
        Envoy, Forward, Haproxy, HaproxyNoSplice, Landbridge, LandbridgeCopy, LandbridgePacket, LandbridgeSockmap,
        LandbridgeSplice, Nginx,
    };
    let own = [LandbridgePacket, LandbridgeSockmap, LandbridgeSplice, LandbridgeCopy];
    let all = [&[Haproxy, HaproxyNoSplice, Nginx, Envoy][..], &own].concat();
    let wanted = match (against, effort.quick) {
        ([], true) => &[Haproxy],
        ([], false) => &all[..],
        (chosen, _) => chosen,
    };
    let mut peers = vec![Forward];
    for &peer in wanted {
        if peer != Landbridge && !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    peers
}

/// How to measure the same again.
fn command(arguments: &Arguments) -> String {
    let mut command = "cargo xtask bench".to_owned();
    if arguments.quick {
        command += " --quick";
    }
    if let Some(rounds) = arguments.rounds {
        command += &format!(" --rounds {rounds}");
    }
    if !arguments.only.is_empty() {
        command += &format!(" --only {}", arguments.only.join(","));
    }
    if !arguments.against.is_empty() {
        let names: Vec<_> = arguments.against.iter().map(|peer| peer.name()).collect();
        command += &format!(" --against {}", names.join(","));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_always_takes_part_and_nobody_twice() {
        let quick = Effort { quick: true, rounds: None, sessions: 10_000 };
        assert_eq!(peers(quick, &[]), [Contender::Forward, Contender::Haproxy]);
        let against = [Contender::Nginx, Contender::Forward, Contender::Nginx, Contender::Landbridge];
        assert_eq!(peers(quick, &against), [Contender::Forward, Contender::Nginx]);
    }

    #[test]
    fn unknown_workloads_are_named() {
        let quick = Effort { quick: true, rounds: None, sessions: 10_000 };
        let error = selected(quick, &["bluk".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"bluk\"") && error.contains("bulk-up-1"), "{error}");
        assert_eq!(selected(quick, &["bulk-up".to_owned()]).unwrap().len(), 2);
    }
}
