//! Where joined sessions outlive the process: the maps and the attachments, pinned in a BPF file system.
//!
//! Every daemon has a directory of its own, which its name ties to a network namespace, a configuration file and the layout
//! of the maps. Whoever holds the lock on the directory owns what is in it; the kernel takes the lock from a process that
//! ends, however it ends.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, loaded_programs};
use landbridge_common::packet::LAYOUT;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{FsType, statfs};
use siphasher::sip::SipHasher13;
use tracing::{debug, info};

use crate::tcp;

/// The file system that hosts mount for everybody, and that outlives a service's own view of the machine.
const SHARED: &str = "/sys/fs/bpf";
/// What a daemon mounts where there is none, as in a container or under `ip netns exec`.
const RUNTIME: &str = "/run/landbridge";
const OWN: &str = "/run/landbridge/bpf";

/// BPF_FS_MAGIC (linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11_u32 as _);

/// Only its owner may look at it.
const MODE: u32 = 0o700;

/// What the name of a pinned attachment begins with; the index of the device follows.
const LINK: &str = "link-";

/// Why there is no place for the state.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is no BPF file system and none can be mounted, or it refuses.
    #[error("cannot keep joined sessions in {}", .path.display())]
    FileSystem {
        /// What was tried.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// The kernel does not tell network namespaces apart.
    #[error("the network namespace has no cookie")]
    Namespace(#[source] io::Error),
    /// A daemon with the same configuration file runs in this network namespace.
    #[error("another daemon holds {}", .0.display())]
    InUse(PathBuf),
    /// A daemon with another layout has left joined sessions.
    #[error("{} is of another version; `landbridge detach` removes it", .0.display())]
    OtherLayout(PathBuf),
}

/// A directory that this process owns.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    _lock: Flock<File>,
}

/// A name as it is found again.
pub(crate) fn hash(name: &[u8]) -> u64 {
    // A fixed key: another process has to find the same number.
    SipHasher13::new_with_keys(0, 0).hash(name)
}

impl Pins {
    /// The place for a daemon with this configuration file, made if there is none.
    ///
    /// # Errors
    /// There cannot be one, or it is not this daemon's.
    pub fn open(configuration: &Path) -> Result<Self, PinError> {
        let root = root()?;
        let _one_at_a_time = one_at_a_time(&root)?;
        remove_abandoned(&root);
        let configuration = std::path::absolute(configuration).unwrap_or_else(|_| configuration.to_owned());
        let name = hash(configuration.as_os_str().as_encoded_bytes());
        let prefix = format!("{}-{name:016x}-", namespace()?);
        let directory = root.join(format!("{prefix}{LAYOUT}"));
        let others = entries(&root).into_iter().filter(|entry| *entry != directory);
        if let Some(other) = others.into_iter().find(|other| name_of(other).starts_with(&prefix)) {
            return Err(PinError::OtherLayout(other));
        }
        make(&directory)?;
        Self::lock(directory)
    }

    pub(super) fn lock(directory: PathBuf) -> Result<Self, PinError> {
        let failed = |source| PinError::FileSystem { path: directory.clone(), source };
        let file = File::open(&directory).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { directory, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(PinError::InUse(directory)),
            Err((_, error)) => Err(failed(error.into())),
        }
    }

    /// Where something with this name is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A number for what it owns outside of the directory: the same for every process that owns it, one after the other.
    pub(super) fn number(&self) -> u32 {
        // Whatever the layout: one that cannot be read has to be removed all the same.
        let name = name_of(&self.directory);
        let owner = name.rsplit_once('-').map_or(name, |(owner, _layout)| owner);
        // 0 would let the kernel choose one.
        (hash(owner.as_bytes()) as u32).max(1)
    }

    /// How many entries the pinned array `name` has; `None` unless it and all of the `others` are there.
    pub(super) fn capacity(&self, name: &str, others: &[&str]) -> Option<u32> {
        let is_whole = others.iter().all(|other| self.path(other).exists());
        let info = MapData::from_pin(self.path(name)).ok()?.info().ok()?;
        is_whole.then_some(info.max_entries())
    }

    /// The pinned attachment to a device.
    pub(super) fn link(&self, device: u32) -> Option<FdLink> {
        PinnedLink::from_pin(self.path(&link_name(device))).ok().map(FdLink::from)
    }

    /// Keeps an attachment to a device beyond the life of this process.
    pub(super) fn keep(&self, device: u32, link: FdLink) -> io::Result<()> {
        let path = self.path(&link_name(device));
        if path.exists() {
            return Ok(());
        }
        link.pin(path).map(drop).map_err(io::Error::other)
    }

    /// Removes the attachment to a device. While nobody has its descriptor it then ends.
    pub(super) fn forget_link(&self, device: u32) {
        // There may be none.
        let _gone = fs::remove_file(self.path(&link_name(device)));
    }

    /// The indexes of the devices that have a pinned attachment.
    pub(super) fn linked(&self) -> Vec<u32> {
        let index = |entry: &PathBuf| name_of(entry).strip_prefix(LINK)?.parse().ok();
        entries(&self.directory).iter().filter_map(index).collect()
    }

    /// Removes everything in the directory.
    pub(super) fn clear(&self) {
        entries(&self.directory).iter().for_each(|entry| drop(fs::remove_file(entry)));
    }

