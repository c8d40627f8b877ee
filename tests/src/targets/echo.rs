//! A target that returns every byte, to thousands of clients at once.
//!
//! All of it runs on one background thread, which ends with the handle and closes every session.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use crate::Host;

/// A running echo target.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Echo {
    /// Listens on `port` of `host`, for IPv4 and IPv6.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener = host.listen(SocketAddr::new([0u16; 8].into(), port))?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        Ok(Self { address: host.v4(port), runtime: Some(runtime) })
    }

    /// Its IPv4 address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut to).await
}
