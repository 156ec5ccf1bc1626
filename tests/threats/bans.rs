//! Bans, by hand and of clients that come and go all the time.

use std::fmt::Write as _;
use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::certificates::Identity;
use crate::harness::raw::Raw;
use crate::harness::wire::{Connect, Publish, Version, Will, property};
use crate::harness::{Broker, Setup};
use crate::{is, refusal};

const V: Version = Version::Mqtt5;
const BANNED: u8 = 0x8a;

pub(crate) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn failed(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{output:?}");
}

/// Bans by these words; the number of the ban.
fn ban(broker: &Broker, words: &[&str]) -> String {
    let told = done(&broker.ctl(&[&["--json", "ban", "add"], words].concat()));
    serde_json::from_str::<Value>(&told).unwrap()["ban"].to_string()
}

fn will(name: &str) -> Will {
    Will::new(&format!("wills/{name}"), "left").properties(property::will_delay(0))
}

fn discarded(broker: &Broker, name: &str, why: &str) {
    let topic = format!("wills/{name}");
    broker.audited("the will", |record| {
        record["event"] == "will.discarded"
            && record["topic"] == topic
            && record["why"].as_str().unwrap().contains(why)
    });
}

fn fingerprint(identity: &Identity) -> String {
    let chain = identity.chain();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &chain[0]);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}:");
        text
    })
}

/// Threat: somebody who is not wanted any more goes on.
#[test]
fn a_ban_ends_the_session_it_is_about_and_keeps_its_client_out() {
    let mut broker = Setup::new().mutual_tls().start();
    let (gone, stays) = (broker.authority().client("gone"), broker.authority().client("stays"));
    let sha256 = fingerprint(&gone);
    let sha256 = sha256.trim_end_matches(':');
    let mut stayer = broker.client_tls(&stays, &Connect::new(V, "stays"));
    stayer.subscribe("wills/#", 1);
    for (words, why) in [
        (&["--principal", "Device::gone"][..], "the principal is banned"),
        (&["--client-id", "gone"], "the client id is banned"),
        (
            &["--principal", "Device::gone", "--client-id", "gone"],
            "the principal under this client id is banned",
        ),
        (&["--certificate", sha256], "the certificate is banned"),
    ] {
        let connect = Connect::new(V, "gone").will(will("gone"));
        let mut leaver = broker.client_tls(&gone, &connect);
        let number = ban(&broker, &[words, &["--why", "a test"]].concat());
        leaver.raw.expect_disconnect(&[BANNED]);
        discarded(&broker, "gone", why);
        assert_eq!(refusal(broker.raw_tls(&gone), &connect), BANNED);
        // MQTT 3 has no word for it.
        let old = Connect::new(Version::Mqtt311, "gone");
        assert_eq!(refusal(broker.raw_tls(&gone), &old), 5);
        // It is as true after the process was killed.
        broker.restart(Signal::KILL);
        assert_eq!(refusal(broker.raw_tls(&gone), &connect), BANNED);
        stayer = broker.client_tls(&stays, &Connect::new(V, "stays"));
        stayer.ping();
        done(&broker.ctl(&["ban", "remove", &number]));
        broker.client_tls(&gone, &connect).ping();
    }
    assert_eq!(done(&broker.ctl(&["ban", "list"])), "");
    let added = broker.audited("a ban", |record| record["event"] == "ban.added");
    assert_eq!((&added["by"], &added["why"]), (&"operator".into(), &"a test".into()));
    assert!(added["uid"].is_u64(), "{added}");
}

