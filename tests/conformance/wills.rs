//! Wills.

use std::time::{Duration, Instant};

use crate::harness::wire::{Connect, Publish, Version, Will, property};
use crate::{BOTH, broker, client, durable, let_pass, received_before, texts, unique};

const V: Version = Version::Mqtt5;

/// MQTT 5: [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.2-14]
/// MQTT 3.1.1: [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.2-16]
#[test]
fn a_will_is_published_when_the_network_fails() {
    let broker = broker();
    for version in BOTH {
        for qos in 0..=2 {
            let topic = unique("will");
            let mut reader = client(&broker, version);
            reader.subscribe(&topic, 2);
            let id = unique("will");
            let connect = Connect::new(version, &id).will(Will::new(&topic, "gone").qos(qos));
            broker.client(&connect).vanish();
            let will = reader.receive_text("gone");
            assert_eq!((will.qos, will.retain, will.dup), (qos, false, false));
            // Once: the next connection without a will leaves none.
            broker.simple(version, &id).vanish();
            client(&broker, version).publish_surely(&Publish::new(&topic, "marker"));
            assert_eq!(texts(&received_before(&mut reader, "marker")), [""; 0]);
            let mut late = client(&broker, version);
            late.subscribe(&topic, 0);
            late.ping();
        }
    }
}

/// MQTT 5: [MQTT-3.1.2-15]
/// MQTT 3.1.1: [MQTT-3.1.2-17]
#[test]
fn a_retained_will_is_retained() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("estate");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 1);
        let will = Will::new(&topic, "gone").qos(1).retain();
        broker.client(&Connect::new(version, &unique("estate")).will(will)).vanish();
        assert!(!reader.receive_text("gone").retain);
        let mut late = client(&broker, version);
        late.subscribe(&topic, 1);
        assert!(late.receive_text("gone").retain);
    }
}

/// MQTT 5: [MQTT-3.14.4-3] [MQTT-3.1.2-10] [MQTT-3.1.2-12]
/// MQTT 3.1.1: [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-3.14.4-3] [MQTT-3.1.2-10]
/// [MQTT-3.1.2-12]
#[test]
fn a_normal_disconnect_discards_the_will() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("normal");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 1);
        let will = Will::new(&topic, "gone");
        broker.client(&Connect::new(version, &unique("normal")).will(will.clone())).disconnect();
        if version == Version::Mqtt5 {
            let connect = Connect::new(version, &unique("normal")).will(will);
            broker.client(&connect).disconnect_with(0, &[]);
        }
        broker.simple(version, &unique("normal")).vanish();
        client(&broker, version).publish_surely(&Publish::new(&topic, "marker"));
        assert_eq!(texts(&received_before(&mut reader, "marker")), [""; 0]);
    }
}

/// MQTT 5: [MQTT-3.1.2-8]
#[test]
fn a_disconnect_with_another_reason_publishes_the_will() {
    let broker = broker();
    for reason in [0x04, 0x80, 0x82] {
        let topic = unique("reason");
        let mut reader = client(&broker, V);
        reader.subscribe(&topic, 1);
        let connect = Connect::new(V, &unique("reason")).will(Will::new(&topic, "gone"));
        broker.client(&connect).disconnect_with(reason, &[]);
        reader.receive_text("gone");
    }
}

/// MQTT 5: [MQTT-3.1.2-8]
/// MQTT 3.1.1: [MQTT-3.1.2-8]
#[test]
fn a_protocol_error_a_takeover_and_a_missed_keep_alive_publish_the_will() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("causes");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 1);
        let willing =
            |id: &str, text: &str| Connect::new(version, id).will(Will::new(&topic, text));

        let mut erring = broker.client(&willing(&unique("causes"), "erred"));
        erring.raw.send(&[0x00, 0]);
        reader.receive_text("erred");

        let id = unique("causes");
        let old = broker.client(&willing(&id, "taken over"));
        let new = broker.simple(version, &id);
        reader.receive_text("taken over");
        drop((old, new));

        let silent = broker.client(&willing(&unique("causes"), "silent").keep_alive(1));
        reader.receive_text("silent");
        drop(silent);
    }
}

/// MQTT 5: [MQTT-3.1.3-9] [MQTT-3.1.2-8]
#[test]
fn a_delayed_will_waits_for_its_time_the_end_of_the_session_or_never() {
    let broker = broker();
    let topic = unique("delayed");
    let mut reader = client(&broker, V);
    reader.subscribe(&topic, 1);
    let willing = |id: &str, delay: u32| {
        let will = Will::new(&topic, "gone").qos(1).properties(property::will_delay(delay));
        durable(V, id).will(will)
    };

    let began = Instant::now();
    broker.client(&willing(&unique("delayed"), 1)).vanish();
    reader.receive_text("gone");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    // The session ends first.
    let began = Instant::now();
    let mut ending = willing(&unique("delayed"), 600);
    ending.properties.clear();
    broker.client(&ending).vanish();
    reader.receive_text("gone");
    let mut ending = willing(&unique("delayed"), 600);
    ending.properties = property::session_expiry(1);
    broker.client(&ending).vanish();
    reader.receive_text("gone");
    assert!(began.elapsed() < Duration::from_mins(1));

    // The client is back in time.
    let id = unique("delayed");
    broker.client(&willing(&id, 1)).vanish();
    let back = broker.client(&durable(V, &id));
    let_pass(Duration::from_millis(2500));
    client(&broker, V).publish_surely(&Publish::new(&topic, "marker"));
    assert_eq!(texts(&received_before(&mut reader, "marker")), [""; 0]);
    drop(back);

    // A clean start ends the old session, and with it the waiting.
    let id = unique("delayed");
    broker.client(&willing(&id, 600)).vanish();
    let _clean = broker.simple(V, &id);
    reader.receive_text("gone");
}

/// MQTT 5: [MQTT-3.1.3-10] [MQTT-3.3.2-4] [MQTT-3.3.2-20]
#[test]
fn a_will_carries_its_properties() {
    let broker = broker();
    let topic = unique("estate");
    let mut reader = client(&broker, V);
    reader.subscribe(&topic, 1);
    let properties = [
        property::payload_format(1),
        property::message_expiry(500),
        property::content_type("text/x-will"),
        property::response_topic("heirs"),
        property::correlation_data(b"1234"),
        property::user("b", "1"),
        property::user("a", "2"),
        property::user("b", "0"),
    ]
    .concat();
    let will = Will::new(&topic, "gone").properties(properties.clone());
    broker.client(&Connect::new(V, &unique("estate")).will(will)).vanish();
    let received = reader.receive_text("gone");
    let sent = Publish::new("", "").properties(&properties);
    for id in [0x01, 0x03, 0x08, 0x09, 0x26] {
        assert_eq!(received.all(id), sent.all(id), "property 0x{id:02x}");
    }
    assert!(received.property(0x02).is_some());
    assert_eq!(received.property(0x18), None, "the delay is the broker's business");
}
