//! What a server announces, and keeps to, where it offers less than everything.

use crate::harness::raw::{Client, Raw};
use crate::harness::wire::{
    self, Connack, Connect, PUBACK, PUBREC, Publish, Version, Will, property,
};
use crate::{BOTH, broker, client, durable, expect_refused, unique};

const V: Version = Version::Mqtt5;

fn lean(connect: &Connect) -> Client {
    Client::connect(broker().address("lean"), connect)
}

/// MQTT 5: [MQTT-3.2.2-9] [MQTT-3.2.2-18] [MQTT-3.1.2-21] [MQTT-3.2.2-21] [MQTT-3.2.2-22]
#[test]
fn connack_announces_what_is_not_offered() {
    let _broker = broker();
    for keep_alive in [0, 60] {
        let client = lean(&Connect::new(V, &unique("lean")).keep_alive(keep_alive));
        let one = |id| client.connack.property(id).map(<[u8]>::to_vec);
        assert_eq!(one(0x24), Some(vec![1]), "Maximum QoS");
        assert_eq!(one(0x25), Some(vec![0]), "Retain Available");
        assert_eq!(one(0x28), Some(vec![0]), "Wildcard Subscription Available");
        assert_eq!(one(0x29), Some(vec![0]), "Subscription Identifiers Available");
        assert_eq!(one(0x2a), Some(vec![0]), "Shared Subscription Available");
        assert_eq!(one(0x13), Some(vec![0, 30]), "Server Keep Alive");
        assert!([None, Some(vec![0, 0])].contains(&one(0x22)), "Topic Alias Maximum");
    }
    let client = lean(&Connect::new(V, &unique("lean")).keep_alive(20));
    assert_eq!(client.connack.property(0x13), None, "short enough as it is");
}

/// MQTT 5: [MQTT-3.2.2-10] [MQTT-3.2.2-11] [MQTT-3.2.2-14] [MQTT-3.2.2-17]
#[test]
fn what_is_not_offered_is_refused() {
    let _broker = broker();
    let connect = || Connect::new(V, &unique("lean"));
    // A QoS that cannot be published with can be subscribed to.
    let topic = unique("lean");
    assert!(lean(&connect()).subscribe(&topic, 2) <= 2);
    let publish = Publish::new(&topic, "x");
    let subscribe = |filter| wire::subscribe(V, 1, &[], &[(filter, 0)]);
    let rows = [
        ("QoS 2", publish.clone().qos(2, 1).bytes(V), 0x9b),
        ("retained", publish.clone().retain().bytes(V), 0x9a),
        ("alias", publish.properties(&property::topic_alias(1)).bytes(V), 0x94),
        ("wildcard", subscribe("a/+"), 0xa2),
        ("shared", subscribe("$share/g/a"), 0x9e),
        (
            "subscription identifier",
            wire::subscribe(V, 1, &property::subscription_id(1), &[("a", 0)]),
            0xa1,
        ),
    ];
    for (what, bytes, reason) in rows {
        let mut client = lean(&connect());
        client.raw.send(&bytes);
        println!("{what}");
        let packet = client.raw.recv_packet();
        // SUBSCRIBE may be refused in SUBACK as well as by DISCONNECT.
        match packet[0] {
            0x90 => assert_eq!(packet.last(), Some(&reason)),
            0xe0 => assert_eq!(packet[2], reason),
            _ => panic!("{packet:02x?}"),
        }
    }
}

/// MQTT 5: [MQTT-3.2.2-12] [MQTT-3.2.2-13]
#[test]
fn a_will_beyond_what_is_offered_refuses_the_connection() {
    let broker = broker();
    for (will, reason) in [(Will::new("t", "x").qos(2), 0x9b), (Will::new("t", "x").retain(), 0x9a)]
    {
        let mut raw = Raw::tcp(broker.address("lean"));
        raw.send(&Connect::new(V, &unique("lean")).will(will).bytes());
        assert_eq!(Connack::parse(V, &raw.recv_packet()).code, reason);
        raw.expect_closed();
    }
}

