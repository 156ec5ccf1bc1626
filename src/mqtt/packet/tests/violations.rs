//! One row for each rule: who sends what, and what it breaks.

use super::*;
use ProtocolVersion::{V5, V31, V311};
use ReasonCode::{
    ClientIdentifierNotValid, MalformedPacket, ProtocolError, TopicAliasInvalid,
    TopicFilterInvalid, TopicNameInvalid, UnsupportedProtocolVersion,
};
use Side::{FromClient, FromServer};

/// First byte, body, and the reason and statement of the refusal.
type Row = (u8, &'static [u8], ReasonCode, &'static str);

fn check(version: ProtocolVersion, side: Side, rows: &[Row]) {
    for &(first_byte, body, reason, statement) in rows {
        let decoded = Packet::decode(first_byte, body, version, side);
        let found = decoded.map_err(|violation| (violation.reason, violation.statement));
        assert_eq!(found, Err((reason, statement)), "{first_byte:#04x} {}", body.escape_ascii());
    }
}

#[test]
fn a_connect_of_any_version_is_checked() {
    check(V5, FromClient, &[
        (0x10, b"\x00\x04MQTX\x05\x02\x00\x00\x00\x00\x00", UnsupportedProtocolVersion, "MQTT-3.1.2-1"),
        (0x10, b"\x00\x04mqtt\x05\x02\x00\x00\x00\x00\x00", UnsupportedProtocolVersion, "MQTT-3.1.2-1"),
        (0x10, b"\x00\x00\x05\x02\x00\x00\x00\x00\x00", UnsupportedProtocolVersion, "MQTT-3.1.2-1"),
        (0x10, b"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00", UnsupportedProtocolVersion, "MQTT-3.1.2-2"),
        (0x10, b"\x00\x04MQTT\x03\x02\x00\x00\x00\x00\x00", UnsupportedProtocolVersion, "MQTT-3.1.2-2"),
        (0x10, b"\x00\x06MQIsdp\x04\x02\x00\x00\x00\x01c", UnsupportedProtocolVersion, "MQTT-3.1.2-2"),
        (0x10, b"\x00\x04MQTT\x84\x02\x00\x00\x00\x00", UnsupportedProtocolVersion, "MQTT-3.1.2-2"),
        (0x10, b"", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQ", MalformedPacket, "1.5.6"),
        (0x10, b"\x00\x04MQTT", MalformedPacket, "1.5.1"),
        (0x10, b"\x00\x04MQTT\x05", MalformedPacket, "1.5.1"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00", MalformedPacket, "1.5.5"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00", MalformedPacket, "MQTT-3.1.2-3"),
        (0x10, b"\x00\x04MQTT\x04\x03\x00\x00\x00\x00", MalformedPacket, "MQTT-3.1.2-3"),
        (0x10, b"\x00\x04MQTT\x05\x0A\x00\x00\x00\x00\x00", MalformedPacket, "MQTT-3.1.2-11"),
        (0x10, b"\x00\x06MQIsdp\x03\x0A\x00\x00\x00\x01c", MalformedPacket, "MQTT-3.1.2-11"),
        (0x10, b"\x00\x04MQTT\x05\x22\x00\x00\x00\x00\x00", MalformedPacket, "MQTT-3.1.2-13"),
        (0x10, b"\x00\x04MQTT\x05\x1E\x00\x00\x00\x00\x00\x00\x00\x01w\x00\x00", MalformedPacket, "MQTT-3.1.2-12"),
        (0x10, b"\x00\x04MQTT\x04\x42\x00\x00\x00\x01c\x00\x01p", MalformedPacket, "MQTT-3.1.2-22"),
        (0x10, b"\x00\x06MQIsdp\x03\x42\x00\x00\x00\x01c\x00\x01p", MalformedPacket, "MQTT-3.1.2-22"),
        (0x10, b"\x00\x04MQTT\x04\x00\x00\x00\x00\x00", ClientIdentifierNotValid, "MQTT-3.1.3-8"),
        (0x10, b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00", ClientIdentifierNotValid, "MQTT-3.1.3-8"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01\x00", MalformedPacket, "MQTT-1.5.4-2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01\xFF", MalformedPacket, "MQTT-1.5.4-1"),
        // User name and password flags without the fields: only MQTT 3.1 allows that.
        (0x10, b"\x00\x04MQTT\x04\xC2\x00\x00\x00\x01c", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQTT\x05\xC2\x00\x00\x00\x00\x01c\x00\x01u", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x06MQIsdp\x03\xC2\x00\x00\x00\x01c\x00", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c\x00", MalformedPacket, "2.1.4"),
        (0x10, b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01c\x00", MalformedPacket, "2.1.4"),
        (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x00\x00\x02w+\x00\x00", TopicNameInvalid, "MQTT-3.3.2-2"),
        (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", ProtocolError, "MQTT-4.7.3-1"),
    ]);
}

#[test]
fn the_properties_of_connect_are_checked() {
    check(V5, FromClient, &[
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x0A\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01\x00\x00", ProtocolError, "3.1.2.11.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x00", ProtocolError, "3.1.2.11.3"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x06\x21\x00\x01\x21\x00\x01\x00\x00", ProtocolError, "3.1.2.11.3"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x00\x00\x00\x00", ProtocolError, "3.1.2.11.4"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x06\x22\x00\x00\x22\x00\x00\x00\x00", ProtocolError, "3.1.2.11.5"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x02\x19\x02\x00\x00", ProtocolError, "3.1.2.11.6"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x02\x17\xFF\x00\x00", ProtocolError, "3.1.2.11.7"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x08\x15\x00\x01m\x15\x00\x01m\x00\x00", ProtocolError, "3.1.2.11.9"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x04\x16\x00\x01d\x00\x00", ProtocolError, "3.1.2.11.10"),
        // An alias, an identifier that does not exist, one in two bytes, one padded.
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x03\x23\x00\x01\x00\x00", MalformedPacket, "2.2.2.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x02\x00\x00\x00\x00", MalformedPacket, "2.2.2.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x03\x91\x01\x00\x00\x00", MalformedPacket, "2.2.2.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x03\xA1\x00\x00\x00\x00", MalformedPacket, "MQTT-1.5.5-1"),
        // A length beyond the packet, and a property beyond the length.
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x7F\x00\x00", MalformedPacket, "2.2.2.1"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x02\x21\x00\x01\x00\x00", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x80\x80\x80\x80\x01\x00\x00", MalformedPacket, "1.5.5"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x04\x26\x00\x01a\x00\x00", MalformedPacket, "1.5.2"),
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x06\x26\x00\x01\x00\x00\x00\x00\x00", MalformedPacket, "MQTT-1.5.4-2"),
        // Properties of the will.
        (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x03\x23\x00\x01\x00\x01w\x00\x00", MalformedPacket, "2.2.2.2"),
        (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x02\x0B\x01\x00\x01w\x00\x00", MalformedPacket, "2.2.2.2"),
        (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x02\x01\x02\x00\x01w\x00\x00", ProtocolError, "3.1.3.2.3"),
        (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x04\x08\x00\x01#\x00\x01w\x00\x00", ProtocolError, "MQTT-3.3.2-14"),
    ]);
}

#[test]
fn a_publish_is_checked() {
    check(V5, FromClient, &[
        (0x36, b"\x00\x01t\x00\x01\x00", MalformedPacket, "MQTT-3.3.1-4"),
        (0x38, b"\x00\x01t\x00", MalformedPacket, "MQTT-3.3.1-2"),
        (0x30, b"\x00\x02a+\x00", TopicNameInvalid, "MQTT-3.3.2-2"),
        (0x30, b"\x00\x01#\x00", TopicNameInvalid, "MQTT-3.3.2-2"),
        (0x30, b"\x00\x03a\x00b\x00", MalformedPacket, "MQTT-1.5.4-2"),
        (0x30, b"\x00\x02\xC0\x80\x00", MalformedPacket, "MQTT-1.5.4-1"),
        (0x30, b"\x00\x00\x00hi", ProtocolError, "3.3.2.1"),
        (0x30, b"\x00\x00\x02\x01\x01hi", ProtocolError, "3.3.2.1"),
        (0x32, b"\x00\x01t\x00\x00\x00", ProtocolError, "MQTT-2.2.1-3"),
        (0x32, b"\x00\x01t\x00", MalformedPacket, "1.5.2"),
        (0x30, b"\x00\x01t", MalformedPacket, "1.5.5"),
        (0x30, b"\x00\x05t", MalformedPacket, "1.5.6"),
        (0x30, b"\x00\x01t\x02\x0B\x01", ProtocolError, "MQTT-3.3.4-6"),
        (0x30, b"\x00\x01t\x03\x23\x00\x00", TopicAliasInvalid, "MQTT-3.3.2-8"),
        (0x30, b"\x00\x01t\x06\x23\x00\x01\x23\x00\x01", ProtocolError, "3.3.2.3.4"),
        (0x30, b"\x00\x01t\x02\x01\x02", ProtocolError, "3.3.2.3.2"),
        (0x30, b"\x00\x01t\x04\x01\x01\x01\x01", ProtocolError, "3.3.2.3.2"),
        (0x30, b"\x00\x01t\x0A\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", ProtocolError, "3.3.2.3.3"),
        (0x30, b"\x00\x01t\x04\x08\x00\x01+", ProtocolError, "MQTT-3.3.2-14"),
        (0x30, b"\x00\x01t\x03\x08\x00\x00", ProtocolError, "MQTT-4.7.3-1"),
        (0x30, b"\x00\x01t\x06\x09\x00\x00\x09\x00\x00", ProtocolError, "3.3.2.3.6"),
        (0x30, b"\x00\x01t\x06\x03\x00\x00\x03\x00\x00", ProtocolError, "3.3.2.3.9"),
        (0x30, b"\x00\x01t\x03\x21\x00\x01", MalformedPacket, "2.2.2.2"),
        (0x30, b"\x00\x01t\x7Fhi", MalformedPacket, "2.2.2.1"),
    ]);
    check(V5, FromServer, &[
        (0x30, b"\x00\x01t\x02\x0B\x00", ProtocolError, "3.3.2.3.8"),
        (0x30, b"\x00\x00\x02\x0B\x01", ProtocolError, "3.3.2.1"),
    ]);
    check(V311, FromClient, &[
        (0x30, b"\x00\x00hi", ProtocolError, "MQTT-4.7.3-1"),
        (0x32, b"\x00\x01t\x00\x00hi", ProtocolError, "MQTT-2.2.1-3"),
        (0x30, b"", MalformedPacket, "1.5.2"),
    ]);
}

#[test]
fn an_acknowledgement_is_checked() {
    check(V5, FromClient, &[
        (0x40, b"\x00\x00", ProtocolError, "MQTT-2.2.1-3"),
        (0x40, b"\x00", MalformedPacket, "1.5.2"),
        (0x40, b"", MalformedPacket, "1.5.2"),
        (0x40, b"\x00\x0A\x92", ProtocolError, "MQTT-3.4.2-1"),
        (0x40, b"\x00\x0A\x03", ProtocolError, "MQTT-3.4.2-1"),
        (0x50, b"\x00\x0A\x82", ProtocolError, "MQTT-3.5.2-1"),
        (0x62, b"\x00\x0A\x10", ProtocolError, "MQTT-3.6.2-1"),
        (0x70, b"\x00\x0A\x97", ProtocolError, "MQTT-3.7.2-1"),
        (0x40, b"\x00\x0A\x00\x00\x00", MalformedPacket, "2.1.4"),
        (0x40, b"\x00\x0A\x00\x02\x01\x01", MalformedPacket, "2.2.2.2"),
        (0x40, b"\x00\x0A\x00\x06\x1F\x00\x00\x1F\x00\x00", ProtocolError, "3.4.2.2.2"),
        (0x50, b"\x00\x0A\x00\x06\x1F\x00\x00\x1F\x00\x00", ProtocolError, "3.5.2.2.2"),
        (0x62, b"\x00\x0A\x00\x06\x1F\x00\x00\x1F\x00\x00", ProtocolError, "3.6.2.2.2"),
        (0x70, b"\x00\x0A\x00\x06\x1F\x00\x00\x1F\x00\x00", ProtocolError, "3.7.2.2.2"),
        (0x41, b"\x00\x0A", MalformedPacket, "MQTT-2.1.3-1"),
        (0x60, b"\x00\x0A", MalformedPacket, "MQTT-3.6.1-1"),
    ]);
    check(V311, FromClient, &[
        (0x40, b"\x00\x0A\x00", MalformedPacket, "2.1.4"),
        (0x62, b"\x00\x00", ProtocolError, "MQTT-2.2.1-3"),
        (0x6A, b"\x00\x0A", MalformedPacket, "MQTT-3.6.1-1"),
    ]);
}

#[test]
fn a_subscription_is_checked() {
    check(V5, FromClient, &[
        (0x82, b"\x00\x00\x00\x00\x01t\x00", ProtocolError, "MQTT-2.2.1-3"),
        (0x82, b"\x00\x0A\x00", ProtocolError, "MQTT-3.8.3-2"),
        (0x82, b"\x00\x0A", MalformedPacket, "1.5.5"),
        (0x82, b"\x00\x0A\x00\x00\x01t", MalformedPacket, "1.5.1"),
        (0x82, b"\x00\x0A\x00\x00\x01t\x03", ProtocolError, "3.8.3.1"),
        (0x82, b"\x00\x0A\x00\x00\x01t\x30", ProtocolError, "3.8.3.1"),
        (0x82, b"\x00\x0A\x00\x00\x01t\x40", MalformedPacket, "MQTT-3.8.3-5"),
        (0x82, b"\x00\x0A\x00\x00\x01t\x80", MalformedPacket, "MQTT-3.8.3-5"),
        (0x82, b"\x00\x0A\x00\x00\x0A$share/g/t\x04", ProtocolError, "MQTT-3.8.3-4"),
        (0x82, b"\x00\x0A\x00\x00\x00\x00", ProtocolError, "MQTT-4.7.3-1"),
        (0x82, b"\x00\x0A\x00\x00\x03a/#\x00\x00\x03#/a\x00", TopicFilterInvalid, "MQTT-4.7.1-1"),
        (0x82, b"\x00\x0A\x00\x00\x02a+\x00", TopicFilterInvalid, "MQTT-4.7.1-2"),
        (0x82, b"\x00\x0A\x00\x00\x09$share//t\x00", TopicFilterInvalid, "MQTT-4.8.2-1"),
        (0x82, b"\x00\x0A\x02\x0B\x00\x00\x01t\x00", ProtocolError, "3.8.2.1.2"),
        (0x82, b"\x00\x0A\x04\x0B\x01\x0B\x01\x00\x01t\x00", ProtocolError, "3.8.2.1.2"),
        (0x82, b"\x00\x0A\x03\x1F\x00\x00\x00\x01t\x00", MalformedPacket, "2.2.2.2"),
        (0x80, b"\x00\x0A\x00\x00\x01t\x00", MalformedPacket, "MQTT-3.8.1-1"),
        (0xA2, b"\x00\x00\x00\x00\x01t", ProtocolError, "MQTT-2.2.1-3"),
        (0xA2, b"\x00\x0A\x00", ProtocolError, "MQTT-3.10.3-2"),
        (0xA2, b"\x00\x0A\x00\x00\x02t", MalformedPacket, "1.5.6"),
        (0xA2, b"\x00\x0A\x02\x0B\x01\x00\x01t", MalformedPacket, "2.2.2.2"),
        (0xA0, b"\x00\x0A\x00\x00\x01t", MalformedPacket, "MQTT-3.10.1-1"),
    ]);
    check(V311, FromClient, &[
        (0x82, b"\x00\x0A", ProtocolError, "MQTT-3.8.3-2"),
        (0x82, b"\x00\x0A\x00\x01t\x04", MalformedPacket, "MQTT-3.8.3-5"),
        (0x82, b"\x00\x0A\x00\x01t\x03", ProtocolError, "3.8.3.1"),
        (0x8A, b"\x00\x0A\x00\x01t\x00", MalformedPacket, "MQTT-3.8.1-1"),
        (0xA2, b"\x00\x0A", ProtocolError, "MQTT-3.10.3-2"),
        (0xAA, b"\x00\x0A\x00\x01t", MalformedPacket, "MQTT-3.10.1-1"),
    ]);
}

#[test]
fn the_end_of_a_connection_and_an_authentication_are_checked() {
    check(V5, FromClient, &[
        (0xC0, b"\x00", MalformedPacket, "2.1.4"),
        (0xE1, b"", MalformedPacket, "MQTT-3.14.1-1"),
        (0xE0, b"\x87", ProtocolError, "MQTT-3.14.2-1"),
        (0xE0, b"\x01", ProtocolError, "MQTT-3.14.2-1"),
        (0xE0, b"\x00\x00\x00", MalformedPacket, "2.1.4"),
        (0xE0, b"\x00\x03\x1C\x00\x00", ProtocolError, "3.14.2.2.5"),
        (0xE0, b"\x00\x02\x01\x01", MalformedPacket, "2.2.2.2"),
        (0xE0, b"\x00\x0A\x11\x00\x00\x00\x00\x11\x00\x00\x00\x00", ProtocolError, "3.14.2.2.2"),
        (0xF1, b"", MalformedPacket, "MQTT-3.15.1-1"),
        (0xF0, b"", ProtocolError, "MQTT-3.15.2-1"),
        (0xF0, b"\x00\x04\x15\x00\x01m", ProtocolError, "MQTT-3.15.2-1"),
        (0xF0, b"\x18\x00", ProtocolError, "3.15.2.2.2"),
        (0xF0, b"\x18", MalformedPacket, "1.5.5"),
        (0xF0, b"\x18\x08\x15\x00\x01m\x15\x00\x01m", ProtocolError, "3.15.2.2.2"),
    ]);
    check(V5, FromServer, &[
        (0xE0, b"\x04", ProtocolError, "MQTT-3.14.2-1"),
        (0xE0, b"\x00\x05\x11\x00\x00\x00\x00", ProtocolError, "MQTT-3.14.2-2"),
        (0xF0, b"\x19\x04\x15\x00\x01m", ProtocolError, "MQTT-3.15.2-1"),
    ]);
    check(V311, FromClient, &[(0xE0, b"\x00", MalformedPacket, "2.1.4")]);
}

#[test]
fn what_a_server_sends_is_checked() {
    check(V5, FromServer, &[
        (0x20, b"\x02\x00\x00", MalformedPacket, "MQTT-3.2.2-1"),
        (0x20, b"\x01\x87\x00", ProtocolError, "MQTT-3.2.2-6"),
        (0x20, b"\x00\x01\x00", ProtocolError, "MQTT-3.2.2-8"),
        (0x20, b"\x00\x8D\x00", ProtocolError, "MQTT-3.2.2-8"),
        (0x20, b"\x00\x00", MalformedPacket, "1.5.5"),
        (0x20, b"\x00\x00\x02\x24\x02", ProtocolError, "3.2.2.3.4"),
        (0x20, b"\x00\x00\x03\x21\x00\x00", ProtocolError, "3.2.2.3.3"),
        (0x20, b"\x00\x00\x02\x25\x02", ProtocolError, "3.2.2.3.5"),
        (0x20, b"\x00\x00\x05\x27\x00\x00\x00\x00", ProtocolError, "3.2.2.3.6"),
        (0x20, b"\x00\x00\x02\x28\x02", ProtocolError, "3.2.2.3.11"),
        (0x20, b"\x00\x00\x02\x29\x02", ProtocolError, "3.2.2.3.12"),
        (0x20, b"\x00\x00\x02\x2A\x02", ProtocolError, "3.2.2.3.13"),
        (0x20, b"\x00\x00\x02\x17\x01", MalformedPacket, "2.2.2.2"),
        (0x90, b"\x00\x0A\x00", ProtocolError, "MQTT-3.9.3-1"),
        (0x90, b"\x00\x0A\x00\x03", ProtocolError, "MQTT-3.9.3-2"),
        (0x90, b"\x00\x00\x00\x00", ProtocolError, "MQTT-2.2.1-3"),
        (0xB0, b"\x00\x0A\x00", ProtocolError, "MQTT-3.11.3-1"),
        (0xB0, b"\x00\x0A\x00\x01", ProtocolError, "MQTT-3.11.3-2"),
        (0xD0, b"\x00", MalformedPacket, "2.1.4"),
    ]);
    check(V311, FromServer, &[
        (0x20, b"\x00\x06", ProtocolError, "MQTT-3.2.2-8"),
        (0x20, b"\x02\x00", MalformedPacket, "MQTT-3.2.2-1"),
        (0x20, b"\x01\x05", ProtocolError, "MQTT-3.2.2-6"),
        (0x20, b"\x00\x00\x00", MalformedPacket, "2.1.4"),
        (0x90, b"\x00\x0A\x87", ProtocolError, "MQTT-3.9.3-2"),
        (0xB0, b"\x00\x0A\x00", MalformedPacket, "2.1.4"),
    ]);
}

#[test]
fn each_side_sends_only_its_own_types() {
    let by_clients: &[Row] = &[
        (0x20, b"\x00\x00\x00", ProtocolError, "2.1.2"),
        (0x90, b"\x00\x0A\x00\x00", ProtocolError, "2.1.2"),
        (0xB0, b"\x00\x0A\x00\x00", ProtocolError, "2.1.2"),
        (0xD0, b"", ProtocolError, "2.1.2"),
    ];
    let by_servers: &[Row] = &[
        (0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", ProtocolError, "2.1.2"),
        (0x82, b"\x00\x0A\x00\x00\x01t\x00", ProtocolError, "2.1.2"),
        (0xA2, b"\x00\x0A\x00\x00\x01t", ProtocolError, "2.1.2"),
        (0xC0, b"", ProtocolError, "2.1.2"),
    ];
    for version in VERSIONS {
        check(version, FromClient, by_clients);
        check(version, FromServer, by_servers);
    }
    for version in [V31, V311] {
        check(version, FromServer, &[(0xE0, b"", ProtocolError, "2.1.2")]);
        for side in SIDES {
            let auth = b"\x18\x04\x15\x00\x01m";
            check(version, side, &[(0xF0, auth, ProtocolError, "2.1.2")]);
        }
    }
}

#[test]
fn packet_type_0_is_refused_from_anyone() {
    for version in VERSIONS {
        for side in SIDES {
            check(version, side, &[(0x00, b"", MalformedPacket, "2.1.2")]);
        }
    }
}