/// Threat: somebody who is not wanted any more goes on.
#[test]
fn a_client_that_does_not_read_is_put_out_all_the_same() {
    let broker = Setup::new().plaintext().start();
    let mut deaf = broker.simple(V, "deaf");
    deaf.subscribe("flood", 0);
    let mut writer = broker.simple(V, "writer");
    let payload = "x".repeat(500_000);
    let dropped = |page: &str| {
        let mut lines = page.lines().filter(|line| line.contains("dropped_publishes_total{"));
        lines.any(|line| !line.ends_with(" 0"))
    };
    // Until so much waits that the broker cannot write any more.
    for _ in 0..200 {
        writer.publish_surely(&Publish::new("flood", &payload).qos(1, 1));
        if dropped(&broker.metrics()) {
            break;
        }
    }
    assert!(dropped(&broker.metrics()));
    ban(&broker, &["--client-id", "deaf"]);
    let closed = broker.audited("the end", |record| is(record, "connection.closed", "deaf"));
    assert_eq!(closed["reason"]["code"], BANNED);
    writer.ping();
}

#[test]
fn a_banned_address_gets_no_answer_at_all() {
    let broker = Setup::new().mutual_tls().plaintext().start();
    let device = broker.authority().client("a");
    let mut client = broker.client_tls(&device, &Connect::new(V, "a").will(will("a")));
    ban(&broker, &["--address", "127.0.0.0/8", "--for", "1h"]);
    client.raw.expect_disconnect(&[BANNED]);
    discarded(&broker, "a", "the address is banned");
    // Before TLS, and before CONNECT is read.
    let mut raw = broker.raw();
    let _ = raw.try_send(&Connect::new(V, "b").bytes());
    raw.expect_closed();
    broker.audited("the refusal", |record| {
        record["event"] == "connection.refused"
            && record["gate"] == "admission"
            && record["why"].as_str().unwrap().starts_with("the address is banned")
    });
    done(&broker.ctl(&["ban", "remove", "--address", "127.0.0.0/8"]));
    broker.client_tls(&device, &Connect::new(V, "a")).ping();
}

#[test]
fn behind_a_proxy_the_address_that_it_announces_is_banned() {
    let keys = "proxy_protocol = { trusted = [\"127.0.0.0/8\"] }";
    let broker = Setup::new().plaintext_named("proxied", keys).start();
    let from = |address: &str| {
        let mut raw = Raw::tcp(broker.address("proxied"));
        let header = format!("PROXY TCP4 {address} 192.0.2.1 5555 1883\r\n");
        let _ = raw.try_send(&[header.as_bytes(), &Connect::new(V, address).bytes()].concat());
        raw
    };
    let mut leaver = from("203.0.113.7");
    assert_eq!(leaver.recv_packet()[0], 0x20);
    ban(&broker, &["--address", "203.0.113.0/24"]);
    leaver.expect_disconnect(&[BANNED]);
    from("203.0.113.8").expect_end();
    broker.audited("the refusal", |record| {
        record["event"] == "connection.refused" && record["address"] == "203.0.113.8"
    });
    assert_eq!(from("203.0.114.8").recv_packet()[0], 0x20);
    // Of the proxy itself nothing is held against those who come through it.
    ban(&broker, &["--address", "127.0.0.1"]);
    assert_eq!(from("203.0.114.9").recv_packet()[0], 0x20);
}

#[test]
fn a_list_that_takes_several_answers_is_told_whole() {
    let broker = Setup::new().plaintext().start();
    // More than goes into one answer.
    let names = (100..240).map(|at| format!("{at}{}", "x".repeat(3_800)));
    let names: Vec<String> = names.collect();
    for name in &names {
        ban(&broker, &["--client-id", name]);
    }
    let list = done(&broker.ctl(&["--json", "ban", "list"]));
    for name in &names {
        assert_eq!(list.matches(name.as_str()).count(), 1);
    }
}

#[test]
fn a_ban_ends_when_its_time_is_over() {
    let broker = Setup::new().plaintext().start();
    let number = ban(&broker, &["--client-id", "a", "--for", "1s"]);
    assert_eq!(refusal(broker.raw(), &Connect::new(V, "a")), BANNED);
    broker.simple(V, "b").ping();
    let ended = broker.audited("the end", |record| record["event"] == "ban.expired");
    assert_eq!(ended["ban"].to_string(), number);
    broker.simple(V, "a").ping();
    failed(&broker.ctl(&["ban", "remove", &number]), "there is no ban");
}

