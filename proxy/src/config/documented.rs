//! `config/landbridge.toml` documents what the parser knows: every option, and nothing else.

use std::collections::BTreeSet;

use super::Config;
use super::diff::Plan;
use super::load::read;
use super::raw::Document;

const DOCUMENTATION: &str = include_str!("../../../config/landbridge.toml");

/// The file with its commented options put in force: those behind a `#` without a space.
fn everything_in_force() -> String {
    let uncommented = |line: &'static str| match line.strip_prefix('#') {
        Some(option) if option.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => option,
        _ => line,
    };
    DOCUMENTATION.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// The path of every option in a text, without indexes.
fn options_in(text: &str) -> BTreeSet<String> {
    let mut table = String::new();
    let mut options = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            options.insert(format!("{table}.{key}"));
        }
    }
    options
}

/// The path of every option that the parser supports.
fn supported() -> BTreeSet<String> {
    let document = Document::parse(DOCUMENTATION);
    read(document.top()).unwrap();
    let known = document.known();
    let tables = |key: &str| known.iter().any(|k| k.header.trim_matches(['[', ']']) == key);
    let path = |header: &str, key: &str| match header.trim_matches(['[', ']']) {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    };
    known.iter().map(|k| path(&k.header, k.key)).filter(|path| !tables(path)).collect()
}

#[test]
fn every_option_is_documented_and_every_documented_option_is_known() {
    assert_eq!(options_in(&everything_in_force()), supported());
}

#[test]
fn the_documentation_is_good_also_with_every_option_in_force() {
    Config::parse(&everything_in_force()).unwrap_or_else(|problems| panic!("{problems}"));
}

