//! Who somebody is, and whom he may claim to be.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::HandshakeKind;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::setup::PRINCIPALS_FILE;
use crate::harness::wire::{Connect, Publish, Version, Will};
use crate::harness::{Broker, Setup};
use crate::{NOT_AUTHORIZED, is, puback, refusal, suback};

const OWN_SUBTREE: &str = r#"
@id("connect")
@reason("every device may connect")
permit (principal is Device, action == Action::"connect", resource);

@id("own-subtree")
@reason("a device reads and writes below its own name")
permit (
  principal is Device,
  action in [Action::"write", Action::"read"],
  resource in TopicFilter::"devices/${cn}/#"
);
"#;

/// Threat: client id takeover.
#[test]
fn a_client_id_of_somebody_else_is_refused_and_audited() {
    let setup = Setup::new().mutual_tls();
    let (own, other) = (setup.device("dev1"), setup.device("dev2"));
    let broker = setup.start();
    let mut victim = broker.client_tls(&own, &Connect::new(Version::Mqtt5, "dev1"));
    for (version, code) in [(Version::Mqtt5, 0x85), (Version::Mqtt311, 2)] {
        let stolen = Connect::new(version, "dev1");
        assert_eq!(refusal(broker.raw_tls(&other), &stolen), code);
    }
    victim.ping();
    broker.audited("the refused client id", |record| is(record, "connection.refused", "dev1"));
}

/// Threat: a refusal that its client hides by staying.
#[test]
fn a_refusal_is_on_record_while_the_client_stays() {
    let setup = Setup::new().mutual_tls();
    let other = setup.device("dev2");
    let broker = setup.start();
    let mut stays = broker.raw_tls(&other);
    stays.send(&Connect::new(Version::Mqtt5, "dev1").bytes());
    assert_eq!(stays.recv_packet()[0], 0x20);
    let record = broker.audited("the refusal", |record| is(record, "connection.refused", "dev1"));
    assert_eq!(record["gate"], "identity", "{record}");
    drop(stays);
}

/// Threat: a certificate that has expired goes on serving.
#[test]
fn a_session_ends_with_its_certificate() {
    let setup = Setup::new().mutual_tls();
    let soon = setup.authority().client_with("brief", |certificate| {
        certificate.not_after = (std::time::SystemTime::now() + Duration::from_secs(3)).into();
    });
    let broker = setup.start();
    let mut client = broker.client_tls(&soon, &Connect::new(Version::Mqtt5, "brief"));
    client.ping();
    client.raw.expect_disconnect(&[0x87]);
    assert!(!is_let_in(&broker, Some(&soon)));
}

/// Threat: client id takeover, where the listener does not bind client ids.
#[test]
fn a_session_of_another_principal_is_not_taken_over() {
    let setup = Setup::new().mutual_tls_with("client_id = \"unbound\"");
    let (own, other) = (setup.device("dev1"), setup.device("dev2"));
    let broker = setup.start();
    let connect = Connect::new(Version::Mqtt5, "shared").durable();
    let mut victim = broker.client_tls(&own, &connect);
    victim.subscribe("private", 1);
    // Live, and stored.
    assert_eq!(refusal(broker.raw_tls(&other), &connect), 0x85);
    victim.ping();
    victim.disconnect();
    assert_eq!(refusal(broker.raw_tls(&other), &connect), 0x85);
    // A clean start may not throw it away either.
    assert_eq!(refusal(broker.raw_tls(&other), &Connect::new(Version::Mqtt5, "shared")), 0x85);
    assert_eq!(refusal(broker.raw_tls(&other), &Connect::new(Version::Mqtt311, "shared")), 2);
    let record =
        broker.audited("the other owner", |record| is(record, "session.refused-owner", "shared"));
    assert_eq!(record["principal"]["id"], "dev2", "{record}");
    assert!(broker.client_tls(&own, &connect).connack.session_present());
}

/// Threat: client id takeover, by a policy that trusts a name which nobody vouches for.
#[test]
fn a_policy_on_client_ids_needs_listeners_that_bind_them() {
    for policy in [
        "permit (principal, action, resource in TopicFilter::\"of/${client_id}/#\");",
        "permit (principal, action == Action::\"connect\", resource)\n\
         when { context.session.client_id == \"dev1\" };",
    ] {
        let policies = format!("@id(\"by-client-id\")\n@reason(\"a test\")\n{policy}\n");
        let refused = Setup::new().plaintext().policies(&policies).refused();
        assert!(refused.stderr.contains("`by-client-id`"), "{}", refused.stderr);
        assert!(refused.stderr.contains("client_id = \"exact\""), "{}", refused.stderr);
        Setup::new().mutual_tls().policies(&policies).start();
    }
}

