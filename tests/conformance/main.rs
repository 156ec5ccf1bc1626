//! Conformance with MQTT 5.0 and 3.1.1, seen from outside.
//!
//! Each test says in its documentation which normative statements it covers, as the
//! specifications number them; [`statements`] checks that none is forgotten.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::cast_possible_truncation,
    reason = "a test fails by panic, and a table may be long"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod authentication;
mod connect;
mod denied;
mod errors;
mod flow;
mod limits;
mod properties;
mod retained;
mod sessions;
mod shared;
mod statements;
mod subscribe;
mod topics;
mod websocket;
mod wills;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::raw::{Client, Raw};
use harness::wire::{Connect, Publish, Version};
use harness::{Broker, Setup, Shared};

/// Versions whose specification numbers its statements.
const BOTH: [Version; 2] = [Version::Mqtt311, Version::Mqtt5];
/// Every version that the broker speaks.
const ALL: [Version; 3] = [Version::Mqtt31, Version::Mqtt311, Version::Mqtt5];

/// The listeners beside `mqtt`, which offers everything: `lean` offers little, and `narrow`
/// offers everything in small portions.
const PROFILES: &str = r#"
[profile.lean.features]
qos_max = 1
retain = false
wildcard_subscriptions = false
shared_subscriptions = false
subscription_ids = false
topic_alias_max = 0
keep_alive_max = "30s"

[profile.narrow.size]
packet_bytes_max = "1KiB"
[profile.narrow.session]
receive_maximum = 2
[profile.narrow.features]
topic_alias_max = 3
session_expiry_max = "1m"
"#;

/// A filter with more levels than the broker accepts.
fn too_deep() -> String {
    "a/".repeat(200)
}

static BROKER: Shared = Shared::new();

/// The broker that all tests share.
fn broker() -> Arc<Broker> {
    BROKER.broker(|| {
        Setup::new()
            .plaintext()
            .plaintext_named("lean", "profile = \"lean\"")
            .plaintext_named("narrow", "profile = \"narrow\"")
            .websocket()
            .config(PROFILES)
    })
}

/// A name that no other test has: for client identifiers, and as a level of topics.
fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A client with a name of its own.
fn client(broker: &Broker, version: Version) -> Client {
    broker.simple(version, &unique("client"))
}

/// Time passes, where time itself is what is tested. Nothing else waits this way.
fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// The connection ends as the version has it: DISCONNECT with one of these reasons in MQTT 5,
/// without a word in MQTT 3.
fn expect_refused(raw: &mut Raw, version: Version, reasons: &[u8]) {
    if version == Version::Mqtt5 {
        raw.expect_disconnect(reasons);
    } else {
        raw.expect_closed();
    }
}

/// What a reader gets before a marker, which is published by the same client as what is tested
/// and with the same QoS, so that it cannot overtake it.
fn received_before(reader: &mut Client, marker: &str) -> Vec<Publish> {
    let mut received = Vec::new();
    loop {
        let publish = reader.receive();
        reader.acknowledge(&publish);
        if publish.text() == marker {
            return received;
        }
        received.push(publish);
    }
}

/// The texts of messages.
fn texts(messages: &[Publish]) -> Vec<&str> {
    messages.iter().map(Publish::text).collect()
}

/// A CONNECT whose session outlives its connection.
fn durable(version: Version, client_id: &str) -> Connect {
    Connect::new(version, client_id).durable()
}
