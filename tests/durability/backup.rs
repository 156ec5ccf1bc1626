//! `portcullis store`, against a broker that runs and one that does not.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::raw::Client;
use crate::harness::wire::{self, Publish, Version, property};
use crate::harness::{Broker, PORTCULLIS, Setup};
use crate::lasting;

/// Room for what a publisher sends while a backup is made.
const ROOMY: &str = "[profile.default.mailbox]\nmessages_max = 1000000\nbytes_max = \"128MiB\"";

fn start() -> Broker {
    Setup::new().plaintext().config(ROOMY).start()
}

/// `portcullis store` in the broker's folder.
fn store(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PORTCULLIS)
        .arg("store")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn fine(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, what: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    assert!(said(output).contains(what), "{}", said(output));
}

const CONFIG: [&str; 2] = ["--config", "portcullis.toml"];

fn with_config<'a>(command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&[command], &CONFIG[..], rest].concat()
}

/// Ends the broker, and starts it with the store that `restore` makes.
fn start_restored(broker: &mut Broker, restore: &[&str]) {
    broker.signal(Signal::KILL);
    broker.wait();
    std::fs::rename(broker.path().join("store"), broker.path().join("store.old")).unwrap();
    fine(store(broker.path(), restore));
    broker.start_again(&[]);
}

#[test]
fn a_backup_made_while_clients_publish_has_all_that_was_acknowledged_before() {
    let mut broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe("a", 2);
    reader.disconnect();
    let (acknowledged, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    let before = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = broker.simple(Version::Mqtt5, "writer");
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                writer.publish_surely(&Publish::new("a", &number.to_string()));
                acknowledged.store(number + 1, Ordering::SeqCst);
            }
        });
        while acknowledged.load(Ordering::SeqCst) < 200 {
            std::thread::yield_now();
        }
        let before = acknowledged.load(Ordering::SeqCst);
        fine(store(broker.path(), &with_config("backup", &["backup"])));
        is_over.store(true, Ordering::Relaxed);
        before
    });
    let all = acknowledged.load(Ordering::SeqCst);
    assert!(all > before, "nothing was published meanwhile");
    let made = broker
        .audited("the backup", |record| record["verb"] == "backup" && record["about"] != "begins");
    assert_eq!(made["outcome"], "done", "{made}");
    assert!(made["about"].as_str().unwrap().contains("SHA-256"), "{made}");
    let begun = broker.audit().into_iter().find(|record| record["verb"] == "backup").unwrap();
    assert_eq!((&begun["about"], &begun["outcome"]), (&"begins".into(), &"done".into()));
    fine(store(broker.path(), &["verify", "backup"]));
    let backup = broker.path().join("backup");
    for (path, expected) in [
        (backup.clone(), 0o700),
        (backup.join("data"), 0o600),
        (backup.join("manifest.json"), 0o600),
    ] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, expected, "{}", path.display());
    }

    start_restored(&mut broker, &with_config("restore", &["backup"]));
    let mut reader = broker.client(&lasting("reader"));
    assert!(reader.connack.session_present());
    for number in 0..before {
        reader.receive_text(&number.to_string());
    }
    // What was on its way when the backup was made, in order.
    broker.simple(Version::Mqtt5, "late").publish_surely(&Publish::new("a", "end"));
    let mut number = before;
    loop {
        let message = reader.receive();
        reader.acknowledge(&message);
        if message.text() == "end" {
            break;
        }
        assert_eq!(message.text(), number.to_string());
        number += 1;
    }
    assert!((before..=all).contains(&number));
    reader.ping();
}

