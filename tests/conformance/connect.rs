//! CONNECT, CONNACK, keep-alive, takeover, AUTH.

use std::time::{Duration, Instant};

use crate::harness::Setup;
use crate::harness::raw::{Client, Raw};
use crate::harness::wire::{
    self, Connack, Connect, PINGREQ, PINGRESP, Publish, Version, Will, property,
};
use crate::{ALL, BOTH, broker, client, durable, expect_refused, let_pass, unique};

/// MQTT 5: [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-2.2.2-1]
/// [MQTT-3.1.3-3]
/// MQTT 3.1.1: [MQTT-3.1.4-4] [MQTT-3.2.0-1] [MQTT-3.2.2-1] [MQTT-3.1.3-3]
#[test]
fn connect_is_answered_with_connack_first() {
    let broker = broker();
    for version in ALL {
        let client = client(&broker, version);
        assert_eq!(client.connack.flags, 0);
    }
    // What the packet is, to the byte.
    let mut raw = broker.raw();
    raw.send(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04lit3");
    raw.expect(&[0x20, 2, 0, 0]);
}

/// MQTT 5: [MQTT-3.1.0-1]
/// MQTT 3.1.1: [MQTT-3.1.0-1]
#[test]
fn a_first_packet_that_is_not_connect_ends_the_connection() {
    let broker = broker();
    let publish = Publish::new("t", "x").bytes(Version::Mqtt311);
    for first in [&PINGREQ[..], &publish, &[0x20, 2, 0, 0], &[0xf0, 2, 0x18, 0], &[0x00, 0]] {
        let mut raw = broker.raw();
        raw.send(first);
        raw.expect_closed();
    }
}

/// MQTT 5: [MQTT-3.1.0-2] [MQTT-3.2.0-2]
/// MQTT 3.1.1: [MQTT-3.1.0-2]
#[test]
fn a_second_connect_ends_the_connection() {
    let broker = broker();
    for version in ALL {
        let mut client = client(&broker, version);
        client.raw.send(&Connect::new(version, &unique("again")).bytes());
        expect_refused(&mut client.raw, version, &[0x82]);
    }
}

/// MQTT 5: [MQTT-3.1.2-1] [MQTT-3.1.2-2]
/// MQTT 3.1.1: [MQTT-3.1.2-1] [MQTT-3.1.2-2]
#[test]
fn an_unknown_protocol_is_refused() {
    let broker = broker();
    // A level that nobody knows is answered in the nearest version, another protocol not at all.
    for (start, code) in [
        (&b"\x00\x04MQTT\x06"[..], Some(0x84)),
        (b"\x00\x04MQTT\x00", Some(1)),
        (b"\x00\x04MQTT\x03", Some(1)),
        (b"\x00\x04MQTT\x84", Some(1)),
        (b"\x00\x06MQIsdp\x04", Some(1)),
        (b"\x00\x04mqtt\x04", None),
        (b"\x00\x00", None),
    ] {
        let mut raw = broker.raw();
        let rest = [&[2, 0, 60][..], &[0], &wire::text("x")].concat();
        raw.send(&wire::packet(0x10, &[start, &rest].concat()));
        let told = raw.next_packet();
        assert_eq!(told.as_ref().map(|packet| (packet[0], packet[3])), code.map(|it| (0x20, it)));
        raw.expect_end();
    }
}

/// MQTT 5: [MQTT-3.1.2-3] [MQTT-3.1.2-9] [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13]
/// [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.3-1]
/// [MQTT-3.1.4-1]
/// MQTT 3.1.1: [MQTT-3.1.2-3] [MQTT-3.1.2-9] [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-14]
/// [MQTT-3.1.2-15] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.2-20] [MQTT-3.1.2-21]
/// [MQTT-3.1.3-1] [MQTT-3.1.4-1]
#[test]
fn flags_that_contradict_the_payload_are_refused() {
    let broker = broker();
    for version in BOTH {
        let plain = Connect::new(version, "flags");
        let willing = plain.clone().will(Will::new("flags/will", "gone"));
        let mut named = plain.clone();
        named.username = Some(b"name".to_vec());
        let mut both = named.clone();
        both.password = Some(b"secret".to_vec());
        let rows = [
            ("the reserved flag is set", &plain, 0x03),
            ("a will QoS without a will", &plain, 0x02 | 0x08),
            ("a will retain without a will", &plain, 0x02 | 0x20),
            ("a will QoS of 3", &willing, 0x02 | 0x04 | 0x18),
            ("a will flag without a will", &plain, 0x02 | 0x04),
            ("a will without the will flag", &willing, 0x02),
            ("a user name flag without a user name", &plain, 0x02 | 0x80),
            ("a user name without its flag", &named, 0x02),
            ("a password flag without a password", &named, 0x02 | 0x80 | 0x40),
            ("a password without its flag", &both, 0x02 | 0x80),
        ];
        for (what, connect, flags) in rows {
            let mut raw = broker.raw();
            raw.send(&connect.bytes_with_flags(flags));
            if let Some(packet) = raw.next_packet() {
                let connack = Connack::parse(version, &packet);
                assert_ne!(connack.code, 0, "{version:?} accepts {what}");
                assert_eq!(connack.flags, 0, "{what}");
                raw.expect_closed();
            }
        }
    }
}

/// MQTT 3.1.1: [MQTT-3.1.2-22]
#[test]
fn a_password_without_a_user_name_is_for_mqtt_5_only() {
    let broker = broker();
    let mut connect = Connect::new(Version::Mqtt311, &unique("password"));
    connect.password = Some(b"secret".to_vec());
    let mut raw = broker.raw();
    raw.send(&connect.bytes());
    raw.expect_end();
    connect.version = Version::Mqtt5;
    broker.client(&connect);
}

/// MQTT 5: [MQTT-3.1.3-5]
/// MQTT 3.1.1: [MQTT-3.1.3-5]
#[test]
fn client_identifiers_of_digits_and_letters_are_accepted() {
    let broker = broker();
    for version in ALL {
        for id in ["0", "ABCDEFGHIJKLMNOPQRSTUVW", "xyz0123456789abcdefghij", "XYZklmnopqrstuvw"] {
            broker.simple(version, id);
        }
    }
}

/// MQTT 5: [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn an_empty_client_identifier_gets_a_new_one() {
    let broker = broker();
    let assigned = |connect: &Connect| {
        let client = broker.client(connect);
        let id =
            client.connack.property(0x12).expect("an Assigned Client Identifier")[2..].to_vec();
        assert!(!id.is_empty());
        (client, String::from_utf8(id).unwrap())
    };
    let (first_client, first) = assigned(&Connect::new(Version::Mqtt5, ""));
    let (_, second) = assigned(&Connect::new(Version::Mqtt5, "").resume());
    assert_ne!(first, second);
    // As if the client had chosen it: it can come back under that name.
    drop(first_client);
    let (client, id) = assigned(&durable(Version::Mqtt5, ""));
    client.disconnect();
    assert!(broker.client(&durable(Version::Mqtt5, &id)).connack.session_present());
    assert_eq!(client_named_gets_no_assigned(&broker.simple(Version::Mqtt5, &id)), None);
}