/// Each supported option, with a value other than its default, changes the configuration: none is read and then
/// forgotten. A reload tells it in the words of the file.
#[test]
fn every_option_has_an_effect() {
    let plain = Config::parse(DOCUMENTATION).unwrap();
    let others = [
        ("runtime.workers", "3"),
        ("runtime.drain_timeout", "\"1m\""),
        ("runtime.readiness_delay", "\"1m\""),
        ("log.format", "\"json\""),
        ("session_log.path", "\"stdout\""),
        ("session_log.one_in", "7"),
        ("admin.listen", "\"off\""),
        ("admin.socket", "\"/run/other.sock\""),
        ("dns.servers", "[\"10.0.0.2:53\"]"),
        ("dns.min_ttl", "\"1s\""),
        ("dns.max_ttl", "\"1h\""),
        ("datapath.splice_size", "\"64KiB\""),
        ("datapath.splice_after", "3"),
        ("datapath.copy_after", "3"),
        ("datapath.promote_after", "3"),
        ("datapath.promote_gap", "\"0s\""),
        ("datapath.promote_busy", "3"),
        ("datapath.reluctance", "3"),
        ("datapath.join_after", "3"),
        ("datapath.join_quiet", "\"3ms\""),
        ("datapath.soft_limit", "\"2MiB\""),
        ("datapath.hard_limit", "\"2MiB\""),
        ("datapath.bulk_limit", "\"2MiB\""),
        ("datapath.max_promoted", "300"),
        ("listener.name", "\"other\""),
        ("listener.bind", "[\"0.0.0.0:8001\"]"),
        ("listener.groups", "[\"aws\", \"onprem\"]"),
        ("listener.datapath", "\"copy\""),
        ("listener.accept_proxy", "\"any\""),
        ("listener.max_connections", "7"),
        ("listener.queue_timeout", "\"3s\""),
        ("listener.max_session_age", "\"1h\""),
        ("listener.idle_timeout", "\"1h\""),
        ("listener.half_close_timeout", "\"0s\""),
        ("listener.tcp.keepalive", "\"0s\""),
        ("listener.tcp.user_timeout", "\"1m\""),
        ("listener.tcp.congestion", "\"cubic\""),
        ("listener.tcp.interface", "\"eth1\""),
        ("group.name", ""),
        ("group.tier", "2"),
        ("group.weight", "7"),
        ("group.balance", "\"source-hash\""),
        ("group.send_proxy", "\"v2\""),
        ("group.min_healthy", "2"),
        ("group.on_down", "\"keep\""),
        ("group.on_removal", "\"reset\""),
        ("group.failback_hold", "\"0s\""),
        ("group.slow_start", "\"0s\""),
        ("group.eject_after", "0"),
        ("group.eject_hold", "\"1s\""),
        ("group.max_ejected", "100"),
        ("group.health.kind", ""),
        ("group.health.method", "\"OPTIONS\""),
        ("group.health.path", "\"/ready\""),
        ("group.health.host", "\"other.example\""),
        ("group.health.expect", "[\"204\", \"404\"]"),
        ("group.health.body", "\"fine\""),
        ("group.health.port", "8080"),
        ("group.health.interval", "\"5s\""),
        ("group.health.fast_interval", "\"100ms\""),
        ("group.health.timeout", "\"3s\""),
        ("group.health.rise", "1"),
        ("group.health.fall", "1"),
        ("group.tcp.connect_timeout", "\"3s\""),
        ("group.tcp.connect_retries", "0"),
        ("group.tcp.source", "\"100.92.0.11\""),
        ("group.tcp.interface", "\"wt1\""),
        ("group.tcp.keepalive", "\"1m\""),
        ("group.tcp.user_timeout", "\"0s\""),
        ("group.tcp.congestion", "\"cubic\""),
        ("group.target.name", "\"other\""),
        ("group.target.address", "\"100.92.10.9:8000\""),
        ("group.target.weight", "9"),
        ("group.target.max_connections", "9"),
    ];
    assert_eq!(others.iter().map(|(path, _)| (*path).to_owned()).collect::<BTreeSet<_>>(), supported());
    let mut fixed = Vec::new();
    for (path, value) in others.iter().filter(|(_, value)| !value.is_empty()) {
        let changed = Config::parse(&with(path, value)).unwrap_or_else(|problems| panic!("{path}: {problems}"));
        assert_ne!(changed, plain, "{path}");
        assert!(Plan::between(&changed, &changed).is_empty(), "{path}");
        let changes = Plan::between(&plain, &changed).changes;
        match (*path, &*changes) {
            // Their order means nothing.
            ("listener.groups", []) => {}
            // What has another name or address is something else.
            ("listener.name" | "group.target.address", [_, _, ..]) => {}
            (_, [change]) => {
                let (of, option) = change.what.split_once(": ").unwrap();
                let section = of.split_once(' ').map_or(of, |(section, _)| section);
                let section = if section == "target" { "group.target" } else { section };
                assert_eq!(format!("{section}.{option}"), *path);
                let bare = |text: &str| text.replace(['"', '[', ']'], "");
                assert_eq!(change.to.as_deref().map(bare), Some(bare(value)), "{path}");
                fixed.extend(change.needs_restart.then_some(*path));
            }
            _ => panic!("a reload would say of {path}: {changes:#?}"),
        }
    }
    let expected = [
        "runtime.workers",
        "log.format",
        "session_log.path",
        "session_log.one_in",
        "admin.listen",
        "admin.socket",
        "datapath.soft_limit",
        "datapath.hard_limit",
        "datapath.bulk_limit",
        "datapath.max_promoted",
    ];
    assert_eq!(fixed, expected, "these need a restart");
}

/// The documentation with another value for the first mention of an option.
fn with(path: &str, value: &str) -> String {
    let mut table = String::new();
    let mut done = false;
    let mut text = String::new();
    for line in DOCUMENTATION.lines() {
        let option = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
        if option.starts_with('[') {
            table = option.trim_matches(['[', ']']).to_owned();
        }
        match option.split_once(" = ") {
            Some((key, _)) if !done && format!("{table}.{key}") == path => {
                text += &format!("{key} = {value}\n");
                done = true;
            }
            _ => text += &format!("{line}\n"),
        }
    }
    text
}
