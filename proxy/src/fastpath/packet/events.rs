//! From the programs' events to the sessions they concern.

use std::io;
use std::sync::{Arc, PoisonError};

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::PacketPath;

impl PacketPath {
    /// Wakes sessions whose joint became live, closed or was reset, for ever. One task does it for all; a second call
    /// returns at once. Cancelling it ends the events for good. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub async fn run_events(self: Arc<Self>) -> io::Result<()> {
        let ring = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ring) = ring else { return Ok(()) };
        self.forward(ring).await
    }

    async fn forward(&self, ring: RingBuf<MapData>) -> io::Result<()> {
        // SAFETY: the ring buffer's descriptor stays the same and open until it is dropped.
        let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        loop {
            let mut ready = ring.readable_mut().await?;
            while let Some(record) = ready.get_inner_mut().next() {
                if let Some(number) = record.first_chunk() {
                    // The kind, in the upper half, is not needed: whoever is woken looks at the joint.
                    self.tell(u64::from_ne_bytes(*number) as u32);
                }
            }
            ready.clear_ready();
        }
    }

    fn tell(&self, index: u32) {
        if let Some(waker) = self.lock_slots().waker(index) {
            waker.wake();
        }
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some((owner, number))) = owners.get(index as usize) {
            // An owner that is gone has reset its sessions.
            let _gone = owner.send(*number);
        }
    }
}
