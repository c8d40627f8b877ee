//! From the programs' alarms to the sessions they concern.

use std::io;
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use landbridge_common::{Counter, Slot};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::engine::Engine;

/// Wakes sessions for ever.
pub(super) async fn run(engine: Arc<Engine>, ring: RingBuf<MapData>) -> io::Result<()> {
    // SAFETY: the ring buffer's descriptor stays the same and open until it is dropped.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    let mut lost = 0;
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(record) = ready.get_inner_mut().next() {
            if let Some(waker) = slot(&record).and_then(|slot| engine.waker(slot)) {
                waker.wake();
            }
        }
        ready.clear_ready();
        // A full buffer is drained sooner or later, and then everybody looks at their own bits.
        let now = engine.counters().one(Counter::AlarmLost).map_err(io::Error::other)?;
        if now != lost {
            lost = now;
            engine.wakers().iter().for_each(|waker| waker.wake());
        }
    }
}

/// What a record says: a 64-bit number.
fn slot(record: &[u8]) -> Option<Slot> {
    let number = u64::from_ne_bytes(*record.first_chunk()?);
    Slot::try_from(number).ok()
}
