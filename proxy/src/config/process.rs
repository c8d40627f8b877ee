//! `[runtime]` and `[admin]`: what concerns the process as a whole.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::binds::Binds;
use super::durations::{DurationRange, MILLISECOND};
use super::fault::Fault;
use super::notes::Noted;
use super::raw::{Table, Value};
use super::suggest::quoted;
use super::{Admin, Runtime, address};

/// More workers than any machine has CPUs to run them; each one costs a thread and a socket per bound address.
const MOST_WORKERS: usize = 1024;

const DRAIN_TIMEOUT: Duration = Duration::from_mins(5);
/// A day is longer than any download; a daemon that does not end in that time is stuck.
const DRAIN_LIMITS: DurationRange =
    DurationRange { least: Duration::ZERO, most: Duration::from_hours(24), step: MILLISECOND, zero: None };

/// Without a balancer that asks `/readyz` nobody would see the difference.
const READINESS_DELAY: Duration = Duration::ZERO;
/// No balancer takes longer than ten checks, five minutes apart, to see that a target is not healthy (ELB allows 10 and 300 s).
const READINESS_LIMITS: DurationRange =
    DurationRange { least: Duration::ZERO, most: Duration::from_mins(50), step: MILLISECOND, zero: None };

/// On this machine only: metrics tell names and addresses.
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// Where the command line looks for the control socket: systemd's RuntimeDirectory.
pub const ADMIN_SOCKET: &str = "/run/landbridge/admin.sock";
/// The longest path of a Unix socket: sun_path (linux/un.h) is 108 with the final NUL.
const LONGEST_SOCKET: usize = 107;

/// Reads `[runtime]`.
pub(super) fn runtime(table: Table<'_>) -> Result<Runtime, Noted> {
    let workers = table.or("workers", 0, |v| v.number(0..=MOST_WORKERS));
    let drain_timeout = table.or("drain_timeout", DRAIN_TIMEOUT, |v| v.duration(&DRAIN_LIMITS));
    let readiness_delay = table.or("readiness_delay", READINESS_DELAY, |v| v.duration(&READINESS_LIMITS));
    table.finish();
    Ok(Runtime {
        workers: NonZeroUsize::new(workers?),
        drain_timeout: drain_timeout?,
        readiness_delay: readiness_delay?,
    })
}

/// Reads `[admin]`.
pub(super) fn admin(table: Table<'_>, binds: &mut Binds) -> Result<Admin, Noted> {
    let listen = table.optional("listen", |v| admin_listen(&v, binds));
    if listen == Ok(None) {
        binds.claim_default(ADMIN_LISTEN, "admin.listen");
    }
    let socket = table.or("socket", Some(PathBuf::from(ADMIN_SOCKET)), |v| v.parse(ADMIN_SOCKET, socket));
    table.finish();
    Ok(Admin { listen: listen?.unwrap_or(Some(ADMIN_LISTEN)), socket: socket? })
}

/// A path that does not depend on where the daemon was started, or `off`.
fn socket(text: &str) -> Result<Option<PathBuf>, Fault> {
    let remedy = "give an absolute path of at most 107 bytes, such as \"/run/landbridge/admin.sock\", or \"off\"";
    match text {
        "off" => Ok(None),
        path if path.starts_with('/') && path.len() <= LONGEST_SOCKET && !path.contains('\0') => Ok(Some(path.into())),
        _ => Err(Fault::new(format!("{} cannot be the path of a socket", quoted(text)), remedy)),
    }
}

fn admin_listen(value: &Value<'_>, binds: &mut Binds) -> Result<Option<SocketAddr>, Noted> {
    let example = "127.0.0.1:9900";
    if value.text(example)? == "off" {
        return Ok(None);
    }
    let address = value.parse(example, address::bind)?;
    binds.claim(address, value.place()).map(Some)
}
