//! landbridge: a layer-4 TCP proxy that joins cloud and on-premises capacity.

pub mod cli;
pub mod config;
