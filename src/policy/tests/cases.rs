//! Decisions that read as specifications.

use std::path::Path;
use std::sync::Arc;

use super::world::{
    bundle, connect, device, forbidden, identity, message, nested, now, publish, receive,
    receive_ok, session, subject, subscribe,
};
use crate::identity::{CertificateFacts, PrincipalKind};
use crate::mqtt::packet::Qos;
use crate::mqtt::{ProtocolVersion, UserProperties};
use crate::policy::{Bundle, Denial, PolicyEpoch, Subject};

const EXAMPLE: &str = r#"
@id("device-own-subtree")
permit (
  principal is Device,
  action in [Action::"write", Action::"read"],
  resource in TopicFilter::"devices/${cn}/#"
);
@id("sensors-telemetry")
permit (
  principal in Group::"sensors",
  action == Action::"publish",
  resource in TopicFilter::"sensors/+/telemetry/#"
) when { context.qos <= 1 && !context.retain && context.payload_size <= 65536 };
@id("ingest-reads-sensors")
permit (
  principal in Group::"ingest",
  action in Action::"read",
  resource in TopicFilter::"sensors/#"
) when { context.session.source_ip.isInRange(ip("10.0.0.0/8")) };
@id("commands-locked")
forbid (
  principal,
  action in [Action::"write", Action::"receive"],
  resource in TopicFilter::"+/+/command/#"
) unless { principal in Group::"plant-ops" };
@id("connect-mtls13")
permit (
  principal is Device,
  action == Action::"connect",
  resource == Listener::"mtls-8883"
) when {
  context.session.tls_version >= 13 &&
  context.session.client_id == principal.cert.cn &&
  context.time < principal.cert.not_after
};
"#;

const NOTHING_PERMITS: Result<(), Denial> =
    Err(Denial { policies: Vec::new(), errors: Vec::new() });

#[test]
fn a_device_writes_and_reads_below_its_own_name_and_nowhere_else() {
    let mut dev1 = subject(&bundle(EXAMPLE), device("dev1", &[]));
    assert_eq!(publish(&mut dev1, "devices/dev1/temp"), Ok(()));
    assert_eq!(publish(&mut dev1, "devices/dev1"), Ok(()));
    assert_eq!(publish(&mut dev1, "devices/dev2/temp"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut dev1, "devices/dev1/#"), Ok(()));
    assert_eq!(subscribe(&mut dev1, "devices/dev1/+"), Ok(()));
    assert_eq!(subscribe(&mut dev1, "devices/+/temp"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut dev1, "devices/#"), NOTHING_PERMITS);
    assert_eq!(receive(&mut dev1, "devices/dev1/temp"), Ok(()));
    assert_eq!(receive(&mut dev1, "devices/dev2/temp"), NOTHING_PERMITS);
}

#[test]
fn a_forbid_on_receive_lets_the_subscription_stand_and_filters_deliveries() {
    let mut dev1 = subject(&bundle(EXAMPLE), device("dev1", &[]));
    assert_eq!(receive(&mut dev1, "devices/dev1/command/x"), forbidden(&["commands-locked"]));
    assert_eq!(publish(&mut dev1, "devices/dev1/command/x"), forbidden(&["commands-locked"]));
    assert!(!receive_ok(&mut dev1, "devices/dev1/#"), "it overlaps the forbidden commands");
    assert!(receive_ok(&mut dev1, "devices/dev1/temp/#"));
    assert!(!receive_ok(&mut dev1, "devices/dev2/temp/#"));
    let mut operator = subject(&bundle(EXAMPLE), device("dev1", &["plant-ops"]));
    assert_eq!(receive(&mut operator, "devices/dev1/command/x"), Ok(()));
    assert!(receive_ok(&mut operator, "devices/dev1/#"));
}

