//! The QoS handshakes, towards the broker and away from it.

use crate::harness::raw::Client;
use crate::harness::wire::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, Version, property};
use crate::{ALL, BOTH, Connect, broker, client, durable, received_before, texts, unique};

/// MQTT 5: [MQTT-3.3.4-1] [MQTT-4.3.1-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11]
/// [MQTT-2.2.1-5] [MQTT-2.2.1-2] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.7.2-1] [MQTT-2.2.1-4]
/// [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-4] [MQTT-3.6.2-1]
/// [MQTT-4.5.0-1]
/// MQTT 3.1.1: [MQTT-3.3.4-1] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1]
/// [MQTT-4.3.3-2] [MQTT-2.3.1-4] [MQTT-2.3.1-5] [MQTT-2.3.1-6] [MQTT-4.5.0-1]
#[test]
fn each_qos_is_delivered_with_its_handshake() {
    let broker = broker();
    for version in ALL {
        for qos in 0..=2 {
            let topic = unique("qos");
            let mut reader = client(&broker, version);
            assert_eq!(reader.subscribe(&topic, 2), 2);
            let mut writer = client(&broker, version);
            for id in [1, 65535, 300] {
                writer.send(&Publish::new(&topic, "m").qos(qos, id));
                match qos {
                    0 => {}
                    1 => writer.expect_ack(PUBACK, id),
                    _ => {
                        writer.expect_ack(PUBREC, id);
                        writer.raw.send(&wire::ack(PUBREL, id));
                        writer.expect_ack(PUBCOMP, id);
                    }
                }
                let received = reader.receive();
                assert_eq!((received.qos, received.dup, received.retain), (qos, false, false));
                assert_eq!((received.topic.as_str(), received.text()), (topic.as_str(), "m"));
                reader.acknowledge(&received);
            }
            reader.ping();
        }
    }
}

/// MQTT 5: [MQTT-4.3.3-10] [MQTT-4.3.3-12]
/// MQTT 3.1.1: [MQTT-4.3.3-2]
#[test]
fn a_qos_2_message_sent_twice_is_delivered_once() {
    let broker = broker();
    for version in ALL {
        let topic = unique("once");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 2);
        let mut writer = client(&broker, version);
        let publish = Publish::new(&topic, "first").qos(2, 7);
        writer.send(&publish);
        writer.expect_ack(PUBREC, 7);
        writer.send(&publish.clone().dup());
        writer.expect_ack(PUBREC, 7);
        writer.raw.send(&wire::ack(PUBREL, 7));
        writer.expect_ack(PUBCOMP, 7);
        // After PUBCOMP the identifier is free again.
        writer.send(&Publish::new(&topic, "second").qos(2, 7));
        writer.expect_ack(PUBREC, 7);
        writer.raw.send(&wire::ack(PUBREL, 7));
        writer.expect_ack(PUBCOMP, 7);
        reader.receive_text("first");
        reader.receive_text("second");
        reader.ping();
    }
}

/// MQTT 5: [MQTT-4.3.3-10] [MQTT-4.3.3-13]
/// MQTT 3.1.1: [MQTT-4.4.0-1]
#[test]
fn a_qos_2_message_sent_again_after_a_reconnect_is_delivered_once() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("again");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 2);
        let connect = durable(version, &unique("again"));
        let publish = Publish::new(&topic, "first").qos(2, 7);
        let mut writer = broker.client(&connect);
        writer.send(&publish);
        writer.expect_ack(PUBREC, 7);
        writer.vanish();
        let mut writer = broker.client(&connect);
        assert!(writer.connack.session_present());
        writer.send(&publish.dup());
        writer.expect_ack(PUBREC, 7);
        writer.raw.send(&wire::ack(PUBREL, 7));
        writer.expect_ack(PUBCOMP, 7);
        writer.send(&Publish::new(&topic, "marker").qos(2, 8));
        writer.expect_ack(PUBREC, 8);
        writer.raw.send(&wire::ack(PUBREL, 8));
        writer.expect_ack(PUBCOMP, 8);
        assert_eq!(texts(&received_before(&mut reader, "marker")), ["first"]);
    }
}

/// MQTT 5: [MQTT-4.3.2-5]
#[test]
fn an_acknowledged_qos_1_identifier_is_new_again_whatever_dup_says() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("renewed");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 1);
        let mut writer = client(&broker, version);
        for publish in
            [Publish::new(&topic, "x").qos(1, 3), Publish::new(&topic, "y").qos(1, 3).dup()]
        {
            writer.send(&publish);
            writer.expect_ack(PUBACK, 3);
        }
        reader.receive_text("x");
        reader.receive_text("y");
    }
}

