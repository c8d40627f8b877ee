//! How large packets may be on the way to an address.
//!
//! A joined session has one connection's segments travel as the other's, so that each side must announce no more than fits
//! on the other's way (`TCP_MAXSEG`).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use landbridge_core::join::headers;
use nix::libc;
use socket2::SockRef;

use super::options::OptionError;
use crate::config::{Dial, TcpOptions};
use crate::tcp::get;

/// The largest segment that fits on the way to a target, without options, in bytes. Nothing is sent: the kernel is asked for
/// the route.
pub(crate) fn segment_towards(target: SocketAddr, dial: &Dial, tcp: &TcpOptions) -> io::Result<u32> {
    let any = if target.is_ipv6() { [0_u16; 8].into() } else { std::net::IpAddr::from([0_u8; 4]) };
    let socket = UdpSocket::bind((dial.source.unwrap_or(any), 0))?;
    if let Some(interface) = &tcp.interface {
        SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
    }
    socket.connect(target)?;
    segment_of(socket.as_fd(), target.is_ipv6())
}

/// The largest segment that fits on the way to a connected socket's peer, without options, in bytes.
pub(crate) fn segment_of(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<u32> {
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
