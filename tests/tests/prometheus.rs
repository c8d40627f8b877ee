//! The alerts and the dashboard, tried with a real Prometheus that scrapes a daemon.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Checked, Echo};
use landbridge_tests::{Config, Daemon, Group, Host, Net, PATIENCE, Process, SocketExt, Tool, docs, eventually};
use serde_json::Value;
use tempfile::TempDir;

/// A Prometheus on the host of the daemon.
struct Prometheus {
    host: Host,
    _process: Process,
    _folder: TempDir,
}

const ADDRESS: &str = "127.0.0.1:9090";

impl Prometheus {
    fn start(host: &Host) -> Result<Self> {
        let folder = TempDir::new()?;
        // Alerts wait for minutes; here they are to be seen at once.
        let rules = docs::page("prometheus/rules.yml")?;
        let impatient = rules.lines().filter(|line| !line.trim_start().starts_with("for: "));
        fs::write(folder.path().join("rules.yml"), impatient.collect::<Vec<_>>().join("\n"))?;
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n  \
             - job_name: landbridge\n    static_configs: [{targets: [\"127.0.0.1:9900\"]}]\n",
        )?;
        let mut command = Tool::Prometheus.on(host)?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        let mut process = Process::start("prometheus", &mut command)?;
        process.wait_ready(|_| get(host, "/-/ready").map(drop))?;
        Ok(Self { host: host.clone(), _process: process, _folder: folder })
    }

    /// The results of a query.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut curl = Tool::Curl.on(&self.host)?;
        curl.args(["--silent", "--get", "--data-urlencode"]).arg(format!("query={expression}"));
        let answer = answer(curl.arg(format!("http://{ADDRESS}/api/v1/query")))?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().context("no results")?.clone())
    }

    /// The alerts that fire, each with the value of one of its labels.
    fn firing(&self, label: &str) -> Result<BTreeSet<(String, String)>> {
        let alerts = get(&self.host, "/api/v1/alerts")?;
        let alerts = alerts["data"]["alerts"].as_array().context("no alerts")?.clone();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(firing.map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["labels"][label]))).collect())
    }
}

fn get(host: &Host, path: &str) -> Result<Value> {
    answer(Tool::Curl.on(host)?.args(["--silent", "--fail"]).arg(format!("http://{ADDRESS}{path}")))
}

fn answer(curl: &mut Command) -> Result<Value> {
    let text = Process::start("curl", curl)?.succeed(PATIENCE)?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// A daemon with a target in each of two groups, and Prometheus beside it.
fn scraped(net: &Net) -> Result<(Daemon, Prometheus, Echo, Checked)> {
    let echo = Echo::start(&net.targets[0], 9000)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let onprem = Group::new("onprem").target_with(echo.address(), "name = \"gpu-1\"").health("port = 9100");
    let onprem = onprem.health("interval = \"100ms\"").health("fast_interval = \"20ms\"");
    let daemon = Daemon::start(&net.proxy, &Config::new([onprem]))?;
    let prometheus = Prometheus::start(&net.proxy)?;
    Ok((daemon, prometheus, echo, check))
}

/// Every query of the dashboard, with its variables filled in.
fn dashboard() -> Result<Vec<(String, String)>> {
    let board: Value = serde_json::from_str(&docs::page("grafana/landbridge.json")?)?;
    let panels = board["panels"].as_array().context("panels")?;
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets
            .into_iter()
            .map(move |target| (title.to_owned(), target["expr"].as_str().unwrap_or_default().to_owned()))
    });
    let filled = |text: &str| text.replace("$instance", ".*").replace("$__rate_interval", "10s");
    Ok(queries.map(|(title, query)| (title, filled(&query))).collect())
}

#[test]
fn every_panel_of_the_dashboard_shows_something() -> Result<()> {
    let net = Net::new(1)?;
    let (mut daemon, prometheus, _echo, _check) = scraped(&net)?;
    let mut client = net.client.connect(daemon.v4())?;
    let queries = dashboard()?;
    ensure!(queries.len() > 20, "{queries:?}");
    for (title, query) in &queries {
        // Only failures show there, and nothing fails here.
        let only_failures = query.ends_with("> 0");
        eventually(&format!("{title}: {query}"), || {
            // Rates need something that goes on.
            client.expect_echo(b"hello")?;
            net.client.connect(daemon.v4())?.expect_echo(b"hello")?;
            ensure!(only_failures || !prometheus.query(query)?.is_empty(), "no data");
            prometheus.query(query).map(drop)
        })?;
    }
    drop(client);
    daemon.stop().map(drop)
}

#[test]
fn alerts_fire_when_something_is_wrong_and_only_then() -> Result<()> {
    let net = Net::new(1)?;
    let (mut daemon, prometheus, _echo, check) = scraped(&net)?;
    eventually("the daemon is scraped and judged", || {
        ensure!(!prometheus.query("landbridge_target_up == 1")?.is_empty());
        ensure!(!prometheus.query("ALERTS or vector(1)")?.is_empty());
        Ok(())
    })?;
    ensure!(prometheus.firing("group")?.is_empty(), "{:?}", prometheus.firing("group")?);
    check.answer(503);
    let fires = |alert: &str, label: &str, value: &str| {
        eventually(&format!("{alert} fires"), || {
            let firing = prometheus.firing(label)?;
            ensure!(firing.contains(&(alert.to_owned(), value.to_owned())), "{firing:?}");
            Ok(())
        })
    };
    fires("LandbridgeTargetDown", "target", "gpu-1")?;
    fires("LandbridgeGroupDown", "group", "onprem")?;
    fires("LandbridgeRefusesClients", "listener", "main")?;
    daemon.reload_text("nonsense")?;
    fires("LandbridgeReloadFailed", "job", "landbridge")?;
    daemon.stop()?;
    fires("LandbridgeUnreachable", "job", "landbridge")
}

#[test]
fn every_alert_is_explained_and_well_formed() -> Result<()> {
    let rules = docs::path("prometheus/rules.yml");
    let checked =
        Process::start("promtool", Tool::Promtool.here()?.args(["check", "rules"]).arg(&rules))?.succeed(PATIENCE)?;
    ensure!(checked.contains("SUCCESS"), "{checked}");
    let rules = fs::read_to_string(rules)?;
    let alerts: BTreeSet<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let page = docs::page("operations.md")?;
    let explained: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(alerts, explained);
    Ok(())
}
