//! Descriptors of a process under test, for what the kernel or another program might do to it.
//!
//! A borrowed descriptor is the same open file, socket or map that the process has: what is done with it happens to the process.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use nix::libc;
use socket2::Socket;

use crate::{Process, eventually};

/// A descriptor of another process.
#[derive(Debug)]
pub struct Borrowed {
    /// Its number there.
    pub number: RawFd,
    /// The same open file here.
    pub here: OwnedFd,
}

/// A map of another process's eBPF programs.
#[derive(Debug)]
pub struct BorrowedMap(OwnedFd);

impl Process {
    /// Its descriptors of this kind, as `/proc/PID/fd` names it: `socket:`, `anon_inode:bpf-map`.
    pub fn borrow(&self, kind: &str) -> Result<Vec<Borrowed>> {
        // SAFETY: no pointers; the descriptor that it returns is nobody else's.
        let process = unsafe { owned(libc::syscall(libc::SYS_pidfd_open, self.id(), 0)) }.context("pidfd_open")?;
        let mut borrowed = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.id()))? {
            let entry = entry?;
            // It may have been closed meanwhile.
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            if link.to_string_lossy().starts_with(kind) {
                let number: RawFd = entry.file_name().to_string_lossy().parse()?;
                // SAFETY: as above.
                let here = unsafe { owned(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0)) };
                borrowed.push(Borrowed { number, here: here.with_context(|| format!("descriptor {number}"))? });
            }
        }
        Ok(borrowed)
    }

    /// Its connection to this peer, once there is one, and the number that it has there.
    pub fn borrow_leg(&self, peer: SocketAddr) -> Result<(RawFd, TcpStream)> {
        eventually(&format!("a connection to {peer}"), || {
            let sockets =
                self.borrow("socket:")?.into_iter().map(|Borrowed { number, here }| (number, Socket::from(here)));
            let is_leg = |socket: &Socket| socket.peer_addr().is_ok_and(|address| address.as_socket() == Some(peer));
            let leg = sockets.into_iter().find(|(_, socket)| is_leg(socket)).context("none yet")?;
            Ok((leg.0, leg.1.into()))
        })
    }

    /// Its map of this name.
    pub fn borrow_map(&self, name: &str) -> Result<BorrowedMap> {
        let maps = self.borrow("anon_inode:bpf-map")?.into_iter().map(|Borrowed { here, .. }| BorrowedMap(here));
        let mut named = maps.filter(|map| map.name().is_ok_and(|found| found == name));
        named.next().with_context(|| format!("no map {name}"))
    }
}

impl BorrowedMap {
    /// From now on no process changes its entries; eBPF programs still do.
    pub fn freeze(&self) -> Result<()> {
        const BPF_MAP_FREEZE: libc::c_long = 22;
        // SAFETY: the command takes a descriptor and no pointer.
        unsafe { bpf(BPF_MAP_FREEZE, &(self.0.as_raw_fd() as u32)) }.context("the map cannot be frozen")
    }

    /// Inserts the numbers from `first` up until there is no more room, each with the value 0. Its keys have 8 bytes and its
    /// values 4. Returns how many there were.
    pub fn fill(&self, first: u64) -> Result<u64> {
        /// The part of `union bpf_attr` (linux/bpf.h) that the command reads.
        #[repr(C)]
        struct Attributes {
            map: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
        let value = 0_u32;
        for key in first.. {
            let attributes = Attributes {
                map: self.0.as_raw_fd() as u64,
                key: &raw const key as u64,
                value: &raw const value as u64,
                flags: 0,
            };
            // SAFETY: the kernel reads a key and a value of the map's sizes, and both outlive the call.
            match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attributes) } {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Ok(key - first),
                Err(error) => return Err(error).context("the map cannot be filled"),
            }
        }
        unreachable!("a map has fewer entries than there are numbers")
    }

    /// Removes an entry. Its keys have 8 bytes.
    pub fn remove(&self, key: u64) -> Result<()> {
        /// The part of `union bpf_attr` (linux/bpf.h) that the command reads.
        #[repr(C)]
        struct Attributes {
            map: u64,
            key: u64,
        }
        const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
        let attributes = Attributes { map: self.0.as_raw_fd() as u64, key: &raw const key as u64 };
        // SAFETY: the kernel reads a key of the map's size, which outlives the call.
        unsafe { bpf(BPF_MAP_DELETE_ELEM, &attributes) }.context("no such entry")
    }

    fn name(&self) -> io::Result<String> {
        /// The part of `union bpf_attr` (linux/bpf.h) that the command reads.
        #[repr(C)]
        struct Attributes {
            map: u32,
            length: u32,
            info: u64,
        }
        /// The beginning of `struct bpf_map_info`.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            numbers: [u32; 6],
            name: [u8; 16],
        }
        const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
        let mut info = Info::default();
        let attributes =
            Attributes { map: self.0.as_raw_fd() as u32, length: size_of::<Info>() as u32, info: &raw mut info as u64 };
        // SAFETY: the kernel writes at most as many bytes as the structure has, which outlives the call.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) }?;
        Ok(info.name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect())
    }
}

/// # Safety
/// The kernel must not write to or read from where the attributes do not allow it.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<()> {
    // SAFETY: the attributes have this size; for what they point to the caller answers.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptor that a system call has returned, or its error.
///
/// # Safety
/// Nobody else owns the descriptor.
unsafe fn owned(code: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(code) {
        // SAFETY: the caller says so.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}
