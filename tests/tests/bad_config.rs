//! A configuration that is not valid: all of it is told, and nothing is done.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use landbridge_tests::{Config, Finished, Group, Host, LISTENER_PORT, Net, PATIENCE, Process, binary};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const INVALID_CONFIGURATION: i32 = 78;

fn landbridge(host: &Host, arguments: &[&str], config: &str) -> Result<Finished> {
    let mut file = NamedTempFile::with_suffix(".toml")?;
    file.write_all(config.as_bytes())?;
    let mut command = host.command(binary("landbridge")?);
    command.args(arguments).arg(file.path());
    Process::start("landbridge", &mut command)?.finish(PATIENCE)
}

#[test]
fn run_and_check_tell_every_problem_and_bind_nothing() -> Result<()> {
    let net = Net::new(1)?;
    let group = Group::new("onprem").target_with(net.targets[0].v4(9000), "weight = 70000");
    let config = Config::new([group]).listener("idle_timeout = \"soon\"").listener("datapth = \"copy\"").to_string();
    // A daemon that tried to listen would fail at that instead.
    let _taken = net.proxy.listen(([0, 0, 0, 0], LISTENER_PORT).into())?;
    for arguments in [&["check"][..], &["run", "--config"]] {
        let finished = landbridge(&net.proxy, arguments, &config)?;
        assert_eq!(finished.code(), INVALID_CONFIGURATION, "{finished:?}");
        let line_of = |key| config.lines().position(|line| line.starts_with(key)).map_or(0, |index| index + 1);
        for (path, line) in [
            ("group[0].target[0].weight", line_of("weight")),
            ("listener[0].idle_timeout", line_of("idle_timeout")),
            ("datapth", line_of("datapth")),
        ] {
            let told = finished.stderr.lines().chain(finished.stdout.lines());
            let told = told.filter(|told| told.contains(path) && told.contains(&line.to_string()));
            ensure!(told.count() >= 1, "{path} in line {line} is not told: {finished:?}");
        }
        ensure!(!finished.stderr.to_lowercase().contains("address already in use"), "{finished:?}");
    }
    Ok(())
}

#[test]
fn check_tells_programs_every_problem_as_json() -> Result<()> {
    let net = Net::new(0)?;
    let group = Group::new("onprem").target_with(net.proxy.v4(9000), "weight = 70000");
    let config = Config::new([group]).listener("datapth = \"copy\"").to_string();
    let finished = landbridge(&net.proxy, &["check", "--json"], &config)?;
    assert_eq!(finished.code(), INVALID_CONFIGURATION, "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout)?;
    ensure!(report["valid"] == false && report["summary"].is_null() && finished.stderr.is_empty(), "{finished:?}");
    let problems = report["problems"].as_array().context("a list")?;
    assert_eq!(problems.len(), 2, "{report}");
    for (path, key) in [("group[0].target[0].weight", "weight = 70000"), ("listener[0].datapth", "datapth")] {
        let line = config.lines().position(|line| line.starts_with(key)).context("it is in the file")? + 1;
        let found = problems.iter().find(|problem| problem["path"] == path && problem["line"] == line);
        let found = found.with_context(|| format!("{path} in line {line} is not in {report}"))?;
        ensure!(["message", "hint"].iter().all(|key| found[key].as_str().is_some_and(|text| !text.is_empty())));
    }
    Ok(())
}

#[test]
fn check_tells_programs_what_is_in_a_good_file() -> Result<()> {
    let net = Net::new(0)?;
    let finished = landbridge(&net.proxy, &["check", "--json"], &Config::single(net.proxy.v4(9000)).to_string())?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout)?;
    ensure!(report["valid"] == true && report["problems"] == json!([]) && report["changes"].is_null(), "{report}");
    assert_eq!(report["summary"], json!({"listeners": 1, "groups": 1, "targets": 1}));
    // The file is gone.
    let file = report["file"].as_str().context("its name")?;
    let mut command = net.proxy.command(binary("landbridge")?);
    let gone = Process::start("landbridge", command.args(["check", "--json", file]))?.finish(PATIENCE)?;
    ensure!(gone.code() == 1 && gone.stdout.is_empty() && gone.stderr.contains(file), "{gone:?}");
    Ok(())
}

#[test]
fn text_that_is_not_toml_is_told_with_its_line() -> Result<()> {
    let net = Net::new(0)?;
    for arguments in [&["check"][..], &["run", "--config"]] {
        let finished = landbridge(&net.proxy, arguments, "[runtime]\nworkers = 1\nworkers == 2\n")?;
        assert_eq!(finished.code(), INVALID_CONFIGURATION, "{finished:?}");
        ensure!(finished.stderr.contains('3') || finished.stdout.contains('3'), "{finished:?}");
    }
    Ok(())
}

#[test]
fn check_accepts_a_good_file_and_binds_nothing() -> Result<()> {
    let net = Net::new(1)?;
    let _taken = net.proxy.listen(([0, 0, 0, 0], LISTENER_PORT).into())?;
    let finished = landbridge(&net.proxy, &["check"], &Config::single(net.targets[0].v4(9000)).to_string())?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    Ok(())
}

#[test]
fn an_address_that_is_taken_is_a_failure_at_run_time() -> Result<()> {
    let net = Net::new(1)?;
    let _taken = net.proxy.listen(([0, 0, 0, 0], LISTENER_PORT).into())?;
    let config = Config::single(net.targets[0].v4(9000)).to_string();
    let finished = landbridge(&net.proxy, &["run", "--config"], &config)?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let told = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(told.contains(&format!("0.0.0.0:{LISTENER_PORT}")), "{told}");
    Ok(())
}

#[test]
fn wrong_usage_is_neither() -> Result<()> {
    let net = Net::new(0)?;
    assert_eq!(landbridge(&net.proxy, &["chekc"], "")?.code(), 2);
    Ok(())
}
