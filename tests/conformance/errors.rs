//! Malformed packets and protocol errors, as a table of literal bytes.

use crate::harness::wire::{self, Connack, Connect, Publish, Version, Will, property};
use crate::{BOTH, broker, client, expect_refused, unique};

/// MQTT 5: [MQTT-4.13.1-1] [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
/// [MQTT-3.3.1-4] [MQTT-3.3.1-2] [MQTT-2.2.1-3] [MQTT-3.8.3-2] [MQTT-3.10.3-2] [MQTT-4.7.3-1]
/// [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT-1.5.5-1] [MQTT-3.14.4-1]
/// [MQTT-3.14.4-2] [MQTT-3.14.2-1] [MQTT-3.14.2-2]
/// MQTT 3.1.1: [MQTT-2.2.2-1] [MQTT-2.2.2-2] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
/// [MQTT-3.3.1-4] [MQTT-3.3.1-2] [MQTT-2.3.1-1] [MQTT-3.8.3-3] [MQTT-3.8.3-4] [MQTT-3.10.3-2]
/// [MQTT-4.7.3-1] [MQTT-3.3.2-2] [MQTT-4.7.1-1] [MQTT-4.8.0-1] [MQTT-3.14.1-1] [MQTT-7.1.2-1]
#[test]
fn malformed_packets_of_any_version_end_the_connection() {
    let broker = broker();
    // Fixed header flags, lengths, and what has the same layout in both versions.
    let rows: &[(&str, &[u8])] = &[
        ("packet type 0", &[0x00, 0]),
        ("a remaining length of five bytes", &[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]),
        ("CONNACK from a client", &[0x20, 2, 0, 0]),
        ("PINGRESP from a client", &[0xd0, 0]),
        ("PINGREQ with flags", &[0xc1, 0]),
        ("PINGREQ with a body", &[0xc0, 1, 0]),
        ("PUBACK with flags", &[0x41, 2, 0, 1]),
        ("PUBREC with flags", &[0x52, 2, 0, 1]),
        ("PUBREL without its flags", &[0x60, 2, 0, 1]),
        ("PUBREL with too many flags", &[0x63, 2, 0, 1]),
        ("PUBCOMP with flags", &[0x71, 2, 0, 1]),
        ("PUBACK without a packet identifier", &[0x40, 0]),
        ("PUBACK with half a packet identifier", &[0x40, 1, 0]),
        ("DISCONNECT with flags", &[0xe1, 0]),
        ("PUBLISH of both QoS bits", &[0x36, 5, 0, 1, b't', 0, 1]),
        ("PUBLISH without a topic", &[0x30, 0]),
        ("PUBLISH with half a topic", &[0x30, 3, 0, 5, b't']),
    ];
    for version in BOTH {
        for (what, bytes) in rows {
            let mut client = client(&broker, version);
            client.raw.send(bytes);
            println!("{version:?}: {what}");
            expect_refused(&mut client.raw, version, &[0x81, 0x82]);
        }
        let with = |first: u8, body: Vec<u8>| wire::packet(first, &body);
        let none: &[u8] = if version == Version::Mqtt5 { &[0] } else { &[] };
        let id = |id: u16| [&id.to_be_bytes()[..], none].concat();
        let filter = |filter: &[u8]| [wire::binary(filter), vec![0]].concat();
        let rows = [
            ("SUBSCRIBE without its flags", with(0x80, [id(1), filter(b"t")].concat())),
            ("SUBSCRIBE with other flags", with(0x83, [id(1), filter(b"t")].concat())),
            ("SUBSCRIBE without a filter", with(0x82, id(1))),
            ("SUBSCRIBE with identifier 0", with(0x82, [id(0), filter(b"t")].concat())),
            ("SUBSCRIBE without options", with(0x82, [id(1), wire::text("t")].concat())),
            ("SUBSCRIBE of QoS 3", with(0x82, [id(1), wire::text("t"), vec![3]].concat())),
            (
                "SUBSCRIBE with reserved bits",
                with(0x82, [id(1), wire::text("t"), vec![0xc0]].concat()),
            ),
            ("UNSUBSCRIBE without its flags", with(0xa0, [id(1), wire::text("t")].concat())),
            ("UNSUBSCRIBE without a filter", with(0xa2, id(1))),
            ("UNSUBSCRIBE with identifier 0", with(0xa2, [id(0), wire::text("t")].concat())),
            ("PUBLISH of QoS 1 with identifier 0", with(0x32, [wire::text("t"), id(0)].concat())),
            ("PUBLISH of QoS 2 with identifier 0", with(0x34, [wire::text("t"), id(0)].concat())),
            ("PUBLISH of QoS 0 with DUP", with(0x38, [&wire::text("t")[..], none].concat())),
            ("PUBLISH to +", with(0x30, [&wire::text("a/+")[..], none].concat())),
            ("PUBLISH to #", with(0x30, [&wire::text("#")[..], none].concat())),
            ("PUBLISH to an empty topic", with(0x30, [&wire::text("")[..], none].concat())),
        ];
        for (what, bytes) in rows {
            let mut client = client(&broker, version);
            client.raw.send(&bytes);
            println!("{version:?}: {what}");
            expect_refused(&mut client.raw, version, &[0x81, 0x82, 0x90]);
        }
    }
}

