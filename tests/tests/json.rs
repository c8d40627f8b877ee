//! What `--json` prints, against `docs/json.md`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Config, Daemon, Group, Net, docs, eventually};
use serde_json::Value;

#[test]
fn every_field_is_documented_and_every_documented_one_printed() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::named(&net.targets[0], 9000, "a")?;
    let daemon = Daemon::start(&net.proxy, &Config::new([Group::new("onprem").target(target.address())]))?;
    let _session = net.client.connect(daemon.v4())?;
    let file = daemon.file().to_str().context("the path is no text")?;
    eventually("a session is listed", || {
        let listed = daemon.json(&["sessions"])?;
        ensure!(listed.as_array().is_some_and(|sessions| !sessions.is_empty()), "{listed}");
        Ok(())
    })?;

    let mut printed = BTreeSet::new();
    for verb in [
        &["status"][..],
        &["sessions"],
        &["set", "weight", "onprem", "2", "--for", "1h"],
        &["check", "--against-running", file],
        &["reload"],
    ] {
        collect(&daemon.json(verb)?, &mut printed);
    }
    // The machine may lack something: then the exit code says so, and the document is there all the same.
    collect(&serde_json::from_str(&daemon.cli_alone(&["doctor", "--json", "--config", file])?.stdout)?, &mut printed);

    let page = docs::page("json.md")?;
    let missing: Vec<_> = printed.iter().filter(|field| !page.contains(&format!("`{field}`"))).collect();
    ensure!(missing.is_empty(), "docs/json.md lacks the fields {missing:?}");
    let unknown: Vec<_> = always(&page).filter(|field| !printed.contains(*field)).collect();
    ensure!(unknown.is_empty(), "docs/json.md has fields that nothing prints: {unknown:?}");
    Ok(())
}

/// The names of all fields, but of those inside `self_test`, which is for people who look for a fault.
fn collect(value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, fields)),
        Value::Object(entries) => {
            for (name, value) in entries {
                fields.insert(name.clone());
                if name != "self_test" {
                    collect(value, fields);
                }
            }
        }
        _ => {}
    }
}

/// The fields that the tables of `page` have in their first column as never absent.
fn always(page: &str) -> impl Iterator<Item = &str> {
    let tables = page.split("\n\n").filter(|block| block.starts_with("| field"));
    let cells = tables.flat_map(|table| table.lines().skip(2)).filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split(',')).map(str::trim).filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'))
}
