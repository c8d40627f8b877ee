//! Selection: tier, then group, then target.
//!
//! [`Selector`] owns everything that a choice depends on: weights, the state of the round-robins, and how many sessions
//! each target has. Choosing a target also counts the session, so that limits hold exactly even when several
//! sessions choose at once; [`Selector::release`] gives it back.

mod balance;
mod smooth;

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use rand::SeedableRng;
use rand::rngs::SmallRng;

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
    targets: Vec<Target>,
    turn: SmoothRoundRobin,
}

#[derive(Debug)]
struct Target {
    spec: TargetSpec,
    sessions: u32,
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
    /// left out; a tier whose targets are all tried, full or of weight 0 is passed over.
    pub fn select(&mut self, listener: usize, client: IpAddr, tried: &[TargetId]) -> Result<TargetId, NoTarget> {
        let Self { groups, listeners, random } = self;
        let route = &mut listeners[listener];
        let able = |index: usize| groups[index].able(index, tried);
        let tier = route.groups.iter().filter(|&&index| able(index)).map(|&index| groups[index].tier).min();
        let tier = tier.ok_or(NoTarget)?;
        let candidates = route.groups.iter().enumerate();
        let candidates = candidates.filter(|&(_, &index)| groups[index].tier == tier && able(index));
        let turn = route.turn.next(candidates.map(|(turn, &index)| (turn, groups[index].weight))).ok_or(NoTarget)?;

        let index = route.groups[turn];
        let group = &mut groups[index];
        let target = group.choose(index, client, tried, random).ok_or(NoTarget)?;
        group.targets[target].sessions += 1;
        Ok(TargetId { group: index, target })
    }

    /// Gives back a session that [`Selector::select`] counted to `id`.
    pub fn release(&mut self, id: TargetId) {
        let target = &mut self.groups[id.group].targets[id.target];
        debug_assert!(target.sessions > 0, "a session was released twice");
        target.sessions = target.sessions.saturating_sub(1);
    }

    /// The sessions that are counted to `id` now.
    pub fn sessions(&self, id: TargetId) -> u32 {
        self.groups[id.group].targets[id.target].sessions
    }

    /// Whether some target of `listener` can take a session now.
    pub fn is_able(&self, listener: usize) -> bool {
        self.listeners[listener].groups.iter().any(|&index| self.groups[index].able(index, &[]))
    }
}

impl Group {
    fn new(spec: GroupSpec) -> Self {
        Self {
            tier: spec.tier,
            weight: spec.weight,
            balance: spec.balance,
            turn: SmoothRoundRobin::new(spec.targets.len()),
            targets: spec.targets.into_iter().map(|spec| Target { spec, sessions: 0 }).collect(),
        }
    }

    /// Whether the group may take a session on a target outside `tried`; `own` is the group's index.
    fn able(&self, own: usize, tried: &[TargetId]) -> bool {
        self.weight > 0
            && self
                .targets
                .iter()
                .enumerate()
                .any(|(index, target)| target.able() && !tried.contains(&TargetId { group: own, target: index }))
    }

    fn choose(&mut self, own: usize, client: IpAddr, tried: &[TargetId], random: &mut SmallRng) -> Option<usize> {
        let Self { balance, targets, turn, .. } = self;
        let able = targets
            .iter()
            .enumerate()
            .filter(|&(index, target)| target.able() && !tried.contains(&TargetId { group: own, target: index }));
        match balance {
            Balance::WeightedRoundRobin => balance::round_robin(able, turn),
            Balance::LeastConnections => balance::least_connections(able, turn),
            Balance::RandomTwo => balance::random_two(able, random),
            Balance::SourceHash => balance::source_hash(able, client),
        }
    }
}

impl Target {
    fn able(&self) -> bool {
        self.spec.weight > 0 && self.spec.max_sessions.is_none_or(|limit| self.sessions < limit)
    }

    /// Orders targets by sessions for their weight, as if each had taken this session already, without division.
    fn load_cmp(&self, other: &Self) -> core::cmp::Ordering {
        let scaled = |mine: &Self, theirs: &Self| (u64::from(mine.sessions) + 1) * u64::from(theirs.spec.weight);
        scaled(self, other).cmp(&scaled(other, self))
    }
}

#[cfg(test)]
mod tests;
