//! UNSUBSCRIBE and UNSUBACK (MQTT 5.0 sections 3.10 and 3.11).

use super::reading::{ReasonProperties, packet_id, reason};
use super::subscribe::{filter_bytes, put_filter};
use super::{Body, PacketId};
use crate::mqtt::primitives::{Reader, put_u16};
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, put_section, rules, section_bytes,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, SubscriptionFilter, UserProperties, Violation};

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

impl Unsubscribe {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
    ) -> Result<Self, Violation> {
        let mut unsubscribe = Self {
            packet_id: packet_id(reader)?,
            filters: Vec::new(),
            user_properties: UserProperties::default(),
        };
        if version.is_v5() {
            for property in PropertyReader::open(reader, &rules::UNSUBSCRIBE)? {
                match property? {
                    Property::User(name, value) => {
                        unsubscribe.user_properties.push(name, value);
                    }
                    _ => return Err(misplaced()),
                }
            }
        }
        while !reader.is_empty() {
            unsubscribe.filters.push(SubscriptionFilter::parse(reader.text()?)?);
        }
        if unsubscribe.filters.is_empty() {
            return Err(Violation::protocol("MQTT-3.10.3-2", "an UNSUBSCRIBE has no filter"));
        }
        Ok(unsubscribe)
    }
}

impl Body for Unsubscribe {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() { section_bytes(self) } else { 0 };
        2 + properties + self.filters.iter().map(filter_bytes).sum::<usize>()
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_u16(out, self.packet_id.as_u16());
        if version.is_v5() {
            put_section(out, self);
        }
        for filter in &self.filters {
            put_filter(out, filter);
        }
    }
}

impl Properties for Unsubscribe {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        self.user_properties.visit(visit);
    }
}

/// The reason codes of UNSUBACK (MQTT 5.0 section 3.11.3).
const UNSUBACK: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoSubscriptionExisted,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
];

impl Unsuback {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
    ) -> Result<Self, Violation> {
        let packet_id = packet_id(reader)?;
        let mut properties = ReasonProperties::default();
        let mut reasons = Vec::new();
        if version.is_v5() {
            properties = ReasonProperties::decode(reader, &rules::UNSUBACK)?;
            while !reader.is_empty() {
                reasons.push(reason(reader, UNSUBACK, "MQTT-3.11.3-2")?);
            }
            if reasons.is_empty() {
                return Err(Violation::protocol("MQTT-3.11.3-1", "an UNSUBACK has no reason code"));
            }
        }
        let ReasonProperties { reason_string, user_properties } = properties;
        Ok(Self { packet_id, reasons, reason_string, user_properties })
    }
}

impl Body for Unsuback {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            return 2;
        }
        2 + section_bytes(self) + self.reasons.len()
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_u16(out, self.packet_id.as_u16());
        if version.is_v5() {
            put_section(out, self);
            out.extend(self.reasons.iter().map(|reason| reason.as_u8()));
        }
    }
}

impl Properties for Unsuback {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(text) = &self.reason_string {
            visit(Property::ReasonString(text));
        }
        self.user_properties.visit(visit);
    }
}
