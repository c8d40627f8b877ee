//! A small DNS server: names of the test's choice with IPv4 addresses. Answers are good for no time unless
//! the test says otherwise.
//!
//! One thread answers; it ends with the handle.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::Host;

/// How often the thread looks whether it is still wanted.
const ROUND: Duration = Duration::from_millis(50);

const HEADER: usize = 12;
const TYPE_A: [u8; 4] = [0, 1, 0, 1];
/// Response, recursion available; the last four bits are the code.
const NO_ERROR: [u8; 2] = [0x81, 0x80];
const SERVER_FAILURE: [u8; 2] = [0x81, 0x82];
const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];

/// A running DNS server.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
    broken: Arc<AtomicBool>,
    ttl: Arc<AtomicU32>,
    delay: Arc<Mutex<Duration>>,
    asked: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Listens on port 53 of `host`, and knows no name.
    pub fn start(host: &Host) -> Result<Self> {
        let address = host.v4(53);
        let socket = host.enter(|| UdpSocket::bind(address))?;
        socket.set_read_timeout(Some(ROUND))?;
        let mut server = Self {
            address,
            names: Arc::default(),
            broken: Arc::default(),
            ttl: Arc::default(),
            delay: Arc::default(),
            asked: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (names, broken) = (Arc::clone(&server.names), Arc::clone(&server.broken));
        let (asked, stop, ttl) = (Arc::clone(&server.asked), Arc::clone(&server.stop), Arc::clone(&server.ttl));
        let delay = Arc::clone(&server.delay);
        server.thread = Some(thread::spawn(move || {
            let mut question = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                thread::sleep(*delay.lock().unwrap_or_else(PoisonError::into_inner));
                let names = names.lock().unwrap_or_else(PoisonError::into_inner);
                let known = |name: &str| names.get(name).cloned();
                if let Some(answer) =
                    answer(&question[..length], broken.load(Ordering::SeqCst), ttl.load(Ordering::SeqCst), known)
                {
                    // Nobody may be waiting for it any more.
                    socket.send_to(&answer, from).ok();
                }
            }
        }));
        Ok(server)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` has these addresses.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), addresses.to_vec());
    }

    /// From now on it answers that it cannot answer, or works again.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// From now on answers are good for so many seconds.
    pub fn set_ttl(&self, seconds: u32) {
        self.ttl.store(seconds, Ordering::SeqCst);
    }

    /// From now on each answer takes so long, one after the other.
    pub fn set_delay(&self, delay: Duration) {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// How many questions came.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The answer to a message with one question; `None` if it is none.
fn answer(question: &[u8], broken: bool, ttl: u32, known: impl Fn(&str) -> Option<Vec<Ipv4Addr>>) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = HEADER;
    while let length @ 1.. = usize::from(*question.get(at)?) {
        let label = question.get(at + 1..at + 1 + length)?;
        name += &String::from_utf8_lossy(label).to_lowercase();
        name.push('.');
        at += 1 + length;
    }
    let (name, kind) = (name.trim_end_matches('.'), question.get(at + 1..at + 5)?);
    let addresses = known(name);
    let code = match addresses {
        _ if broken => SERVER_FAILURE,
        Some(_) => NO_ERROR,
        None => NO_SUCH_NAME,
    };
    let found = addresses.filter(|_| !broken && *kind == TYPE_A).unwrap_or_default();
    let mut answer = question[..2].to_vec();
    answer.extend(code);
    answer.extend([0, 1, 0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
    answer.extend(&question[HEADER..at + 5]);
    for address in found {
        // The name of the question, type A, class IN, the TTL, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
