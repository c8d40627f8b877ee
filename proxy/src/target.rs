//! What lives as long as a target does, whatever the configuration around it: its sessions, and what it is counted by.
//!
//! A reload carries it over by group and address. It starts no task of its own; [`TargetState::cut_paced`] and
//! [`TargetState::cut_after`] are futures, and cancelling them leaves the sessions that they have not come to.

use std::future::poll_fn;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::select::Load;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use crate::blocks::Blocks;
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
    /// The largest segment that fits on the way to it, in bytes; 0: not known.
    segment: AtomicU32,
    /// What was counted of its probes.
    pub(crate) probes: ProbeStats,
    /// Why the last probe was bad, if it was.
    last_failure: Mutex<Option<String>>,
    /// What is ending its sessions, if anything, and when it does.
    ending: Mutex<Option<(JoinHandle<()>, Instant)>>,
    /// Whether some session has, or had, a limit of its age.
    ages: AtomicBool,
    /// How often sessions were told to end, so that the others need no lock to know that they were not.
    cuts: AtomicU64,
    register: Mutex<Register>,
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

/// How a session is seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// Its listener.
    pub(crate) listener: Arc<str>,
    /// Who the client is.
    pub(crate) client: SocketAddr,
    /// When its target was chosen.
    pub(crate) since: Instant,
    /// How old it may become, if there is a limit.
    pub(crate) oldest: Option<Duration>,
}

/// The sessions of a target.
#[derive(Debug, Default)]
struct Register {
    sessions: Blocks<Registered>,
    /// How many there have been.
    count: u64,
}

#[derive(Debug)]
struct Registered {
    handle: Handle,
    /// No other session of the target has this one; its number in the register may become another's.
    serial: u64,
    /// As what it has to end, once it has to.
    end: Option<SessionEnd>,
    tell: Tell,
}

/// Whom to tell that a session has to end.
#[derive(Debug, Default)]
enum Tell {
    #[default]
    Nobody,
    /// The task that waits for it.
    Task(Waker),
    /// Who looks after it, and the number that it has there.
    Keeper(UnboundedSender<u32>, u32),
}

impl Tell {
    fn tell(self) {
        match self {
            Self::Nobody => {}
            Self::Task(waker) => waker.wake(),
            // Nobody hears it when the worker has ended, and the session with it.
            Self::Keeper(keeper, number) => drop(keeper.send(number)),
        }
    }
}

/// A session's place in its target's register, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    state: Arc<TargetState>,
    number: u32,
}

impl Entry {
    /// Ready when the session has to end, with as what. Told is the task that polls it first; cancelling loses nothing.
    pub(crate) async fn cut(&self) -> SessionEnd {
        let mut registered = None;
        poll_fn(|cx| {
            // A cut that comes later wakes the task, which sees it then.
            let cuts = self.state.cuts.load(Ordering::Relaxed);
            if registered.replace(cuts) == Some(cuts) { Poll::Pending } else { self.poll_cut(cx) }
        })
        .await
    }