/// MQTT 5: [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.7-1] [MQTT-3.3.2-1] [MQTT-3.3.2-13]
/// [MQTT-3.3.2-19] [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT-4.7.3-2]
/// MQTT 3.1.1: [MQTT-1.5.3-1] [MQTT-1.5.3-2] [MQTT-3.3.2-1] [MQTT-3.8.3-1] [MQTT-3.10.3-1]
/// [MQTT-4.7.3-2]
#[test]
fn text_that_is_not_utf_8_ends_the_connection() {
    let broker = broker();
    let bad: &[&[u8]] = &[
        b"nul\x00",
        b"\x80",
        b"cut\xe2\x82",
        b"overlong\xc0\xaf",
        b"overlong nul\xc0\x80",
        b"overlong\xe0\x80\xaf",
        b"surrogate\xed\xa0\x80",
        b"surrogate pair\xed\xa0\xbd\xed\xb8\x80",
        b"beyond unicode\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xff\xfe",
    ];
    for version in BOTH {
        let none: &[u8] = if version == Version::Mqtt5 { &[0] } else { &[] };
        for bytes in bad {
            let text = wire::binary(bytes);
            let mut packets = vec![
                wire::packet(0x30, &[&text, none].concat()),
                wire::packet(0x82, &[&[0, 1], none, &text, &[0]].concat()),
                wire::packet(0xa2, &[&[0, 1], none, &text].concat()),
            ];
            if version == Version::Mqtt5 {
                for property in [
                    [&[0x03][..], &text].concat(),
                    [&[0x08][..], &text].concat(),
                    [&[0x26][..], &text, &wire::text("v")].concat(),
                    [&[0x26][..], &wire::text("n"), &text].concat(),
                ] {
                    let publish = Publish::new("t", "x").properties(&property);
                    packets.push(publish.bytes(version));
                }
            }
            for packet in packets {
                let mut client = client(&broker, version);
                client.raw.send(&packet);
                println!("{version:?}: {packet:02x?}");
                expect_refused(&mut client.raw, version, &[0x81, 0x82, 0x8f, 0x90]);
            }
        }
    }
}

/// MQTT 5: [MQTT-4.13.1-1] [MQTT-3.3.4-6] [MQTT-3.3.2-8] [MQTT-3.3.2-14] [MQTT-3.8.3-4]
/// [MQTT-3.8.3-5] [MQTT-3.14.1-1] [MQTT-1.5.5-1] [MQTT-2.2.2-1]
#[test]
fn protocol_errors_of_mqtt_5_are_answered_with_their_reason() {
    const V: Version = Version::Mqtt5;
    let broker = broker();
    let publish = |property: Vec<u8>| Publish::new("t", "x").properties(&property).bytes(V);
    let subscribe = |properties: &[u8], filter: &str, options: u8| {
        wire::subscribe(V, 1, properties, &[(filter, options)])
    };
    let twice = |property: Vec<u8>| [property.clone(), property].concat();
    let protocol = &[0x81, 0x82][..];
    let rows = [
        ("a Topic Alias of 0", publish(property::topic_alias(0)), &[0x81, 0x82, 0x94][..]),
        ("a Subscription Identifier", publish(property::subscription_id(1)), protocol),
        ("a Response Topic with +", publish(property::response_topic("a/+")), &[0x81, 0x82, 0x90]),
        ("a Response Topic with #", publish(property::response_topic("#")), &[0x81, 0x82, 0x90]),
        ("a Payload Format of 2", publish(property::payload_format(2)), protocol),
        ("a property of CONNECT", publish(property::receive_maximum(1)), protocol),
        ("an unknown property", publish(vec![0x7f, 0]), protocol),
        ("a property identifier of two bytes", publish(vec![0x81, 0x00, 1]), protocol),
        ("a property cut short", publish(vec![0x02, 0, 0]), protocol),
        ("two expiry intervals", publish(twice(property::message_expiry(1))), protocol),
        ("two aliases", publish(twice(property::topic_alias(1))), &[0x81, 0x82, 0x94]),
        ("two content types", publish(twice(property::content_type("x"))), protocol),
        ("two response topics", publish(twice(property::response_topic("x"))), protocol),
        ("two correlations", publish(twice(property::correlation_data(b"x"))), protocol),
        ("two format indicators", publish(twice(property::payload_format(1))), protocol),
        ("a property length without properties", wire::packet(0x30, b"\x00\x01t\x05"), protocol),
        (
            "a property length of two bytes for 0",
            wire::packet(0x30, b"\x00\x01t\x80\x00x"),
            protocol,
        ),
        (
            "a Subscription Identifier of 0",
            subscribe(&property::subscription_id(0), "t", 0),
            protocol,
        ),
        (
            "two Subscription Identifiers",
            subscribe(&twice(property::subscription_id(1)), "t", 0),
            protocol,
        ),
        ("reserved option bits", subscribe(&[], "t", 0x40), protocol),
        ("Retain Handling 3", subscribe(&[], "t", 0x30), protocol),
        ("No Local on a shared subscription", subscribe(&[], "$share/g/t", 0x04), protocol),
        ("a DISCONNECT of the server's", wire::disconnect_with(0x8b, &[]), protocol),
        ("a DISCONNECT reason nobody knows", wire::disconnect_with(0x55, &[]), protocol),
        ("an expiry that was 0", wire::disconnect_with(0, &property::session_expiry(1)), protocol),
        ("a PUBACK reason nobody knows", wire::ack_with(wire::PUBACK, 1, 0x55), protocol),
        ("a remaining length that is too long", vec![0xc0, 0x80, 0x00], protocol),
    ];
    for (what, bytes, reasons) in rows {
        let mut client = client(&broker, V);
        client.raw.send(&bytes);
        println!("{what}");
        client.raw.expect_disconnect(reasons);
    }
}

