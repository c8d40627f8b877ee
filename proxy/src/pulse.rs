//! Once a second the counters of the workers become what people look at: round-trip times, whoever is slow, and the rates
//! of the last minutes for the status page.
//!
//! One task of the supervisor; cancelling it leaves the numbers as they are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::slow::{Signs, Slow, SlowJudge};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::running::Running;
use crate::shared::Shared;
use crate::stats::{Direction, RouteCell};

/// The time between two beats; hysteresis and rates count in it.
const BEAT: Duration = Duration::from_secs(1);

/// Beats in one point of the history, and points that are kept: ten minutes, as many points as a small chart can show.
pub(crate) const BEATS_PER_POINT: u64 = 5;
pub(crate) const POINTS: usize = 120;

/// A listener that was full has room again when so many beats have passed without a client that was refused: while it is
/// nearly full the log does not say both again and again.
const ROOM_AFTER: u32 = 10;

/// What is known of all groups, by name: a reload keeps it.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<HashMap<String, GroupPulse>>);

/// Whether a listener refuses clients because it has as many sessions as it may have.
#[derive(Debug, Default)]
struct Fullness {
    /// Clients that were refused since the daemon started.
    counted: u64,
    /// Clients that were refused since it is full, and beats since the last one.
    full: Option<(u64, u32)>,
}

/// What has changed about a listener.
#[derive(Debug, PartialEq, Eq)]
enum Crowd {
    /// It is full.
    Full,
    /// It has room again, after so many refused clients.
    Room(u64),
}

impl Fullness {
    fn beat(&mut self, counted: u64) -> Option<Crowd> {
        let refused = counted.saturating_sub(std::mem::replace(&mut self.counted, counted));
        match &mut self.full {
            None if refused == 0 => None,
            None => {
                self.full = Some((refused, 0));
                Some(Crowd::Full)
            }
            Some((total, quiet)) => {
                (*total, *quiet) = (*total + refused, if refused == 0 { *quiet + 1 } else { 0 });
                let total = *total;
                (*quiet >= ROOM_AFTER).then(|| {
                    self.full = None;
                    Crowd::Room(total)
                })
            }
        }
    }
}

/// What is known of one group.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupPulse {
    judge: SlowJudge,
    /// The client legs and the target legs, as they were at the last looks.
    pub(crate) legs: [LegPulse; 2],
    totals: Totals,
    /// Totals when the last point began, and the beats since.
    point: (Totals, u64),
    /// The oldest point first.
    pub(crate) history: VecDeque<Point>,
}

/// Means over the sessions that were looked at, from the last beat with a look on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LegPulse {
    /// `None`: never measured.
    pub(crate) round_trip: Option<Duration>,
    /// Bytes per session.
    pub(crate) unsent: f64,
    pub(crate) unacknowledged: f64,
}

/// Some seconds of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Point {
    /// Sessions at its end.
    pub(crate) sessions: u32,
    /// Connects per second.
    pub(crate) connects: f64,
    /// Bytes per second, in the order of [`Direction::ALL`].
    pub(crate) bytes: [f64; 2],
}