/// A broker with something of every kind, and the clients that are connected to it.
fn with_everything() -> (Broker, [Client; 2]) {
    let broker = start();
    let mut reader = broker.client(&lasting("reader"));
    reader.subscribe_with(&property::subscription_id(7), &[("a/+", 2)]);
    let mut other = broker.client(&lasting("other"));
    other.subscribe_with(&[], &[("a/+", 1), ("wills", 1)]);
    other.disconnect();
    let mut writer =
        broker.client(&lasting("writer").will(wire::Will::new("wills", "lost").qos(1)));
    for text in ["one", "two"] {
        writer.send(&Publish::new("a/b", text).qos(2, 9));
        writer.expect_ack(wire::PUBREC, 9);
        writer.raw.send(&wire::ack(wire::PUBREL, 9));
        writer.expect_ack(wire::PUBCOMP, 9);
    }
    let (one, two) = (reader.receive(), reader.receive());
    assert_eq!((one.text(), two.text()), ("one", "two"));
    // PUBREC came for the first; the second was not answered.
    reader.raw.send(&wire::ack(wire::PUBREC, one.id.unwrap()));
    reader.expect_ack(wire::PUBREL, one.id.unwrap());
    // One that was taken, and not released.
    writer.send(&Publish::new("a/c", &"long".repeat(50)).qos(2, 5));
    writer.expect_ack(wire::PUBREC, 5);
    writer.publish_surely(&Publish::new("kept", "retained").retain());
    (broker, [reader, writer])
}

/// The clients of [`with_everything`] find everything as it was.
fn everything_is_there(broker: &Broker) {
    let mut reader = broker.client(&lasting("reader"));
    assert!(reader.connack.session_present());
    reader.expect_ack(wire::PUBREL, 1);
    reader.raw.send(&wire::ack(wire::PUBCOMP, 1));
    let two = reader.receive_text("two");
    assert_eq!((two.id, two.qos, two.subscription_ids()), (Some(2), 2, vec![7]));
    reader.receive_text(&"long".repeat(50));
    reader.ping();
    let mut other = broker.client(&lasting("other"));
    for text in ["one", "two", &"long".repeat(50), "lost"] {
        assert_eq!(other.receive_text(text).qos, 1);
    }
    other.ping();
    // Its identifier is known: it is not published again.
    let mut writer = broker.client(&lasting("writer"));
    writer.send(&Publish::new("a/c", "again").qos(2, 5).dup());
    writer.expect_ack(wire::PUBREC, 5);
    writer.raw.send(&wire::ack(wire::PUBREL, 5));
    writer.expect_ack(wire::PUBCOMP, 5);
    reader.ping();
    let mut late = broker.simple(Version::Mqtt5, "late");
    late.subscribe("kept", 0);
    late.receive_text("retained");
}

#[test]
fn a_restored_broker_goes_on_where_the_backup_was_made() {
    for is_running in [true, false] {
        let (mut broker, _clients) = with_everything();
        if !is_running {
            broker.signal(Signal::KILL);
            broker.wait();
        }
        let made = fine(store(broker.path(), &with_config("backup", &["backup"])));
        assert_eq!(made, "backup\n");
        start_restored(&mut broker, &with_config("restore", &["backup"]));
        everything_is_there(&broker);
    }
}

