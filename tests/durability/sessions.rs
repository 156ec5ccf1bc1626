//! Sessions, what waits for them, and handshakes that are under way.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::Broker;
use crate::harness::wire::{self, Connect, Publish, Version, Will, property};
use crate::{ENDS, lasting, start};

#[test]
fn what_was_acknowledged_waits_for_an_offline_session() {
    for end in ENDS {
        let mut broker = start();
        let mut reader = broker.client(&lasting("reader"));
        assert!(!reader.connack.session_present());
        reader.subscribe_with(&property::subscription_id(7), &[("a/+", 2)]);
        reader.disconnect();
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for number in 0..20 {
            let message = Publish::new(&format!("a/{number}"), &number.to_string())
                .properties(&property::user("number", &number.to_string()));
            match number % 2 {
                0 => writer.publish_surely(&message),
                _ => {
                    writer.send(&message.qos(2, 9));
                    writer.expect_ack(wire::PUBREC, 9);
                    writer.raw.send(&wire::ack(wire::PUBREL, 9));
                    writer.expect_ack(wire::PUBCOMP, 9);
                }
            }
        }
        broker.restart(end);
        // Messages for it are taken before its client is back.
        broker.simple(Version::Mqtt5, "writer").publish_surely(&Publish::new("a/b", "late"));
        let mut reader = broker.client(&lasting("reader"));
        assert!(reader.connack.session_present());
        for number in 0..20 {
            let message = reader.receive_text(&number.to_string());
            assert_eq!(
                (message.topic.as_str(), message.qos),
                (&*format!("a/{number}"), 1 + number % 2)
            );
            let mut expected = property::user("number", &number.to_string());
            expected.extend(property::subscription_id(7));
            assert_eq!(wire::properties(&message.properties), wire::properties(&expected));
        }
        reader.receive_text("late");
        reader.ping();
    }
}

#[test]
fn what_was_delivered_to_the_end_is_not_delivered_again() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 1);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..10 {
        writer.publish_surely(&Publish::new("a", &number.to_string()));
    }
    for number in 0..5 {
        reader.receive_text(&number.to_string());
    }
    for number in 5..10 {
        assert_eq!(reader.receive().text(), number.to_string());
    }
    reader.ping();
    reader.disconnect();
    broker.restart(Signal::TERM);
    let mut reader = broker.client(&lasting("reader"));
    for number in 5..10 {
        assert!(reader.receive_text(&number.to_string()).dup);
    }
    reader.ping();
}

#[test]
fn a_publication_that_was_taken_is_known_by_its_identifier() {
    for end in ENDS {
        let mut broker = start();
        let mut reader = broker.client(&lasting("reader"));
        reader.subscribe("a", 2);
        let mut writer = broker.client(&lasting("writer"));
        writer.send(&Publish::new("a", "once").qos(2, 5));
        writer.expect_ack(wire::PUBREC, 5);
        broker.restart(end);
        let mut writer = broker.client(&lasting("writer"));
        writer.send(&Publish::new("a", "once").qos(2, 5).dup());
        writer.expect_ack(wire::PUBREC, 5);
        writer.raw.send(&wire::ack(wire::PUBREL, 5));
        writer.expect_ack(wire::PUBCOMP, 5);
        broker.restart(end);
        let mut writer = broker.client(&lasting("writer"));
        writer.send(&Publish::new("a", "another").qos(2, 5));
        writer.expect_ack(wire::PUBREC, 5);
        let mut reader = broker.client(&lasting("reader"));
        reader.receive_text("once");
        reader.receive_text("another");
        reader.ping();
    }
}

