//! Load of many token streams: a server that sends tokens at an even pace, and a reader that measures when they arrive.
//!
//! Every token carries the time at which it was sent, by the machine's monotonic clock, which all namespaces share. So
//! the time on the way is exact for each token, and a late sender is not mistaken for a slow way.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod event;
mod read;
mod samples;
mod serve;

#[derive(Debug, Parser)]
#[command(about = "Serves or reads many token streams at once")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Send a token on every open stream, interval by interval, without end
    Serve {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
        /// Time between two tokens of a stream; whole milliseconds
        #[arg(long, default_value = "50ms", value_parser = humantime::parse_duration)]
        interval: Duration,
    },
    /// Open streams, print `measuring` when all of them flow, and at the end what was measured, as JSON
    Read {
        /// Address of the server, or of a proxy in front of it
        #[arg(long)]
        connect: SocketAddr,
        /// Streams at once
        #[arg(long, default_value_t = 1000)]
        streams: usize,
        /// How long the streams flow before measuring begins
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        settle: Duration,
        /// How long to measure
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        measure: Duration,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().role {
        Role::Serve { listen, interval } => serve::serve(listen, interval).await,
        Role::Read { connect, streams, settle, measure } => read::read(connect, streams, settle, measure).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sse-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
