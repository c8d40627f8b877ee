//! What a target sees in front of a session's bytes when the proxy sends a PROXY header.
//!
//! The bytes are read here by hand, so that a mistake in the daemon's library is not repeated in its test. The format
//! is haproxy's `doc/proxy-protocol.txt`: section 2.1 for version 1, 2.2 for version 2.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// "PROXY TCP6" with two addresses and ports at their longest, and the line's end.
const V1_LONGEST: usize = 107;

/// A received header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// 1 or 2.
    pub version: u8,
    /// Where the client came from.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

impl ProxyHeader {
    /// Reads one header and not a byte more.
    pub fn read(mut stream: impl Read) -> Result<Self> {
        let mut start = vec![0; V2_SIGNATURE.len()];
        stream.read_exact(&mut start)?;
        if start == V2_SIGNATURE { read_v2(stream) } else { read_v1(start, stream) }
    }

    /// The header as it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        match self.version {
            1 => self.v1().into_bytes(),
            _ => self.v2(),
        }
    }

    fn v1(&self) -> String {
        let family = if self.source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (source, destination) = (self.source, self.destination);
        let addresses = format!("{} {}", source.ip(), destination.ip());
        format!("PROXY {family} {addresses} {} {}\r\n", source.port(), destination.port())
    }

    fn v2(&self) -> Vec<u8> {
        let mut body = [octets(self.source.ip()), octets(self.destination.ip())].concat();
        body.extend(self.source.port().to_be_bytes());
        body.extend(self.destination.port().to_be_bytes());
        let family = if self.source.is_ipv4() { 0x11 } else { 0x21 };
        let length = u16::try_from(body.len()).expect("two addresses are short").to_be_bytes();
        [&V2_SIGNATURE[..], &[0x21, family], &length, &body].concat()
    }
}

fn read_v1(start: Vec<u8>, mut stream: impl Read) -> Result<ProxyHeader> {
    let mut line = start;
    while !line.ends_with(b"\r\n") {
        ensure!(line.len() < V1_LONGEST, "no header: {:?}", String::from_utf8_lossy(&line));
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let line = String::from_utf8(line)?;
    let mut words = line.trim_end().split(' ');
    ensure!(words.next() == Some("PROXY"), "no header: {line:?}");
    let family = words.next();
    let words: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = words[..] else { bail!("not four words: {line:?}") };
    let source = SocketAddr::new(source.parse()?, source_port.parse()?);
    let destination = SocketAddr::new(destination.parse()?, destination_port.parse()?);
    let expected = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    ensure!(family == Some(expected) && source.is_ipv4() == destination.is_ipv4(), "wrong family: {line:?}");
    Ok(ProxyHeader { version: 1, source, destination })
}

fn read_v2(mut stream: impl Read) -> Result<ProxyHeader> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let [command, family, length @ ..] = head;
    ensure!(command == 0x21, "not version 2, command PROXY: {command:#x}");
    let mut body = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut body)?;
    let addresses = match family {
        0x11 => v2_addresses::<4>(&body),
        0x21 => v2_addresses::<16>(&body),
        _ => bail!("neither TCP over IPv4 nor over IPv6: {family:#x}"),
    };
    let (source, destination) = addresses.context("too short for its addresses")?;
    Ok(ProxyHeader { version: 2, source, destination })
}

fn v2_addresses<const N: usize>(body: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let (destination_port, _extensions) = rest.split_first_chunk()?;
    let address = |ip: &[u8; N], port| SocketAddr::new((*ip).into(), u16::from_be_bytes(port));
    Some((address(source, *source_port), address(destination, *destination_port)))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_is_left() {
        for (source, destination) in [("192.0.2.7:4711", "10.0.0.1:8000"), ("[2001:db8::7]:4711", "[fd00::1]:8000")] {
            for version in [1, 2] {
                let header =
                    ProxyHeader { version, source: source.parse().unwrap(), destination: destination.parse().unwrap() };
                let sent = [&header.bytes()[..], b"rest"].concat();
                let mut left = &sent[..];
                assert_eq!(ProxyHeader::read(&mut left).unwrap(), header);
                assert_eq!(left, b"rest");
            }
        }
    }
}
