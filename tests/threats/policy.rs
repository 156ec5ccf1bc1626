//! Paths around the policies.

use crate::harness::Setup;
use crate::harness::wire::{self, Connect, Publish, Version, Will, property};
use crate::{NOT_AUTHORIZED, is, puback, refusal, suback};

const V: Version = Version::Mqtt5;

const NARROW: &str = r#"
@id("connect")
@reason("everybody may connect")
permit (principal, action == Action::"connect", resource);

@id("one-level")
@reason("the grant that must not be widened")
permit (principal, action in [Action::"read", Action::"write"], resource in TopicFilter::"a/+");

@id("many-levels")
@reason("a wide grant with a hole in it")
permit (principal, action in [Action::"read", Action::"write"], resource in TopicFilter::"wide/#");

@id("hole")
@reason("the hole")
forbid (principal, action in [Action::"read", Action::"write"], resource in TopicFilter::"wide/secret/#");
"#;

/// Threat: SUBSCRIBE wider than the grant.
#[test]
fn a_subscription_has_to_be_covered_by_a_permit_and_clear_of_every_forbid() {
    let broker = Setup::new().plaintext().policies(NARROW).start();
    let mut client = broker.simple(V, "reader");
    for (filter, code) in [
        ("a/b", 1),
        ("a/+", 1),
        ("$share/g/a/+", 1),
        ("$share/g/a/b", 1),
        ("wide/open/#", 1),
        ("wide/+", NOT_AUTHORIZED),
        ("wide/open", 1),
        ("a/#", NOT_AUTHORIZED),
        ("a/+/b", NOT_AUTHORIZED),
        ("a/+/#", NOT_AUTHORIZED),
        ("+/b", NOT_AUTHORIZED),
        ("+/+", NOT_AUTHORIZED),
        ("+", NOT_AUTHORIZED),
        ("#", NOT_AUTHORIZED),
        ("$share/g/a/#", NOT_AUTHORIZED),
        ("$share/g/#", NOT_AUTHORIZED),
        ("wide/#", NOT_AUTHORIZED),
        ("wide/+/x", NOT_AUTHORIZED),
        ("wide/secret", NOT_AUTHORIZED),
        ("wide/secret/x", NOT_AUTHORIZED),
        ("wide/secret/#", NOT_AUTHORIZED),
        ("$SYS/#", NOT_AUTHORIZED),
    ] {
        assert_eq!(suback(&mut client, filter), code, "{filter}");
    }
    // MQTT 3.1.1 has one code for it.
    let mut client = broker.simple(Version::Mqtt311, "old");
    assert_eq!(client.subscribe_with(&[], &[("a/#", 0), ("a/+", 0)]), [0x80, 0]);
    broker.audited("the refused subscription", |record| {
        is(record, "denied", "reader") && record["filter"] == "a/#"
    });
}

/// Threat: authorising a name other than the one routed.
#[test]
fn an_alias_is_resolved_before_it_is_authorised() {
    let broker = Setup::new().plaintext().policies(NARROW).start();
    let mut reader = broker.simple(V, "reader");
    reader.subscribe("a/+", 1);
    let mut writer = broker.simple(V, "writer");
    let secret = Publish::new("wide/secret", "x").properties(&property::topic_alias(1)).qos(1, 1);
    writer.send(&secret);
    assert_eq!(writer.expect_ack_any(wire::PUBACK, 1), NOT_AUTHORIZED);
    // Whether a refused PUBLISH sets its alias or not: what it stood for stays refused.
    let again = Publish { topic: String::new(), ..secret.clone() };
    writer.send(&again);
    let packet = writer.raw.recv_packet();
    let refused = packet[0] == 0xe0 || packet[0] == 0x40 && packet[4] == NOT_AUTHORIZED;
    assert!(refused, "{packet:02x?}");

    // An alias that was given anew stands for its new topic.
    let mut writer = broker.simple(V, "writer");
    for topic in ["a/b", "wide/secret"] {
        writer.send(&Publish::new(topic, topic).properties(&property::topic_alias(1)).qos(1, 1));
        writer.expect_ack_any(wire::PUBACK, 1);
    }
    reader.receive_text("a/b");
    reader.ping();
}

