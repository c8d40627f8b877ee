//! Selection: tier, then group, then target.

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