#[test]
fn a_forbid_on_read_refuses_every_filter_it_overlaps() {
    let text = r##"
        @id("all") permit (principal, action in Action::"read", resource in TopicFilter::"#");
        @id("private") forbid (principal, action in Action::"read",
            resource in TopicFilter::"+/private/#") unless { principal in Group::"staff" };"##;
    let mut dev1 = subject(&bundle(text), device("dev1", &[]));
    assert_eq!(subscribe(&mut dev1, "a/b"), Ok(()));
    assert_eq!(subscribe(&mut dev1, "a/+"), forbidden(&["private"]));
    assert_eq!(subscribe(&mut dev1, "#"), forbidden(&["private"]));
    assert_eq!(subscribe(&mut dev1, "$SYS/#"), NOTHING_PERMITS);
    let mut staff = subject(&bundle(text), device("dev1", &["staff"]));
    assert_eq!(subscribe(&mut staff, "#"), Ok(()));
}

#[test]
fn an_unless_turns_cover_into_overlap() {
    let text = r#"@id("all-but-secret")
        permit (principal, action in Action::"read", resource in TopicFilter::"a/#")
        unless { resource in TopicFilter::"a/secret/#" };"#;
    let mut dev1 = subject(&bundle(text), device("dev1", &[]));
    assert_eq!(subscribe(&mut dev1, "a/open/#"), Ok(()));
    assert_eq!(subscribe(&mut dev1, "a/secret/x"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut dev1, "a/+"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut dev1, "a/#"), NOTHING_PERMITS);
}

#[test]
fn a_group_grant_holds_within_the_limits_of_its_packet_facts() {
    let mut sensor = subject(&bundle(EXAMPLE), device("dev1", &["sensors"]));
    let mut judge = |qos, retain, payload_bytes| {
        let mut message = message("sensors/a/telemetry/x");
        (message.qos, message.retain, message.payload_bytes) = (qos, retain, payload_bytes);
        sensor.publish(message, now()).is_ok()
    };
    assert!(judge(Qos::AtLeastOnce, false, 65_536));
    assert!(!judge(Qos::AtLeastOnce, false, 65_537));
    assert!(!judge(Qos::ExactlyOnce, false, 1));
    assert!(!judge(Qos::AtMostOnce, true, 1));
    assert!(judge(Qos::AtMostOnce, false, 1));
}

#[test]
fn of_a_shared_subscription_the_inner_filter_is_judged() {
    let ingest = |address: &str| {
        let mut facts = session("ingest");
        facts.source_ip = address.parse().unwrap();
        let identity = identity(PrincipalKind::Service, "ingest", &["ingest"]);
        Subject::new(bundle(EXAMPLE), Arc::new(identity), Arc::new(facts))
    };
    assert_eq!(subscribe(&mut ingest("10.0.0.9"), "$share/w/sensors/a/+"), Ok(()));
    assert_eq!(subscribe(&mut ingest("10.0.0.9"), "$share/w/#"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut ingest("10.0.0.9"), "#"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut ingest("192.0.2.1"), "sensors/a/+"), NOTHING_PERMITS);
    // The same host, as a listener on [::] sees it.
    assert_eq!(subscribe(&mut ingest("::ffff:10.0.0.9"), "sensors/a/+"), Ok(()));
    assert_eq!(subscribe(&mut ingest("2001:db8::1"), "sensors/a/+"), NOTHING_PERMITS);
}

#[test]
fn the_share_group_can_be_limited() {
    let text = r#"@id("w-only")
        permit (principal, action == Action::"subscribe", resource in TopicFilter::"a/#")
        when { resource.shared && context has share_group && context.share_group == "w" };"#;
    let mut dev1 = subject(&bundle(text), device("dev1", &[]));
    assert_eq!(subscribe(&mut dev1, "$share/w/a/b"), Ok(()));
    assert_eq!(subscribe(&mut dev1, "$share/v/a/b"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut dev1, "a/b"), NOTHING_PERMITS);
}

