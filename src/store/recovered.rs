//! What is read back from a store.

use std::time::Instant;

use super::{RetainedRecord, SessionNo, SessionRecord};
use crate::mqtt::SubscriptionFilter;
use crate::mqtt::packet::PacketId;
use crate::session::{Delivery, Seq, SubscriptionOptions};

/// All that a store held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The sessions, by number.
    pub sessions: Vec<RecoveredSession>,
    /// The retained messages that have not expired.
    pub retained: Vec<RetainedRecord>,
}

/// A session as the store had it.
#[derive(Debug)]
pub struct RecoveredSession {
    /// Its name.
    pub number: SessionNo,
    /// Who and what it is.
    pub record: SessionRecord,
    /// Its subscriptions.
    pub subscriptions: Vec<(SubscriptionFilter, SubscriptionOptions)>,
    /// QoS 2 publications of the client that wait for PUBREL, in order.
    pub held: Vec<PacketId>,
    /// Deliveries for which PUBREC came, in order. They are not among those that wait.
    pub released: Vec<Seq>,
    /// What waits, in order.
    pub waiting: Vec<Waiting>,
    /// The number of the next delivery: higher than any this session has had on disk.
    pub next_seq: Seq,
}

/// What of a session is neither to come nor done with: its connection had it.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// QoS 2 publications of the client that wait for PUBREL, in order.
    pub held: Vec<PacketId>,
    /// Deliveries for which PUBREC came, in order.
    pub released: Vec<Seq>,
    /// Deliveries that were not acknowledged, in order.
    pub waiting: Vec<Waiting>,
}

/// A delivery that waits, without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the queue.
    pub seq: Seq,
    /// What the message counts for.
    pub bytes: u32,
    /// When it expires; `None`: never.
    pub expires_at: Option<Instant>,
}

impl Waiting {
    /// The delivery, once it has its number.
    #[must_use]
    pub fn of(delivery: &Delivery) -> Option<Self> {
        Some(Self {
            seq: delivery.seq?,
            bytes: u32::try_from(delivery.message.bytes()).unwrap_or(u32::MAX),
            expires_at: delivery.message.expires_at,
        })
    }
}

/// A part of a queue, read back.
#[derive(Debug)]
pub struct Page {
    /// In order. Those that expired meanwhile are not among them.
    pub deliveries: Vec<Delivery>,
    /// Where to go on.
    pub next: Seq,
}
