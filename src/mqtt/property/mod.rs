//! Properties of MQTT 5.0.
//!
//! Read as an iterator of typed values: an identifier that is unknown, misplaced or repeated,
//! and a value that its section forbids, are refused here, so that a packet only has to say
//! where each value goes. Written by visiting them once for the length and once for the bytes.

pub(crate) mod rules;

use std::num::{NonZeroU16, NonZeroU32};

use super::packet::Qos;
use super::primitives::{
    Reader, binary_bytes, put_binary, put_text, put_u16, put_varint, text_bytes, varint_bytes,
};
use super::{ReasonCode, Violation};
use rules::{Rule, id};

/// User properties in the order they were sent; a name may stand more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserProperties(pub Vec<(Box<str>, Box<str>)>);

impl UserProperties {
    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends one.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.into(), value.into()));
    }

    pub(crate) fn visit(&self, visit: &mut impl FnMut(Property<'_>)) {
        for (name, value) in &self.0 {
            visit(Property::User(name, value));
        }
    }
}

/// One property, its value checked as far as it can be alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property<'a> {
    PayloadIsUtf8(bool),
    MessageExpiryS(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId(NonZeroU32),
    SessionExpiryS(u32),
    AssignedClientId(&'a str),
    ServerKeepAliveS(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayS(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQos(Qos),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketBytes(NonZeroU32),
    WildcardSubscriptionsAvailable(bool),
    SubscriptionIdsAvailable(bool),
    SharedSubscriptionsAvailable(bool),
}

/// The answer of a packet to a property that it has no place for. [`PropertyReader`] has refused
/// it already; this keeps the match blocks free of a way to ignore one.
#[cold]
pub(crate) const fn misplaced() -> Violation {
    Violation::malformed("2.2.2.2", "a property does not belong in its packet")
}

/// The properties of one packet, read one by one; ends after the first violation.
pub(crate) struct PropertyReader<'a> {
    reader: Reader<'a>,
    rules: &'static [Rule],
    /// One bit for each identifier; the largest is 0x2A.
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// Reads the property length and sets that many bytes apart.
    #[inline]
    pub(crate) fn open(reader: &mut Reader<'a>, rules: &'static [Rule]) -> Result<Self, Violation> {
        let bytes = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        let reader = Reader::new(reader.take(bytes, "2.2.2.1")?);
        Ok(Self { reader, rules, seen: 0 })
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    fn read(&mut self) -> Result<Property<'a>, Violation> {
        let identifier = self.reader.varint()?;
        let Some(rule) = self.rules.iter().find(|rule| u32::from(rule.id) == identifier) else {
            return Err(Violation::malformed(
                "2.2.2.2",
                "a property is unknown, or does not belong in its packet",
            ));
        };
        let bit = 1 << rule.id;
        if self.seen & bit != 0 && !rule.repeats {
            return Err(Violation::protocol(rule.section, "a property stands twice"));
        }
        self.seen |= bit;
        read_value(&mut self.reader, rule)
    }
}

impl<'a> Iterator for PropertyReader<'a> {
    type Item = Result<Property<'a>, Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let property = self.read();
        if property.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(property)
    }
}

fn read_value<'a>(reader: &mut Reader<'a>, rule: &Rule) -> Result<Property<'a>, Violation> {
    Ok(match rule.id {
        id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadIsUtf8(flag(reader, rule)?),
        id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiryS(reader.u32()?),
        id::CONTENT_TYPE => Property::ContentType(reader.text()?),
        id::RESPONSE_TOPIC => Property::ResponseTopic(response_topic(reader)?),
        id::CORRELATION_DATA => Property::CorrelationData(reader.binary()?),
        id::SUBSCRIPTION_IDENTIFIER => {
            Property::SubscriptionId(NonZeroU32::new(reader.varint()?).ok_or(zero(rule))?)
        }
        id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiryS(reader.u32()?),
        id::ASSIGNED_CLIENT_IDENTIFIER => Property::AssignedClientId(reader.text()?),
        id::SERVER_KEEP_ALIVE => Property::ServerKeepAliveS(reader.u16()?),
        id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.text()?),
        id::AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
        id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag(reader, rule)?),
        id::WILL_DELAY_INTERVAL => Property::WillDelayS(reader.u32()?),
        id::REQUEST_RESPONSE_INFORMATION => {
            Property::RequestResponseInformation(flag(reader, rule)?)
        }
        id::RESPONSE_INFORMATION => Property::ResponseInformation(reader.text()?),
        id::SERVER_REFERENCE => Property::ServerReference(reader.text()?),
        id::REASON_STRING => Property::ReasonString(reader.text()?),
        id::RECEIVE_MAXIMUM => {
            Property::ReceiveMaximum(NonZeroU16::new(reader.u16()?).ok_or(zero(rule))?)
        }
        id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
        id::TOPIC_ALIAS => Property::TopicAlias(topic_alias(reader)?),
        id::MAXIMUM_QOS => Property::MaximumQos(if flag(reader, rule)? {
            Qos::AtLeastOnce
        } else {
            Qos::AtMostOnce
        }),
        id::RETAIN_AVAILABLE => Property::RetainAvailable(flag(reader, rule)?),
        id::USER_PROPERTY => Property::User(reader.text()?, reader.text()?),
        id::MAXIMUM_PACKET_SIZE => {
            Property::MaximumPacketBytes(NonZeroU32::new(reader.u32()?).ok_or(zero(rule))?)
        }
        id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
            Property::WildcardSubscriptionsAvailable(flag(reader, rule)?)
        }
        id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE => {
            Property::SubscriptionIdsAvailable(flag(reader, rule)?)
        }
        id::SHARED_SUBSCRIPTION_AVAILABLE => {
            Property::SharedSubscriptionsAvailable(flag(reader, rule)?)
        }
        _ => return Err(Violation::malformed("2.2.2.2", "a property is unknown")),
    })
}

