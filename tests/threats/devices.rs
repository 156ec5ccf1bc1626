//! Devices that nobody knows, and those that were suspended or revoked.

use rustix::process::Signal;
use serde_json::Value;

use crate::bans::{done, failed};
use crate::harness::wire::{Connect, Version, Will, property};
use crate::harness::{Broker, Setup};
use crate::{NOT_AUTHORIZED, puback, refusal};

const V: Version = Version::Mqtt5;
/// Administrative action.
const CHANGED: u8 = 0x98;

/// The states of all devices that are known.
fn states(broker: &Broker, words: &[&str]) -> Vec<(String, String)> {
    let told = done(&broker.ctl(&[&["--json", "device", "list"], words].concat()));
    let told: Value = serde_json::from_str(&told).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let devices = told["devices"].as_array().unwrap().iter();
    devices.map(|device| (text(&device["device"]), text(&device["state"]))).collect()
}

fn is_state(broker: &Broker, name: &str, state: &str) {
    let expected = (format!("Device::{name}"), state.to_owned());
    assert!(states(broker, &["--state", state]).contains(&expected));
}

/// Threat: somebody with the key of an authority makes devices.
#[test]
fn a_device_that_nobody_knows_waits_until_it_is_approved() {
    let setup = Setup::new().mutual_tls().config("[devices]\nregistration = \"pending\"\n");
    let mut broker = setup.start();
    let new = broker.authority().client("new");
    let connect = Connect::new(V, "new");
    assert_eq!(refusal(broker.raw_tls(&new), &connect), NOT_AUTHORIZED);
    let registered = broker.audited("it", |record| record["event"] == "device.registered");
    assert_eq!(
        (&registered["state"], &registered["principal"]["id"]),
        (&"pending".into(), &"new".into())
    );
    is_state(&broker, "new", "pending");
    failed(&broker.ctl(&["device", "activate", "new"]), "ctl device approve");
    done(&broker.ctl(&["device", "approve", "new"]));
    let changed = broker.audited("the approval", |record| record["event"] == "device.changed");
    assert!(changed["uid"].is_u64() && changed["state"] == "active", "{changed}");
    broker.client_tls(&new, &connect).ping();
    broker.restart(Signal::KILL);
    broker.client_tls(&new, &connect).ping();
    // Forgotten while it is connected, it is put out, and waits again.
    let mut client = broker.client_tls(&new, &connect);
    done(&broker.ctl(&["device", "forget", "new"]));
    client.raw.expect_disconnect(&[NOT_AUTHORIZED]);
    assert_eq!(refusal(broker.raw_tls(&new), &connect), NOT_AUTHORIZED);
    is_state(&broker, "new", "pending");
}

/// Threat: somebody who is not wanted any more goes on.
#[test]
fn a_suspended_device_is_put_out_with_its_will_and_a_revoked_one_stays_out() {
    let mut broker = Setup::new().mutual_tls().start();
    let (one, other) = (broker.authority().client("one"), broker.authority().client("other"));
    let mut stays = broker.client_tls(&other, &Connect::new(V, "other"));
    for (verb, state) in [("suspend", "suspended"), ("revoke", "revoked")] {
        let will = Will::new("wills/one", "left").properties(property::will_delay(0));
        let connect = Connect::new(V, "one").will(will);
        let mut client = broker.client_tls(&one, &connect);
        done(&broker.ctl(&["device", verb, "one"]));
        client.raw.expect_disconnect(&[NOT_AUTHORIZED]);
        broker.audited("the will", |record| {
            record["event"] == "will.discarded" && record["why"].as_str().unwrap().contains(state)
        });
        assert_eq!(refusal(broker.raw_tls(&one), &connect), NOT_AUTHORIZED);
        stays.ping();
        broker.restart(Signal::KILL);
        assert_eq!(refusal(broker.raw_tls(&one), &connect), NOT_AUTHORIZED);
        is_state(&broker, "one", state);
        stays = broker.client_tls(&other, &Connect::new(V, "other"));
        if verb == "suspend" {
            done(&broker.ctl(&["device", "activate", "one"]));
            broker.client_tls(&one, &connect).ping();
        } else {
            failed(&broker.ctl(&["device", "activate", "one"]), "which is for good");
        }
    }
}

#[test]
fn a_rule_approves_whom_it_names_and_nobody_else() {
    let setup = Setup::new().mutual_tls();
    let issuer = setup.authority().issuer_hash();
    let config = format!(
        "[devices]\nregistration = \"pending\"\npending_max = 1\n[devices.approve.sensors]\n\
         issuer = \"{issuer}\"\nname = \"sensor-*\"\n"
    );
    let broker = setup.config(&config).start();
    let client = |name: &str| broker.authority().client(name);
    broker.client_tls(&client("sensor-1"), &Connect::new(V, "sensor-1")).ping();
    for name in ["valve-1", "valve-2"] {
        let refused = refusal(broker.raw_tls(&client(name)), &Connect::new(V, name));
        assert_eq!(refused, NOT_AUTHORIZED);
    }
    // The second was one too many to wait.
    broker.audited("the bound", |record| {
        record["event"] == "connection.refused"
            && record["why"].as_str().unwrap().contains("the most there may be")
    });
    assert_eq!(
        states(&broker, &[]),
        [("sensor-1", "active"), ("valve-1", "pending")]
            .map(|(name, state)| (format!("Device::{name}"), state.to_owned()))
    );
}

const QUARANTINE: &str = "
[devices]
registration = \"pending\"
pending_profile = \"quarantine\"
pending_group = \"new\"
[profile.quarantine.size]
payload_bytes_max = 16
";

const QUARANTINE_POLICIES: &str = "
@id(\"everything\")
@reason(\"a test\")
permit (principal, action, resource);
@id(\"not-new\")
@reason(\"what waits may say hello and nothing else\")
forbid (principal in Group::\"new\", action == Action::\"publish\", resource)
unless { resource in TopicFilter::\"hello/#\" };
";

#[test]
fn what_waits_in_quarantine_has_less_until_it_is_approved() {
    let setup = Setup::new().mutual_tls().config(QUARANTINE).policies(QUARANTINE_POLICIES);
    let broker = setup.principals("[group.new]\n").start();
    let new = broker.authority().client("new");
    let mut client = broker.client_tls(&new, &Connect::new(V, "new"));
    is_state(&broker, "new", "pending");
    assert_eq!(puback(&mut client, "plant/1"), NOT_AUTHORIZED);
    assert_ne!(puback(&mut client, "hello/new"), NOT_AUTHORIZED);
    done(&broker.ctl(&["device", "approve", "new"]));
    client.raw.expect_disconnect(&[CHANGED]);
    let mut client = broker.client_tls(&new, &Connect::new(V, "new"));
    assert_ne!(puback(&mut client, "plant/1"), NOT_AUTHORIZED);
}

#[test]
fn a_quarantine_that_policies_cannot_see_is_refused() {
    let config = QUARANTINE.replace("pending_group = \"new\"", "");
    let said = Setup::new().mutual_tls().config(&config).refused().stderr;
    assert!(said.contains("set pending_group too"), "{said}");
    let said = Setup::new().mutual_tls().config(QUARANTINE).refused().stderr;
    assert!(said.contains("devices.pending_group names \"new\""), "{said}");
}
