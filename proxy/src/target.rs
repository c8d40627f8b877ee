//! What lives as long as a target does, whatever the configuration around it: its sessions, and what it is counted by.
//!
//! A reload carries it over by group and address. It starts no task of its own; [`TargetState::cut_paced`] and
//! [`TargetState::cut_after`] are futures, and cancelling them leaves the sessions that they have not come to.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::select::Load;
use slab::Slab;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use crate::probe::ProbeStats;

/// Over how long the resets of a target's sessions are spread: their clients connect again at once, and the other
/// targets should not meet them all in the same instant.
const CUT_SPREAD: Duration = Duration::from_secs(1);
/// In how many steps.
const CUT_STEPS: u32 = 20;
/// So few sessions are no stampede and go in one step.
const CUT_AT_ONCE: usize = 16;

/// What is known of a target besides its configuration.
#[derive(Debug, Default)]
pub(crate) struct TargetState {
    /// How many sessions it has, for selection.
    pub(crate) load: Arc<Load>,
    /// Whether the last connect failed.
    pub(crate) failing: Transition,
    /// Whether traffic has failed on it since it last answered.
    pub(crate) suspected: AtomicBool,
    /// Told each time when traffic fails on it.
    pub(crate) suspicion: Notify,
    /// What was counted of its probes.
    pub(crate) probes: ProbeStats,
    /// Why the last probe was bad, if it was.
    last_failure: Mutex<Option<String>>,
    /// What is ending its sessions, if anything, and when it does.
    ending: Mutex<Option<(JoinHandle<()>, Instant)>>,
    /// Whether some session has, or had, a limit of its age.
    ages: AtomicBool,
    sessions: Mutex<Slab<Arc<Handle>>>,
}

/// Tells whether something is true that was not before, so that it is logged once per change.
#[derive(Debug, Default)]
pub(crate) struct Transition(AtomicBool);

impl Transition {
    /// Whether `now` is a change.
    pub(crate) fn set(&self, now: bool) -> bool {
        // The plain load keeps the cache line shared while nothing changes.
        self.0.load(Ordering::Relaxed) != now && self.0.swap(now, Ordering::Relaxed) != now
    }
}

/// How a session is seen, and ended, from outside.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Its listener.
    pub(crate) listener: Arc<str>,
    /// Who the client is.
    pub(crate) client: SocketAddr,
    /// When its target was chosen.
    pub(crate) since: Instant,
    /// How old it may become, if there is a limit.
    oldest: Option<Duration>,
    /// As what it has to end, once it has to, and told then to the task that waits for it.
    end: OnceLock<SessionEnd>,
    cut: Notify,
    /// Whom to tell of a cut, and under which number, once no task waits for it any more.
    joined: OnceLock<(UnboundedSender<u32>, u32)>,
}

impl Handle {
    pub(crate) fn new(listener: Arc<str>, client: SocketAddr, oldest: Option<Duration>) -> Arc<Self> {
        Self::since(Instant::now(), listener, client, oldest)
    }

    /// The same, of a session that began at `since`.
    pub(crate) fn since(since: Instant, listener: Arc<str>, client: SocketAddr, oldest: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            listener,
            client,
            since,
            oldest,
            end: OnceLock::new(),
            cut: Notify::new(),
            joined: OnceLock::new(),
        })
    }

    /// Ends the session, which counts it as `end`. Only the first call matters.
    fn cut(&self, end: SessionEnd) {
        if self.end.set(end).is_ok() {
            debug!(listener = &*self.listener, client = %self.client, end = end.code(), "ending a session");
        }
        self.cut.notify_waiters();
        if let Some((tell, number)) = self.joined.get() {
            // Nobody hears it when the worker has ended, and the session with it.
            let _ = tell.send(*number);
        }
    }

    /// Ready when the session has to end, with as what. Cancelling loses nothing.
    pub(crate) async fn cut_end(&self) -> SessionEnd {
        loop {
            let mut cut = pin!(self.cut.notified());
            // From here on no cut is missed.
            cut.as_mut().enable();
            match self.end() {
                Some(end) => return end,
                None => cut.await,
            }
        }
    }

    /// As what the session has to end, if it has to.
    pub(crate) fn end(&self) -> Option<SessionEnd> {
        self.end.get().copied()
    }

    /// From now on `tell` gets `number` when the session has to end. It may have to already: see [`Self::end`].
    pub(crate) fn tell_cut(&self, tell: UnboundedSender<u32>, number: u32) {
        let _only_once = self.joined.set((tell, number));
    }
}

/// A session's place in its target's register, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    state: Arc<TargetState>,
    key: usize,
    handle: Arc<Handle>,
}

impl Entry {
    /// The session as it is seen from outside.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Its target.
    pub(crate) fn state(&self) -> &TargetState {
        &self.state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.state.sessions().try_remove(self.key);
    }
}

impl TargetState {
    /// Registers a session.
    pub(crate) fn enter(self: &Arc<Self>, handle: Arc<Handle>) -> Entry {
        if handle.oldest.is_some() {
            self.ages.store(true, Ordering::Relaxed);
        }
        let key = self.sessions().insert(Arc::clone(&handle));
        Entry { state: Arc::clone(self), key, handle }
    }

