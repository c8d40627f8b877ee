//! Selection: tier, then group, then target.
//!
//! [`Selector`] owns what a choice depends on: weights, the state of the round-robins, what health and the operator leave of
//! each target, and how many sessions each target has. Choosing a target also counts the session, so that limits hold
//! exactly even when several sessions choose at once; [`Load::release`] gives it back. The [`Load`] of a target may be
//! shared with the selector of the next configuration, so that counts outlast a reload.

mod balance;
mod smooth;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::failover::Standing;
use smooth::SmoothRoundRobin;

/// How a target is chosen inside a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Smooth weighted round-robin: exact over a cycle.
    WeightedRoundRobin,
    /// Fewest sessions for its weight.
    LeastConnections,
    /// Two at random by weight; of these the one with fewer sessions for its weight.
    RandomTwo,
    /// By the client's address (weighted rendezvous): a target that leaves moves only its own clients.
    SourceHash,
}

/// A group as the configuration describes it.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// Order of preference; 0 first.
    pub tier: u16,
    /// Share among the able groups of one tier; 0: no new sessions.
    pub weight: u16,
    /// How a target is chosen inside the group.
    pub balance: Balance,
    /// Its targets.
    pub targets: Vec<TargetSpec>,
}

/// A target as the configuration describes it.
#[derive(Debug, Clone)]
pub struct TargetSpec {
    /// The target's identity.
    pub address: SocketAddr,
    /// Share inside the group; 0: no new sessions.
    pub weight: u16,
    /// Sessions at once; `None`: no limit.
    pub max_sessions: Option<u32>,
    /// The sessions that it has.
    pub load: Arc<Load>,
}

/// The sessions that are counted to a target.
#[derive(Debug, Default)]
pub struct Load(AtomicU32);

