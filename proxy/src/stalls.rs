//! Retransmission timeouts on target legs, as evidence against their targets.
//!
//! One task ([`follow`]) looks once a second whether there were any in this network namespace, and only then asks the
//! kernel for all its TCP sockets (sock_diag), so that it costs the sessions nothing and needs no state for them.
//! Joined sessions have no such timers here: their clients repeat, which `joined` sees. Cancelling it loses what it
//! knew of stalls that it has told.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use landbridge_core::select::TargetId;
use nix::libc;
use nix::sys::socket::AddressFamily;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::netlink::Netlink;
use crate::shared::Shared;

/// How often the kernel is asked; a stall lasts for seconds. It walks all its sockets, some 10 ms for 20,000, those of
/// closed connections included (TIME_WAIT).
const ROUND: Duration = Duration::from_secs(1);

/// One timeout may be one lost packet. After the second one the peer was silent for about 0.6 s at least.
const TIMEOUTS: u8 = 2;

/// The counters of the network namespace that opens it.
const COUNTERS: &str = "/proc/thread-self/net/netstat";
/// They take some 5 KB, and every kernel adds some.
const COUNTERS_LENGTH: usize = 32 << 10;

/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK` (linux/tcp_states.h): those in which data may
/// be on its way.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 8 | 1 << 9;
/// `idiag_timer` of a socket that waits for an acknowledgement (inet_diag.c).
const RETRANSMITTING: u8 = 1;

/// The length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// A socket that waits for an acknowledgement again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stall {
    peer: SocketAddr,
    /// The kernel's number of the socket, never used twice.
    cookie: u64,
}

/// Tells `shared` of each target leg that begins to stall, for ever.
pub(crate) async fn follow(shared: Arc<Shared>) {
    if shared.config.groups.iter().all(|group| group.eject.after == 0) {
        return;
    }
    if let Err(error) = listen(&shared).await {
        warn!("retransmission timeouts of target legs are not seen; connects and probes still tell: {error}");
    }
}

async fn listen(shared: &Shared) -> io::Result<()> {
    let diag = Netlink::open(libc::NETLINK_SOCK_DIAG)?;
    // Without the counters every round asks.
    let counters = File::open(COUNTERS).ok();
    let mut before = None;
    let mut targets: HashMap<SocketAddr, Vec<TargetId>> = HashMap::new();
    for id in shared.config.target_ids() {
        targets.entry(shared.target(id).1.address).or_default().push(id);
    }
    let family = |target: &SocketAddr| if target.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let families: HashSet<AddressFamily> = targets.keys().map(family).collect();
    let mut told = HashSet::new();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let timeouts = counters.as_ref().and_then(timeouts);
        if told.is_empty() && timeouts.is_some() && timeouts == before {
            continue;
        }
        before = timeouts;
        let stalls = families.iter().map(|family| ask(&diag, *family));
        let mut now = HashSet::new();
        for stall in stalls.collect::<io::Result<Vec<_>>>()?.into_iter().flatten() {
            let Some(ids) = targets.get(&stall.peer) else { continue };
            if !told.contains(&stall.cookie) {
                ids.iter().for_each(|id| shared.stalled(*id));
            }
            now.insert(stall.cookie);
        }
        told = now;
    }
}

/// How many retransmission timeouts there have been.
fn timeouts(counters: &File) -> Option<u64> {
    let mut buffer = vec![0; COUNTERS_LENGTH];
    let length = counters.read_at(&mut buffer, 0).ok()?;
    timeouts_in(str::from_utf8(&buffer[..length]).ok()?)
}

/// A line of names follows each protocol's name, and a line of values after that.
fn timeouts_in(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPTimeouts")?;
    value.parse().ok()
}

/// The stalls of one address family.
fn ask(diag: &Netlink, family: AddressFamily) -> io::Result<Vec<Stall>> {
    let mut stalls = Vec::new();
    diag.list(SOCK_DIAG_BY_FAMILY, &question(family), |message| stalls.extend(message.first_chunk().and_then(stall)))?;
    Ok(stalls)
}

/// `struct inet_diag_req_v2` (linux/inet_diag.h): all TCP sockets in [`STATES`].
fn question(family: AddressFamily) -> [u8; 56] {
    let mut question = [0; 56];
    question[..2].copy_from_slice(&[family as u8, libc::IPPROTO_TCP as u8]);
    question[4..8].copy_from_slice(&STATES.to_ne_bytes());
    // No address to look for.
    question
}

/// `struct inet_diag_msg`: family, state, timer and timeouts in a row, two ports, two addresses, a device, the cookie.
fn stall(message: &[u8; MESSAGE]) -> Option<Stall> {
    let (timer, timeouts) = (message[2], message[3]);
    if timer != RETRANSMITTING || timeouts < TIMEOUTS {
        return None;
    }
    let port = u16::from_be_bytes([message[6], message[7]]);
    let address: &[u8; 16] = message[24..].first_chunk()?;
    let ip = match i32::from(message[0]) {
        libc::AF_INET => IpAddr::from([address[0], address[1], address[2], address[3]]),
        _ => IpAddr::from(*address).to_canonical(),
    };
    let cookie = u64::from_ne_bytes(*message[44..].first_chunk()?);
    Some(Stall { peer: SocketAddr::new(ip, port), cookie })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(timer: u8, timeouts: u8) -> [u8; MESSAGE] {
        let mut message = [0; MESSAGE];
        message[..4].copy_from_slice(&[libc::AF_INET as u8, 1, timer, timeouts]);
        message[6..8].copy_from_slice(&8000_u16.to_be_bytes());
        message[24..28].copy_from_slice(&[10, 0, 0, 1]);
        message[44..52].copy_from_slice(&77_u64.to_ne_bytes());
        message
    }

    #[test]
    fn only_repeated_timeouts_are_stalls() {
        let peer = "10.0.0.1:8000".parse().unwrap();
        assert_eq!(stall(&message(RETRANSMITTING, 2)), Some(Stall { peer, cookie: 77 }));
        assert_eq!(stall(&message(RETRANSMITTING, 1)), None);
        assert_eq!(stall(&message(2, 5)), None, "a keepalive probe is no retransmission");
    }

    #[test]
    fn timeouts_are_counted_beside_other_things() {
        let text = "TcpExt: TW TCPTimeouts Other\nTcpExt: 1 23 4\nIpExt: TCPTimeouts\nIpExt: 5\n";
        assert_eq!(timeouts_in(text), Some(23));
        for other in ["", "TcpExt: TCPTimeouts\n", "TcpExt: TW\nTcpExt: 1\n", "TcpExt: TCPTimeouts\nTcpExt: x\n"] {
            assert_eq!(timeouts_in(other), None, "{other:?}");
        }
        assert!(timeouts(&File::open(COUNTERS).unwrap()).is_some());
    }
}
