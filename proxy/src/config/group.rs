//! `[[group]]` with `[group.tcp]` and `[[group.target]]`: the targets of one place.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use landbridge_core::health::LONGEST_EJECTION;
use landbridge_core::select::Balance;

use super::address::{self, TargetFault};
use super::durations::{DurationRange, MILLISECOND};
use super::listener::MOST_CONNECTIONS;
use super::notes::{Noted, Place};
use super::raw::{Table, Value};
use super::references::Groups;
use super::suggest::quoted;
use super::unique::Unique;
use super::{Dial, Eject, Group, OnDown, ProxyVersion, Target, health, names, tcp};

const GROUP_WEIGHT: u16 = 100;
const TARGET_WEIGHT: u16 = 1;

const FAILBACK_HOLD: Duration = Duration::from_secs(10);
const SLOW_START: Duration = Duration::from_secs(30);
/// Nobody holds capacity back for longer than a day.
const HOLD_LIMITS: DurationRange =
    DurationRange { least: Duration::ZERO, most: Duration::from_hours(24), step: MILLISECOND, zero: None };
const EJECT_AFTER: u32 = 3;
/// More failures in a row than this are noticed by people first.
const MOST_FAILURES: u32 = 1_000;
const EJECT_HOLD: Duration = Duration::from_secs(10);
/// An ejection never lasts longer than five minutes, however it grows.
const EJECT_LIMITS: DurationRange =
    DurationRange { least: MILLISECOND, most: LONGEST_EJECTION, step: MILLISECOND, zero: None };
const MAX_EJECTED: u8 = 50;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After about two minutes the kernel itself gives up (tcp_syn_retries, ip-sysctl.rst).
const CONNECT_LIMITS: DurationRange =
    DurationRange { least: MILLISECOND, most: Duration::from_mins(2), step: MILLISECOND, zero: None };
const CONNECT_RETRIES: u32 = 2;
/// The client waits for all of them, one after the other.
const MOST_CONNECT_RETRIES: u32 = 16;

pub(super) const BALANCES: &[(&str, Balance)] = &[
    ("weighted-round-robin", Balance::WeightedRoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("random-two", Balance::RandomTwo),
    ("source-hash", Balance::SourceHash),
];
pub(super) const ON_DOWN: &[(&str, OnDown)] =
    &[("keep", OnDown::Keep), ("drain", OnDown::Drain), ("reset", OnDown::Reset)];
pub(super) const SEND_PROXY: &[(&str, Option<ProxyVersion>)] =
    &[("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];

/// Reads one `[[group]]`.
pub(super) fn read<'d>(table: Table<'d>, names: &mut Unique, all_groups: &mut Groups<'d>) -> Result<Group, Noted> {
    let mut written_name = None;
    let name = table.required("name", "name = \"onprem\"", |v| {
        written_name = Some(v.text("onprem")?.to_owned());
        let name = v.parse("onprem", names::own)?;
        names.add(quoted(&name), v.place()).map(|()| name)
    });
    let tier = table.or("tier", 0, |v| v.number(0..=u16::MAX));
    let weight = table.or("weight", GROUP_WEIGHT, |v| v.number(0..=u16::MAX));
    let balance = table.or("balance", Balance::WeightedRoundRobin, |v| v.choice(BALANCES));
    let send_proxy = table.or("send_proxy", None, |v| v.choice(SEND_PROXY));

    let mut min_place = None;
    let min_healthy = table.or("min_healthy", 1, |v| {
        min_place = Some(v.place().clone());
        v.number(1..=u32::from(u16::MAX))
    });
    let on_down = table.or("on_down", OnDown::Reset, |v| v.choice(ON_DOWN));
    let on_removal = table.or("on_removal", OnDown::Drain, |v| v.choice(ON_DOWN));
    let failback_hold = table.or("failback_hold", FAILBACK_HOLD, |v| v.duration(&HOLD_LIMITS));
    let slow_start = table.or("slow_start", SLOW_START, |v| v.duration(&HOLD_LIMITS));
    let eject_after = table.or("eject_after", EJECT_AFTER, |v| v.number(0..=MOST_FAILURES));
    let eject_hold = table.or("eject_hold", EJECT_HOLD, |v| v.duration(&EJECT_LIMITS));
    let max_ejected = table.or("max_ejected", MAX_EJECTED, |v| v.number(0..=100));
    let health = health::read(table.table("health"));

    let tcp_table = table.table("tcp");
    let tcp = tcp::options(&tcp_table);
    let connect_timeout = tcp_table.or("connect_timeout", CONNECT_TIMEOUT, |v| v.duration(&CONNECT_LIMITS));
    let connect_retries = tcp_table.or("connect_retries", CONNECT_RETRIES, |v| v.number(0..=MOST_CONNECT_RETRIES));
    let source = tcp_table.optional("source", |v| Ok((v.parse("100.92.0.10", address::source)?, v.place().clone())));
    tcp_table.finish();

    let mut seen = Seen::default();
    let targets: Vec<_> = table.tables("target").into_iter().map(|table| target(table?, &mut seen)).collect();
    if let Ok(Some((source, place))) = &source {
        check_family(*source, &seen.addresses, place);
    }
    if targets.is_empty() {
        let line = table.place().line();
        table.place().key("target", line).unfit("no target", "add [[group.target]] with address = \"10.0.0.1:8000\"");
    }
    if let (Ok(least), Some(place)) = (&min_healthy, &min_place)
        && !targets.is_empty()
        && *least as usize > targets.len()
    {
        place.unfit("the group has fewer targets", format!("use at most {}", targets.len()));
    }
    let known_name = written_name.map_or_else(|| name.clone(), Ok);
    all_groups.add(table.place().clone(), known_name, seen.addresses);
    table.finish();

    Ok(Group {
        name: name?,
        tier: tier?,
        weight: weight?,
        balance: balance?,
        min_healthy: min_healthy?,
        on_down: on_down?,
        on_removal: on_removal?,
        failback_hold: failback_hold?,
        slow_start: slow_start?,
        eject: Eject { after: eject_after?, hold: eject_hold?, most: max_ejected? },
        health: health?,
        send_proxy: send_proxy?,
        dial: Dial {
            connect_timeout: connect_timeout?,
            connect_retries: connect_retries?,
            source: source?.map(|(source, _)| source),
        },
        tcp: tcp?,
        targets: targets.into_iter().collect::<Result<_, _>>()?,
    })
}

/// The targets of a group so far, also those that are wrong in some other way.
struct Seen {
    names: Unique,
    unique_addresses: Unique,
    addresses: Vec<SocketAddr>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            names: Unique::new("give each target of a group its own name"),
            unique_addresses: Unique::new("remove one of them; more weight gives a target more sessions"),
            addresses: Vec::new(),
        }
    }
}

