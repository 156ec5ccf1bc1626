//! Fields that several packets have.

use super::PacketId;
use crate::mqtt::primitives::Reader;
use crate::mqtt::property::rules::Rule;
use crate::mqtt::property::{Property, PropertyReader, misplaced};
use crate::mqtt::{ReasonCode, UserProperties, Violation};

/// A packet identifier, which is never 0.
#[inline]
pub(super) fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, Violation> {
    PacketId::new(reader.u16()?)
        .ok_or(Violation::protocol("MQTT-2.2.1-3", "a packet identifier is 0"))
}

/// A reason code out of those that a packet may carry.
pub(super) fn reason(
    reader: &mut Reader<'_>,
    allowed: &[ReasonCode],
    statement: &'static str,
) -> Result<ReasonCode, Violation> {
    ReasonCode::from_u8(reader.u8()?)
        .filter(|code| allowed.contains(code))
        .ok_or(Violation::protocol(statement, "a reason code is none of its packet's"))
}

/// The properties of every acknowledgement.
#[derive(Default)]
pub(super) struct ReasonProperties {
    pub(super) reason_string: Option<Box<str>>,
    pub(super) user_properties: UserProperties,
}

impl ReasonProperties {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        rules: &'static [Rule],
    ) -> Result<Self, Violation> {
        let mut it = Self::default();
        for property in PropertyReader::open(reader, rules)? {
            match property? {
                Property::ReasonString(text) => it.reason_string = Some(text.into()),
                Property::User(name, value) => it.user_properties.push(name, value),
                _ => return Err(misplaced()),
            }
        }
        Ok(it)
    }
}
