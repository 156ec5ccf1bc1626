//! How long a session lives, and what it keeps meanwhile.

use std::time::Duration;

use crate::harness::wire::{Connect, Publish, Version, property};
use crate::{BOTH, broker, client, durable, let_pass, unique};

const V: Version = Version::Mqtt5;

/// MQTT 5: [MQTT-3.1.2-23] [MQTT-4.5.0-1] [MQTT-4.1.0-1]
/// MQTT 3.1.1: [MQTT-3.1.2-5] [MQTT-4.5.0-1] [MQTT-4.1.0-2]
#[test]
fn a_session_keeps_its_subscriptions_and_what_comes_for_them() {
    let broker = broker();
    for version in BOTH {
        for graceful in [true, false] {
            let topic = unique("offline");
            let connect = durable(version, &unique("offline"));
            let mut reader = broker.client(&connect);
            reader.subscribe(&format!("{topic}/+"), 2);
            if graceful {
                reader.disconnect();
            } else {
                reader.vanish();
            }
            let mut writer = client(&broker, version);
            for number in 0..5 {
                let topic = format!("{topic}/{number}");
                writer.publish_surely(&Publish::new(&topic, &number.to_string()));
            }
            let mut reader = broker.client(&connect);
            for number in 0..5 {
                assert!(!reader.receive_text(&number.to_string()).dup);
            }
            reader.ping();
        }
    }
}

/// MQTT 5: [MQTT-4.1.0-2]
/// MQTT 3.1.1: [MQTT-3.1.2-6]
#[test]
fn a_session_ends_when_its_time_is_over() {
    let broker = broker();
    // None and 0 are the same: the end of the connection.
    for properties in [vec![], property::session_expiry(0)] {
        let id = unique("brief");
        let connect = Connect::new(V, &id).properties(&properties);
        broker.client(&connect).disconnect();
        assert!(!broker.client(&connect.resume()).connack.session_present());
    }
    let id = unique("brief");
    let connect = Connect::new(V, &id).properties(&property::session_expiry(1)).resume();
    broker.client(&connect).disconnect();
    let_pass(Duration::from_millis(2500));
    assert!(!broker.client(&connect).connack.session_present());
    // In MQTT 3.1.1 a clean session is over with its connection.
    let id = unique("brief");
    broker.simple(Version::Mqtt311, &id).disconnect();
    let again = broker.client(&Connect::new(Version::Mqtt311, &id).resume());
    assert!(!again.connack.session_present());
}

/// MQTT 5: [MQTT-3.1.2-23]
#[test]
fn disconnect_can_change_the_expiry_of_a_session() {
    let broker = broker();
    let id = unique("shortened");
    broker.client(&durable(V, &id)).disconnect_with(0, &property::session_expiry(0));
    assert!(!broker.client(&Connect::new(V, &id).resume()).connack.session_present());

    let id = unique("lengthened");
    let connect = Connect::new(V, &id).properties(&property::session_expiry(1));
    broker.client(&connect).disconnect_with(0, &property::session_expiry(3600));
    let_pass(Duration::from_millis(2500));
    assert!(broker.client(&Connect::new(V, &id).resume()).connack.session_present());
}

/// A session lives as long as its connection, whatever its expiry interval is.
///
/// MQTT 5: [MQTT-4.1.0-1]
#[test]
fn a_connected_session_does_not_expire() {
    let broker = broker();
    let topic = unique("standing");
    let connect = Connect::new(V, &unique("standing")).properties(&property::session_expiry(1));
    let mut reader = broker.client(&connect);
    reader.subscribe(&topic, 0);
    let_pass(Duration::from_millis(2500));
    client(&broker, V).publish_surely(&Publish::new(&topic, "still there"));
    reader.receive_text("still there");
    reader.disconnect();
    assert!(broker.client(&connect.resume()).connack.session_present());
}

/// MQTT 5: [MQTT-3.1.2-4]
/// MQTT 3.1.1: [MQTT-3.1.2-6]
#[test]
fn a_clean_start_drops_what_waited() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("dropped");
        let connect = durable(version, &unique("dropped"));
        let mut reader = broker.client(&connect);
        reader.subscribe(&topic, 1);
        reader.disconnect();
        client(&broker, version).publish_surely(&Publish::new(&topic, "waits"));
        let mut clean = broker.client(&Connect { clean: true, ..connect });
        assert!(!clean.connack.session_present());
        clean.ping();
    }
}

/// A session can be resumed under another version of the protocol.
#[test]
fn versions_share_sessions() {
    let broker = broker();
    let id = unique("both");
    let topic = format!("{id}/t");
    let mut reader = broker.client(&durable(Version::Mqtt311, &id));
    reader.subscribe(&topic, 1);
    reader.disconnect();
    let publish = Publish::new(&topic, "x").properties(&property::content_type("text/plain"));
    client(&broker, V).publish_surely(&publish);
    let mut reader = broker.client(&durable(V, &id));
    assert!(reader.connack.session_present());
    reader.receive_text("x");
}
