//! Messages and subscriptions as fields of a record.
//!
//! A message is written as an MQTT 5 PUBLISH with QoS 0, by the codec that writes it to clients.

use std::time::Instant;

use super::codec::{Damage, Fields, put_option, put_text, put_varint};
use crate::mqtt::frame::{FrameHeader, PACKET_BYTES_MAX};
use crate::mqtt::packet::{
    Packet, Publish, PublishBody, PublishHead, PublishProperties, Qos, Side, encode_publish,
    publish_bytes,
};
use crate::mqtt::{ProtocolVersion, SubscriptionFilter, TopicName};
use crate::session::{Message, MessageId, SubscriptionOptions};

/// What a message was published with, beyond what a PUBLISH with QoS 0 says.
mod flags {
    pub(super) const QOS: u8 = 0b0000_0011;
    pub(super) const RETAIN: u8 = 0b0000_0100;
    pub(super) const WILL: u8 = 0b0000_1000;
    /// It has properties, even when none of them is set.
    pub(super) const PROPERTIES: u8 = 0b0001_0000;
    pub(super) const KNOWN: u8 = QOS | RETAIN | WILL | PROPERTIES;
}

const UNKNOWN_FLAGS: Damage = Damage("the record has flags that are unknown");

pub(super) fn qos(value: u8) -> Result<Qos, Damage> {
    Qos::from_u8(value).ok_or(Damage("the record has QoS 3"))
}

/// All of a message but its expiry, which is in calendar time and stands elsewhere.
pub(super) fn put_message(out: &mut Vec<u8>, message: &Message) {
    let flag = |set, flag| if set { flag } else { 0 };
    out.push(
        message.qos.as_u8()
            | flag(message.retain, flags::RETAIN)
            | flag(message.will, flags::WILL)
            | flag(message.properties.is_some(), flags::PROPERTIES),
    );
    put_publish(out, &message.body(None, &[]));
}

/// The message, expiring at a moment that was read elsewhere.
pub(super) fn take_message(
    fields: &mut Fields<'_>,
    id: MessageId,
    expires_at: Option<Instant>,
    now: Instant,
) -> Result<Message, Damage> {
    let byte = fields.u8()?;
    if byte & !flags::KNOWN != 0 {
        return Err(UNKNOWN_FLAGS);
    }
    let (topic, mut properties, payload) = take_publish(fields)?;
    if byte & flags::PROPERTIES != 0 {
        properties.get_or_insert_default();
    }
    let (qos, retain) = (qos(byte & flags::QOS)?, byte & flags::RETAIN != 0);
    let mut message = Message::new(id, topic, payload.into(), qos, retain, properties, now);
    message.expires_at = expires_at;
    Ok(if byte & flags::WILL != 0 { message.as_will() } else { message })
}

/// Topic, properties and payload, after their length.
pub(super) fn put_publish(out: &mut Vec<u8>, body: &PublishBody<'_>) {
    let version = ProtocolVersion::V5;
    put_varint(out, publish_bytes(version, Qos::AtMostOnce, body) as u64);
    encode_publish(out, version, PublishHead::at_most_once(false), body);
}

type Parts<'a> = (TopicName, Option<Box<PublishProperties>>, &'a [u8]);

pub(super) fn take_publish<'a>(fields: &mut Fields<'a>) -> Result<Parts<'a>, Damage> {
    const NONE: Damage = Damage("the record holds no message where one should be");
    let packet = fields.data()?;
    // The length in the header is the one before the packet again, as far as it can say it.
    let header = FrameHeader::peek(packet, PACKET_BYTES_MAX).ok().flatten().ok_or(NONE)?;
    let body = packet.get(header.header_bytes..).ok_or(NONE)?;
    match Packet::decode(header.first_byte, body, ProtocolVersion::V5, Side::FromServer) {
        Ok(Packet::Publish(Publish { topic, properties, payload, .. })) => {
            Ok((TopicName::parse(topic).map_err(|_| NONE)?, properties, payload))
        }
        _ => Err(NONE),
    }
}

/// The parts of the byte that options are written as.
mod options {
    pub(super) const QOS: u8 = 0b0000_0011;
    pub(super) const NO_LOCAL: u8 = 0b0000_0100;
    pub(super) const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
    pub(super) const KNOWN: u8 = QOS | NO_LOCAL | RETAIN_AS_PUBLISHED;
}

pub(super) fn put_subscription(
    out: &mut Vec<u8>,
    filter: &SubscriptionFilter,
    options: SubscriptionOptions,
) {
    put_text(out, &filter.to_string());
    let flag = |set, flag| if set { flag } else { 0 };
    out.push(
        options.qos.as_u8()
            | flag(options.no_local, options::NO_LOCAL)
            | flag(options.retain_as_published, options::RETAIN_AS_PUBLISHED),
    );
    put_option(out, options.id, |out, id| put_varint(out, id.get().into()));
}

pub(super) fn take_subscription(
    fields: &mut Fields<'_>,
) -> Result<(SubscriptionFilter, SubscriptionOptions), Damage> {
    let filter = SubscriptionFilter::parse(fields.text()?)
        .map_err(|_| Damage("the record holds no topic filter where one should be"))?;
    let byte = fields.u8()?;
    if byte & !options::KNOWN != 0 {
        return Err(UNKNOWN_FLAGS);
    }
    let id = fields
        .option(Fields::varint_u32)?
        .map(|id| std::num::NonZeroU32::new(id).ok_or(Damage("a subscription identifier is 0")));
    let options = SubscriptionOptions {
        qos: qos(byte & options::QOS)?,
        no_local: byte & options::NO_LOCAL != 0,
        retain_as_published: byte & options::RETAIN_AS_PUBLISHED != 0,
        id: id.transpose()?,
    };
    Ok((filter, options))
}