#[test]
fn what_was_exported_is_imported() {
    let (mut broker, _clients) = with_everything();
    let lines = fine(store(broker.path(), &with_config("export", &["--jsonl"])));
    for kind in [
        "store",
        "message",
        "session",
        "subscription",
        "received",
        "released",
        "delivery",
        "retained",
    ] {
        let tag = format!("{{\"kind\":\"{kind}\",");
        assert!(lines.lines().any(|line| line.starts_with(&tag)), "no {kind} in {lines}");
    }
    assert!(lines.contains("\"will\":{\"topic\":\"wills\""), "{lines}");
    std::fs::write(broker.path().join("x.jsonl"), &lines).unwrap();
    start_restored(&mut broker, &with_config("import", &["x.jsonl"]));
    everything_is_there(&broker);

    // By a pipe, and into a folder elsewhere.
    let mut import = Command::new(PORTCULLIS)
        .args(["store", "import", "--config", "portcullis.toml", "--set"])
        .args([&format!("store.folder={}", broker.path().join("other").display()), "-"])
        .current_dir(broker.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    assert_eq!(fine(store(broker.path(), &["export", "--jsonl", "other"])), lines);
}

#[test]
fn what_there_is_can_be_looked_at_in_every_form() {
    let (mut broker, _clients) = with_everything();
    fine(store(broker.path(), &with_config("backup", &["backup"])));
    let running = fine(store(broker.path(), &with_config("inspect", &["--json"])));
    let running: Value = serde_json::from_str(&running).unwrap();
    let sessions = running["sessions"].as_array().unwrap();
    let of = |client_id: &str| sessions.iter().find(|it| it["client_id"] == client_id).unwrap();
    assert_eq!(
        (&of("reader")["waiting_messages"], &of("reader")["released"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&of("other")["waiting_messages"], &of("other")["subscriptions"]),
        (&3.into(), &2.into())
    );
    assert_eq!((&of("writer")["received"], &of("writer")["has_will"]), (&1.into(), &true.into()));
    assert_eq!((&running["retained_messages"], &running["disk_bytes"]), (&1.into(), &Value::Null));
    fine(store(broker.path(), &with_config("verify", &[])));
    refused(
        &store(broker.path(), &["inspect", "store"]),
        "in use by another process; name the broker's",
    );
    broker.signal(Signal::KILL);
    broker.wait();
    for from in ["store", "backup"] {
        let inspected = fine(store(broker.path(), &["inspect", "--json", from]));
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["sessions"], running["sessions"], "{from}");
        assert!(inspected["disk_bytes"].as_u64().unwrap() > 0);
        let text = fine(store(broker.path(), &["inspect", from]));
        assert!(
            text.contains("\"reader\"") && text.contains("3 sessions, 5 waiting; 1 retained"),
            "{text}"
        );
        fine(store(broker.path(), &["verify", from]));
    }
    broker.start_again(&[]);
}

#[test]
fn what_cannot_be_done_is_said_with_the_remedy() {
    let (mut broker, _clients) = with_everything();
    fine(store(broker.path(), &with_config("backup", &["backup"])));
    let folder = broker.path().to_owned();
    refused(
        &store(&folder, &with_config("backup", &["backup"])),
        "not empty, and nothing is overwritten",
    );
    refused(&store(&folder, &with_config("restore", &["backup"])), "in use by another process");
    refused(
        &store(
            &folder,
            &["backup", "--config", "portcullis.toml", "--set", "control.uids=[]", "new/in"],
        ),
        "new",
    );
    broker.signal(Signal::KILL);
    broker.wait();
    refused(&store(&folder, &with_config("restore", &["backup"])), "there is a store already");
    refused(&store(&folder, &with_config("restore", &["store"])), "it is no backup");
    std::fs::write(folder.join("x.jsonl"), "{\"kind\":\"store\",\"format\":3}\n{}\n").unwrap();
    let elsewhere = ["--config", "portcullis.toml", "--set", "store.folder=new"];
    let import = [&["import"], &elsewhere[..], &["x.jsonl"]].concat();
    refused(&store(&folder, &import), "x.jsonl:2: missing field `kind`");
    let memory = ["--config", "portcullis.toml", "--set", "store.durability=memory"];
    refused(&store(&folder, &[&["backup"], &memory[..], &["b"]].concat()), "there is no store");

    // One bit of the backup.
    let data = folder.join("backup/data");
    let mut bytes = std::fs::read(&data).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let verified = store(&folder, &["verify", "backup"]);
    refused(&verified, "take another backup");
    let found = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(
        found.contains("backup/data: byte ") && found.contains("use another backup"),
        "{found}"
    );
    let restore = [&["restore"], &elsewhere[..], &["backup"]].concat();
    refused(&store(&folder, &restore), "the checksum of the block before is wrong");
    assert!(!folder.join("new/data").exists());

    // And one of the store.
    let journal = folder.join("store/data/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = bytes.windows(8).position(|found| found == b"longlong").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let verified = store(&folder, &["verify", "store"]);
    refused(&verified, "restore a backup");
    let found = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(found.contains("store/data/0.jnl: what stands from byte"), "{found}");
    assert_eq!(std::fs::read(&journal).unwrap(), bytes);
    broker.start_again(&["--accept-loss"]);
}