/// MQTT 5: [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn a_message_too_large_for_its_reader_is_as_good_as_delivered() {
    let broker = broker();
    for qos in [0, 1, 2] {
        let topic = unique("large");
        let properties =
            [property::maximum_packet_size(100), property::receive_maximum(1)].concat();
        let connect = durable(V, &unique("large")).properties(&properties);
        let mut reader = broker.client(&connect);
        reader.subscribe(&topic, qos);
        let mut writer = client(&broker, V);
        for payload in [&"x".repeat(200), "fits", &"x".repeat(200), "fits too"] {
            writer.publish_surely(&Publish::new(&topic, payload));
        }
        reader.receive_text("fits");
        reader.receive_text("fits too");
        reader.ping();
        reader.vanish();
        broker.client(&connect).ping();
    }
}

/// Of a packet whose Reason String or User Properties would be too much, those are left out.
///
/// MQTT 5: [MQTT-3.1.2-24] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.9.2-1] [MQTT-3.9.2-2]
/// [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.7.2-2]
/// [MQTT-3.7.2-3] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3]
#[test]
fn answers_fit_the_smallest_packet_a_client_takes() {
    let broker = broker();
    let connect = |maximum| {
        Connect::new(V, &unique("tiny")).properties(&property::maximum_packet_size(maximum))
    };
    let maximum = 64;
    let mut client = broker.client(&connect(maximum));
    for (request, first) in [
        (wire::subscribe(V, 1, &[], &[(&crate::too_deep(), 0)]), 0x90),
        (wire::unsubscribe(V, 1, &["never/there"]), 0xb0),
        (wire::ack(wire::PUBREL, 9), 0x70),
        (Publish::new("nobody/listens", "x").qos(1, 1).bytes(V), 0x40),
        (Publish::new("nobody/listens", "x").qos(2, 2).bytes(V), 0x50),
    ] {
        client.raw.send(&request);
        let packet = client.raw.recv_packet();
        assert_eq!(packet[0], first, "{packet:02x?}");
        assert!(packet.len() <= maximum as usize, "{packet:02x?}");
    }
    client.raw.send(&[0x00, 0]);
    let packet = client.raw.recv_packet();
    assert!(packet[0] == 0xe0 && packet.len() <= maximum as usize, "{packet:02x?}");
    client.raw.expect_closed();
}

/// MQTT 5: [MQTT-3.2.2-15] [MQTT-3.3.4-7]
#[test]
fn a_client_that_sends_more_than_was_announced_is_disconnected() {
    let broker = broker();
    let narrow = || {
        let connect = Connect::new(V, &unique("narrow"));
        Client::connect(broker.address("narrow"), &connect)
    };

    let mut client = narrow();
    assert_eq!(client.connack.property(0x27), Some(&1024_u32.to_be_bytes()[..]));
    let fits = 1024 - 3 - 3 - 1;
    client.publish("t", &"x".repeat(fits));
    client.ping();
    // Refused by its header; the rest of it may meet a closed connection.
    let _ = client.raw.try_send(&Publish::new("t", &"x".repeat(fits + 1)).bytes(V));
    client.raw.expect_disconnect(&[0x95]);

    let mut client = narrow();
    assert_eq!(client.connack.property(0x21), Some(&[0, 2][..]));
    for id in 1..=3 {
        client.send(&Publish::new("t", "x").qos(2, id));
    }
    client.expect_ack(PUBREC, 1);
    client.expect_ack(PUBREC, 2);
    client.raw.expect_disconnect(&[0x93]);

    // Acknowledged ones do not count.
    let mut client = narrow();
    for id in 1..=9 {
        client.send(&Publish::new("t", "x").qos(1, id));
        client.expect_ack(PUBACK, id);
    }
}

/// MQTT 5: [MQTT-3.2.2-22]
#[test]
fn an_expiry_beyond_the_cap_is_shortened_and_said_so() {
    let broker = broker();
    let connect = durable(V, &unique("capped"));
    let client = Client::connect(broker.address("narrow"), &connect);
    assert_eq!(client.connack.property(0x11), Some(&60_u32.to_be_bytes()[..]));
    // What it asked for anyhow is not repeated.
    let connect = Connect::new(V, &unique("capped")).properties(&property::session_expiry(30));
    let client = Client::connect(broker.address("narrow"), &connect);
    assert!([None, Some(&30_u32.to_be_bytes()[..])].contains(&client.connack.property(0x11)));
}

/// MQTT 3.1.1: [MQTT-4.8.0-1]
#[test]
fn mqtt_3_is_refused_by_the_end_of_the_connection() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, &unique("lean"));
        let mut client = Client::connect(broker.address("lean"), &connect);
        client.send(&Publish::new("t", "x").retain());
        expect_refused(&mut client.raw, version, &[0x9a]);
    }
}
