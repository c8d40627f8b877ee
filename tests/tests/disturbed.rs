//! Others lay hands on the daemon's sockets and maps: directions that then cannot enter the kernel stay in user space, and a
//! stream that lost bytes never seems to be whole.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Borrowed, Config, Daemon, Ending, Held, Net, SocketExt as _, eventually, option};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::Signal;
use socket2::{SockRef, Socket};

const FALLBACKS: &str = "landbridge_datapath_fallbacks_total";
const PROMOTIONS: &str = "landbridge_datapath_promotions_total";

/// What the daemon of [`scene`] promotes after.
const MESSAGES: u32 = 8;

/// A network whose target lacks an option that the client has, so that sessions are not joined, and a daemon that promotes
/// after some messages.
fn scene() -> Result<(Net, Config)> {
    scene_of(MESSAGES)
}

/// The same with a daemon that promotes after so many messages.
fn scene_of(messages: u32) -> Result<(Net, Config)> {
    let net = Net::new(1)?;
    net.targets[0].set_sysctl("ipv4/tcp_sack", "0")?;
    let config = Config::single(net.targets[0].v4(9000)).runtime("workers = 1");
    let config = config.datapath(&format!("promote_after = {messages}")).datapath("promote_gap = \"0ms\"");
    Ok((net, config))
}

/// Talks for longer than it takes until both directions are promoted, or refused.
fn talk(client: &mut TcpStream) -> Result<()> {
    (0..2 * MESSAGES).try_for_each(|_| client.expect_echo(b"message"))
}