    /// The sessions now.
    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        self.sessions().iter().map(|(_, handle)| Arc::clone(handle)).collect()
    }

    /// Ends the sessions that the target has now, spread over [`CUT_SPREAD`].
    pub(crate) async fn cut_paced(&self, end: SessionEnd) {
        let handles = self.handles();
        let step = handles.len().div_ceil(CUT_STEPS as usize).max(CUT_AT_ONCE);
        for (index, some) in handles.chunks(step).enumerate() {
            if index > 0 {
                sleep(CUT_SPREAD / CUT_STEPS).await;
            }
            some.iter().for_each(|handle| handle.cut(end));
        }
    }

    /// Ends the sessions that are older than they may be.
    pub(crate) fn cut_old(&self) {
        if !self.ages.load(Ordering::Relaxed) {
            return;
        }
        for handle in self.handles() {
            if handle.oldest.is_some_and(|oldest| handle.since.elapsed() >= oldest) {
                handle.cut(SessionEnd::MaxAge);
            }
        }
    }

    /// Ends the sessions that the target still has after `limit`.
    pub(crate) async fn cut_after(&self, limit: Duration, end: SessionEnd) {
        sleep_until(Instant::now() + limit).await;
        self.cut_paced(end).await;
    }

    /// Notes why the last probe was bad; `None`: it was good.
    pub(crate) fn set_last_failure(&self, why: Option<String>) {
        *lock(&self.last_failure) = why;
    }

    /// Why the last probe was bad, if it was.
    pub(crate) fn last_failure(&self) -> Option<String> {
        lock(&self.last_failure).clone()
    }

    /// `ending` ends its sessions after `limit`, and nothing else does.
    pub(crate) fn set_ending(&self, ending: JoinHandle<()>, limit: Duration) {
        if let Some((former, _)) = lock(&self.ending).replace((ending, Instant::now() + limit)) {
            former.abort();
        }
    }

    /// How long the sessions that are left still have, if they have to end.
    pub(crate) fn ends_in(&self) -> Option<Duration> {
        lock(&self.ending).as_ref().map(|(_, at)| at.saturating_duration_since(Instant::now()))
    }

    /// The sessions that are left may stay.
    pub(crate) fn stop_ending(&self) {
        if let Some((ending, _)) = lock(&self.ending).take() {
            ending.abort();
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Slab<Arc<Handle>>> {
        lock(&self.sessions)
    }
}

/// A panic inside leaves at worst an entry too many or a reason that is out of date.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_sessions(count: usize) -> (Arc<TargetState>, Vec<Entry>) {
        let state = Arc::new(TargetState::default());
        let client = SocketAddr::from(([192, 0, 2, 1], 4711));
        let entries = (0..count).map(|_| state.enter(Handle::new("in".into(), client, None))).collect();
        (state, entries)
    }

    fn cut(entries: &[Entry]) -> usize {
        entries.iter().filter(|entry| entry.handle().end().is_some()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_sessions_are_not_cut_in_one_instant() {
        let (state, entries) = with_sessions(1_000);
        let pace = tokio::spawn(async move { state.cut_paced(SessionEnd::TargetDown).await });
        let mut seen = Vec::new();
        while !pace.is_finished() {
            sleep(Duration::from_millis(1)).await;
            seen.push(cut(&entries));
        }
        assert!(seen.windows(2).all(|pair| pair[1] - pair[0] <= 50), "{seen:?}");
        assert_eq!(cut(&entries), 1_000);
        assert!((900..=1_000).contains(&seen.len()), "it took {} ms", seen.len());
        assert!(entries.iter().all(|entry| entry.handle().end() == Some(SessionEnd::TargetDown)));
    }

    #[tokio::test]
    async fn a_session_without_a_task_is_told_of_its_cut_at_once() {
        let (state, entries) = with_sessions(2);
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        entries[1].handle().tell_cut(tell, 7);
        state.cut_paced(SessionEnd::TargetDown).await;
        assert_eq!(told.try_recv(), Ok(7));
        assert!(entries[1].handle().end().is_some(), "who looks finds it cut");
        assert!(told.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_sessions_are_cut_at_once() {
        let (state, entries) = with_sessions(16);
        let since = Instant::now();
        state.cut_paced(SessionEnd::TargetDown).await;
        assert_eq!((cut(&entries), since.elapsed()), (16, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn only_sessions_that_are_too_old_are_cut() {
        let (state, mut entries) = with_sessions(1);
        let client = SocketAddr::from(([192, 0, 2, 1], 4711));
        for seconds in [10, 20] {
            entries.push(state.enter(Handle::new("in".into(), client, Some(Duration::from_secs(seconds)))));
        }
        for (at, expected) in [(9, 0), (10, 1), (19, 1), (20, 2), (1_000, 2)] {
            tokio::time::advance(Duration::from_secs(at) - entries[0].handle.since.elapsed()).await;
            state.cut_old();
            assert_eq!(cut(&entries), expected, "after {at} s");
        }
        assert_eq!(entries[1].handle().end(), Some(SessionEnd::MaxAge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_its_deadline_and_spares_who_has_left() {
        let (state, mut entries) = with_sessions(3);
        let limit = Duration::from_secs(60);
        let drain = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.cut_after(limit, SessionEnd::Drained).await }
        });
        sleep(limit - Duration::from_millis(1)).await;
        assert_eq!(cut(&entries), 0);
        entries.pop();
        assert_eq!(state.handles().len(), 2);
        drain.await.unwrap();
        assert_eq!(cut(&entries), 2);
        drop(entries);
        assert!(state.handles().is_empty());
    }
}