#[test]
fn connect_is_judged_by_listener_tls_identity_and_time() {
    let bundle = bundle(EXAMPLE);
    let judge = |change: fn(&mut crate::policy::SessionFacts)| {
        let mut facts = session("dev1");
        change(&mut facts);
        let identity = Arc::new(device("dev1", &[]));
        connect(&mut Subject::new(Arc::clone(&bundle), identity, Arc::new(facts)))
    };
    assert_eq!(judge(|_| ()), Ok(()));
    assert_eq!(judge(|facts| facts.tls_version = 12), NOTHING_PERMITS);
    assert_eq!(judge(|facts| facts.tls_version = 0), NOTHING_PERMITS);
    assert_eq!(judge(|facts| facts.listener = "other".into()), NOTHING_PERMITS);
    assert_eq!(judge(|facts| facts.client_id = session("dev2").client_id), NOTHING_PERMITS);
    assert_eq!(judge(|facts| facts.protocol = ProtocolVersion::V31), Ok(()));
    let mut expired = device("dev1", &[]);
    let mut certificate = (**expired.certificate.as_ref().unwrap()).clone();
    certificate.not_after_unix_s = 1_700_000_000;
    expired.certificate = Some(Arc::new(certificate));
    assert_eq!(connect(&mut subject(&bundle, expired)), NOTHING_PERMITS);
    let mut user = subject(&bundle, identity(PrincipalKind::User, "dev1", &[]));
    assert_eq!(connect(&mut user), NOTHING_PERMITS);
}

#[test]
fn an_end_of_validity_that_no_calendar_has_is_judged_as_the_nearest_that_one_has() {
    let bundle = bundle(EXAMPLE);
    for (not_after_unix_s, valid) in
        [(i64::MAX, true), (253_402_300_800, true), (i64::MIN, false), (-1, false)]
    {
        let mut identity = device("dev1", &[]);
        let certificate = (**identity.certificate.as_ref().unwrap()).clone();
        let certificate = CertificateFacts { not_after_unix_s, ..certificate };
        identity.certificate = Some(Arc::new(certificate));
        let judged = connect(&mut subject(&bundle, identity));
        let expected = if valid { Ok(()) } else { NOTHING_PERMITS };
        assert_eq!(judged, expected, "{not_after_unix_s}");
    }
}

#[test]
fn groups_nest() {
    let groups = nested(&[("welders", &["robots"]), ("robots", &["machines"]), ("machines", &[])]);
    let text = r#"
        @id("machines") permit (principal in Group::"machines", action == Action::"publish",
            resource in TopicFilter::"groups/${group}/#");
        @id("no-robots") forbid (principal, action, resource in TopicFilter::"groups/+/humans")
            when { principal in Group::"robots" };"#;
    let bundle = Bundle::load_text("t", text, Some(&groups), PolicyEpoch(1)).unwrap();
    let mut welder = subject(&Arc::new(bundle), device("dev1", &["welders"]));
    for group in ["welders", "robots", "machines"] {
        assert_eq!(publish(&mut welder, &format!("groups/{group}/x")), Ok(()));
    }
    assert_eq!(publish(&mut welder, "groups/others/x"), NOTHING_PERMITS);
    assert_eq!(publish(&mut welder, "groups/robots/humans"), forbidden(&["no-robots"]));
}

#[test]
fn an_evaluation_that_fails_denies_even_where_a_permit_stands() {
    // Cedar leaves out the forbid, whose evaluation fails, and says allow.
    let text = r#"
        @id("all") permit (principal, action, resource);
        @id("plant") forbid (principal is Device, action, resource)
            when { principal.cert.issuer == "evil" };"#;
    let mut whole = subject(&bundle(text), device("dev1", &[]));
    assert_eq!(publish(&mut whole, "a"), Ok(()));
    let mut without_certificate = device("dev1", &[]);
    without_certificate.certificate = None;
    let mut broken = subject(&bundle(text), without_certificate);
    for result in [
        publish(&mut broken, "a"),
        publish(&mut broken, "a"),
        subscribe(&mut broken, "a"),
        receive(&mut broken, "a"),
        connect(&mut broken),
    ] {
        let denial = result.unwrap_err();
        assert!(denial.errors.iter().any(|error| error.contains("plant")), "{denial:?}");
        assert!(denial.to_string().contains("error"), "{denial}");
    }
    assert!(!receive_ok(&mut broken, "a"));
}

#[test]
fn user_properties_and_content_type_are_read_from_every_message() {
    let text = r#"@id("signed")
        permit (principal, action == Action::"publish", resource in TopicFilter::"a/#")
        when { context.user_properties.contains("signed=yes") };"#;
    let mut dev1 = subject(&bundle(text), device("dev1", &[]));
    let mut signed = message("a/b");
    signed.user_properties = UserProperties(vec![("signed".into(), "yes".into())]);
    assert_eq!(publish(&mut dev1, "a/b"), NOTHING_PERMITS);
    assert!(dev1.publish(signed, now()).is_ok());
    assert_eq!(publish(&mut dev1, "a/b"), NOTHING_PERMITS);
}