    /// Removes everything, so that the kernel forgets what no process holds.
    pub fn remove(&self) {
        self.clear();
        if let Err(error) = fs::remove_dir(&self.directory) {
            debug!(directory = %self.directory.display(), "not removed: {error}");
        }
    }

    /// Whether no device has the programs any more, so that nobody can be served by this state.
    fn is_dead(&self) -> bool {
        let linked = self.linked();
        if linked.is_empty() {
            return !self.is_in_use();
        }
        linked.into_iter().all(|device| is_defunct(&self.path(&link_name(device))))
    }

    /// Whether some program has one of the pinned maps, as far as this process may know (CAP_SYS_ADMIN). Nobody runs who could have
    /// loaded it, so that it is on a device.
    fn is_in_use(&self) -> bool {
        let map = |entry: &PathBuf| Some(MapData::from_pin(entry).ok()?.info().ok()?.id());
        let maps: Vec<u32> = entries(&self.directory).iter().filter_map(map).collect();
        if maps.is_empty() {
            return false;
        }
        let mut programs = loaded_programs().map(|program| program?.map_ids());
        programs.any(|used| match used {
            Ok(used) => used.into_iter().flatten().any(|map| maps.contains(&map)),
            // One that has ended meanwhile.
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => false,
            Err(_unknown) => true,
        })
    }
}

/// What other daemons have left in this network namespace.
///
/// # Errors
/// There is no BPF file system.
pub(super) fn left_here() -> Result<Vec<Result<Pins, PinError>>, PinError> {
    let root = root()?;
    let _one_at_a_time = one_at_a_time(&root)?;
    remove_abandoned(&root);
    let prefix = format!("{}-", namespace()?);
    let here = entries(&root).into_iter().filter(|entry| name_of(entry).starts_with(&prefix));
    Ok(here.map(Pins::lock).collect())
}

impl Pins {
    /// Whether this program knows what is in it.
    pub(super) fn is_of_this_layout(&self) -> bool {
        name_of(&self.directory).rsplit_once('-').is_some_and(|(_, layout)| layout == LAYOUT.to_string())
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Keeps others from looking for their place and for abandoned ones, until it is dropped: whoever looks into a directory holds its
/// lock, which its owner would take for another daemon.
fn one_at_a_time(root: &Path) -> Result<Flock<File>, PinError> {
    let failed = |source| PinError::FileSystem { path: root.to_owned(), source };
    let file = File::open(root).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
}

/// Removes what was left in network namespaces that are gone: a crash leaves it, and nobody would come back for it.
fn remove_abandoned(root: &Path) {
    for directory in entries(root) {
        if let Ok(pins) = Pins::lock(directory)
            && pins.is_dead()
        {
            info!(directory = %pins.directory.display(), "no device has it any more: removed");
            pins.remove();
        }
    }
}

/// Whether the device of a pinned attachment is gone. The kernel tells it to those who hold a descriptor.
fn is_defunct(pin: &Path) -> bool {
    let Ok(link) = descriptor(pin) else { return true };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).unwrap_or_default();
    info.lines().filter_map(|line| line.strip_prefix("ifindex:")).any(|index| index.trim() == "0")
}

/// A descriptor of what is pinned there.
fn descriptor(pin: &Path) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` (linux/bpf.h) that the command reads.
    #[repr(C)]
    struct Attributes {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    const BPF_OBJ_GET: libc::c_long = 7;
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let attributes = Attributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the kernel reads the attributes, of this size, and the path, and both outlive the call.
    let code = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<Attributes>()) };
    let descriptor = Errno::result(code)?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn link_name(device: u32) -> String {
    format!("{LINK}{device}")
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The directory of all daemons of this program.
fn root() -> Result<PathBuf, PinError> {
    if is_bpf(Path::new(SHARED)) {
        let root = Path::new(SHARED).join("landbridge");
        // A sandbox may show it without letting anybody write.
        if make(&root).is_ok() {
            return Ok(root);
        }
    }
    let failed = |source| PinError::FileSystem { path: OWN.into(), source };
    DirBuilder::new().recursive(true).create(RUNTIME).map_err(failed)?;
    // Two daemons that start at once must not mount one over the other.
    let _one_at_a_time = one_at_a_time(Path::new(RUNTIME))?;
    DirBuilder::new().recursive(true).mode(MODE).create(OWN).map_err(failed)?;
    if !is_bpf(Path::new(OWN)) {
        let none: Option<&str> = None;
        mount(Some("bpf"), OWN, Some("bpf"), MsFlags::empty(), none).map_err(|error| failed(error.into()))?;
        info!(path = OWN, "BPF file system mounted");
    }
    Ok(OWN.into())
}

fn make(directory: &Path) -> Result<(), PinError> {
    match DirBuilder::new().mode(MODE).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(PinError::FileSystem { path: directory.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn is_bpf(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS)
}

/// The name of this network namespace, which is never used again while the machine is up, unlike its inode.
fn namespace() -> Result<u64, PinError> {
    let failed = |error: Errno| PinError::Namespace(error.into());
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let mut cookie = [0_u64; 1];
    tcp::get(socket.as_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut cookie).map_err(PinError::Namespace)?;
    Ok(cookie[0])
}

/// asm-generic/socket.h; since Linux 5.14. libc does not have it for every target.
const SO_NETNS_COOKIE: libc::c_int = 71;
