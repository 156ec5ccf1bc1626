//! The rate gate: packets and bytes per principal, kept across reconnects.

use std::num::NonZeroU32;

/// How much a principal may send. Both limits hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Packets per second, sustained.
    pub packets_per_second: NonZeroU32,
    /// Packets at once.
    pub packets_burst: NonZeroU32,
    /// Bytes per second, sustained.
    pub bytes_per_second: NonZeroU32,
    /// Bytes at once; at least the largest packet.
    pub bytes_burst: NonZeroU32,
    /// What happens to a client that sends more.
    pub answer: Answer,
}

/// What happens to a client that exceeds its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is read from it until it is within its rate again.
    SlowDown,
    /// DISCONNECT 0x96.
    Disconnect,
}
