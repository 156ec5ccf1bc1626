//! The protocol state of one client, without socket, clock, file or async.

use std::num::NonZeroU16;

/// Bounds of one session's protocol state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// QoS 1 and 2 publications the broker takes from the client at a time (announced as
    /// Receive Maximum in MQTT 5).
    pub receive_maximum: NonZeroU16,
    /// QoS 1 and 2 publications sent to the client at a time, whatever it allows.
    pub inflight_max: NonZeroU16,
    /// Subscriptions.
    pub subscriptions_max: u32,
}
