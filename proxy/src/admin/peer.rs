//! Who may use the control socket: root, the daemon's own user, and members of the daemon's group.
//!
//! The socket's mode says the same. But a mode can be changed, a socket of systemd has another one, and a descriptor can be
//! passed on; the kernel's word about who has connected stays.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, getegid, geteuid};
use tokio::net::UnixStream;

/// NGROUPS_MAX (linux/limits.h): nobody is in more groups.
const MOST_GROUPS: usize = 65_536;

/// Groups that are asked for at first; hardly anybody is in more.
const USUAL_GROUPS: usize = 64;

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// It may not.
    #[error("user {user} may not use the control socket: be root, user {own}, or a member of group {group}")]
    Stranger {
        /// Who it is.
        user: Uid,
        /// Whose daemon this is.
        own: Uid,
        /// Whose members may.
        group: Gid,
    },
    /// The kernel does not tell who it is.
    #[error("cannot tell who uses the control socket: {0}")]
    Unknown(#[from] io::Error),
}

/// An error unless the other end of `stream` may give orders.
pub(super) fn check(stream: &UnixStream) -> Result<(), PeerError> {
    let peer = stream.peer_cred()?;
    let user = Uid::from_raw(peer.uid());
    let (own, group) = (geteuid(), getegid());
    if user.is_root() || user == own || peer.gid() == group.as_raw() || groups(stream)?.contains(&group.as_raw()) {
        return Ok(());
    }
    Err(PeerError::Stranger { user, own, group })
}

/// The supplementary groups that the other end had when it connected (SO_PEERGROUPS).
fn groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; USUAL_GROUPS];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `length` bytes to `groups`, and both outlive the call.
        let code = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        match Errno::result(code) {
            Ok(_) => {
                groups.truncate(length as usize / size_of::<libc::gid_t>());
                return Ok(groups);
            }
            Err(Errno::ERANGE) if groups.len() < MOST_GROUPS => groups.resize(MOST_GROUPS, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}
