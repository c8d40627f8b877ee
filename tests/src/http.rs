//! A plain HTTP request, for what the harness itself asks.

use std::io::{Read, Write};

use anyhow::{Context, Result};

use crate::{Host, PATIENCE};

/// The status and body of `path` on `authority`, asked from inside `host`.
pub(crate) fn get(host: &Host, authority: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = host.try_connect(authority.parse()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0 answers end with the connection and are never chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}
