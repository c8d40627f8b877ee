//! Loss, duplication and reordering between two TUN devices, by a plan that a seed fixes.
//!
//! One thread carries the packets of a link both ways until its [`Storm`] is dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The largest packet of the internet protocols, in bytes.
const LARGEST_PACKET: usize = 65_535;

/// Packets of one side that are carried before the other side has a turn.
const TURN: usize = 64;

/// What happens to packets on their way. Shares are of 1.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Fixes the fate of every packet by its number.
    pub seed: u64,
    /// The share of packets that never arrive.
    pub lost: f64,
    /// The share of packets that arrive twice, the second time late.
    pub duplicated: f64,
    /// The share of packets that others overtake.
    pub late: f64,
    /// How late at most.
    pub latest: Duration,
}

/// How many packets had which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// All that were sent.
    pub sent: u64,
    /// Those that never arrived.
    pub lost: u64,
    /// Those that arrived twice.
    pub duplicated: u64,
    /// Those that arrived late.
    pub late: u64,
}

/// A link with weather; dropped, the link is gone.
#[derive(Debug)]
pub(crate) struct Storm {
    counts: Arc<Counts>,
    end: Arc<EventFd>,
    carrier: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    late: AtomicU64,
}

impl Weather {
    /// No damage at all.
    pub const FAIR: Self = Self { seed: 0, lost: 0.0, duplicated: 0.0, late: 0.0, latest: Duration::ZERO };

    /// Carries packets between two devices; each takes `delay` at least.
    pub(crate) fn between(self, delay: Duration, devices: [File; 2]) -> io::Result<Storm> {
        let (counts, end) = (Arc::<Counts>::default(), Arc::new(EventFd::new()?));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (side, device) in (0..).zip(&devices) {
            epoll.add(device, EpollEvent::new(EpollFlags::EPOLLIN, side))?;
        }
        epoll.add(&end, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        let carrier = Carrier {
            weather: self,
            delay,
            random: SmallRng::seed_from_u64(self.seed),
            devices,
            epoll,
            counts: Arc::clone(&counts),
            late: BinaryHeap::new(),
        };
        let carrier = thread::spawn(move || carrier.run());
        Ok(Storm { counts, end, carrier: Some(carrier) })
    }
}

impl Storm {
    /// What it has done so far.
    pub(crate) fn damage(&self) -> Damage {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { sent, lost, duplicated, late } = &*self.counts;
        Damage { sent: count(sent), lost: count(lost), duplicated: count(duplicated), late: count(late) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // It cannot fail before 2^64 of them.
        self.end.write(1).ok();
        self.carrier.take().map(JoinHandle::join);
    }
}

/// The event that ends a carrier; the others have the number of a device.
const END: u64 = 2;

/// A packet that is held back: when it is due, its number (so that none are equal), the device it goes to.
type Held = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Carrier {
    weather: Weather,
    delay: Duration,
    random: SmallRng,
    devices: [File; 2],
    epoll: Epoll,
    counts: Arc<Counts>,
    late: BinaryHeap<Held>,
}

impl Carrier {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 3];
        let mut packet = vec![0; LARGEST_PACKET];
        loop {
            let Ok(ready) = self.epoll.wait(&mut events, self.patience()) else { return };
            for event in &events[..ready] {
                match event.data() {
                    END => return,
                    side => self.carry(side as usize, &mut packet),
                }
            }
            let now = Instant::now();
            while self.late.peek().is_some_and(|Reverse((due, ..))| *due <= now)
                && let Some(Reverse((_, _, to, packet))) = self.late.pop()
            {
                self.deliver(to, &packet);
            }
        }
    }

    /// How long it may sleep.
    fn patience(&self) -> EpollTimeout {
        let Some(Reverse((due, ..))) = self.late.peek() else { return EpollTimeout::NONE };
        // Rounded up: a millisecond too late is late too, one too early would spin.
        let millis = due.saturating_duration_since(Instant::now()).as_millis() + 1;
        u16::try_from(millis).unwrap_or(u16::MAX).into()
    }

    /// Carries what waits on a device.
    fn carry(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..TURN {
            match self.devices[from].read(buffer) {
                Ok(length) => self.decide(1 - from, &buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_nothing_waits) => return,
            }
        }
    }

    fn decide(&mut self, to: usize, packet: &[u8]) {
        let number = self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let (Weather { lost, duplicated, late, latest, .. }, always) = (self.weather, self.delay);
        let fate: f64 = self.random.random();
        let delay = latest.mul_f64(self.random.random());
        let mut hold = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
            self.late.push(Reverse((Instant::now() + always + delay, number, to, packet.to_vec())));
        };
        if fate < lost {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        } else if fate < lost + late {
            hold(&self.counts.late);
        } else {
            if fate < lost + late + duplicated {
                hold(&self.counts.duplicated);
            }
            if always.is_zero() {
                self.deliver(to, packet);
            } else {
                self.late.push(Reverse((Instant::now() + always, number, to, packet.to_vec())));
            }
        }
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        // A device that takes nothing loses the packet, as a network does.
        nix::unistd::write(&self.devices[to], packet).ok();
    }
}
