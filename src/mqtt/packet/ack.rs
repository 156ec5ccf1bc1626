//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape, four packet types.

use super::PacketId;
use crate::mqtt::{ReasonCode, UserProperties};

/// The body of PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The packet identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// The outcome; always `Success` in MQTT 3, which has no reason codes here.
    pub reason: ReasonCode,
    /// A text for people (MQTT 5.0).
    pub reason_string: Option<Box<str>>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}

impl Ack {
    /// An acknowledgement without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::default() }
    }
}
