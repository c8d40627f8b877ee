//! The programs of the packet datapath: against the model, byte for byte, by `BPF_PROG_TEST_RUN`; and between real
//! connections in network namespaces.
//!
//! Needs root and the eBPF objects (`cargo xtask test`), else it says that it did nothing.

mod answers;
mod clsact;
mod generated;
mod icmp;
mod join;
mod joints;
mod middle;
mod programs;
mod refused;
mod rig;
mod vlan;
