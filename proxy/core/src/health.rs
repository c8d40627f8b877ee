//! The health of one target, as a pure state machine: results of probes and evidence of traffic in, a verdict out.
//!
//! Time is passed in as the time since some fixed moment; nothing here reads a clock.

use core::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Probes of one group start together; a tenth of the interval more or less keeps them from staying together.
const JITTER_PERCENT: u64 = 10;

/// No ejection lasts longer, however often a target fails: whoever repairs it should not wait for it.
pub const LONGEST_EJECTION: Duration = Duration::from_mins(5);

/// What probes and traffic say of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// No verdict yet.
    Unknown,
    /// It serves.
    Up,
    /// It does not.
    Down,
}

impl Health {
    /// The word that people and programs read.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How a target is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRules {
    /// The time between two probes.
    pub interval: Duration,
    /// The same while results contradict the verdict.
    pub fast_interval: Duration,
    /// Good probes in a row that bring a target up.
    pub rise: u32,
    /// Bad probes in a row that take a target down.
    pub fall: u32,
}

/// How the failures of traffic count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectRules {
    /// Failures in a row that eject a target; 0: never.
    pub after: u32,
    /// How long the first ejection lasts; each further one in a row lasts twice as long, up to
    /// [`LONGEST_EJECTION`].
    pub hold: Duration,
}

/// The state of one target.
#[derive(Debug, Clone)]
pub struct Monitor {
    probes: Option<ProbeRules>,
    eject: EjectRules,
    health: Health,
    /// Results in a row that contradict `health`.
    against: u32,
    /// Failures of traffic in a row.
    evidence: u32,
    ejection: Option<Ejection>,
    /// Ejections in a row, and until when the next one is in that row.
    ejections: u32,
    forgiven: Duration,
    random: SmallRng,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    until: Duration,
    /// Good probes in a row since it began.
    good: u32,
}

impl Monitor {
    /// A target without a verdict. Without `probes` it counts as healthy until traffic says otherwise. Equal seeds give
    /// equal jitter.
    pub fn new(probes: Option<ProbeRules>, eject: EjectRules, seed: u64) -> Self {
        Self {
            probes,
            eject,
            health: Health::Unknown,
            against: 0,
            evidence: 0,
            ejection: None,
            ejections: 0,
            forgiven: Duration::ZERO,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// The same target under new rules: what is known of it stays known.
    pub fn with_rules(mut self, probes: Option<ProbeRules>, eject: EjectRules) -> Self {
        if probes.is_none() {
            self.health = Health::Unknown;
            self.against = 0;
        }
        if eject.after == 0 {
            self.ejection = None;
        }
        self.probes = probes;
        self.eject = eject;
        self
    }

    /// The verdict of the probes.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether traffic has ejected the target.
    pub fn is_ejected(&self) -> bool {
        self.ejection.is_some()
    }

    /// Whether new sessions may go to the target.
    pub fn is_healthy(&self) -> bool {
        let verdict = match self.health {
            Health::Up => true,
            Health::Down => false,
            Health::Unknown => self.probes.is_none(),
        };
        verdict && self.ejection.is_none()
    }

    /// Whether it is down, or traffic fails on it as often as ejects a target.
    pub fn is_failing(&self) -> bool {
        let suspect = self.eject.after > 0 && self.evidence >= self.eject.after;
        self.health == Health::Down || self.ejection.is_some() || suspect
    }

    /// What traffic says against it is forgiven, but for one more failure.
    pub fn pardon(&mut self) {
        self.evidence = self.evidence.min(self.eject.after.saturating_sub(1));
    }

    /// Takes the result of a probe. The first one is a verdict by itself; later ones need `rise` or `fall` in a row.
    pub fn probed(&mut self, good: bool) {
        let Some(rules) = self.probes else { return };
        let result = if good { Health::Up } else { Health::Down };
        if self.health == result {
            self.against = 0;
        } else {
            self.against += 1;
            let needed = match self.health {
                Health::Unknown => 1,
                Health::Up => rules.fall,
                Health::Down => rules.rise,
            };
            if self.against >= needed {
                self.health = result;
                self.against = 0;
                self.evidence = 0;
                // Probes have seen it fail and recover since, which says more than the traffic before.
                self.ejection = None;
            }
        }
        if let Some(ejection) = &mut self.ejection {
            ejection.good = if good { ejection.good + 1 } else { 0 };
            if ejection.good >= rules.rise {
                self.ejection = None;
            }
        }
    }

    /// When the next probe is due after one that ended at `now`; `None`: the target is not probed.
    pub fn next_probe(&mut self, now: Duration) -> Option<Duration> {
        let rules = self.probes?;
        let between = self.against > 0 || self.ejection.is_some() || self.health == Health::Unknown;
        let interval = if between { rules.fast_interval } else { rules.interval };
        Some(now + self.jittered(interval))
    }

    /// Traffic failed on the target at `now`; `may_eject`: whether its group can do without it.
    pub fn failed(&mut self, now: Duration, may_eject: bool) {
        if self.eject.after == 0 || self.ejection.is_some() {
            return;
        }
        self.evidence = self.evidence.saturating_add(1);
        if self.evidence < self.eject.after || !may_eject {
            return;
        }
        if now >= self.forgiven {
            self.ejections = 0;
        }
        let doubled = 1_u32.checked_shl(self.ejections).and_then(|times| self.eject.hold.checked_mul(times));
        let hold = doubled.map_or(LONGEST_EJECTION, |hold| hold.min(LONGEST_EJECTION));
        self.ejections += 1;
        self.ejection = Some(Ejection { until: now + hold, good: 0 });
        self.forgiven = now + hold + hold;
    }

    /// Traffic was answered by the target.
    pub fn served(&mut self) {
        self.evidence = 0;
    }

    /// Ends an ejection whose time is up. One more failure then ejects the target again.
    pub fn tick(&mut self, now: Duration) {
        if self.ejection.is_some_and(|ejection| now >= ejection.until) {
            self.ejection = None;
            self.evidence = self.eject.after.saturating_sub(1);
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.ejection.map(|ejection| ejection.until)
    }

    fn jittered(&mut self, interval: Duration) -> Duration {
        let percent = self.random.random_range(100 - JITTER_PERCENT..=100 + JITTER_PERCENT);
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos / 100 * percent)
    }
}

#[cfg(test)]
mod tests;
