//! Retained messages.

use crate::harness::wire::{Publish, Version, property};
use crate::{BOTH, broker, client, durable, unique};

/// Retain Handling in the options byte of SUBSCRIBE.
const SEND_IF_NEW: u8 = 0x10;
const SEND_NEVER: u8 = 0x20;
const RETAIN_AS_PUBLISHED: u8 = 0x08;

/// MQTT 5: [MQTT-3.3.1-5] [MQTT-3.3.1-9]
/// MQTT 3.1.1: [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8]
#[test]
fn a_new_subscription_gets_the_last_retained_message_of_each_topic() {
    let broker = broker();
    for version in BOTH {
        let first = unique("retained");
        let mut writer = client(&broker, version);
        for (topic, text) in [("a", "old"), ("a", "new"), ("b", "other")] {
            writer.publish_surely(&Publish::new(&format!("{first}/{topic}"), text).retain());
        }
        let mut reader = client(&broker, version);
        reader.subscribe(&format!("{first}/+"), 1);
        let mut received = [reader.receive(), reader.receive()];
        received.sort_by(|a, b| a.topic.cmp(&b.topic));
        for (publish, text) in received.iter().zip(["new", "other"]) {
            assert_eq!(publish.text(), text);
            assert!(publish.retain, "a retained message says so");
            assert_eq!(publish.qos, 1, "with the QoS it was published with");
            reader.acknowledge(publish);
        }
        reader.ping();
    }
}

/// MQTT 5: [MQTT-3.3.1-6] [MQTT-3.3.1-7]
/// MQTT 3.1.1: [MQTT-3.3.1-10] [MQTT-3.3.1-11]
#[test]
fn an_empty_retained_message_removes_and_is_not_kept() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("cleared");
        let mut present = client(&broker, version);
        present.subscribe(&topic, 0);
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "x").retain());
        writer.publish_surely(&Publish::new(&topic, "").retain());
        // Those who were there get both, as ordinary messages.
        for text in ["x", ""] {
            assert!(!present.receive_text(text).retain);
        }
        let mut late = client(&broker, version);
        late.subscribe(&topic, 0);
        late.ping();
    }
}

/// MQTT 5: [MQTT-3.3.1-8]
/// MQTT 3.1.1: [MQTT-3.3.1-12]
#[test]
fn an_ordinary_message_neither_replaces_nor_removes_a_retained_one() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("untouched");
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "kept").retain());
        writer.publish_surely(&Publish::new(&topic, "passing"));
        writer.publish_surely(&Publish::new(&topic, ""));
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 0);
        reader.receive_text("kept");
        reader.ping();
    }
}

/// MQTT 3.1.1: [MQTT-3.3.1-7]
#[test]
fn a_retained_message_of_qos_0_replaces_the_one_before() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("zero");
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "one").retain());
        writer.send(&Publish::new(&topic, "zero").retain());
        writer.ping();
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 1);
        let received = reader.receive_text("zero");
        assert_eq!((received.qos, received.retain), (0, true));
    }
}

/// MQTT 5: [MQTT-3.3.1-12] [MQTT-3.3.1-13]
/// MQTT 3.1.1: [MQTT-3.3.1-9]
#[test]
fn the_retain_flag_is_passed_on_only_where_the_subscriber_asked_for_it() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("flag");
        let mut plain = client(&broker, version);
        plain.subscribe(&topic, 0);
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "retained").retain());
        assert!(!plain.receive_text("retained").retain);
        writer.publish_surely(&Publish::new(&topic, "ordinary"));
        assert!(!plain.receive_text("ordinary").retain);
    }
    let topic = unique("as-published");
    let mut curious = client(&broker, Version::Mqtt5);
    curious.subscribe(&topic, RETAIN_AS_PUBLISHED);
    let mut writer = client(&broker, Version::Mqtt5);
    writer.publish_surely(&Publish::new(&topic, "retained").retain());
    assert!(curious.receive_text("retained").retain);
    writer.publish_surely(&Publish::new(&topic, "ordinary"));
    assert!(!curious.receive_text("ordinary").retain);
}

/// MQTT 5: [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]
/// MQTT 3.1.1: [MQTT-3.8.4-3]
#[test]
fn retain_handling_decides_what_a_subscription_brings() {
    const V: Version = Version::Mqtt5;
    let broker = broker();
    let topic = unique("handling");
    client(&broker, V).publish_surely(&Publish::new(&topic, "kept").retain());
    // For each option: does a first, and does a repeated subscription bring it?
    for (options, first, again) in
        [(0, true, true), (SEND_IF_NEW, true, false), (SEND_NEVER, false, false)]
    {
        let mut reader = client(&broker, V);
        for brings in [first, again] {
            reader.subscribe(&topic, options);
            if brings {
                assert!(reader.receive_text("kept").retain);
            }
            reader.ping();
        }
    }
    // A subscription that a resumed session brought with it did exist.
    let connect = durable(V, &unique("handling"));
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, SEND_NEVER);
    reader.disconnect();
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, SEND_IF_NEW);
    reader.ping();
    reader.unsubscribe(&[&topic]);
    reader.subscribe(&topic, SEND_IF_NEW);
    reader.receive_text("kept");

    // MQTT 3.1.1 always sends again.
    let mut reader = client(&broker, Version::Mqtt311);
    for _ in 0..2 {
        reader.subscribe(&topic, 0);
        assert!(reader.receive_text("kept").retain);
    }
}

/// MQTT 3.1.1: [MQTT-3.1.2-7]
#[test]
fn retained_messages_outlive_the_session_that_made_them() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("outlives");
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "kept").retain());
        writer.disconnect();
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 0);
        reader.receive_text("kept");
    }
}

/// MQTT 5: [MQTT-3.3.2-4] [MQTT-3.3.2-17] [MQTT-3.8.4-8]
#[test]
fn a_retained_message_keeps_its_properties() {
    const V: Version = Version::Mqtt5;
    let broker = broker();
    let topic = unique("furnished");
    let properties = [
        property::payload_format(1),
        property::content_type("x/y"),
        property::user("n", "v"),
        property::message_expiry(1000),
    ]
    .concat();
    let publish = Publish::new(&topic, "x").properties(&properties).retain();
    client(&broker, V).publish_surely(&publish);
    let mut reader = client(&broker, V);
    reader.subscribe_with(&property::subscription_id(5), &[(&topic, 0)]);
    let received = reader.receive();
    assert_eq!(received.qos, 0, "no more than the subscription asked for");
    assert_eq!(received.subscription_ids(), [5]);
    for id in [0x01, 0x03, 0x26] {
        assert_eq!(received.all(id), publish.all(id));
    }
    assert!(received.property(0x02).is_some());
    // MQTT 3 gets it without properties.
    let mut reader = client(&broker, Version::Mqtt311);
    reader.subscribe(&topic, 0);
    reader.receive_text("x");
}
