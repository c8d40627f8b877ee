//! What tests do with a connection beyond reading and writing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use socket2::SockRef;

use crate::{PATIENCE, option};

/// How a connection ended, seen from one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The other end closed it in order (FIN).
    Closed,
    /// The other end reset it (RST).
    Reset,
}

/// Additions to a blocking TCP stream. All reads give up after [`PATIENCE`].
pub trait SocketExt {
    /// Reads exactly `expected`, and an error if anything else arrives.
    fn expect(&mut self, expected: &[u8]) -> Result<()>;
    /// Writes `message` and expects it back.
    fn expect_echo(&mut self, message: &[u8]) -> Result<()>;
    /// Reads until the other end is done: what arrived, and how it ended.
    fn read_to_ending(&mut self) -> Result<(Vec<u8>, Ending)>;
    /// Expects the end without another byte.
    fn expect_ending(&mut self, expected: Ending) -> Result<()>;
    /// Expects that nothing arrives, not even the end, for this long.
    fn expect_quiet(&mut self, time: Duration) -> Result<()>;
    /// Says that no more bytes will follow (FIN).
    fn finish_writing(&self) -> Result<()>;
    /// Closes with RST instead of FIN.
    fn reset(self) -> Result<()>;
    /// Closes without a word, as a host does that loses power.
    fn forget(self) -> Result<()>;
    /// Bytes that were written and the other end has not acknowledged, its end included.
    fn unacknowledged(&self) -> Result<u32>;
    /// Makes the kernel's buffers as small as they can be.
    fn shrink_buffers(&self) -> Result<()>;
}

impl SocketExt for TcpStream {
    fn expect(&mut self, expected: &[u8]) -> Result<()> {
        self.set_read_timeout(Some(PATIENCE))?;
        let mut received = vec![0; expected.len()];
        let mut length = 0;
        while length < expected.len() {
            let (before, rest) = received.split_at_mut(length);
            let context = || format!("after {:?}", String::from_utf8_lossy(before));
            let read = self.read(rest).with_context(context)?;
            if read == 0 {
                break;
            }
            length += read;
        }
        let (received, wanted) = (String::from_utf8_lossy(&received[..length]), String::from_utf8_lossy(expected));
        ensure!(received == wanted, "received {received:?} instead of {wanted:?}");
        Ok(())
    }

    fn expect_echo(&mut self, message: &[u8]) -> Result<()> {
        self.write_all(message)?;
        self.expect(message)
    }

    fn read_to_ending(&mut self) -> Result<(Vec<u8>, Ending)> {
        self.set_read_timeout(Some(PATIENCE))?;
        let mut received = Vec::new();
        match self.read_to_end(&mut received) {
            Ok(_) => Ok((received, Ending::Closed)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok((received, Ending::Reset)),
            Err(error) => Err(error).with_context(|| format!("no end after {} bytes", received.len())),
        }
    }

    fn expect_ending(&mut self, expected: Ending) -> Result<()> {
        let (received, ending) = self.read_to_ending()?;
        ensure!(received.is_empty(), "{} unexpected bytes", received.len());
        ensure!(ending == expected, "the connection ended as {ending:?} instead of {expected:?}");
        Ok(())
    }

    fn expect_quiet(&mut self, time: Duration) -> Result<()> {
        self.set_read_timeout(Some(time))?;
        match self.peek(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => Err(error).context("not quiet"),
            Ok(0) => bail!("not quiet: the connection was closed"),
            Ok(_) => bail!("not quiet: a byte arrived"),
        }
    }

    fn finish_writing(&self) -> Result<()> {
        self.shutdown(Shutdown::Write).context("cannot end the stream")
    }

    fn forget(self) -> Result<()> {
        option::repair(&self).context("repair mode")
    }

    fn reset(self) -> Result<()> {
        // Closing a socket that must not linger drops what is unsent and sends RST.
        SockRef::from(&self).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    fn unacknowledged(&self) -> Result<u32> {
        nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
        let mut bytes = 0;
        // SAFETY: the descriptor is open, and the kernel writes one int (tcp(7), SIOCOUTQ).
        unsafe { siocoutq(self.as_raw_fd(), &raw mut bytes) }.context("unacknowledged bytes")?;
        Ok(bytes.try_into()?)
    }

    fn shrink_buffers(&self) -> Result<()> {
        const SMALLEST: usize = 1;
        let shrink = || -> io::Result<()> {
            let socket = SockRef::from(self);
            socket.set_recv_buffer_size(SMALLEST)?;
            socket.set_send_buffer_size(SMALLEST)
        };
        shrink().context("cannot set buffer sizes")
    }
}
