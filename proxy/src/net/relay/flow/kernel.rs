//! A direction in the kernel: how it gets there, what is known of it meanwhile, and how it comes back.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landbridge_core::datapath::{Demotion, Judge, Pace};
use landbridge_core::life::{Broken, Event};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::Flow;
use crate::chain::chain;
use crate::fastpath::{Alarm, Fallback, Promoted, Redirected};
use crate::net::hangup::Hangup;
use crate::net::relay::Sockmap;
use crate::stats::Carrier;

/// How often the kernel is asked whether the sink was given everything. There is no event for it.
const DELIVERY_POLL: Duration = Duration::from_millis(1);

/// How long the pace of a direction in the kernel is watched before it is judged anew.
const PACE_ROUND: Duration = Duration::from_secs(1);

/// A direction in the kernel.
pub(super) struct Entered<'a> {
    promoted: Promoted<'static>,
    /// Tells of the source's end.
    watch: Hangup,
    /// What has been counted of that which the kernel moved, and when its pace was last judged.
    counted: Redirected,
    judged: (u64, Instant),
    busy: Busy<'a>,
    pause: Pin<Box<Sleep>>,
}

impl Entered<'_> {
    /// Judges its pace anew, now and then. A direction that got busy in the kernel stays there all the same: to stop it
    /// while packets arrive would cost its peer a retransmission timeout.
    fn judge_pace(&mut self, judge: &Judge) {
        let (packets, since) = self.judged;
        let now = Instant::now();
        if now - since >= PACE_ROUND {
            let gaps = u32::try_from(self.counted.packets - packets).unwrap_or(u32::MAX);
            self.busy.set(judge.may_demote() && judge.pace(gaps, now - since) == Pace::Busy);
            self.judged = (self.counted.packets, now);
        }
    }
}

/// Whether a direction in the kernel is counted as busy there.
struct Busy<'a> {
    count: &'a Cell<u32>,
    is: bool,
}

impl Busy<'_> {
    fn set(&mut self, is: bool) {
        self.count.set(self.count.get() + u32::from(is) - u32::from(self.is));
        self.is = is;
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl<'a> Flow<'a> {
    /// Hands the direction to the kernel, or stays in user space if that refuses. Returns whether it did.
    ///
    /// `source` and `sink` must stay open until this flow is dropped.
    pub(in crate::net::relay) fn promote(
        &mut self,
        source: BorrowedFd<'static>,
        sink: BorrowedFd<'static>,
        kernel: &Sockmap,
        busy: &'a Cell<u32>,
    ) -> bool {
        let promoted =
            kernel.hangups.watch(source).map_err(|error| (Fallback::Watch, chain(&error))).and_then(|watch| {
                let promoted = kernel.fastpath.promote(source, sink, self.life.given());
                promoted.map(|promoted| (promoted, watch)).map_err(|error| (error.fallback(), chain(&error)))
            });
        match promoted {
            Ok((promoted, watch)) => {
                if !self.judge.may_demote() {
                    promoted.ignore_bulk();
                }
                self.cell.promotions.add(1);
                self.life.on(Event::Entered);
                self.presence.change(Carrier::Sockmap);
                let mut busy = Busy { count: busy, is: false };
                busy.set(self.pace == Pace::Busy);
                self.entered = Some(Box::new(Entered {
                    promoted,
                    watch,
                    counted: Redirected::default(),
                    judged: (0, Instant::now()),
                    busy,
                    pause: Box::pin(sleep(Duration::ZERO)),
                }));
                true
            }
            Err((why, error)) => {
                debug!(reason = why.code(), "a direction stays in user space: {error}");
                self.cell.fallbacks(why).add(1);
                self.judge.refused();
                self.life.on(Event::Refused);
                false
            }
        }
    }

    /// Ready when the direction has been taken out of the kernel.
    pub(super) fn poll_kernel(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.count_redirected();
        let entered = self.entered.as_mut().ok_or(Broken::Integrity)?;
        entered.judge_pace(&self.judge);
        let why = match (entered.watch.poll(cx), entered.promoted.poll_alarm(cx)) {
            (Poll::Ready(()), _) => Demotion::Ended,
            (_, Poll::Ready(Alarm::Behind)) => Demotion::Behind,
            (_, Poll::Ready(Alarm::Bulk)) => Demotion::Bulk,
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
        };
        entered.promoted.stop().map_err(|_gone| Broken::Source)?;
        if entered.promoted.is_broken() {
            return Poll::Ready(Err(Broken::Integrity));
        }
        self.life.on(Event::Stopped);
        self.cell.demotions(why).add(1);
        self.judge.demoted(why);
        Poll::Ready(Ok(()))
    }

    /// Ready when the sink's kernel has been given everything that was redirected.
    pub(super) fn poll_demoting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Entered { promoted, pause, .. } = &mut **self.entered.as_mut().ok_or(Broken::Integrity)?;
        while !promoted.is_delivered().map_err(|_gone| Broken::Sink)? {
            ready!(pause.as_mut().poll(cx));
            pause.as_mut().reset(Instant::now() + DELIVERY_POLL);
        }
        self.count_redirected();
        if let Some(entered) = self.entered.take() {
            let redirected = entered.promoted.finish().map_err(|_gone| Broken::Sink)?;
            self.life.on(Event::Delivered(redirected.bytes));
        }
        self.presence.change(Carrier::Copy);
        // The kernel took whole packets only.
        self.drained = true;
        Poll::Ready(Ok(()))
    }

    /// Adds what the kernel has moved since the last time.
    fn count_redirected(&mut self) {
        let Some(Entered { promoted, counted, .. }) = self.entered.as_deref_mut() else { return };
        let redirected = promoted.redirected();
        let new = redirected.bytes - counted.bytes;
        *counted = redirected;
        self.moved += new;
        self.cell.bytes(self.direction, Carrier::Sockmap).add(new);
        self.tally.add(self.direction, Carrier::Sockmap, new);
    }
}

impl Drop for Flow<'_> {
    /// Counts what the kernel has moved of a session that ends while a direction is in there.
    fn drop(&mut self) {
        if let Some(entered) = &mut self.entered {
            // Its books are final only then. Both legs are reset next, whether this works or not.
            let _ = entered.promoted.stop();
        }
        self.count_redirected();
    }
}
