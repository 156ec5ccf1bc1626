//! What is read back from a store.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Instant;

use super::{RetainedRecord, SessionNo, SessionRecord};
use crate::mqtt::SubscriptionFilter;
use crate::mqtt::packet::PacketId;
use crate::registry::{Ban, Device};
use crate::session::{Delivery, Seq, SubscriptionOptions};

/// All that a store held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The sessions, by number.
    pub sessions: Vec<RecoveredSession>,
    /// The retained messages that have not expired.
    pub retained: Vec<RetainedRecord>,
    /// The bans, those among them that have ended as well.
    pub bans: Vec<Ban>,
    /// The devices that are known.
    pub devices: Vec<Device>,
    /// What was lost of the store and was accepted: what, where, whose.
    pub losses: Vec<String>,
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

/// When a delivery that waits expires, to the second and in four bytes: a long queue has many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(NonZeroU32);

/// What expiry is counted from.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Expiry {
    /// Never.
    pub const NEVER: Self = Self(NonZeroU32::MAX);

    /// At this moment, or up to a second later; `None` is never.
    #[must_use]
    pub fn of(at: Option<Instant>) -> Self {
        let Some(at) = at else { return Self::NEVER };
        let seconds = at.saturating_duration_since(*BEGAN).as_secs();
        u32::try_from(seconds).map_or(Self::NEVER, |it| Self(NonZeroU32::MIN.saturating_add(it)))
    }

    /// True from then on.
    #[must_use]
    pub fn has_passed(self, now: Instant) -> bool {
        let now = now.saturating_duration_since(*BEGAN).as_secs();
        self != Self::NEVER && u64::from(self.0.get()) <= now
    }
}

/// A delivery that waits, without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the queue.
    pub seq: Seq,
    /// What the message counts for.
    pub bytes: u32,
    /// When it expires.
    pub expiry: Expiry,
}

impl Waiting {
    /// The delivery, once it has its number.
    #[must_use]
    pub fn of(delivery: &Delivery) -> Option<Self> {
        Some(Self {
            seq: delivery.seq?,
            bytes: u32::try_from(delivery.message.bytes()).unwrap_or(u32::MAX),
            expiry: Expiry::of(delivery.message.expires_at),
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
