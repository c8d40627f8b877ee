//! Moving bytes between the legs of a session until it ends.

mod flow;
mod pipe;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use landbridge_core::end::SessionEnd;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};

use crate::config::{Datapath, Listener};
use crate::stats::{Direction, RouteCell};
use flow::{Broken, Flow};

/// How long a reset of one leg is held back from the other so that bytes received before it arrive first. Several
/// round trips of a VPN; a peer that does not read is not waited for any longer.
const RESET_DELAY: Duration = Duration::from_millis(250);

/// How often the kernel is asked whether a peer has acknowledged everything, within [`RESET_DELAY`].
const ACKNOWLEDGED_POLL: Duration = Duration::from_millis(2);

/// How much a copy reads at once.
const SCRATCH: usize = 64 * 1024;

/// What the sessions of one worker share, since only one of them runs at a time.
#[derive(Debug)]
pub(crate) struct Buffers {
    scratch: RefCell<Box<[u8]>>,
    pipes: pipe::PipePool,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()), pipes: pipe::PipePool::default() }
    }
}

/// What a listener's configuration says about moving bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    splice: bool,
    idle: Option<Duration>,
    half_close: Option<Duration>,
}

impl From<&Listener> for Settings {
    fn from(listener: &Listener) -> Self {
        Self {
            splice: matches!(listener.datapath, Datapath::Auto | Datapath::Splice),
            idle: listener.idle_timeout,
            half_close: listener.half_close_timeout,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    Client,
    Target,
}

/// The two legs of a session and what goes on between them.
pub(crate) struct Relay<'a> {
    client: &'a TcpStream,
    target: &'a TcpStream,
    upload: Flow,
    download: Flow,
    settings: Settings,
    buffers: &'a Buffers,
    cell: &'a RouteCell,
}

impl<'a> Relay<'a> {
    /// A relay that first sends `head` to the target.
    pub(crate) fn new(
        client: &'a TcpStream,
        target: &'a TcpStream,
        head: Bytes,
        settings: Settings,
        buffers: &'a Buffers,
        cell: &'a RouteCell,
    ) -> Self {
        let upload = Flow::new(Direction::Upload, head, settings.splice);
        let download = Flow::new(Direction::Download, Bytes::new(), settings.splice);
        Self { client, target, upload, download, settings, buffers, cell }
    }

    /// Runs to the end of the session. After [`SessionEnd::ClientClosed`] and [`SessionEnd::TargetClosed`] both legs
    /// have been closed in order; after any other end, or when cancelled, the caller resets both.
    pub(crate) async fn run(mut self) -> SessionEnd {
        let (client, target, settings) = (self.client, self.target, self.settings);
        let mut client_error = pin!(client.ready(Interest::ERROR));
        let mut target_error = pin!(target.ready(Interest::ERROR));
        let mut silence = Silence::default();
        let end = poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll(cx) {
                return Poll::Ready(end);
            }
            // A leg can fail while both directions wait for the other one.
            if client_error.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Leg::Client));
            }
            if target_error.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Leg::Target));
            }
            let half_closed = self.upload.is_done() || self.download.is_done();
            let (limit, end) = match (settings.idle, settings.half_close.filter(|_| half_closed)) {
                (Some(idle), Some(half)) if idle <= half => (Some(idle), SessionEnd::Idle),
                (_, Some(half)) => (Some(half), SessionEnd::HalfCloseTimeout),
                (idle, None) => (idle, SessionEnd::Idle),
            };
            silence.poll(cx, limit, self.upload.moved() + self.download.moved()).map(|()| Ok(end))
        });
        match end.await {
            Ok(end) => end,
            Err(leg) => {
                self.deliver_rest(leg).await;
                match leg {
                    Leg::Client => SessionEnd::ClientReset,
                    Leg::Target => SessionEnd::TargetReset,
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<SessionEnd, Leg>> {
        let closed_before = (self.upload.is_done(), self.download.is_done());
        let upload = self.poll_flow(cx, Leg::Client)?;
        let download = self.poll_flow(cx, Leg::Target)?;
        match (upload, download) {
            (Poll::Ready(()), Poll::Ready(())) if closed_before == (false, true) => {
                Poll::Ready(Ok(SessionEnd::TargetClosed))
            }
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(SessionEnd::ClientClosed)),
            _ => Poll::Pending,
        }
    }

    /// Polls the direction that begins at `from`; an error names the leg that is broken.
    fn poll_flow(&mut self, cx: &mut Context<'_>, from: Leg) -> Poll<Result<(), Leg>> {
        let (flow, source, sink, other) = match from {
            Leg::Client => (&mut self.upload, self.client, self.target, Leg::Target),
            Leg::Target => (&mut self.download, self.target, self.client, Leg::Client),
        };
        flow.poll(cx, source, sink, self.buffers, self.cell).map_err(|broken| match broken {
            Broken::Source => from,
            Broken::Sink => other,
        })
    }

    /// Passes on what `broken` had sent before it broke, and waits until the other leg's peer has it, for at most
    /// [`RESET_DELAY`].
    async fn deliver_rest(&mut self, broken: Leg) {
        let deadline = Instant::now() + RESET_DELAY;
        let other = match broken {
            Leg::Client => self.target,
            Leg::Target => self.client,
        };
        // However this ends, both legs are reset next.
        let _ = timeout_at(deadline, async {
            let _ = poll_fn(|cx| self.poll_flow(cx, broken)).await;
            while unacknowledged(other) > 0 {
                sleep(ACKNOWLEDGED_POLL).await;
            }
        })
        .await;
    }
}

/// Finds sessions in which nothing has moved for a while. The clock is read only when something did move.
#[derive(Default)]
struct Silence {
    moved: u64,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// Ready once `moved` has stood still for `limit`.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Option<Duration>, moved: u64) -> Poll<()> {
        let Some(limit) = limit else { return Poll::Pending };
        if moved != self.moved || self.since.is_none() {
            self.moved = moved;
            self.since = Some(Instant::now());
        }
        let deadline = self.since.map_or_else(Instant::now, |since| since + limit);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            // A timer that runs early is left alone until it fires: moving it for every byte would cost more.
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if timer.deadline() >= deadline => return Poll::Ready(()),
                Poll::Ready(()) => timer.as_mut().reset(deadline),
            }
        }
    }
}

/// Bytes given to the kernel that the peer has not acknowledged, the FIN included; 0 if the kernel does not say.
fn unacknowledged(stream: &TcpStream) -> i32 {
    nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);
    let mut bytes = 0;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and SIOCOUTQ (the same number as TIOCOUTQ,
    // tcp(7)) writes one int to the pointer.
    match unsafe { siocoutq(std::os::fd::AsRawFd::as_raw_fd(stream), &raw mut bytes) } {
        Ok(_) => bytes,
        Err(_) => 0,
    }
}
