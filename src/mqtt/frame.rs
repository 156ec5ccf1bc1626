//! Frames: the fixed header, and how long a packet is, before anything is allocated for it.
//!
//! Garbage is refused at its first byte, a packet above the cap as soon as its length is known.
//! What is left to judge later depends on the version and is judged by
//! [`Packet::decode`](super::packet::Packet::decode).

use super::primitives::decode_varint;
use super::{ReasonCode, Violation};

/// The largest packet MQTT can express, in bytes, its fixed header included.
pub const PACKET_BYTES_MAX: u32 = 268_435_460;

/// The fixed header of a packet (MQTT 5.0 section 2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Bytes of the fixed header: 2 to 5.
    pub header_bytes: usize,
    /// Bytes that follow it: the remaining length.
    pub body_bytes: usize,
}

/// Why no packet can begin with these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The whole packet would be larger than allowed.
    #[error("a packet of {bytes} bytes is larger than the allowed {bytes_max}")]
    TooLarge {
        /// Bytes of the whole packet.
        bytes: u32,
        /// Bytes that are allowed.
        bytes_max: u32,
    },
    /// The bytes are no fixed header.
    #[error(transparent)]
    Malformed(Violation),
}

impl From<FrameError> for Violation {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { .. } => Self::because(
                ReasonCode::PacketTooLarge,
                "MQTT-3.2.2-15",
                "a packet is larger than allowed",
            ),
            FrameError::Malformed(violation) => violation,
        }
    }
}

impl FrameHeader {
    /// The header of the packet that begins with `bytes`; `None` when more bytes are needed to
    /// know. `packet_bytes_max` caps the whole packet, fixed header included.
    ///
    /// A remaining length that is longer than its value needs is refused for every version:
    /// MQTT 5.0 forbids it, MQTT 3 says nothing, and two parsers that read one stream must not
    /// be able to disagree.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] at the first byte for a reserved packet type or flags that no
    /// version allows, and for a remaining length that is padded or has a fifth byte;
    /// [`FrameError::TooLarge`] as soon as the length is known.
    #[inline]
    pub fn peek(bytes: &[u8], packet_bytes_max: u32) -> Result<Option<Self>, FrameError> {
        let Some((&first_byte, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        PacketType::from_first_byte(first_byte).map_err(FrameError::Malformed)?;
        let Some((body, length_bytes)) = decode_varint(rest).map_err(FrameError::Malformed)? else {
            return Ok(None);
        };
        let header_bytes = 1 + length_bytes;
        // At most 5 and 268,435,455: neither the sum nor the conversions lose anything.
        let packet_bytes = body + u32::try_from(header_bytes).unwrap_or(u32::MAX - body);
        if packet_bytes > packet_bytes_max {
            return Err(FrameError::TooLarge { bytes: packet_bytes, bytes_max: packet_bytes_max });
        }
        let body_bytes = usize::try_from(body).unwrap_or(usize::MAX);
        Ok(Some(Self { first_byte, header_bytes, body_bytes }))
    }

    /// Bytes of the whole packet.
    #[must_use]
    pub const fn packet_bytes(&self) -> usize {
        self.header_bytes + self.body_bytes
    }
}

/// The type of a packet (MQTT 5.0 section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// CONNECT, from the client.
    Connect = 1,
    /// CONNACK, from the server.
    Connack = 2,
    /// PUBLISH.
    Publish = 3,
    /// PUBACK.
    Puback = 4,
    /// PUBREC.
    Pubrec = 5,
    /// PUBREL.
    Pubrel = 6,
    /// PUBCOMP.
    Pubcomp = 7,
    /// SUBSCRIBE, from the client.
    Subscribe = 8,
    /// SUBACK, from the server.
    Suback = 9,
    /// UNSUBSCRIBE, from the client.
    Unsubscribe = 10,
    /// UNSUBACK, from the server.
    Unsuback = 11,
    /// PINGREQ, from the client.
    Pingreq = 12,
    /// PINGRESP, from the server.
    Pingresp = 13,
    /// DISCONNECT; in MQTT 3 from the client only.
    Disconnect = 14,
    /// AUTH (MQTT 5.0).
    Auth = 15,
}

/// The DUP flag of a fixed header.
const DUP: u8 = 0b1000;
/// The QoS bits of a fixed header.
const QOS: u8 = 0b0110;

impl PacketType {
    /// The type that a first byte announces, once its flags are ones that some version allows.
    ///
    /// # Errors
    /// A [`Violation`] for type 0 and for flags that no version has. PUBREL, SUBSCRIBE and
    /// UNSUBSCRIBE may be flagged DUP in MQTT 3.1 alone: see [`Self::check_dup`].
    #[inline]
    pub const fn from_first_byte(first_byte: u8) -> Result<Self, Violation> {
        let flags = first_byte & 0x0F;
        let (packet_type, flags_are_valid) = match first_byte >> 4 {
            1 => (Self::Connect, flags == 0),
            2 => (Self::Connack, flags == 0),
            3 => return check_publish_flags(flags),
            4 => (Self::Puback, flags == 0),
            5 => (Self::Pubrec, flags == 0),
            6 => (Self::Pubrel, flags & !DUP == 0b0010),
            7 => (Self::Pubcomp, flags == 0),
            8 => (Self::Subscribe, flags & !DUP == 0b0010),
            9 => (Self::Suback, flags == 0),
            10 => (Self::Unsubscribe, flags & !DUP == 0b0010),
            11 => (Self::Unsuback, flags == 0),
            12 => (Self::Pingreq, flags == 0),
            13 => (Self::Pingresp, flags == 0),
            14 => (Self::Disconnect, flags == 0),
            15 => (Self::Auth, flags == 0),
            _ => return Err(Violation::malformed("2.1.2", "packet type 0 is reserved")),
        };
        if flags_are_valid { Ok(packet_type) } else { Err(packet_type.wrong_flags()) }
    }

