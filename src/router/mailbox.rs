//! What waits for one client: bounded in count and bytes, filled by publishers, drained by the
//! client's own connection.

/// Bounds of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages waiting.
    pub messages_max: u32,
    /// Bytes waiting: topics, payloads and properties.
    pub bytes_max: u64,
    /// Which QoS 1 or 2 message goes when it is full. A QoS 0 message that finds the mailbox
    /// full is always dropped itself.
    pub overflow: Overflow,
}

/// Which QoS 1 or 2 message is dropped when a mailbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The one that arrives.
    DropNewest,
    /// The one that waits longest.
    DropOldest,
}
