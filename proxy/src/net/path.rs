//! How large packets may be on the way to an address.
//!
//! A joined session has one connection's segments travel as the other's, so that each side must announce no more than fits
//! on the other's way (`TCP_MAXSEG`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use landbridge_core::join::headers;
use nix::libc;
use socket2::SockRef;

use super::options::OptionError;
use crate::config::{Dial, TcpOptions};
use crate::tcp::get;

/// How long what was asked about the way to a client is believed. What changes meanwhile costs sessions their joining at worst.
const FRESH: Duration = Duration::from_secs(1);

/// Clients whose ways are known at most; then all are asked for again.
const MOST_CLIENTS: usize = 1024;

/// The ways to the clients of a worker, of which a balancer has a few that bring all sessions.
#[derive(Debug, Default)]
pub(crate) struct ClientWays(RefCell<HashMap<IpAddr, (u32, Instant)>>);

impl ClientWays {
    /// The largest segment that fits on the way to the client at `address`, whose `socket` this is, without options, in bytes;
    /// `None` if the kernel does not say. `now`: when its session began.
    pub(crate) fn segment(&self, socket: BorrowedFd<'_>, address: IpAddr, now: Instant) -> Option<u32> {
        let mut known = self.0.borrow_mut();
        if let Some((segment, asked)) = known.get(&address)
            && now.saturating_duration_since(*asked) < FRESH
        {
            return Some(*segment);
        }
        let segment = segment_of(socket, address.is_ipv6()).ok()?;
        if known.len() == MOST_CLIENTS {
            known.clear();
        }
        known.insert(address, (segment, now));
        Some(segment)
    }
}

/// The largest segment that fits on the way to a target, without options, in bytes. Nothing is sent: the kernel is asked for
/// the route.
pub(crate) fn segment_towards(target: SocketAddr, dial: &Dial, tcp: &TcpOptions) -> io::Result<u32> {
    let any = if target.is_ipv6() { [0_u16; 8].into() } else { IpAddr::from([0_u8; 4]) };
    let socket = UdpSocket::bind((dial.source.unwrap_or(any), 0))?;
    if let Some(interface) = &tcp.interface {
        SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
    }
    socket.connect(target)?;
    segment_of(socket.as_fd(), target.is_ipv6())
}

/// The largest segment that fits on the way to a connected socket's peer, without options, in bytes.
fn segment_of(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<u32> {
    let (level, option) = if is_ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut mtu: [libc::c_int; 1] = [0];
    get(socket, level, option, &mut mtu)?;
    Ok(u32::try_from(mtu[0]).unwrap_or(0).saturating_sub(headers(is_ipv6)))
}

/// Lets a socket's peer send no larger segments than this; to be set before it connects or listens.
pub(crate) fn clamp(socket: &socket2::Socket, segment: u32) -> Result<(), OptionError> {
    // What the kernel takes (linux/tcp.c, TCP_MIN_MSS and MAX_TCP_WINDOW).
    super::options::check("segment size", segment, socket.set_tcp_mss(segment.clamp(88, 32_767)))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    /// One that is not connected, and one that is.
    fn sockets() -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    }

    #[test]
    fn a_client_s_way_is_asked_for_once_a_second() {
        let (listener, client) = sockets();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (ways, now) = (ClientWays::default(), Instant::now());
        let ask = |socket: BorrowedFd<'_>, address, after| ways.segment(socket, address, now + after);
        let segment = ask(client.as_fd(), loopback, Duration::ZERO);
        assert!(segment.is_some_and(|segment| segment > 1000), "{segment:?}");
        // A socket that is not connected has no way: whoever gets an answer has not asked for it.
        assert_eq!(ask(listener.as_fd(), loopback, FRESH / 2), segment);
        assert_eq!(ask(listener.as_fd(), Ipv4Addr::new(127, 0, 0, 2).into(), FRESH / 2), None);
        assert_eq!(ask(listener.as_fd(), loopback, FRESH), None);
    }

    #[test]
    fn not_more_clients_are_known_than_may_be() {
        let (_listener, client) = sockets();
        let (ways, now) = (ClientWays::default(), Instant::now());
        for number in 0..=MOST_CLIENTS as u32 {
            let address = Ipv4Addr::from(0x7f00_0000 + number).into();
            assert!(ways.segment(client.as_fd(), address, now).is_some());
        }
        assert_eq!(ways.0.borrow().len(), 1);
    }
}