/// MQTT 5: [MQTT-3.3.1-3] [MQTT-3.3.1-2]
/// MQTT 3.1.1: [MQTT-3.3.1-3] [MQTT-3.3.1-2]
#[test]
fn dup_is_not_passed_on() {
    let broker = broker();
    for version in BOTH {
        for options in [0, 1, 2] {
            let topic = unique("dup");
            let mut reader = client(&broker, version);
            reader.subscribe(&topic, options);
            let mut writer = client(&broker, version);
            writer.send(&Publish::new(&topic, "x").qos(1, 5).dup());
            writer.expect_ack(PUBACK, 5);
            let received = reader.receive_text("x");
            assert!(!received.dup);
        }
    }
}

/// MQTT 5: [MQTT-4.3.3-11]
/// MQTT 3.1.1: [MQTT-4.3.3-2]
#[test]
fn a_pubrel_nobody_waits_for_is_completed_all_the_same() {
    let broker = broker();
    for version in BOTH {
        let mut client = client(&broker, version);
        client.raw.send(&wire::ack(PUBREL, 99));
        let reason = client.expect_ack_any(PUBCOMP, 99);
        // Packet Identifier not found, where a reason can be given.
        assert!(if version == Version::Mqtt5 { [0, 0x92].contains(&reason) } else { reason == 0 });
        client.ping();
    }
}

/// Sends three messages to a session and takes them without an answer.
fn unanswered(reader: &mut Client, writer: &mut Client, topic: &str, qos: u8) -> Vec<Publish> {
    let mut received = Vec::new();
    for (number, text) in (1..).zip(["a", "b", "c"]) {
        writer.send(&Publish::new(topic, text).qos(qos, number));
        if qos == 1 {
            writer.expect_ack(PUBACK, number);
        } else {
            writer.expect_ack(PUBREC, number);
            writer.raw.send(&wire::ack(PUBREL, number));
            writer.expect_ack(PUBCOMP, number);
        }
        received.push(reader.receive());
    }
    received
}

/// MQTT 5: [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3]
/// [MQTT-4.1.0-1]
/// MQTT 3.1.1: [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.1.0-1] [MQTT-2.3.1-2]
/// [MQTT-2.3.1-3]
#[test]
fn unacknowledged_messages_come_again_in_order_with_dup_and_their_identifiers() {
    let broker = broker();
    for version in BOTH {
        for qos in [1, 2] {
            let topic = unique("resend");
            let connect = durable(version, &unique("resend"));
            let mut reader = broker.client(&connect);
            reader.subscribe(&topic, 2);
            let mut writer = client(&broker, version);
            let sent = unanswered(&mut reader, &mut writer, &topic, qos);
            assert!(sent.iter().all(|publish| !publish.dup));
            // Not before a reconnect: nothing is repeated on a connection that stands.
            reader.ping();
            reader.vanish();
            let mut reader = broker.client(&connect);
            assert!(reader.connack.session_present());
            for before in &sent {
                let again = reader.receive();
                assert!(again.dup, "{again:?}");
                assert_eq!(&Publish { dup: false, ..again.clone() }, before);
                reader.acknowledge(&again);
            }
            reader.ping();
            // Acknowledged is over: a further reconnect brings nothing.
            reader.vanish();
            broker.client(&connect).ping();
        }
    }
}

/// MQTT 5: [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1]
/// MQTT 3.1.1: [MQTT-4.3.3-1] [MQTT-4.4.0-1]
#[test]
fn after_pubrec_it_is_pubrel_that_comes_again() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("release");
        let connect = durable(version, &unique("release"));
        let mut reader = broker.client(&connect);
        reader.subscribe(&topic, 2);
        let mut writer = client(&broker, version);
        let sent = unanswered(&mut reader, &mut writer, &topic, 2);
        let ids: Vec<u16> = sent.iter().filter_map(|publish| publish.id).collect();
        for id in &ids {
            reader.raw.send(&wire::ack(PUBREC, *id));
            reader.expect_ack(PUBREL, *id);
        }
        reader.vanish();
        let mut reader = broker.client(&connect);
        for id in &ids {
            reader.expect_ack(PUBREL, *id);
            reader.raw.send(&wire::ack(PUBCOMP, *id));
        }
        reader.ping();
    }
}

