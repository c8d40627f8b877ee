//! A tiny proxy: it relays a first request in user space and then joins the two connections, as the daemon would.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};
use landbridge_common::packet::{
    CLIENT, CLIENT_ACKED, CLOCK_AHEAD, Joint, KNOWN, Leg, TARGET, TARGET_ACKED, TIMESTAMPS, Tuple, phase,
};
use landbridge_tests::option::{self, Sequences};
use landbridge_tests::{Host, SocketExt as _, eventually};
use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::programs::Programs;

/// The joint that a test uses.
pub(crate) const INDEX: u32 = 3;

/// The first exchange, which the middle relays.
pub(crate) const REQUEST: &[u8] = b"a request";
pub(crate) const RESPONSE: &[u8] = b"a response, longer than its request";

/// Both ends and both sockets between them.
pub(crate) struct Session {
    pub(crate) client: TcpStream,
    pub(crate) target: TcpStream,
    /// The middle's sockets: client leg, target leg.
    pub(crate) legs: [TcpStream; 2],
}

impl Session {
    /// Connects and relays one request and its response.
    pub(crate) fn relayed(
        client: &Host,
        proxy: &Host,
        target: &Host,
        near: SocketAddr,
        far: SocketAddr,
    ) -> Result<Self> {
        let targets = target.listen(far)?;
        let listener = proxy.listen(near)?;
        let client = client.connect(listener.local_addr()?)?;
        let client_leg = accept(&listener)?;
        let target_leg = proxy.connect(targets.local_addr()?)?;
        let target = accept(&targets)?;
        // The client acknowledges with what it writes next, if it writes soon.
        option::set(&client, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)?;
        let mut session = Self { client, target, legs: [client_leg, target_leg] };
        session.relay()?;
        Ok(session)
    }

    /// One request and its response through user space.
    pub(crate) fn relay(&mut self) -> Result<()> {
        self.client.write_all(REQUEST)?;
        pass(&mut &self.legs[CLIENT], &mut &self.legs[TARGET], &mut self.target, REQUEST)?;
        self.target.write_all(RESPONSE)?;
        pass(&mut &self.legs[TARGET], &mut &self.legs[CLIENT], &mut self.client, RESPONSE)
    }

    /// The four-tuple of a leg as packets arrive on it.
    pub(crate) fn tuple(&self, side: usize) -> Tuple {
        let leg = &self.legs[side];
        tuple(leg.peer_addr().expect("connected"), leg.local_addr().expect("connected"))
    }

    /// Makes the joint known to the programs.
    pub(crate) fn watch(&self, programs: &mut Programs) {
        let joint = Joint { state: phase::WATCHED, index: INDEX, idle_limit: 60_000_000_000, ..Joint::default() };
        programs.joints.set(INDEX, &joint);
        for side in [CLIENT, TARGET] {
            programs.insert(self.tuple(side), INDEX << 1 | side as u32);
        }
    }

    /// Waits until both peers have acknowledged everything.
    pub(crate) fn settle(&self) -> Result<()> {
        eventually("both peers acknowledge everything", || {
            for leg in &self.legs {
                ensure!(leg.unacknowledged()? == 0, "not yet");
            }
            Ok(())
        })
    }

