//! Sockets: listening, connecting, and moving bytes between the two legs of a session.

pub mod dial;
pub(crate) mod hangup;
pub(crate) mod leg;
pub mod listener;
pub mod options;
pub(crate) mod path;
pub mod proxy_protocol;
pub mod relay;