#[test]
fn the_will_of_a_session_whose_client_has_left_goes_with_a_ban() {
    let broker = Setup::new().plaintext().start();
    let delayed = Will::new("wills/a", "left").properties(property::will_delay(1));
    broker.client(&Connect::new(V, "a").durable().will(delayed)).vanish();
    broker.audited("the end", |record| is(record, "connection.closed", "a"));
    ban(&broker, &["--client-id", "a"]);
    discarded(&broker, "a", "the client id is banned");
}

#[test]
fn names_that_deceive_are_shown_as_what_they_are_and_nobody_is_no_target() {
    let broker = Setup::new().plaintext().start();
    ban(&broker, &["--client-id", "a\n\u{9b}31m\u{202e}", "--why", "\u{1b}[2J"]);
    let list = done(&broker.ctl(&["ban", "list"]));
    assert_eq!(list.lines().count(), 1);
    assert!(list.contains("a\\n\\u{9b}31m\\u{202e}") && list.contains("\\u{1b}[2J"), "{list}");
    for (words, why) in [
        (&["ban", "add", "--principal", "Robot::x"][..], "names no principal"),
        (&["ban", "add", "--address", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (&["ban", "add", "--client-id", "a", "--for", "0s"], "at least a second"),
        (&["ban", "add", "--client-id", "a", "--for", "584542046090y"], "at most 100 years"),
        (&["ban", "remove", "77"], "there is no ban 77"),
        (&["device", "approve", "nobody"], "no device of this name is known"),
    ] {
        failed(&broker.ctl(words), why);
    }
}

const FLAPPING: &str = "[flapping]\nconnects_max = 3\naddress_connects_max = 4\nwindow = \"1h\"\n\
                        ban = \"1h\"\nexempt = []\n";

/// Threat: a client that comes and goes all the time wears the broker out.
#[test]
fn whoever_comes_and_goes_all_the_time_is_banned_for_a_while() {
    let mut broker = Setup::new().mutual_tls().config(FLAPPING).start();
    let (flaps, calm) = (broker.authority().client("flaps"), broker.authority().client("calm"));
    let connect = Connect::new(V, "flaps");
    for _ in 0..3 {
        broker.client_tls(&flaps, &connect).disconnect();
    }
    assert_eq!(refusal(broker.raw_tls(&flaps), &connect), BANNED);
    broker.client_tls(&calm, &Connect::new(V, "calm")).ping();
    let added = broker.audited("the ban", |record| record["event"] == "ban.added");
    assert_eq!((&added["by"], &added["uid"]), (&"flapping".into(), &Value::Null));
    assert!(broker.metrics().contains("portcullis_flapping_bans_total 1\n"));
    broker.restart(Signal::KILL);
    assert_eq!(refusal(broker.raw_tls(&flaps), &connect), BANNED);
    let (principal, id) = (["--principal", "Device::flaps"], ["--client-id", "flaps"]);
    done(&broker.ctl(&[&["ban", "remove"], &principal[..], &id].concat()));
    broker.client_tls(&flaps, &connect).ping();
}

#[test]
fn an_address_whose_connections_come_to_nothing_is_banned_for_a_while() {
    let broker = Setup::new().plaintext().config(FLAPPING).start();
    for _ in 0..5 {
        let mut raw = broker.raw();
        let _ = raw.try_send(b"GET / HTTP/1.1\r\n\r\n");
        raw.expect_closed();
    }
    broker.audited("the ban", |record| {
        record["event"] == "ban.added" && record["target"] == "address 127.0.0.1/32"
    });
    let mut raw = broker.raw();
    let _ = raw.try_send(&Connect::new(V, "a").bytes());
    raw.expect_closed();
    done(&broker.ctl(&["ban", "remove", "--address", "127.0.0.1"]));
    broker.simple(V, "a").ping();
}