    fn poll_cut(&self, cx: &Context<'_>) -> Poll<SessionEnd> {
        let mut register = self.state.register();
        let Some(of) = register.sessions.get_mut(self.number) else { return Poll::Pending };
        if let Some(end) = of.end {
            return Poll::Ready(end);
        }
        match &mut of.tell {
            Tell::Task(waker) => waker.clone_from(cx.waker()),
            tell => *tell = Tell::Task(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// As what the session has to end, if it has to.
    pub(crate) fn end(&self) -> Option<SessionEnd> {
        self.state.register().sessions.get(self.number)?.end
    }

    /// From now on `keeper` gets `number` when the session has to end. It may have to already: see [`Self::end`].
    pub(crate) fn tell_cut(&self, keeper: UnboundedSender<u32>, number: u32) {
        if let Some(of) = self.state.register().sessions.get_mut(self.number) {
            of.tell = Tell::Keeper(keeper, number);
        }
    }

    /// Who the client is.
    pub(crate) fn client(&self) -> SocketAddr {
        let nobody = SocketAddr::from(([0; 4], 0));
        self.state.register().sessions.get(self.number).map_or(nobody, |of| of.handle.client)
    }

    /// Its target.
    pub(crate) fn state(&self) -> &TargetState {
        &self.state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let removed = self.state.register().sessions.remove(self.number);
        // What it has to drop needs no lock.
        drop(removed);
    }
}

impl TargetState {
    /// Registers a session.
    pub(crate) fn enter(self: &Arc<Self>, handle: Handle) -> Entry {
        if handle.oldest.is_some() {
            self.ages.store(true, Ordering::Relaxed);
        }
        let mut register = self.register();
        let serial = register.count;
        register.count += 1;
        let number = register.sessions.insert(Registered { handle, serial, end: None, tell: Tell::Nobody });
        Entry { state: Arc::clone(self), number }
    }

    /// The sessions now.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.register().sessions.iter().map(|(_, of)| of.handle.clone()).collect()
    }

    /// The sessions now that `choose` takes, by number and serial.
    fn chosen(&self, choose: impl Fn(&Handle) -> bool) -> Vec<(u32, u64)> {
        let register = self.register();
        let chosen = register.sessions.iter().filter(|(_, of)| choose(&of.handle));
        chosen.map(|(number, of)| (number, of.serial)).collect()
    }

    /// Ends those of `sessions` that are still there, which count it as `end`. Only the first end of a session matters.
    fn cut(&self, sessions: &[(u32, u64)], end: SessionEnd) {
        let mut register = self.register();
        self.cuts.fetch_add(1, Ordering::Relaxed);
        let mut told = Vec::with_capacity(sessions.len());
        for &(number, serial) in sessions {
            let found = register.sessions.get_mut(number).filter(|of| of.serial == serial && of.end.is_none());
            if let Some(Registered { handle, end: as_what, tell, .. }) = found {
                debug!(listener = &*handle.listener, client = %handle.client, end = end.code(), "ending a session");
                *as_what = Some(end);
                told.push(mem::take(tell));
            }
        }
        drop(register);
        told.into_iter().for_each(Tell::tell);
    }

    /// Ends the sessions that the target has now, spread over [`CUT_SPREAD`].
    pub(crate) async fn cut_paced(&self, end: SessionEnd) {
        let sessions = self.chosen(|_| true);
        let step = sessions.len().div_ceil(CUT_STEPS as usize).max(CUT_AT_ONCE);
        for (index, some) in sessions.chunks(step).enumerate() {
            if index > 0 {
                sleep(CUT_SPREAD / CUT_STEPS).await;
            }
            self.cut(some, end);
        }
    }

    /// Ends the sessions that are older than they may be.
    pub(crate) fn cut_old(&self) {
        if self.ages.load(Ordering::Relaxed) {
            let is_old = |of: &Handle| of.oldest.is_some_and(|oldest| of.since.elapsed() >= oldest);
            self.cut(&self.chosen(is_old), SessionEnd::MaxAge);
        }
    }

    /// Ends the sessions that the target still has after `limit`.
    pub(crate) async fn cut_after(&self, limit: Duration, end: SessionEnd) {
        sleep_until(Instant::now() + limit).await;
        self.cut_paced(end).await;
    }

    /// Notes how large segments may be on the way to it, by the routes of now; `None`: there is no route.
    pub(crate) fn set_segment(&self, segment: Option<u32>) {
        self.segment.store(segment.unwrap_or(0), Ordering::Relaxed);
    }

    /// The largest segment that fits on the way to it, in bytes, as far as is known.
    pub(crate) fn segment(&self) -> Option<u32> {
        Some(self.segment.load(Ordering::Relaxed)).filter(|&segment| segment > 0)
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

    fn register(&self) -> MutexGuard<'_, Register> {
        lock(&self.register)
    }
}

/// A panic inside leaves at worst an entry too many or a reason that is out of date.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(oldest: Option<Duration>) -> Handle {
        let client = SocketAddr::from(([192, 0, 2, 1], 4711));
        Handle { listener: "in".into(), client, since: Instant::now(), oldest }
    }

    fn with_sessions(count: usize) -> (Arc<TargetState>, Vec<Entry>) {
        let state = Arc::new(TargetState::default());
        let entries = (0..count).map(|_| state.enter(handle(None))).collect();
        (state, entries)
    }

    fn cut(entries: &[Entry]) -> usize {
        entries.iter().filter(|entry| entry.end().is_some()).count()
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
        assert!(entries.iter().all(|entry| entry.end() == Some(SessionEnd::TargetDown)));
    }

    #[tokio::test]
    async fn a_session_without_a_task_is_told_of_its_cut_at_once() {
        let (state, entries) = with_sessions(2);
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        entries[1].tell_cut(tell, 7);
        state.cut_paced(SessionEnd::TargetDown).await;
        assert_eq!(told.try_recv(), Ok(7));
        assert!(entries[1].end().is_some(), "who looks finds it cut");
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_session_that_waits_is_told_of_its_cut_alone() {
        let (state, mut entries) = with_sessions(2);
        let numbers = state.chosen(|_| true);
        let last = entries.pop().unwrap();
        let waiting = tokio::spawn(async move { last.cut().await });
        for (one, is_told) in [(&numbers[..1], false), (&numbers[1..], true)] {
            tokio::task::yield_now().await;
            state.cut(one, SessionEnd::MaxAge);
            tokio::task::yield_now().await;
            assert_eq!(waiting.is_finished(), is_told);
        }
        assert_eq!(waiting.await.unwrap(), SessionEnd::MaxAge);
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
        let since = Instant::now();
        for seconds in [10, 20] {
            entries.push(state.enter(handle(Some(Duration::from_secs(seconds)))));
        }
        for (at, expected) in [(9, 0), (10, 1), (19, 1), (20, 2), (1_000, 2)] {
            tokio::time::advance(Duration::from_secs(at) - since.elapsed()).await;
            state.cut_old();
            assert_eq!(cut(&entries), expected, "after {at} s");
        }
        assert_eq!(entries[1].end(), Some(SessionEnd::MaxAge));
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
