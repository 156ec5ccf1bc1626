//! PUBLISH (MQTT 5.0 section 3.3).

use std::num::NonZeroU16;

use smallvec::SmallVec;

use super::{PacketId, Qos};
use crate::mqtt::UserProperties;

/// A PUBLISH packet, borrowing topic and payload from its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent again.
    pub dup: bool,
    /// The QoS.
    pub qos: Qos,
    /// From a publisher: store it. To a subscriber: it was stored.
    pub retain: bool,
    /// A valid topic name; empty only with a topic alias (MQTT 5.0).
    pub topic: &'a str,
    /// Present exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// `None` when there are no properties.
    pub properties: Option<Box<PublishProperties>>,
    /// The payload.
    pub payload: &'a [u8],
}

/// The properties of PUBLISH, and of a will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// `Some(true)`: the payload is UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Seconds the message lives.
    pub message_expiry_s: Option<u32>,
    /// A topic alias; never forwarded.
    pub topic_alias: Option<NonZeroU16>,
    /// Where to send a response: a valid topic name.
    pub response_topic: Option<Box<str>>,
    /// Data that ties a response to its request.
    pub correlation_data: Option<Box<[u8]>>,
    /// What the payload is.
    pub content_type: Option<Box<str>>,
    /// Identifiers of the subscriptions that match (from the server only), 1 to 268,435,455.
    pub subscription_ids: SmallVec<[u32; 2]>,
    /// User properties, in order.
    pub user_properties: UserProperties,
}
