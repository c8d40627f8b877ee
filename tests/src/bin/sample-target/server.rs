//! The HTTP side: routes, streaming, and the line that says who served what.
//!
//! One task per connection and one per streamed answer; a client that goes away ends both.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::completion::{self, Completion, MODEL, Pace};

type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Prompts with images are a few megabytes; more than this is a mistake.
const BODY_LIMIT: usize = 64 << 20;

/// Out of file descriptors: connections that end soon make room.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

struct State {
    name: String,
    pace: Pace,
    served: AtomicU64,
}

/// Answers requests until the process ends.
pub(crate) async fn serve(listener: TcpListener, name: String, pace: Pace) -> anyhow::Result<()> {
    let state = Arc::new(State { name, pace, served: AtomicU64::new(0) });
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("{}: accept failed: {error}", state.name);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            if let Err(error) = converse(&state, stream).await {
                eprintln!("{}: connection failed: {error}", state.name);
            }
        });
    }
}

async fn converse(state: &Arc<State>, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    // A token is a small write that must not wait for the next one.
    stream.set_nodelay(true)?;
    let service = service_fn(|request| answer(Arc::clone(state), request));
    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri().path());
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/health") => whole(StatusCode::OK, json!({"status": "ok"})),
        (&Method::GET, "/v1/models") => whole(StatusCode::OK, models()),
        (&Method::POST, "/v1/chat/completions") => complete(&state, request.into_body()).await,
        (_, "/health" | "/v1/models" | "/v1/chat/completions") => {
            failure(StatusCode::METHOD_NOT_ALLOWED, "this path has another method")
        }
        _ => failure(StatusCode::NOT_FOUND, "try POST /v1/chat/completions, GET /v1/models or GET /health"),
    };
    if let Ok(name) = state.name.parse() {
        response.headers_mut().insert("x-served-by", name);
    }
    report(&format!("{} {line} {}", state.name, response.status().as_u16()));
    Ok(response)
}

async fn complete(state: &State, body: Incoming) -> Response<Body> {
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return failure(StatusCode::BAD_REQUEST, &format!("cannot read the body: {error}")),
    };
    let request: completion::Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &format!("not a chat completion request: {error}")),
    };
    let stream = request.stream;
    let serial = state.served.fetch_add(1, Ordering::Relaxed);
    match Completion::new(serial, &state.name, request, state.pace) {
        Err(error) => failure(StatusCode::BAD_REQUEST, &error),
        Ok(completion) if stream => streamed(completion),
        Ok(completion) => {
            tokio::time::sleep(completion.pace.total()).await;
            whole(StatusCode::OK, completion.whole())
        }
    }
}

fn streamed(completion: Completion) -> Response<Body> {
    let (events, body) = Channel::new(1);
    // The only way to fail is a client that went away, and then nobody is left to tell.
    tokio::spawn(async move { send_events(&completion, events).await.ok() });
    let mut response = Response::new(Either::Right(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn send_events(
    completion: &Completion,
    mut events: Sender<Bytes>,
) -> Result<(), http_body_util::channel::SendError> {
    let event = |value: Value| Bytes::from(format!("data: {value}\n\n"));
    events.send_data(event(completion.opening())).await?;
    for index in 0..completion.pace.tokens {
        tokio::time::sleep(completion.pace.pause_before(index)).await;
        events.send_data(event(completion.delta(index))).await?;
    }
    for value in completion.closing() {
        events.send_data(event(value)).await?;
    }
    events.send_data(Bytes::from_static(b"data: [DONE]\n\n")).await
}

fn models() -> Value {
    json!({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "landbridge"}]})
}

fn failure(status: StatusCode, message: &str) -> Response<Body> {
    whole(status, json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": null}}))
}

fn whole(status: StatusCode, value: Value) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(format!("{value}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Prints one line; nobody reading it is no reason to stop serving.
fn report(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).ok();
}