/// Threat: identity injected into an ACL pattern.
#[test]
fn a_name_is_never_read_as_a_pattern() {
    let setup = Setup::new().mutual_tls_with("client_id = \"unbound\"").policies(OWN_SUBTREE);
    let honest = setup.device("dev1");
    let hostile: Vec<(&str, Identity)> =
        ["+", "#", "dev1/#", "dev+", "*", ".*", "$share", "de v1", "${cn}"]
            .into_iter()
            .map(|name| (name, setup.device(name)))
            .collect();
    let broker = setup.start();

    let mut client = broker.client_tls(&honest, &Connect::new(Version::Mqtt5, "dev1"));
    assert_eq!(suback(&mut client, "devices/dev1/#"), 1);
    assert_eq!(suback(&mut client, "devices/dev2/#"), NOT_AUTHORIZED);
    assert!(puback(&mut client, "devices/dev1/x") < 0x80);

    for (name, identity) in hostile {
        // To refuse the connection is an answer too.
        let mut raw = broker.raw_tls(&identity);
        raw.send(&Connect::new(Version::Mqtt5, &format!("client of {}", name.len())).bytes());
        let Some(connack) = raw.next_packet() else { continue };
        if connack[3] != 0 {
            continue;
        }
        drop(raw);
        let mut client = broker.client_tls(&identity, &Connect::new(Version::Mqtt5, "hostile"));
        for filter in ["devices/dev1/#", "devices/+/#", "devices/#", "#", "devices/dev1/x"] {
            assert!(suback(&mut client, filter) >= 0x80, "{name:?} subscribes {filter}");
        }
        assert!(puback(&mut client, "devices/dev1/x") >= 0x80, "{name:?} publishes");
        client.disconnect();
    }
}

/// Whether a client with this certificate gets as far as CONNACK.
fn is_let_in(broker: &Broker, identity: Option<&Identity>) -> bool {
    let mut stream = broker.authority().connect(broker.address("mqtts"), identity);
    let connect = Connect::new(Version::Mqtt311, "dev1").bytes();
    // TLS 1.3 refuses a certificate after the client has finished: reading tells.
    let mut answer = [0; 4];
    stream.write_all(&connect).and_then(|()| stream.read_exact(&mut answer)).is_ok()
        && answer == [0x20, 2, 0, 0]
}

