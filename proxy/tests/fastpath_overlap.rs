//! A segment that repeats received bytes before new ones. A sender makes such segments when it puts small ones that it has
//! to repeat together, and only some of them were lost. TCP queues them whole, and readers have to skip what is repeated.
//!
//! Needs root and the eBPF object (`cargo xtask test`), else it says that it did nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use landbridge::fastpath::{FastPath, Limits, Unavailable};
use landbridge_tests::option::{self, Sequences};
use landbridge_tests::packet::Packet;
use socket2::{Domain, Protocol, Socket, Type};

const SOON: Duration = Duration::from_secs(5);

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
    const PUSH_AND_ACK: u8 = 0x18;
    /// As small as windows get, and scaled.
    const WINDOW: u16 = 1000;
    let (from, to) = (sender.local_addr()?, sender.peer_addr()?);
    let numbers = sequences(sender).context("the sequence numbers of a connection")?;
    let packet = Packet {
        source: (from.ip(), from.port()),
        destination: (to.ip(), to.port()),
        sequence: numbers.sent.wrapping_sub(back as u32),
        acknowledgement: numbers.received,
        flags: PUSH_AND_ACK,
        window: WINDOW,
        options: Vec::new(),
        payload: payload.to_vec(),
        hops: 64,
        class: 0,
        identification: 0,
    };
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    raw.set_header_included_v4(true)?;
    raw.send_to(&packet.bytes(), &to.into())?;
    Ok(())
}

fn sequences(socket: &TcpStream) -> io::Result<Sequences> {
    option::repair(socket)?;
    let sequences = option::sequences(socket);
    option::end_repair(socket)?;
    sequences
}
