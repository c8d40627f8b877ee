//! gRPC through the proxy: calls and a stream that the server keeps open.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use landbridge_tests::{Config, Daemon, Metrics, Net, PATIENCE};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::health_client::HealthClient;

const SERVICE: &str = "inference";
const CALLS: usize = 200;

#[test]
fn calls_and_streams_pass() -> Result<()> {
    call("auto").map(drop)
}

#[test]
fn calls_and_streams_pass_as_packets() -> Result<()> {
    let metrics = call("packet")?;
    let joins = metrics.value("landbridge_datapath_joins_total", &[]);
    ensure!(joins == 1.0, "{joins} joins");
    let (all, packet) = (
        metrics.value("landbridge_bytes_total", &[]),
        metrics.value("landbridge_bytes_total", &[("datapath", "packet")]),
    );
    ensure!(packet > all * 0.5, "only {packet} of {all} bytes were forwarded as packets");
    // The kernel's own count: at least a packet for each question and one for each answer of that half.
    let forwarded = metrics.value("landbridge_packet_packets_total", &[("verdict", "forwarded")]);
    ensure!(forwarded >= CALLS as f64, "{forwarded} packets");
    Ok(())
}

/// Calls and a stream over one connection; what the daemon has counted then.
fn call(datapath: &str) -> Result<Metrics> {
    let net = Net::new(1)?;
    let listener = net.targets[0].listen(net.targets[0].v4(9000))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (reporter_sender, reporter) = mpsc::channel();
    let server = net.targets[0].spawn(move || {
        run(async move {
            let (reporter, service) = tonic_health::server::health_reporter();
            reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
            reporter_sender.send(reporter)?;
            listener.set_nonblocking(true)?;
            let incoming = TcpIncoming::from(TcpListener::from_std(listener)?);
            let until = async { drop(stopped.await) };
            Ok(Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, until).await?)
        })
    });
    let reporter = reporter.recv_timeout(PATIENCE)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(address).listener(&format!("datapath = {datapath:?}")))?;

    let url = format!("http://{}", daemon.v4());
    let client = async move {
        let channel = Endpoint::from_shared(url)?.connect().await.context("connect")?;
        let mut client = HealthClient::new(channel);
        let request = || HealthCheckRequest { service: SERVICE.to_owned() };
        for _ in 0..CALLS {
            let answer = client.check(request()).await.context("a call")?.into_inner();
            ensure!(answer.status() == Answer::Serving);
        }
        let mut watch = client.watch(request()).await.context("a stream")?.into_inner();
        for (status, answer) in [(None, Answer::Serving), (Some(ServingStatus::NotServing), Answer::NotServing)] {
            if let Some(status) = status {
                // Nothing happens on the stream until the server has something to say.
                tokio::time::sleep(Duration::from_millis(500)).await;
                reporter.set_service_status(SERVICE, status).await;
            }
            let message = watch.message().await.context("a message")?.context("the stream goes on")?;
            ensure!(message.status() == answer, "{message:?}");
        }
        Ok(())
    };
    net.client.enter(|| run(async { timeout(PATIENCE, client).await? }))?;
    daemon.wait_ended(1, "client_closed")?;
    drop(stop);
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    let metrics = daemon.metrics()?;
    daemon.stop()?;
    Ok(metrics)
}

/// Runs `work` on this thread, so that its sockets are in the thread's network namespace.
fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Builder::new_current_thread().enable_all().build()?.block_on(work)
}
