//! The administration plane: what a running broker shows, and the little that it can be told.
//!
//! [`http`] is for machines that watch: read-only, on loopback, without credentials because it
//! has nothing to protect. [`control`] is for the operator on the same machine: a Unix socket
//! whose callers the kernel names. Neither takes a path, a topic or a policy from its caller.

pub mod control;
pub mod http;
pub mod registered;
