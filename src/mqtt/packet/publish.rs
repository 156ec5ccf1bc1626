//! PUBLISH (MQTT 5.0 section 3.3).

use std::num::{NonZeroU16, NonZeroU32};

use smallvec::SmallVec;

use super::reading::packet_id;
use super::{Body, PacketId, Qos, Side, put_header};
use crate::mqtt::primitives::{Reader, put_text, put_u16, text_bytes, varint_bytes};
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, put_section, rules, section_bytes,
};
use crate::mqtt::topic::check_topic_name;
use crate::mqtt::{ProtocolVersion, UserProperties, Violation};

/// A PUBLISH packet, borrowing topic and payload from its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent again.
    pub dup: bool,
    /// The QoS.
    pub qos: Qos,
    /// From a publisher: store it. To a subscriber: it was stored.
    pub retain: bool,
    /// A valid topic name; empty only with a topic alias (MQTT 5.0).
    pub topic: &'a str,
    /// Present exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// `None` when there are no properties.
    pub properties: Option<Box<PublishProperties>>,
    /// The payload.
    pub payload: &'a [u8],
}

/// The properties of PUBLISH, and of a will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// `Some(true)`: the payload is UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Seconds the message lives.
    pub message_expiry_s: Option<u32>,
    /// A topic alias; never forwarded.
    pub topic_alias: Option<NonZeroU16>,
    /// Where to send a response: a valid topic name.
    pub response_topic: Option<Box<str>>,
    /// Data that ties a response to its request.
    pub correlation_data: Option<Box<[u8]>>,
    /// What the payload is.
    pub content_type: Option<Box<str>>,
    /// Identifiers of the subscriptions that match (from the server only), 1 to 268,435,455.
    pub subscription_ids: SmallVec<[u32; 2]>,
    /// User properties, in order.
    pub user_properties: UserProperties,
}

/// What a PUBLISH says in its fixed header, and its identifier: what differs between the
/// receivers of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishHead {
    /// Sent again; not said with QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// The QoS.
    pub qos: Qos,
    /// The retain flag.
    pub retain: bool,
    /// Must be there for QoS 1 and 2; not sent with QoS 0 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
}

impl PublishHead {
    /// A first delivery with QoS 0.
    #[must_use]
    pub const fn at_most_once(retain: bool) -> Self {
        Self { dup: false, qos: Qos::AtMostOnce, retain, packet_id: None }
    }

    fn first_byte(self) -> u8 {
        let dup = self.dup && self.qos != Qos::AtMostOnce;
        0x30 | u8::from(dup) << 3 | self.qos.as_u8() << 1 | u8::from(self.retain)
    }
}

/// What a forwarded PUBLISH says, apart from its [`PublishHead`].
#[derive(Clone, Copy, Debug)]
pub struct PublishBody<'a> {
    /// A valid topic name; empty where an alias stands for it.
    pub topic: &'a str,
    /// The alias that stands for the topic, or from now on does (MQTT 5.0).
    pub topic_alias: Option<NonZeroU16>,
    /// The publisher's properties; alias and subscription identifiers in them are not written.
    pub properties: Option<&'a PublishProperties>,
    /// Seconds the message still lives, instead of those in `properties`.
    pub message_expiry_s: Option<u32>,
    /// Identifiers of the subscriptions that match, 1 to 268,435,455; a 0 is left out.
    pub subscription_ids: &'a [u32],
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> PublishBody<'a> {
    /// A message with nothing but topic and payload.
    #[must_use]
    pub const fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self {
            topic,
            topic_alias: None,
            properties: None,
            message_expiry_s: None,
            subscription_ids: &[],
            payload,
        }
    }
}

/// Bytes of the whole packet that [`encode_publish`] appends: to compare with what the receiver
/// takes, and with [`PACKET_BYTES_MAX`](crate::mqtt::frame::PACKET_BYTES_MAX).
#[must_use]
#[inline]
pub fn publish_bytes(version: ProtocolVersion, qos: Qos, body: &PublishBody<'_>) -> usize {
    let bytes = PublishParts::forwarded(qos, body).bytes(version);
    1 + varint_bytes(bytes) + bytes
}

/// Appends a forwarded PUBLISH. MQTT 3 has no properties: none are written for it.
#[inline]
pub fn encode_publish(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    head: PublishHead,
    body: &PublishBody<'_>,
) {
    let parts = PublishParts::forwarded(head.qos, body);
    put_header(out, head.first_byte(), parts.bytes(version));
    parts.put(head.packet_id, version, out);
}

/// What stands in the body of a PUBLISH, forwarded or not.
struct PublishParts<'a> {
    qos: Qos,
    topic: &'a str,
    properties: PublishSection<'a>,
    payload: &'a [u8],
}

impl<'a> PublishParts<'a> {
    #[inline]
    fn forwarded(qos: Qos, body: &PublishBody<'a>) -> Self {
        let properties = PublishSection {
            message: body.properties,
            message_expiry_s: body
                .message_expiry_s
                .or_else(|| body.properties.and_then(|it| it.message_expiry_s)),
            topic_alias: body.topic_alias,
            subscription_ids: body.subscription_ids,
        };
        Self { qos, topic: body.topic, properties, payload: body.payload }
    }

    #[inline]
    fn bytes(&self, version: ProtocolVersion) -> usize {
        let packet_id = if self.qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties = if version.is_v5() { section_bytes(&self.properties) } else { 0 };
        text_bytes(self.topic) + packet_id + properties + self.payload.len()
    }

