//! Good configuration files and exactly what they mean, defaults included.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use landbridge::config::{
    AcceptProxy, Admin, Config, Datapath, DatapathRules, Dial, Dns, Eject, Group, HealthCheck, HttpProbe, Listener,
    LogFormat, LogOutput, LogRules, Method, OnDown, ProbeKind, ProxyVersion, Runtime, SessionLogRules, Target,
    TcpOptions,
};
use landbridge_core::datapath::{Limits, Thresholds};
use landbridge_core::join::JoinRules;
use landbridge_core::select::Balance;

fn shipped(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    Config::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn default_tcp() -> TcpOptions {
    TcpOptions {
        keepalive: Some(Duration::from_secs(15)),
        user_timeout: Some(Duration::from_secs(30)),
        congestion: None,
        interface: None,
    }
}

fn default_listener(name: &str, bind: &[&str], groups: &[usize]) -> Listener {
    Listener {
        name: name.to_owned(),
        bind: bind.iter().map(|text| address(text)).collect(),
        groups: groups.to_vec(),
        datapath: Datapath::Auto,
        accept_proxy: AcceptProxy::Off,
        max_connections: 20_000,
        queue_timeout: None,
        max_session_age: None,
        idle_timeout: None,
        half_close_timeout: Some(Duration::from_secs(300)),
        tcp: default_tcp(),
    }
}

fn default_group(name: &str, targets: Vec<Target>) -> Group {
    Group {
        name: name.to_owned(),
        tier: 0,
        weight: 100,
        balance: Balance::WeightedRoundRobin,
        min_healthy: 1,
        on_down: OnDown::Reset,
        on_removal: OnDown::Drain,
        failback_hold: Duration::from_secs(10),
        slow_start: Duration::from_secs(30),
        eject: Eject { after: 3, hold: Duration::from_secs(10), most: 50 },
        health: None,
        send_proxy: None,
        dial: Dial { connect_timeout: Duration::from_secs(1), connect_retries: 2, source: None },
        tcp: default_tcp(),
        targets,
    }
}

fn default_dns() -> Dns {
    Dns { servers: Vec::new(), min_ttl: Duration::from_secs(5), max_ttl: Duration::from_secs(300) }
}

#[test]
fn names_are_resolved_from_outside() {
    let text = r#"
        [[listener]]
        name = "in"
        bind = ["127.0.0.1:80"]
        groups = ["a"]
        [[group]]
        name = "a"
        target = [{ address = "gpu-1.example:8000" }, { address = "gpu-2:8000", name = "second" }, { address = "10.0.0.1:8000" }]
    "#;
    let config = Config::parse(text).unwrap();
    assert_eq!(config.names().into_iter().collect::<Vec<_>>(), ["gpu-1.example", "gpu-2"]);
    let of = |config: Config| -> Vec<_> {
        config.groups[0].targets.iter().map(|target| (target.name.clone(), target.address.to_string())).collect()
    };
    let pair = |name: &str, address: &str| (name.to_owned(), address.to_owned());
    let one = config.clone().resolved(|name| (name == "gpu-1.example").then(|| "10.0.0.9".parse().unwrap()));
    assert_eq!(
        of(one),
        [
            pair("gpu-1.example:8000", "10.0.0.9:8000"),
            pair("second", "0.0.0.0:8000"),
            pair("10.0.0.1:8000", "10.0.0.1:8000")
        ]
    );
    // Two names of one address are one target.
    let same = config.resolved(|_| Some("10.0.0.1".parse().unwrap()));
    assert_eq!(of(same), [pair("gpu-1.example:8000", "10.0.0.1:8000")]);
}

fn default_health() -> HealthCheck {
    HealthCheck {
        kind: ProbeKind::Http(HttpProbe {
            method: Method::Get,
            path: "/health".to_owned(),
            host: None,
            expect: vec![200..=299],
            body: None,
        }),
        port: None,
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    }
}

fn target(name: &str, at: &str, weight: u16) -> Target {
    Target { name: name.to_owned(), host: None, address: address(at), weight, max_connections: None }
}

fn default_config(listeners: Vec<Listener>, groups: Vec<Group>) -> Config {
    Config {
        runtime: Runtime { workers: None, drain_timeout: Duration::from_secs(300), readiness_delay: Duration::ZERO },
        log: LogRules { format: LogFormat::Text },
        session_log: SessionLogRules { output: None, one_in: 1 },
        admin: Admin { listen: Some(address("127.0.0.1:9900")), socket: Some("/run/landbridge/admin.sock".into()) },
        dns: default_dns(),
        datapath: DatapathRules {
            thresholds: Thresholds::default(),
            join: JoinRules::default(),
            limits: Limits::default(),
        },
        listeners,
        groups,
    }
}

#[test]
fn the_minimal_file_is_all_defaults() {
    let expected = default_config(
        vec![default_listener("inference", &["0.0.0.0:8000"], &[0])],
        vec![default_group("onprem", vec![target("100.92.10.4:8000", "100.92.10.4:8000", 1)])],
    );
    assert_eq!(shipped("minimal.toml"), expected);
}

#[test]
fn the_demo_has_two_places_with_easy_shares() {
    let onprem = vec![target("gpu-1", "127.0.0.1:18001", 3), target("gpu-2", "127.0.0.1:18002", 1)];
    let aws = vec![target("aws-1", "127.0.0.1:18003", 1)];
    let checked = |weight, group| Group {
        weight,
        health: Some(HealthCheck { kind: ProbeKind::Tcp, ..default_health() }),
        ..group
    };
    let expected = default_config(
        vec![default_listener("inference", &["127.0.0.1:8000"], &[0, 1])],
        vec![checked(3, default_group("onprem", onprem)), checked(1, default_group("aws", aws))],
    );
    assert_eq!(shipped("demo.toml"), expected);
}

#[test]
fn the_full_file_shows_the_defaults() {
    let onprem = vec![target("gpu-1", "100.92.10.4:8000", 4), target("gpu-2", "100.92.10.5:8000", 2)];
    let aws = vec![target("aws-1", "10.0.1.20:8000", 1)];
    let expected = default_config(
        vec![default_listener("inference", &["0.0.0.0:8000", "[::]:8000"], &[0, 1])],
        vec![
            Group { health: Some(default_health()), ..default_group("onprem", onprem) },
            Group { tier: 1, ..default_group("aws", aws) },
        ],
    );
    assert_eq!(shipped("landbridge.toml"), expected);
}

#[test]
fn every_option_is_taken_over() {
    let text = r#"
        runtime = { workers = 3, drain_timeout = "0s", readiness_delay = "25s" }
        log = { format = "json" }
        session_log = { path = "stdout", one_in = 100 }
        admin = { listen = "off", socket = "/tmp/x.sock" }
        dns = { servers = ["10.0.0.2:53", "[fd00::2]:5353"], min_ttl = "10ms", max_ttl = "1m" }
        datapath = { promote_after = 1, promote_gap = "0s", join_after = 2, soft_limit = "64KiB", hard_limit = "1MB" }

        [[group]]
        name = "eu-1:[gpu]"
        tier = 65535
        weight = 0
        balance = "source-hash"
        min_healthy = 2
        on_down = "drain"
        on_removal = "keep"
        failback_hold = "0s"
        slow_start = "1m"
        eject_after = 0
        eject_hold = "5m"
        max_ejected = 100
        health = { kind = "tcp", port = 81, interval = "250ms", timeout = "2s", rise = 1, fall = 9 }
        send_proxy = "v2"
        target = [{ address = "[fd00::1]:443", weight = 0, max_connections = 9 }, { address = "[fd00::2]:443" }]
        [group.tcp]
        connect_timeout = "1ms"
        connect_retries = 0
        source = "fd00::9"
        interface = "wt0"
        keepalive = "32767s"
        user_timeout = "0s"
        congestion = "bbr"

        [[listener]]
        name = "in"
        bind = ["[::1]:9900", "127.0.0.1:8080"]
        groups = ["eu-1:[gpu]"]
        datapath = "splice"
        accept_proxy = "any"
        max_connections = 1_000_000
        queue_timeout = "1500ms"
        max_session_age = "1h"
        idle_timeout = "1h 30m"
        half_close_timeout = "0s"
        tcp = { keepalive = "0s", user_timeout = "250ms", interface = "eth0.100" }
    "#;
    let expected = Config {
        runtime: Runtime {
            workers: NonZeroUsize::new(3),
            drain_timeout: Duration::ZERO,
            readiness_delay: Duration::from_secs(25),
        },
        log: LogRules { format: LogFormat::Json },
        session_log: SessionLogRules { output: Some(LogOutput::Stdout), one_in: 100 },
        admin: Admin { listen: None, socket: Some("/tmp/x.sock".into()) },
        dns: Dns {
            servers: vec![address("10.0.0.2:53"), address("[fd00::2]:5353")],
            min_ttl: Duration::from_millis(10),
            max_ttl: Duration::from_secs(60),
        },
        datapath: DatapathRules {
            thresholds: Thresholds { promote_gap: Duration::ZERO, promote_after: 1, ..Thresholds::default() },
            join: JoinRules { after: 2, ..JoinRules::default() },
            limits: Limits { soft: 64 << 10, hard: 1_000_000, ..Limits::default() },
        },
        listeners: vec![Listener {
            name: "in".to_owned(),
            bind: vec![address("[::1]:9900"), address("127.0.0.1:8080")],
            groups: vec![0],
            datapath: Datapath::Splice,
            accept_proxy: AcceptProxy::Any,
            max_connections: 1_000_000,
            queue_timeout: Some(Duration::from_millis(1_500)),
            max_session_age: Some(Duration::from_secs(3_600)),
            idle_timeout: Some(Duration::from_secs(5_400)),
            half_close_timeout: None,
            tcp: TcpOptions {
                keepalive: None,
                user_timeout: Some(Duration::from_millis(250)),
                congestion: None,
                interface: Some("eth0.100".to_owned()),
            },
        }],
        groups: vec![Group {
            name: "eu-1:[gpu]".to_owned(),
            tier: 65_535,
            weight: 0,
            balance: Balance::SourceHash,
            min_healthy: 2,
            on_down: OnDown::Drain,
            on_removal: OnDown::Keep,
            failback_hold: Duration::ZERO,
            slow_start: Duration::from_secs(60),
            eject: Eject { after: 0, hold: Duration::from_secs(300), most: 100 },
            health: Some(HealthCheck {
                kind: ProbeKind::Tcp,
                port: Some(81),
                interval: Duration::from_millis(250),
                // No longer than the interval, which is shorter than the default.
                fast_interval: Duration::from_millis(250),
                timeout: Duration::from_secs(2),
                rise: 1,
                fall: 9,
            }),
            send_proxy: Some(ProxyVersion::V2),
            dial: Dial {
                connect_timeout: Duration::from_millis(1),
                connect_retries: 0,
                source: Some("fd00::9".parse().unwrap()),
            },
            tcp: TcpOptions {
                keepalive: Some(Duration::from_secs(32_767)),
                user_timeout: None,
                congestion: Some("bbr".to_owned()),
                interface: Some("wt0".to_owned()),
            },
            targets: vec![
                Target { max_connections: Some(9), ..target("[fd00::1]:443", "[fd00::1]:443", 0) },
                target("[fd00::2]:443", "[fd00::2]:443", 1),
            ],
        }],
    };
    assert_eq!(Config::parse(text).unwrap(), expected);
}

/// What may look like a clash and is none.
#[test]
fn addresses_side_by_side() {
    let text = r#"
        [[listener]]
        name = "a"
        bind = ["0.0.0.0:8000", "[::]:8000", "127.0.0.1:9901", "[::1]:9900"]
        groups = ["x", "y"]
        [[listener]]
        name = "b"
        bind = ["127.0.0.1:8001", "127.0.0.2:8001"]
        groups = ["y"]
        [[group]]
        name = "x"
        [[group.target]]
        address = "10.0.0.1:80"
        [[group]]
        name = "y"
        [[group.target]]
        address = "10.0.0.1:80"
        [[group.target]]
        address = "10.0.0.1:81"
    "#;
    Config::parse(text).unwrap();
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark() {
    let text = include_str!("../../config/demo.toml");
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    assert_eq!(Config::parse(&windows).unwrap(), Config::parse(text).unwrap());
}
