//! What MQTT 5 lets a message carry: forwarded unaltered, except where the broker must act on it.

use std::time::{Duration, Instant};

use crate::harness::wire::{Connect, Publish, Version, property};
use crate::{broker, client, durable, let_pass, received_before, texts, unique};

const V: Version = Version::Mqtt5;

/// MQTT 5: [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18]
/// [MQTT-3.3.2-20] [MQTT-3.3.2-3]
#[test]
fn properties_reach_the_subscriber_unaltered_and_user_properties_in_order() {
    let broker = broker();
    let topic = unique("carried");
    let mut readers: Vec<_> = (0..2).map(|_| client(&broker, V)).collect();
    for reader in &mut readers {
        reader.subscribe(&topic, 1);
    }
    let sent = Publish::new(&topic, "body").properties(
        &[
            property::payload_format(1),
            property::content_type("text/plain; charset=utf-8"),
            property::response_topic("answers/here"),
            property::correlation_data(&[0, 1, 0xff, 0x80]),
            property::user("z", "1"),
            property::user("a", "2"),
            property::user("z", "0"),
            property::user("", ""),
        ]
        .concat(),
    );
    client(&broker, V).publish_surely(&sent);
    for mut reader in readers {
        let received = reader.receive();
        assert_eq!(received.topic, topic);
        for id in [0x01, 0x03, 0x08, 0x09, 0x26] {
            assert_eq!(received.all(id), sent.all(id), "property 0x{id:02x}");
        }
        for id in [0x02, 0x0b, 0x23] {
            assert_eq!(received.property(id), None, "property 0x{id:02x} came from nowhere");
        }
    }
}

/// A property of no bytes is present all the same.
///
/// MQTT 5: [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-20]
#[test]
fn an_empty_property_is_still_a_property() {
    let broker = broker();
    let topic = unique("empty");
    let mut reader = client(&broker, V);
    reader.subscribe(&topic, 1);
    let properties = [property::content_type(""), property::correlation_data(b"")].concat();
    client(&broker, V).publish_surely(&Publish::new(&topic, "x").properties(&properties));
    let received = reader.receive();
    assert_eq!(received.property(0x03), Some(vec![0, 0]));
    assert_eq!(received.property(0x09), Some(vec![0, 0]));
}

/// MQTT 5: [MQTT-3.3.2-6]
#[test]
fn the_expiry_interval_shrinks_by_the_time_spent_waiting() {
    let broker = broker();
    let topic = unique("shrinks");
    let connect = durable(V, &unique("shrinks"));
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, 1);
    let mut writer = client(&broker, V);
    let publish = Publish::new(&topic, "x").properties(&property::message_expiry(100));
    let seconds = |received: Publish| {
        u32::from_be_bytes(received.property(0x02).unwrap().try_into().unwrap())
    };
    // However slow the machine is: no more than has passed here is missing.
    let missing = |began: Instant| 1 + u32::try_from(began.elapsed().as_secs()).unwrap();
    let began = Instant::now();
    writer.publish_surely(&publish);
    let left = seconds(reader.receive_text("x"));
    assert!((100 - missing(began)..=100).contains(&left), "{left}");
    reader.disconnect();
    let began = Instant::now();
    writer.publish_surely(&publish);
    let_pass(Duration::from_millis(2100));
    let left = seconds(broker.client(&connect).receive_text("x"));
    assert!((100 - missing(began)..=98).contains(&left), "{left}");
}

/// MQTT 5: [MQTT-3.3.2-5]
#[test]
fn an_expired_message_is_not_delivered() {
    let broker = broker();
    let topic = unique("expires");
    let connect = durable(V, &unique("expires"));
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, 1);
    reader.disconnect();
    let mut writer = client(&broker, V);
    let expiring = property::message_expiry(1);
    writer.publish_surely(&Publish::new(&topic, "short-lived").properties(&expiring));
    let retained = format!("{topic}/retained");
    writer.publish_surely(&Publish::new(&retained, "x").properties(&expiring).retain());
    writer.publish_surely(&Publish::new(&topic, "marker"));
    let_pass(Duration::from_millis(2100));
    let mut reader = broker.client(&connect);
    assert_eq!(texts(&received_before(&mut reader, "marker")), [""; 0]);
    reader.subscribe(&retained, 1);
    reader.ping();
}

