//! SUBSCRIBE and UNSUBSCRIBE.

use crate::harness::wire::{self, PUBACK, Publish, Version, property};
use crate::{ALL, BOTH, broker, client, received_before, texts, unique};

const NO_LOCAL: u8 = 0x04;

/// MQTT 5: [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7]
/// [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT-2.2.1-6]
/// MQTT 3.1.1: [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1]
/// [MQTT-3.9.3-2] [MQTT-2.3.1-7]
#[test]
fn suback_answers_each_filter_in_order() {
    let broker = broker();
    for version in ALL {
        let first = unique("granted");
        let names: Vec<String> = (0..4).map(|number| format!("{first}/{number}")).collect();
        let mut reader = client(&broker, version);
        let filters: Vec<_> = names.iter().map(String::as_str).zip([2, 0, 1, 0]).collect();
        assert_eq!(reader.subscribe_with(&[], &filters), [2, 0, 1, 0]);
        let mut writer = client(&broker, version);
        for name in &names {
            writer.publish_surely(&Publish::new(name, name));
            reader.receive_text(name);
        }
        // The identifier comes back, whatever it is.
        reader.raw.send(&wire::subscribe(version, 0xfffe, &[], &[(&first, 0)]));
        let suback = reader.raw.recv_packet();
        assert_eq!((suback[0], &suback[2..4]), (0x90, &[0xff, 0xfe][..]));
    }
}

/// In one SUBACK, a filter that is not accepted is refused and the others are not.
///
/// MQTT 5: [MQTT-3.8.4-5] [MQTT-3.9.3-2]
#[test]
fn one_filter_too_deep_does_not_spoil_its_neighbours() {
    let broker = broker();
    let first = unique("neighbour");
    let mut reader = client(&broker, Version::Mqtt5);
    let codes = reader.subscribe_with(&[], &[(&first, 1), (&crate::too_deep(), 1), (&first, 0)]);
    assert_eq!((codes[0], codes[2]), (1, 0));
    assert!(codes[1] >= 0x80, "{codes:02x?}");
}

/// MQTT 5: [MQTT-3.8.4-8]
/// MQTT 3.1.1: [MQTT-3.8.4-6]
#[test]
fn messages_come_with_the_lesser_of_two_qos() {
    let broker = broker();
    for version in BOTH {
        for granted in 0..=2 {
            let topic = unique("lesser");
            let mut reader = client(&broker, version);
            assert_eq!(reader.subscribe(&topic, granted), granted);
            let mut writer = client(&broker, version);
            for published in 0..=2_u8 {
                writer.send(&Publish::new(&topic, "x").qos(published, 1));
                if published == 2 {
                    writer.expect_ack(wire::PUBREC, 1);
                    writer.raw.send(&wire::ack(wire::PUBREL, 1));
                    writer.expect_ack(wire::PUBCOMP, 1);
                } else if published == 1 {
                    writer.expect_ack(PUBACK, 1);
                }
                assert_eq!(reader.receive_text("x").qos, granted.min(published));
            }
        }
    }
}

/// MQTT 5: [MQTT-3.8.4-3]
/// MQTT 3.1.1: [MQTT-3.8.4-3]
#[test]
fn a_repeated_subscription_replaces_the_first() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("replaced");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 2);
        reader.subscribe(&topic, 0);
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "x"));
        writer.publish(&topic, "marker");
        let received = received_before(&mut reader, "marker");
        assert_eq!(texts(&received), ["x"], "one subscription, one copy");
        assert_eq!(received[0].qos, 0);
    }
    // Its identifier too.
    let topic = unique("replaced");
    let mut reader = client(&broker, Version::Mqtt5);
    reader.subscribe_with(&property::subscription_id(1), &[(&topic, 0)]);
    reader.subscribe_with(&property::subscription_id(268_435_455), &[(&topic, 0)]);
    let mut writer = client(&broker, Version::Mqtt5);
    writer.publish(&topic, "x");
    assert_eq!(reader.receive_text("x").subscription_ids(), [268_435_455]);
    reader.subscribe(&topic, 0);
    writer.publish(&topic, "y");
    assert_eq!(reader.receive_text("y").subscription_ids(), [0_usize; 0]);
}