fn client_named_gets_no_assigned(client: &Client) -> Option<Vec<u8>> {
    client.connack.property(0x12).map(<[u8]>::to_vec)
}

/// MQTT 3.1.1: [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.1.3-8] [MQTT-3.1.3-9] [MQTT-3.2.2-4]
/// [MQTT-3.2.2-5]
#[test]
fn an_empty_client_identifier_of_mqtt_3_1_1_needs_a_clean_session() {
    let broker = broker();
    broker.simple(Version::Mqtt311, "");
    broker.simple(Version::Mqtt311, "");
    let mut raw = broker.raw();
    raw.send(&Connect::new(Version::Mqtt311, "").resume().bytes());
    raw.expect(&[0x20, 2, 0, 2]);
    raw.expect_closed();
}

/// MQTT 5: [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.2.2-3] [MQTT-3.1.4-4]
/// [MQTT-3.1.3-2] [MQTT-3.1.2-23]
/// MQTT 3.1.1: [MQTT-3.1.2-4] [MQTT-3.1.2-6] [MQTT-3.1.4-3] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
/// [MQTT-3.1.3-2]
#[test]
fn session_present_says_whether_a_session_was_resumed() {
    let broker = broker();
    for version in BOTH {
        let id = unique("present");
        let topic = format!("{id}/t");
        let connect = durable(version, &id);
        let mut first = broker.client(&connect);
        assert!(!first.connack.session_present(), "there was none");
        first.subscribe(&topic, 1);
        first.disconnect();

        let mut second = broker.client(&connect);
        assert!(second.connack.session_present());
        client(&broker, version).publish_surely(&Publish::new(&topic, "kept"));
        second.receive_text("kept");
        second.disconnect();

        let clean = broker.client(&Connect { clean: true, ..connect.clone() });
        assert!(!clean.connack.session_present(), "a clean start discards");
        clean.disconnect();

        let mut last = broker.client(&Connect::new(version, &id).resume());
        // In MQTT 5 the clean one asked for an hour too; in MQTT 3 it ended with its connection.
        assert_eq!(last.connack.session_present(), version == Version::Mqtt5);
        client(&broker, version).publish_surely(&Publish::new(&topic, "not subscribed"));
        last.ping();
    }
}

