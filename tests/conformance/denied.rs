//! What the protocol says of a PUBLISH that policy refuses.

use crate::harness::Setup;
use crate::harness::wire::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, Version};
use crate::unique;

const POLICIES: &str = r#"
@id("all-but-secrets")
@reason("a test of refused messages")
permit (principal, action, resource);

@id("no-secrets")
@reason("a test of refused messages")
forbid (principal, action in Action::"write", resource in TopicFilter::"secret/#");
"#;

/// MQTT 5: [MQTT-4.3.3-9] [MQTT-3.4.2-1] [MQTT-3.5.2-1]
#[test]
fn a_refused_identifier_is_free_at_once() {
    let broker = Setup::new().plaintext().policies(POLICIES).start();
    let mut reader = broker.simple(Version::Mqtt5, "reader");
    reader.subscribe("#", 2);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    writer.send(&Publish::new("secret/a", "refused").qos(1, 4));
    assert_eq!(writer.expect_ack_any(PUBACK, 4), 0x87);
    writer.send(&Publish::new("secret/a", "refused").qos(2, 4));
    assert_eq!(writer.expect_ack_any(PUBREC, 4), 0x87);
    writer.send(&Publish::new("open", "taken").qos(2, 4));
    writer.expect_ack(PUBREC, 4);
    writer.raw.send(&wire::ack(PUBREL, 4));
    writer.expect_ack(PUBCOMP, 4);
    reader.receive_text("taken");
}

/// MQTT 3.1.1: [MQTT-3.3.5-2] [MQTT-4.8.0-2]
#[test]
fn a_refused_message_of_mqtt_3_ends_the_connection_or_is_acknowledged() {
    let broker = Setup::new().plaintext().policies(POLICIES).start();
    let mut writer = broker.simple(Version::Mqtt311, &unique("writer"));
    writer.send(&Publish::new("secret/a", "refused").qos(1, 4));
    writer.raw.expect_closed();

    let broker = Setup::new()
        .plaintext()
        .policies(POLICIES)
        .config("[profile.default.authorize]\ndenied_publish_v3 = \"drop-and-acknowledge\"")
        .start();
    let mut reader = broker.simple(Version::Mqtt311, "reader");
    reader.subscribe("#", 2);
    let mut writer = broker.simple(Version::Mqtt311, "writer");
    for qos in 0..=2 {
        writer.send(&Publish::new("secret/a", "refused").qos(qos, 4));
        match qos {
            0 => {}
            1 => writer.expect_ack(PUBACK, 4),
            _ => {
                writer.expect_ack(PUBREC, 4);
                writer.raw.send(&wire::ack(PUBREL, 4));
                writer.expect_ack(PUBCOMP, 4);
            }
        }
    }
    writer.publish_surely(&Publish::new("open", "taken"));
    reader.receive_text("taken");
}
