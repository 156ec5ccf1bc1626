//! Which topics a filter matches, and which filters and topics there are.

use crate::harness::wire::{self, Publish, Version};
use crate::{BOTH, broker, client, expect_refused, received_before, unique};

/// Filter, topic, and whether they match. `U` stands for a level that is unique to the row.
const MATCHES: &[(&str, &str, bool)] = &[
    ("U", "U", true),
    ("U", "U/", false),
    ("U/", "U", false),
    ("/U", "U", false),
    ("/U", "/U", true),
    ("U/a", "U/A", false),
    ("U/a", "U/a/b", false),
    ("U//b", "U//b", true),
    ("U//b", "U/b", false),
    ("U/+", "U/a", true),
    ("U/+", "U/", true),
    ("U/+", "U", false),
    ("U/+", "U/a/b", false),
    ("U/+/c", "U/b/c", true),
    ("U/+/c", "U//c", true),
    ("U/+/c", "U/b/d", false),
    ("+/U", "a/U", true),
    ("+/U", "/U", true),
    ("+/U", "$a/U", false),
    ("+/+", "/U", true),
    ("/+", "/U", true),
    ("+", "/U", false),
    ("+", "U", true),
    ("U/#", "U", true),
    ("U/#", "U/", true),
    ("U/#", "U/a/b/c", true),
    ("U/#", "Ua/b", false),
    ("U/+/#", "U/a", true),
    ("U/+/#", "U", false),
    ("U/+/+/#", "U/a/b/c/d", true),
    ("#", "U", true),
    ("#", "/U/a", true),
    ("#", "$U/a", false),
    ("+/U/#", "$a/U/b", false),
    ("$U/#", "$U/a", true),
    ("$U/+", "$U/a", true),
    ("U/$a", "U/$a", true),
    ("U/+", "U/$a", true),
    ("U/#", "U/$a", true),
    ("U/ a", "U/a", false),
    ("U/\u{e9}", "U/\u{e9}", true),
    ("U/\u{e9}", "U/e\u{301}", false),
    ("U/\u{feff}a", "U/\u{feff}a", true),
    ("U/\u{feff}a", "U/a", false),
    ("U/+", "U/\u{1f600}", true),
    ("U/*", "U/a", false),
    ("U/.*", "U/a", false),
];

/// MQTT 5: [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1] [MQTT-4.7.3-4] [MQTT-1.5.4-3]
/// [MQTT-3.3.2-3]
/// MQTT 3.1.1: [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.2-1] [MQTT-4.7.3-4] [MQTT-1.5.3-3]
/// [MQTT-3.3.2-3] [MQTT-3.8.3-2]
#[test]
fn filters_match_the_topics_they_should_and_no_others() {
    let broker = broker();
    for version in BOTH {
        for (filter, topic, matches) in MATCHES {
            let level = unique("u");
            let (filter, topic) = (filter.replace('U', &level), topic.replace('U', &level));
            let mut reader = client(&broker, version);
            let marker = format!("{level}-marker");
            reader.subscribe(&marker, 1);
            assert_eq!(reader.subscribe(&filter, 1), 1, "{filter}");
            let mut writer = client(&broker, version);
            writer.publish_surely(&Publish::new(&topic, &level));
            writer.publish_surely(&Publish::new(&marker, "marker"));
            // A broad filter hears other tests too.
            let received = received_before(&mut reader, "marker");
            let found = received.iter().filter(|publish| publish.text() == level).count();
            assert_eq!(found, usize::from(*matches), "{filter} and {topic}");
            if let Some(publish) = received.iter().find(|publish| publish.text() == level) {
                assert_eq!(publish.topic, topic);
            }
        }
    }
}

/// MQTT 5: [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1]
/// MQTT 3.1.1: [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1]
#[test]
fn filters_that_are_none_are_refused() {
    let broker = broker();
    for version in BOTH {
        for filter in ["", "a#", "#/a", "a/#/b", "a/b#", "##", "a+", "+a", "a/+b/c", "++", "a/#+"] {
            let mut client = client(&broker, version);
            client.raw.send(&wire::subscribe(version, 1, &[], &[(filter, 0)]));
            println!("{version:?}: {filter:?}");
            let Some(packet) = client.raw.next_packet() else { continue };
            // Refused in SUBACK, or as malformed.
            assert!(packet.last().unwrap() & 0x80 != 0 || packet[0] == 0xe0, "{packet:02x?}");
            assert!([0x90, 0xe0].contains(&packet[0]), "{packet:02x?}");
        }
    }
}

/// MQTT 5: [MQTT-4.7.0-1] [MQTT-3.3.2-2]
/// MQTT 3.1.1: [MQTT-4.7.1-1] [MQTT-3.3.2-2]
#[test]
fn a_topic_holds_no_wildcard_anywhere() {
    let broker = broker();
    for version in BOTH {
        for topic in ["+", "#", "a/+/b", "a/#", "a+", "b#c"] {
            let mut writer = client(&broker, version);
            writer.publish(topic, "x");
            expect_refused(&mut writer.raw, version, &[0x81, 0x82, 0x90]);
        }
    }
}

/// MQTT 5: [MQTT-4.7.3-3]
/// MQTT 3.1.1: [MQTT-4.7.3-3]
#[test]
fn a_topic_may_be_as_long_as_its_length_field_can_say() {
    let broker = broker();
    for version in [Version::Mqtt311, Version::Mqtt5] {
        let first = unique("long");
        let topic = format!("{first}/{}", "x".repeat(65_535 - first.len() - 1));
        let mut reader = client(&broker, version);
        reader.subscribe(&topic, 0);
        client(&broker, version).publish(&topic, "arrives");
        assert_eq!(reader.receive_text("arrives").topic, topic);
    }
}
