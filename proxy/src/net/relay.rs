//! Moving bytes between the legs of a session until it ends.

mod flow;
mod join;
pub(crate) mod pipe;
mod settings;
mod silence;
mod socket;

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::life::Broken;
use tokio::time::{Instant, sleep, timeout_at};

use super::hangup::Hangups;
use super::leg::Leg;
use crate::fastpath::FastPath;
use crate::fastpath::packet::{Books, Joined, PacketPath};
use crate::idle_close::IdleClose;
use crate::looks::{Looks, Watched};
use crate::stats::{Direction, RouteCell};
use crate::tally::Tally;
use crate::tcp::{TcpInfo, outstanding};
pub(crate) use flow::Head;
use flow::{Between, Flow, Step};
use join::{Join, Pair, Progress};
pub(crate) use settings::Settings;
use silence::Silence;
use socket::recv_early;

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
    /// Directions in the kernel that are busy there.
    busy: Cell<u32>,
    /// The sessions here, for whoever looks how they fare.
    pub(crate) looks: Rc<Looks>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            pipes: pipe::PipePool::default(),
            busy: Cell::new(0),
            looks: Rc::default(),
        }
    }

    /// Appends to `head` what the client has sent by now.
    ///
    /// # Errors
    /// The connection has failed, which its socket tells once only.
    pub(crate) fn read_early(&self, client: &Leg, head: &mut Head) -> io::Result<()> {
        let mut scratch = self.scratch.borrow_mut();
        let read = recv_early(client, &mut scratch)?;
        head.bytes = [&*head.bytes, &scratch[..read]].concat().into();
        head.read += read as u64;
        head.more = read == scratch.len();
        Ok(())
    }
}

/// The way into the kernel, for one worker.
#[derive(Clone)]
pub(crate) struct Sockmap {
    pub(crate) fastpath: Arc<FastPath>,
    pub(crate) hangups: Rc<Hangups>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Target,
}

/// The two legs of a session and what goes on between them.
pub(crate) struct Relay<'a> {
    // Before the legs, so that it is dropped before them: a promoted direction refers to their sockets.
    upload: Flow<'a>,
    download: Flow<'a>,
    // Before the legs as well: it knows their descriptors.
    watched: Option<Watched<'a>>,
    client: Leg,
    target: Leg,
    settings: Settings,
    worker: &'a Buffers,
    kernel: Option<&'a Sockmap>,
    join: Option<Box<Join>>,
    cell: &'a RouteCell,
    tally: &'a Tally,
}

/// What becomes of a session that was relayed.
pub(crate) enum Relayed {
    /// It has ended; whether the target had sent a byte.
    Ended(SessionEnd, bool),
    /// It goes on without user space, which has read so many bytes from each leg, the client's first.
    Joined(Joined, [u64; 2]),
}

/// What the relay has to do next.
enum Next {
    End(SessionEnd),
    /// The session is joined.
    Join,
    /// A leg is broken.
    Break(Side),
    /// The direction that begins at this leg enters or leaves the kernel.
    Enter(Side),
    Leave(Side),
}

