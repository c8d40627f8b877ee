//! Why one direction stays in user space although there is a fast path, as stable names for metrics.

/// What the kernel, or the daemon on its behalf, said no to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// As many directions are promoted as may be.
    Budget,
    /// There is no room in a map.
    MapFull,
    /// One of the sockets, which is half-closed or not connected.
    InsertRefused,
    /// The gate.
    GateRefused,
    /// Reading the sink's books, which change too fast.
    Busy,
    /// Telling what a socket has to tell.
    Socket,
    /// User space and the kernel disagree about what the sink was given.
    OutOfStep,
    /// Watching for the end of the source.
    Watch,
}

impl Fallback {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Budget,
        Self::MapFull,
        Self::InsertRefused,
        Self::GateRefused,
        Self::Busy,
        Self::Socket,
        Self::OutOfStep,
        Self::Watch,
    ];

    /// The value of the metric label `reason`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::MapFull => "map_full",
            Self::InsertRefused => "insert_refused",
            Self::GateRefused => "gate_refused",
            Self::Busy => "busy",
            Self::Socket => "socket",
            Self::OutOfStep => "out_of_step",
            Self::Watch => "watch",
        }
    }
}
