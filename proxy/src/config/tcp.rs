//! `[listener.tcp]` and `[group.tcp]`: the socket options that both kinds of leg have.

use std::time::Duration;

use super::durations::{DurationRange, MILLISECOND};
use super::notes::Noted;
use super::raw::Table;
use super::{TcpOptions, names};

const KEEPALIVE: Duration = Duration::from_secs(15);
/// MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL (net/tcp.h); the socket options count whole seconds.
const KEEPALIVE_LIMITS: DurationRange = DurationRange {
    least: Duration::from_secs(1),
    most: Duration::from_secs(32_767),
    step: Duration::from_secs(1),
    zero: Some("off"),
};

const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP_USER_TIMEOUT counts milliseconds. Longer than a day, a dead peer would hold its session for good.
const USER_TIMEOUT_LIMITS: DurationRange = DurationRange {
    least: MILLISECOND,
    most: Duration::from_hours(24),
    step: MILLISECOND,
    zero: Some("the kernel's limit"),
};

impl Default for TcpOptions {
    fn default() -> Self {
        Self { keepalive: Some(KEEPALIVE), user_timeout: Some(USER_TIMEOUT), congestion: None, interface: None }
    }
}

/// Reads the options from a table that may have others besides.
pub(super) fn options(table: &Table<'_>) -> Result<TcpOptions, Noted> {
    let default = TcpOptions::default();
    let keepalive = table.or("keepalive", default.keepalive, |v| v.duration_or_none(&KEEPALIVE_LIMITS));
    let user_timeout = table.or("user_timeout", default.user_timeout, |v| v.duration_or_none(&USER_TIMEOUT_LIMITS));
    let congestion = table.optional("congestion", |v| v.parse("bbr", names::congestion));
    let interface = table.optional("interface", |v| v.parse("wt0", names::device));
    Ok(TcpOptions {
        keepalive: keepalive?,
        user_timeout: user_timeout?,
        congestion: congestion?,
        interface: interface?,
    })
}
