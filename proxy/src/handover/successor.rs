//! The process that is to take over, as the running one sees it.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use tokio::time::timeout;
use tracing::warn;

use super::link::{Kind, Link, MOST_AT_ONCE, send_some};
use super::{HandoverError, Left, PATIENCE, READY, READY_FOR_ORDERS, SERVING, VARIABLE, WITH_ORDERS};

/// What systemd says to one process by its id.
const MINE_ALONE: [&str; 4] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "WATCHDOG_PID"];

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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::sys::socket::send;
    use nix::unistd::Pid;
    use tokio::time::Instant;

    use super::*;
    use crate::handover::link::receive_some;
    use crate::handover::link::tests::pair;
    use crate::orders::Ordered;

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
            // It is left to itself when it serves.
            let child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
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
}
