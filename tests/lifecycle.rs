//! The broker as a process: it starts, says so, serves, can be asked, and ends when told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

#[path = "harness/mod.rs"]
mod harness;

use rustix::process::Signal;

use std::time::{Duration, Instant};

use harness::Setup;
use harness::raw::{Client, Raw};
use harness::websocket::{request, upgrade};
use harness::wire::{Connect, PINGREQ, Publish, Version};
use tungstenite::Message;

#[test]
fn a_message_goes_from_one_client_to_another() {
    let broker = Setup::new().plaintext().start();
    for version in [Version::Mqtt31, Version::Mqtt311, Version::Mqtt5] {
        let mut reader = broker.simple(version, "reader");
        assert_eq!(reader.subscribe("greetings", 0), 0);
        broker.simple(version, "writer").publish("greetings", "hello");
        reader.receive_text("hello");
    }
}

#[test]
fn on_sigterm_clients_are_told_and_the_exit_is_clean() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = Setup::new().plaintext().start();
        let mut modern = broker.simple(Version::Mqtt5, "modern");
        let mut old = broker.simple(Version::Mqtt311, "old");
        broker.signal(signal);
        // Server shutting down.
        modern.raw.expect_disconnect(&[0x8b]);
        old.raw.expect_closed();
        assert!(broker.wait().success(), "{}", broker.stderr());
        let events: Vec<_> = broker.audit().iter().map(|it| it["event"].clone()).collect();
        assert_eq!(events.first().unwrap(), "broker.started");
        assert_eq!(events.last().unwrap(), "broker.stopped");
    }
}

#[test]
fn a_connection_that_says_nothing_does_not_hold_up_the_end() {
    let mut broker = Setup::new().plaintext().start();
    let address = broker.address("mqtt");
    let mut silent = Raw::tcp(address);
    let mut begun = Raw::tcp(address);
    begun.send(&[0x10]);
    // Accepted in turn: when this one is connected, those are on their way in.
    let client = Client::connect(address, &Connect::new(Version::Mqtt5, "c"));
    let began = Instant::now();
    broker.signal(Signal::TERM);
    silent.expect_closed();
    begun.expect_closed();
    drop(client);
    assert!(broker.wait().success(), "{}", broker.stderr());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let ended = |record: &&serde_json::Value| {
        record["event"] == "connection.refused" && record["reason"]["code"] == 0x8b
    };
    assert_eq!(broker.audit().iter().filter(ended).count(), 2);
}

#[test]
fn metrics_count_what_happens() {
    let broker = Setup::new().plaintext().start();
    let before = broker.metrics();
    assert!(before.starts_with("HTTP/1.1 200"), "{before}");
    assert!(before.contains("\n# HELP portcullis_"), "{before}");
    let mut client = broker.simple(Version::Mqtt5, "counted");
    client.publish_surely(&Publish::new("t", "x"));
    assert_ne!(broker.metrics(), before);
}

#[test]
fn a_takeover_is_on_record_with_where_it_came_from() {
    let broker = Setup::new().plaintext().start();
    let mut old = broker.simple(Version::Mqtt5, "twice");
    let mut new = broker.simple(Version::Mqtt5, "twice");
    old.raw.expect_disconnect(&[0x8e]);
    new.ping();
    let record = broker.audited("the takeover", |record| record["event"] == "session.taken-over");
    assert_eq!(record["by_address"], "127.0.0.1", "{record}");
}

#[test]
fn what_a_client_violates_before_connack_is_counted_and_named() {
    let broker = Setup::new().plaintext().websocket().start();
    let mut raw = broker.raw();
    raw.send(&PINGREQ);
    raw.expect_end();
    let address = broker.address("ws");
    let mut socket = upgrade(address, request(address, "/mqtt")).unwrap();
    socket.send(Message::text("text")).unwrap();
    for (listener, gate, reason, statement) in
        [("mqtt", "connect", 0x82, "MQTT-3.1.0-1"), ("ws", "websocket", 0x82, "MQTT-6.0.0-1")]
    {
        let refused = broker.audited("the refusal", |record| {
            record["event"] == "connection.refused" && record["listener"] == listener
        });
        assert_eq!(refused["gate"], gate, "{refused}");
        assert_eq!(refused["reason"]["code"], reason, "{refused}");
        assert_eq!(refused["statement"], statement, "{refused}");
    }
    assert!(broker.metrics().contains("portcullis_violations_total 2\n"));
}

#[test]
fn the_status_is_told_over_the_control_socket() {
    let broker = Setup::new().plaintext().start();
    let _client = broker.simple(Version::Mqtt5, "present");
    let output = broker.ctl(&["status"]);
    assert!(output.status.success(), "{output:?}");
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        status.lines().any(|line| line.starts_with("connections") && line.ends_with('1')),
        "{status}"
    );
}