fn target(table: Table<'_>, seen: &mut Seen) -> Result<Target, Noted> {
    let address = table.required("address", "address = \"10.0.0.1:8000\"", |v| {
        let (host, address) = target_address(&v)?;
        let written = match &host {
            Some(host) => format!("{host}:{}", address.port()),
            None => {
                seen.addresses.push(address);
                address.to_string()
            }
        };
        seen.unique_addresses.add(written.clone(), v.place()).map(|()| (host, address, written))
    });
    let name = table.optional("name", |v| {
        let name = v.parse("gpu-1", names::own)?;
        seen.names.add(quoted(&name), v.place()).map(|()| name)
    });
    let weight = table.or("weight", TARGET_WEIGHT, |v| v.number(0..=u16::MAX));
    let max_connections = table.or("max_connections", 0, |v| v.number(0..=MOST_CONNECTIONS));
    let place = table.place().clone();
    table.finish();

    let (host, address, written) = address?;
    let name = match name? {
        Some(name) => name,
        None => {
            seen.names.add(quoted(&written), &place)?;
            written
        }
    };
    let max_connections = Some(max_connections?).filter(|&limit| limit > 0);
    Ok(Target { name, host, address, weight: weight?, max_connections })
}

/// An address, or a name with an address that is not known yet.
fn target_address(value: &Value<'_>) -> Result<(Option<String>, SocketAddr), Noted> {
    let text = value.text("10.0.0.1:8000")?;
    match address::target(text) {
        Ok(address) => Ok((None, address)),
        Err(TargetFault::DnsName(host, port)) => Ok((Some(host), SocketAddr::from(([0; 4], port)))),
        Err(TargetFault::Wrong(fault)) => Err(value.place().wrong(fault.what, fault.remedy)),
    }
}

/// A socket bound to an address of one family cannot connect to the other.
fn check_family(source: IpAddr, targets: &[SocketAddr], place: &Place<'_>) {
    if let Some(target) = targets.iter().find(|target| target.is_ipv4() != source.is_ipv4()) {
        let (own, other) = if source.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        place.unfit(
            format!("{source} is {own} and cannot connect to target {target}"),
            format!("give an {other} source, or put the {other} targets into a group of their own"),
        );
    }
}