#[test]
fn a_released_delivery_goes_on_with_pubrel() {
    for end in ENDS {
        let mut broker = start();
        let mut reader = broker.client(&lasting("reader"));
        reader.subscribe("a", 2);
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        for payload in ["one", "two"] {
            writer.send(&Publish::new("a", payload).qos(2, 9));
            writer.expect_ack(wire::PUBREC, 9);
            writer.raw.send(&wire::ack(wire::PUBREL, 9));
            writer.expect_ack(wire::PUBCOMP, 9);
        }
        let (one, two) = (reader.receive(), reader.receive());
        let (first, second) = (one.id.unwrap(), two.id.unwrap());
        reader.raw.send(&wire::ack(wire::PUBREC, first));
        reader.expect_ack(wire::PUBREL, first);
        broker.restart(end);
        let mut reader = broker.client(&lasting("reader"));
        reader.expect_ack(wire::PUBREL, first);
        reader.raw.send(&wire::ack(wire::PUBCOMP, first));
        // It may have come before: the same identifier, and said to be sent again.
        let again = reader.receive_text("two");
        assert_eq!((again.id, again.dup), (Some(second), true));
        reader.ping();
        broker.restart(end);
        let mut reader = broker.client(&lasting("reader"));
        if end == Signal::KILL {
            // Nobody waited for the disk to hear of PUBCOMP: nothing but PUBREL may come of it.
            reader.raw.send(&wire::PINGREQ);
            loop {
                let packet = reader.raw.recv_packet();
                match packet[0] {
                    wire::PUBREL => reader.raw.send(&wire::ack(wire::PUBCOMP, second)),
                    first => break assert_eq!(first, wire::PINGRESP[0], "{packet:02x?}"),
                }
            }
        }
        reader.ping();
    }
}

#[test]
fn a_delivery_before_a_released_one_waits_for_its_own_acknowledgement() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 2);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    writer.publish_surely(&Publish::new("a", "one"));
    writer.send(&Publish::new("a", "two").qos(2, 9));
    writer.expect_ack(wire::PUBREC, 9);
    assert_eq!((reader.receive().text(), reader.receive().text()), ("one", "two"));
    reader.raw.send(&wire::ack(wire::PUBREC, 2));
    reader.expect_ack(wire::PUBREL, 2);
    for end in [Signal::KILL, Signal::TERM] {
        broker.restart(end);
        reader = broker.client(&lasting("reader"));
        reader.expect_ack(wire::PUBREL, 2);
        reader.raw.send(&wire::ack(wire::PUBCOMP, 2));
        assert_eq!(reader.receive().text(), "one");
        reader.ping();
    }
    reader.raw.send(&wire::ack(wire::PUBACK, 1));
    reader.ping();
    broker.restart(Signal::TERM);
    broker.client(&lasting("reader")).ping();
}

#[test]
fn a_delivery_behind_a_released_one_is_sent_once() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 2);
    let mut number = 0;
    let mut publish = |broker: &Broker| {
        number += 1;
        let mut writer = broker.simple(Version::Mqtt5, "writer");
        writer.send(&Publish::new("a", &number.to_string()).qos(2, number));
        writer.expect_ack(wire::PUBREC, number);
    };
    broker.simple(Version::Mqtt5, "early").publish_surely(&Publish::new("a", "0"));
    publish(&broker);
    assert_eq!((reader.receive().text(), reader.receive().text()), ("0", "1"));
    reader.raw.send(&wire::ack(wire::PUBREC, 2));
    reader.expect_ack(wire::PUBREL, 2);
    broker.restart(Signal::KILL);
    publish(&broker);
    let mut reader = broker.client(&lasting("reader"));
    reader.expect_ack(wire::PUBREL, 2);
    assert_eq!((reader.receive().text(), reader.receive().text()), ("0", "2"));
    publish(&broker);
    assert_eq!(reader.receive().text(), "3");
    reader.ping();
}

#[test]
fn a_subscription_that_was_taken_back_stays_away() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe_with(&[], &[("a", 1), ("b", 1)]);
    reader.unsubscribe(&["a"]);
    broker.restart(Signal::KILL);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    writer.publish_surely(&Publish::new("a", "no"));
    writer.publish_surely(&Publish::new("b", "yes"));
    let mut reader = broker.client(&lasting("reader"));
    reader.receive_text("yes");
    reader.ping();
}

