//! The command line: the verbs, and a file for each or for those that are alike. A verb returns how the process should
//! exit; only `main` exits it.

mod check;
mod client;
mod detach;
mod doctor;
#[cfg(test)]
mod example;
mod log;
mod manual;
mod operate;
mod run;
mod table;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use landbridge_core::failover::AdminState;

use crate::config::{ADMIN_SOCKET, Config, units};

/// What no verb says.
const DETAILS: &str = "\
Exit status: 0 done, 1 failed, 2 wrong usage, 78 the configuration is not valid.

Signals of a running daemon: SIGHUP reads the configuration file again. SIGUSR1 opens the session log anew. SIGUSR2 starts the \
program's file as the next process, which takes over. SIGTERM and SIGINT drain; a second one ends at once. SIGQUIT does as \
SIGTERM, but takes no new clients from then on and leaves joined sessions to the next process.

Environment: RUST_LOG chooses what is logged, such as debug or landbridge::session=debug. LANDBRIDGE_SOCKET is the daemon's \
control socket, as --socket.

Files: /etc/landbridge/landbridge.toml is the configuration of the packaged service, and \
/usr/share/doc/landbridge/examples/landbridge.toml explains every option.";

/// Joins cloud and on-premises capacity: a layer-4 TCP proxy with a kernel fast path.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = DETAILS)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the proxy until SIGTERM or SIGINT, which drain it; a second one ends it at once
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Says whether a configuration file is valid, and every problem if it is not
    Check {
        /// The configuration file
        file: PathBuf,
        /// Also says what a reload with it would change
        #[arg(long)]
        against_running: bool,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Shows listeners, groups and targets of the running daemon
    Status {
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Lists the sessions of the running daemon
    Sessions {
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Watches groups and targets of the running daemon in a terminal, and changes their weights and states by keys
    Top {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Ends something that runs
    #[command(subcommand)]
    Shutdown(Shutdown),
    /// Changes something that reloads and upgrades keep, and a restart of the daemon does not
    #[command(subcommand)]
    Set(Set),
    /// Has the running daemon read its configuration file again, and says what has changed
    Reload {
        /// The daemon's configuration file: it is checked first, and admin.socket is taken from it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Ends the joined sessions that a daemon has left which runs no more, and removes everything that is pinned for
    /// them
    Detach,
    /// Says what the kernel offers and whether the fast path works here
    Doctor {
        /// Also says whether this machine can carry what this configuration file promises
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// After which time the balancer in front closes idle connections; 60s is an ALB's default, 350s an NLB's
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
        balancer_idle_timeout: Duration,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Prints what a shell needs to complete the command line
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints the manual page in roff
    Man {
        /// Writes a page for the program and for each of its verbs into this folder instead
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Shutdown {
    /// Resets the sessions that a group or a target has now; new ones come as before
    Sessions {
        /// GROUP, or GROUP/TARGET by name or address
        of: String,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
}

#[derive(Debug, Subcommand)]
enum Set {
    /// Gives a group or a target another weight
    Weight {
        /// GROUP, or GROUP/TARGET by name or address
        of: String,
        /// 0 to 65535; 0: no new sessions; config: the configuration's again
        #[arg(value_name = "N|config")]
        weight: operate::Weight,
        /// For so long, such as 30m; then the configuration's weight counts again
        #[arg(long = "for", value_name = "TIME", value_parser = units::duration)]
        duration: Option<Duration>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Has a group or a target take sessions, or not
    State {
        /// GROUP, or GROUP/TARGET by name or address
        of: String,
        /// active; draining: no new sessions, what is left after runtime.drain_timeout is reset; disabled: all are
        /// reset
        #[arg(value_parser = AdminState::ALL.map(AdminState::label))]
        state: String,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// Which daemon is meant.
#[derive(Debug, Args)]
struct Daemon {
    /// The daemon's control socket; without it admin.socket of the configuration file, if one is given, or else
    /// /run/landbridge/admin.sock
    #[arg(long, value_name = "PATH", env = "LANDBRIDGE_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
}

impl Daemon {
    /// Its control socket.
    fn socket(self) -> PathBuf {
        self.socket_of(None)
    }

    /// The same for the daemon of a configuration.
    fn socket_of(self, config: Option<&Config>) -> PathBuf {
        let configured = || config.and_then(|config| config.admin.socket.clone());
        self.socket.or_else(configured).unwrap_or_else(|| PathBuf::from(ADMIN_SOCKET))
    }
}

/// How the process exits. Wrong usage exits with 2, which is clap's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Good,
    /// It failed at run time.
    Failed,
    /// The configuration is invalid (`EX_CONFIG` of sysexits.h).
    InvalidConfiguration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Good => 0,
            Exit::Failed => 1,
            Exit::InvalidConfiguration => 78,
        })
    }
}

/// Carries out what the command line says.
pub fn execute(arguments: Arguments) -> Exit {
    match arguments.verb {
        Verb::Run { config } => run::run(&config),
        Verb::Check { file, against_running, json, daemon } => {
            check::check(&file, against_running.then_some(daemon), json)
        }
        Verb::Status { json, daemon } => operate::status(&daemon.socket(), json),
        Verb::Sessions { json, daemon } => operate::sessions(&daemon.socket(), json),
        Verb::Top { daemon } => top::top(&daemon.socket()),
        Verb::Shutdown(Shutdown::Sessions { of, json, daemon }) => {
            operate::shut_down_sessions(&daemon.socket(), of, json)
        }
        Verb::Set(Set::Weight { of, weight, duration, json, daemon }) => {
            operate::set_weight(&daemon.socket(), of, weight, duration, json)
        }
        Verb::Set(Set::State { of, state, json, daemon }) => operate::set_state(&daemon.socket(), of, state, json),
        Verb::Reload { config, json, daemon } => match config.as_deref().map(check::load).transpose() {
            Ok(config) => operate::reload(&daemon.socket_of(config.as_ref()), json),
            Err(exit) => exit,
        },
        Verb::Completions { shell } => manual::completions(shell),
        Verb::Man { folder } => manual::man(folder.as_deref()),
        // Nobody reads stdout any more: there is nobody to tell either.
        Verb::Detach => detach::detach().unwrap_or(Exit::Failed),
        Verb::Doctor { config, balancer_idle_timeout, json, daemon } => {
            doctor::doctor(config.as_deref(), (daemon, balancer_idle_timeout), json).unwrap_or(Exit::Failed)
        }
    }
}
