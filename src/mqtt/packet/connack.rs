//! CONNACK (MQTT 5.0 section 3.2).

use std::num::{NonZeroU16, NonZeroU32};

use super::Qos;
use crate::mqtt::{ReasonCode, UserProperties};

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// True when the broker holds a session for this client; false unless `reason` is `Success`.
    pub session_present: bool,
    /// The outcome.
    pub reason: ReasonCode,
    /// What MQTT 5.0 adds; ignored when encoding for MQTT 3.
    pub properties: ConnackProperties,
}

/// The properties of CONNACK. `None` stands for the specification's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties {
    /// Seconds the session outlives the connection, where it differs from what was asked.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 publications the broker takes at a time (default 65,535).
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS the client may publish with; only 0 or 1 may stand here.
    pub maximum_qos: Option<Qos>,
    /// `Some(false)`: retained messages are not supported.
    pub retain_available: Option<bool>,
    /// The largest packet the broker takes, in bytes.
    pub maximum_packet_bytes: Option<NonZeroU32>,
    /// The identifier the broker chose for a client that sent none.
    pub assigned_client_id: Option<Box<str>>,
    /// The highest topic alias the client may use (default 0: none).
    pub topic_alias_maximum: Option<u16>,
    /// A text for people.
    pub reason_string: Option<Box<str>>,
    /// User properties.
    pub user_properties: UserProperties,
    /// `Some(false)`: wildcard subscriptions are not supported.
    pub wildcard_subscriptions_available: Option<bool>,
    /// `Some(false)`: subscription identifiers are not supported.
    pub subscription_ids_available: Option<bool>,
    /// `Some(false)`: shared subscriptions are not supported.
    pub shared_subscriptions_available: Option<bool>,
    /// The keep-alive interval, in seconds, that the client has to use instead of its own.
    pub server_keep_alive_s: Option<u16>,
    /// A topic prefix for responses.
    pub response_information: Option<Box<str>>,
    /// Another server to use.
    pub server_reference: Option<Box<str>>,
    /// The authentication method.
    pub authentication_method: Option<Box<str>>,
    /// Data of the authentication method.
    pub authentication_data: Option<Box<[u8]>>,
}

impl Connack {
    /// A refusal without properties.
    #[must_use]
    pub fn refused(reason: ReasonCode) -> Self {
        Self { session_present: false, reason, properties: ConnackProperties::default() }
    }
}
