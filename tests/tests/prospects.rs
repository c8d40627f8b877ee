//! `landbridge doctor --config` says for each listener and target whether sessions will be joined, before there is one.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Group, Net, binary};
use serde_json::Value;

#[test]
fn doctor_says_for_each_target_whether_sessions_can_be_joined() -> Result<()> {
    let net = Net::new(1)?;
    net.proxy.ip("link set target0 mtu 1400")?;
    let _echo = Echo::start(&net.targets[0], 9000)?;
    let near = Group::new("near").target(net.targets[0].v4(9000)).target(net.targets[0].v6(9000));
    let silent = Group::new("silent").target(net.targets[0].v4(9001));
    let here = Group::new("here").target(net.proxy.v4(9000));
    let lost = Group::new("lost").target(net.unreachable(9000)?);
    let mut file = tempfile::NamedTempFile::with_suffix(".toml")?;
    write!(file, "{}", Config::new([near, silent, here, lost]))?;

    let mut doctor = net.proxy.command(binary("landbridge")?);
    let output = doctor.args(["doctor", "--json", "--config"]).arg(file.path()).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("doctor says {}", String::from_utf8_lossy(&output.stderr)))?;
    let checks = report["checks"].as_array().context("checks")?;
    let about = |place: &str| -> Vec<(bool, String)> {
        let of_it = checks
            .iter()
            .filter(|check| check["name"].as_str().is_some_and(|name| name.starts_with(&format!("main to {place}/"))));
        of_it.map(|check| (check["ok"] == true, check["detail"].as_str().unwrap_or_default().to_owned())).collect()
    };
    let near = about("near");
    let joins = "can be joined, by target0 in packets of 1400 bytes, ";
    let alike = format!("{joins}with clients that agree on timestamps, SACK, window scaling and not on ECN");
    ensure!(near == [(true, alike.clone()), (true, alike)], "{near:?}");
    let unknown = format!("{joins}if client and target agree on the same TCP options (the target does not answer now)");
    ensure!(about("silent") == [(true, unknown)], "{:?}", about("silent"));
    for (place, why) in [("here", "is on this host"), ("lost", "no route")] {
        let found = about(place);
        ensure!(found.len() == 1 && !found[0].0 && found[0].1.contains(why), "{place}: {found:?}");
    }
    Ok(())
}

#[test]
fn doctor_judges_by_the_limits_of_the_daemon_that_runs() -> Result<()> {
    const LIMIT: u64 = 5_000;
    let net = Net::new(1)?;
    let daemon = Daemon::start(&net.proxy, &Config::single(net.targets[0].v4(9000)))?;
    daemon.limit_descriptors(LIMIT)?;
    let file = daemon.file().to_str().context("the path is no text")?;
    // The file says where the daemon is.
    let report: Value = serde_json::from_str(&daemon.cli_alone(&["doctor", "--json", "--config", file])?.stdout)?;
    let checks = report["checks"].as_array().context("checks")?;
    let check = checks.iter().find(|check| check["name"] == "open files").context("open files")?;
    let detail = check["detail"].as_str().context("detail")?;
    ensure!(detail.starts_with(&format!("{LIMIT} for the daemon;")), "{detail}");
    Ok(())
}
