//! CONNECT (MQTT 5.0 section 3.1).

use std::num::{NonZeroU16, NonZeroU32};

use super::{PublishProperties, Qos};
use crate::mqtt::{ProtocolVersion, TopicName, UserProperties};

/// A CONNECT packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The version that protocol name and level announce.
    pub version: ProtocolVersion,
    /// Clean start (MQTT 5.0) or clean session (MQTT 3).
    pub clean_start: bool,
    /// Keep-alive interval in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// The client identifier as sent; empty asks for an assigned one.
    pub client_id: Box<str>,
    /// The will, where the connection has one.
    pub will: Option<Box<Will>>,
    /// The user name.
    pub user_name: Option<Box<str>>,
    /// The password.
    pub password: Option<Box<[u8]>>,
    /// Seconds the session outlives the connection; `u32::MAX` never ends. For MQTT 3 the
    /// decoder sets 0 with clean session and `u32::MAX` without.
    pub session_expiry_s: u32,
    /// QoS 1 and 2 publications the client takes at a time.
    pub receive_maximum: NonZeroU16,
    /// The largest packet the client takes, in bytes; `None` is no limit.
    pub maximum_packet_bytes: Option<NonZeroU32>,
    /// The highest topic alias the client takes.
    pub topic_alias_maximum: u16,
    /// The client asks for response information in CONNACK.
    pub request_response_information: bool,
    /// The client takes reason strings and user properties anywhere.
    pub request_problem_information: bool,
    /// User properties.
    pub user_properties: UserProperties,
    /// The authentication method of an extended authentication.
    pub authentication_method: Option<Box<str>>,
    /// Data of the authentication method.
    pub authentication_data: Option<Box<[u8]>>,
}

/// The will message in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The topic.
    pub topic: TopicName,
    /// The payload.
    pub payload: Box<[u8]>,
    /// The QoS to publish with.
    pub qos: Qos,
    /// Retain the message.
    pub retain: bool,
    /// Seconds between the end of the connection and the will.
    pub delay_s: u32,
    /// The message's properties; no topic alias and no subscription identifiers.
    pub properties: Option<Box<PublishProperties>>,
}
