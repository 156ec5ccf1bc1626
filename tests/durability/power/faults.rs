//! Disks that fail: what was acknowledged is there when they work again, and nothing that they did
//! not take was acknowledged.

use std::fs;

use rustix::io::Errno;

use super::bench::Bench;
use super::shim::Process;
use crate::harness::raw::Client;
use crate::harness::wire::{self, Connect, Publish, Version};
use crate::lasting;

/// Messages that are published before the disk fails.
const BEFORE: u32 = 5;
/// So many at most until the engine has written to whatever file fails.
const PUBLISHED_MAX: u32 = 2000;

/// What fails: of the system calls of a kind those on files whose path has this part.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: &'static str,
    error: Errno,
    /// The first of those is that which fails, and so many behind it.
    count: u32,
    part: &'static str,
}

impl Fault {
    fn variables(self, bench: &Bench) -> [(&'static str, String); 2] {
        let Self { kind, error, count, part } = self;
        let fault = format!("{kind} {} 1 {count} {part}", error.raw_os_error());
        [("SHIM_FAULT", fault), ("SHIM_TRIGGER", trigger(bench))]
    }
}

/// The file that says that the disk fails from now on.
fn trigger(bench: &Bench) -> String {
    bench.aside("trigger").display().to_string()
}

fn plain(broker: &Process, client_id: &str) -> Client {
    Client::connect(broker.address, &Connect::new(Version::Mqtt5, client_id))
}

/// Has a message for somebody who is away. False where it was not acknowledged.
fn publish(writer: &mut Client, number: u32, payload_bytes: usize) -> bool {
    let payload = format!("{number:<payload_bytes$}");
    // Unless the broker has closed the connection already.
    let _ = writer.raw.try_send(&Publish::new("a", &payload).qos(1, 1).bytes(Version::Mqtt5));
    let Some(answer) = writer.raw.next_packet() else { return false };
    let is_taken = answer[0] == wire::PUBACK && answer.get(4).is_none_or(|reason| *reason < 0x80);
    assert!(is_taken || answer[0] == 0xe0, "neither PUBACK nor DISCONNECT: {answer:02x?}");
    is_taken
}

/// Publishes until the disk fails; says how many messages were acknowledged.
fn publish_into(bench: &Bench, broker: &Process, payload_bytes: usize) -> u32 {
    let mut reader = Client::connect(broker.address, &lasting("reader"));
    reader.subscribe("a", 1);
    reader.disconnect();
    let mut writer = plain(broker, "writer");
    // One whose answer waits too.
    let mut bystander = plain(broker, "bystander");
    for number in 0..BEFORE {
        assert!(publish(&mut writer, number, payload_bytes));
    }
    fs::write(trigger(bench), "").unwrap();
    let mut taken = BEFORE;
    while publish(&mut writer, taken, payload_bytes) {
        taken += 1;
        assert!(taken < PUBLISHED_MAX, "nothing has failed");
    }
    assert!(!publish(&mut bystander, taken + 1, 0), "acknowledged after the disk has failed");
    taken
}

/// All that was acknowledged is there, in order, and nothing that was never sent.
fn check(bench: &Bench, taken: u32) {
    let broker = bench.start().unwrap();
    let mut reader = Client::connect(broker.address, &lasting("reader"));
    assert!(reader.connack.session_present());
    // Behind all of them.
    plain(&broker, "writer").publish_surely(&Publish::new("a", "end"));
    let mut numbers = Vec::new();
    loop {
        let publish = reader.receive();
        reader.acknowledge(&publish);
        if publish.text() == "end" {
            break;
        }
        numbers.push(publish.text().trim().to_owned());
    }
    let expected: Vec<_> = (0..taken).map(|number| number.to_string()).collect();
    let (kept, more) = numbers.split_at(expected.len());
    assert_eq!(kept, expected);
    // What was sent and not acknowledged may be there.
    let sent = [taken, taken + 1].map(|number| number.to_string());
    assert!(more.iter().all(|number| sent.contains(number)), "{more:?}");
}

/// A disk that fails while messages are published to it: the broker ends, and says why.
fn fails(fault: Fault, payload_bytes: usize) {
    let bench = Bench::new();
    let broker = bench.start_shimmed(&fault.variables(&bench)).unwrap();
    let taken = publish_into(&bench, &broker, payload_bytes);
    let ended = broker.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("shim: "), "no call has failed: {ended:?}");
    assert!(ended.stderr.contains("store.folder: "), "it does not say why: {ended:?}");
    check(&bench, taken);
}

