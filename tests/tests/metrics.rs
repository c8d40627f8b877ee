//! Every metric is documented, well formed, and seen to change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Checked, DnsServer, Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt, Tool, docs, eventually};

/// What a page or a scrape says of one metric.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
}

/// The rows of the table in `docs/metrics.md`.
fn documented() -> Result<BTreeMap<String, Metric>> {
    let page = docs::page("metrics.md")?;
    let mut metrics = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `landbridge_")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [name, kind, labels, unit, meaning] = cells[..] else { anyhow::bail!("five cells: {row}") };
        let expected = ["seconds", "bytes"].into_iter().find(|unit| name.contains(&format!("_{unit}")));
        ensure!(unit == expected.unwrap_or("1"), "the unit of {name} is {expected:?}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| label != "none").collect();
        metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), labels, meaning: meaning.to_owned() });
    }
    Ok(metrics)
}

/// The families of a scrape.
fn published(text: &str) -> Result<BTreeMap<String, Metric>> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut meanings = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, meaning)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            meanings.insert(name.to_owned(), meaning.to_owned());
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let meaning = meanings.get(name).with_context(|| format!("{name} has no help"))?.clone();
            metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), labels: BTreeSet::new(), meaning });
        } else if !line.is_empty() {
            let (series, _value) = line.rsplit_once(' ').context(line.to_owned())?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                name.strip_suffix(suffix).filter(|name| metrics.get(*name).is_some_and(|of| of.kind == "histogram"))
            });
            let metric = metrics.get_mut(family.unwrap_or(name)).with_context(|| format!("{name} has no type"))?;
            let keys = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, _)| key.to_owned());
            metric.labels.extend(keys.filter(|key| key != "le"));
        }
    }
    Ok(metrics)
}

/// Traffic that makes every family of metrics appear.
fn lively(net: &Net) -> Result<(Daemon, Echo, Checked, DnsServer)> {
    let dns = DnsServer::start(&net.proxy)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let group = Group::new("onprem")
        .target_with(echo.address(), "name = \"gpu-1\"")
        .with("failback_hold = \"0s\"")
        .health("port = 9100");
    // The server does not know the name.
    let named = Group::new("named").named_target("gpu.example:9000");
    let config =
        Config::new([group.health("interval = \"100ms\""), named]).dns(&format!("servers = [\"{}\"]", dns.address()));
    let daemon = Daemon::start(&net.proxy, &config)?;
    eventually("the target is up", || {
        net.client.connect(daemon.v4())?.expect_echo(b"hello")?;
        Ok(())
    })?;
    daemon.wait_ended(1, "client_closed")?;
    Ok((daemon, echo, check, dns))
}

#[test]
fn the_page_about_metrics_tells_what_is_published() -> Result<()> {
    let net = Net::new(1)?;
    let (mut daemon, _echo, _check, _dns) = lively(&net)?;
    let published = published(&daemon.get("/metrics")?.1)?;
    let documented = documented()?;
    let mut page = String::new();
    for (name, Metric { kind, labels, meaning }) in &published {
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.contains(&format!("_{unit}"))).unwrap_or("1");
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        writeln!(page, "| `{name}` | {kind} | {labels} | {unit} | {meaning} |")?;
    }
    ensure!(published == documented, "docs/metrics.md should have these rows:\n{page}");
    daemon.stop().map(drop)
}

/// The codes in `docs/metrics.md`, by what its table says they are of.
fn documented_codes() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let page = docs::page("metrics.md")?;
    let (_, table) = page.split_once("## Codes").context("a list of codes")?;
    let mut codes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut of = String::new();
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| of")) {
        let [first, code, _meaning] = row.trim_matches('|').splitn(3, " | ").collect::<Vec<_>>()[..] else {
            anyhow::bail!("three cells: {row}")
        };
        if !first.trim().is_empty() {
            of = first.replace('`', "").trim().to_owned();
        }
        let code = code.split('`').nth(1).context("a code")?;
        codes.entry(of.clone()).or_default().insert(code.to_owned());
    }
    Ok(codes)
}

#[test]
fn the_page_about_metrics_tells_every_code() -> Result<()> {
    let net = Net::new(1)?;
    let (mut daemon, _echo, _check, _dns) = lively(&net)?;
    let text = daemon.get("/metrics")?.1;
    let published = |name: &str, with: &str, label: &str| -> BTreeSet<String> {
        let series =
            text.lines().filter(|line| line.starts_with(&format!("landbridge_{name}{{")) && line.contains(with));
        let value = |line: &str| Some(line.split_once(&format!("{label}=\""))?.1.split_once('"')?.0.to_owned());
        series.filter_map(value).collect()
    };
    let documented = documented_codes()?;
    for (of, (name, with, label)) in [
        ("fallbacks_total, packet", ("datapath_fallbacks_total", "datapath=\"packet\"", "reason")),
        ("fallbacks_total, sockmap", ("datapath_fallbacks_total", "datapath=\"sockmap\"", "reason")),
        ("demotions_total", ("datapath_demotions_total", "", "reason")),
        ("connect_failures_total", ("target_connect_failures_total", "", "reason")),
        ("packets_total", ("packet_packets_total", "", "verdict")),
    ] {
        ensure!(documented.get(of) == Some(&published(name, with, label)), "{of}: {:?}", published(name, with, label));
    }
    let probes: BTreeSet<String> = [&documented["connect_failures_total"], &documented["probe_failures_total"]]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    ensure!(probes == published("probe_failures_total", "", "reason"), "{probes:?}");
    daemon.stop().map(drop)
}

