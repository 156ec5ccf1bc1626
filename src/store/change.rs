//! What a store is told.

use std::sync::Arc;

use super::{SessionNo, SessionRecord};
use crate::identity::Account;
use crate::mqtt::packet::PacketId;
use crate::mqtt::{SubscriptionFilter, TopicName};
use crate::registry::{Ban, BanId, Device, Principal};
use crate::session::{Delivery, Message, Seq, SubscriptionOptions};

/// What changes. In the order of a session's life.
#[derive(Debug)]
pub enum Change {
    /// A session begins, or its record changes.
    Session(SessionNo, Box<SessionRecord>),
    /// A subscription is made, in the place of the one with the same filter.
    Subscribe(SessionNo, SubscriptionFilter, SubscriptionOptions),
    /// A subscription is gone.
    Unsubscribe(SessionNo, SubscriptionFilter),
    /// A delivery waits for the session. Its `seq` is there, and higher than all before.
    Enqueue(SessionNo, Delivery),
    /// PUBREC came for this delivery: PUBREL is sent from now on, and the message never again.
    Released(SessionNo, Seq),
    /// Everything in the session's queue up to here, this one included, is done with.
    Finished(SessionNo, Seq),
    /// This delivery, the oldest of those that wait, was dropped.
    Dropped(SessionNo, Seq),
    /// A QoS 2 publication of the client was taken; the identifier waits for PUBREL.
    Held(SessionNo, PacketId),
    /// PUBREL came for it.
    Freed(SessionNo, PacketId),
    /// The session ends, with all it has.
    End(SessionNo),
    /// A message is its topic's last. It counts for this account.
    Retain(Arc<Message>, Arc<Account>),
    /// A topic has no retained message any more.
    Clear(TopicName),
    /// Somebody is banned, or the ban has changed.
    Ban(Box<Ban>),
    /// A ban is gone.
    Unban(BanId),
    /// A device is known, or what is known of it has changed.
    Device(Box<Device>),
    /// A device is not known any more.
    Forget(Principal),
}

impl Change {
    /// What it keeps in memory until it is written, roughly: a message counts with each delivery.
    pub(super) fn weight_bytes(&self) -> u64 {
        size_of::<Self>() as u64
            + match self {
                Self::Enqueue(_, delivery) => delivery.message.bytes(),
                Self::Retain(message, _) => message.bytes(),
                Self::Session(..) | Self::Ban(_) | Self::Device(_) => 1024,
                _ => 0,
            }
    }

    /// The session it is about, unless it is about something else.
    pub(super) fn session(&self) -> Option<SessionNo> {
        match self {
            Self::Session(number, _)
            | Self::Subscribe(number, ..)
            | Self::Unsubscribe(number, _)
            | Self::Enqueue(number, _)
            | Self::Released(number, _)
            | Self::Finished(number, _)
            | Self::Dropped(number, _)
            | Self::Held(number, _)
            | Self::Freed(number, _)
            | Self::End(number) => Some(*number),
            Self::Retain(..)
            | Self::Clear(_)
            | Self::Ban(_)
            | Self::Unban(_)
            | Self::Device(_)
            | Self::Forget(_) => None,
        }
    }
}