    /// Refuses DUP on packets other than PUBLISH, which only MQTT 3.1 allows.
    ///
    /// # Errors
    /// A [`Violation`] when such a packet is flagged DUP and `version` is not 3.1.
    pub(crate) const fn check_dup(
        self,
        first_byte: u8,
        version: super::ProtocolVersion,
    ) -> Result<(), Violation> {
        if first_byte & DUP != 0 && !matches!(version, super::ProtocolVersion::V31) {
            return Err(self.wrong_flags());
        }
        Ok(())
    }

    #[cold]
    const fn wrong_flags(self) -> Violation {
        let statement = match self {
            Self::Pubrel => "MQTT-3.6.1-1",
            Self::Subscribe => "MQTT-3.8.1-1",
            Self::Unsubscribe => "MQTT-3.10.1-1",
            Self::Disconnect => "MQTT-3.14.1-1",
            Self::Auth => "MQTT-3.15.1-1",
            _ => "MQTT-2.1.3-1",
        };
        Violation::malformed(statement, "the flags of a fixed header are not those of its type")
    }
}

#[inline]
const fn check_publish_flags(flags: u8) -> Result<PacketType, Violation> {
    if flags & QOS == QOS {
        return Err(Violation::malformed("MQTT-3.3.1-4", "a PUBLISH has QoS 3"));
    }
    if flags & (DUP | QOS) == DUP {
        return Err(Violation::malformed("MQTT-3.3.1-2", "a PUBLISH of QoS 0 is flagged DUP"));
    }
    Ok(PacketType::Publish)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::ProtocolVersion;

    fn statement(bytes: &[u8]) -> &'static str {
        match FrameHeader::peek(bytes, PACKET_BYTES_MAX) {
            Err(FrameError::Malformed(violation)) => violation.statement,
            other => panic!("{bytes:02X?} gives {other:?}"),
        }
    }

    #[test]
    fn a_header_is_known_once_its_length_is_complete() {
        for (bytes, header_bytes, body_bytes) in [
            (&[0xC0, 0x00][..], 2, 0),
            (&[0x30, 0x7F], 2, 127),
            (&[0x30, 0x80, 0x01], 3, 128),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 5, 268_435_455),
        ] {
            let header = FrameHeader { first_byte: bytes[0], header_bytes, body_bytes };
            assert_eq!(FrameHeader::peek(bytes, PACKET_BYTES_MAX), Ok(Some(header)));
            for cut in 0..bytes.len() {
                assert_eq!(FrameHeader::peek(&bytes[..cut], PACKET_BYTES_MAX), Ok(None));
            }
        }
    }

    #[test]
    fn the_cap_counts_the_whole_packet_and_is_judged_before_the_body_arrives() {
        let header = FrameHeader { first_byte: 0x30, header_bytes: 2, body_bytes: 10 };
        assert_eq!(FrameHeader::peek(&[0x30, 10], 12), Ok(Some(header)));
        let error = FrameError::TooLarge { bytes: 12, bytes_max: 11 };
        assert_eq!(FrameHeader::peek(&[0x30, 10], 11), Err(error));
        assert_eq!(Violation::from(error).reason, ReasonCode::PacketTooLarge);
        let error = FrameError::TooLarge { bytes: PACKET_BYTES_MAX, bytes_max: 1024 };
        assert_eq!(FrameHeader::peek(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], 1024), Err(error));
    }

    #[test]
    fn a_length_is_neither_padded_nor_longer_than_four_bytes() {
        assert_eq!(statement(&[0xC0, 0x80, 0x00]), "MQTT-1.5.5-1");
        assert_eq!(statement(&[0x30, 0xFF, 0xFF, 0xFF, 0x80]), "1.5.5");
        assert_eq!(statement(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]), "1.5.5");
    }

    #[test]
    fn every_first_byte_is_judged_alone() {
        for first_byte in 0..=u8::MAX {
            let flags = first_byte & 0x0F;
            let valid = match first_byte >> 4 {
                0 => false,
                3 => ![0x6, 0x7, 0x8, 0x9, 0xE, 0xF].contains(&flags),
                6 | 8 | 10 => flags == 0x2 || flags == 0xA,
                _ => flags == 0,
            };
            let peeked = FrameHeader::peek(&[first_byte], PACKET_BYTES_MAX);
            assert_eq!(peeked == Ok(None), valid, "{first_byte:#04x}: {peeked:?}");
        }
    }

    #[test]
    fn wrong_flags_name_their_statement() {
        for (first_byte, expected) in [
            (0x00, "2.1.2"),
            (0x11, "MQTT-2.1.3-1"),
            (0x36, "MQTT-3.3.1-4"),
            (0x38, "MQTT-3.3.1-2"),
            (0x60, "MQTT-3.6.1-1"),
            (0x80, "MQTT-3.8.1-1"),
            (0xA3, "MQTT-3.10.1-1"),
            (0xC1, "MQTT-2.1.3-1"),
            (0xE8, "MQTT-3.14.1-1"),
            (0xF1, "MQTT-3.15.1-1"),
        ] {
            assert_eq!(statement(&[first_byte]), expected, "{first_byte:#04x}");
        }
    }

    #[test]
    fn only_mqtt_3_1_sends_acknowledgements_and_subscriptions_again() {
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            let checked = PacketType::Pubrel.check_dup(0x6A, version);
            assert_eq!(checked.is_ok(), version == ProtocolVersion::V31);
            assert_eq!(PacketType::Pubrel.check_dup(0x62, version), Ok(()));
        }
    }
}
