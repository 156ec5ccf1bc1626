//! The control packets: one set of types for MQTT 3.1, 3.1.1 and 5.0.
//!
//! Only [`Packet::decode`] and [`Packet::encode`] know how the versions differ on the wire.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod publish;
mod reading;
mod subscribe;
mod unsubscribe;

#[cfg(test)]
mod tests;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::{Connack, ConnackProperties};
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use publish::{
    Publish, PublishBody, PublishHead, PublishProperties, encode_publish, publish_bytes,
};
pub use subscribe::{RetainHandling, Suback, Subscribe, SubscribeEntry, count_filters};
pub use unsubscribe::{Unsuback, Unsubscribe};

use std::num::NonZeroU16;

use super::frame::PacketType;
use super::primitives::{Reader, put_varint, varint_bytes};
use super::{ProtocolVersion, Violation};

/// A packet identifier: never zero (MQTT 5.0 section 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The identifier with this value, unless it is zero.
    #[must_use]
    pub fn new(value: u16) -> Option<Self> {
        NonZeroU16::new(value).map(Self)
    }

    /// The value on the wire.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        self.0.get()
    }
}

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Qos {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl Qos {
    /// The level with this value.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The value on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

/// A control packet. Borrows topic and payload of a PUBLISH from the frame it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT.
    Connect(Box<Connect>),
    /// CONNACK.
    Connack(Box<Connack>),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK.
    Puback(Ack),
    /// PUBREC.
    Pubrec(Ack),
    /// PUBREL.
    Pubrel(Ack),
    /// PUBCOMP.
    Pubcomp(Ack),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// SUBACK.
    Suback(Suback),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// UNSUBACK.
    Unsuback(Unsuback),
    /// PINGREQ.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(Box<Disconnect>),
    /// AUTH (MQTT 5.0).
    Auth(Box<Auth>),
}

/// Who sent a packet: some may be sent by one side only, and some fields too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// A client, to the server.
    FromClient,
    /// The server, to a client.
    FromServer,
}

impl<'a> Packet<'a> {
    /// Decodes one packet: the first byte of its fixed header, and everything after the header.
    /// CONNECT announces its own version; `version` is not looked at.
    ///
    /// # Errors
    /// A [`Violation`] for bytes that `version` does not allow `side` to send: malformed ones,
    /// and those whose parts contradict each other. What needs the state of a session (aliases,
    /// identifiers in use, quotas) is not judged here.
    #[inline]
    pub fn decode(
        first_byte: u8,
        body: &'a [u8],
        version: ProtocolVersion,
        side: Side,
    ) -> Result<Self, Violation> {
        match PacketType::from_first_byte(first_byte)? {
            PacketType::Publish => {
                Publish::decode(first_byte, body, version, side).map(Self::Publish)
            }
            packet_type => {
                packet_type.check_dup(first_byte, version)?;
                check_sender(packet_type, version, side)?;
                let mut reader = Reader::new(body);
                let packet = Self::decode_body(packet_type, &mut reader, version, side)?;
                reader.finish()?;
                Ok(packet)
            }
        }
    }

    fn decode_body(
        packet_type: PacketType,
        reader: &mut Reader<'a>,
        version: ProtocolVersion,
        side: Side,
    ) -> Result<Self, Violation> {
        Ok(match packet_type {
            PacketType::Connect => Self::Connect(Box::new(Connect::decode(reader)?)),
            PacketType::Connack => Self::Connack(Box::new(Connack::decode(reader, version)?)),
            PacketType::Publish => {
                return Err(Violation::malformed("3.3", "a PUBLISH has lost its flags"));
            }
            PacketType::Puback => Self::Puback(Ack::decode(reader, version, &ack::PUBACK)?),
            PacketType::Pubrec => Self::Pubrec(Ack::decode(reader, version, &ack::PUBREC)?),
            PacketType::Pubrel => Self::Pubrel(Ack::decode(reader, version, &ack::PUBREL)?),
            PacketType::Pubcomp => Self::Pubcomp(Ack::decode(reader, version, &ack::PUBCOMP)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(reader, version)?),
            PacketType::Suback => Self::Suback(Suback::decode(reader, version)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(reader, version)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::decode(reader, version)?),
            PacketType::Pingreq => Self::Pingreq,
            PacketType::Pingresp => Self::Pingresp,
            PacketType::Disconnect => {
                Self::Disconnect(Box::new(Disconnect::decode(reader, version, side)?))
            }
            PacketType::Auth => Self::Auth(Box::new(Auth::decode(reader, side)?)),
        })
    }