impl Load {
    /// How many there are now.
    pub fn sessions(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Gives back a session that [`Selector::select`] counted.
    pub fn release(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a session was released twice");
    }

    /// Counts a session; [`Selector::select`] does it for those that it chooses.
    pub fn take(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A target of a [`Selector`]: indexes into its groups and the group's targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// Index of the group.
    pub group: usize,
    /// Index of the target inside its group.
    pub target: usize,
}

/// No group of the listener is able to take the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTarget;

/// Chooses targets; see the module's head.
#[derive(Debug)]
pub struct Selector {
    groups: Vec<Group>,
    listeners: Vec<Route>,
    random: SmallRng,
}

/// The groups that one listener may use, and whose turn it is among them.
#[derive(Debug)]
struct Route {
    groups: Vec<usize>,
    turn: SmoothRoundRobin,
}

#[derive(Debug)]
struct Group {
    tier: u16,
    weight: u16,
    balance: Balance,
    standing: Standing,
    targets: Vec<Target>,
    turn: SmoothRoundRobin,
}

#[derive(Debug)]
struct Target {
    spec: TargetSpec,
    /// How much of its weight counts, from 1 to 100; 0: no new sessions.
    percent: u8,
}

impl Selector {
    /// A selector over `groups`; `listeners` lists for each listener the indexes of its groups. Equal seeds and equal
    /// calls give equal choices.
    ///
    /// # Panics
    /// If a listener names a group that does not exist.
    pub fn new(groups: Vec<GroupSpec>, listeners: Vec<Vec<usize>>, seed: u64) -> Self {
        assert!(listeners.iter().flatten().all(|&group| group < groups.len()), "a listener names an unknown group");
        Self {
            groups: groups.into_iter().map(Group::new).collect(),
            listeners: listeners
                .into_iter()
                .map(|groups| Route { turn: SmoothRoundRobin::new(groups.len()), groups })
                .collect(),
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Chooses a target for a session of `listener` from `client` and counts the session to it. Targets in `tried` are
    /// left out; a tier whose targets are all tried, full, of weight 0 or not healthy is passed over. Held groups serve
    /// only when no other can.
    pub fn select(&mut self, listener: usize, client: IpAddr, tried: &[TargetId]) -> Result<TargetId, NoTarget> {
        let Self { groups, listeners, random } = self;
        let route = &mut listeners[listener];
        let (standing, tier) = route.rank(groups, tried).ok_or(NoTarget)?;
        let able = |index: usize| groups[index].able(index, tried) && groups[index].rank() == (standing, tier);
        let candidates = route.groups.iter().enumerate().filter(|&(_, &index)| able(index));
        let weighed = candidates.map(|(turn, &index)| (turn, u32::from(groups[index].weight)));
        let turn = route.turn.next(weighed).ok_or(NoTarget)?;

        let index = route.groups[turn];
        let group = &mut groups[index];
        let target = group.choose(index, client, tried, random).ok_or(NoTarget)?;
        group.targets[target].spec.load.take();
        Ok(TargetId { group: index, target })
    }

    /// The sessions that are counted to `id` now.
    pub fn sessions(&self, id: TargetId) -> u32 {
        self.groups[id.group].targets[id.target].sessions()
    }

    /// Whether some target of `listener` can take a session now.
    pub fn is_able(&self, listener: usize) -> bool {
        self.listeners[listener].rank(&self.groups, &[]).is_some()
    }

    /// Whether `listener` could take a session if some target had not all the sessions that it may have.
    pub fn is_full(&self, listener: usize) -> bool {
        let full = |group: &Group| {
            let target =
                |of: &Target| of.weight() > 0 && of.spec.max_sessions.is_some_and(|most| of.sessions() >= most);
            group.weight > 0 && group.standing != Standing::Unable && group.targets.iter().any(target)
        };
        !self.is_able(listener) && self.listeners[listener].groups.iter().any(|&index| full(&self.groups[index]))
    }

    /// The groups of `listener` that get its new sessions now, each with its weight among them.
    pub fn shares(&self, listener: usize) -> impl Iterator<Item = (usize, u16)> {
        let route = &self.listeners[listener];
        let rank = route.rank(&self.groups, &[]);
        let indexes = route.groups.iter().copied();
        indexes
            .filter(move |&index| self.groups[index].able(index, &[]) && Some(self.groups[index].rank()) == rank)
            .map(|index| (index, self.groups[index].weight))
    }

    /// What health and the operator leave of group `index`.
    pub fn set_standing(&mut self, index: usize, standing: Standing) {
        self.groups[index].standing = standing;
    }

    /// How much of its weight target `id` takes, from 1 to 100; 0: no new sessions.
    pub fn set_percent(&mut self, id: TargetId, percent: u8) {
        self.groups[id.group].targets[id.target].percent = percent;
    }

    /// Gives group `index` another weight.
    pub fn set_group_weight(&mut self, index: usize, weight: u16) {
        self.groups[index].weight = weight;
    }

    /// Gives target `id` another weight.
    pub fn set_weight(&mut self, id: TargetId, weight: u16) {
        self.groups[id.group].targets[id.target].spec.weight = weight;
    }

    /// The weight of group `index` now.
    pub fn group_weight(&self, index: usize) -> u16 {
        self.groups[index].weight
    }

    /// The weight of target `id` now.
    pub fn weight(&self, id: TargetId) -> u16 {
        self.groups[id.group].targets[id.target].spec.weight
    }
}

impl Route {
    /// Where the next session of the listener goes: the best rank that an able group has.
    fn rank(&self, groups: &[Group], tried: &[TargetId]) -> Option<(bool, u16)> {
        let able = self.groups.iter().filter(|&&index| groups[index].able(index, tried));
        able.map(|&index| groups[index].rank()).min()
    }
}

impl Group {
    fn new(spec: GroupSpec) -> Self {
        Self {
            tier: spec.tier,
            weight: spec.weight,
            balance: spec.balance,
            standing: Standing::Able,
            turn: SmoothRoundRobin::new(spec.targets.len()),
            targets: spec.targets.into_iter().map(|spec| Target { spec, percent: 100 }).collect(),
        }
    }

    /// Less is better: any other group goes before a held one, then the lower tier.
    fn rank(&self) -> (bool, u16) {
        (self.standing == Standing::Held, self.tier)
    }

    /// Whether the group may take a session on a target outside `tried`; `own` is the group's index.
    fn able(&self, own: usize, tried: &[TargetId]) -> bool {
        if self.weight == 0 || self.standing == Standing::Unable {
            return false;
        }
        let calm = self.calm_load();
        let untried = |index| !tried.contains(&TargetId { group: own, target: index });
        self.targets.iter().enumerate().any(|(index, target)| target.able(calm) && untried(index))
    }

    /// Sessions and weights of the targets that take their whole share, for those to be measured by that came back a
    /// moment ago; `None` if there are none of either kind.
    fn calm_load(&self) -> Option<(u64, u64)> {
        if !self.targets.iter().any(|target| (1..100).contains(&target.percent)) {
            return None;
        }
        let calm = self.targets.iter().filter(|target| target.percent == 100);
        let sum = |(sessions, weights), target: &Target| {
            (sessions + u64::from(target.sessions()), weights + u64::from(target.weight()))
        };
        Some(calm.fold((0, 0), sum)).filter(|(_, weights)| *weights > 0)
    }

    fn choose(&mut self, own: usize, client: IpAddr, tried: &[TargetId], random: &mut SmallRng) -> Option<usize> {
        let calm = self.calm_load();
        let Self { balance, targets, turn, .. } = self;
        let able = targets
            .iter()
            .enumerate()
            .filter(|&(index, target)| target.able(calm) && !tried.contains(&TargetId { group: own, target: index }));
        match balance {
            Balance::WeightedRoundRobin => balance::round_robin(able, turn),
            Balance::LeastConnections => balance::least_connections(able, turn),
            Balance::RandomTwo => balance::random_two(able, random),
            Balance::SourceHash => balance::source_hash(able, client),
        }
    }
}

impl Target {
    /// Whether it may take a session. One that came back a moment ago may take none while it has more sessions for what counts
    /// of its weight than the targets in `calm` have, which were there all the time.
    fn able(&self, calm: Option<(u64, u64)>) -> bool {
        let sessions = u64::from(self.sessions());
        let too_fast = || {
            calm.filter(|_| self.percent < 100)
                .is_some_and(|(others, weights)| sessions * weights > others * u64::from(self.weight()))
        };
        self.weight() > 0 && self.spec.max_sessions.is_none_or(|limit| self.sessions() < limit) && !too_fast()
    }

    fn sessions(&self) -> u32 {
        self.spec.load.sessions()
    }

    /// What counts of its weight, in hundredths.
    fn weight(&self) -> u32 {
        u32::from(self.spec.weight) * u32::from(self.percent)
    }

    /// Orders targets by sessions for their weight, as if each had taken this session already, without division.
    fn load_cmp(&self, other: &Self) -> core::cmp::Ordering {
        let scaled = |mine: &Self, theirs: &Self| (u64::from(mine.sessions()) + 1) * u64::from(theirs.weight());
        scaled(self, other).cmp(&scaled(other, self))
    }
}

#[cfg(test)]
mod tests;