/// MQTT 5: [MQTT-3.1.4-1] [MQTT-4.13.1-1]
/// MQTT 3.1.1: [MQTT-3.1.4-1] [MQTT-4.8.0-1]
#[test]
fn malformed_connects_are_refused() {
    let broker = broker();
    let mut rows = Vec::new();
    for version in BOTH {
        let whole = Connect::new(version, "malformed").bytes();
        let body = &whole[2..];
        rows.push((version, "flags", wire::packet(0x11, body)));
        rows.push((version, "a byte too many", wire::packet(0x10, &[body, &[0]].concat())));
        for length in [0, 1, 5, 6, 7, 9, body.len() - 1] {
            rows.push((version, "cut short", wire::packet(0x10, &body[..length])));
        }
        for topic in ["a/+", "#", ""] {
            let connect = Connect::new(version, "malformed").will(Will::new(topic, "x"));
            rows.push((version, "a will topic that is none", connect.bytes()));
        }
    }
    for properties in [
        property::receive_maximum(0),
        property::maximum_packet_size(0),
        property::request_problem_information(2),
        property::request_response_information(2),
        [property::session_expiry(1), property::session_expiry(1)].concat(),
        [property::receive_maximum(1), property::receive_maximum(1)].concat(),
        [property::topic_alias_maximum(1), property::topic_alias_maximum(1)].concat(),
        property::topic_alias(1),
        property::will_delay(1),
        vec![0x7f, 0],
        vec![0x11, 0, 0],
    ] {
        let connect = Connect::new(Version::Mqtt5, "malformed").properties(&properties);
        rows.push((Version::Mqtt5, "a property", connect.bytes()));
    }
    for properties in [
        property::session_expiry(1),
        property::payload_format(2),
        [property::will_delay(1), property::will_delay(1)].concat(),
        property::topic_alias(1),
    ] {
        let will = Will::new("t", "x").properties(properties);
        let connect = Connect::new(Version::Mqtt5, "malformed").will(will);
        rows.push((Version::Mqtt5, "a will property", connect.bytes()));
    }
    for (version, what, bytes) in rows {
        let mut raw = broker.raw();
        raw.send(&bytes);
        println!("{version:?}: {what}: {bytes:02x?}");
        if let Some(packet) = raw.next_packet() {
            assert_eq!(packet[0], 0x20, "{packet:02x?}");
            let code = packet[3];
            if packet.len() == 4 {
                assert_ne!(code, 0);
            } else {
                assert!(Connack::parse(Version::Mqtt5, &packet).code >= 0x80);
            }
            raw.expect_closed();
        }
    }
}

/// A mistake of one client has no consequence for others, nor for the broker.
#[test]
fn a_client_that_errs_harms_nobody_else() {
    let broker = broker();
    let topic = unique("calm");
    let mut bystander = client(&broker, Version::Mqtt5);
    bystander.subscribe(&topic, 1);
    for byte in 0..=0xff {
        let mut raw = client(&broker, Version::Mqtt311).raw;
        // Whatever the answer is: the connection of the one that sent it ends at most.
        let _ = raw.try_send(&[byte, 3, 0xff, 0xff, 0xff]);
        bystander.ping();
    }
    client(&broker, Version::Mqtt5).publish_surely(&Publish::new(&topic, "still here"));
    bystander.receive_text("still here");
}
