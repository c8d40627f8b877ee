//! landbridge: a layer-4 TCP proxy that joins cloud and on-premises capacity.

pub mod admin;
pub mod cli;
pub mod config;
mod devices;
pub mod fastpath;
mod handover;
mod histogram;
mod joined;
mod listening;
mod looks;
pub mod net;
mod operate;
mod places;
mod probe;
mod pulse;
mod reload;
mod session;
mod session_log;
mod shared;
mod signals;
pub mod stats;
pub mod supervisor;
mod tally;
mod target;
mod watch;
mod ways;
mod worker;
