//! How a session ends, as stable codes for metrics and logs.

/// Why a session ended. [`SessionEnd::code`] is the value of the metric label `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionEnd {
    /// Both directions closed in order, the client first.
    ClientClosed,
    /// Both directions closed in order, the target first.
    TargetClosed,
    /// The client reset its connection, or it timed out.
    ClientReset,
    /// The target reset its connection, or it timed out.
    TargetReset,
    /// The client went away before a target was connected.
    ClientGone,
    /// No byte for `idle_timeout`.
    Idle,
    /// Half-closed, and no byte for `half_close_timeout`.
    HalfCloseTimeout,
    /// Every target that could be tried refused or timed out.
    ConnectFailed,
    /// No group was able to take a session.
    NoTarget,
    /// Every target that could have taken it was full for `queue_timeout`.
    QueueTimeout,
    /// The listener was at `max_connections`.
    ListenerFull,
    /// The PROXY header was malformed, of another version, or late.
    BadProxyHeader,
    /// The bytes received, read and redirected did not agree, or a peer's packets cannot be translated: the stream may not be
    /// whole.
    IntegrityReset,
    /// Its target went down, and sessions of such targets are reset (`on_down`).
    TargetDown,
    /// It was older than `max_session_age`.
    MaxAge,
    /// The daemon, the group or the target was drained and the deadline passed.
    Drained,
    /// The operator shut its sessions down (`landbridge shutdown sessions`).
    ShutDown,
    /// It goes on at packet level, and another process adopts it.
    Left,
}

impl SessionEnd {
    /// Every end, in a fixed order.
    pub const ALL: [Self; 18] = [
        Self::ClientClosed,
        Self::TargetClosed,
        Self::ClientReset,
        Self::TargetReset,
        Self::ClientGone,
        Self::Idle,
        Self::HalfCloseTimeout,
        Self::ConnectFailed,
        Self::NoTarget,
        Self::QueueTimeout,
        Self::ListenerFull,
        Self::BadProxyHeader,
        Self::IntegrityReset,
        Self::TargetDown,
        Self::MaxAge,
        Self::Drained,
        Self::ShutDown,
        Self::Left,
    ];

    /// Whether the legs that were open are closed in order; otherwise they are reset.
    pub const fn is_orderly(self) -> bool {
        match self {
            Self::ClientClosed
            | Self::TargetClosed
            | Self::ConnectFailed
            | Self::NoTarget
            | Self::QueueTimeout
            | Self::ListenerFull
            | Self::BadProxyHeader => true,
            Self::ClientReset
            | Self::TargetReset
            | Self::ClientGone
            | Self::Idle
            | Self::HalfCloseTimeout
            | Self::IntegrityReset
            | Self::TargetDown
            | Self::MaxAge
            | Self::Drained
            | Self::ShutDown
            | Self::Left => false,
        }
    }

    /// The stable code of this end.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::TargetClosed => "target_closed",
            Self::ClientReset => "client_reset",
            Self::TargetReset => "target_reset",
            Self::ClientGone => "client_gone",
            Self::Idle => "idle",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::NoTarget => "no_target",
            Self::QueueTimeout => "queue_timeout",
            Self::ListenerFull => "listener_full",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::IntegrityReset => "integrity_reset",
            Self::TargetDown => "target_down",
            Self::MaxAge => "max_age",
            Self::Drained => "drained",
            Self::ShutDown => "shut_down",
            Self::Left => "left",
        }
    }
}
