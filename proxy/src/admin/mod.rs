//! The admin address and, in `control`, the control socket.
//!
//! The admin address: the status page, `/metrics`, `/livez` and `/readyz`, read-only, for operators and health checks.
//!
//! Tasks: one that accepts, one per connection; cancelling loses an answer at most.

pub(crate) mod api;
pub(crate) mod control;
mod metrics;
mod page;
mod peer;
mod ready;
pub(crate) mod status;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_util::net::Listener;
use tracing::{debug, info};

use crate::fastpath::packet::PacketPath;
use crate::running::Running;
use crate::worker::Phase;
use metrics::Metrics;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that may wait: operators and health checks are few.
const BACKLOG: i32 = 128;

/// How long to wait after an accept that failed, which is for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address could not be bound.
    #[error("cannot listen on {address} (admin.listen): {source}")]
    Bind {
        /// `admin.listen`
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

struct Admin {
    running: Arc<Running>,
    phase: watch::Receiver<Phase>,
    metrics: Metrics,
}

/// The ways through the kernel, or the codes of the reasons why there are none.
pub(crate) struct Datapaths {
    pub(crate) sockmap: Result<(), &'static str>,
    pub(crate) packet: Result<Arc<PacketPath>, &'static str>,
}

/// A server that can be handed over to another process.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its listening socket.
    pub(crate) socket: OwnedFd,
    task: AbortHandle,
    /// What this process made in the file system to be reached by. One that was handed over may be systemd's.
    file: Option<PathBuf>,
}

impl Server {
    /// Accepts from `listener`, which is `socket`, and has `serve` answer each connection. `name` is for the log.
    fn start<L, Served>(
        socket: BorrowedFd<'_>,
        mut listener: L,
        name: &'static str,
        serve: impl Fn(L::Io) -> Served + Send + 'static,
    ) -> io::Result<Self>
    where
        L: Listener<Io: Send, Addr: Send> + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let socket = socket.try_clone_to_owned()?;
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _peer)) => drop(tokio::spawn(serve(stream))),
                    Err(error) => {
                        debug!("{name}: {error}");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        });
        Ok(Self { socket, task: task.abort_handle(), file: None })
    }

    /// Accepts no more, for another process does; what is answered now is still answered.
    pub(crate) fn stop(self) {
        self.task.abort();
    }

    /// Accepts no more and leaves no file behind: no process serves it after this one.
    pub(crate) fn end(self) {
        if let Some(file) = &self.file
            && let Err(error) = fs::remove_file(file)
        {
            debug!("cannot remove {}: {error}", file.display());
        }
        self.stop();
    }
}

/// Serves `address` for as long as the runtime lives, on the socket `inherited` or, without one, on a new one.
pub(crate) fn start(
    address: SocketAddr,
    inherited: Option<Socket>,
    running: Arc<Running>,
    phase: watch::Receiver<Phase>,
    kernel: Datapaths,
) -> Result<Server, AdminError> {
    let failed = |source| AdminError::Bind { address, source };
    let listener = inherited.map_or_else(|| listen(address), Ok).map_err(failed)?;
    let socket = listener.try_clone().map_err(failed)?;
    let listener = TcpListener::from_std(listener.into()).map_err(failed)?;
    info!(%address, "admin address: / /metrics /livez /readyz");
    let admin = Arc::new(Admin { running, phase, metrics: Metrics::new(kernel) });
    let serve = move |stream| serve(Arc::clone(&admin), stream);
    Server::start(socket.as_fd(), listener, "admin address", serve).map_err(failed)
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

async fn serve(admin: Arc<Admin>, stream: tokio::net::TcpStream) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = admin.answer(request.method(), request.uri().path(), request.uri().query());
        async { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!("admin address: {error}");
    }
}

impl Admin {
    fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            "/" | "/style.css" | "/metrics" | "/livez" | "/readyz"
                if !matches!(*method, Method::GET | Method::HEAD) =>
            {
                (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned())
            }
            "/" => (StatusCode::OK, page::html(&self.running, *self.phase.borrow())),
            "/style.css" => (StatusCode::OK, page::STYLE.to_owned()),
            "/metrics" => (StatusCode::OK, self.metrics.render(&self.running)),
            "/livez" => (StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => ready::answer(&self.running.load(), *self.phase.borrow(), query),
            _ => (StatusCode::NOT_FOUND, "not found; there are /, /metrics, /livez and /readyz\n".to_owned()),
        };
        let content_type = match path {
            "/" if status == StatusCode::OK => "text/html; charset=utf-8",
            "/style.css" if status == StatusCode::OK => "text/css; charset=utf-8",
            "/metrics" => "text/plain; version=0.0.4",
            _ => "text/plain; charset=utf-8",
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