/// What no test looks for may never have been seen to change.
#[test]
fn every_metric_and_every_code_is_looked_for_by_a_test() -> Result<()> {
    /// It takes a daemon of another build, which sees it whenever somebody makes one.
    const ELSEWHERE: [&str; 1] = ["not_built"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (mut tests, mut here) = (String::new(), String::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let to = if path.ends_with("metrics.rs") { &mut here } else { &mut tests };
            *to += &fs::read_to_string(path)?;
        }
    }
    let is_named = |name: &str| [&tests, &here].into_iter().any(|text| text.contains(&format!("\"{name}\"")));
    let unnamed = |name: &String| !["", "_count"].iter().any(|suffix| is_named(&format!("{name}{suffix}")));
    let unnamed: Vec<_> = documented()?.into_keys().filter(unnamed).collect();
    ensure!(unnamed.is_empty(), "no test looks for {unnamed:?}");
    let page = docs::page("operations.md")?;
    let (_, ends) = page.split_once("| `end` | what happened |").context("a list of ends")?;
    let ends = ends.split("\n\n").next().unwrap_or_default();
    let ends =
        ends.lines().filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let codes: BTreeSet<String> = documented_codes()?.into_values().flatten().chain(ends.map(str::to_owned)).collect();
    ensure!(codes.contains("left") && codes.contains("protocol"), "{codes:?}");
    let is_unseen = |code: &&String| !tests.contains(&format!("\"{code}\"")) && !ELSEWHERE.contains(&code.as_str());
    let unseen: Vec<_> = codes.iter().filter(is_unseen).collect();
    ensure!(unseen.is_empty(), "no test looks for {unseen:?}");
    Ok(())
}

#[test]
fn promtool_finds_nothing_to_complain_about() -> Result<()> {
    let net = Net::new(1)?;
    let (mut daemon, _echo, _check, _dns) = lively(&net)?;
    let text = daemon.get("/metrics")?.1;
    let mut promtool = Tool::Promtool.on(&net.proxy)?;
    let mut child = promtool.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
    child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = child.spawn()?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && said.is_empty(), "{said}");
    daemon.stop().map(drop)
}

#[test]
fn a_group_is_able_as_long_as_its_target_is_up() -> Result<()> {
    let net = Net::new(1)?;
    let (mut daemon, _echo, check, _dns) = lively(&net)?;
    let able = |expected| daemon.wait_metric("landbridge_group_able", &[("group", "onprem")], expected);
    able(1.0)?;
    check.answer(503);
    able(0.0)?;
    check.answer(200);
    able(1.0)?;
    daemon.stop().map(drop)
}

#[test]
fn a_session_is_counted_to_its_datapath_while_it_is_open() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).listener("datapath = \"copy\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let open = |expected| {
        ["upload", "download"].into_iter().try_for_each(|direction| {
            let labels = [("datapath", "copy"), ("direction", direction)];
            daemon.wait_metric("landbridge_datapath_sessions", &labels, expected)
        })
    };
    open(0.0)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    open(1.0)?;
    drop(client);
    open(0.0)?;
    daemon.stop().map(drop)
}

#[test]
fn the_build_is_known_by_its_version() -> Result<()> {
    let net = Net::new(1)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(net.targets[0].v4(9000)))?;
    let told = daemon.cli_alone(&["--version"])?.stdout;
    let version = told.split_whitespace().last().context("a version")?;
    let info = daemon.metrics()?.value("landbridge_build_info", &[("version", version)]);
    ensure!(info == 1.0, "{told}: {}", daemon.metrics()?.lines("landbridge_build_info"));
    daemon.stop().map(drop)
}

#[test]
fn a_reload_is_dated() -> Result<()> {
    const DATE: &str = "landbridge_config_last_reload_timestamp_seconds";
    let net = Net::new(1)?;
    let config = Config::single(net.targets[0].v4(9000));
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let first = daemon.metrics()?.value(DATE, &[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    ensure!((now - 60.0..=now + 1.0).contains(&first), "{first} is not now, {now}");
    // It counts whole seconds, so the first reload may still be in the same one.
    eventually("a reload has a later date", || {
        daemon.reload(&config)?;
        let later = daemon.metrics()?.value(DATE, &[]);
        ensure!(later > first, "{later} is not after {first}");
        Ok(())
    })?;
    daemon.stop().map(drop)
}

/// How long the slow target thinks: far above what a busy machine adds to a fast one.
const THOUGHT: Duration = Duration::from_millis(300);

#[test]
fn connects_and_first_bytes_are_timed() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        stream.expect(b"question")?;
        // The time is the subject here.
        std::thread::sleep(THOUGHT);
        stream.write_all(b"answer")?;
        stream.expect_ending(Ending::Closed)
    })?;
    for (datapath, joins) in [("copy", 0.0), ("packet", 1.0)] {
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        // Without a byte so far.
        daemon.wait_metric("landbridge_datapath_joins_total", &[], joins)?;
        client.write_all(b"question")?;
        client.expect(b"answer")?;
        let route = [("listener", "main"), ("group", "onprem")];
        for name in ["landbridge_target_connect_seconds_count", "landbridge_target_first_byte_seconds_count"] {
            daemon.wait_metric(name, &route, 1.0)?;
        }
        let metrics = daemon.metrics()?;
        let connect = metrics.value("landbridge_target_connect_seconds_sum", &route);
        let first_byte = metrics.value("landbridge_target_first_byte_seconds_sum", &route);
        ensure!(connect > 0.0 && connect < 0.25, "{datapath}: the connect took {connect} s");
        ensure!((0.29..2.0).contains(&first_byte), "{datapath}: the first byte took {first_byte} s");
        daemon.wait_metric("landbridge_listener_sessions", &[("listener", "main")], 1.0)?;
        drop(client);
        target.outcome()?;
        daemon.wait_metric("landbridge_listener_sessions", &[("listener", "main")], 0.0)?;
        daemon.stop()?;
    }
    Ok(())
}
