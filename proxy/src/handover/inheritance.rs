//! What a process finds when it takes over, or when systemd listens for it.

use std::collections::HashMap;
use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::sys::socket::{MsgFlags, send};
use socket2::Socket;
use tokio::time::timeout;

use super::link::{Kind, Link, receive_some};
use super::{HandoverError, Left, PATIENCE, READY, READY_FOR_ORDERS, SERVING, VARIABLE, WITH_ORDERS};
use crate::config::overlap;
use crate::systemd::activation::Activated;

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
