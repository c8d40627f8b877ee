//! What the programs log. They do so on rare paths only, never for a packet that goes its way.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The ring buffer with the programs' log records.
pub struct KernelLog(EbpfLogger<&'static dyn ::log::Log>);

impl KernelLog {
    /// Takes the ring buffer out of the object; before the programs are loaded, which refer to it.
    pub(super) fn of(programs: &mut Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init(programs).map(Self)
    }

    /// Passes the records on to the daemon's log, for ever.
    ///
    /// Cancelling it loses nothing but log records. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub async fn forward(self) -> io::Result<()> {
        // SAFETY: the logger owns its ring buffer, whose descriptor stays the same and open until the logger is dropped.
        let mut log = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
