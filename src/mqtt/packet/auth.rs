//! AUTH (MQTT 5.0 section 3.15).

use crate::mqtt::{ReasonCode, UserProperties};

/// An AUTH packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// `Success`, `ContinueAuthentication` or `ReAuthenticate`.
    pub reason: ReasonCode,
    /// The authentication method.
    pub method: Option<Box<str>>,
    /// Data of the method.
    pub data: Option<Box<[u8]>>,
    /// A text for people.
    pub reason_string: Option<Box<str>>,
    /// User properties.
    pub user_properties: UserProperties,
}
