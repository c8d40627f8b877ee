//! The PROXY protocol: reading a header in front of a client's bytes, and making one for a target.
//!
//! Versions 1 and 2 as in HAProxy's `proxy-protocol.txt`; the bytes themselves are the `proxy-header` crate's work.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{AcceptProxy, ProxyVersion};

/// How long a client may take to send its header. The sender is a balancer that writes it at once; this leaves
/// room for two lost segments.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest header that is read. Version 1 ends at 107 bytes; version 2 may announce 64 KiB of extensions, but
/// balancers send tens of bytes.
const HEADER_MAX: usize = 4096;

/// Where a session comes from, and where the client meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// What was read from a client that sends a header.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// What the header says; `None` if it speaks for its sender only (LOCAL, UNKNOWN), as health checks do.
    pub(crate) endpoints: Option<Endpoints>,
    /// Bytes of the client that came with the header; they belong to the session.
    pub(crate) rest: Vec<u8>,
    /// Bytes that were read in all, the header's included.
    pub(crate) read: u64,
}

/// Why a session cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("no PROXY header of the expected version: {0}")]
    Malformed(proxy_header::Error),
    #[error("the PROXY header is longer than {HEADER_MAX} bytes")]
    TooLong,
    #[error("no PROXY header within {HEADER_TIMEOUT:?}")]
    Late,
    #[error("the client closed before its PROXY header was complete")]
    Closed,
    #[error("the client closed without a word")]
    Silent,
    #[error("cannot read the PROXY header: {0}")]
    Read(#[from] io::Error),
}

/// Reads the header that `expected` asks for. Cancelling loses what was read: close the connection then.
pub(crate) async fn accept(stream: &TcpStream, expected: AcceptProxy) -> Result<Accepted, HeaderError> {
    let config = match expected {
        AcceptProxy::Off => return Ok(Accepted { endpoints: None, rest: Vec::new(), read: 0 }),
        AcceptProxy::V1 => ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: false },
        AcceptProxy::V2 => ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true },
        AcceptProxy::Any => ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true },
    };
    timeout(HEADER_TIMEOUT, read(stream, config)).await.map_err(|_elapsed| HeaderError::Late)?
}

async fn read(stream: &TcpStream, config: ParseConfig) -> Result<Accepted, HeaderError> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        match ProxyHeader::parse(&bytes, config) {
            Ok((header, length)) => {
                let endpoints = header
                    .proxied_address()
                    .map(|address| Endpoints { source: address.source, destination: address.destination });
                let read = bytes.len() as u64;
                return Ok(Accepted { endpoints, rest: bytes.split_off(length), read });
            }
            Err(proxy_header::Error::BufferTooShort) if bytes.len() >= HEADER_MAX => return Err(HeaderError::TooLong),
            Err(proxy_header::Error::BufferTooShort) => {}
            Err(error) => return Err(HeaderError::Malformed(error)),
        }
        stream.readable().await?;
        match stream.try_read_buf(&mut bytes) {
            Ok(0) if bytes.is_empty() => return Err(HeaderError::Silent),
            Ok(0) => return Err(HeaderError::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && bytes.is_empty() => {
                return Err(HeaderError::Silent);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The header that tells a target where its session comes from. Mixed families cannot be said in either version:
/// then it is the header for an unknown origin.
pub(crate) fn encode(version: ProxyVersion, endpoints: Endpoints) -> Vec<u8> {
    let header = match (endpoints.source, endpoints.destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
            ProxyHeader::with_address(ProxiedAddress::stream(endpoints.source, endpoints.destination))
        }
        _ => ProxyHeader::with_local(),
    };
    let mut bytes = Vec::new();
    let encoded = match version {
        ProxyVersion::V1 => header.encode_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_v2(&mut bytes),
    };
    encoded.expect("a stream of one family, without extensions, has an encoding in both versions");
    bytes
}