/// MQTT 5: [MQTT-3.1.4-3]
/// MQTT 3.1.1: [MQTT-3.1.4-2]
#[test]
fn a_second_connection_takes_the_session_over() {
    let broker = broker();
    for version in ALL {
        let id = unique("taken");
        let mut old = broker.simple(version, &id);
        let mut new = broker.simple(version, &id);
        expect_refused(&mut old.raw, version, &[0x8e]);
        new.ping();
    }
}

/// MQTT 5: [MQTT-3.1.2-22] [MQTT-3.2.2-22]
/// MQTT 3.1.1: [MQTT-3.1.2-24]
#[test]
fn a_silent_client_is_dropped_after_one_and_a_half_keep_alive_intervals() {
    let broker = broker();
    for version in BOTH {
        let began = Instant::now();
        let mut silent = broker.client(&Connect::new(version, &unique("silent")).keep_alive(1));
        assert_eq!(silent.connack.property(0x13), None, "the client's own interval holds");
        expect_refused(&mut silent.raw, version, &[0x8d]);
        assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    }
}

/// A client of MQTT 3 cannot be told the shortest interval that is offered, 5 seconds by default.
///
/// MQTT 3.1.1: [MQTT-3.1.2-24]
#[test]
fn a_client_that_cannot_be_told_is_held_to_its_own_interval() {
    let broker = Setup::new().plaintext().default_limits().start();
    let began = Instant::now();
    let mut silent = broker.client(&Connect::new(Version::Mqtt311, "silent").keep_alive(1));
    silent.raw.expect_closed();
    let lived = began.elapsed();
    assert!((Duration::from_millis(1400)..Duration::from_secs(4)).contains(&lived), "{lived:?}");
    let told = broker.client(&Connect::new(Version::Mqtt5, "told").keep_alive(1));
    assert_eq!(told.connack.property(0x13), Some(&[0, 5][..]));
}

/// MQTT 5: [MQTT-3.12.4-1]
/// MQTT 3.1.1: [MQTT-3.12.4-1]
#[test]
fn pings_keep_a_connection_alive() {
    let broker = broker();
    for version in BOTH {
        let mut client = broker.client(&Connect::new(version, &unique("pinging")).keep_alive(1));
        for _ in 0..4 {
            let_pass(Duration::from_millis(600));
            client.ping();
        }
    }
    // A keep-alive of 0 turns it off where the listener allows that.
    let mut quiet = broker.client(&Connect::new(Version::Mqtt5, &unique("quiet")).keep_alive(0));
    assert_eq!(quiet.connack.property(0x13), None);
    let_pass(Duration::from_millis(1600));
    quiet.ping();
}

/// MQTT 5: [MQTT-3.1.4-2] [MQTT-3.1.4-6] [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8]
/// [MQTT-3.14.0-1] [MQTT-4.13.2-1]
/// MQTT 3.1.1: [MQTT-3.1.4-5] [MQTT-3.2.2-6]
#[test]
fn nothing_after_a_refused_connect_is_processed() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("refused");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 0);
        let mut raw = Raw::tcp(broker.address("lean"));
        let will = Will::new(&topic, "will").qos(2);
        let connect = Connect::new(version, &unique("refused")).will(will);
        let publish = Publish::new(&topic, "after a refusal").bytes(version);
        raw.send(&[connect.bytes(), publish].concat());
        raw.expect_end();
        client(&broker, version).publish(&topic, "marker");
        reader.receive_text("marker");
    }
}

