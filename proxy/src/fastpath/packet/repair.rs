//! Sockets in repair mode (`TCP_REPAIR`, tcp(7)): what they say of their connection, and how they step aside for it.
//!
//! Repair mode needs `CAP_NET_ADMIN`. A socket that is closed in it sends neither FIN nor RST, so that its connection
//! outlives it, and a new one can take its place without a packet. That is how CRIU moves connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use landbridge_common::packet::CLOCK_AHEAD;
use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::tcp::{get, set};

/// linux/tcp.h; libc does not have all of them for every target.
const TCP_REPAIR: libc::c_int = 19;
const TCP_REPAIR_QUEUE: libc::c_int = 20;
const TCP_QUEUE_SEQ: libc::c_int = 21;
const TCP_REPAIR_OPTIONS: libc::c_int = 22;
const TCP_TIMESTAMP: libc::c_int = 24;

const RECEIVE_QUEUE: libc::c_int = 1;
const SEND_QUEUE: libc::c_int = 2;

const ON: libc::c_int = 1;
/// Leaves repair mode, and asks the peer for an acknowledgement by a window probe.
const OFF_WITH_PROBE: libc::c_int = 0;
/// Leaves repair mode without a packet.
const OFF: libc::c_int = -1;

/// Where a socket's connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequences {
    /// The sequence number that the peer's next byte will have (`rcv_nxt`).
    pub(super) received: u32,
    /// The one that this side's next byte would have (`write_seq`).
    pub(super) sent: u32,
    /// The clock of this side's timestamps, one step a millisecond: at least what it is, and at most 4 ms more.
    pub(super) clock: u32,
}

/// Asks for them. Packets that arrive meanwhile are received as ever, but nothing may wait to be sent: while the send queue is
/// chosen, an acknowledgement has the kernel take all of it for sent. `probe`: the peer is asked for an acknowledgement.
pub(super) fn sequences(socket: BorrowedFd<'_>, probe: bool) -> io::Result<Sequences> {
    repair(socket, ON)?;
    let read = || {
        let queue = |queue: libc::c_int| {
            set(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, &[queue])?;
            number(socket, TCP_QUEUE_SEQ)
        };
        // The send queue for as short as can be.
        let (sent, received) = (queue(SEND_QUEUE)?, queue(RECEIVE_QUEUE)?);
        Ok(Sequences { received, sent, clock: number(socket, TCP_TIMESTAMP)?.wrapping_add(CLOCK_AHEAD) })
    };
    let read: io::Result<Sequences> = read();
    repair(socket, if probe { OFF_WITH_PROBE } else { OFF })?;
    // Leaving repair mode takes this away, and without it nobody could listen on the port again while connections of it
    // linger.
    SockRef::from(&socket).set_reuse_address(true)?;
    read
}

/// Makes a socket stand aside: it says nothing of its own accord any more, not even when it is closed.
pub(super) fn stand_aside(socket: BorrowedFd<'_>) -> io::Result<()> {
    let options = SockRef::from(&socket);
    options.set_keepalive(false)?;
    options.set_tcp_user_timeout(None)?;
    repair(socket, ON)
}

/// Lets a socket that stands aside ask its peer for a sign of life, by a segment that carries nothing. The peer's answer
/// is an acknowledgement like any other.
pub(super) fn probe(socket: BorrowedFd<'_>) -> io::Result<()> {
    repair(socket, OFF_WITH_PROBE)?;
    repair(socket, ON)
}

/// An established connection from `local` to `peer` that begins without a packet, as if everything up to `received` and
/// `sent` had come and gone. It stands aside.
///
/// # Errors
/// Another socket has the connection, or the address is not this host's any more.
pub(super) fn stand_in(
    (local, peer): (SocketAddr, SocketAddr),
    device: Option<u32>,
    sent: u32,
    received: u32,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    let descriptor = socket.as_fd();
    repair(descriptor, ON)?;
    for (queue, sequence) in [(SEND_QUEUE, sent), (RECEIVE_QUEUE, received)] {
        set(descriptor, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, &[queue])?;
        set(descriptor, libc::IPPROTO_TCP, TCP_QUEUE_SEQ, &[sequence])?;
    }
    if let Some(device) = device {
        set(descriptor, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &[device])?;
    }
    socket.bind(&local.into())?;
    socket.connect(&peer.into())?;
    Ok(socket)
}

/// Lets a connection that stands aside use timestamps (RFC 7323), of a clock that now shows this.
pub(super) fn set_clock(socket: BorrowedFd<'_>, clock: u32) -> io::Result<()> {
    /// `struct tcp_repair_opt` (linux/tcp.h): `TCPOPT_TIMESTAMP` without a value.
    const TIMESTAMPS: [u32; 2] = [8, 0];
    set(socket, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &TIMESTAMPS)?;
    // The kernel marks clocks of microseconds with the lowest bit.
    set(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP, &[clock & !1])
}

/// Ends a connection that stands aside by an RST to its peer.
pub(super) fn reset(socket: Socket) -> io::Result<()> {
    repair(socket.as_fd(), OFF)?;
    socket.set_linger(Some(std::time::Duration::ZERO))
    // Closed here.
}

/// The device that a socket is bound to.
pub(super) fn bound_device(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut device = [0_u32];
    get(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &mut device)?;
    Ok((device[0] != 0).then_some(device[0]))
}

fn repair(socket: BorrowedFd<'_>, mode: libc::c_int) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, TCP_REPAIR, &[mode])
}

fn number(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u32> {
    let mut number = [0_u32];
    get(socket, libc::IPPROTO_TCP, option, &mut number)?;
    Ok(number[0])
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;
    use crate::fastpath::kernel::Kernel;

    fn pair() -> Option<(TcpStream, TcpStream)> {
        if !Kernel::observe().missing().is_empty() {
            eprintln!("skipped: repair mode needs CAP_NET_ADMIN");
            return None;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let active = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Some((active, listener.accept().unwrap().0))
    }

    #[test]
    fn both_ends_say_the_same_and_go_on() {
        let Some((mut active, mut passive)) = pair() else { return };
        active.write_all(b"question").unwrap();
        passive.read_exact(&mut [0; 8]).unwrap();
        let (a, p) = (sequences(active.as_fd(), false).unwrap(), sequences(passive.as_fd(), true).unwrap());
        assert_eq!((a.sent, a.received), (p.received, p.sent));
        passive.write_all(b"answer").unwrap();
        active.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(sequences(passive.as_fd(), false).unwrap().sent, p.sent.wrapping_add(6));
    }

    #[test]
    fn a_socket_that_stands_aside_leaves_in_silence_and_another_one_resets() {
        let Some((mut active, passive)) = pair() else { return };
        let end = sequences(passive.as_fd(), false).unwrap();
        let addresses = (passive.local_addr().unwrap(), passive.peer_addr().unwrap());
        stand_aside(passive.as_fd()).unwrap();
        probe(passive.as_fd()).unwrap();
        drop(passive);
        active.set_nonblocking(true).unwrap();
        assert_eq!(active.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "neither FIN nor RST");

        let instead = stand_in(addresses, None, end.sent, end.received).unwrap();
        reset(instead).unwrap();
        active.set_nonblocking(false).unwrap();
        assert_eq!(active.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
