//! A probe over HTTP/1.1.
//!
//! One task drives the connection; it ends with the future that started it.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{HttpProbe, Method};

/// How much of a body is read: a health check that says more says it too late.
const BODY_LIMIT: usize = 64 * 1024;

/// Why an answer is not the expected one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// It is not HTTP, or it ended early.
    #[error("no valid HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// Its status is none of the expected ones.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Its body does not contain what it must.
    #[error("the first {BODY_LIMIT} bytes of the answer do not contain {0:?}")]
    Body(String),
}

/// Asks once over `stream`, which leads to `address`.
pub(super) async fn ask(stream: TcpStream, address: SocketAddr, probe: &HttpProbe) -> Result<(), AnswerError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // An error of the connection is one of the request too.
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let answer = sender.send_request(request(address, probe)).await?;
    let status = answer.status();
    if !probe.expect.iter().any(|range| range.contains(&status.as_u16())) {
        return Err(AnswerError::Status(status));
    }
    match &probe.body {
        None => Ok(()),
        Some(wanted) if contains(answer.into_body(), wanted.as_bytes()).await? => Ok(()),
        Some(wanted) => Err(AnswerError::Body(wanted.clone())),
    }
}

fn request(address: SocketAddr, probe: &HttpProbe) -> Request<Empty<Bytes>> {
    let method = match probe.method {
        Method::Get => hyper::Method::GET,
        Method::Head => hyper::Method::HEAD,
        Method::Options => hyper::Method::OPTIONS,
        Method::Post => hyper::Method::POST,
    };
    let host = probe.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::builder()
        .method(method)
        .uri(&probe.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("landbridge/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new());
    // The configuration takes only what can stand in a request; without a Host header the target says what it lacks.
    request.unwrap_or_default()
}

/// Whether the beginning of a body contains `wanted`.
async fn contains(mut body: Incoming, wanted: &[u8]) -> Result<bool, hyper::Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            // What was looked through before matters only as far as the word may have begun there.
            let from = read.len().saturating_sub(wanted.len());
            read.extend_from_slice(&data[..data.len().min(BODY_LIMIT - read.len())]);
            if read[from..].windows(wanted.len()).any(|window| window == wanted) {
                return Ok(true);
            }
            if read.len() == BODY_LIMIT {
                break;
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn probe() -> HttpProbe {
        HttpProbe {
            method: Method::Get,
            path: "/health?deep=1".to_owned(),
            host: None,
            expect: vec![200..=204, 301..=301],
            body: None,
        }
    }

    /// What `probe` says of a server that answers with `answer`, and what that server was asked.
    async fn asked(probe: &HttpProbe, answer: &str) -> (Result<(), AnswerError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let result = ask(TcpStream::connect(address).await.unwrap(), address, probe).await;
        (result, server.await.unwrap().replace(&address.to_string(), "ADDRESS"))
    }

    #[tokio::test]
    async fn the_request_is_what_the_configuration_says() {
        let (result, request) = asked(&probe(), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        result.unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("\r\nhost: address\r\n"), "{request}");
        let other = HttpProbe { method: Method::Options, host: Some("inference.example".to_owned()), ..probe() };
        let (result, request) = asked(&other, "HTTP/1.1 204 No Content\r\n\r\n").await;
        result.unwrap();
        assert!(request.starts_with("OPTIONS "), "{request}");
        assert!(request.to_lowercase().contains("\r\nhost: inference.example\r\n"), "{request}");
    }

    #[tokio::test]
    async fn only_the_expected_status_codes_are_good() {
        for (status, good) in [(200, true), (204, true), (205, false), (301, true), (404, false), (503, false)] {
            let (result, _) = asked(&probe(), &format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")).await;
            assert_eq!(result.is_ok(), good, "{status}: {result:?}");
        }
    }

    #[tokio::test]
    async fn the_body_must_contain_the_word() {
        let probe = HttpProbe { body: Some("ready".to_owned()), ..probe() };
        let far = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}ready{}",
            "x".repeat(70_000),
            "x".repeat(29_995)
        );
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nis ready.", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot read.", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false),
            (&far, false),
        ] {
            let (result, _) = asked(&probe, answer).await;
            assert_eq!(result.is_ok(), good, "{result:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for answer in ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200"] {
            let (result, _) = asked(&probe(), answer).await;
            assert!(matches!(result, Err(AnswerError::Http(_))), "{answer:?}: {result:?}");
        }
    }
}
