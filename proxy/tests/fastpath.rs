//! The promises of the fast path, one by one, on loopback.
//!
//! Needs root and the eBPF object (`cargo xtask test`), else it says that it did nothing.

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use landbridge::fastpath::{Alarm, Fallback, FastPath, Limits, OBJECT, Promoted, Unavailable};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

fn start(limits: Limits) -> Option<Arc<FastPath>> {
    match FastPath::start(limits) {
        Ok(fast_path) => Some(fast_path),
        Err(why @ (Unavailable::NotBuilt | Unavailable::NoCapability { .. } | Unavailable::KernelTooOld { .. })) => {
            eprintln!("skipped: {}", landbridge::chain::chain(&why));
            None
        }
        Err(why) => panic!("{}", landbridge::chain::chain(&why)),
    }
}

/// client, client leg, target leg, target
fn session() -> [TcpStream; 4] {
    let connect = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback works");
        let near = TcpStream::connect(listener.local_addr().expect("loopback works")).expect("loopback works");
        near.set_nodelay(true).expect("loopback works");
        let far = listener.accept().expect("loopback works").0;
        far.set_read_timeout(Some(SOON)).expect("loopback works");
        (near, far)
    };
    let ((client, client_leg), (target_leg, target)) = (connect(), connect());
    [client, client_leg, target_leg, target]
}

fn deliver(promoted: &Promoted<'_>) {
    let begin = Instant::now();
    while !promoted.is_delivered().expect("loopback works") {
        assert!(begin.elapsed() < SOON, "not delivered");
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_budget_refuses_and_is_given_back() {
    let Some(fast_path) = start(Limits { budget: 1, ..Limits::default() }) else { return };
    let [_client, client_leg, target_leg, _target] = session();
    let promoted = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), 0).unwrap();
    assert_eq!(
        fast_path.promote(target_leg.as_fd(), client_leg.as_fd(), 0).err().unwrap().fallback(),
        Fallback::Budget
    );
    drop(promoted);
    drop(fast_path.promote(target_leg.as_fd(), client_leg.as_fd(), 0).unwrap());
    assert_eq!(fast_path.promoted(), 0);
}

/// An open TCP socket tells everything; another one does not.
#[test]
fn what_does_not_tell_its_books_is_refused() {
    let Some(fast_path) = start(Limits::default()) else { return };
    let [_client, client_leg, ..] = session();
    let (sink, _other) = UnixStream::pair().unwrap();
    let refused = fast_path.promote(client_leg.as_fd(), sink.as_fd(), 0).err().unwrap();
    assert_eq!(refused.fallback().code(), "socket", "{refused}");
    assert_eq!(fast_path.promoted(), 0);
}

/// As `cargo build` makes the daemon without further ado.
#[test]
fn a_daemon_without_the_object_says_so() {
    if OBJECT.is_some() {
        eprintln!("skipped: this build has the eBPF object");
        return;
    }
    let why = FastPath::start(Limits::default()).err().unwrap();
    assert_eq!(why.reason(), "not_built");
    let doctor = Command::new(env!("CARGO_BIN_EXE_landbridge")).args(["doctor", "--json"]).output().unwrap();
    let report = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(report.matches("not_built").count(), 2, "the fast path and the packet datapath: {report}");
}

#[test]
fn wrong_books_and_ended_streams_are_refused() {
    let Some(fast_path) = start(Limits::default()) else { return };
    let [client, client_leg, mut target_leg, _target] = session();
    target_leg.write_all(b"four").unwrap();
    for wrong in [0, 2, 6] {
        let refused = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), wrong).err().unwrap();
        assert_eq!(refused.fallback(), Fallback::OutOfStep, "{wrong}: {refused}");
    }
    client.shutdown(Shutdown::Write).unwrap();
    sleep(Duration::from_millis(20));
    let refused = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), 4).err().unwrap();
    assert_eq!(refused.fallback(), Fallback::InsertRefused, "{refused}");
    assert_eq!(fast_path.promoted(), 0);
}

#[test]
fn what_arrives_after_a_stop_waits_for_user_space() {
    let Some(fast_path) = start(Limits::default()) else { return };
    let [mut client, mut client_leg, target_leg, mut target] = session();
    let mut promoted = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), 0).unwrap();
    client.write_all(b"kernel").unwrap();
    let mut read = [0; 6];
    target.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"kernel");
    let stopped = promoted.stop().unwrap();
    assert!(stopped.settled, "its only packet has long had its verdict");
    client.write_all(b"user").unwrap();
    deliver(&promoted);
    assert_eq!(promoted.finish().unwrap().bytes, 6);
    let mut rest = [0; 4];
    client_leg.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"user");
    assert_eq!(FastPath::received(client_leg.as_fd()).unwrap(), 10);
}

/// A target that does not read at all: what the kernel takes for it stays near the hard limit, whatever the client sends.
#[tokio::test]
async fn the_hard_limit_bounds_what_a_stopped_reader_costs() {
    let limits = Limits { soft: 256 << 10, hard: 1 << 20, bulk: u64::MAX, ..Limits::default() };
    let Some(fast_path) = start(limits) else { return };
    let alarms = tokio::spawn(Arc::clone(&fast_path).run_alarms());
    let [client, client_leg, target_leg, mut target] = session();
    let mut promoted = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), 0).unwrap();

    client.set_nonblocking(true).unwrap();
    let block = vec![7; 64 << 10];
    let mut sent = 0;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        match (&client).write(&block) {
            Ok(n) => sent += n as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    let alarm = timeout(SOON, poll_fn(|cx| promoted.poll_alarm(cx))).await.unwrap();
    assert_eq!(alarm, Alarm::Behind);
    let taken = promoted.redirected().bytes;
    // The target's receive buffer has acknowledged some of it; packets of 64 KB overshoot.
    assert!(taken > limits.hard && taken < limits.hard + (8 << 20), "{taken} of {sent}");
    eprintln!("{taken} bytes taken of {sent} sent, hard limit {}", limits.hard);
    assert!(fast_path.counters().unwrap().gate_dropped > 0);

    promoted.stop().unwrap();
    let reader = std::thread::spawn(move || {
        let mut read = vec![0; taken as usize];
        target.read_exact(&mut read).unwrap();
        read.iter().all(|byte| *byte == 7)
    });
    deliver(&promoted);
    assert_eq!(promoted.finish().unwrap().bytes, taken);
    assert!(reader.join().unwrap());
    alarms.abort();
}

#[tokio::test]
async fn an_alarm_wakes_its_session() {
    let Some(fast_path) = start(Limits { bulk: 10_000, ..Limits::default() }) else { return };
    let alarms = tokio::spawn(Arc::clone(&fast_path).run_alarms());
    let [mut client, client_leg, target_leg, _target] = session();
    let promoted = fast_path.promote(client_leg.as_fd(), target_leg.as_fd(), 0).unwrap();
    client.write_all(b"a token").unwrap();
    let early = timeout(Duration::from_millis(50), poll_fn(|cx| promoted.poll_alarm(cx))).await;
    assert!(early.is_err(), "{early:?}");

    let writer = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.write_all(&[0; 20_000]).unwrap();
    };
    let (alarm, ()) = tokio::join!(timeout(SOON, poll_fn(|cx| promoted.poll_alarm(cx))), writer);
    assert_eq!(alarm.unwrap(), Alarm::Bulk);
    promoted.ignore_bulk();
    let ignored = timeout(Duration::from_millis(20), poll_fn(|cx| promoted.poll_alarm(cx))).await;
    assert!(ignored.is_err(), "{ignored:?}");
    alarms.abort();
}
