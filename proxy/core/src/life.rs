//! The life of one direction of a session: who may move its bytes, and when its end may be passed on.
//!
//! ```text
//!          Wants, nothing waiting            Entered                Stopped
//!  ┌─ User ──────────────────────► Promoting ───────► Kernel ─────────────────► Demoting
//!  │   ▲ ▲        Refused              │                                            │
//!  │   │ └─────────────────────────────┘                     Delivered              │
//!  │   └────────────────────────────────────────────────────────────────────────────┘
//!  │ Ended
//!  ├────────► HalfClosed ──► Drained ──► Closed        any state ── Failed ──► Broken
//!  │  bytes wait    all sent       Counted
//!  └──────────────────────────────────┘
//! ```
//!
//! The books are kept here as well: what was read, what still waits, what the sink was given, what the kernel took. An
//! event that does not fit, or books that do not agree, break the direction: its session is reset, for a stream that
//! may not be whole must never seem to end in order.

/// Where a direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// User space reads the source and writes to the sink.
    User,
    /// Nothing waits in user space; the direction is about to be entered into the kernel.
    Promoting,
    /// The kernel forwards. Nobody else reads the source or writes to the sink.
    Kernel,
    /// The kernel takes no more, but the sink has not been given all that it took. Nobody writes to the sink.
    Demoting,
    /// The source has ended; what was read of it is still to be sent.
    HalfClosed,
    /// The sink was given everything that was read. Whether that is everything has to be counted.
    Drained,
    /// The stream is whole, and its end may be passed on.
    Closed,
    /// The stream is not whole, or may not be: both legs are to be reset.
    Broken(Broken),
}

/// Why a direction could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// The leg that the bytes come from.
    Source,
    /// The leg that they go to.
    Sink,
    /// What the source received is not what was read and redirected, or the daemon has lost count.
    Integrity,
}

/// What happened to a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// User space read this many bytes from the source.
    Read(u64),
    /// The sink took this many bytes from user space.
    Sent(u64),
    /// The direction should be in the kernel.
    Wants,
    /// The kernel forwards from now on.
    Entered,
    /// The kernel did not take the direction; nothing has changed.
    Refused,
    /// The kernel takes no more.
    Stopped,
    /// The sink was given everything that the kernel took, this many bytes since it was entered.
    Delivered(u64),
    /// The source's stream has ended.
    Ended,
    /// The source has received this many bytes in all, its FIN not included; `None`: nobody asked, which is enough
    /// unless [`Life::was_in_kernel`].
    Counted(Option<u64>),
    /// A leg has failed, or does not tell what is needed.
    Failed(Broken),
}

/// A direction's state and its books.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    state: State,
    /// The source has failed: its stream is cut wherever it seems to end.
    cut: bool,
    /// Bytes that user space read from the source.
    read: u64,
    /// Bytes that user space has read or made up and the sink has not taken.
    waiting: u64,
    /// Bytes that the sink was given, by user space or the kernel.
    given: u64,
    /// Bytes that the kernel took, over all promotions that are over.
    redirected: u64,
    /// Whether the kernel has ever forwarded.
    entered: bool,
}

impl Life {
    /// A direction that has `head` bytes to send first, after `read` bytes were read from its source.
    pub const fn new(head: u64, read: u64) -> Self {
        Self { state: State::User, cut: false, read, waiting: head, given: 0, redirected: 0, entered: false }
    }

    /// Where the direction stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Bytes that the sink was given so far; those in the kernel count once they are delivered.
    pub const fn given(&self) -> u64 {
        self.given
    }

    /// Bytes that were taken from the source so far, by user space or the kernel; those in the kernel count once they are
    /// delivered.
    pub const fn taken(&self) -> u64 {
        self.read + self.redirected
    }

    /// Whether the kernel has ever forwarded: then the end of the stream takes a count.
    pub const fn was_in_kernel(&self) -> bool {
        self.entered
    }

    /// From now on the end of the source is not passed on. A socket tells of its failure once only: after that its stream
    /// seems to end in order. The direction does not enter the kernel any more.
    pub const fn cut(&mut self) {
        self.cut = true;
    }

    /// Whether the end of the source is not passed on.
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Takes note of an event and says where the direction stands then.
    pub fn on(&mut self, event: Event) -> State {
        self.state = match (self.state, event) {
            (end @ State::Broken(_), _) => end,
            (_, Event::Failed(broken)) => State::Broken(broken),

            (State::User, Event::Read(bytes)) => {
                self.read += bytes;
                self.waiting += bytes;
                State::User
            }
            (state @ (State::User | State::HalfClosed), Event::Sent(bytes)) if bytes <= self.waiting => {
                self.waiting -= bytes;
                self.given += bytes;
                if state == State::HalfClosed { self.ended() } else { state }
            }

            (State::User, Event::Wants) if self.waiting == 0 && !self.cut => State::Promoting,
            // Not now: something waits, and would be overtaken.
            (State::User, Event::Wants) => State::User,
            (State::Promoting, Event::Entered) => {
                self.entered = true;
                State::Kernel
            }
            (State::Promoting, Event::Refused) => State::User,
            (State::Kernel, Event::Stopped) => State::Demoting,
            (State::Demoting, Event::Delivered(bytes)) => {
                self.redirected += bytes;
                self.given += bytes;
                State::User
            }

            (State::User, Event::Ended) => self.ended(),
            (State::Drained, Event::Counted(received)) => {
                let whole = match received {
                    Some(received) => received == self.read + self.redirected,
                    None => !self.was_in_kernel(),
                };
                if whole { State::Closed } else { State::Broken(Broken::Integrity) }
            }

            _ => State::Broken(Broken::Integrity),
        };
        self.state
    }

    /// The state of a direction whose source has ended.
    const fn ended(&self) -> State {
        match (self.waiting, self.cut) {
            (0, false) => State::Drained,
            (0, true) => State::Broken(Broken::Source),
            (_, _) => State::HalfClosed,
        }
    }
}

#[cfg(test)]
mod tests;
