//! What attackers have done to brokers of this kind, tried on this one from outside.
//!
//! Each test names the row of the threat model (`audit/threat-model.md`) that it holds, and the
//! deny is always paired with an allow, so that a broker that refuses everything fails too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test fails by panic, and a table may be long"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod bans;
mod devices;
mod exhaustion;
mod files;
mod identity;
mod methods;
mod ocsp;
mod policy;
mod reload;
mod revocation;
mod sandbox;
mod websocket;

use harness::raw::{Client, Raw};
use harness::wire::{self, Connack, Connect, Version};
use serde_json::Value;

/// Not authorized.
const NOT_AUTHORIZED: u8 = 0x87;

/// The code that CONNACK gives; the connection ends after it.
fn refusal(mut raw: Raw, connect: &Connect) -> u8 {
    raw.send(&connect.bytes());
    let code = Connack::parse(connect.version, &raw.recv_packet()).code;
    assert_ne!(code, 0, "accepted, although it has to be refused");
    raw.expect_closed();
    code
}

/// The reason code that a SUBSCRIBE of MQTT 5 gets.
fn suback(client: &mut Client, filter: &str) -> u8 {
    client.raw.send(&wire::subscribe(Version::Mqtt5, 1, &[], &[(filter, 1)]));
    let packet = client.raw.recv_packet();
    assert_eq!(packet[0], 0x90, "expected SUBACK, received {packet:02x?}");
    *packet.last().unwrap()
}

/// The reason code that a PUBLISH of MQTT 5 with QoS 1 gets.
fn puback(client: &mut Client, topic: &str) -> u8 {
    client.send(&wire::Publish::new(topic, "x").qos(1, 9));
    client.expect_ack_any(wire::PUBACK, 9)
}

/// Whether an audit record is of this event and client.
fn is(record: &Value, event: &str, client_id: &str) -> bool {
    record["event"] == event && record["client_id"] == client_id
}