fn flag(reader: &mut Reader<'_>, rule: &Rule) -> Result<bool, Violation> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Violation::protocol(rule.section, "a property is neither 0 nor 1")),
    }
}

fn zero(rule: &Rule) -> Violation {
    Violation::protocol(rule.section, "a property that must not be 0 is 0")
}

fn topic_alias(reader: &mut Reader<'_>) -> Result<NonZeroU16, Violation> {
    NonZeroU16::new(reader.u16()?).ok_or(Violation::because(
        ReasonCode::TopicAliasInvalid,
        "MQTT-3.3.2-8",
        "a topic alias is 0",
    ))
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Violation> {
    let topic = reader.text()?;
    if topic.is_empty() {
        return Err(Violation::protocol("MQTT-4.7.3-1", "a response topic is empty"));
    }
    if topic.contains(['+', '#']) {
        return Err(Violation::protocol("MQTT-3.3.2-14", "a response topic holds a wildcard"));
    }
    Ok(topic)
}

/// What carries properties: visits each in the order of the wire.
pub(crate) trait Properties {
    fn each(&self, visit: &mut impl FnMut(Property<'_>));
}

/// Bytes of all properties, without the length before them.
#[inline]
pub(crate) fn properties_bytes(properties: &impl Properties) -> usize {
    let mut bytes = 0;
    properties.each(&mut |property| bytes += property.bytes());
    bytes
}

/// Bytes of the properties with the length before them.
#[inline]
pub(crate) fn section_bytes(properties: &impl Properties) -> usize {
    let bytes = properties_bytes(properties);
    varint_bytes(bytes) + bytes
}

/// Appends the length and the properties.
pub(crate) fn put_section(out: &mut Vec<u8>, properties: &impl Properties) {
    put_varint(out, properties_bytes(properties));
    properties.each(&mut |property| property.put(out));
}

/// A value as on the wire (MQTT 5.0 section 1.5).
enum Value<'a> {
    Byte(u8),
    TwoBytes(u16),
    FourBytes(u32),
    Varint(u32),
    Text(&'a str),
    Pair(&'a str, &'a str),
    Binary(&'a [u8]),
}

impl<'a> Property<'a> {
    fn parts(self) -> (u8, Value<'a>) {
        use Value::{Binary, Byte, FourBytes, Pair, Text, TwoBytes, Varint};
        match self {
            Self::PayloadIsUtf8(it) => (id::PAYLOAD_FORMAT_INDICATOR, Byte(it.into())),
            Self::MessageExpiryS(it) => (id::MESSAGE_EXPIRY_INTERVAL, FourBytes(it)),
            Self::ContentType(it) => (id::CONTENT_TYPE, Text(it)),
            Self::ResponseTopic(it) => (id::RESPONSE_TOPIC, Text(it)),
            Self::CorrelationData(it) => (id::CORRELATION_DATA, Binary(it)),
            Self::SubscriptionId(it) => (id::SUBSCRIPTION_IDENTIFIER, Varint(it.get())),
            Self::SessionExpiryS(it) => (id::SESSION_EXPIRY_INTERVAL, FourBytes(it)),
            Self::AssignedClientId(it) => (id::ASSIGNED_CLIENT_IDENTIFIER, Text(it)),
            Self::ServerKeepAliveS(it) => (id::SERVER_KEEP_ALIVE, TwoBytes(it)),
            Self::AuthenticationMethod(it) => (id::AUTHENTICATION_METHOD, Text(it)),
            Self::AuthenticationData(it) => (id::AUTHENTICATION_DATA, Binary(it)),
            Self::RequestProblemInformation(it) => {
                (id::REQUEST_PROBLEM_INFORMATION, Byte(it.into()))
            }
            Self::WillDelayS(it) => (id::WILL_DELAY_INTERVAL, FourBytes(it)),
            Self::RequestResponseInformation(it) => {
                (id::REQUEST_RESPONSE_INFORMATION, Byte(it.into()))
            }
            Self::ResponseInformation(it) => (id::RESPONSE_INFORMATION, Text(it)),
            Self::ServerReference(it) => (id::SERVER_REFERENCE, Text(it)),
            Self::ReasonString(it) => (id::REASON_STRING, Text(it)),
            Self::ReceiveMaximum(it) => (id::RECEIVE_MAXIMUM, TwoBytes(it.get())),
            Self::TopicAliasMaximum(it) => (id::TOPIC_ALIAS_MAXIMUM, TwoBytes(it)),
            Self::TopicAlias(it) => (id::TOPIC_ALIAS, TwoBytes(it.get())),
            Self::MaximumQos(it) => (id::MAXIMUM_QOS, Byte(it.as_u8())),
            Self::RetainAvailable(it) => (id::RETAIN_AVAILABLE, Byte(it.into())),
            Self::User(name, value) => (id::USER_PROPERTY, Pair(name, value)),
            Self::MaximumPacketBytes(it) => (id::MAXIMUM_PACKET_SIZE, FourBytes(it.get())),
            Self::WildcardSubscriptionsAvailable(it) => {
                (id::WILDCARD_SUBSCRIPTION_AVAILABLE, Byte(it.into()))
            }
            Self::SubscriptionIdsAvailable(it) => {
                (id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE, Byte(it.into()))
            }
            Self::SharedSubscriptionsAvailable(it) => {
                (id::SHARED_SUBSCRIPTION_AVAILABLE, Byte(it.into()))
            }
        }
    }

    fn bytes(self) -> usize {
        1 + match self.parts().1 {
            Value::Byte(_) => 1,
            Value::TwoBytes(_) => 2,
            Value::FourBytes(_) => 4,
            Value::Varint(it) => varint_bytes(usize::try_from(it).unwrap_or(usize::MAX)),
            Value::Text(it) => text_bytes(it),
            Value::Pair(name, value) => text_bytes(name) + text_bytes(value),
            Value::Binary(it) => binary_bytes(it),
        }
    }

    fn put(self, out: &mut Vec<u8>) {
        let (identifier, value) = self.parts();
        out.push(identifier);
        match value {
            Value::Byte(it) => out.push(it),
            Value::TwoBytes(it) => put_u16(out, it),
            Value::FourBytes(it) => out.extend_from_slice(&it.to_be_bytes()),
            Value::Varint(it) => put_varint(out, usize::try_from(it).unwrap_or(usize::MAX)),
            Value::Text(it) => put_text(out, it),
            Value::Pair(name, value) => {
                put_text(out, name);
                put_text(out, value);
            }
            Value::Binary(it) => put_binary(out, it),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: [&[Rule]; 14] = [
        &rules::CONNECT,
        &rules::WILL,
        &rules::CONNACK,
        &rules::PUBLISH,
        &rules::PUBACK,
        &rules::PUBREC,
        &rules::PUBREL,
        &rules::PUBCOMP,
        &rules::SUBSCRIBE,
        &rules::SUBACK,
        &rules::UNSUBSCRIBE,
        &rules::UNSUBACK,
        &rules::DISCONNECT,
        &rules::AUTH,
    ];

    /// A property that has a valid value: nothing but the identifier decides its fate.
    fn property(identifier: u8) -> Vec<u8> {
        let value: &[u8] = match identifier {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A | 0x0B => &[1],
            0x02 | 0x11 | 0x18 | 0x27 => &[0, 0, 0, 1],
            0x13 | 0x21..=0x23 => &[0, 1],
            0x26 => &[0, 1, b'a', 0, 1, b'b'],
            _ => &[0, 1, b't'],
        };
        [&[identifier], value].concat()
    }

    /// The identifiers of what is read.
    fn read(bytes: &[u8], rules: &'static [Rule]) -> Result<Vec<u8>, Violation> {
        let section = [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let mut reader = Reader::new(&section);
        let properties = PropertyReader::open(&mut reader, rules)?;
        properties.map(|it| it.map(|it| it.parts().0)).collect()
    }

    #[test]
    fn a_packet_carries_its_own_properties_and_no_other() {
        for rules in PACKETS {
            for identifier in 0..=0x7F {
                let found = read(&property(identifier), rules);
                if rules.iter().any(|rule| rule.id == identifier) {
                    assert_eq!(found, Ok(vec![identifier]));
                } else {
                    let violation = found.unwrap_err();
                    assert_eq!(violation.statement, "2.2.2.2", "{identifier:#04x}");
                    assert_eq!(violation.reason, ReasonCode::MalformedPacket);
                }
            }
        }
    }

    #[test]
    fn a_property_stands_once_except_the_two_that_may_repeat() {
        for rules in PACKETS {
            for rule in rules {
                let found = read(&property(rule.id).repeat(2), rules);
                let may_repeat = rule.id == id::USER_PROPERTY || rule.section == "3.3.2.3.8";
                if may_repeat {
                    assert_eq!(found.map(|it| it.len()), Ok(2));
                } else {
                    let violation = found.unwrap_err();
                    assert_eq!(violation.statement, rule.section);
                    assert_eq!(violation.reason, ReasonCode::ProtocolError);
                }
            }
        }
    }

    #[test]
    fn nothing_is_read_after_a_violation() {
        let bytes = [0x04, 0x7F, 0x00, 0x19, 0x01];
        let mut properties =
            PropertyReader::open(&mut Reader::new(&bytes), &rules::CONNECT).unwrap();
        assert!(properties.next().unwrap().is_err());
        assert!(properties.next().is_none());
    }
}
