//! The store as a folder.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::wire::{self, Connect, Publish, Version, property};
use crate::harness::{Broker, Setup};
use crate::{lasting, start};

#[test]
fn nobody_else_reads_it_and_no_second_broker_opens_it() {
    let broker = start();
    let folder = broker.path().join("store");
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");
    let config = format!("[store]\nfolder = {:?}", folder.display().to_string());
    let refused = Setup::new().plaintext().config(&config).refused();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("is in use by another process"), "{}", refused.stderr);
    let mut client = broker.client(&lasting("c"));
    client.ping();
}

#[test]
fn what_is_only_in_memory_is_gone_with_the_process() {
    let config = "[store]\ndurability = \"memory\"";
    let mut broker = Setup::new().plaintext().config(config).start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 1);
    reader.disconnect();
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    writer.publish_surely(&Publish::new("a", "x").retain());
    assert!(!broker.path().join("store").exists());
    broker.restart(Signal::TERM);
    assert!(!broker.client(&lasting("reader")).connack.session_present());
}

#[test]
fn a_session_of_a_profile_that_keeps_none_is_gone_with_the_process() {
    let config = "[profile.default.session]\ndurability = \"memory\"";
    let mut broker = Setup::new().default_limits().plaintext().config(config).start();
    broker.client(&lasting("reader")).disconnect();
    assert!(broker.client(&lasting("reader")).connack.session_present());
    broker.restart(Signal::TERM);
    assert!(!broker.client(&lasting("reader")).connack.session_present());
}

const USER_PROPERTY: u8 = 0x26;

/// What CONNACK says of the durability, where CONNECT asks.
fn durability(broker: &Broker, expiry_s: u32) -> Vec<u8> {
    let mut properties = property::session_expiry(expiry_s);
    properties.extend(property::user("portcullis-durability", "?"));
    let connect = Connect::new(Version::Mqtt5, "curious").properties(&properties);
    broker.client(&connect).connack.property(USER_PROPERTY).unwrap().to_vec()
}

#[test]
fn a_client_that_asks_is_told_what_an_acknowledgement_promises() {
    for (broker_wide, profile, expiry_s, told) in [
        ("fsync", "fsync", 60, "fsync"),
        ("fsync", "os", 60, "os"),
        ("os", "fsync", 60, "os"),
        ("fsync", "memory", 60, "memory"),
        ("memory", "fsync", 60, "memory"),
        ("fsync", "fsync", 0, "memory"),
    ] {
        let config = format!(
            "[store]\ndurability = \"{broker_wide}\"\n[profile.default.session]\ndurability = \
             \"{profile}\""
        );
        let broker = Setup::new().default_limits().plaintext().config(&config).start();
        assert_eq!(
            durability(&broker, expiry_s),
            property::user("portcullis-durability", told)[1..],
            "{broker_wide} {profile} {expiry_s}"
        );
        assert_eq!(broker.client(&lasting("silent")).connack.property(USER_PROPERTY), None);
    }
}

/// A store as version 0.1 of the format left it when its broker was killed.
const FORMAT_1: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/durability/fixtures/format-1.tar.gz");

/// One of the second format, which knew of no bans and devices.
const FORMAT_2: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/durability/fixtures/format-2.tar.gz");

#[test]
fn a_store_of_the_second_format_is_served_and_takes_what_it_did_not_know_of() {
    let setup = Setup::new().plaintext();
    let unpacked = Command::new("tar").arg("-xzf").arg(FORMAT_2).current_dir(setup.path()).status();
    assert!(unpacked.unwrap().success());
    let mut broker = setup.start();
    let mut reader = broker.client(&lasting("absent"));
    assert!(reader.connack.session_present());
    let message = reader.receive_text("first");
    assert_eq!((message.qos, message.topic.as_str()), (1, "a/1"));
    assert_eq!(message.subscription_ids(), [7]);
    reader.receive_text("second");
    reader.vanish();
    let banned = broker.ctl(&["ban", "add", "--client-id", "fresh"]);
    assert!(banned.status.success(), "{banned:?}");
    broker.restart(Signal::KILL);
    assert!(broker.client(&lasting("absent")).connack.session_present());
    let mut other = broker.simple(Version::Mqtt5, "other");
    other.subscribe("c/#", 1);
    other.receive_text("kept");
    let mut raw = broker.raw();
    raw.send(&lasting("fresh").bytes());
    assert_eq!(wire::Connack::parse(Version::Mqtt5, &raw.recv_packet()).code, 0x8a);
}

#[test]
fn a_store_of_the_first_format_is_served() {
    let setup = Setup::new().plaintext();
    let unpacked = Command::new("tar").arg("-xzf").arg(FORMAT_1).current_dir(setup.path()).status();
    assert!(unpacked.unwrap().success());
    let mut broker = setup.start();
    let mut reader = broker.client(&lasting("absent"));
    assert!(reader.connack.session_present());
    reader.expect_ack(wire::PUBREL, 1);
    let message = reader.receive_text("second");
    assert_eq!((message.qos, message.topic.as_str()), (2, "a/2"));
    assert_eq!(message.subscription_ids(), [7]);
    for text in ["shared", &"x".repeat(300), "kept", "user"] {
        reader.receive_text(text);
    }
    reader.ping();
    let mut fresh = broker.simple(Version::Mqtt5, "fresh");
    fresh.subscribe("c/#", 1);
    fresh.receive_text("kept");
    fresh.receive_text("user");
    // What it has become is read as well.
    broker.restart(Signal::KILL);
    // A QoS 2 publication that was taken, and not released, is not taken twice.
    let mut writer = broker.client(&lasting("publisher"));
    writer.send(&Publish::new("a/2", "second").qos(2, 2));
    writer.expect_ack(wire::PUBREC, 2);
    let mut reader = broker.client(&lasting("absent"));
    assert!(reader.connack.session_present());
    reader.expect_ack(wire::PUBREL, 1);
}
