//! The messages between the two processes.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, send, sendmsg};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::orders::Ordered;

/// How long to wait until the other process has taken some of what fills the buffer between them.
const FULL: Duration = Duration::from_millis(5);

/// SCM_MAX_FD (net/scm.h) is 253 descriptors in one message.
pub(super) const MOST_AT_ONCE: usize = 200;

/// Longer than any address or order in JSON: names of groups have 64 characters at most, those of hosts 253.
const LONGEST_MESSAGE: usize = 1024;

/// What a message has, with descriptors or without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Accepts sessions on this address.
    Listener(SocketAddr),
    /// Accepts on the admin address.
    Admin(SocketAddr),
    /// Accepts on the control socket.
    Control,
    /// Holds the ports of a leg of a joined session.
    Shadow,
    /// What the operator has ordered of a group or a target.
    Order(Ordered),
    /// Nothing: there is no more.
    End,
}

/// The two processes' way to talk.
pub(super) struct Link(AsyncFd<OwnedFd>);

impl Link {
    pub(super) fn new(link: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by what is registered, and stays open until that is dropped.
        unsafe { AsyncFd::register_with_interest(link, Interest::READABLE) }.map(Self).map_err(io::Error::from)
    }

    pub(super) fn say(&self, word: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), word, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Sends descriptors. The other process may be slow to take them.
    pub(super) async fn give(&self, kind: &Kind, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match send_some(self.0.get_ref().as_fd(), kind, descriptors, MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL).await,
                sent => return sent,
            }
        }
    }

    /// Waits for descriptors. Cancelling loses none.
    pub(super) async fn take(&self) -> io::Result<(Kind, Vec<Socket>)> {
        self.0.async_io(Interest::READABLE, |link| receive_some(link.as_fd(), MsgFlags::MSG_DONTWAIT)).await
    }

    /// Waits for the other process to say one of these, and tells which. Cancelling loses no word.
    pub(super) async fn hear(&self, expected: &[&'static [u8]]) -> io::Result<&'static [u8]> {
        let mut buffer = [0; LONGEST_MESSAGE];
        let receive = |link: &OwnedFd| {
            let received = nix::sys::socket::recv(link.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
            received.map_err(io::Error::from)
        };
        let length = self.0.async_io(Interest::READABLE, receive).await?;
        let heard = expected.iter().find(|&&word| word == &buffer[..length]);
        heard.copied().ok_or_else(|| io::Error::other("it ended; its log says why"))
    }
}

/// Sends what a message has, and the descriptors.
pub(super) fn send_some(
    link: BorrowedFd<'_>,
    kind: &Kind,
    descriptors: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> io::Result<()> {
    let text = serde_json::to_vec(kind)?;
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(link.as_raw_fd(), &[IoSlice::new(&text)], control, flags | MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message; its descriptors are sockets.
pub(super) fn receive_some(link: BorrowedFd<'_>, flags: MsgFlags) -> io::Result<(Kind, Vec<Socket>)> {
    let mut text = [0; LONGEST_MESSAGE];
    let mut space = cmsg_space!([RawFd; MOST_AT_ONCE]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(link.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let length = received.bytes;
    let mut sockets = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
            sockets.extend(raw.into_iter().map(|raw| Socket::from(unsafe { OwnedFd::from_raw_fd(raw) })));
        }
    }
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&text[..length])?, sockets))
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::handover::{READY, READY_FOR_ORDERS, SERVING};

    pub(in crate::handover) fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn sockets_arrive_with_what_they_are() {
        let (near, far) = pair();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = listeners[0].local_addr().unwrap();
        let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        send_some(near.as_fd(), &Kind::Listener(address), &descriptors, MsgFlags::empty()).unwrap();
        send_some(near.as_fd(), &Kind::End, &[], MsgFlags::empty()).unwrap();
        let (kind, sockets) = receive_some(far.as_fd(), MsgFlags::empty()).unwrap();
        assert_eq!(kind, Kind::Listener(address));
        let arrived: Vec<_> = sockets.iter().map(|of| of.local_addr().unwrap().as_socket().unwrap()).collect();
        assert_eq!(arrived, listeners.iter().map(|of| of.local_addr().unwrap()).collect::<Vec<_>>());
        assert!(matches!(receive_some(far.as_fd(), MsgFlags::empty()).unwrap(), (Kind::End, none) if none.is_empty()));
        drop(near);
        assert!(receive_some(far.as_fd(), MsgFlags::empty()).is_err());
    }

    #[tokio::test]
    async fn only_the_word_is_the_word() {
        for (said, good) in [(READY, true), (READY_FOR_ORDERS, true), (SERVING, false), (b"no", false), (b"", false)] {
            let (near, far) = pair();
            if !said.is_empty() {
                send(far.as_raw_fd(), said, MsgFlags::empty()).unwrap();
            }
            drop(far);
            assert_eq!(Link::new(near).unwrap().hear(&[READY, READY_FOR_ORDERS]).await.is_ok(), good, "{said:?}");
        }
    }
}
