//! From the programs' events to the sessions they concern.

use std::io;
use std::sync::{Arc, PoisonError};

use landbridge_common::packet::PacketCounter;

use super::PacketPath;
use crate::fastpath::ring::{self, Audience};

impl PacketPath {
    /// Wakes sessions whose joint became live, closed or was reset, for ever. One task does it for all; a second call
    /// returns at once. Cancelling it ends the events for good. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for, or the counters not be read.
    pub async fn run_events(self: Arc<Self>) -> io::Result<()> {
        let ring = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ring {
            Some(ring) => ring::forward(ring, &*self).await,
            None => Ok(()),
        }
    }
}

impl Audience for PacketPath {
    fn tell(&self, number: u64) {
        // The kind, in the upper half, is not needed: whoever is woken looks at the joint.
        let index = number as u32;
        if let Some(waker) = self.lock_slots().waker(index) {
            waker.wake();
        }
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some((owner, number))) = owners.get(index as usize) {
            // An owner that is gone has reset its sessions.
            let _gone = owner.send(*number);
        }
    }

    fn lost(&self) -> io::Result<u64> {
        self.count(PacketCounter::EventLost).map_err(io::Error::other)
    }

    /// Owners look at all of their sessions each second.
    fn tell_all(&self) {
        self.wake_all();
    }
}