impl<'a> Relay<'a> {
    /// A relay that first sends `head` to the target.
    pub(crate) fn new(
        (client, target): (Leg, Leg),
        head: Head,
        settings: Settings,
        worker: &'a Buffers,
        (kernel, packet): (Option<&'a Sockmap>, Option<&Arc<PacketPath>>),
        (cell, tally): (&'a Arc<RouteCell>, &'a Tally),
    ) -> Self {
        let upload = Flow::new(Direction::Upload, settings.policy, head, (Arc::clone(cell), tally));
        let download = Flow::new(Direction::Download, settings.policy, Head::default(), (Arc::clone(cell), tally));
        let join = packet
            .zip(settings.join)
            .map(|(path, rules)| Box::new(Join::new(Arc::clone(path), rules, Arc::clone(cell))));
        let sockets = client.socket().and_then(|client| Ok([client.as_raw_fd(), target.socket()?.as_raw_fd()]));
        let watched =
            sockets.ok().map(|sockets| worker.looks.watch(sockets, settings.liveness, (Arc::clone(cell), tally)));
        Self { upload, download, watched, client, target, settings, worker, kernel, join, cell, tally }
    }

    /// Runs until user space has nothing to do with the session any more. If it has ended the legs are closed as the end
    /// demands; cancelled, both are reset.
    ///
    /// In a box, for a future keeps twice what it is given by value.
    pub(crate) async fn run(mut self: Box<Self>) -> Relayed {
        let mut silence = Silence::default();
        let mut is_close_noted = false;
        let end = loop {
            let next = {
                let mut client_failed = pin!(self.client.failed());
                let mut target_failed = pin!(self.target.failed());
                let (upload, download) = (&mut self.upload, &mut self.download);
                let mut forth = between(&self.client, &self.target, self.worker);
                let mut back = between(&self.target, &self.client, self.worker);
                let (join, cell, tally) = (&mut self.join, self.cell, self.tally);
                poll_fn(|cx| {
                    let legs = [&self.client, &self.target];
                    let joint = join.as_mut().map_or(Progress::Not, |join| join.poll(cx, legs));
                    if joint == Progress::Live {
                        return Poll::Ready(Next::Join);
                    }
                    if joint != Progress::Armed {
                        let promote = join.as_ref().is_none_or(|join| !join.is_preferred());
                        (forth.promote, back.promote) = (promote, promote);
                        let polled = poll_both(cx, (upload, forth), (download, back));
                        note_first_byte((upload, download), cell, tally);
                        if !is_close_noted && download.is_done() {
                            is_close_noted = true;
                            note_close((upload, download), &self.target, cell);
                        }
                        if let Poll::Ready(next) = polled {
                            return Poll::Ready(next);
                        }
                        if let Some(asked) = join.as_mut().filter(|_| upload.is_resting() && download.is_resting()) {
                            let pair = Pair { legs, books: books(upload, download) };
                            match asked.rested(cx, upload.moved() + download.moved(), pair) {
                                Progress::Live => return Poll::Ready(Next::Join),
                                Progress::Never => *join = None,
                                Progress::Not | Progress::Armed => {}
                            }
                        }
                    }
                    // A leg can fail while both directions wait for the other one.
                    if client_failed.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Next::Break(Side::Client));
                    }
                    if target_failed.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Next::Break(Side::Target));
                    }
                    let half_closed = upload.is_done() || download.is_done();
                    let (limit, end) = self.settings.silence(half_closed);
                    silence.poll(cx, limit, upload.moved() + download.moved()).map(|()| Next::End(end))
                })
                .await
            };
            match next {
                Next::End(end) => break end,
                Next::Join => match self.into_joined() {
                    Ok(joined) => return joined,
                    Err(_lost) => return Relayed::Ended(SessionEnd::IntegrityReset, true),
                },
                Next::Break(side) => {
                    // A leg that breaks may lose its descriptor.
                    self.watched = None;
                    self.deliver_rest(side).await;
                    break side.reset();
                }
                Next::Enter(side) => {
                    if self.enter_kernel(side).is_err() {
                        break side.reset();
                    }
                }
                Next::Leave(side) => {
                    if self.leg(side).set_quiet(false).is_err() {
                        break side.reset();
                    }
                }
            }
        };
        if end.is_orderly() {
            self.client.close_in_order();
            self.target.close_in_order();
        }
        Relayed::Ended(end, self.download.moved() > 0)
    }

    /// Takes the sockets of a session that is joined away from the runtime.
    fn into_joined(self: Box<Self>) -> io::Result<Relayed> {
        let Self { upload, download, client, target, join, .. } = *self;
        let [client_books, target_books] = books(&upload, &download);
        let legs = [client.into_socket()?, target.into_socket()?];
        let joined = join.and_then(|join| join.into_joined(legs)).ok_or(io::ErrorKind::NotConnected)?;
        Ok(Relayed::Joined(joined, [client_books.read, target_books.read]))
    }

    /// Hands the direction that begins at `side` to the kernel, if that takes it.
    fn enter_kernel(&mut self, side: Side) -> io::Result<()> {
        self.leg(side).set_quiet(true)?;
        let (flow, source, sink) = match side {
            Side::Client => (&mut self.upload, self.client.socket()?, self.target.socket()?),
            Side::Target => (&mut self.download, self.target.socket()?, self.client.socket()?),
        };
        // SAFETY: the legs keep their sockets open until they are dropped, which is after the flow: see `Relay`'s fields.
        // Descriptors stay the same when a leg becomes quiet or is read again.
        let (source, sink) =
            unsafe { (BorrowedFd::borrow_raw(source.as_raw_fd()), BorrowedFd::borrow_raw(sink.as_raw_fd())) };
        let entered = self.kernel.is_some_and(|kernel| flow.promote(source, sink, kernel, &self.worker.busy));
        if entered { Ok(()) } else { self.leg(side).set_quiet(false) }
    }

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Target => &mut self.target,
        }
    }

    /// Passes on what the leg at `broken` had received before it broke, and waits until the other leg's peer has it, for at
    /// most [`RESET_DELAY`].
    async fn deliver_rest(&mut self, broken: Side) {
        match broken {
            Side::Client => self.upload.cut(),
            Side::Target => self.download.cut(),
        }
        let deadline = Instant::now() + RESET_DELAY;
        // However this ends, both legs are reset next.
        let _ = timeout_at(deadline, async {
            loop {
                let (flow, from, to) = match broken {
                    Side::Client => (&mut self.upload, &self.client, &self.target),
                    Side::Target => (&mut self.download, &self.target, &self.client),
                };
                let between = between(from, to, self.worker);
                match poll_fn(|cx| flow.poll(cx, between)).await {
                    // A stream that is cut does not enter the kernel.
                    Ok(Step::Ended | Step::WantsKernel) | Err(_) => break,
                    Ok(Step::LeftKernel) if self.leg(broken).set_quiet(false).is_err() => break,
                    Ok(Step::LeftKernel) => {}
                }
            }
            let other = match broken {
                Side::Client => &self.target,
                Side::Target => &self.client,
            };
            while other.socket().is_ok_and(|socket| outstanding(socket).is_ok_and(|bytes| bytes > 0)) {
                sleep(ACKNOWLEDGED_POLL).await;
            }
        })
        .await;
    }
}