/// Threat: authentication bypass.
#[test]
fn only_a_valid_certificate_of_the_right_authority_is_let_in() {
    let setup = Setup::new().mutual_tls();
    let authority = setup.authority();
    let strangers = Authority::new(&setup.path().join("strangers"), "Test CA");
    let change = |change: fn(&mut CertificateParams)| authority.client_with("dev1", change);
    let good = authority.client("dev1");
    let expired = change(|certificate| {
        certificate.not_before = date_time_ymd(2020, 1, 1);
        certificate.not_after = date_time_ymd(2021, 1, 1);
    });
    let early = change(|certificate| certificate.not_before = date_time_ymd(2090, 1, 1));
    let of_a_server = change(|certificate| {
        certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let foreign = strangers.client("dev1");
    let broker = setup.start();
    assert!(is_let_in(&broker, Some(&good)));
    for (what, identity) in [
        ("no certificate", None),
        ("an expired one", Some(&expired)),
        ("one of the future", Some(&early)),
        ("a server's", Some(&of_a_server)),
        ("one of another authority of the same name", Some(&foreign)),
    ] {
        assert!(!is_let_in(&broker, identity), "{what} is let in");
    }
    assert!(is_let_in(&broker, Some(&good)));
}

/// Threat: a group claimed by the wrong authority.
#[test]
fn a_group_is_conferred_only_by_certificates_of_the_authority_that_it_names() {
    let policies = r#"
@id("connect")
@reason("every device may connect")
permit (principal is Device, action == Action::"connect", resource);

@id("operators")
@reason("operators write below ops/")
permit (
  principal in Group::"operators",
  action == Action::"publish",
  resource in TopicFilter::"ops/${group}/#"
);
"#;
    let setup = Setup::new().mutual_tls().policies(policies);
    let ours = setup.authority();
    let theirs = Authority::new(&setup.path().join("theirs"), "Other CA");
    ours.vouch_for(&theirs);
    let unit = |unit: &'static str| {
        move |certificate: &mut CertificateParams| {
            certificate.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        }
    };
    let operator = ours.client_with("ann", unit("Operators"));
    let impostor = theirs.client_with("eve", unit("Operators"));
    let other_unit = ours.client_with("bob", unit("Operators of lifts"));
    let granted_by = |issuer: &str| {
        format!(
            "[group.operators]\n[[group.operators.granted_by]]\nissuer = \"{issuer}\"\n\
             organizational_unit = \"Operators\"\n"
        )
    };
    let (ours, theirs) = (ours.issuer_hash(), theirs.issuer_hash());
    let broker = setup.principals(&granted_by(&ours)).start();
    let connect = |identity, name| broker.client_tls(identity, &Connect::new(Version::Mqtt5, name));
    let mut ann = connect(&operator, "ann");
    assert!(puback(&mut ann, "ops/operators/x") < 0x80);
    assert_eq!(puback(&mut ann, "ops/staff/x"), NOT_AUTHORIZED);
    assert_eq!(puback(&mut connect(&other_unit, "bob"), "ops/operators/x"), NOT_AUTHORIZED);
    assert_eq!(puback(&mut connect(&impostor, "eve"), "ops/operators/x"), NOT_AUTHORIZED);
    let claim = broker.audited("the claim", |record| is(record, "group.claim-ignored", "eve"));
    for (field, said) in [
        ("group", "operators"),
        ("field", "organizational_unit"),
        ("value", "Operators"),
        ("issuer", &theirs),
    ] {
        assert_eq!(claim[field], said, "{claim}");
    }
    let claims = broker.audit();
    let claims = claims.iter().filter(|record| record["event"] == "group.claim-ignored");
    assert_eq!(claims.count(), 1, "one for the connection, none for who is in the group or not");

    // A reload resolves who is connected anew.
    broker.write(PRINCIPALS_FILE, &granted_by(&theirs));
    assert!(broker.ctl(&["reload"]).status.success());
    assert_eq!(puback(&mut ann, "ops/operators/x"), NOT_AUTHORIZED);
    broker.write(PRINCIPALS_FILE, "[group.operators]\nmembers = [\"Device::ann\"]\n");
    assert!(broker.ctl(&["reload"]).status.success());
    assert!(puback(&mut ann, "ops/operators/x") < 0x80);
}

/// Threat: downgrade.
#[test]
fn tls_1_2_is_refused_unless_the_listener_takes_it() {
    for (keys, taken) in [("", false), ("tls_1_2 = true", true)] {
        // The keys go into the table of TLS, which is the last of its listener.
        let setup = Setup::new().mutual_tls();
        let identity = setup.device("dev1");
        let setup = setup.config(keys);
        let broker = setup.start();
        let mut roots = rustls::RootCertStore::empty();
        let ca = broker.authority().certificate();
        for certificate in (Identity { certificate: ca.clone(), key: ca }).chain() {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(identity.chain(), identity.private_key())
            .unwrap();
        let name = "localhost".try_into().unwrap();
        let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = std::net::TcpStream::connect(broker.address("mqtts")).unwrap();
        socket.set_read_timeout(Some(crate::harness::raw::PATIENCE)).unwrap();
        let shaken = loop {
            if !session.is_handshaking() {
                break true;
            }
            if session.complete_io(&mut socket).is_err() {
                break false;
            }
        };
        assert_eq!(shaken, taken, "with {keys:?}");
    }
}

/// A resumed TLS session would skip the look at the certificate.
#[test]
fn every_tls_handshake_is_a_full_one() {
    let setup = Setup::new().mutual_tls();
    let identity = setup.device("dev1");
    let broker = setup.start();
    let config = Arc::new(broker.authority().client_config(Some(&identity)));
    for _ in 0..3 {
        let socket = std::net::TcpStream::connect(broker.address("mqtts")).unwrap();
        socket.set_read_timeout(Some(crate::harness::raw::PATIENCE)).unwrap();
        let name = "localhost".try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = rustls::StreamOwned::new(session, socket);
        stream.write_all(&Connect::new(Version::Mqtt311, "dev1").bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        let kind = stream.conn.handshake_kind();
        let full = [HandshakeKind::Full, HandshakeKind::FullWithHelloRetryRequest];
        assert!(kind.is_some_and(|kind| full.contains(&kind)), "{kind:?}");
        assert_eq!(stream.conn.tls13_tickets_received(), 0);
    }
}

/// Threat: log and page injection.
#[test]
fn hostile_names_stay_one_harmless_line_of_the_log() {
    let policies = r#"
@id("connect-only")
@reason("everything else is refused and audited")
permit (principal, action == Action::"connect", resource);
"#;
    let broker = Setup::new().plaintext().policies(policies).start();
    // Control characters are refused outright, wherever something is named.
    let control = "x\u{1b}[31m\u{85}\u{7f}\n";
    assert_eq!(refusal(broker.raw(), &Connect::new(Version::Mqtt5, control)), 0x85);
    for connect in [
        Connect { username: Some(control.into()), ..Connect::new(Version::Mqtt5, "user") },
        Connect::new(Version::Mqtt5, "heir").will(Will::new(control, "gone")),
    ] {
        assert_eq!(refusal(broker.raw(), &connect), 0x81);
    }
    let mut client = broker.simple(Version::Mqtt5, "tame");
    client.send(&Publish::new(control, "x").qos(1, 1));
    client.raw.expect_disconnect(&[0x81]);

    let hostile = "x<script>\u{202e}\"},{\"event\":\"forged\u{2028}";
    let mut raw = broker.raw();
    raw.send(&Connect::new(Version::Mqtt5, hostile).bytes());
    assert_eq!(raw.recv_packet()[3], 0);
    raw.send(&Publish::new(hostile, "x").qos(1, 1).bytes(Version::Mqtt5));
    broker.audited("the hostile client", |record| is(record, "denied", hostile));
    assert!(broker.audit().iter().all(|record| record["event"] != "forged"));
    let log = std::fs::read_to_string(broker.path().join("audit/audit.jsonl")).unwrap();
    for raw in [log, broker.stderr()] {
        for forbidden in ["\u{1b}[31m", "<script>", "\u{202e}", "\u{85}", "\u{2028}"] {
            assert!(!raw.contains(forbidden), "{forbidden:?} in {raw}");
        }
    }
    broker.simple(Version::Mqtt311, "calm").ping();
}

/// Threat: client id takeover; identity injected.
#[test]
fn rules_say_who_a_client_is_and_two_authorities_cannot_both_name_it() {
    let setup = Setup::new().mutual_tls_with("identity = \"rules\"");
    let own = setup.authority();
    let other = Authority::new(&setup.path().join("other"), "Other CA");
    own.vouch_for(&other);
    let rules = format!(
        r#"
[listener.mqtts.rule.own]
issuer = "{}"
common_name = "dev*"
groups = ["fleet"]
tags = {{ site = "north" }}
profile = "small"
[profile.small.features]
retain = false
[listener.mqtts.rule.others]
issuer = "{}"
named_by = "fingerprint"
principal = "service"
client_id = "unbound"
"#,
        own.issuer_hash(),
        other.issuer_hash()
    );
    let principals = "[group.fleet]\nmembers = []\n";
    let broker = setup.config(&rules).principals(principals).policies(
        r#"
@id("fleet") @reason("a test")
permit (principal in Group::"fleet", action, resource)
  when { principal.hasTag("site") && principal.getTag("site") == "north" };
@id("services") @reason("a test")
permit (principal is Service, action == Action::"connect", resource);
"#,
    );
    let broker = broker.start();
    let device = broker.authority().client("dev1");
    let mut dev1 = broker.client_tls(&device, &Connect::new(Version::Mqtt5, "dev1"));
    dev1.publish_surely(&Publish::new("a", "b"));
    // It has the profile of its rule.
    let retain_available = 0x25;
    assert_eq!(dev1.connack.property(retain_available), Some(&[0][..]));
    // The same name of the other authority is somebody else.
    let foreign = other.client("dev1");
    let mut any = broker.client_tls(&foreign, &Connect::new(Version::Mqtt5, "any"));
    any.ping();
    assert_eq!(any.connack.property(retain_available), None);
    let accepted = broker.audited("the other", |record| {
        record["event"] == "connection.accepted" && record["client_id"] == "any"
    });
    assert!(accepted["principal"].to_string().contains("Service"), "{accepted}");
    let refused = broker.authority().client("pump");
    let mut raw = broker.raw_tls(&refused);
    let _ = raw.try_send(&Connect::new(Version::Mqtt5, "pump").bytes());
    raw.expect_end();
    broker.audited("nobody", |record| {
        record["gate"] == "identity"
            && record["why"] == "no rule of the listener fits the certificate"
    });
}