/// Threat: will bypass.
#[test]
fn a_will_needs_the_right_to_publish_it() {
    let broker = Setup::new().plaintext().policies(NARROW).start();
    let mut witness = broker.simple(V, "witness");
    assert_eq!(suback(&mut witness, "a/+"), 1);
    for topic in ["wide/secret", "other", "$SYS/x", "a/b/c"] {
        for retain in [false, true] {
            let mut will = Will::new(topic, "x").qos(1);
            will.retain = retain;
            let connect = Connect::new(V, "heir").will(will.clone());
            assert_eq!(refusal(broker.raw(), &connect), NOT_AUTHORIZED, "{topic}");
            let connect = Connect::new(Version::Mqtt311, "heir").will(will);
            assert_eq!(refusal(broker.raw(), &connect), 5, "{topic}");
        }
    }
    broker.client(&Connect::new(V, "heir").will(Will::new("a/b", "gone"))).vanish();
    witness.receive_text("gone");
    broker.audited("the refused will", |record| {
        record["client_id"] == "heir" && record.to_string().contains("wide/secret")
    });
}

/// Threat: another path without the check.
#[test]
fn no_dollar_prefix_leads_past_the_policies() {
    let everything_without_dollar = r##"
@id("connect")
@reason("everybody may connect")
permit (principal, action == Action::"connect", resource);

@id("all-topics")
@reason("every topic that # matches, which is none that begins with $")
permit (principal, action in [Action::"read", Action::"write"], resource in TopicFilter::"#");
"##;
    let broker = Setup::new().plaintext().policies(everything_without_dollar).start();
    for prefix in
        ["$SYS", "$share", "$share/g", "$queue", "$delayed/1", "$exclusive", "$local", "$", "$x"]
    {
        let topic = format!("{prefix}/t");
        for retain in [false, true] {
            let mut writer = broker.simple(V, "writer");
            let mut publish = Publish::new(&topic, "x").qos(1, 1);
            publish.retain = retain;
            writer.send(&publish);
            let packet = writer.raw.recv_packet();
            let code = packet.get(if packet[0] == 0xe0 { 2 } else { 4 }).copied().unwrap_or(0);
            assert!(code >= 0x80, "{topic} can be published to: {packet:02x?}");
        }
        let mut reader = broker.simple(V, "reader");
        if prefix == "$share" {
            // A share group may not be called `#`: no filter at all.
            reader.raw.send(&wire::subscribe(V, 1, &[], &[("$share/#", 0)]));
            reader.raw.expect_disconnect(&[0x8f]);
        } else if prefix != "$share/g" {
            let code = suback(&mut reader, &format!("{prefix}/#"));
            assert!(code >= 0x80, "{prefix}/# can be subscribed to");
        }
        let will = Will::new(&topic, "x");
        refusal(broker.raw(), &Connect::new(V, "heir").will(will));
    }
    let mut client = broker.simple(V, "client");
    assert_eq!(suback(&mut client, "#"), 1);
    assert!(puback(&mut client, "ordinary") < 0x80);
}

/// Threat: retained after revocation, in its simplest form: the reader never had the right.
#[test]
fn a_forbid_on_receive_holds_for_live_retained_queued_and_shared_deliveries() {
    let policies = r#"
@id("everything")
@reason("a test of deliveries")
permit (principal, action, resource);

@id("no-secrets")
@reason("secrets are written, and never read")
forbid (principal, action == Action::"receive", resource in TopicFilter::"secret/#");
"#;
    let broker = Setup::new().plaintext().policies(policies).start();
    let mut writer = broker.simple(V, "writer");
    let durable = Connect::new(V, "durable").durable();
    let mut offline = broker.client(&durable);
    assert_eq!(suback(&mut offline, "#"), 1);
    offline.disconnect();
    let mut live = broker.simple(V, "live");
    assert_eq!(suback(&mut live, "+/+"), 1);
    let mut shared = broker.simple(V, "shared");
    assert_eq!(suback(&mut shared, "$share/g/+/+"), 1);
    writer.publish_surely(&Publish::new("secret/a", "secret").retain());
    writer.publish_surely(&Publish::new("open/a", "open").retain());
    live.receive_text("open");
    shared.receive_text("open");
    broker.client(&durable).receive_text("open");
    let mut late = broker.simple(V, "late");
    assert_eq!(suback(&mut late, "secret/a"), 1, "a forbid on receive lets it stand");
    late.ping();
    late.subscribe("open/a", 0);
    late.receive_text("open");
}
