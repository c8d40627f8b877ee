//! Questions to the kernel over netlink: what its files do not tell.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

/// One part of the kernel's answer; it makes none larger than 32 KiB (af_netlink.c).
const BUFFER: usize = 32 << 10;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A socket that speaks with one part of the kernel, `NETLINK_*`, and hears what it tells these groups.
pub(crate) fn socket(part: libc::c_int, groups: u32) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.nonblocking(), Some(Protocol::from(part)))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket.into())
}

/// A socket for questions.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// For questions to one part of the kernel, `NETLINK_*`.
    pub(crate) fn open(part: libc::c_int) -> io::Result<Self> {
        socket(part, 0).map(Self)
    }

    /// Asks for all that there is of a kind; each message of the answer is `told`, without its header.
    pub(crate) fn list(&self, kind: u16, question: &[u8], told: impl FnMut(&[u8])) -> io::Result<()> {
        self.ask(kind, libc::NLM_F_DUMP, question, told)
    }

    /// Asks for one thing.
    pub(crate) fn get(&self, kind: u16, question: &[u8], told: impl FnMut(&[u8])) -> io::Result<()> {
        // With an acknowledgement the answer has an end.
        self.ask(kind, libc::NLM_F_ACK, question, told)
    }

    fn ask(&self, kind: u16, flags: libc::c_int, question: &[u8], mut told: impl FnMut(&[u8])) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + question.len());
        message.extend(((HEADER + question.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        // Sequence number and port: one question at a time needs neither.
        message.extend([0; 8]);
        message.extend(question);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            // The next part is there before the last one is handed out: this never has to wait.
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if read(&buffer[..length], &mut told)? {
                return Ok(());
            }
        }
    }
}

/// Takes one part of an answer apart; whether it was the last one.
fn read(mut part: &[u8], told: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while let Some((header, _)) = part.split_at_checked(HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = part.get(HEADER..length) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer over netlink is cut"));
        };
        match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
            // Without an error it is the acknowledgement.
            libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
                    0 => return Ok(true),
                    code => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
            _ => told(body),
        }
        // Messages begin at multiples of four bytes.
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// One attribute, as a question has it.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = [(length as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// The value of the first attribute of this kind.
pub(crate) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_at_checked(4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        // The upper two bits say how the value is made.
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The same, if it is a number of 32 bits.
pub(crate) fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    find(attributes, kind)?.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend((kind as u16).to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn answers_come_in_parts_and_may_be_errors() {
        let one = message(20, &[7; 12]);
        let mut told = 0;
        let mut count = |body: &[u8]| {
            assert_eq!(body, [7; 12]);
            told += 1;
        };
        assert!(!read(&[one.clone(), one.clone()].concat(), &mut count).unwrap());
        assert!(read(&[one.clone(), message(libc::NLMSG_DONE, &[0; 4])].concat(), &mut count).unwrap());
        assert!(read(&message(libc::NLMSG_ERROR, &[0; 4]), &mut count).unwrap());
        let refused = read(&message(libc::NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes()), &mut count);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(read(&one[..20], &mut count).is_err());
        assert_eq!(told, 3);
    }

    #[test]
    fn attributes_are_found_by_their_kind() {
        let all = [attribute(3, b"eth0\0"), attribute(10, &7_u32.to_ne_bytes()), attribute(0x8012, &[])].concat();
        assert_eq!(find(&all, 3), Some(&b"eth0\0"[..]));
        assert_eq!((number(&all, 10), number(&all, 3)), (Some(7), Some(u32::from_ne_bytes(*b"eth0"))));
        assert_eq!((find(&all, 0x12), find(&all, 11)), (Some(&[][..]), None));
        assert_eq!((find(&all[..6], 3), find(&[0; 4], 3)), (None, None));
    }
}