#[test]
fn a_reload_changes_the_judgement_and_the_epoch() {
    let open = bundle(r#"@id("open") permit (principal, action, resource);"#);
    let closed = r#"@id("closed") forbid (principal, action, resource);"#;
    let closed = Bundle::load_text("t", closed, None, PolicyEpoch(2)).unwrap();
    let mut dev1 = subject(&open, device("dev1", &[]));
    let permitted = dev1.publish(message("a"), now()).unwrap();
    assert_eq!(permitted.epoch(), PolicyEpoch(1));
    assert_eq!(permitted.principal().name.as_ref(), "dev1");
    let judged = permitted.into_inner();
    dev1.rebase(Arc::new(closed));
    assert_eq!(dev1.epoch(), PolicyEpoch(2));
    let denied = dev1.publish(judged, now()).unwrap_err();
    assert_eq!(denied.denial, forbidden(&["closed"]).unwrap_err());
    assert_eq!(denied.message, message("a"));
}

#[test]
fn a_subject_that_shed_its_caches_judges_the_same() {
    let mut dev1 = subject(&bundle(EXAMPLE), device("dev1", &[]));
    for topic in ["devices/dev1/a", "devices/dev2/a", "devices/dev1/command/a"] {
        let before = publish(&mut dev1, topic);
        assert_eq!(publish(&mut dev1, topic), before);
        dev1.shed();
        assert_eq!(publish(&mut dev1, topic), before);
    }
}

#[test]
fn the_starter_policies_let_a_device_in_and_keep_commands_to_operators() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/starter");
    let bundle = Bundle::load_dir(&dir, PolicyEpoch(1)).unwrap();
    let mut dev1 = subject(&bundle, device("dev1", &[]));
    assert_eq!(connect(&mut dev1), Ok(()));
    assert_eq!(publish(&mut dev1, "devices/dev1/temp"), Ok(()));
    assert_eq!(subscribe(&mut dev1, "devices/dev1/#"), Ok(()));
    assert_eq!(receive(&mut dev1, "devices/dev1/command/reboot"), Ok(()));
    assert_eq!(publish(&mut dev1, "devices/dev1/command/reboot"), forbidden(&["commands-locked"]));
    assert_eq!(publish(&mut dev1, "devices/dev2/temp"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut dev1, "#"), NOTHING_PERMITS);
    let mut operator = subject(&bundle, identity(PrincipalKind::User, "ann", &["operators"]));
    assert_eq!(publish(&mut operator, "devices/dev1/command/reboot"), Ok(()));
    assert_eq!(publish(&mut operator, "devices/dev1/temp"), NOTHING_PERMITS);
    assert_eq!(subscribe(&mut operator, "devices/#"), Ok(()));
    let mut stranger = subject(&bundle, identity(PrincipalKind::Anonymous, "anonymous", &[]));
    assert_eq!(connect(&mut stranger), NOTHING_PERMITS);
}

#[test]
fn the_permissive_policy_permits_every_verb_on_every_topic_to_everybody() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/permissive");
    let bundle = Bundle::load_dir(&dir, PolicyEpoch(1)).unwrap();
    let mut stranger = subject(&bundle, identity(PrincipalKind::Anonymous, "anonymous", &[]));
    assert_eq!(connect(&mut stranger), Ok(()));
    for topic in ["a", "/", "$other/x", "a/b/c"] {
        assert_eq!(publish(&mut stranger, topic), Ok(()));
        assert_eq!(receive(&mut stranger, topic), Ok(()));
    }
    assert_eq!(receive(&mut stranger, "$SYS/x"), Ok(()));
    assert_eq!(publish(&mut stranger, "$SYS/x"), forbidden(&["sys-is-the-brokers"]));
    let below_share = publish(&mut stranger, "$share/g/a").unwrap_err();
    assert!(below_share.to_string().contains("below $share/"), "{below_share}");
    for filter in ["#", "+/+", "$SYS/#", "$share/g/a/#"] {
        assert_eq!(subscribe(&mut stranger, filter), Ok(()));
    }
    assert!(receive_ok(&mut stranger, "#"));
}