#[test]
fn an_ended_session_does_not_come_back() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 1);
    reader.disconnect();
    broker.simple(Version::Mqtt5, "writer").publish_surely(&Publish::new("a", "gone"));
    // A clean start ends it.
    broker.simple(Version::Mqtt5, "reader").vanish();
    let brief = Connect::new(Version::Mqtt5, "brief").properties(&property::session_expiry(1));
    broker.client(&brief).disconnect();
    broker.restart(Signal::KILL);
    assert!(!broker.client(&lasting("reader")).connack.session_present());
    let old = Connect::new(Version::Mqtt311, "old").resume();
    broker.client(&old).disconnect();
    broker.restart(Signal::KILL);
    assert!(broker.client(&old).connack.session_present());
    // Past the second that it lives: another process' clock cannot be set.
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!broker.client(&brief.resume()).connack.session_present());
}

#[test]
fn a_will_is_sent_when_the_broker_comes_back() {
    let mut broker = start();
    let mut watcher = broker.client(&lasting("watcher"));
    watcher.subscribe("wills", 1);
    let will = wire::Will::new("wills", "lost").qos(1);
    let mut device = broker.client(&lasting("device").will(will));
    device.ping();
    let mut polite = broker.client(&lasting("polite").will(wire::Will::new("wills", "never")));
    polite.ping();
    polite.disconnect();
    // What comes to the disk later than its goodbye.
    watcher.publish_surely(&Publish::new("later", "x").retain());
    broker.restart(Signal::KILL);
    let mut watcher = broker.client(&lasting("watcher"));
    watcher.receive_text("lost");
    watcher.ping();
}

#[test]
fn a_message_that_expires_while_nobody_serves_is_not_delivered() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 1);
    reader.disconnect();
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    let message = |text: &str, seconds| {
        Publish::new("a", text).properties(&property::message_expiry(seconds))
    };
    writer.publish_surely(&message("brief", 1));
    writer.publish_surely(&message("long", 1000));
    broker.restart(Signal::KILL);
    // Past the second that it lives: another process' clock cannot be set.
    std::thread::sleep(Duration::from_millis(1100));
    let mut reader = broker.client(&lasting("reader"));
    let long = reader.receive_text("long");
    let left = wire::properties(&long.properties).into_iter().find(|(id, _)| *id == 2).unwrap().1;
    let left = u32::from_be_bytes(left.try_into().unwrap());
    assert!((900..1000).contains(&left), "{left} seconds left");
    reader.ping();
}

#[test]
fn a_will_that_was_sent_is_not_sent_again_after_a_restart() {
    for end in ENDS {
        let mut broker = start();
        let mut reader = broker.client(&lasting("reader"));
        reader.subscribe("will", 2);
        let will = Will::new("will", "gone").qos(2).retain();
        let will = will.properties(property::will_delay(1));
        broker.client(&lasting("leaver").will(will)).vanish();
        reader.receive_text("gone");
        broker
            .simple(Version::Mqtt5, "writer")
            .publish_surely(&Publish::new("will", "newer").retain());
        reader.receive_text("newer");
        broker.restart(end);
        let mut fresh = broker.simple(Version::Mqtt5, "fresh");
        fresh.subscribe("will", 1);
        fresh.receive_text("newer");
        let mut reader = broker.client(&lasting("reader"));
        broker.simple(Version::Mqtt5, "writer").publish_surely(&Publish::new("will", "last"));
        loop {
            // What it has acknowledged may come again.
            let message = reader.receive();
            match message.text() {
                "last" => break,
                text => assert!(text == "newer" && message.dup, "{text}"),
            }
        }
        fresh.receive_text("last");
    }
}
