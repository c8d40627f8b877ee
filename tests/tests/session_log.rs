//! The session log: a line for each session that has ended, in every datapath.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Group, Net, SocketExt, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The configuration with a session log in this file.
fn logged(config: Config, file: &Path, more: &str) -> Config {
    config.table(&format!("[session_log]\npath = {:?}\n{more}", file.display().to_string()))
}

/// Waits until the log has this many lines.
fn lines(file: &Path, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} lines in the session log"), || {
        let text = fs::read_to_string(file)?;
        ensure!(text.lines().count() == count, "{text}");
        text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    })
}

fn number(line: &Value, field: &str) -> Result<f64> {
    line[field].as_f64().with_context(|| format!("{field} in {line}"))
}

#[test]
fn a_session_that_is_left_to_the_next_daemon_is_told_as_left() -> Result<()> {
    let net = Net::new(1)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sessions.jsonl");
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &logged(Config::single(echo.address()), &file, ""))?;
    let mut client = net.client.connect(daemon.v4())?;
    for _ in 0..20 {
        client.expect_echo(b"hello")?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    daemon.restart(Signal::SIGQUIT)?;
    assert_eq!(lines(&file, 1)?[0]["end"], "left");
    daemon.wait_metric("landbridge_datapath_adoptions_total", &[], 1.0)?;
    client.expect_echo(b"still here")?;
    drop(client);
    assert_eq!(lines(&file, 2)?[1]["end"], "client_closed");
    daemon.stop().map(drop)
}

#[test]
fn a_session_is_told_about_when_it_has_ended() -> Result<()> {
    let net = Net::new(1)?;
    let folder = tempfile::tempdir()?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    for datapath in ["copy", "packet"] {
        let file = folder.path().join(format!("{datapath}.jsonl"));
        let group = Group::new("onprem").target_with(echo.address(), "name = \"gpu-1\"");
        let config = logged(Config::new([group]), &file, "").listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        let from = client.local_addr()?.to_string();
        client.expect_echo(b"hello")?;
        if datapath == "packet" {
            daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
        }
        client.expect_echo(&[b'x'; 1_000])?;
        drop(client);
        let line = lines(&file, 1)?.remove(0);
        let expected = [
            ("listener", "main"),
            ("client", from.as_str()),
            ("group", "onprem"),
            ("target", "gpu-1"),
            ("address", &echo.address().to_string()),
            ("end", "client_closed"),
        ];
        for (field, value) in expected {
            ensure!(line[field] == value, "{field}: {line}");
        }
        for (field, value) in [("tries", 1), ("upload_bytes", 1_005), ("download_bytes", 1_005)] {
            ensure!(line[field] == value, "{field}: {line}");
        }
        ensure!(line[format!("{datapath}_bytes")].as_u64() >= Some(2_000), "{line}");
        for field in ["connect_ms", "first_byte_ms", "client_round_trip_ms", "target_round_trip_ms"] {
            let value = number(&line, field)?;
            ensure!(value > 0.0 && value <= 2_000.0, "{field}: {line}");
        }
        ensure!(number(&line, "queue_ms")? <= number(&line, "total_ms")?, "{line}");
        ensure!(number(&line, "connect_ms")? <= number(&line, "total_ms")?, "{line}");
        let year = line["time"].as_str().and_then(|time| time.split_once('-')?.0.parse().ok()).unwrap_or(0);
        ensure!(year > 2_000 && line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_session_without_a_target_is_told_about_too_and_the_last_one_before_the_end() -> Result<()> {
    let net = Net::new(1)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sessions.jsonl");
    let config = logged(Config::single(net.targets[0].v4(9000)), &file, "");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    net.client.connect(daemon.v4())?.read_to_ending()?;
    let refused = lines(&file, 1)?.remove(0);
    ensure!(refused["end"] == "connect_failed" && refused["target"].is_null(), "{refused}");

    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    daemon.stop_at_once()?;
    let cut = lines(&file, 2)?.remove(1);
    ensure!(cut["end"] == "drained" && cut["address"] == echo.address().to_string(), "{cut}");
    Ok(())
}

#[test]
fn the_log_can_be_moved_away() -> Result<()> {
    let net = Net::new(1)?;
    let folder = tempfile::tempdir()?;
    let [file, old] = ["sessions.jsonl", "sessions.jsonl.1"].map(|name| folder.path().join(name));
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &logged(Config::single(echo.address()), &file, ""))?;
    net.client.connect(daemon.v4())?.expect_echo(b"one")?;
    lines(&file, 1)?;
    fs::rename(&file, &old)?;
    daemon.process().signal(Signal::SIGUSR1)?;
    eventually("the log is opened anew", || {
        ensure!(file.exists());
        Ok(())
    })?;
    net.client.connect(daemon.v4())?.expect_echo(b"two")?;
    lines(&file, 1)?;
    lines(&old, 1)?;
    daemon.stop().map(drop)
}

#[test]
fn one_session_in_so_many_is_logged() -> Result<()> {
    let net = Net::new(1)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sessions.jsonl");
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &logged(Config::single(echo.address()), &file, "one_in = 4"))?;
    for _ in 0..20 {
        net.client.connect(daemon.v4())?.expect_echo(b"hello")?;
    }
    daemon.wait_ended(20, "client_closed")?;
    daemon.stop()?;
    lines(&file, 5).map(drop)
}

#[test]
fn a_disk_that_is_full_costs_lines_and_no_session() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &logged(Config::single(echo.address()), Path::new("/dev/full"), ""))?;
    for _ in 0..10 {
        net.client.connect(daemon.v4())?.expect_echo(b"hello")?;
    }
    daemon.wait_ended(10, "client_closed")?;
    eventually("lost lines are counted", || {
        ensure!(daemon.metrics()?.value("landbridge_session_log_dropped_total", &[]) > 0.0);
        Ok(())
    })?;
    let said = daemon.process().stderr().matches("the session log cannot be written").count();
    ensure!(said == 1, "it is said once: {said}");
    daemon.stop().map(drop)
}

#[test]
fn the_daemons_own_log_can_be_json() -> Result<()> {
    let net = Net::new(1)?;
    let config = Config::single(net.targets[0].v4(9000)).table("[log]\nformat = \"json\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    // Nobody listens there: a warning.
    net.client.connect(daemon.v4())?.write_all(b"hello")?;
    daemon.wait_metric("landbridge_target_connect_failures_total", &[("reason", "refused")], 1.0)?;
    daemon.stop()?;
    let text = daemon.process().stderr();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).context(line.to_owned())?;
        ensure!(line["level"].is_string() && line["message"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    ensure!(text.contains("cannot connect to"), "{text}");
    Ok(())
}