/// What was counted of a group since the daemon started.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    connects: u64,
    bytes: [u64; 2],
    signs: Signs,
    legs: [LegTotals; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct LegTotals {
    looks: u64,
    trips: u64,
    trip_micros: u64,
    unsent: u64,
    unacknowledged: u64,
}

impl GroupPulse {
    /// Which leg is slow, if one is.
    pub(crate) fn slow(&self) -> Option<Slow> {
        self.judge.verdict()
    }

    fn beat(&mut self, totals: Totals, sessions: u32) -> Option<Slow> {
        let before = std::mem::replace(&mut self.totals, totals);
        for (side, leg) in self.legs.iter_mut().enumerate() {
            leg.beat(&before.legs[side], &totals.legs[side]);
        }
        let (since, beats) = &mut self.point;
        *beats += 1;
        if *beats >= BEATS_PER_POINT {
            let seconds = BEAT.as_secs_f64() * *beats as f64;
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let bytes = [0, 1].map(|direction| rate(totals.bytes[direction], since.bytes[direction]));
            let point = Point { sessions, connects: rate(totals.connects, since.connects), bytes };
            if self.history.len() == POINTS {
                self.history.pop_front();
            }
            self.history.push_back(point);
            self.point = (totals, 0);
        }
        let slow = std::array::from_fn(|which| totals.signs.slow[which].saturating_sub(before.signs.slow[which]));
        self.judge.round(&Signs { fine: totals.signs.fine.saturating_sub(before.signs.fine), slow })
    }
}

impl LegPulse {
    fn beat(&mut self, before: &LegTotals, now: &LegTotals) {
        let looks = now.looks.saturating_sub(before.looks);
        if looks > 0 {
            self.unsent = now.unsent.saturating_sub(before.unsent) as f64 / looks as f64;
            self.unacknowledged = now.unacknowledged.saturating_sub(before.unacknowledged) as f64 / looks as f64;
        }
        let micros = now.trip_micros.saturating_sub(before.trip_micros);
        if let Some(mean) = micros.checked_div(now.trips.saturating_sub(before.trips)) {
            self.round_trip = Some(Duration::from_micros(mean));
        }
    }
}

impl Totals {
    fn of(shared: &Shared, group: usize) -> Self {
        let mut totals = Self::default();
        shared.stats.cells_of(|id| id.group == group).for_each(|cell| totals.add(cell));
        totals
    }

    fn add(&mut self, cell: &RouteCell) {
        self.connects += cell.connects.get();
        for direction in Direction::ALL {
            self.bytes[direction as usize] += cell.moved(direction);
        }
        self.signs.fine += cell.looked.fine.get();
        for (sum, slow) in self.signs.slow.iter_mut().zip(&cell.looked.slow) {
            *sum += slow.get();
        }
        for (sum, leg) in self.legs.iter_mut().zip(&cell.looked.legs) {
            sum.looks += leg.looks.get();
            sum.trips += leg.trips.get();
            sum.trip_micros += leg.trip_micros.get();
            sum.unsent += leg.unsent.get();
            sum.unacknowledged += leg.unacknowledged.get();
        }
    }
}

impl Pulse {
    /// What is known of the group `name`.
    pub(crate) fn group(&self, name: &str) -> GroupPulse {
        self.groups().get(name).cloned().unwrap_or_default()
    }

    /// Keeps the numbers up to date, for ever.
    pub(crate) async fn run(running: Arc<Running>) {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut listeners = HashMap::new();
        loop {
            beats.tick().await;
            let shared = running.load();
            running.pulse.beat(&shared);
            look_at_listeners(&shared, &mut listeners);
        }
    }

    fn beat(&self, shared: &Shared) {
        let mut groups = self.groups();
        // Groups that a reload removed are forgotten.
        groups.retain(|name, _| shared.config.groups.iter().any(|group| group.name == *name));
        for (index, group) in shared.config.groups.iter().enumerate() {
            let of = shared.config.target_ids().filter(|id| id.group == index);
            let sessions = of.map(|id| shared.sessions(id)).sum();
            let pulse = groups.entry(group.name.clone()).or_default();
            let before = pulse.slow();
            let slow = pulse.beat(Totals::of(shared, index), sessions);
            if slow != before {
                match slow {
                    Some(slow) => warn!(group = group.name, leg = slow.code(), "most active sessions wait for it"),
                    None => info!(group = group.name, "no leg is slow any more"),
                }
            }
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<String, GroupPulse>> {
        // A panic inside leaves numbers that are a second old.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says which listeners are full, and which are no longer.
fn look_at_listeners(shared: &Shared, known: &mut HashMap<String, Fullness>) {
    known.retain(|name, _| shared.config.listeners.iter().any(|listener| listener.name == *name));
    for (index, listener) in shared.config.listeners.iter().enumerate() {
        let cells = shared.stats.listener_cells(index).iter();
        let counted = cells.map(|cell| cell.ends.of(SessionEnd::ListenerFull).get()).sum();
        let (listener, most) = (&listener.name, listener.max_connections);
        match known.entry(listener.clone()).or_default().beat(counted) {
            Some(Crowd::Full) => warn!(listener, max_connections = most, "full: refusing clients"),
            Some(Crowd::Room(refused)) => info!(listener, refused, "no longer full"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_listener_is_told_once_and_its_end_when_it_lasts() {
        let mut listener = Fullness::default();
        assert_eq!(listener.beat(0), None);
        assert_eq!(listener.beat(2), Some(Crowd::Full));
        for counted in [3, 3, 3, 4] {
            assert_eq!(listener.beat(counted), None);
        }
        let quiet: Vec<_> = (0..ROOM_AFTER + 5).filter_map(|_| listener.beat(4)).collect();
        assert_eq!(quiet, [Crowd::Room(4)]);
        assert_eq!(listener.beat(5), Some(Crowd::Full));
    }

    #[test]
    fn counters_become_rates_and_the_oldest_points_go() {
        let mut group = GroupPulse::default();
        for second in 1..=BEATS_PER_POINT * (POINTS as u64 + 1) {
            let totals = Totals { connects: 3 * second, bytes: [1_000 * second, 0], ..Totals::default() };
            group.beat(totals, 7);
        }
        assert_eq!(group.history.len(), POINTS);
        let expected = Point { sessions: 7, connects: 3.0, bytes: [1_000.0, 0.0] };
        assert!(group.history.iter().all(|point| *point == expected), "{:?}", group.history);
    }

    #[test]
    fn means_are_those_of_the_last_looks_and_stay_without_new_ones() {
        let mut group = GroupPulse::default();
        let leg =
            |looks, trips, trip_micros, unsent| LegTotals { looks, trips, trip_micros, unsent, unacknowledged: 0 };
        let beat = |group: &mut GroupPulse, leg| group.beat(Totals { legs: [leg; 2], ..Totals::default() }, 0);
        beat(&mut group, leg(2, 1, 500, 10));
        assert_eq!((group.legs[0].round_trip, group.legs[0].unsent), (Some(Duration::from_micros(500)), 5.0));
        beat(&mut group, leg(4, 3, 900, 10));
        beat(&mut group, leg(4, 3, 900, 10));
        assert_eq!((group.legs[1].round_trip, group.legs[1].unsent), (Some(Duration::from_micros(200)), 0.0));
    }

    #[test]
    fn signs_become_a_verdict() {
        let mut group = GroupPulse::default();
        for second in 1..=10 {
            group.beat(Totals { signs: Signs { fine: 0, slow: [0, second, 0] }, ..Totals::default() }, 1);
        }
        assert_eq!(group.slow(), Some(Slow::Network));
    }
}
