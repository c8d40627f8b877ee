//! How long nothing has moved.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Finds sessions in which nothing has moved for a while. The clock is read only when something did move.
#[derive(Default)]
pub(super) struct Silence {
    moved: u64,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// Ready once `moved` has stood still for `limit`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limit: Option<Duration>, moved: u64) -> Poll<()> {
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
