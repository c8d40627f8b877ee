//! Hosts, targets, clients and faults for the end-to-end tests.
//!
//! A test makes a [`Net`] of hosts, starts targets and a [`Daemon`] in it, and talks to the daemon as a client would.
//! Everything a test starts ends with its handle, and everything printed shows when the test fails.

mod binary;
mod borrow;
mod client;
mod config;
pub mod crowd;
mod daemon;
pub mod docs;
mod hold;
mod host;
mod http;
mod link;
mod memory;
mod metrics;
mod net;
pub mod option;
pub mod packet;
mod pattern;
mod poll;
mod process;
mod socket;
pub mod streams;
pub mod talk;
pub mod targets;
mod weather;
pub mod wireguard;

pub use binary::binary;
pub use borrow::{Borrowed, BorrowedMap};
pub use client::Tool;
pub use config::{Config, Group, LISTENER_PORT};
pub use daemon::{Daemon, ON_OLD_KERNEL};
pub use hold::Held;
pub use host::Host;
pub use link::{Link, Offloads};
pub use memory::Memory;
pub use metrics::Metrics;
pub use net::Net;
pub use pattern::{Checker, Source, large_chunks, pump, random_chunks};
pub use poll::{PATIENCE, eventually};
pub use process::{Finished, Process};
pub use socket::{Ending, SocketExt};
pub use weather::{Damage, Weather};