/// So many directions were refused, all for this reason; the session ends in order.
fn refused(mut daemon: Daemon, mut client: TcpStream, (directions, reason): (f64, &str)) -> Result<()> {
    talk(&mut client)?;
    daemon.wait_metric(FALLBACKS, &[("datapath", "sockmap"), ("reason", reason)], directions)?;
    daemon.wait_metric(FALLBACKS, &[("datapath", "sockmap")], directions)?;
    daemon.wait_metric(PROMOTIONS, &[], 2.0 - directions)?;
    talk(&mut client)?;
    client.finish_writing()?;
    client.expect_ending(Ending::Closed)?;
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn a_map_that_is_full() -> Result<()> {
    let (net, config) = scene()?;
    let _echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    // No socket has such a cookie.
    let strangers = daemon.process().borrow_map("SLOTS")?.fill(1 << 48)?;
    ensure!(strangers > 1000, "it was full with {strangers}");
    let client = net.client.connect(daemon.v4())?;
    refused(daemon, client, (2.0, "map_full"))
}

/// A filter that is locked cannot be replaced, and those that are accepted inherit that.
#[test]
fn a_socket_whose_filter_is_locked() -> Result<()> {
    let (net, config) = scene()?;
    let _echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    for Borrowed { here, .. } in daemon.process().borrow("socket:")? {
        let socket = Socket::from(here);
        if socket.is_listener().unwrap_or(false) {
            option::set(&socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)?;
        }
    }
    let client = net.client.connect(daemon.v4())?;
    refused(daemon, client, (1.0, "gate_refused"))
}

#[test]
fn a_byte_that_somebody_else_has_written() -> Result<()> {
    let (net, config) = scene()?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    daemon.process().borrow_leg(echo.address())?.1.write_all(b"!")?;
    client.expect(b"!")?;
    refused(daemon, client, (1.0, "out_of_step"))
}

/// The epoll that would tell of its end has the leg already, under the same number.
#[test]
fn a_leg_that_cannot_be_watched() -> Result<()> {
    let (net, config) = scene()?;
    let _echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    let (number, leg) = daemon.process().borrow_leg(client.local_addr()?)?;
    let same = fcntl(&leg, FcntlArg::F_DUPFD_CLOEXEC(number))?;
    // SAFETY: the kernel has just made it for this process.
    let same = unsafe { OwnedFd::from_raw_fd(same) };
    ensure!(same.as_raw_fd() == number, "the test has a descriptor {number} of its own");
    // Nobody's key.
    let mut event = EpollEvent::new(EpollFlags::EPOLLET, u64::MAX);
    for Borrowed { here, .. } in daemon.process().borrow("anon_inode:[eventpoll]")? {
        // The runtimes' own watch something all the time.
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", here.as_raw_fd()))?;
        if !info.contains("tfd:") {
            // SAFETY: the kernel reads one event, whose layout is that of libc's.
            let added =
                unsafe { libc::epoll_ctl(here.as_raw_fd(), libc::EPOLL_CTL_ADD, number, (&raw mut event).cast()) };
            ensure!(added == 0, "{}", io::Error::last_os_error());
        }
    }
    drop((leg, same));
    refused(daemon, client, (1.0, "watch"))
}

/// Holds the worker where it has begun to promote `source`: until it goes on, nothing else asks for this.
fn hold_at_promotion(daemon: &mut Daemon, source: RawFd, message: impl FnOnce() -> Result<()>) -> Result<Held> {
    let worker = daemon.process().hold("worker-0")?;
    message()?;
    worker.run_to("a promotion", |call, [descriptor, level, option, ..]| {
        call == libc::SYS_getsockopt
            && [*descriptor, *level, *option] == [source as u64, libc::SOL_SOCKET as u64, libc::SO_COOKIE as u64]
    })?;
    Ok(worker)
}

/// Before it could tell its books it was made to listen, and who listens has none.
#[test]
fn a_leg_that_is_no_connection_any_more() -> Result<()> {
    let (net, config) = scene()?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    // What is sent before this leg is there does not count.
    let (_, sink) = daemon.process().borrow_leg(echo.address())?;
    let (source, _) = daemon.process().borrow_leg(client.local_addr()?)?;
    (1..MESSAGES).try_for_each(|_| client.expect_echo(b"message"))?;
    let worker = hold_at_promotion(&mut daemon, source, || Ok(client.write_all(b"message")?))?;
    disconnect(&sink)?;
    Socket::from(sink).listen(1)?;
    drop(worker);
    daemon.wait_metric(FALLBACKS, &[("datapath", "sockmap"), ("reason", "socket")], 1.0)?;
    daemon.wait_metric(PROMOTIONS, &[], 0.0)?;
    // What cannot be sent on ends the session.
    client.write_all(b"message")?;
    let (_echo, ending) = client.read_to_ending()?;
    ensure!(ending == Ending::Reset, "{ending:?}");
    daemon.stop().map(drop)
}

/// Takes a socket's connection away from it.
fn disconnect(socket: &TcpStream) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the pointer and the size are those of one address.
    let code = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One comes between any two looks at the books, so that they never agree.
#[test]
fn a_leg_that_is_acknowledged_faster_than_its_books_can_be_read() -> Result<()> {
    /// Of one message: few segments, which are sent at once and so read at once.
    const MESSAGE: usize = 4 << 10;
    /// Together far more than the target has room for.
    const MESSAGES: u32 = 40;
    /// How often the books are looked at before the daemon gives up.
    const LOOKS: usize = 32;
    let (net, config) = scene_of(MESSAGES)?;
    // All of the backlog has room in the socket.
    net.proxy.set_sysctl("ipv4/tcp_wmem", "4096 1048576 4194304")?;
    let ear = net.targets[0].listen(net.targets[0].v4(9000))?;
    SockRef::from(&ear).set_recv_buffer_size(4096)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    let mut target = ear.accept()?.0;
    for message in 1..MESSAGES {
        client.write_all(&[1; MESSAGE])?;
        daemon.wait_metric(
            "landbridge_bytes_total",
            &[("direction", "upload")],
            f64::from(message) * MESSAGE as f64,
        )?;
    }
    let (source, _) = daemon.process().borrow_leg(client.local_addr()?)?;
    let (number, sink) = daemon.process().borrow_leg(ear.local_addr()?)?;
    let worker = hold_at_promotion(&mut daemon, source, || Ok(client.write_all(&[1; MESSAGE])?))?;
    let mut received = 0;
    for _ in 0..LOOKS {
        worker.run_to("a look at the books", |call, [descriptor, request, ..]| {
            call == libc::SYS_ioctl && [*descriptor, *request] == [number as u64, libc::TIOCOUTQ]
        })?;
        let before = sink.unacknowledged()?;
        eventually("an acknowledgement", || {
            received += target.read(&mut [0; 1024])?;
            ensure!(sink.unacknowledged()? < before, "not yet");
            Ok(())
        })?;
    }
    drop((worker, sink));
    daemon.wait_metric(FALLBACKS, &[("datapath", "sockmap"), ("reason", "busy")], 1.0)?;
    daemon.wait_metric(PROMOTIONS, &[], 0.0)?;
    client.finish_writing()?;
    let (rest, ending) = target.read_to_ending()?;
    ensure!(ending == Ending::Closed && received + rest.len() == MESSAGES as usize * MESSAGE, "{ending:?}: {received}");
    drop(target);
    client.expect_ending(Ending::Closed)?;
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

/// Has the target end its stream.
const ENOUGH: &[u8] = b"enough";

/// A target that echoes until its client's stream ends, and tells how that was.
fn echo_to_ending(net: &Net) -> Result<Scripted<Ending>> {
    Scripted::start(&net.targets[0], 9000, |mut stream| {
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(Ending::Closed),
                Ok(length) if &buffer[..length] == ENOUGH => stream.finish_writing()?,
                Ok(length) => stream.write_all(&buffer[..length])?,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Ending::Reset),
                Err(error) => return Err(error.into()),
            }
        }
    })
}

