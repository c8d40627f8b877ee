//! What a proxy that is looked at has beside its load: sessions that do nothing, and a scrape each second.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::lab::Lab;

/// As many sessions as a proxy of this size has on a busy day.
const SESSIONS: usize = 5_000;

/// Prometheus asks four times a minute; this is what the eager ones do.
const EVERY: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /64 HTTP/1.1\r\nhost: target\r\n\r\n";

/// The burden, until it is dropped.
pub(crate) struct Burden {
    _sessions: Vec<TcpStream>,
    /// Hung up to end the scrapes.
    end: Option<Sender<()>>,
    scraper: Option<JoinHandle<Result<()>>>,
}

impl Burden {
    /// Opens sessions through `address` and scrapes `admin`.
    pub(crate) fn put(lab: &Lab, address: SocketAddr, admin: SocketAddr) -> Result<Self> {
        let open = || (0..SESSIONS).map(|_| session(address)).collect::<Result<Vec<_>>>();
        let sessions = lab.net.client.enter(open)??;
        let (end, ended) = channel();
        let scraper = lab.net.proxy.spawn(move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                scrape(admin)?;
            }
            Ok(())
        });
        Ok(Self { _sessions: sessions, end: Some(end), scraper: Some(scraper) })
    }

    /// An error if the scrapes have ended.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        if self.scraper.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(scraper) = self.scraper.take()
        {
            return scraper.join().map_err(|_| anyhow::anyhow!("the thread that scrapes panicked"))?;
        }
        Ok(())
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.end = None;
        if let Some(scraper) = self.scraper.take() {
            // Whoever measured has asked whether it works.
            let _failed = scraper.join();
        }
    }
}

/// A session that has had one request and its answer.
pub(crate) fn session(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(REQUEST)?;
    let mut answer = [0; 1024];
    let mut length = 0;
    while !answer[..length].ends_with(b"xxxx") {
        let read = stream.read(&mut answer[length..]).context("a session got no answer")?;
        ensure!(read > 0, "a session ended");
        length += read;
    }
    Ok(stream)
}

fn scrape(admin: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(admin).with_context(|| format!("cannot connect to {admin}"))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("a scrape broke off")?;
    ensure!(text.contains("landbridge_sessions_total"), "a scrape without metrics: {text}");
    Ok(())
}
