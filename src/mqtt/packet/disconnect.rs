//! DISCONNECT (MQTT 5.0 section 3.14).

use crate::mqtt::{ReasonCode, UserProperties};

/// A DISCONNECT packet; in MQTT 3 it is empty and only a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: ReasonCode,
    /// A session expiry, in seconds, that replaces the one in CONNECT (from a client only).
    pub session_expiry_s: Option<u32>,
    /// A text for people.
    pub reason_string: Option<Box<str>>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Another server to use (from the server only).
    pub server_reference: Option<Box<str>>,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            user_properties: UserProperties::default(),
            server_reference: None,
        }
    }
}
