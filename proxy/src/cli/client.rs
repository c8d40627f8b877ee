//! The command line's side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::Exit;
use crate::admin::api::Refusal;

/// Longer than a reload takes, which waits for the first probes of new targets for at most a minute.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Why the daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody answers on the socket.
    #[error(
        "cannot reach the daemon on {}: {source}; does it run, is this its admin.socket (--socket or LANDBRIDGE_SOCKET), \
         and may you use it?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It stopped answering.
    #[error("the daemon did not answer: {0}")]
    Http(#[from] hyper::Error),
    /// It takes too long.
    #[error("the daemon did not answer within {TIMEOUT:?}")]
    Timeout,
    /// The configuration is not valid.
    #[error("{0}")]
    Invalid(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// This program and the daemon do not understand each other.
    #[error("cannot read the daemon's answer; is it of another version? {0}")]
    Answer(#[from] serde_json::Error),
    /// No request could be made.
    #[error("cannot ask: {0}")]
    Start(#[source] io::Error),
}

impl ClientError {
    /// How the verb exits.
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::Invalid(_) => Exit::InvalidConfiguration,
            _ => Exit::Failed,
        }
    }
}

/// Asks the daemon on `socket` for `path`.
pub(super) fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    ask(socket, Method::GET, path, Bytes::new())
}

/// Has the daemon on `socket` do something.
pub(super) fn post<T: DeserializeOwned>(socket: &Path, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
    ask(socket, Method::POST, path, serde_json::to_vec(body)?.into())
}

/// The same with a text.
pub(super) fn post_text<T: DeserializeOwned>(socket: &Path, path: &str, text: String) -> Result<T, ClientError> {
    ask(socket, Method::POST, path, text.into())
}

fn ask<T: DeserializeOwned>(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Start)?;
    let asked = async { timeout(TIMEOUT, exchange(socket, method, path, body)).await };
    let (status, answer) = runtime.block_on(asked).unwrap_or(Err(ClientError::Timeout))?;
    if status.is_success() {
        return Ok(serde_json::from_slice(&answer)?);
    }
    let Refusal { error } = serde_json::from_slice(&answer)?;
    Err(match status {
        StatusCode::UNPROCESSABLE_ENTITY => ClientError::Invalid(error),
        _ => ClientError::Refused(error),
    })
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
    let failed = |source| ClientError::Connect { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(failed)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // An error of the connection is one of the request too.
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::builder().method(method).uri(path).header(HOST, "landbridge").body(Full::new(body));
    // All paths are written in this program.
    let answer = sender.send_request(request.unwrap_or_default()).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}
