//! What is asked of a leg's socket, one system call at a time.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::Interest;

use crate::net::leg::Leg;

/// Receives what is there, at most a buffer full. A short read has emptied the socket: its readiness is cleared without
/// the further call that would only say EAGAIN.
pub(super) fn try_recv(leg: &Leg, buffer: &mut [u8]) -> io::Result<usize> {
    let mut received = 0;
    let result = leg.try_io(Interest::READABLE, |socket| {
        received = recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        let short = 0 < received && received < buffer.len();
        if short { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock || received == 0 => Err(error),
        Ok(()) | Err(_) => Ok(received),
    }
}

/// Receives what a leg's peer had sent before the runtime was asked about it; 0: nothing yet, or the end.
pub(super) fn recv_early(leg: &Leg, buffer: &mut [u8]) -> io::Result<usize> {
    let received = match recv(leg.socket()?.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(received) => received,
        Err(Errno::EAGAIN) => 0,
        Err(error) => return Err(error.into()),
    };
    if 0 < received && received < buffer.len() {
        // The runtime believes a new socket to be readable. What comes from now on it is told.
        let _cleared = leg.try_io(Interest::READABLE, |_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(received)
}

/// Sends what the socket takes, 0 if that is nothing. The kernel may keep the `last` bytes of a stream until it is told to
/// send the end, which must follow at once: then both travel in one packet.
pub(super) fn try_send(leg: &Leg, bytes: &[u8], last: bool) -> io::Result<usize> {
    let mut flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    flags.set(MsgFlags::from_bits_retain(libc::MSG_MORE), last);
    let mut sent = 0;
    let result = leg.try_io(Interest::WRITABLE, |socket| {
        while sent < bytes.len() {
            sent += send(socket.as_raw_fd(), &bytes[sent..], flags)?;
        }
        Ok(())
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(sent),
    }
}
