//! A session's way to being joined at packet level, from its first byte until it is or cannot be.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landbridge_core::join::{JoinJudge, JoinRules, JoinStep, NotJoined};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::fastpath::packet::{Books, Joined, Joining, PacketPath, Stand};
use crate::net::leg::Leg;
use crate::stats::RouteCell;

/// A quiet session is looked at less and less often, down to this.
const LONGEST_QUIET: Duration = Duration::from_secs(1);

/// What joins a session. Dropped before it has, it counts that the session was never quiet.
pub(super) struct Join {
    path: Arc<PacketPath>,
    judge: JoinJudge,
    began: Instant,
    cell: Arc<RouteCell>,
    /// The session is watched.
    joining: Option<Joining>,
    armed: bool,
    /// Both peers were asked for a packet, and not both have been seen yet.
    asked: bool,
    /// Bytes that had moved at the last rest.
    moved: u64,
    quiet: Option<Quiet>,
}

/// Finds out that nothing has moved for a while.
#[derive(Debug)]
struct Quiet {
    timer: Pin<Box<Sleep>>,
    moved: u64,
    limit: Duration,
}

/// How far joining is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// User space may read and write.
    Not,
    /// Armed: user space must neither read nor write.
    Armed,
    /// Joined: nothing is left to do in user space.
    Live,
    /// It cannot be joined, which is counted.
    Never,
}

/// Both legs, the client's first, and what user space did with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) legs: [&'a Leg; 2],
    pub(super) books: [Books; 2],
}

impl Join {
    pub(super) fn new(path: Arc<PacketPath>, rules: JoinRules, cell: Arc<RouteCell>) -> Self {
        Self {
            path,
            judge: JoinJudge::new(rules, cell.haste.get().is_eager()),
            began: Instant::now(),
            cell,
            joining: None,
            armed: false,
            asked: false,
            moved: 0,
            quiet: None,
        }
    }

    /// Why no session is joined any more, if that is so.
    fn hindrance(&self) -> Option<NotJoined> {
        if self.path.is_retired() {
            Some(NotJoined::Retired)
        } else if self.path.has_policies() {
            Some(NotJoined::Ipsec)
        } else {
            None
        }
    }

    /// Whether other ways into the kernel should wait for this one.
    pub(super) fn is_preferred(&self) -> bool {
        self.judge.is_preferred()
    }

    /// To be asked before user space looks at the legs. Arriving bytes, and the joint, wake the task.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, legs: [&Leg; 2]) -> Progress {
        let gives_up = self.hindrance().is_some();
        let Some(joining) = self.joining.as_mut().filter(|_| self.armed) else { return Progress::Not };
        let stand = joining.poll(cx);
        // Both are asked, so that both can wake.
        let arrived = legs.map(|leg| leg.poll_readable(cx).is_ready());
        match stand {
            Poll::Pending if arrived == [false; 2] && !gives_up => return Progress::Armed,
            Poll::Ready(Stand::Live) => return Progress::Live,
            Poll::Pending | Poll::Ready(_) => {}
        }
        if !joining.disarm() {
            return Progress::Live;
        }
        self.armed = false;
        self.judge.spoiled();
        Progress::Not
    }

    /// To be asked when user space has moved what it could, `moved` bytes since the session began, and rests.
    pub(super) fn rested(&mut self, cx: &mut Context<'_>, moved: u64, pair: Pair<'_>) -> Progress {
        if let Some(why) = self.hindrance() {
            return self.never(why);
        }
        let mut step = JoinStep::Nothing;
        if moved != self.moved {
            self.moved = moved;
            step = self.judge.rested();
        }
        loop {
            match self.take(step, pair) {
                Ok(Progress::Not) => {}
                Ok(joint @ (Progress::Live | Progress::Never)) => return joint,
                Ok(Progress::Armed) => match self.poll(cx, pair.legs) {
                    Progress::Not => {}
                    joint => return joint,
                },
                // The leg is broken, which shows when it is read.
                Err(_gone) => return Progress::Not,
            }
            if let Some(joining) = self.joining.as_ref().filter(|_| self.asked)
                && joining.poll_seen(cx).is_ready()
            {
                self.asked = false;
                step = self.judge.seen();
                continue;
            }
            match self.poll_quiet(cx, moved) {
                Poll::Ready(()) => step = self.judge.quiet(),
                Poll::Pending => return Progress::Not,
            }
        }
    }

    fn take(&mut self, step: JoinStep, pair: Pair<'_>) -> io::Result<Progress> {
        let sockets = [pair.legs[0].socket()?, pair.legs[1].socket()?];
        match (step, &mut self.joining) {
            (JoinStep::Watch { ask }, None) => match self.path.watch(sockets, pair.books, ask) {
                Ok(None) => Ok(Progress::Not),
                Ok(Some(joining)) => {
                    self.asked = ask;
                    self.joining = Some(joining);
                    self.judge.watched();
                    Ok(Progress::Not)
                }
                Err(why) => Ok(self.never(why)),
            },
            (JoinStep::Arm { unseen }, Some(joining)) => Ok(match joining.arm(sockets, pair.books, unseen)? {
                Stand::Restless | Stand::Spoiled => Progress::Not,
                Stand::Armed => {
                    self.armed = true;
                    Progress::Armed
                }
                Stand::Live => Progress::Live,
            }),
            _ => Ok(Progress::Not),
        }
    }

    /// Ready when nothing has moved for a while.
    fn poll_quiet(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<()> {
        let shortest = self.judge.quiet_time();
        let quiet = self.quiet.get_or_insert_with(|| Quiet {
            timer: Box::pin(sleep_until(Instant::now() + shortest)),
            moved,
            limit: shortest,
        });
        loop {
            // A timer that runs is left alone until it fires: moving it for every message would cost more.
            ready!(quiet.timer.as_mut().poll(cx));
            let was_quiet = quiet.moved == moved;
            quiet.limit = if was_quiet { (quiet.limit * 2).min(LONGEST_QUIET) } else { shortest };
            quiet.moved = moved;
            quiet.timer.as_mut().reset(Instant::now() + quiet.limit);
            if was_quiet {
                return Poll::Ready(());
            }
        }
    }

    fn never(&mut self, why: NotJoined) -> Progress {
        self.judge.decided();
        self.cell.not_joined(why).add(1);
        Progress::Never
    }

    /// What a live session becomes.
    pub(super) fn into_joined(mut self, legs: [OwnedFd; 2]) -> Option<Joined> {
        self.judge.decided();
        self.joining.take().map(|joining| joining.into_joined(legs))
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        if let Some(why) = self.judge.ended(self.began.elapsed()) {
            self.cell.not_joined(why).add(1);
        }
    }
}
