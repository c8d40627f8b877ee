//! What the two ends of a session do, as a function of a seed and the session's number.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::pattern::{Chunk, LONGEST_CHUNK, mix};

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that connects.
    Client,
    /// The end that accepts.
    Target,
}

/// When an end closes with RST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Before it has sent all: after this many bytes.
    AfterSending(u64),
    /// Before it has received all: after this many bytes.
    AfterReceiving(u64),
}

/// How an end reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reader {
    /// As fast as it can.
    Eager,
    /// A few kilobytes at a time, with pauses.
    Slow,
    /// Eagerly, but not at all for a while after so many bytes.
    Stopping { after: u64, pause: Duration },
}

/// What one end does.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Bytes that it sends before it half-closes.
    pub(super) length: u64,
    /// The seed of these bytes.
    pub(super) stream: u64,
    pub(super) reader: Reader,
    /// Whether its socket buffers are as small as they can be.
    pub(super) small_buffers: bool,
    /// The seed of its chunks and pauses.
    pub(super) rhythm: u64,
}

/// What both ends of a session do.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    client: Part,
    target: Part,
    reset: Option<(Role, Reset)>,
}

/// What all sessions of a crowd have in common.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Whether some ends have socket buffers as small as they can be. Over a bad network that would be a test of TCP's
    /// patience: each lost window update is waited for twice as long as the one before.
    pub small_buffers: bool,
}

/// The share of ends whose socket buffers are as small as they can be.
const SMALL_BUFFERS: f64 = 0.15;

/// The most that goes through such buffers, in bytes.
const LONGEST_BEHIND_SMALL_BUFFERS: u64 = 40_000;

/// The share of sessions that one of the ends resets.
const RESETS: f64 = 0.15;

impl Plan {
    /// The plan of session `number`.
    pub(super) fn of(habits: Habits, number: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(mix(habits.seed ^ mix(number)));
        let [mut client, mut target] = [Part::random(habits, &mut random), Part::random(habits, &mut random)];
        if client.small_buffers || target.small_buffers {
            // A window of a packet or two, each of them acknowledged late, takes a long time.
            client.length %= LONGEST_BEHIND_SMALL_BUFFERS;
            target.length %= LONGEST_BEHIND_SMALL_BUFFERS;
        }
        client.reader = client.reader.for_length(target.length, &mut random);
        target.reader = target.reader.for_length(client.length, &mut random);
        let mut plan = Self { client, target, reset: None };
        if random.random_bool(RESETS) {
            plan.reset = plan.random_reset(&mut random);
        }
        plan
    }

    pub(super) fn part(&self, role: Role) -> &Part {
        match role {
            Role::Client => &self.client,
            Role::Target => &self.target,
        }
    }

    /// Who resets the session, and when.
    pub(super) fn reset(&self) -> Option<(Role, Reset)> {
        self.reset
    }

    /// At a moment at which something is missing yet; none if nothing is sent that could be.
    fn random_reset(&self, random: &mut SmallRng) -> Option<(Role, Reset)> {
        let role = if random.random() { Role::Client } else { Role::Target };
        let (sends, receives) = (self.part(role).length, self.part(role.other()).length);
        let mut some = |length: u64| (length > 0).then(|| random.random_range(0..length));
        let (sending, receiving) = (some(sends)?, some(receives));
        match receiving.filter(|_| random.random_bool(0.3)) {
            Some(after) => Some((role, Reset::AfterReceiving(after))),
            None => Some((role, Reset::AfterSending(sending))),
        }
    }
}

impl Role {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Target,
            Self::Target => Self::Client,
        }
    }
}

impl Part {
    fn random(habits: Habits, random: &mut SmallRng) -> Self {
        let length = match random.random_range(0..10) {
            0 => random.random_range(0..10),
            1..5 => random.random_range(0..30_000),
            5..9 => random.random_range(0..500_000),
            _ => random.random_range(0..1_500_000),
        };
        let reader = match random.random_range(0..10) {
            0..4 => Reader::Eager,
            4..7 => Reader::Slow,
            _ => Reader::Stopping { after: 0, pause: Duration::from_millis(random.random_range(200..1_000)) },
        };
        Self {
            length,
            stream: random.random(),
            reader,
            small_buffers: random.random_bool(SMALL_BUFFERS) && habits.small_buffers,
            rhythm: random.random(),
        }
    }
}

impl Reader {
    /// The same, but a stop is somewhere within so many bytes.
    fn for_length(self, length: u64, random: &mut SmallRng) -> Self {
        match self {
            Self::Stopping { pause, .. } => Self::Stopping { after: random.random_range(0..=length), pause },
            other => other,
        }
    }

    /// What to read next, `position` bytes into the stream.
    pub(super) fn next(self, position: u64, stopped: &mut bool, random: &mut SmallRng) -> Chunk {
        match self {
            Self::Stopping { after, pause } if position >= after && !*stopped => {
                *stopped = true;
                Chunk { length: LONGEST_CHUNK, pause }
            }
            Self::Slow => Chunk {
                length: random.random_range(1..12_000),
                pause: Duration::from_micros(random.random_range(0..4_000)),
            },
            Self::Eager | Self::Stopping { .. } => Chunk { length: LONGEST_CHUNK, pause: Duration::ZERO },
        }
    }
}

/// How an end writes: rows of messages, bulk and silence in turn, so that a datapath that adapts has to.
#[derive(Debug)]
pub(super) struct Rhythm {
    random: SmallRng,
    row: Row,
    left: u32,
}

#[derive(Debug, Clone, Copy)]
enum Row {
    Messages { longest_pause: Duration },
    Bulk,
    Silence,
}

impl Rhythm {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), row: Row::Bulk, left: 0 }
    }

    /// What to write next.
    pub(super) fn next(&mut self) -> Chunk {
        if self.left == 0 {
            (self.row, self.left) = self.next_row();
        }
        self.left -= 1;
        let random = &mut self.random;
        match self.row {
            Row::Messages { longest_pause } => {
                Chunk { length: random.random_range(1..2_000), pause: longest_pause.mul_f64(random.random()) }
            }
            Row::Bulk => Chunk { length: random.random_range(1..=LONGEST_CHUNK), pause: Duration::ZERO },
            Row::Silence => Chunk { length: 1, pause: Duration::from_millis(random.random_range(10..100)) },
        }
    }

    fn next_row(&mut self) -> (Row, u32) {
        let random = &mut self.random;
        match random.random_range(0..10) {
            0..6 => {
                let longest_pause = Duration::from_millis([0, 2, 10, 20][random.random_range(0..4)]);
                (Row::Messages { longest_pause }, random.random_range(5..30))
            }
            6..9 => (Row::Bulk, random.random_range(1..8)),
            _ => (Row::Silence, 1),
        }
    }
}