/// MQTT 5: [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]
/// MQTT 3.1.1: [MQTT-3.3.5-1]
#[test]
fn overlapping_subscriptions_deliver_with_their_highest_qos_and_all_identifiers() {
    let broker = broker();
    for version in BOTH {
        let first = unique("overlap");
        let topic = format!("{first}/a");
        let filters = [topic.clone(), format!("{first}/+"), format!("{first}/#")];
        let mut reader = client(&broker, version);
        for (number, filter) in (1..).zip(&filters) {
            let properties = match version {
                // The third subscription has no identifier.
                Version::Mqtt5 if number < 3 => property::subscription_id(number),
                _ => vec![],
            };
            let options = u8::from(number == 2);
            reader.subscribe_with(&properties, &[(filter, options)]);
        }
        let marker = unique("marker");
        reader.subscribe(&marker, 1);
        let mut writer = client(&broker, version);
        writer.publish_surely(&Publish::new(&topic, "x"));
        writer.publish_surely(&Publish::new(&marker, "marker"));
        let received = received_before(&mut reader, "marker");
        assert!((1..=3).contains(&received.len()), "{received:?}");
        assert_eq!(received.iter().map(|publish| publish.qos).max(), Some(1));
        if version == Version::Mqtt5 {
            let mut ids: Vec<usize> = received.iter().flat_map(Publish::subscription_ids).collect();
            ids.sort_unstable();
            assert_eq!(ids, [1, 2], "in one copy or in one each");
        }
    }
}

/// MQTT 5: [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let broker = broker();
    let topic = unique("local");
    let id = unique("local");
    let mut own = broker.simple(Version::Mqtt5, &id);
    own.subscribe(&topic, NO_LOCAL);
    own.publish_surely(&Publish::new(&topic, "mine"));
    let mut other = client(&broker, Version::Mqtt5);
    other.subscribe(&topic, 0);
    own.publish(&topic, "mine too");
    other.receive_text("mine too");
    other.publish(&topic, "theirs");
    own.receive_text("theirs");
    other.receive_text("theirs");
    // Without the option it hears itself.
    own.subscribe(&topic, 0);
    own.publish(&topic, "heard");
    own.receive_text("heard");
}

/// MQTT 5: [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]
/// [MQTT-3.11.3-1] [MQTT-3.11.3-2]
/// MQTT 3.1.1: [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5]
/// [MQTT-3.10.4-6]
#[test]
fn unsubscribe_removes_exactly_what_it_names() {
    let broker = broker();
    for version in BOTH {
        let first = unique("unsubscribed");
        let (topic, wild) = (format!("{first}/a"), format!("{first}/+"));
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 0);
        reader.subscribe(&wild, 0);
        let codes = reader.unsubscribe(&["never/there", &wild, &format!("{first}/A"), &wild]);
        if version == Version::Mqtt5 {
            assert_eq!(codes, [0x11, 0, 0x11, 0x11]);
        }
        let mut writer = client(&broker, version);
        writer.publish(&format!("{first}/b"), "no longer");
        writer.publish(&topic, "marker");
        assert_eq!(texts(&received_before(&mut reader, "marker")), [""; 0]);
        // A wildcard does not stand for what it matches.
        reader.subscribe(&wild, 0);
        reader.unsubscribe(&[&topic]);
        writer.publish(&topic, "still matched");
        reader.receive_text("still matched");
    }
}

/// MQTT 5: [MQTT-3.10.4-3]
/// MQTT 3.1.1: [MQTT-3.10.4-3]
#[test]
fn a_delivery_that_began_is_completed_after_unsubscribe() {
    let broker = broker();
    for version in BOTH {
        let topic = unique("completed");
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 2);
        let mut writer = client(&broker, version);
        writer.send(&Publish::new(&topic, "x").qos(2, 1));
        writer.expect_ack(wire::PUBREC, 1);
        writer.raw.send(&wire::ack(wire::PUBREL, 1));
        writer.expect_ack(wire::PUBCOMP, 1);
        let publish = reader.receive();
        reader.unsubscribe(&[&topic]);
        reader.acknowledge(&publish);
        reader.ping();
    }
}