    #[inline]
    fn put(&self, packet_id: Option<PacketId>, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_text(out, self.topic);
        if self.qos != Qos::AtMostOnce {
            // A missing identifier is a caller's mistake; the receiver refuses 0.
            put_u16(out, packet_id.map_or(0, PacketId::as_u16));
        }
        if version.is_v5() {
            put_section(out, &self.properties);
        }
        out.extend_from_slice(self.payload);
    }
}

struct PublishSection<'a> {
    message: Option<&'a PublishProperties>,
    message_expiry_s: Option<u32>,
    topic_alias: Option<NonZeroU16>,
    subscription_ids: &'a [u32],
}

impl Properties for PublishSection<'_> {
    #[inline]
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        match self.message {
            Some(message) => message.visit_message(self.message_expiry_s, visit),
            None => {
                if let Some(seconds) = self.message_expiry_s {
                    visit(Property::MessageExpiryS(seconds));
                }
            }
        }
        if let Some(alias) = self.topic_alias {
            visit(Property::TopicAlias(alias));
        }
        for id in self.subscription_ids.iter().copied().filter_map(NonZeroU32::new) {
            visit(Property::SubscriptionId(id));
        }
    }
}

impl PublishProperties {
    /// Visits what belongs to the message and not to one delivery of it: what a will has too.
    pub(super) fn visit_message(
        &self,
        message_expiry_s: Option<u32>,
        visit: &mut impl FnMut(Property<'_>),
    ) {
        if let Some(yes) = self.payload_is_utf8 {
            visit(Property::PayloadIsUtf8(yes));
        }
        if let Some(seconds) = message_expiry_s {
            visit(Property::MessageExpiryS(seconds));
        }
        if let Some(text) = &self.content_type {
            visit(Property::ContentType(text));
        }
        if let Some(topic) = &self.response_topic {
            visit(Property::ResponseTopic(topic));
        }
        if let Some(data) = &self.correlation_data {
            visit(Property::CorrelationData(data));
        }
        self.user_properties.visit(visit);
    }

    /// `None` when there are none, without an allocation.
    #[inline]
    fn decode(reader: &mut Reader<'_>, side: Side) -> Result<Option<Box<Self>>, Violation> {
        let properties = PropertyReader::open(reader, &rules::PUBLISH)?;
        if properties.is_empty() {
            return Ok(None);
        }
        Self::collect(properties, side).map(Some)
    }

    fn collect(properties: PropertyReader<'_>, side: Side) -> Result<Box<Self>, Violation> {
        let mut it = Box::<Self>::default();
        for property in properties {
            match property? {
                Property::PayloadIsUtf8(yes) => it.payload_is_utf8 = Some(yes),
                Property::MessageExpiryS(seconds) => it.message_expiry_s = Some(seconds),
                Property::TopicAlias(alias) => it.topic_alias = Some(alias),
                Property::ResponseTopic(topic) => it.response_topic = Some(topic.into()),
                Property::CorrelationData(data) => it.correlation_data = Some(data.into()),
                Property::User(name, value) => it.user_properties.push(name, value),
                Property::SubscriptionId(_) if side == Side::FromClient => {
                    return Err(Violation::protocol(
                        "MQTT-3.3.4-6",
                        "a client's PUBLISH has a subscription identifier",
                    ));
                }
                Property::SubscriptionId(id) => it.subscription_ids.push(id.get()),
                Property::ContentType(text) => it.content_type = Some(text.into()),
                _ => return Err(misplaced()),
            }
        }
        Ok(it)
    }
}

impl<'a> Publish<'a> {
    /// `first_byte` is known to be a PUBLISH with valid flags.
    #[inline]
    pub(super) fn decode(
        first_byte: u8,
        body: &'a [u8],
        version: ProtocolVersion,
        side: Side,
    ) -> Result<Self, Violation> {
        let mut reader = Reader::new(body);
        let qos = Qos::from_u8(first_byte >> 1 & 0b11)
            .ok_or(Violation::malformed("MQTT-3.3.1-4", "a PUBLISH has QoS 3"))?;
        let topic = reader.utf8()?;
        let packet_id = if qos == Qos::AtMostOnce { None } else { Some(packet_id(&mut reader)?) };
        let properties =
            if version.is_v5() { PublishProperties::decode(&mut reader, side)? } else { None };
        if !topic.is_empty() || !version.is_v5() {
            check_topic_name(topic)?;
        } else if properties.as_ref().is_none_or(|it| it.topic_alias.is_none()) {
            return Err(Violation::protocol("3.3.2.1", "a PUBLISH has neither topic nor alias"));
        }
        Ok(Self {
            dup: first_byte & 0b1000 != 0,
            qos,
            retain: first_byte & 1 != 0,
            topic,
            packet_id,
            properties,
            payload: reader.take_rest(),
        })
    }

    pub(super) fn first_byte(&self) -> u8 {
        let Self { dup, qos, retain, packet_id, .. } = *self;
        PublishHead { dup, qos, retain, packet_id }.first_byte()
    }

    fn parts(&self) -> PublishParts<'_> {
        let message = self.properties.as_deref();
        let properties = PublishSection {
            message,
            message_expiry_s: message.and_then(|it| it.message_expiry_s),
            topic_alias: message.and_then(|it| it.topic_alias),
            subscription_ids: message.map_or(&[], |it| &it.subscription_ids),
        };
        PublishParts { qos: self.qos, topic: self.topic, properties, payload: self.payload }
    }
}

impl Body for Publish<'_> {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        self.parts().bytes(version)
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.parts().put(self.packet_id, version, out);
    }
}
