//! A binary upgrade: the running daemon starts the new binary and hands its listening sockets over.
//!
//! The sockets go over a pair of Unix sockets, whose far end is the new process's standard input. That process says when
//! it is ready; then the old one lets go of its joined sessions, and the new one adopts them and says when it serves. Until
//! then the old one goes on. If the new one ends before, nothing has changed, except that the old one joins no more if it
//! had let go. A word in the environment says what else the old one can hand over: what the operator has ordered. Both
//! accept from the same sockets in between, so no client is refused.

use std::collections::HashMap;
use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, sendmsg,
    socketpair,
};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::config::overlap;
use crate::operate::Ordered;
use crate::systemd::activation::Activated;

/// Tells the new process what its standard input is.
const VARIABLE: &str = "LANDBRIDGE_HANDOVER";

/// The value of [`VARIABLE`] where the former process can hand over orders; it was another one before.
const WITH_ORDERS: &str = "stdin, orders";

/// How long to wait until the other process has taken some of what fills the buffer between them.
const FULL: Duration = Duration::from_millis(5);

/// What systemd says to one process by its id.
const MINE_ALONE: [&str; 4] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "WATCHDOG_PID"];

/// What the new process says when it could serve.
const READY: &[u8] = b"ready";
/// The same, said to a former process that can hand over orders: they are wanted.
const READY_FOR_ORDERS: &[u8] = b"ready for orders";
/// What it says when it serves.
const SERVING: &[u8] = b"serving";

/// SCM_MAX_FD (net/scm.h) is 253 descriptors in one message.
const MOST_AT_ONCE: usize = 200;

/// Longer than any address or order in JSON: names of groups have 64 characters at most, those of hosts 253.
const LONGEST_MESSAGE: usize = 1024;

/// The new process waits for its first probes, a minute at most, and needs some seconds to load its eBPF programs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why sockets were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The new process could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The binary.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The sockets could not be sent or received.
    #[error("cannot hand over the sockets: {0}")]
    Transfer(#[from] io::Error),
    /// The other process ended, or did not do its part in time.
    #[error("the other process does not serve: {0}")]
    NotReady(String),
}

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

/// What is left to a process that takes over.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The sockets that hold the ports of the joined sessions.
    pub(crate) shadows: Vec<OwnedFd>,
    /// What the operator has ordered.
    pub(crate) orders: Vec<Ordered>,
}

/// A process that was started and has not said yet that it serves.
#[derive(Debug)]
pub(crate) struct Successor {
    child: Child,
    link: OwnedFd,
}

