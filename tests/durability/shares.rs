//! What a member of a share group has left behind on disk.

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::harness::raw::Client;
use crate::harness::wire::{self, Connect, Publish, Version, property};
use crate::harness::{Broker, Setup};
use crate::{lasting, start};

const FILTER: &str = "$share/g/t";

/// So many messages wait for a member that is away, which then ends its session.
fn leave(broker: &Broker, count: usize) {
    let mut leaver = broker.client(&lasting("leaver"));
    leaver.subscribe(FILTER, 2);
    leaver.disconnect();
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..count {
        let message = Publish::new("t", &number.to_string());
        if number % 3 > 0 {
            writer.publish_surely(&message);
            continue;
        }
        // Of QoS 2 what was never sent is for the others too.
        publish_once(&mut writer, &message);
    }
    let mut stayer = broker.client(&lasting("stayer"));
    stayer.subscribe(FILTER, 2);
    stayer.disconnect();
    broker.client(&Connect::new(Version::Mqtt5, "leaver")).disconnect();
}

fn publish_once(writer: &mut Client, message: &Publish) {
    writer.send(&message.clone().qos(2, 9));
    writer.expect_ack(wire::PUBREC, 9);
    writer.raw.send(&wire::ack(wire::PUBREL, 9));
    writer.expect_ack(wire::PUBCOMP, 9);
}

/// What waits for the one who has stayed: everything, at least once.
fn assert_all_came(broker: &Broker, count: usize) {
    let mut stayer = broker.client(&lasting("stayer"));
    assert!(stayer.connack.session_present());
    let mut came = BTreeSet::new();
    while came.len() < count {
        let message = stayer.receive();
        stayer.acknowledge(&message);
        let number: usize = message.text().parse().unwrap();
        assert!(number < count);
        came.insert(number);
    }
    stayer.ping();
}

#[test]
fn it_is_delivered_to_the_others_once_its_session_has_ended() {
    let broker = start();
    leave(&broker, 600);
    assert_all_came(&broker, 600);
}

#[test]
fn it_is_delivered_to_the_others_though_the_broker_is_killed_meanwhile() {
    let mut broker = Setup::new().plaintext().start();
    leave(&broker, 600);
    broker.restart(Signal::KILL);
    // The one who has left has left.
    assert!(!broker.client(&lasting("leaver")).connack.session_present());
    assert_all_came(&broker, 600);
    broker.restart(Signal::TERM);
    assert!(broker.client(&lasting("leaver")).connack.session_present());
}

#[test]
fn of_qos_2_only_what_had_begun_stays_with_the_one_who_has_left() {
    let broker = start();
    let mut leaver = broker.client(&lasting("leaver").properties(&property::receive_maximum(3)));
    leaver.subscribe(FILTER, 2);
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..30 {
        publish_once(&mut writer, &Publish::new("t", &number.to_string()));
    }
    for number in 0..3 {
        assert_eq!(leaver.receive().text(), number.to_string());
    }
    leaver.disconnect();
    let mut stayer = broker.client(&lasting("stayer"));
    stayer.subscribe(FILTER, 2);
    broker.client(&Connect::new(Version::Mqtt5, "leaver")).disconnect();
    for number in 3..30 {
        stayer.receive_text(&number.to_string());
    }
    stayer.ping();
}
