//! What the daemon and its eBPF programs share: keys and values of the maps, and the counter slots.
//!
//! Every type is `repr(C)` without padding, so that both sides, compiled for different machines, read the same bytes.
#![no_std]
