//! What a session and a retained message are on disk.

use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::{Account, Identity};
use crate::mqtt::packet::Will;
use crate::policy::SessionFacts;
use crate::session::Message;

/// Who a session belongs to and how it is judged while nobody is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The principal of the present or last connection.
    pub identity: Arc<Identity>,
    /// The facts of that connection, the client identifier among them.
    pub facts: Arc<SessionFacts>,
    /// For whom the session and its retained messages count.
    pub account: Arc<Account>,
    /// How much that account may keep retained.
    pub retained: QueueBounds,
    /// How much may wait for the session.
    pub queue: QueueBounds,
    /// When the queue is full, the oldest message goes, not the one that arrives.
    pub drop_oldest: bool,
    /// Seconds it outlives its connection; `u32::MAX` for ever.
    pub expiry_s: u32,
    /// When its last connection ended; `None` while it has one.
    pub parked_at: Option<SystemTime>,
    /// What to publish when its connection ends, or has ended and the delay is not over.
    pub will: Option<StoredWill>,
}

/// A will that was not sent and not taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWill {
    /// The message.
    pub will: Will,
    /// When it is due; `None` while its connection lives.
    pub due_at: Option<SystemTime>,
}

/// A bound in messages and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Messages.
    pub messages_max: u32,
    /// Bytes of them all.
    pub bytes_max: u64,
}

/// A retained message with the account that keeps it.
#[derive(Debug)]
pub struct RetainedRecord {
    /// The message.
    pub message: Arc<Message>,
    /// The account.
    pub account: Arc<Account>,
}
