//! A disk that is nearly full.

use crate::harness::Setup;
use crate::harness::wire::{self, Publish, Version};
use crate::lasting;

const QUOTA_EXCEEDED: u8 = 0x97;

#[test]
fn on_a_full_disk_what_is_to_be_kept_is_refused_and_the_rest_goes_on() {
    let config = "[store]\nfree_bytes_min = \"1PiB\"";
    let broker = Setup::new().plaintext().config(config).start();
    broker.said("the disk of the store is nearly full");
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 2);
    let mut plain = broker.simple(Version::Mqtt5, "plain");
    plain.subscribe("b", 1);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for (qos, answer) in [(1, wire::PUBACK), (2, wire::PUBREC)] {
        writer.send(&Publish::new("a", "refused").qos(qos, 7));
        assert_eq!(writer.expect_ack_any(answer, 7), QUOTA_EXCEEDED);
    }
    writer.send(&Publish::new("b", "refused").qos(1, 8).retain());
    assert_eq!(writer.expect_ack_any(wire::PUBACK, 8), QUOTA_EXCEEDED);
    writer.send(&Publish::new("a", "at most once"));
    writer.send(&Publish::new("b", "for nobody durable").qos(1, 9));
    writer.expect_ack(wire::PUBACK, 9);
    reader.receive_text("at most once");
    plain.receive_text("for nobody durable");
    reader.ping();
    let mut old = broker.simple(Version::Mqtt311, "old");
    old.send(&Publish::new("a", "refused").qos(1, 7));
    old.raw.expect_closed();
    reader.ping();
}
