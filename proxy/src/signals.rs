//! The signals that the daemon heeds, and what each asks for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the daemon heeds.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
    reopen: Signal,
    quit: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGHUP
    Reload,
    /// SIGUSR1
    Reopen,
    /// SIGUSR2
    Upgrade,
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
    /// SIGQUIT
    Leave,
}

impl Event {
    /// The signal's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reload => "SIGHUP",
            Self::Reopen => "SIGUSR1",
            Self::Upgrade => "SIGUSR2",
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Leave => "SIGQUIT",
        }
    }
}

impl Signals {
    /// From here on they are kept until somebody asks.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            reopen: signal(SignalKind::user_defined1())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next signal. Cancelling loses none.
    pub(crate) async fn recv(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate,
            _ = self.interrupt.recv() => Event::Interrupt,
            _ = self.hangup.recv() => Event::Reload,
            _ = self.upgrade.recv() => Event::Upgrade,
            _ = self.reopen.recv() => Event::Reopen,
            _ = self.quit.recv() => Event::Leave,
        }
    }

    /// The next signal that ends the daemon; others are kept.
    pub(crate) async fn ending(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate,
            _ = self.interrupt.recv() => Event::Interrupt,
            _ = self.quit.recv() => Event::Leave,
        }
    }
}