impl Side {
    fn reset(self) -> SessionEnd {
        match self {
            Self::Client => SessionEnd::ClientReset,
            Self::Target => SessionEnd::TargetReset,
        }
    }
}

fn between<'a>(source: &'a Leg, sink: &'a Leg, buffers: &'a Buffers) -> Between<'a> {
    Between { source, sink, buffers, promote: true, last: false }
}

/// What user space did with each leg, the client's first.
fn books(upload: &Flow<'_>, download: &Flow<'_>) -> [Books; 2] {
    let ((from_client, to_target), (from_target, to_client)) = (upload.books(), download.books());
    [Books { read: from_client, given: to_client }, Books { read: from_target, given: to_target }]
}

/// Takes note of how long the target took, once it has answered.
fn note_first_byte((upload, download): (&Flow<'_>, &Flow<'_>), cell: &RouteCell, tally: &Tally) {
    if tally.asked.get().is_none() {
        tally.asked.set(upload.first_read());
    }
    if let (None, Some(answered)) = (tally.first_byte.get(), download.first_read()) {
        // A target that speaks first answers to the connection.
        let asked = tally.asked.get().filter(|asked| *asked <= answered).unwrap_or_default();
        let took = answered - asked;
        cell.first_byte_times.record(took);
        tally.first_byte.set(Some(took));
    }
}

/// Takes note of how long a target that has answered was idle when it closed first.
fn note_close((upload, download): (&Flow<'_>, &Flow<'_>), target: &Leg, cell: &RouteCell) {
    // Most sessions are young, and to ask the kernel is dear.
    if upload.is_done() || download.moved() == 0 || !IdleClose::is_possible(download.age()) {
        return;
    }
    // The kernel knows it for every datapath that uses sockets, and no byte on the way costs a look at the clock.
    if let Ok(info) = target.socket().and_then(TcpInfo::of) {
        cell.idle_close.note(info.sent_ago.min(info.received_ago));
    }
}

/// Polls both directions: ready when a direction needs something, or both have ended.
fn poll_both<'a>(
    cx: &mut Context<'_>,
    (upload, mut forth): (&mut Flow<'a>, Between<'_>),
    (download, back): (&mut Flow<'a>, Between<'_>),
) -> Poll<Next> {
    let download_ended_first = download.is_done() && !upload.is_done();
    forth.last = download.is_done();
    let mut ended = 0;
    for (flow, mut between, source, sink) in
        [(upload, forth, Side::Client, Side::Target), (download, back, Side::Target, Side::Client)]
    {
        between.last |= ended == 1;
        match flow.poll(cx, between) {
            Poll::Pending => {}
            Poll::Ready(Ok(Step::Ended)) => ended += 1,
            Poll::Ready(Ok(Step::WantsKernel)) => return Poll::Ready(Next::Enter(source)),
            Poll::Ready(Ok(Step::LeftKernel)) => return Poll::Ready(Next::Leave(source)),
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(Next::Break(source)),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(Next::Break(sink)),
            Poll::Ready(Err(Broken::Integrity)) => return Poll::Ready(Next::End(SessionEnd::IntegrityReset)),
        }
    }
    match ended {
        2 if download_ended_first => Poll::Ready(Next::End(SessionEnd::TargetClosed)),
        2 => Poll::Ready(Next::End(SessionEnd::ClientClosed)),
        _ => Poll::Pending,
    }
}
