//! One of a session's two connections.

use std::io;
use std::mem;
use std::net::TcpStream as StdStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::options::reset_on_close;

/// A connection that ends by RST unless its session ended in order: a peer must never take a stream that was cut
/// for a whole one.
#[derive(Debug)]
pub(crate) struct Leg {
    registration: Registration,
    orderly: bool,
}

/// What the runtime is asked to tell about the connection.
#[derive(Debug)]
enum Registration {
    Full(TcpStream),
    /// Nothing about arriving bytes: the kernel forwards them, and to be woken for each would cost what that saves.
    Quiet(AsyncFd<StdStream>),
    /// It could not be registered again; nothing works any more.
    Lost,
}

impl Leg {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { registration: Registration::Full(stream), orderly: false }
    }

    /// The connection while user space reads it; a leg begins so.
    pub(crate) fn stream(&self) -> io::Result<&TcpStream> {
        match &self.registration {
            Registration::Full(stream) => Ok(stream),
            Registration::Quiet(_) | Registration::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.registration {
            Registration::Full(stream) => Ok(stream.as_fd()),
            Registration::Quiet(stream) => Ok(stream.get_ref().as_fd()),
            Registration::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The leg is closed in order when it is dropped.
    pub(crate) fn close_in_order(&mut self) {
        self.orderly = true;
    }

    /// The socket alone, which the runtime no longer knows; it is closed as its new owner decides.
    ///
    /// # Errors
    /// The leg was lost.
    pub(crate) fn into_socket(mut self) -> io::Result<OwnedFd> {
        // What is left of the leg has no socket to reset.
        match mem::replace(&mut self.registration, Registration::Lost) {
            Registration::Full(stream) => Ok(stream.into_std()?.into()),
            Registration::Quiet(stream) => Ok(stream.into_inner().into()),
            Registration::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Turns news about arriving bytes off or on. Bytes that arrived while it was off are told at once.
    ///
    /// # Errors
    /// The runtime could not register the socket: the leg is lost.
    pub(crate) fn set_quiet(&mut self, quiet: bool) -> io::Result<()> {
        let registration = mem::replace(&mut self.registration, Registration::Lost);
        self.registration = match (registration, quiet) {
            (Registration::Full(stream), true) => {
                let stream = stream.into_std()?;
                // SAFETY: a `TcpStream` owns its descriptor, which stays the same and open until it is dropped.
                Registration::Quiet(unsafe { AsyncFd::register_with_interest(stream, Interest::WRITABLE) }?)
            }
            (Registration::Quiet(stream), false) => Registration::Full(TcpStream::from_std(stream.into_inner())?),
            (unchanged, _) => unchanged,
        };
        Ok(())
    }

    /// Ready when there may be bytes to read, or the end of the stream. Never while the leg is quiet.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.registration {
            Registration::Full(stream) => stream.poll_read_ready(cx),
            Registration::Quiet(_) => Poll::Pending,
            Registration::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Whether a readable leg's peer is known to have sent its last byte, or to have failed.
    pub(crate) fn is_ending(&self) -> bool {
        let Registration::Full(stream) = &self.registration else { return false };
        // It is ready at once, or not asked for: nobody is to be woken.
        let ready = pin!(stream.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Ready when bytes may be sent.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.registration {
            Registration::Full(stream) => stream.poll_write_ready(cx),
            Registration::Quiet(stream) => {
                let _guard = ready!(stream.poll_write_ready(cx))?;
                Poll::Ready(Ok(()))
            }
            Registration::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Runs `operation` if the leg may be ready for `interest`; WouldBlock means that it is not.
    pub(crate) fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match &self.registration {
            Registration::Full(stream) => stream.try_io(interest, || operation(stream.as_fd())),
            Registration::Quiet(stream) => stream.try_io(interest, |stream| operation(stream.as_fd())),
            Registration::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until the connection has failed: reset, or timed out. Cancelling loses nothing.
    pub(crate) async fn failed(&self) {
        // An error of the wait itself is a failure as well.
        match &self.registration {
            Registration::Full(stream) => drop(stream.ready(Interest::ERROR).await),
            Registration::Quiet(stream) => drop(stream.ready(Interest::ERROR).await),
            Registration::Lost => {}
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.orderly
            && let Ok(socket) = self.socket()
        {
            reset_on_close(socket);
        }
    }
}
