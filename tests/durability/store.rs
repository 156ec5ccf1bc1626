//! The store as a folder.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;

use crate::harness::Setup;
use crate::harness::wire::{Publish, Version};
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
    let config = "[profile.default.session]\ndurable = false";
    let mut broker = Setup::new().default_limits().plaintext().config(config).start();
    broker.client(&lasting("reader")).disconnect();
    assert!(broker.client(&lasting("reader")).connack.session_present());
    broker.restart(Signal::TERM);
    assert!(!broker.client(&lasting("reader")).connack.session_present());
}

#[test]
fn a_queue_on_disk_keeps_its_bounds() {
    for (overflow, left) in [("drop-newest", ["0", "1", "2"]), ("drop-oldest", ["3", "4", "5"])] {
        let config =
            format!("[profile.default.mailbox]\nmessages_max = 3\noverflow = \"{overflow}\"");
        let mut broker = Setup::new().plaintext().config(&config).start();
        let mut reader = broker.client(&lasting("reader"));
        reader.subscribe("a", 1);
        reader.disconnect();
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
