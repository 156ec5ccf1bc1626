//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape, four packet types.

use super::reading::{ReasonProperties, packet_id, reason};
use super::{Body, PacketId};
use crate::mqtt::primitives::{Reader, put_u16, varint_bytes};
use crate::mqtt::property::rules::{self, Rule};
use crate::mqtt::property::{Properties, Property, properties_bytes, put_section};
use crate::mqtt::{ProtocolVersion, ReasonCode, UserProperties, Violation};

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

/// What tells the four packet types apart.
pub(super) struct AckKind {
    reasons: &'static [ReasonCode],
    statement: &'static str,
    rules: &'static [Rule],
}

/// The reason codes of PUBACK and PUBREC (MQTT 5.0 sections 3.4.2.1 and 3.5.2.1).
const RECEIVED: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
];

/// The reason codes of PUBREL and PUBCOMP (MQTT 5.0 sections 3.6.2.1 and 3.7.2.1).
const RELEASED: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::PacketIdentifierNotFound];

pub(super) static PUBACK: AckKind =
    AckKind { reasons: RECEIVED, statement: "MQTT-3.4.2-1", rules: &rules::PUBACK };
pub(super) static PUBREC: AckKind =
    AckKind { reasons: RECEIVED, statement: "MQTT-3.5.2-1", rules: &rules::PUBREC };
pub(super) static PUBREL: AckKind =
    AckKind { reasons: RELEASED, statement: "MQTT-3.6.2-1", rules: &rules::PUBREL };
pub(super) static PUBCOMP: AckKind =
    AckKind { reasons: RELEASED, statement: "MQTT-3.7.2-1", rules: &rules::PUBCOMP };

impl Ack {
    /// MQTT 5.0 leaves out the properties when there are none, and the reason too when it is
    /// `Success` (section 3.4.2.2.1).
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        kind: &'static AckKind,
    ) -> Result<Self, Violation> {
        let mut ack = Self::new(packet_id(reader)?, ReasonCode::Success);
        if !version.is_v5() || reader.is_empty() {
            return Ok(ack);
        }
        ack.reason = reason(reader, kind.reasons, kind.statement)?;
        if !reader.is_empty() {
            let properties = ReasonProperties::decode(reader, kind.rules)?;
            ack.reason_string = properties.reason_string;
            ack.user_properties = properties.user_properties;
        }
        Ok(ack)
    }
}

impl Body for Ack {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            return 2;
        }
        match (properties_bytes(self), self.reason) {
            (0, ReasonCode::Success) => 2,
            (0, _) => 3,
            (bytes, _) => 3 + varint_bytes(bytes) + bytes,
        }
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_u16(out, self.packet_id.as_u16());
        let bytes = self.body_bytes(version);
        if bytes > 2 {
            out.push(self.reason.as_u8());
        }
        if bytes > 3 {
            put_section(out, self);
        }
    }
}

impl Properties for Ack {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(text) = &self.reason_string {
            visit(Property::ReasonString(text));
        }
        self.user_properties.visit(visit);
    }
}
