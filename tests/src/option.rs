//! Socket options that only the kernel's headers know, and repair mode (`TCP_REPAIR`, tcp(7)).

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{self, c_int, socklen_t};

/// What a socket's next bytes are numbered.
#[derive(Debug, Clone, Copy)]
pub struct Sequences {
    /// The one that it sends next.
    pub sent: u32,
    /// The one that it expects next.
    pub received: u32,
}

/// Sets an option that is one number.
pub fn set(socket: &impl AsRawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let size = size_of_val(&value) as socklen_t;
    // SAFETY: the kernel reads one int.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    Errno::result(code).map(drop).map_err(io::Error::from)
}

/// Asks for an option of so many words.
pub fn get<const WORDS: usize>(socket: &impl AsRawFd, level: c_int, option: c_int) -> io::Result<[u32; WORDS]> {
    let mut words = [0; WORDS];
    let mut size = size_of::<[u32; WORDS]>() as socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, and any bytes are words.
    let code = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, words.as_mut_ptr().cast(), &raw mut size) };
    Errno::result(code).map(|_| words).map_err(io::Error::from)
}

/// Puts a socket into repair mode, in which it is silent: if it is closed there it sends neither FIN nor RST.
pub fn repair(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)
}

/// Takes it out of repair mode, without the probe to its peer that is usual.
pub fn end_repair(socket: &impl AsRawFd) -> io::Result<()> {
    const WITHOUT_PROBE: c_int = -1;
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, WITHOUT_PROBE)
}

/// Asks a socket that is in repair mode where its connection stands.
pub fn sequences(socket: &impl AsRawFd) -> io::Result<Sequences> {
    // linux/tcp.h
    const RECEIVE_QUEUE: c_int = 1;
    const SEND_QUEUE: c_int = 2;
    let next = |queue| {
        set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue)?;
        get(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ).map(|[next]| next)
    };
    Ok(Sequences { sent: next(SEND_QUEUE)?, received: next(RECEIVE_QUEUE)? })
}
