//! UNSUBSCRIBE and UNSUBACK (MQTT 5.0 sections 3.10 and 3.11).

use super::PacketId;
use crate::mqtt::{ReasonCode, SubscriptionFilter, UserProperties};

/// An UNSUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: Vec<SubscriptionFilter>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}

/// An UNSUBACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback {
    /// The packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One code per filter, in order; not on the wire in MQTT 3.
    pub reasons: Vec<ReasonCode>,
    /// A text for people (MQTT 5.0).
    pub reason_string: Option<Box<str>>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}
