//! A target that answers like an inference server, for trying landbridge out and for the end-to-end tests.
//!
//! It speaks HTTP/1.1 and, by prior knowledge, HTTP/2. Standard output gets one line for each answered request, which
//! begins with the target's name; everything else goes to standard error.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

mod completion;
mod server;

#[derive(Debug, Parser)]
#[command(about = "Answers like an OpenAI-style inference server")]
struct Arguments {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Name of this target, given in every answer
    #[arg(long)]
    name: String,
    /// Tokens of an answer whose request sets no limit
    #[arg(long, default_value_t = 20)]
    tokens: u32,
    /// Time between two tokens
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    token_interval: Duration,
    /// Extra silence in the middle of every answer, like a long prompt being processed
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    quiet_gap: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample-target: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let listen = arguments.listen;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    eprintln!("{}: listening on {}", arguments.name, listener.local_addr()?);
    let pace = completion::Pace {
        tokens: arguments.tokens,
        interval: arguments.token_interval,
        quiet_gap: arguments.quiet_gap,
    };
    server::serve(listener, arguments.name, pace).await
}