/// MQTT 5: [MQTT-3.3.2-12] [MQTT-3.2.2-17]
#[test]
fn every_announced_topic_alias_works_and_can_be_given_anew() {
    let broker = broker();
    let first = unique("alias");
    let mut reader = client(&broker, V);
    reader.subscribe(&format!("{first}/+"), 1);
    let mut writer = client(&broker, V);
    let maximum = writer.connack.property(0x22).expect("a Topic Alias Maximum").to_vec();
    let maximum = u16::from_be_bytes(maximum.try_into().unwrap());
    assert_eq!(maximum, 16, "as configured");
    for round in 0..2 {
        for alias in 1..=maximum {
            let topic = format!("{first}/{round}-{alias}");
            let named = Publish::new(&topic, "named").properties(&property::topic_alias(alias));
            writer.publish_surely(&named);
            let aliased = Publish { topic: String::new(), ..named.clone() };
            writer.publish_surely(&Publish { payload: b"aliased".to_vec(), ..aliased });
            for text in ["named", "aliased"] {
                let received = reader.receive_text(text);
                assert_eq!(received.topic, topic);
                // The alias is between the publisher and the broker alone.
                assert_eq!(received.property(0x23), None);
            }
        }
    }
}

/// MQTT 5: [MQTT-3.3.2-7] [MQTT-3.3.2-9]
#[test]
fn topic_aliases_end_with_their_connection_and_at_their_maximum() {
    let broker = broker();
    let topic = unique("ends");
    let aliased = Publish::new("", "x").properties(&property::topic_alias(1)).bytes(V);
    let connect = durable(V, &unique("ends"));
    let mut writer = broker.client(&connect);
    let named = Publish::new(&topic, "x").properties(&property::topic_alias(1));
    writer.publish_surely(&named);
    writer.vanish();
    let mut writer = broker.client(&connect);
    assert!(writer.connack.session_present());
    writer.raw.send(&aliased);
    writer.raw.expect_disconnect(&[0x82, 0x94]);

    for (what, publish, reasons) in [
        (
            "beyond the maximum",
            Publish::new(&topic, "x").properties(&property::topic_alias(17)),
            &[0x94][..],
        ),
        ("neither topic nor alias", Publish::new("", "x"), &[0x81, 0x82, 0x90]),
    ] {
        let mut writer = client(&broker, V);
        writer.send(&publish);
        println!("{what}");
        writer.raw.expect_disconnect(reasons);
    }
}

/// MQTT 5: [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-11]
#[test]
fn the_broker_uses_only_aliases_that_the_client_takes() {
    let broker = broker();
    for maximum in [None, Some(0), Some(3)] {
        let first = unique("outgoing");
        let mut connect = Connect::new(V, &unique("outgoing"));
        if let Some(maximum) = maximum {
            connect = connect.properties(&property::topic_alias_maximum(maximum));
        }
        let mut reader = broker.client(&connect);
        reader.subscribe(&format!("{first}/#"), 1);
        let mut writer = client(&broker, V);
        let mut aliases = std::collections::BTreeMap::new();
        for round in 0..20 {
            let topic = format!("{first}/{}", round % 5);
            writer.publish_surely(&Publish::new(&topic, "x"));
            let received = reader.receive_text("x");
            let alias = received.property(0x23).map(|v| u16::from_be_bytes(v.try_into().unwrap()));
            if let Some(alias) = alias {
                assert!((1..=maximum.unwrap_or(0)).contains(&alias), "{alias} of {maximum:?}");
                if !received.topic.is_empty() {
                    aliases.insert(alias, received.topic.clone());
                }
                assert_eq!(aliases[&alias], topic);
            } else {
                assert_eq!(received.topic, topic);
            }
        }
        assert_eq!(aliases.len(), usize::from(maximum.unwrap_or(0)), "all are used");
    }
}

/// MQTT 5: [MQTT-3.1.2-29]
#[test]
fn no_reason_is_told_to_whom_asked_for_none() {
    let broker = broker();
    let connect = Connect::new(V, &unique("unexplained"))
        .properties(&property::request_problem_information(0));
    let mut client = broker.client(&connect);
    // SUBACK, UNSUBACK and PUBCOMP that have something to complain about.
    for (request, answer) in [
        (crate::harness::wire::subscribe(V, 1, &[], &[(&crate::too_deep(), 0)]), 0x90),
        (crate::harness::wire::unsubscribe(V, 1, &["never/subscribed"]), 0xb0),
    ] {
        client.raw.send(&request);
        let packet = client.raw.recv_packet();
        assert_eq!(packet[0], answer, "{packet:02x?}");
        assert_eq!(packet[4], 0, "no properties: {packet:02x?}");
    }
    client.raw.send(&crate::harness::wire::ack(0x62, 77));
    let packet = client.raw.recv_packet();
    assert!(packet.len() <= 5 || packet[5] == 0, "{packet:02x?}");
}
