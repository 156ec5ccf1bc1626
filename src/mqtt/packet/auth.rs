//! AUTH (MQTT 5.0 section 3.15).

use super::reading::reason;
use super::{Body, Side};
use crate::mqtt::primitives::Reader;
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, properties_bytes, put_section, rules,
    section_bytes,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, UserProperties, Violation};

/// An AUTH packet. Its `Debug` form tells no secret.
#[derive(Clone, PartialEq, Eq)]
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

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .field("data", &self.data.as_ref().map(|_| "(hidden)"))
            .field("reason_string", &self.reason_string)
            .finish_non_exhaustive()
    }
}

/// The reason codes that each side may send (MQTT 5.0 section 3.15.2.1).
const fn reasons(side: Side) -> &'static [ReasonCode] {
    match side {
        Side::FromClient => &[ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate],
        Side::FromServer => &[ReasonCode::Success, ReasonCode::ContinueAuthentication],
    }
}

impl Auth {
    /// An empty body is `Success` without properties (section 3.15.2.1); otherwise the method
    /// must be there.
    pub(super) fn decode(reader: &mut Reader<'_>, side: Side) -> Result<Self, Violation> {
        let mut auth = Self {
            reason: ReasonCode::Success,
            method: None,
            data: None,
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        if reader.is_empty() && side == Side::FromServer {
            return Ok(auth);
        }
        if reader.is_empty() {
            return Err(Violation::protocol("MQTT-3.15.2-1", "a client sends AUTH with Success"));
        }
        auth.reason = reason(reader, reasons(side), "MQTT-3.15.2-1")?;
        for property in PropertyReader::open(reader, &rules::AUTH)? {
            match property? {
                Property::AuthenticationMethod(method) => auth.method = Some(method.into()),
                Property::AuthenticationData(data) => auth.data = Some(data.into()),
                Property::ReasonString(text) => auth.reason_string = Some(text.into()),
                Property::User(name, value) => auth.user_properties.push(name, value),
                _ => return Err(misplaced()),
            }
        }
        if auth.method.is_none() {
            return Err(Violation::protocol("3.15.2.2.2", "an AUTH has no method"));
        }
        Ok(auth)
    }

    fn is_short(&self) -> bool {
        self.reason == ReasonCode::Success && properties_bytes(self) == 0
    }
}

impl Body for Auth {
    fn body_bytes(&self, _: ProtocolVersion) -> usize {
        if self.is_short() { 0 } else { 1 + section_bytes(self) }
    }

    fn put_body(&self, _: ProtocolVersion, out: &mut Vec<u8>) {
        if !self.is_short() {
            out.push(self.reason.as_u8());
            put_section(out, self);
        }
    }
}

impl Properties for Auth {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(method) = &self.method {
            visit(Property::AuthenticationMethod(method));
        }
        if let Some(data) = &self.data {
            visit(Property::AuthenticationData(data));
        }
        if let Some(text) = &self.reason_string {
            visit(Property::ReasonString(text));
        }
        self.user_properties.visit(visit);
    }
}
