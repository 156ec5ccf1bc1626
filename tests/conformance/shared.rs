//! Shared subscriptions.

use crate::harness::raw::Client;
use crate::harness::wire::{self, PUBACK, PUBREC, Publish, Version};
use crate::{BOTH, broker, client, durable, received_before, unique};

/// A member of a group, which also gets the marker of its own.
fn member(broker: &crate::Broker, version: Version, group: &str, topic: &str) -> Client {
    let mut member = client(broker, version);
    member.subscribe(&format!("$share/{group}/{topic}"), 1);
    member.subscribe(&format!("{topic}-marker"), 1);
    member
}

/// MQTT 5: [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn each_message_goes_to_one_member_of_each_group() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("work");
        let mut groups = [
            [member(&broker, version, "one", &topic), member(&broker, version, "one", &topic)],
            [member(&broker, version, "two", &topic), member(&broker, version, "two", &topic)],
        ];
        let mut alone = client(&broker, version);
        alone.subscribe(&topic, 1);
        let mut writer = client(&broker, version);
        let sent: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        for text in &sent {
            writer.publish_surely(&Publish::new(&topic, text));
        }
        writer.publish_surely(&Publish::new(&format!("{topic}-marker"), "marker"));
        for group in &mut groups {
            let mut received: Vec<String> = group
                .iter_mut()
                .flat_map(|member| received_before(member, "marker"))
                .map(|publish| publish.text().to_owned())
                .collect();
            received.sort_by_key(|text| text.parse::<u32>().unwrap());
            assert_eq!(received, sent, "every message once, to one of the group");
        }
        for text in &sent {
            alone.receive_text(text);
        }
    }
}

/// MQTT 5: [MQTT-4.8.2-1] [MQTT-4.8.2-2] [MQTT-3.8.4-7]
#[test]
fn a_shared_subscription_that_is_none_is_refused() {
    let broker = broker();
    for filter in
        ["$share/", "$share/g", "$share/g/", "$share//t", "$share/+/t", "$share/a#/t", "$share/#"]
    {
        let mut client = client(&broker, Version::Mqtt5);
        client.raw.send(&wire::subscribe(Version::Mqtt5, 1, &[], &[(filter, 0)]));
        let packet = client.raw.recv_packet();
        let reason = packet.last().copied().unwrap();
        if packet[0] == 0x90 {
            assert!(reason >= 0x80, "{filter} was granted");
        } else {
            assert_eq!(packet[0], 0xe0, "{filter}: {packet:02x?}");
        }
    }
}

/// MQTT 5: [MQTT-4.8.2-3]
#[test]
fn a_member_gets_no_more_qos_than_it_was_granted() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("granted");
        let mut reader = client(&broker, version);
        assert_eq!(reader.subscribe(&format!("$share/g/{topic}"), 0), 0);
        client(&broker, version).publish_surely(&Publish::new(&topic, "x"));
        assert_eq!(reader.receive_text("x").qos, 0);
    }
}

/// No retained messages come with a shared subscription (section 4.8.2).
#[test]
fn a_shared_subscription_brings_no_retained_messages() {
    let broker = broker();
    let topic = unique("unretained");
    client(&broker, Version::Mqtt5).publish_surely(&Publish::new(&topic, "x").retain());
    let mut reader = client(&broker, Version::Mqtt5);
    reader.subscribe(&format!("$share/g/{topic}"), 1);
    reader.ping();
}

/// MQTT 5: [MQTT-4.8.2-4]
#[test]
fn a_qos_2_delivery_that_began_is_completed_with_the_same_member() {
    let broker = broker();
    let version = Version::Mqtt5;
    let topic = unique("begun");
    let filter = format!("$share/g/{topic}");
    let connect = durable(version, &unique("begun"));
    let mut first = broker.client(&connect);
    first.subscribe(&filter, 2);
    let mut writer = client(&broker, version);
    writer.send(&Publish::new(&topic, "x").qos(2, 1));
    writer.expect_ack(PUBREC, 1);
    writer.raw.send(&wire::ack(wire::PUBREL, 1));
    writer.expect_ack(wire::PUBCOMP, 1);
    let begun = first.receive();
    first.raw.send(&wire::ack(PUBREC, begun.id.unwrap()));
    first.expect_ack(wire::PUBREL, begun.id.unwrap());
    let mut second = client(&broker, version);
    second.subscribe(&filter, 2);
    first.vanish();
    let mut first = broker.client(&connect);
    first.expect_ack(wire::PUBREL, begun.id.unwrap());
    first.raw.send(&wire::ack(wire::PUBCOMP, begun.id.unwrap()));
    second.ping();
}

/// MQTT 5: [MQTT-4.8.2-6]
#[test]
fn a_message_that_a_member_refuses_goes_to_nobody_else() {
    let broker = broker();
    let version = Version::Mqtt5;
    for qos in [1, 2] {
        let topic = unique("unwanted");
        let filter = format!("$share/g/{topic}");
        let mut first = client(&broker, version);
        first.subscribe(&filter, 2);
        let mut writer = client(&broker, version);
        writer.send(&Publish::new(&topic, "x").qos(qos, 1));
        if qos == 2 {
            writer.expect_ack(PUBREC, 1);
            writer.raw.send(&wire::ack(wire::PUBREL, 1));
            writer.expect_ack(wire::PUBCOMP, 1);
        } else {
            writer.expect_ack(PUBACK, 1);
        }
        let publish = first.receive();
        let mut second = client(&broker, version);
        second.subscribe(&filter, 2);
        let ack = if qos == 1 { PUBACK } else { PUBREC };
        first.raw.send(&wire::ack_with(ack, publish.id.unwrap(), 0x83));
        first.ping();
        second.ping();
    }
}

/// MQTT 5: [MQTT-3.8.4-3] [MQTT-3.10.4-1]
#[test]
fn a_shared_and_an_ordinary_subscription_to_one_filter_are_two() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("two");
        let shared = format!("$share/g/{topic}");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 1);
        reader.subscribe(&shared, 1);
        let mut writer = client(&broker, version);
        let marker = format!("{topic}/marker");
        reader.subscribe(&marker, 1);
        let mut count = || {
            writer.publish_surely(&Publish::new(&topic, "x"));
            writer.publish_surely(&Publish::new(&marker, "marker"));
            received_before(&mut reader, "marker").len()
        };
        // One copy for each is what two subscriptions give; one for both is allowed.
        assert!((1..=2).contains(&count()));
        let codes = reader.unsubscribe(&[&topic]);
        assert!(codes.iter().all(|code| *code == 0));
        let mut count = || {
            writer.publish_surely(&Publish::new(&topic, "x"));
            writer.publish_surely(&Publish::new(&marker, "marker"));
            received_before(&mut reader, "marker").len()
        };
        assert_eq!(count(), 1, "the shared one is left");
        reader.unsubscribe(&[&shared]);
        writer.publish_surely(&Publish::new(&topic, "x"));
        reader.ping();
    }
}