    /// Appends the packet as `version` writes it; CONNECT goes by its own version. Nothing is
    /// appended for what MQTT 3 cannot say: AUTH, and a CONNACK whose reason has no return code
    /// ([`ReasonCode::v3_connect_return_code`](super::ReasonCode::v3_connect_return_code)).
    ///
    /// Text and data longer than 65,535 bytes are cut to what their length field can say.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        if let Some((first_byte, body)) = self.parts(version) {
            put_header(out, first_byte, body.body_bytes(version));
            body.put_body(version, out);
        }
    }

    /// Bytes that [`Self::encode`] appends.
    #[must_use]
    pub fn encoded_bytes(&self, version: ProtocolVersion) -> usize {
        self.parts(version).map_or(0, |(_, body)| {
            let bytes = body.body_bytes(version);
            1 + varint_bytes(bytes) + bytes
        })
    }

    /// The first byte and what follows the fixed header; `None` for what `version` cannot say.
    fn parts(&self, version: ProtocolVersion) -> Option<(u8, &dyn Body)> {
        Some(match self {
            Self::Connect(connect) => (0x10, &**connect),
            Self::Connack(connack) if !connack.can_be_said(version) => return None,
            Self::Connack(connack) => (0x20, &**connack),
            Self::Publish(publish) => (publish.first_byte(), publish),
            Self::Puback(ack) => (0x40, ack),
            Self::Pubrec(ack) => (0x50, ack),
            Self::Pubrel(ack) => (0x62, ack),
            Self::Pubcomp(ack) => (0x70, ack),
            Self::Subscribe(subscribe) => (0x82, subscribe),
            Self::Suback(suback) => (0x90, suback),
            Self::Unsubscribe(unsubscribe) => (0xA2, unsubscribe),
            Self::Unsuback(unsuback) => (0xB0, unsuback),
            Self::Pingreq => (0xC0, &Empty),
            Self::Pingresp => (0xD0, &Empty),
            Self::Disconnect(disconnect) => (0xE0, &**disconnect),
            Self::Auth(_) if !version.is_v5() => return None,
            Self::Auth(auth) => (0xF0, &**auth),
        })
    }
}

/// Refuses a packet that this side never sends (MQTT 5.0 table 2-1, MQTT 3.1.1 table 2.1).
fn check_sender(
    packet_type: PacketType,
    version: ProtocolVersion,
    side: Side,
) -> Result<(), Violation> {
    use PacketType as Type;
    let sent_by_this_side = match packet_type {
        Type::Connect | Type::Subscribe | Type::Unsubscribe | Type::Pingreq => {
            side == Side::FromClient
        }
        Type::Connack | Type::Suback | Type::Unsuback | Type::Pingresp => side == Side::FromServer,
        Type::Disconnect => version.is_v5() || side == Side::FromClient,
        Type::Auth => version.is_v5(),
        Type::Publish | Type::Puback | Type::Pubrec | Type::Pubrel | Type::Pubcomp => true,
    };
    if sent_by_this_side {
        return Ok(());
    }
    Err(Violation::protocol("2.1.2", "a packet is of a type that its sender may not send"))
}

/// What follows the fixed header.
trait Body {
    /// Exactly what [`Self::put_body`] appends.
    fn body_bytes(&self, version: ProtocolVersion) -> usize;
    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>);
}

struct Empty;

impl Body for Empty {
    fn body_bytes(&self, _: ProtocolVersion) -> usize {
        0
    }

    fn put_body(&self, _: ProtocolVersion, _: &mut Vec<u8>) {}
}

/// Appends a fixed header and makes room for the body.
#[inline]
fn put_header(out: &mut Vec<u8>, first_byte: u8, body_bytes: usize) {
    out.reserve(5 + body_bytes);
    out.push(first_byte);
    put_varint(out, body_bytes);
}
