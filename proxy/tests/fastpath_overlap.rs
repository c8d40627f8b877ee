//! A segment that repeats received bytes before new ones. A sender makes such segments when it puts small ones that it has
//! to repeat together, and only some of them were lost. TCP queues them whole, and readers have to skip what is repeated.
//!
//! Needs root and the eBPF object (`cargo xtask test`), else it says that it did nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use landbridge::fastpath::{FastPath, Limits, Unavailable};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

const SOON: Duration = Duration::from_secs(5);

/// The header of TCP without options.
const HEADER: usize = 20;

#[test]
fn what_a_segment_repeats_is_not_forwarded_again() -> Result<()> {
    let fast_path = match FastPath::start(Limits::default()) {
        Ok(fast_path) => fast_path,
        Err(why @ (Unavailable::NotBuilt | Unavailable::NoCapability { .. } | Unavailable::KernelTooOld { .. })) => {
            eprintln!("skipped: {}", landbridge::chain::chain(&why));
            return Ok(());
        }
        Err(why) => bail!("{}", landbridge::chain::chain(&why)),
    };
    // One byte, a few, and so many that they are cut off in several steps; a session for each, since a forged segment
    // leaves its sender out of step.
    for repeated in [1, 7, 10_000] {
        let (mut client, client_leg) = connect()?;
        let (target_leg, mut target) = connect()?;
        let mut promoted = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), 0)?;
        let stream: Vec<u8> = (0..12_000_u32).map(|at| (at % 251) as u8).collect();
        let (first, rest) = stream.split_at(11_000);
        client.write_all(first)?;
        let mut received = vec![0; first.len()];
        target.read_exact(&mut received)?;
        ensure!(received == first, "before the repetition");

        forge(&client, repeated, &stream[first.len() - repeated as usize..])?;
        let mut received = vec![0; rest.len()];
        target.read_exact(&mut received)?;
        ensure!(received == rest, "{repeated} bytes were repeated: {:?} instead of {:?}", &received[..8], &rest[..8]);

        promoted.stop()?;
        let begin = Instant::now();
        while !promoted.is_delivered()? {
            ensure!(begin.elapsed() < SOON, "not delivered");
            std::thread::sleep(Duration::from_millis(1));
        }
        ensure!(promoted.finish()?.bytes == stream.len() as u64, "the books count repeated bytes");
        ensure!(FastPath::received(client_leg.as_fd())? == stream.len() as u64);
        // User space goes on at the right byte.
        forge(&client, -(rest.len() as i64), b"and on")?;
        let mut on = [0; 6];
        (&client_leg).read_exact(&mut on)?;
        ensure!(&on == b"and on");
    }
    ensure!(fast_path.counters()?.overlapping >= 3, "{:?}", fast_path.counters()?);
    Ok(())
}

/// Two ends of one connection on loopback.
fn connect() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    near.set_nodelay(true)?;
    let far = listener.accept()?.0;
    far.set_read_timeout(Some(SOON))?;
    Ok((near, far))
}

/// Sends a segment to the peer of `sender` in its name. It begins `back` bytes before what `sender` would send next.
fn forge(sender: &TcpStream, back: i64, payload: &[u8]) -> Result<()> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (sender.local_addr()?, sender.peer_addr()?) else {
        bail!("not IPv4");
    };
    let [next, acknowledged] = sequence_numbers(sender).context("the sequence numbers of a connection")?;
    let segment = segment(from, to, next.wrapping_sub(back as u32), acknowledged, payload);
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    raw.bind(&SocketAddrV4::new(*from.ip(), 0).into())?;
    raw.send_to(&segment, &SocketAddrV4::new(*to.ip(), 0).into())?;
    Ok(())
}

/// What a socket sends next, and what it expects next.
fn sequence_numbers(socket: &TcpStream) -> io::Result<[u32; 2]> {
    const SEND_QUEUE: i32 = 2;
    const RECEIVE_QUEUE: i32 = 1;
    /// Without a probe to the peer.
    const OFF: i32 = -1;
    set(socket, libc::TCP_REPAIR, 1)?;
    let queues = [SEND_QUEUE, RECEIVE_QUEUE].map(|queue| {
        set(socket, libc::TCP_REPAIR_QUEUE, queue)?;
        get(socket, libc::TCP_QUEUE_SEQ)
    });
    set(socket, libc::TCP_REPAIR, OFF)?;
    let [next, expected] = queues;
    Ok([next?, expected?])
}

fn set(socket: &TcpStream, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get(socket: &TcpStream, option: i32) -> io::Result<u32> {
    let mut value = 0_u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the pointers and the length are those of `value` and `length`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// A TCP segment with its checksum.
fn segment(from: SocketAddrV4, to: SocketAddrV4, sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    const PUSH_AND_ACK: u8 = 0x18;
    /// As small as windows get, and scaled.
    const WINDOW: u16 = 1000;
    let mut segment = Vec::with_capacity(HEADER + payload.len());
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([(HEADER as u8 / 4) << 4, PUSH_AND_ACK]);
    segment.extend(WINDOW.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(payload);

    let mut pseudo = Vec::from(from.ip().octets());
    pseudo.extend(to.ip().octets());
    pseudo.extend([0, libc::IPPROTO_TCP as u8]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    segment[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    segment
}