impl Successor {
    /// Starts `program` with this process's way of being run, and sends it the descriptors.
    pub(crate) fn start(
        program: &Path,
        config: &Path,
        descriptors: &[(Kind, Vec<BorrowedFd<'_>>)],
    ) -> Result<Self, HandoverError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (link, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(io::Error::from)?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(config).env(VARIABLE, WITH_ORDERS).stdin(Stdio::from(far));
        // systemd's word to this process about sockets that are handed over here, and whose watchdog the new one answers.
        for variable in MINE_ALONE {
            command.env_remove(variable);
        }
        let failed = |source| HandoverError::Start { program: program.display().to_string(), source };
        let successor = Self { child: command.spawn().map_err(failed)?, link };
        for (kind, of_kind) in descriptors {
            for some in of_kind.chunks(MOST_AT_ONCE) {
                send_some(successor.link.as_fd(), kind, some, MsgFlags::empty())?;
            }
        }
        send_some(successor.link.as_fd(), &Kind::End, &[], MsgFlags::empty())?;
        Ok(successor)
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it serves; `let_go` leaves it what there is beside the listening sockets. Otherwise, and when cancelled,
    /// it is ended.
    pub(crate) async fn serves(self, let_go: impl Future<Output = Left>) -> Result<u32, HandoverError> {
        let mut child = EndedOnDrop(Some(self.child));
        let words = async {
            let link = Link::new(self.link)?;
            let wants_orders = link.hear(&[READY, READY_FOR_ORDERS]).await? == READY_FOR_ORDERS;
            let Left { shadows, orders } = let_go.await;
            if wants_orders {
                for order in orders {
                    link.give(&Kind::Order(order), &[]).await?;
                }
            } else if !orders.is_empty() {
                warn!("the new process is too old to be told the operator's weights and states: set them again");
            }
            for some in shadows.chunks(MOST_AT_ONCE) {
                let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
                link.give(&Kind::Shadow, &some).await?;
            }
            link.give(&Kind::End, &[]).await?;
            link.hear(&[SERVING]).await
        };
        match timeout(PATIENCE, words).await {
            Ok(Ok(_serving)) => Ok(child.0.take().map_or(0, |child| child.id())),
            Ok(Err(error)) => Err(HandoverError::NotReady(error.to_string())),
            Err(_elapsed) => Err(HandoverError::NotReady(format!("nothing was heard of it for {PATIENCE:?}"))),
        }
    }
}

/// The two processes' way to talk.
struct Link(AsyncFd<OwnedFd>);

impl Link {
    fn new(link: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by what is registered, and stays open until that is dropped.
        unsafe { AsyncFd::register_with_interest(link, Interest::READABLE) }.map(Self).map_err(io::Error::from)
    }

    fn say(&self, word: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), word, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Sends descriptors. The other process may be slow to take them.
    async fn give(&self, kind: &Kind, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match send_some(self.0.get_ref().as_fd(), kind, descriptors, MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL).await,
                sent => return sent,
            }
        }
    }

    /// Waits for descriptors. Cancelling loses none.
    async fn take(&self) -> io::Result<(Kind, Vec<Socket>)> {
        self.0.async_io(Interest::READABLE, |link| receive_some(link.as_fd(), MsgFlags::MSG_DONTWAIT)).await
    }

    /// Waits for the other process to say one of these, and tells which. Cancelling loses no word.
    async fn hear(&self, expected: &[&'static [u8]]) -> io::Result<&'static [u8]> {
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

/// A process that must not go on when nobody waits for it any more.
struct EndedOnDrop(Option<Child>);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It has ended already, or it must.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the former process has handed over, or else systemd.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// To the former process, if there is one.
    link: Option<OwnedFd>,
    /// Whether that one can tell what the operator has ordered.
    tells_orders: bool,
    listeners: HashMap<SocketAddr, Vec<Socket>>,
    admin: HashMap<SocketAddr, Socket>,
    control: Option<Socket>,
}

impl Inheritance {
    /// What there is for this process; `None` if nobody hands anything over.
    pub(crate) fn receive() -> Result<Option<Self>, HandoverError> {
        let Some(variable) = env::var_os(VARIABLE) else { return Ok(None) };
        let link = io::stdin().as_fd().try_clone_to_owned()?;
        let (listeners, admin) = (HashMap::new(), HashMap::new());
        let tells_orders = variable == WITH_ORDERS;
        let mut inheritance = Self { link: None, tells_orders, listeners, admin, control: None };
        loop {
            match receive_some(link.as_fd(), MsgFlags::empty())? {
                (Kind::Listener(address), sockets) => {
                    inheritance.listeners.entry(address).or_default().extend(sockets);
                }
                (Kind::Admin(address), sockets) => {
                    inheritance.admin.extend(sockets.into_iter().map(|socket| (address, socket)));
                }
                (Kind::Control, sockets) => inheritance.control = sockets.into_iter().next(),
                // They come later.
                (Kind::Shadow | Kind::Order(_), _) => {}
                (Kind::End, _) => return Ok(Some(Self { link: Some(link), ..inheritance })),
            }
        }
    }

    /// What systemd has handed over; `None` if that is nothing.
    pub(crate) fn activated(Activated { internet, unix }: Activated) -> Option<Self> {
        if internet.is_empty() && unix.is_empty() {
            return None;
        }
        let mut listeners: HashMap<_, Vec<_>> = HashMap::new();
        for (address, socket) in internet {
            listeners.entry(address).or_default().push(socket);
        }
        let control = unix.into_iter().next();
        Some(Self { link: None, tells_orders: false, listeners, admin: HashMap::new(), control })
    }

    /// Whether a former process serves meanwhile.
    pub(crate) fn takes_over(&self) -> bool {
        self.link.is_some()
    }

    /// What listens and nobody has asked for.
    pub(crate) fn unclaimed(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.keys().copied()
    }

    /// The sockets that listen on `address`, for so many workers.
    ///
    /// systemd opens one, as root: another user's sockets cannot be bound beside it (SO_REUSEPORT asks for one user), so that
    /// the workers share it.
    pub(crate) fn listeners(&mut self, address: SocketAddr, workers: usize) -> io::Result<Vec<Socket>> {
        let mut sockets = self.listeners.remove(&address).unwrap_or_default();
        if let (None, [first, ..]) = (&self.link, sockets.as_slice()) {
            let shared = (sockets.len()..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
            sockets.extend(shared);
        }
        // What the workers here are too few for, the former process serves until it has drained.
        sockets.truncate(workers);
        Ok(sockets)
    }

    /// Whether the former process listens on something that overlaps `address`.
    pub(crate) fn overlaps(&self, address: SocketAddr) -> bool {
        self.listeners.keys().any(|of| overlap(*of, address))
    }

    /// The socket of the admin address.
    pub(crate) fn admin(&mut self, address: SocketAddr) -> Option<Socket> {
        let activated = match self.link {
            Some(_) => None,
            None => self.listeners.remove(&address).and_then(|mut sockets| sockets.pop()),
        };
        activated.or_else(|| self.admin.remove(&address))
    }

    /// The control socket.
    pub(crate) fn control(&mut self) -> Option<Socket> {
        self.control.take()
    }

    /// Tells the former process that this one could serve, and waits until the joined sessions are this one's.
    pub(crate) async fn take_over(&self) -> Result<Left, HandoverError> {
        let Some(link) = &self.link else { return Ok(Left::default()) };
        let link = Link::new(link.try_clone()?)?;
        link.say(if self.tells_orders { READY_FOR_ORDERS } else { READY })?;
        let left = async {
            let mut left = Left::default();
            loop {
                match link.take().await? {
                    (Kind::Shadow, some) => left.shadows.extend(some.into_iter().map(OwnedFd::from)),
                    (Kind::Order(order), _) => left.orders.push(order),
                    (Kind::End, _) => return Ok(left),
                    (other, _) => return Err(io::Error::other(format!("{other:?} was not to come now"))),
                }
            }
        };
        match timeout(PATIENCE, left).await {
            Ok(left) => Ok(left?),
            Err(_elapsed) => Err(HandoverError::NotReady("the former process does not let go".to_owned())),
        }
    }

    /// Tells the former process that this one serves.
    pub(crate) fn say_serving(&self) -> io::Result<()> {
        if let Some(link) = &self.link {
            send(link.as_raw_fd(), SERVING, MsgFlags::MSG_NOSIGNAL)?;
        }
        Ok(())
    }
}

fn send_some(link: BorrowedFd<'_>, kind: &Kind, descriptors: &[BorrowedFd<'_>], flags: MsgFlags) -> io::Result<()> {
    let text = serde_json::to_vec(kind)?;
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(link.as_raw_fd(), &[IoSlice::new(&text)], control, flags | MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive_some(link: BorrowedFd<'_>, flags: MsgFlags) -> io::Result<(Kind, Vec<Socket>)> {
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
mod tests {
    use std::net::TcpListener;

    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
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

    /// As another version may write it.
    fn order() -> Ordered {
        serde_json::from_str(r#"{"group": "g", "weight": 7, "colour": "blue"}"#).unwrap()
    }

    /// A process that hangs.
    fn hanging() -> (Successor, Pid) {
        let (link, far) = pair();
        let child = Command::new("sleep").arg("60").stdin(Stdio::from(far)).spawn().unwrap();
        let id = Pid::from_raw(child.id().cast_signed());
        (Successor { child, link }, id)
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_says_nothing_is_ended_when_patience_is() {
        let (successor, id) = hanging();
        let since = Instant::now();
        let outcome = successor.serves(std::future::pending()).await;
        assert!(matches!(outcome, Err(HandoverError::NotReady(_))), "{outcome:?}");
        let took = since.elapsed();
        assert!((PATIENCE..PATIENCE * 2).contains(&took), "after {took:?}");
        assert_eq!(kill(id, None), Err(Errno::ESRCH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_nobody_waits_for_is_ended() {
        let (successor, id) = hanging();
        timeout(PATIENCE / 2, successor.serves(std::future::pending())).await.unwrap_err();
        assert_eq!(kill(id, None), Err(Errno::ESRCH));
    }

    #[tokio::test]
    async fn orders_go_to_who_wants_them() {
        for (word, expected) in [(READY, vec![Kind::End]), (READY_FOR_ORDERS, vec![Kind::Order(order()), Kind::End])] {
            let (link, far) = pair();
            let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
            for said in [word, SERVING] {
                send(far.as_raw_fd(), said, MsgFlags::empty()).unwrap();
            }
            let left = async { Left { shadows: Vec::new(), orders: vec![order()] } };
            Successor { child, link }.serves(left).await.unwrap();
            let heard = expected.iter().map(|_| receive_some(far.as_fd(), MsgFlags::empty()).unwrap().0);
            assert_eq!(heard.collect::<Vec<_>>(), expected);
            assert!(receive_some(far.as_fd(), MsgFlags::empty()).is_err(), "there is more");
        }
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
