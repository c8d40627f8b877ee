//! Whether the workers turn: each answers the beats of the supervisor from its own event loop.
//!
//! A worker whose loop is stuck serves nobody, although its thread lives. systemd is told nothing then, and restarts the
//! daemon when its patience is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use super::tell;

/// What a worker has answered that will answer no more because it has ended.
const ENDED: u64 = u64::MAX;

/// Beats in the time that systemd waits for one: one may be late without harm.
const BEATS: u32 = 3;

/// Asks the workers whether they turn.
pub(crate) struct Heart {
    beat: watch::Sender<u64>,
    answers: Vec<Arc<AtomicU64>>,
}

/// A worker's side of it.
pub(crate) struct Heartbeat {
    beat: watch::Receiver<u64>,
    answer: Arc<AtomicU64>,
}

impl Heart {
    pub(crate) fn new() -> Self {
        Self { beat: watch::Sender::new(0), answers: Vec::new() }
    }

    /// For the next worker.
    pub(crate) fn heartbeat(&mut self) -> Heartbeat {
        let answer = Arc::<AtomicU64>::default();
        self.answers.push(Arc::clone(&answer));
        Heartbeat { beat: self.beat.subscribe(), answer }
    }

    /// The workers that have not answered the last beat; then the next one.
    fn beat(&self) -> Vec<usize> {
        let last = *self.beat.borrow();
        let silent = |(_, answer): &(usize, &Arc<AtomicU64>)| answer.load(Ordering::Relaxed) < last;
        let silent = self.answers.iter().enumerate().filter(silent).map(|(worker, _)| worker).collect();
        self.beat.send_replace(last + 1);
        silent
    }

    /// Answers a watchdog that waits for `period`, unless a worker is silent.
    pub(super) async fn keep_beating(self, period: Duration) {
        let mut beats = interval((period / BEATS).max(Duration::from_millis(1)));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            match self.beat().as_slice() {
                [] => tell(&[NotifyState::Watchdog]),
                silent => error!(workers = ?silent, "do not turn: systemd's watchdog is not answered"),
            }
        }
    }
}

impl Heartbeat {
    /// Answers until nobody asks any more.
    pub(crate) async fn answer(mut self) {
        while self.beat.changed().await.is_ok() {
            self.answer.store(*self.beat.borrow_and_update(), Ordering::Relaxed);
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.answer.store(ENDED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn only_a_worker_that_lives_and_does_not_turn_is_silent() {
        let mut heart = Heart::new();
        let (turning, stuck, ended) = (heart.heartbeat(), heart.heartbeat(), heart.heartbeat());
        tokio::spawn(turning.answer());
        drop(ended);
        assert_eq!(heart.beat(), [0_usize; 0], "nothing was asked yet");
        yield_now().await;
        assert_eq!(heart.beat(), [1]);
        yield_now().await;
        assert_eq!(heart.beat(), [1]);
        drop(stuck);
        yield_now().await;
        assert_eq!(heart.beat(), [0_usize; 0]);
    }
}
