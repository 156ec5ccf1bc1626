//! SUBSCRIBE and SUBACK (MQTT 5.0 sections 3.8 and 3.9).

use std::num::NonZeroU32;

use super::reading::{ReasonProperties, packet_id, reason};
use super::{Body, PacketId, Qos};
use crate::mqtt::primitives::{Reader, put_text, put_u16, text_bytes};
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, put_section, rules, section_bytes,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, SubscriptionFilter, UserProperties, Violation};

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// At least one.
    pub entries: Vec<SubscribeEntry>,
    /// The subscription identifier, 1 to 268,435,455 (MQTT 5.0).
    pub subscription_id: Option<NonZeroU32>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeEntry {
    /// What is asked for.
    pub filter: SubscriptionFilter,
    /// The highest QoS to deliver with.
    pub qos: Qos,
    /// Do not deliver what this client publishes itself.
    pub no_local: bool,
    /// Leave the retain flag of forwarded messages as it was published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When a SUBSCRIBE is answered with retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE (the only way in MQTT 3).
    #[default]
    Always = 0,
    /// Only when the subscription is new.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// A SUBACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// The packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One code per entry, in order; in MQTT 3 every error is 0x80 on the wire.
    pub reasons: Vec<ReasonCode>,
    /// A text for people (MQTT 5.0).
    pub reason_string: Option<Box<str>>,
    /// User properties (MQTT 5.0).
    pub user_properties: UserProperties,
}

impl Subscribe {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
    ) -> Result<Self, Violation> {
        let mut subscribe = Self {
            packet_id: packet_id(reader)?,
            entries: Vec::new(),
            subscription_id: None,
            user_properties: UserProperties::default(),
        };
        if version.is_v5() {
            subscribe.decode_properties(reader)?;
        }
        while !reader.is_empty() {
            subscribe.entries.push(SubscribeEntry::decode(reader, version)?);
        }
        if subscribe.entries.is_empty() {
            return Err(Violation::protocol("MQTT-3.8.3-2", "a SUBSCRIBE has no filter"));
        }
        Ok(subscribe)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Violation> {
        for property in PropertyReader::open(reader, &rules::SUBSCRIBE)? {
            match property? {
                Property::SubscriptionId(id) => self.subscription_id = Some(id),
                Property::User(name, value) => self.user_properties.push(name, value),
                _ => return Err(misplaced()),
            }
        }
        Ok(())
    }
}

/// How many filters the body of a SUBSCRIBE or UNSUBSCRIBE holds, counted without looking at
/// them: what the packet will cost, before it is decoded. Of a malformed one as many as can be
/// made out; none for any other packet.
#[must_use]
pub fn count_filters(first_byte: u8, body: &[u8], version: ProtocolVersion) -> u32 {
    let options_bytes = match first_byte >> 4 {
        8 => 1,
        10 => 0,
        _ => return 0,
    };
    let mut reader = Reader::new(body);
    let mut skip_head = || {
        reader.u16()?;
        if version.is_v5() {
            let bytes = reader.varint()?;
            reader.take(usize::try_from(bytes).unwrap_or(usize::MAX), "2.2.2.1")?;
        }
        Ok::<_, Violation>(())
    };
    if skip_head().is_err() {
        return 0;
    }
    let mut filters = 0_u32;
    while reader.binary().and_then(|_| reader.take(options_bytes, "3.8.3.1")).is_ok() {
        filters = filters.saturating_add(1);
    }
    filters
}

/// The parts of the options byte (MQTT 5.0 section 3.8.3.1).
mod options {
    pub(super) const QOS: u8 = 0b0000_0011;
    pub(super) const NO_LOCAL: u8 = 0b0000_0100;
    pub(super) const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
    pub(super) const RETAIN_HANDLING_SHIFT: u32 = 4;
    pub(super) const RESERVED: u8 = 0b1100_0000;
    /// MQTT 3 has the QoS alone.
    pub(super) const RESERVED_V3: u8 = 0b1111_1100;
}

