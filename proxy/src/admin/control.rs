//! The control socket: HTTP on a Unix socket, for the command line on the same machine. Root, the daemon's user and its group can use it.
//!
//! Tasks: one that accepts, one per connection; cancelling loses an answer at most.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use landbridge_core::failover::AdminState;
use nix::sys::stat::{Mode, fchmod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

use super::api::{Changes, Refusal, SetState, SetWeight, Shutdown};
use super::{HEAD_TIMEOUT, Server, peer, status};
use crate::config::Config;
use crate::config::diff::Plan;
use crate::orders::Unknown;
use crate::running::Running;
use crate::shared::Shared;
use crate::worker::Phase;

/// Who may use it: owner and group.
const MODE: u32 = 0o660;

/// As many waiting clients as a person's scripts can be.
const BACKLOG: i32 = 64;

/// A configuration file has at most 1 MiB; everything else is smaller.
const LARGEST_BODY: usize = (1 << 20) + 1;

/// A wish for a reload, and where its outcome goes: what has changed, or why nothing has.
pub(crate) type ReloadWish = oneshot::Sender<Result<Vec<String>, NotReloaded>>;

/// Why a reload has changed nothing.
#[derive(Debug, Clone)]
pub(crate) struct NotReloaded {
    pub(crate) why: String,
    /// Whether the file is not valid.
    pub(crate) invalid: bool,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {} (admin.socket): {source}", path.display())]
pub(crate) struct ControlError {
    path: PathBuf,
    source: io::Error,
}

struct Control {
    running: Arc<Running>,
    phase: watch::Receiver<Phase>,
    reloads: UnboundedSender<ReloadWish>,
}

/// Serves `path` for as long as the runtime lives, on the socket `inherited` or, without one, on a new one.
pub(crate) fn start(
    path: &Path,
    inherited: Option<Socket>,
    running: Arc<Running>,
    phase: watch::Receiver<Phase>,
    reloads: UnboundedSender<ReloadWish>,
) -> Result<Server, ControlError> {
    let failed = |source| ControlError { path: path.to_owned(), source };
    let (socket, file) = match inherited.filter(|socket| is_at(socket, path)) {
        Some(socket) => (socket, None),
        None => (bind(path).map_err(failed)?, Some(path.to_owned())),
    };
    let listener = UnixListener::from_std(socket.try_clone().map_err(failed)?.into()).map_err(failed)?;
    info!(path = %path.display(), "control socket");
    let control = Arc::new(Control { running, phase, reloads });
    let serve = move |stream| serve(Arc::clone(&control), stream);
    let server = Server::start(socket.as_fd(), listener, "control socket", serve).map_err(failed)?;
    Ok(Server { file, ..server })
}

/// Whether a socket that was handed over is the one of this configuration.
fn is_at(socket: &Socket, path: &Path) -> bool {
    socket.local_addr().is_ok_and(|address| address.as_pathname() == Some(path))
}

fn bind(path: &Path) -> io::Result<Socket> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // The file is made with these bits at most, so that nobody else gets in before the next line but one.
    fchmod(&socket, Mode::from_bits_truncate(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Without what the umask took.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A daemon that was killed leaves its socket behind; one that runs still answers on it.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::other("there is something that is no socket")),
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_answers) => Err(io::Error::other("another daemon uses it")),
            Err(_nobody) => fs::remove_file(path),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

async fn serve(control: Arc<Control>, stream: tokio::net::UnixStream) {
    let stranger = peer::check(&stream).err().map(|error| error.to_string());
    if let Some(error) = &stranger {
        warn!("{error}");
    }
    let answer = service_fn(|request: Request<Incoming>| {
        let (control, stranger) = (Arc::clone(&control), stranger.clone());
        async move {
            let answer = match stranger {
                Some(error) => Err(Refused { status: StatusCode::FORBIDDEN, error }),
                None => control.answer(request).await,
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(Refused::response))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!("control socket: {error}");
    }
}

/// A request that is not carried out.
struct Refused {
    status: StatusCode,
    error: String,
}

impl Control {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refused> {
        let (parts, body) = request.into_parts();
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/status") => Ok(json(&status::status(&self.running, *self.phase.borrow()))),
            (&Method::GET, "/sessions") => Ok(json(&status::sessions(&self.running.load()))),
            (&Method::POST, "/weight") => {
                let SetWeight { of, weight, for_ms } = parsed(body).await?;
                if weight.is_none() && for_ms.is_some() {
                    return Err(Refused::bad("only a weight of the operator has a time: leave out --for".to_owned()));
                }
                let duration = for_ms.map(std::time::Duration::from_millis);
                self.taking_orders()?.order_weight(&of, weight, duration)?;
                Ok(json(&status::status(&self.running, *self.phase.borrow())))
            }
            (&Method::POST, "/state") => {
                let SetState { of, state } = parsed(body).await?;
                let known = AdminState::ALL.into_iter().find(|known| known.label() == state);
                let state = known.ok_or_else(|| {
                    Refused::bad(format!("there is no state \"{state}\"; use active, draining or disabled"))
                })?;
                self.taking_orders()?.order_state(&of, state)?;
                Ok(json(&status::status(&self.running, *self.phase.borrow())))
            }
            (&Method::POST, "/shutdown") => {
                let Shutdown { of } = parsed(body).await?;
                self.running.load().shut_down_sessions(&of)?;
                Ok(json(&status::status(&self.running, *self.phase.borrow())))
            }
            (&Method::POST, "/reload") => self.reload().await,
            (&Method::POST, "/plan") => {
                let text = String::from_utf8_lossy(&whole(body).await?).into_owned();
                let config = Config::parse(&text).map_err(|problems| Refused::invalid(problems.to_string()))?;
                let config = config.resolved(|host| self.running.names.address(host));
                let shared = self.running.load();
                let plan = Plan::between(&shared.config, &config);
                Ok(json(&Changes { changes: shared.told(&plan.changes) }))
            }
            (method, path) => Err(Refused {
                status: StatusCode::NOT_FOUND,
                error: format!("there is no {method} {path}; is the command line of another version than the daemon?"),
            }),
        }
    }

    /// What takes orders now.
    fn taking_orders(&self) -> Result<Arc<Shared>, Refused> {
        match self.running.is_handing_over() {
            true => Err(Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                error: "a new process is taking over: give the order again in a moment".to_owned(),
            }),
            false => Ok(self.running.load()),
        }
    }

    async fn reload(&self) -> Result<Response<Full<Bytes>>, Refused> {
        let (sender, outcome) = oneshot::channel();
        let gone = || Refused { status: StatusCode::SERVICE_UNAVAILABLE, error: "the daemon is ending".to_owned() };
        self.reloads.send(sender).map_err(|_ending| gone())?;
        let changes = outcome.await.map_err(|_ending| gone())?;
        let changes = changes.map_err(|NotReloaded { why, invalid }| match invalid {
            true => Refused::invalid(why),
            false => Refused { status: StatusCode::CONFLICT, error: why },
        })?;
        Ok(json(&Changes { changes }))
    }
}

impl Refused {
    fn bad(error: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error }
    }

    /// The configuration is not valid: the command line exits as `check` does.
    fn invalid(error: String) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, error }
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = json(&Refusal { error: self.error });
        *response.status_mut() = self.status;
        response
    }
}

impl From<Unknown> for Refused {
    fn from(unknown: Unknown) -> Self {
        Self { status: StatusCode::NOT_FOUND, error: unknown.to_string() }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Refused> {
    let collected = Limited::new(body, LARGEST_BODY).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| Refused::bad(error.to_string()))
}

async fn parsed<T: DeserializeOwned>(body: Incoming) -> Result<T, Refused> {
    serde_json::from_slice(&whole(body).await?).map_err(|error| Refused::bad(error.to_string()))
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    // Structs of strings and numbers: there is nothing in them that JSON cannot say.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::from(text));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