    /// Prepares and arms the joint. `device` are the devices towards client and target, if the program is to fall back
    /// on them.
    pub(crate) fn arm(&self, programs: &Programs, devices: [u32; 2]) -> Result<()> {
        let joints = &programs.joints;
        ensure!(exchange(joints.state(INDEX), phase::WATCHED, phase::PREPARED), "{:x}", joints.get(INDEX).state);
        let sockets = [Snapshot::of(&self.legs[CLIENT])?, Snapshot::of(&self.legs[TARGET])?];
        let mut acked = 0;
        for (side, flag) in [(CLIENT, CLIENT_ACKED), (TARGET, TARGET_ACKED)] {
            let passed = joints.passed(INDEX, side);
            let received = sockets[side].received;
            let arrived = passed & KNOWN == 0 || (received.wrapping_sub(passed as u32) as i32) >= 0;
            ensure!(arrived && sockets[side].unread == 0, "not quiet");
            if self.legs[side].unacknowledged()? == 0 {
                acked |= flag;
            }
        }
        let clocks_read_at = monotonic();
        joints.change(INDEX, |joint| {
            joint.clocks_read_at = clocks_read_at;
            joint.flags = TIMESTAMPS;
            for side in [CLIENT, TARGET] {
                let (mine, other) = (&sockets[side], &sockets[1 - side]);
                let out = self.tuple(1 - side);
                joint.legs[side] = Leg {
                    out: Tuple {
                        source: out.destination,
                        destination: out.source,
                        source_port: out.destination_port,
                        destination_port: out.source_port,
                    },
                    received: mine.received,
                    sent: mine.sent,
                    sequence_delta: other.sent.wrapping_sub(mine.received),
                    acknowledgement_delta: other.received.wrapping_sub(mine.sent),
                    window_scale_in: mine.scale_of_peer,
                    window_scale_out: other.scale,
                    is_ipv6: self.is_ipv6(side).into(),
                    clock: other.clock,
                    device: devices[1 - side],
                    ..joint.legs[side]
                };
            }
        });
        ensure!(exchange(joints.state(INDEX), phase::PREPARED, phase::ARMED | acked), "dirty");
        Ok(())
    }

    fn is_ipv6(&self, side: usize) -> bool {
        match self.legs[side].local_addr().expect("connected").ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
        }
    }
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let stream = listener.accept()?.0;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn pass(from: &mut impl io::Read, to: &mut impl io::Write, end: &mut TcpStream, message: &[u8]) -> Result<()> {
    let mut buffer = vec![0; message.len()];
    from.read_exact(&mut buffer)?;
    to.write_all(&buffer)?;
    end.read_exact(&mut buffer)?;
    ensure!(buffer == message, "relayed wrong");
    Ok(())
}

fn exchange(word: &std::sync::atomic::AtomicU64, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

pub(crate) fn tuple(source: SocketAddr, destination: SocketAddr) -> Tuple {
    Tuple {
        source: words(source.ip()),
        destination: words(destination.ip()),
        source_port: source.port().to_be(),
        destination_port: destination.port().to_be(),
    }
}

/// An address as the maps have it.
pub(crate) fn words(ip: IpAddr) -> [u32; 4] {
    let octets = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
    .octets();
    std::array::from_fn(|n| u32::from_ne_bytes(octets[4 * n..4 * n + 4].try_into().expect("four bytes")))
}

/// The kernel's monotonic clock in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is such a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// What a socket knows about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) received: u32,
    pub(crate) sent: u32,
    pub(crate) scale_of_peer: u8,
    pub(crate) scale: u8,
    pub(crate) clock: u32,
    pub(crate) unread: u32,
    pub(crate) segments_in: u32,
}

impl Snapshot {
    /// Puts the socket into repair mode, in which it is silent, and leaves it there.
    pub(crate) fn of(socket: &TcpStream) -> Result<Self> {
        option::repair(socket)?;
        let Sequences { sent, received } = option::sequences(socket)?;
        // `struct tcp_info` (linux/tcp.h)
        let info: [u32; 36] = option::get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
        let scales = info[1].to_ne_bytes()[2];
        let [clock] = option::get(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP)?;
        Ok(Self {
            received,
            sent,
            scale_of_peer: scales & 15,
            scale: scales >> 4,
            clock: clock.wrapping_add(CLOCK_AHEAD),
            unread: unread(socket)?,
            segments_in: info[35],
        })
    }
}

fn unread(socket: &TcpStream) -> Result<u32> {
    nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int.
    unsafe { fionread(socket.as_raw_fd(), &raw mut bytes) }?;
    Ok(u32::try_from(bytes)?)
}