impl SubscribeEntry {
    fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, Violation> {
        let filter = SubscriptionFilter::parse(reader.text()?)?;
        let byte = reader.u8()?;
        let reserved = if version.is_v5() { options::RESERVED } else { options::RESERVED_V3 };
        if byte & reserved != 0 {
            return Err(Violation::malformed(
                "MQTT-3.8.3-5",
                "a SUBSCRIBE sets reserved bits of its options",
            ));
        }
        let entry = Self {
            filter,
            qos: Qos::from_u8(byte & options::QOS)
                .ok_or(Violation::protocol("3.8.3.1", "a SUBSCRIBE asks for QoS 3"))?,
            no_local: byte & options::NO_LOCAL != 0,
            retain_as_published: byte & options::RETAIN_AS_PUBLISHED != 0,
            retain_handling: RetainHandling::from_u8(byte >> options::RETAIN_HANDLING_SHIFT)
                .ok_or(Violation::protocol("3.8.3.1", "a SUBSCRIBE has retain handling 3"))?,
        };
        if entry.no_local && entry.filter.share.is_some() {
            return Err(Violation::protocol(
                "MQTT-3.8.3-4",
                "a shared subscription is marked no local",
            ));
        }
        Ok(entry)
    }

    fn options(&self, version: ProtocolVersion) -> u8 {
        if !version.is_v5() {
            return self.qos.as_u8();
        }
        let no_local = if self.no_local { options::NO_LOCAL } else { 0 };
        let as_published = if self.retain_as_published { options::RETAIN_AS_PUBLISHED } else { 0 };
        let handling = (self.retain_handling as u8) << options::RETAIN_HANDLING_SHIFT;
        self.qos.as_u8() | no_local | as_published | handling
    }
}

impl RetainHandling {
    const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Always),
            1 => Some(Self::IfNew),
            2 => Some(Self::Never),
            _ => None,
        }
    }
}

impl Body for Subscribe {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() { section_bytes(self) } else { 0 };
        let entries = self.entries.iter().map(|entry| filter_bytes(&entry.filter) + 1);
        2 + properties + entries.sum::<usize>()
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_u16(out, self.packet_id.as_u16());
        if version.is_v5() {
            put_section(out, self);
        }
        for entry in &self.entries {
            put_filter(out, &entry.filter);
            out.push(entry.options(version));
        }
    }
}

impl Properties for Subscribe {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(id) = self.subscription_id {
            visit(Property::SubscriptionId(id));
        }
        self.user_properties.visit(visit);
    }
}

pub(super) fn filter_bytes(filter: &SubscriptionFilter) -> usize {
    match filter.share {
        Some(_) => text_bytes(&filter.to_string()),
        None => text_bytes(filter.filter.as_str()),
    }
}

pub(super) fn put_filter(out: &mut Vec<u8>, filter: &SubscriptionFilter) {
    match filter.share {
        Some(_) => put_text(out, &filter.to_string()),
        None => put_text(out, filter.filter.as_str()),
    }
}

/// The reason codes of SUBACK (MQTT 5.0 section 3.9.3).
const SUBACK: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::GrantedQos1,
    ReasonCode::GrantedQos2,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

/// The return codes of SUBACK (MQTT 3.1.1 section 3.9.3).
const SUBACK_V3: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::GrantedQos1,
    ReasonCode::GrantedQos2,
    ReasonCode::UnspecifiedError,
];

impl Suback {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
    ) -> Result<Self, Violation> {
        let packet_id = packet_id(reader)?;
        let mut properties = ReasonProperties::default();
        let mut codes = SUBACK_V3;
        if version.is_v5() {
            properties = ReasonProperties::decode(reader, &rules::SUBACK)?;
            codes = SUBACK;
        }
        let mut reasons = Vec::new();
        while !reader.is_empty() {
            reasons.push(reason(reader, codes, "MQTT-3.9.3-2")?);
        }
        if reasons.is_empty() {
            return Err(Violation::protocol("MQTT-3.9.3-1", "a SUBACK has no reason code"));
        }
        let ReasonProperties { reason_string, user_properties } = properties;
        Ok(Self { packet_id, reasons, reason_string, user_properties })
    }
}

impl Body for Suback {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() { section_bytes(self) } else { 0 };
        2 + properties + self.reasons.len()
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_u16(out, self.packet_id.as_u16());
        if version.is_v5() {
            put_section(out, self);
        }
        out.extend(self.reasons.iter().map(|reason| match version {
            ProtocolVersion::V5 => reason.as_u8(),
            ProtocolVersion::V31 | ProtocolVersion::V311 => reason.as_u8().min(0x80),
        }));
    }
}

impl Properties for Suback {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(text) = &self.reason_string {
            visit(Property::ReasonString(text));
        }
        self.user_properties.visit(visit);
    }
}
