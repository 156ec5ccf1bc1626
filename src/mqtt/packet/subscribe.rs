//! SUBSCRIBE and SUBACK (MQTT 5.0 sections 3.8 and 3.9).

use std::num::NonZeroU32;

use super::{PacketId, Qos};
use crate::mqtt::{ReasonCode, SubscriptionFilter, UserProperties};

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// At least one.
    pub entries: Vec<SubscribeEntry>,
    /// The subscription identifier, 1 to 268,435,455 (MQTT 5.0).
    pub subscription_id: Option<NonZeroU32>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeEntry {
    /// What is asked for.
    pub filter: SubscriptionFilter,
    /// The highest QoS to deliver with.
    pub qos: Qos,
    /// Do not deliver what this client publishes itself.
    pub no_local: bool,
    /// Leave the retain flag of forwarded messages as it was published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When a SUBSCRIBE is answered with retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE (the only way in MQTT 3).
    #[default]
    Always = 0,
    /// Only when the subscription is new.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// A SUBACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// The packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One code per entry, in order; in MQTT 3 every error is 0x80 on the wire.
    pub reasons: Vec<ReasonCode>,
    /// A text for people (MQTT 5.0).
    pub reason_string: Option<Box<str>>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}
