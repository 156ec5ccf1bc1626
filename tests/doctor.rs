//! `portcullis doctor`: what it finds, and that it finds nothing where nothing is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

mod harness;

use harness::wire::{Connect, Version};
use harness::{Broker, Setup, portcullis};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde_json::Value;

const POLICY: &str = r#"
@id("own") @reason("what a device says of itself")
permit (
  principal is Device,
  action in [Action::"write", Action::"read"],
  resource in TopicFilter::"devices/${cn}/#"
);
@id("connect") @reason("every device may connect")
permit (principal is Device, action == Action::"connect", resource);
"#;

/// A set-up with nothing to complain of, with further keys of the listener.
fn sound(keys: &str) -> Setup {
    let setup = Setup::new().mutual_tls_with(keys).policies(POLICY);
    setup.authority().take_back_for(&setup.path().join("ca.crl"), 1, &[], time::Duration::days(7));
    setup.config("[revocation]\nlists = [\"ca.crl\"]")
}

/// Level, place and words of what is found.
fn findings(broker: &Broker) -> Vec<(String, String, String)> {
    let told = portcullis(&["doctor", "--config", "portcullis.toml", "--json"], broker.path());
    let found: Value = serde_json::from_slice(&told.stdout).unwrap();
    let found = found.as_array().unwrap().clone();
    assert_eq!(told.status.code(), Some(i32::from(!found.is_empty())), "{told:?}");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    found.iter().map(|it| (text(it, "level"), text(it, "place"), text(it, "what"))).collect()
}

#[test]
fn a_sound_set_up_is_fine() {
    let broker = sound("").start();
    let client = broker.authority().client("dev1");
    let _connected = broker.client_tls(&client, &Connect::new(Version::Mqtt5, "dev1"));
    assert_eq!(findings(&broker), []);
    let told = portcullis(&["doctor", "--config", "portcullis.toml"], broker.path());
    assert!(told.status.success() && told.stdout.is_empty(), "{told:?}");
    assert_eq!(String::from_utf8_lossy(&told.stderr).trim(), "fine: nothing was found");
}

#[test]
fn what_is_wrong_or_will_be_is_found() {
    let broker = sound("client_id = \"unbound\"").plaintext().start();
    let shared = broker.authority().client("dev1");
    let connect = |id| broker.client_tls(&shared, &Connect::new(Version::Mqtt5, id));
    let _both = (connect("one"), connect("two"));
    let has = |level: &str, place: &str, what: &str| {
        let found = findings(&broker);
        let fits = |it: &(String, String, String)| {
            it.0 == level && it.1.contains(place) && it.2.contains(what)
        };
        assert!(found.iter().any(fits), "{level} {place} {what}: {found:#?}");
    };
    has("warning", "certificate ", "is used by 2 clients at once: \"one\", \"two\"");
    has("warning", "configuration", "\"unbound\"");
    // A certificate of the server that ends soon, with a weak signature above it.
    let soon = broker.authority().client_with("localhost", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(20 * 24 + 12);
    });
    let config = std::fs::read_to_string(broker.path().join("portcullis.toml")).unwrap();
    let line = |key: &str| {
        let quoted = config.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
        quoted.unwrap().trim_end_matches('"').to_owned()
    };
    std::fs::copy(&soon.certificate, line("certificate")).unwrap();
    std::fs::copy(&soon.key, line("key")).unwrap();
    has("warning", "CN=localhost", "ends in 20 days");
    let list = broker.path().join("ca.crl");
    broker.authority().take_back_for(&list, 2, &[], time::Duration::days(1));
    has("warning", "revocation.lists", "a list has to be replaced within two days");
    std::fs::write(&list, "garbage").unwrap();
    has("error", "revocation.lists", "has no revocation list");
    broker.write("policies/test.cedar", "permit");
    has("error", "policies", "test.cedar");
}

#[test]
fn a_broker_that_does_not_run_is_missed() {
    let mut broker = sound("").start();
    broker.signal(rustix::process::Signal::TERM);
    broker.wait();
    let found = findings(&broker);
    assert!(matches!(&*found, [one] if one.2.contains("cannot be asked")), "{found:?}");
}
