//! Retained messages.

use crate::harness::wire::{self, Publish, Version, property};
use crate::harness::{Broker, Setup};
use crate::{ENDS, lasting, start};

#[test]
fn the_last_retained_message_of_a_topic_is_there_again() {
    for end in ENDS {
        let mut broker = start();
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for number in 0..3 {
            writer.publish_surely(&Publish::new("state", &number.to_string()).retain());
        }
        writer.publish_surely(&Publish::new("cleared", "x").retain());
        writer.publish_surely(&Publish::new("cleared", "").retain());
        let typed = Publish::new("typed", "{}").properties(&property::content_type("json"));
        writer.publish_surely(&typed.retain());
        broker.restart(end);
        let mut reader = broker.simple(Version::Mqtt5, "reader");
        reader.subscribe("#", 1);
        let (state, typed) = (reader.receive(), reader.receive());
        assert_eq!((state.topic.as_str(), state.text(), state.retain), ("state", "2", true));
        assert_eq!(typed.properties, property::content_type("json"));
        reader.acknowledge(&state);
        reader.acknowledge(&typed);
        reader.ping();
    }
}

/// Retains so many messages, their numbers, with QoS 1 or 2 in turn.
fn retain(broker: &Broker, count: u16) {
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..count {
        let message = Publish::new(&format!("a/{number:04}"), &number.to_string()).retain();
        let id = number + 1;
        match number % 2 {
            0 => {
                writer.send(&message.qos(1, id));
                writer.expect_ack(wire::PUBACK, id);
            }
            _ => {
                writer.send(&message.qos(2, id));
                writer.expect_ack(wire::PUBREC, id);
                writer.raw.send(&wire::ack(wire::PUBREL, id));
                writer.expect_ack(wire::PUBCOMP, id);
            }
        }
    }
}

#[test]
fn what_was_retained_reaches_a_durable_subscription_whatever_comes_between() {
    const COUNT: u16 = 600;
    for end in [None, Some(ENDS[0]), Some(ENDS[1])] {
        let mut broker = start();
        retain(&broker, COUNT);
        let window = property::receive_maximum(20);
        let connect = || lasting("reader").properties(&window);
        let mut reader = broker.client(&connect());
        reader.subscribe("a/#", 2);
        for number in 0..10 {
            let message = reader.receive_text(&number.to_string());
            assert!(message.retain && u16::from(message.qos) == 1 + number % 2);
        }
        match end {
            None => reader.vanish(),
            Some(end) => broker.restart(end),
        }
        // What came to be retained meanwhile comes after it, once.
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        writer.publish_surely(&Publish::new("a/9999", "late").retain());
        let mut reader = broker.client(&connect());
        assert!(reader.connack.session_present());
        let mut next = 0;
        let mut again = 0;
        while next < COUNT {
            let packet = reader.raw.recv_packet();
            if packet[0] == wire::PUBREL {
                let id = u16::from_be_bytes([packet[2], packet[3]]);
                reader.raw.send(&wire::ack(wire::PUBCOMP, id));
                continue;
            }
            let message = Publish::parse(Version::Mqtt5, &packet);
            let first = if message.qos == 1 { wire::PUBACK } else { wire::PUBREC };
            reader.raw.send(&wire::ack(first, message.id.unwrap()));
            let number: u16 = message.text().parse().unwrap();
            assert!(message.retain && u16::from(message.qos) == 1 + number % 2);
            if number < 10 {
                assert!(message.dup && message.qos == 1, "{message:?}");
                again += 1;
                continue;
            }
            next = next.max(10);
            assert_eq!(number, next);
            next += 1;
        }
        assert!(again <= 5);
        loop {
            let packet = reader.raw.recv_packet();
            if packet[0] >> 4 == 3 {
                let late = Publish::parse(Version::Mqtt5, &packet);
                assert!(late.text() == "late" && !late.retain, "{late:?}");
                break;
            }
        }
    }
}

#[test]
fn a_retained_message_whose_receipt_was_said_is_released_after_a_restart() {
    for end in ENDS {
        let mut broker = start();
        retain(&broker, 2);
        let mut reader = broker.client(&lasting("reader"));
        reader.subscribe("a/0001", 2);
        let message = reader.receive();
        let id = message.id.unwrap();
        reader.raw.send(&wire::ack(wire::PUBREC, id));
        reader.expect_ack(wire::PUBREL, id);
        broker.restart(end);
        let mut reader = broker.client(&lasting("reader"));
        reader.expect_ack(wire::PUBREL, id);
        reader.raw.send(&wire::ack(wire::PUBCOMP, id));
        // Nobody else gets its identifier meanwhile, and the message does not come again.
        reader.ping();
    }
}

#[test]
fn retained_messages_leave_half_of_a_queue_to_what_is_published() {
    let mailbox = "[profile.default.mailbox]\nmessages_max = 40\n";
    let broker = Setup::new().plaintext().default_limits().config(mailbox).start();
    retain(&broker, 100);
    let connect = lasting("reader").properties(&property::receive_maximum(1));
    let mut reader = broker.client(&connect);
    reader.subscribe("a/#", 2);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..15 {
        writer.publish_surely(&Publish::new("a/live", &format!("live {number}")));
    }
    let (mut live, mut retained) = (0, 0);
    while live + retained < 115 {
        let message = reader.receive();
        reader.acknowledge(&message);
        let expected = if message.retain { retained } else { live };
        let text = message.text();
        assert_eq!(text.trim_start_matches("live "), expected.to_string());
        *(if message.retain { &mut retained } else { &mut live }) += 1;
    }
    reader.ping();
}
