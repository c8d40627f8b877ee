//! A session gets a target: chosen at once, or in turn where all are full.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::select::{NoTarget, TargetId};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use super::Shared;
use crate::places::Place;
use crate::target::{Entry, Handle};

impl Shared {
    /// Chooses a target and counts the session to it until the [`Lease`] is dropped.
    pub(crate) fn select(&self, listener: usize, client: SocketAddr, tried: &[TargetId]) -> Result<Lease, NoTarget> {
        let id = self.pool().select(listener, client.ip(), tried)?;
        let state = Arc::clone(self.state(id));
        let handle = self.handle(listener, client, Instant::now());
        let vacancy = self.target(id).1.max_connections.map(|_limited| Arc::clone(&self.vacancy));
        Ok(Lease { id, entry: state.enter(handle), vacancy })
    }

    /// Counts a session that a former process has begun: a place of `listener` and a [`Lease`] of `id`, limits or not.
    pub(crate) fn readmit(&self, listener: usize, id: TargetId, client: SocketAddr, began: Instant) -> (Place, Lease) {
        let places = &self.listeners[listener].places;
        let state = Arc::clone(self.state(id));
        state.load.take();
        let handle = self.handle(listener, client, began);
        let vacancy = self.target(id).1.max_connections.map(|_limited| Arc::clone(&self.vacancy));
        (places.take_anyway(), Lease { id, entry: state.enter(handle), vacancy })
    }

    fn handle(&self, listener: usize, client: SocketAddr, since: Instant) -> Handle {
        let oldest = self.config.listeners[listener].max_session_age.map(around);
        Handle { listener: Arc::clone(&self.listeners[listener].name), client, since, oldest }
    }

    /// As [`Self::select`], but if every target is full the client waits in line for at most the listener's `queue_timeout`, and then
    /// the session has to end. Cancelling leaves the line.
    pub(crate) async fn select_in_turn(
        &self,
        listener: usize,
        client: SocketAddr,
        tried: &[TargetId],
    ) -> Result<Lease, SessionEnd> {
        let nobody = if tried.is_empty() { SessionEnd::NoTarget } else { SessionEnd::ConnectFailed };
        let Some(limit) = self.config.listeners[listener].queue_timeout else {
            return self.select(listener, client, tried).map_err(|NoTarget| nobody);
        };
        let line = &self.listeners[listener].line;
        // Who comes while others wait goes behind them.
        if let Ok(_nobody_waits) = line.try_lock() {
            match self.select(listener, client, tried) {
                Ok(lease) => return Ok(lease),
                Err(NoTarget) if !self.is_full(listener) => return Err(nobody),
                Err(NoTarget) => {}
            }
        }
        let in_turn = async {
            let _first = line.lock().await;
            loop {
                let mut vacancy = pin!(self.vacancy.notified());
                // From here on no vacancy is missed.
                vacancy.as_mut().enable();
                match self.select(listener, client, tried) {
                    Ok(lease) => return Ok(lease),
                    Err(NoTarget) if !self.is_full(listener) => return Err(nobody),
                    Err(NoTarget) => vacancy.await,
                }
            }
        };
        timeout(limit, in_turn).await.unwrap_or(Err(SessionEnd::QueueTimeout))
    }

    /// Tells the clients that wait for a place to look again.
    pub(crate) fn call_waiting(&self) {
        self.vacancy.notify_waiters();
    }

    fn is_full(&self, listener: usize) -> bool {
        self.pool().selector().is_full(listener)
    }
}

/// A target with a session counted to it.
#[derive(Debug)]
pub(crate) struct Lease {
    id: TargetId,
    entry: Entry,
    /// Whom to tell that there is a place, if the target has a limit.
    vacancy: Option<Arc<Notify>>,
}

impl Lease {
    pub(crate) fn id(&self) -> TargetId {
        self.id
    }

    /// Who the client is.
    pub(crate) fn client(&self) -> SocketAddr {
        self.entry.client()
    }

    /// Ready when the session has to end for the sake of its target: whoever forwards its bytes resets both legs then, and
    /// counts it so.
    pub(crate) async fn cut(&self) -> SessionEnd {
        self.entry.cut().await
    }

    /// As what the session has to end, if it has to: [`Self::cut`] for those that are not waiting.
    pub(crate) fn is_cut(&self) -> Option<SessionEnd> {
        self.entry.end()
    }

    /// From now on `tell` gets `number` when the session is cut, which may have happened already.
    pub(crate) fn tell_cut(&self, tell: UnboundedSender<u32>, number: u32) {
        self.entry.tell_cut(tell, number);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.entry.state().load.release();
        if let Some(vacancy) = &self.vacancy {
            vacancy.notify_waiters();
        }
    }
}

/// A tenth more or less, so that what began together does not end together.
fn around(age: Duration) -> Duration {
    let random = SysRng.try_next_u64().unwrap_or(u64::MAX / 2);
    age.mul_f64(0.9 + 0.2 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config;

    const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4711);

    /// A target for one session, with a line for the others.
    fn one_place() -> Shared {
        Shared::new(config::example("queue_timeout = \"3s\"", "", "max_connections = 1"), 1, Arc::default())
    }

    /// Asks once. What it wants is not told: it is asked again when it may have it.
    fn poll<F: Future>(of: &mut Pin<Box<F>>) -> Poll<F::Output> {
        of.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_a_place_as_long_as_the_listener_says() {
        let shared = one_place();
        let taken = shared.select_in_turn(0, CLIENT, &[]).await.unwrap();
        let begun = Instant::now();
        assert_eq!(shared.select_in_turn(0, CLIENT, &[]).await.err(), Some(SessionEnd::QueueTimeout));
        assert_eq!(begun.elapsed(), Duration::from_secs(3));

        let begun = Instant::now();
        let leave = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(taken);
        };
        let (waited, ()) = tokio::join!(shared.select_in_turn(0, CLIENT, &[]), leave);
        assert_eq!((waited.is_ok(), begun.elapsed()), (true, Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_others_wait_goes_behind_them() {
        let shared = one_place();
        let taken = shared.select_in_turn(0, CLIENT, &[]).await.unwrap();
        let mut first = Box::pin(shared.select_in_turn(0, CLIENT, &[]));
        assert!(poll(&mut first).is_pending());
        drop(taken);
        let mut second = Box::pin(shared.select_in_turn(0, CLIENT, &[]));
        assert!(poll(&mut second).is_pending(), "the place is the first one's");
        let Poll::Ready(Ok(taken)) = poll(&mut first) else { panic!("the first one has no place") };
        assert!(poll(&mut second).is_pending());
        drop((first, taken));
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
    }

    #[test]
    fn ages_are_spread_over_a_tenth_more_or_less() {
        let age = Duration::from_secs(100);
        let ages: Vec<_> = (0..1_000).map(|_| around(age)).collect();
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(90) && *most <= Duration::from_secs(110), "{least:?} to {most:?}");
        // Of so many, chance spares neither half of either tenth.
        assert!(*least < Duration::from_secs(95) && *most > Duration::from_secs(105), "{least:?} to {most:?}");
    }
}
