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
mod names;
pub mod net;
mod operate;
mod places;
mod privileges;
mod probe;
mod reload;
mod session;
mod shared;
mod signals;
pub mod stats;
pub mod supervisor;
mod systemd;
mod tally;
mod target;
mod watch;
mod ways;
mod worker;