const JOURNAL: &str = "/data/0.jnl";
/// More than the engine keeps in memory, in a thousand messages.
const LARGE: usize = 40_000;

#[test]
fn after_a_sync_has_failed_once_nothing_is_acknowledged() {
    fails(Fault { kind: "sync", error: Errno::IO, count: 1, part: JOURNAL }, 0);
}

#[test]
fn after_a_write_has_failed_once_nothing_is_acknowledged() {
    fails(Fault { kind: "write", error: Errno::IO, count: 1, part: JOURNAL }, 0);
}

#[test]
fn what_a_full_disk_does_not_take_is_not_acknowledged() {
    fails(Fault { kind: "write", error: Errno::NOSPC, count: 1_000_000, part: JOURNAL }, 0);
}

#[test]
fn half_of_a_batch_on_a_full_disk_is_not_acknowledged() {
    fails(Fault { kind: "short", error: Errno::NOSPC, count: 1_000_000, part: JOURNAL }, 0);
}

#[test]
fn a_table_that_cannot_be_synced_ends_the_broker() {
    fails(Fault { kind: "sync", error: Errno::IO, count: 1, part: "/tables/" }, LARGE);
}

#[test]
fn a_table_that_cannot_be_written_ends_the_broker() {
    fails(Fault { kind: "write", error: Errno::NOSPC, count: 1_000_000, part: "/tables/" }, LARGE);
}

#[test]
fn a_store_that_cannot_be_read_is_refused() {
    let bench = Bench::new();
    let broker = bench.start_shimmed(&[]).unwrap();
    let mut reader = Client::connect(broker.address, &lasting("reader"));
    reader.subscribe("a", 1);
    reader.disconnect();
    let mut writer = plain(&broker, "writer");
    for number in 0..BEFORE {
        assert!(publish(&mut writer, number, 0));
    }
    drop(broker);
    fs::write(trigger(&bench), "").unwrap();
    for part in [JOURNAL, "/data/identity", "/data/version", "/1/current", "/1/v0", "/0/tables/"] {
        for count in [1, 1_000_000] {
            let fault = Fault { kind: "read", error: Errno::IO, count, part };
            let Err(refused) = bench.start_shimmed(&fault.variables(&bench)) else {
                panic!("it starts although {part} cannot be read");
            };
            assert_eq!(refused.status.code(), Some(1), "{part}: {refused:?}");
            assert!(refused.stderr.contains("shim: read: "), "{part}: {refused:?}");
        }
    }
    check(&bench, BEFORE);
}

#[test]
fn a_store_that_cannot_be_made_is_made_later() {
    let bench = Bench::new();
    fs::write(trigger(&bench), "").unwrap();
    for (kind, part) in [
        ("sync", "/data.new/0.jnl"),
        ("sync", "/keyspaces/1"),
        ("sync", "/data.new/identity"),
        ("sync", "/store/lock"),
        ("write", "/data.new/0.jnl"),
        ("write", "/keyspaces/1"),
        ("write", "/data.new/identity"),
        ("write", "/store/lock"),
    ] {
        bench.wipe();
        let fault = Fault { kind, error: Errno::NOSPC, count: 1, part };
        let Err(refused) = bench.start_shimmed(&fault.variables(&bench)) else {
            panic!("it starts although {kind} of {part} has failed");
        };
        assert_eq!(refused.status.code(), Some(1), "{part}: {refused:?}");
        assert!(refused.stderr.contains("shim: "), "{part}: {refused:?}");
        bench.start().unwrap();
    }
}
