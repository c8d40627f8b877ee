//! Counters of the data plane: written by one worker each, summed when somebody looks.
//!
//! A session belongs to one worker for life, so each worker counts in cells of its own and no cache line travels
//! between CPUs for a byte that is forwarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use landbridge_core::datapath::Demotion;
use landbridge_core::end::SessionEnd;
use landbridge_core::join::{Haste, NotJoined};
use landbridge_core::select::TargetId;

use crate::config::Config;
use crate::fastpath::Fallback;
use crate::histogram::Histogram;
use crate::idle_close::IdleClose;
use crate::looks::Looked;
use crate::net::dial::FailureReason;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client to target.
    Upload,
    /// Target to client.
    Download,
}

impl Direction {
    /// Both directions, in the order of their cells.
    pub const ALL: [Self; 2] = [Self::Upload, Self::Download];

    /// The value of the metric label `direction`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// What carried bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// `recv` and `send`.
    Copy,
    /// `splice` through a pipe.
    Splice,
    /// The kernel, from socket to socket.
    Sockmap,
    /// The kernel, from device to device.
    Packet,
}

impl Carrier {
    /// All carriers, in the order of their cells.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Splice, Self::Sockmap, Self::Packet];

    /// The value of the metric label `datapath`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
            Self::Packet => "packet",
        }
    }
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the lives of the last sessions suggest.
#[derive(Debug, Default)]
pub struct HasteCell(AtomicU8);

impl HasteCell {
    /// A session has ended that lived for so long.
    pub fn ended(&self, lived: Duration) {
        // Written by one worker alone.
        self.0.store(self.get().ended(lived).short, Ordering::Relaxed);
    }

    /// What they suggest.
    pub fn get(&self) -> Haste {
        Haste { short: self.0.load(Ordering::Relaxed) }
    }
}

/// A number of things that are there now. Only sums over all workers mean anything.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A direction of a session that is counted to what carries it, until this is dropped.
#[derive(Debug)]
pub struct Presence {
    cell: Arc<RouteCell>,
    direction: Direction,
    carrier: Carrier,
}

impl Presence {
    /// Counts a direction to `carrier`.
    pub fn new(cell: Arc<RouteCell>, direction: Direction, carrier: Carrier) -> Self {
        cell.present(direction, carrier).up();
        Self { cell, direction, carrier }
    }

    /// From now on `carrier` carries it.
    pub fn change(&mut self, carrier: Carrier) {
        if carrier != self.carrier {
            self.cell.present(self.direction, self.carrier).down();
            self.cell.present(self.direction, carrier).up();
            self.carrier = carrier;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.cell.present(self.direction, self.carrier).down();
    }
}

/// The counters of one listener on one worker that belong to no target.
// Two cache lines: neighbouring lines are fetched in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct ListenerCell {
    /// Sessions that ended before they had a target, by end.
    pub ends: Ends,
    /// Connections that could not be accepted.
    pub accept_failures: Counter,
}

/// The counters of one target under one listener on one worker.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct RouteCell {
    /// Sessions that ended, by end.
    pub ends: Ends,
    /// Connects that were tried.
    pub connects: Counter,
    /// How long those took that worked.
    pub connect_times: Histogram,
    /// How long targets took to their first byte.
    pub first_byte_times: Histogram,
    /// How soon the target closes idle sessions.
    pub idle_close: IdleClose,
    /// What looks at its sessions have found.
    pub looked: Looked,
    /// Connects that failed, in the order of [`FailureReason::ALL`].
    failures: [Counter; FailureReason::ALL.len()],
    /// Directions that were handed to the kernel.
    pub promotions: Counter,
    /// Directions that the kernel did not take, in the order of [`Fallback::ALL`].
    fallbacks: [Counter; Fallback::ALL.len()],
    /// Whether the next session should be joined at once.
    pub haste: HasteCell,
    /// Sessions that were joined.
    pub joins: Counter,
    /// Sessions that a former process had joined.
    pub adoptions: Counter,
    /// Sessions that were not joined, in the order of [`NotJoined::ALL`].
    not_joined: [Counter; NotJoined::ALL.len()],
    /// Directions that came back from the kernel, in the order of [`Demotion::ALL`].
    demotions: [Counter; Demotion::ALL.len()],
    /// Bytes read from one leg for the other, by direction and carrier.
    bytes: [[Counter; Carrier::ALL.len()]; Direction::ALL.len()],
    /// Directions that are open, by what carries them.
    present: [[Gauge; Carrier::ALL.len()]; Direction::ALL.len()],
}

