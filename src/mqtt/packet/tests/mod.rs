//! The codec against literal bytes, against every rule it holds, and against itself.

mod literal;
mod round_trip;
// One row for each rule, however long.
#[rustfmt::skip]
mod violations;

use super::*;
use crate::mqtt::frame::{FrameHeader, PACKET_BYTES_MAX};
use crate::mqtt::{ReasonCode, SubscriptionFilter, TopicName, UserProperties};

const VERSIONS: [ProtocolVersion; 3] =
    [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
const SIDES: [Side; 2] = [Side::FromClient, Side::FromServer];

/// The header and body of a packet that is whole.
fn frame(bytes: &[u8]) -> (FrameHeader, &[u8]) {
    let header = FrameHeader::peek(bytes, PACKET_BYTES_MAX).unwrap().unwrap();
    assert_eq!(header.packet_bytes(), bytes.len(), "{bytes:02X?}");
    (header, &bytes[header.header_bytes..])
}

fn decode(bytes: &[u8], version: ProtocolVersion, side: Side) -> Result<Packet<'_>, Violation> {
    let (header, body) = frame(bytes);
    Packet::decode(header.first_byte, body, version, side)
}

fn encode(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut out = b"before".to_vec();
    packet.encode(version, &mut out);
    let bytes = out.split_off(6);
    assert_eq!(bytes.len(), packet.encoded_bytes(version), "{packet:?}");
    bytes
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn users(pairs: &[(&str, &str)]) -> UserProperties {
    let mut users = UserProperties::default();
    for (name, value) in pairs {
        users.push(name, value);
    }
    users
}