/// MQTT 5: [MQTT-4.4.0-2] [MQTT-4.3.3-4]
#[test]
fn a_refusing_acknowledgement_ends_a_delivery() {
    const V: Version = Version::Mqtt5;
    let broker = broker();
    for qos in [1, 2] {
        let topic = unique("refusing");
        let connect = durable(V, &unique("refusing"));
        let mut reader = broker.client(&connect);
        reader.subscribe(&topic, 2);
        let mut writer = client(&broker, V);
        for publish in unanswered(&mut reader, &mut writer, &topic, qos) {
            let first = if qos == 1 { PUBACK } else { PUBREC };
            reader.raw.send(&wire::ack_with(first, publish.id.unwrap(), 0x80));
        }
        // No PUBREL comes, and nothing after a reconnect.
        reader.ping();
        reader.vanish();
        broker.client(&connect).ping();
    }
}

/// MQTT 5: [MQTT-4.6.0-5] [MQTT-4.6.0-6]
/// MQTT 3.1.1: [MQTT-4.6.0-5] [MQTT-4.6.0-6]
#[test]
fn messages_of_one_publisher_keep_their_order() {
    let broker = broker();
    for version in BOTH {
        for qos in 0..=2 {
            let topic = unique("order");
            let mut reader = client(&broker, version);
            reader.subscribe(&topic, qos);
            let mut writer = client(&broker, version);
            // In portions below the receive maximum, acknowledged in order after each.
            for portion in 0..10 {
                let ids: Vec<u16> = (1..=10).map(|n| portion * 10 + n).collect();
                for id in &ids {
                    writer.send(&Publish::new(&topic, &id.to_string()).qos(qos, *id));
                }
                match qos {
                    0 => {}
                    1 => {
                        for id in &ids {
                            writer.expect_ack(PUBACK, *id);
                        }
                    }
                    _ => {
                        for id in &ids {
                            writer.expect_ack(PUBREC, *id);
                        }
                        for id in &ids {
                            writer.raw.send(&wire::ack(PUBREL, *id));
                        }
                        for id in &ids {
                            writer.expect_ack(PUBCOMP, *id);
                        }
                    }
                }
                let received: Vec<Publish> = ids.iter().map(|_| reader.receive()).collect();
                let expected: Vec<String> = ids.iter().map(u16::to_string).collect();
                assert_eq!(texts(&received), expected);
                for publish in &received {
                    reader.acknowledge(publish);
                }
            }
        }
    }
}

/// MQTT 5: [MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
#[test]
fn no_more_is_sent_than_the_client_takes_at_a_time() {
    const V: Version = Version::Mqtt5;
    let broker = broker();
    let topic = unique("window");
    let connect = Connect::new(V, &unique("window")).properties(&property::receive_maximum(2));
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, 2);
    let mut writer = client(&broker, V);
    for text in ["a", "b", "c", "d"] {
        writer.publish_surely(&Publish::new(&topic, text));
    }
    let mut open = vec![reader.receive(), reader.receive()];
    assert_eq!(texts(&open), ["a", "b"]);
    for next in ["c", "d"] {
        // Full, and yet it answers everything else.
        reader.ping();
        reader.subscribe(&unique("other"), 0);
        let oldest = open.remove(0);
        reader.acknowledge(&oldest);
        let publish = reader.receive();
        assert_eq!(publish.text(), next);
        open.push(publish);
    }
    for publish in open {
        reader.acknowledge(&publish);
    }
    reader.ping();
}

/// A QoS 2 delivery counts until PUBCOMP, one that PUBREC refused until then.
#[test]
fn the_window_opens_with_pubcomp_or_a_refusing_pubrec() {
    const V: Version = Version::Mqtt5;
    let broker = broker();
    let topic = unique("window2");
    let connect = Connect::new(V, &unique("window2")).properties(&property::receive_maximum(1));
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, 2);
    let mut writer = client(&broker, V);
    for (id, text) in (1..).zip(["a", "b", "c"]) {
        writer.send(&Publish::new(&topic, text).qos(2, id));
        writer.expect_ack(PUBREC, id);
        writer.raw.send(&wire::ack(PUBREL, id));
        writer.expect_ack(PUBCOMP, id);
    }
    let first = reader.receive().id.unwrap();
    reader.raw.send(&wire::ack(PUBREC, first));
    reader.expect_ack(PUBREL, first);
    reader.ping();
    reader.raw.send(&wire::ack(PUBCOMP, first));
    let second = reader.receive();
    assert_eq!(second.text(), "b");
    reader.raw.send(&wire::ack_with(PUBREC, second.id.unwrap(), 0x83));
    reader.receive_text("c");
}