impl RouteCell {
    /// Failed connects for `reason`.
    pub fn failures(&self, reason: FailureReason) -> &Counter {
        &self.failures[reason as usize]
    }

    /// Sessions that were not joined because of `why`.
    pub fn not_joined(&self, why: NotJoined) -> &Counter {
        &self.not_joined[why as usize]
    }

    /// Directions that stayed in user space because of `why`.
    pub fn fallbacks(&self, why: Fallback) -> &Counter {
        &self.fallbacks[why as usize]
    }

    /// Directions that came back from the kernel because of `why`.
    pub fn demotions(&self, why: Demotion) -> &Counter {
        &self.demotions[why as usize]
    }

    /// Bytes that `carrier` moved in `direction`.
    pub fn bytes(&self, direction: Direction, carrier: Carrier) -> &Counter {
        &self.bytes[direction as usize][carrier as usize]
    }

    /// Bytes that moved in `direction`, whatever carried them.
    pub fn moved(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].iter().map(Counter::get).sum()
    }

    /// Directions that `carrier` carries now.
    pub fn present(&self, direction: Direction, carrier: Carrier) -> &Gauge {
        &self.present[direction as usize][carrier as usize]
    }
}

/// Sessions by how they ended.
#[derive(Debug, Default)]
pub struct Ends([Counter; SessionEnd::ALL.len()]);

impl Ends {
    /// Sessions that ended as `end`.
    pub fn of(&self, end: SessionEnd) -> &Counter {
        &self.0[end as usize]
    }

    /// Sessions that ended.
    pub fn all(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

/// All counters of a running configuration.
#[derive(Debug)]
pub struct Stats {
    listeners: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    cells: Arc<[ListenerCell]>,
    routes: Vec<(TargetId, Arc<[Arc<RouteCell>]>)>,
}

impl Stats {
    /// Counters for every listener and each of its targets, for `workers` workers. Those that `former` has for the same
    /// listener, group and address go on; all others begin at zero.
    pub fn new(config: &Config, workers: usize, former: Option<(&Config, &Self)>) -> Self {
        let listener = |listener: &crate::config::Listener| {
            let known = former.and_then(|(config, stats)| {
                let index = config.listeners.iter().position(|known| known.name == listener.name)?;
                Some((config, &stats.listeners[index]))
            });
            let route = |id: TargetId| {
                let known = known.and_then(|(former, known)| known.route(former.same_target(config, id)?));
                (id, known.map_or_else(|| cells(workers), Arc::clone))
            };
            let ids = listener.groups.iter().flat_map(|&group| {
                (0..config.groups[group].targets.len()).map(move |target| TargetId { group, target })
            });
            let routes = ids.map(route).collect();
            Listener { cells: known.map_or_else(|| cells(workers), |(_, known)| Arc::clone(&known.cells)), routes }
        };
        Self { listeners: config.listeners.iter().map(listener).collect() }
    }

    /// The cell of `worker` for `listener`.
    pub fn listener(&self, listener: usize, worker: usize) -> &ListenerCell {
        &self.listeners[listener].cells[worker]
    }

    /// The cell of `worker` for the target `id` under `listener`.
    ///
    /// # Panics
    /// If the listener does not use the target's group.
    pub fn route(&self, listener: usize, id: TargetId, worker: usize) -> &Arc<RouteCell> {
        &self.listeners[listener].route(id).expect("selection stays inside the listener's groups")[worker]
    }

    /// The cells of all workers for `listener`.
    pub fn listener_cells(&self, listener: usize) -> &[ListenerCell] {
        &self.listeners[listener].cells
    }

    /// The targets of `listener`, each with the cells of all workers.
    pub fn routes(&self, listener: usize) -> impl Iterator<Item = (TargetId, &[Arc<RouteCell>])> {
        self.listeners[listener].routes.iter().map(|(id, cells)| (*id, &**cells))
    }

    /// The cells of all workers for the targets of this kind, under whichever listener.
    pub fn cells_of(&self, kind: impl Fn(TargetId) -> bool) -> impl Iterator<Item = &RouteCell> {
        let routes = self.listeners.iter().flat_map(|listener| &listener.routes);
        routes.filter(move |(id, _)| kind(*id)).flat_map(|(_, cells)| &**cells).map(|cell| &**cell)
    }
}

impl Listener {
    fn route(&self, id: TargetId) -> Option<&Arc<[Arc<RouteCell>]>> {
        self.routes.iter().find(|(route, _)| *route == id).map(|(_, cells)| cells)
    }
}

fn cells<T: Default>(workers: usize) -> Arc<[T]> {
    (0..workers).map(|_| T::default()).collect()
}
