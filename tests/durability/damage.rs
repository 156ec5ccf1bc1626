//! A store that cannot be read in full.

use std::process::Command;

use rustix::process::Signal;

use crate::harness::wire::{Publish, Version};
use crate::{lasting, start};

#[test]
fn a_damaged_store_is_refused_until_the_loss_is_accepted() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 1);
    reader.disconnect();
    let mut writer = broker.simple(Version::Mqtt5, "writer");
    for number in 0..10 {
        writer.publish_surely(&Publish::new("a", &number.to_string()));
    }
    writer.publish_surely(&Publish::new("b", "kept").retain());
    broker.signal(Signal::KILL);
    broker.wait();
    // The fifth of the messages, somewhere in the journal.
    let journal = broker.path().join("store/data/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let message = *b"\x00\x01a\x004";
    let at = bytes.windows(message.len()).position(|found| found == message).unwrap();
    bytes[at + 4] = b'?';
    std::fs::write(&journal, &bytes).unwrap();

    let refused = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["serve", "--config"])
        .arg(broker.path().join("portcullis.toml"))
        .current_dir(broker.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("0.jnl") && said.contains("--accept-loss"), "{said}");
    assert_eq!(std::fs::read(&journal).unwrap(), bytes);

    for arguments in [&["--accept-loss"][..], &[]] {
        broker.start_again(arguments);
        let mut reader = broker.client(&lasting("reader"));
        assert!(reader.connack.session_present());
        for number in (0..4).chain(5..10) {
            assert_eq!(reader.receive().text(), number.to_string());
        }
        broker.audited("the loss", |record| {
            record["event"] == "store.loss-accepted"
                && record["what"].as_str().unwrap().contains("0.jnl: what stands from byte")
        });
        let mut late = broker.simple(Version::Mqtt5, "late");
        late.subscribe("b", 1);
        late.receive_text("kept");
        broker.signal(Signal::KILL);
        broker.wait();
    }
}