/// Reads what arrives on a leg before the daemon does.
fn steal(leg: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut stolen = vec![0; expected.len()];
    // The socket does not block, for the daemon's sake.
    eventually("something to steal", || leg.read_exact(&mut stolen).context("nothing"))?;
    ensure!(stolen == expected, "{stolen:?}");
    Ok(())
}

/// After a theft in user space the kernel takes so many directions, and then the one ends that was robbed: the session is reset
/// both ways, and counted.
fn doubted(
    net: &Net,
    mut daemon: Daemon,
    mut client: TcpStream,
    target: &Scripted<Ending>,
    (promoted, end): (f64, impl FnOnce(&mut TcpStream) -> Result<()>),
) -> Result<()> {
    const DOUBTS: &str = "landbridge_integrity_resets_total";
    daemon.process().signal(Signal::SIGCONT)?;
    talk(&mut client)?;
    daemon.wait_metric(PROMOTIONS, &[], promoted)?;
    daemon.wait_metric(DOUBTS, &[], 0.0)?;
    end(&mut client)?;
    client.expect_ending(Ending::Reset)?;
    ensure!(target.outcome()? == Ending::Reset, "the target took the stream for whole");
    daemon.wait_ended(1, "integrity_reset")?;
    daemon.wait_metric(DOUBTS, &[], 1.0)?;
    // The next session is none the worse for it.
    let mut next = net.client.connect(daemon.v4())?;
    talk(&mut next)?;
    drop(next);
    daemon.wait_metric(DOUBTS, &[], 1.0)?;
    daemon.stop().map(drop)
}

#[test]
fn an_upload_that_lost_bytes_is_reset_both_ways() -> Result<()> {
    let (net, config) = scene()?;
    let target = echo_to_ending(&net)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    let (_, mut leg) = daemon.process().borrow_leg(client.local_addr()?)?;
    daemon.process().stop_running()?;
    client.write_all(b"stolen")?;
    steal(&mut leg, b"stolen")?;
    drop(leg);
    doubted(&net, daemon, client, &target, (2.0, |client| client.finish_writing()))
}

/// The thief asks for itself, so that the upload is out of step and stays in user space.
#[test]
fn a_download_that_lost_bytes_is_reset_both_ways() -> Result<()> {
    let (net, config) = scene()?;
    let target = echo_to_ending(&net)?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    let (_, mut leg) = daemon.process().borrow_leg(target.address())?;
    daemon.process().stop_running()?;
    leg.write_all(b"stolen")?;
    steal(&mut leg, b"stolen")?;
    drop(leg);
    doubted(&net, daemon, client, &target, (1.0, |client| Ok(client.write_all(ENOUGH)?)))
}

/// What the kernel loses is missed at once: the target must get nothing that comes after it.
#[test]
fn a_leg_that_the_kernel_no_longer_finds() -> Result<()> {
    let (net, config) = scene()?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        (0..2 * MESSAGES).try_for_each(|_| {
            stream.expect(b"message")?;
            Ok::<_, anyhow::Error>(stream.write_all(b"message")?)
        })?;
        stream.read_to_ending()
    })?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    talk(&mut client)?;
    daemon.wait_metric(PROMOTIONS, &[], 2.0)?;
    let (_, leg) = daemon.process().borrow_leg(client.local_addr()?)?;
    daemon.process().borrow_map("PEERS")?.remove(SockRef::from(&leg).cookie()?)?;
    drop(leg);
    match (0..100).try_for_each(|_| client.write_all(b"lost, and what comes after it")) {
        Ok(()) => client.expect_ending(Ending::Reset)?,
        // A reset is told once.
        Err(early) => ensure!(early.kind() == ErrorKind::ConnectionReset, "{early}"),
    }
    let (received, ending) = target.outcome()?;
    ensure!(received.is_empty() && ending == Ending::Reset, "{ending:?} after {} bytes", received.len());
    daemon.wait_ended(1, "integrity_reset")?;
    daemon.wait_metric("landbridge_integrity_resets_total", &[], 1.0)?;
    daemon.stop().map(drop)
}
