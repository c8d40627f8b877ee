//! `[[listener]]`: addresses that accept client connections.

use std::net::SocketAddr;
use std::time::Duration;

use super::binds::{Binds, overlap};
use super::durations::{DurationRange, MILLISECOND};
use super::notes::Noted;
use super::raw::Table;
use super::references::Groups;
use super::suggest::quoted;
use super::unique::Unique;
use super::{AcceptProxy, Datapath, Listener, address, names, tcp};

const MAX_CONNECTIONS: u32 = 20_000;
/// A session takes at least two file descriptors, and fs.nr_open allows a process 1,048,576 unless it was raised.
pub(super) const MOST_CONNECTIONS: u32 = 1_000_000;

/// A longer silence than a week is not waited for; "0s" waits for ever.
const SILENCE_LIMITS: DurationRange =
    DurationRange { least: MILLISECOND, most: Duration::from_hours(7 * 24), step: MILLISECOND, zero: Some("never") };
/// A client that is to wait longer would rather be told to come again.
const QUEUE_LIMITS: DurationRange =
    DurationRange { least: MILLISECOND, most: Duration::from_hours(1), step: MILLISECOND, zero: Some("no queue") };
/// Ages are looked at once a second: see `watch`.
const AGE_LIMITS: DurationRange = DurationRange {
    least: Duration::from_secs(1),
    most: Duration::from_hours(30 * 24),
    step: MILLISECOND,
    zero: Some("no limit"),
};
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_mins(5);

pub(super) const DATAPATHS: &[(&str, Datapath)] = &[
    ("auto", Datapath::Auto),
    ("packet", Datapath::Packet),
    ("sockmap", Datapath::Sockmap),
    ("splice", Datapath::Splice),
    ("copy", Datapath::Copy),
];
pub(super) const ACCEPT_PROXY: &[(&str, AcceptProxy)] =
    &[("off", AcceptProxy::Off), ("v1", AcceptProxy::V1), ("v2", AcceptProxy::V2), ("any", AcceptProxy::Any)];

/// Reads one `[[listener]]`.
pub(super) fn read(
    table: Table<'_>,
    names: &mut Unique,
    binds: &mut Binds,
    all_groups: &mut Groups<'_>,
) -> Result<Listener, Noted> {
    let name = table.required("name", "name = \"inference\"", |v| {
        let name = v.parse("inference", names::own)?;
        names.add(quoted(&name), v.place()).map(|()| name)
    });
    let mut claimed = Vec::new();
    let bind = table.required("bind", "bind = [\"0.0.0.0:8000\"]", |v| {
        v.list("0.0.0.0:8000", |v| {
            let address = v.parse("0.0.0.0:8000", address::bind)?;
            claimed.push((address, v.place().clone()));
            binds.claim(address, v.place())
        })
    });
    let mut references = all_groups.references();
    let groups = table.required("groups", "groups = [\"onprem\"], the names of its [[group]] tables", |v| {
        v.list("onprem", |v| references.resolve(&v))
    });
    let referred = references.finish();
    let datapath = table.or("datapath", Datapath::Auto, |v| v.choice(DATAPATHS));
    let accept_proxy = table.or("accept_proxy", AcceptProxy::Off, |v| v.choice(ACCEPT_PROXY));
    let max_connections = table.or("max_connections", MAX_CONNECTIONS, |v| v.number(1..=MOST_CONNECTIONS));
    let queue_timeout = table.or("queue_timeout", None, |v| v.duration_or_none(&QUEUE_LIMITS));
    let max_session_age = table.or("max_session_age", None, |v| v.duration_or_none(&AGE_LIMITS));
    let idle_timeout = table.or("idle_timeout", None, |v| v.duration_or_none(&SILENCE_LIMITS));
    let half_close_timeout =
        table.or("half_close_timeout", Some(HALF_CLOSE_TIMEOUT), |v| v.duration_or_none(&SILENCE_LIMITS));
    let tcp_table = table.table("tcp");
    let tcp = tcp::options(&tcp_table);
    tcp_table.finish();
    table.finish();

    if tcp.as_ref().is_ok_and(|tcp| tcp.interface.is_none()) {
        for (address, place) in &claimed {
            let own = |target: &SocketAddr| reaches(*address, *target);
            if let Some(target) = referred.iter().flat_map(|&group| all_groups.targets_of(group)).find(own) {
                place.unfit(
                    format!("target {target} is this listener itself: its sessions would run in a circle"),
                    "give the target the address of a server",
                );
            }
        }
    }
    Ok(Listener {
        name: name?,
        bind: bind?,
        groups: groups?,
        datapath: datapath?,
        accept_proxy: accept_proxy?,
        max_connections: max_connections?,
        queue_timeout: queue_timeout?,
        max_session_age: max_session_age?,
        idle_timeout: idle_timeout?,
        half_close_timeout: half_close_timeout?,
        tcp: tcp?,
    })
}

/// Whether a connection to the target surely arrives at the bound address.
fn reaches(bound: SocketAddr, target: SocketAddr) -> bool {
    bound == target || (target.ip().is_loopback() && overlap(bound, target))
}