/// MQTT 5: [MQTT-3.1.2-30]
/// MQTT 3.1.1: [MQTT-3.2.0-1]
#[test]
fn packets_sent_right_after_connect_are_processed_after_connack() {
    let broker = broker();
    for version in ALL {
        let topic = unique("eager");
        let mut raw = broker.raw();
        raw.send(
            &[
                Connect::new(version, &unique("eager")).bytes(),
                wire::subscribe(version, 9, &[], &[(&topic, 0)]),
                Publish::new(&topic, "at once").bytes(version),
                PINGREQ.to_vec(),
            ]
            .concat(),
        );
        assert_eq!(Connack::parse(version, &raw.recv_packet()).code, 0);
        assert_eq!(raw.recv_packet()[0], 0x90);
        // The message and the answer to the ping have no order between them.
        let mut rest = [raw.recv_packet(), raw.recv_packet()];
        rest.sort();
        assert_eq!(Publish::parse(version, &rest[0]).text(), "at once");
        assert_eq!(rest[1], PINGRESP);
    }
}

/// MQTT 5: [MQTT-4.12.0-1] [MQTT-4.12.0-4] [MQTT-4.12.0-6] [MQTT-4.12.0-7] [MQTT-3.15.1-1]
#[test]
fn enhanced_authentication_is_refused_where_no_method_is_known() {
    let broker = broker();
    let mut raw = broker.raw();
    let method = property::authentication_method("SCRAM-SHA-256");
    let data = property::authentication_data(b"n,,n=x,r=y");
    let connect = Connect::new(Version::Mqtt5, &unique("auth"));
    raw.send(&connect.clone().properties(&[method.clone(), data.clone()].concat()).bytes());
    assert_eq!(Connack::parse(Version::Mqtt5, &raw.recv_packet()).code, 0x8c);
    raw.expect_closed();

    let mut raw = broker.raw();
    raw.send(&connect.clone().properties(&data).bytes());
    raw.expect_end();

    for auth in [wire::auth(0x19, &method), wire::auth(0x18, &method), vec![0xf1, 0]] {
        let mut client = broker.client(&connect);
        assert_eq!(client.connack.property(0x15), None);
        client.raw.send(&auth);
        client.raw.expect_disconnect(&[0x81, 0x82, 0x8c]);
    }
}

/// MQTT 5: [MQTT-3.1.2-28]
#[test]
fn response_information_is_not_given_unasked() {
    let broker = broker();
    let connect = Connect::new(Version::Mqtt5, &unique("unasked"));
    for properties in [vec![], property::request_response_information(0)] {
        let client = broker.client(&connect.clone().properties(&properties));
        assert_eq!(client.connack.property(0x1a), None);
    }
}

/// MQTT 5: [MQTT-3.1.3-8] [MQTT-3.1.3-4]
/// MQTT 3.1.1: [MQTT-3.1.3-4]
#[test]
fn a_client_identifier_has_to_be_utf_8_without_nul() {
    let broker = broker();
    for version in BOTH {
        for id in [&b"\xc0\x80"[..], b"\xed\xa0\x80", b"a\x00b", b"\xff", b"\xf5\x80\x80\x80"] {
            let mut raw = broker.raw();
            let level = if version == Version::Mqtt5 { 5 } else { 4 };
            let mut body = [&wire::text("MQTT")[..], &[level, 2, 0, 60]].concat();
            if version == Version::Mqtt5 {
                body.push(0);
            }
            body.extend(wire::binary(id));
            raw.send(&wire::packet(0x10, &body));
            raw.expect_end();
        }
    }
}

/// MQTT 5: [MQTT-3.1.3-11] [MQTT-3.1.3-12] [MQTT-1.5.4-1] [MQTT-1.5.4-2]
/// MQTT 3.1.1: [MQTT-3.1.3-10] [MQTT-3.1.3-11] [MQTT-1.5.3-1] [MQTT-1.5.3-2]
#[test]
fn the_will_topic_and_the_user_name_have_to_be_utf_8() {
    let broker = broker();
    for version in BOTH {
        let bad = [&b"\xc0\xaf"[..], b"\xed\xbf\xbf", b"x\x00"];
        for bytes in bad {
            let mut named = Connect::new(version, &unique("name"));
            named.username = Some(bytes.to_vec());
            let mut raw = broker.raw();
            raw.send(&named.bytes());
            raw.expect_end();

            // The will topic is replaced in the finished packet by bytes of the same length.
            let holder = "#".repeat(bytes.len());
            let mut willing =
                Connect::new(version, &unique("will")).will(Will::new(&holder, "x")).bytes();
            let at = willing.windows(bytes.len()).rposition(|w| w == holder.as_bytes()).unwrap();
            willing[at..at + bytes.len()].copy_from_slice(bytes);
            let mut raw = broker.raw();
            raw.send(&willing);
            raw.expect_end();
        }
    }
}
