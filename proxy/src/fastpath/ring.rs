//! What the programs tell the daemon through a ring buffer: one number in each record.

use std::io;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Who is told.
pub(super) trait Audience {
    /// A program has said this.
    fn tell(&self, number: u64);

    /// How many numbers found no room in the buffer so far.
    ///
    /// # Errors
    /// The kernel does not say.
    fn lost(&self) -> io::Result<u64>;

    /// Some numbers were lost: everybody has to look for themselves.
    fn tell_all(&self);
}

/// Passes on what is told, for ever. A full buffer is drained sooner or later, and then everybody is told.
///
/// # Errors
/// The ring buffer cannot be waited for.
pub(super) async fn forward(ring: RingBuf<MapData>, audience: &impl Audience) -> io::Result<()> {
    // SAFETY: the ring buffer's descriptor stays the same and open until it is dropped.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    let mut lost = 0;
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(record) = ready.get_inner_mut().next() {
            if let Some(number) = record.first_chunk() {
                audience.tell(u64::from_ne_bytes(*number));
            }
        }
        ready.clear_ready();
        let now = audience.lost()?;
        if now != lost {
            lost = now;
            audience.tell_all();
        }
    }
}
