//! What may wait for sessions that are away, and what happens to more.

use rustix::process::Signal;

use crate::harness::wire::{self, Publish, Version};
use crate::harness::{Broker, Setup};
use crate::lasting;

const QUOTA_EXCEEDED: u8 = 0x97;

fn start(mailbox: &str) -> Broker {
    let config = format!("[profile.default.mailbox]\n{mailbox}");
    Setup::new().plaintext().config(&config).start()
}

#[test]
fn a_queue_on_disk_keeps_its_bounds() {
    for (overflow, left) in [("drop-newest", ["0", "1", "2"]), ("drop-oldest", ["3", "4", "5"])] {
        let mut broker = start(&format!("messages_max = 3\noverflow = \"{overflow}\""));
        broker.client(&lasting("reader")).subscribe("a", 1);
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for number in 0..6 {
            writer.publish_surely(&Publish::new("a", &number.to_string()));
        }
        // Told once, however many are dropped.
        let full = broker.audited("the overflow", |record| record["event"] == "session.queue-full");
        assert_eq!((&full["client_id"], &full["waiting"]), (&"reader".into(), &3.into()));
        broker.restart(Signal::TERM);
        let events = broker.audit();
        let told = events.iter().filter(|record| record["event"] == "session.queue-full");
        assert_eq!(told.count(), 1);
        let mut reader = broker.client(&lasting("reader"));
        for payload in left {
            reader.receive_text(payload);
        }
        reader.ping();
    }
}

#[test]
fn the_publisher_hears_of_a_full_queue_where_its_reader_wants_it() {
    let mut broker = start("messages_max = 2\noverflow = \"refuse-publisher\"");
    broker.client(&lasting("reader")).subscribe("a", 2);
    let mut other = broker.simple(Version::Mqtt5, "other");
    other.subscribe("a", 1);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..2 {
        let text = number.to_string();
        writer.publish_surely(&Publish::new("a", &text));
        other.receive_text(&text);
    }
    let refused = |broker: &Broker| {
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for (qos, answer) in [(1, wire::PUBACK), (2, wire::PUBREC)] {
            writer.send(&Publish::new("a", "refused").qos(qos, 7));
            assert_eq!(writer.expect_ack_any(answer, 7), QUOTA_EXCEEDED);
        }
        let mut old = broker.simple(Version::Mqtt311, "old");
        old.send(&Publish::new("a", "refused").qos(1, 7));
        old.raw.expect_closed();
    };
    refused(&broker);
    let full = broker.audited("who is full", |record| record["event"] == "session.queue-full");
    assert_eq!((&full["client_id"], &full["waiting"]), (&"reader".into(), &2.into()));
    // Nobody gets what is refused; QoS 0 is dropped for the one who has no room.
    writer = broker.simple(Version::Mqtt5, "writer");
    writer.send(&Publish::new("a", "at most once"));
    other.receive_text("at most once");
    broker.restart(Signal::KILL);
    refused(&broker);
    let mut reader = broker.client(&lasting("reader"));
    for number in 0..2 {
        reader.receive_text(&number.to_string());
    }
    reader.ping();
    broker.simple(Version::Mqtt5, "writer").publish_surely(&Publish::new("a", "room again"));
    reader.receive_text("room again");
}

#[test]
fn the_sessions_of_a_principal_share_their_quota() {
    // Clients without credentials count by their address: all of these are one.
    let mut broker = start("messages_max = 3\nprincipal_messages_max = 5");
    for name in ["one", "other"] {
        broker.client(&lasting(name)).subscribe(name, 1);
    }
    let write = |broker: &Broker, topic: &str| {
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for number in 0..3 {
            writer.publish_surely(&Publish::new(topic, &number.to_string()));
        }
    };
    write(&broker, "one");
    write(&broker, "other");
    broker.restart(Signal::KILL);
    // It counts what the store has brought back.
    write(&broker, "other");
    let mut other = broker.client(&lasting("other"));
    other.receive_text("0");
    other.receive_text("1");
    other.ping();
    let mut one = broker.client(&lasting("one"));
    for number in 0..3 {
        one.receive_text(&number.to_string());
    }
    one.ping();
    drop(other);
    write(&broker, "other");
    let mut other = broker.client(&lasting("other"));
    for number in 0..3 {
        other.receive_text(&number.to_string());
    }
}
