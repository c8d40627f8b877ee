//! The pure decisions of landbridge: which target a session gets and whether that one is healthy, on which datapath its
//! bytes move, when it is joined, how it ends; and what the packet path does with a packet.
//!
//! The crate is `no_std`: it has no sockets, no clocks, no runtime and no global random source, and the compiler keeps
//! it so. Callers pass in time and a seeded generator and carry out what is returned. That makes every decision
//! testable by tables and by properties against naive models.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod datapath;
pub mod end;
pub mod failover;
pub mod health;
pub mod join;
pub mod life;
pub mod orders;
pub mod packet;
mod passage;
pub mod pool;
pub mod select;
pub mod slow;
pub mod vigil;
