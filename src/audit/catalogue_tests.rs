//! Holds the code and the catalogue in `audit/` together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::event::{Event, Gate, Kind, Outcome, Subject, Target, Verb, Version};
use super::line;
use crate::identity::{CertificateFacts, Identity, PrincipalKind};
use crate::mqtt::{ProtocolVersion, ReasonCode, Violation};

const SCHEMA: &str = include_str!("../../audit/events.schema.json");
const README: &str = include_str!("../../audit/README.md");

fn version(epoch: u64) -> Version {
    Version { hash: "c0ffee".into(), epoch }
}

fn policies() -> Arc<[Arc<str>]> {
    Arc::new(["no-valves-at-night".into()])
}

fn subject() -> Arc<Subject> {
    let identity = Identity {
        kind: PrincipalKind::Device,
        name: "pump-7".into(),
        groups: Vec::new(),
        tags: std::collections::BTreeMap::new(),
        certificate: Some(Arc::new(CertificateFacts {
            cn: "pump-7".into(),
            fingerprint: "9c0e".into(),
            issuer: "ab".into(),
            serial: "1f".into(),
            not_after_unix_s: 0,
            spiffe: None,
            dns_names: Vec::new(),
            uris: Vec::new(),
            organizational_units: Vec::new(),
        })),
    };
    let peer = "[::ffff:192.0.2.7]:50112".parse().unwrap();
    let subject = Subject::connection(&"mtls".into(), Some(peer));
    Arc::new(subject.identified(&identity).named("pump-7".into()))
}

fn issued(renews: Option<Arc<str>>) -> Kind {
    Kind::CertificateIssued {
        serial: "1f".into(),
        name: "pump-7".into(),
        profile: "device",
        issuer: "ab".into(),
        fingerprint: "9c0e".into(),
        not_after: "2027-03-01T12:00:00Z".into(),
        renews,
    }
}

/// At least one of each kind, with every field that is optional both there and not.
#[expect(clippy::too_many_lines, reason = "a list of them all")]
fn samples() -> Vec<Kind> {
    let reason = ReasonCode::NotAuthorized;
    let denied = |verb, target| Kind::Denied {
        verb,
        target,
        policies: policies(),
        reason,
        why: "forbidden by p1".into(),
    };
    let mut kinds = vec![
        Kind::BrokerStarted { program_version: "0.1.0", policy: version(1) },
        Kind::BrokerStopped { why: "SIGTERM".into() },
        Kind::RevocationLoaded { certificates: 7 },
        Kind::RevocationFailed { why: "ca.crl: has no revocation list".into() },
        Kind::StoreLossAccepted { what: "all that the store had in `queue`".into() },
        Kind::ConnectionAccepted {
            protocol: ProtocolVersion::V5,
            session_present: false,
            method: Some("staff".into()),
        },
        Kind::ConnectionAccepted {
            protocol: ProtocolVersion::V31,
            session_present: true,
            method: None,
        },
        Kind::ConnectionAccepted {
            protocol: ProtocolVersion::V311,
            session_present: true,
            method: None,
        },
        Kind::ConnectionClosed { reason: ReasonCode::Success, why: "DISCONNECT".into() },
        Kind::TokenCreated {
            id: "9c0e".into(),
            name: "pump-7".into(),
            profile: "device",
            ends: "2027-03-01T12:00:00Z".into(),
        },
        Kind::TokenDeleted { id: "9c0e".into(), name: "pump-7".into() },
        Kind::EnrollIssued {
            name: "pump-7".into(),
            method: "token",
            profile: "device",
            serial: "1f".into(),
            fingerprint: "9c0e".into(),
            by: "c0ffee".into(),
        },
        Kind::EnrollRefused {
            name: Some("pump-7".into()),
            method: Some("token"),
            status: Some(401),
            fingerprint: None,
            why: "the token is spent".into(),
        },
        Kind::BrokerTold {
            about: "revoked: 1".into(),
            outcome: Outcome::Failed,
            why: "connection refused".into(),
        },
        Kind::EnrollRefused {
            name: None,
            method: None,
            status: None,
            fingerprint: Some("9c0e".into()),
            why: "the client's certificate is revoked".into(),
        },
        Kind::AuthenticationRenewed { method: "tokens".into() },
        Kind::CredentialUpgraded { method: "staff".into(), name: "ann".into(), scheme: "bcrypt" },
        Kind::CredentialsReloaded { method: "staff".into() },
        Kind::CredentialsReloadFailed { method: "staff".into(), why: "passwords:7: …".into() },
        denied(Verb::Publish, Some(Target::Topic("plant/7/valve".into()))),
        denied(Verb::Subscribe, Some(Target::Filter("$share/g/plant/#".into()))),
        Violation::malformed("MQTT-1.5.4-2", "NUL in a string").into(),
        Kind::GroupClaimIgnored {
            group: "operators".into(),
            field: "san_uri",
            value: "spiffe://plant/ops/ann".into(),
            issuer: "ab".into(),
        },
        Kind::SessionTakenOver { by_address: Some("2001:db8::1".parse().unwrap()) },
        Kind::SessionTakenOver { by_address: None },
        Kind::SessionRefusedOwner { owner: (PrincipalKind::User, "eve".into()) },
        Kind::SubscriptionWithdrawn { filter: "plant/#".into(), policies: policies() },
        Kind::SessionQueueFull { waiting: 10_000 },
        Kind::WillDiscarded { topic: "t".into(), policies: Arc::new([]), why: "revoked".into() },
        Kind::BanAdded {
            ban: 7,
            target: "address 192.0.2.0/24".into(),
            until: Some("2026-03-01T12:00:00Z".into()),
            by: "operator",
            uid: Some(1000),
            why: "scans".into(),
        },
        Kind::BanAdded {
            ban: 8,
            target: "client id c1".into(),
            until: None,
            by: "flapping",
            uid: None,
            why: "".into(),
        },
        Kind::BanRemoved { ban: 7, target: "address 192.0.2.0/24".into(), uid: None },
        Kind::BanExpired { ban: 8, target: "client id c1".into() },
        Kind::DeviceRegistered { state: "pending", issuer: "ab".into() },
        Kind::DeviceChanged {
            device: (PrincipalKind::Device, "pump-7".into()),
            state: "suspended",
            uid: Some(0),
        },
        Kind::PolicyReloaded { old: version(1), new: version(2) },
        Kind::PolicyReloadFailed { old: version(1), why: "unexpected `;`".into() },
        Kind::ConfigReloaded {
            old: version(1),
            new: version(2),
            needs_restart: ["broker.drain".into()].into(),
        },
        Kind::ConfigReloadFailed { old: version(1), why: "unknown key".into() },
        Kind::ControlCall {
            uid: Some(1000),
            verb: Some("explain"),
            about: "dev1: publish a/b".into(),
            outcome: Outcome::Done,
            why: "".into(),
        },
        Kind::ControlCall {
            uid: Some(1000),
            verb: Some("backup"),
            about: "begins".into(),
            outcome: Outcome::Done,
            why: "".into(),
        },
        Kind::ControlCall {
            uid: None,
            verb: None,
            about: "".into(),
            outcome: Outcome::Failed,
            why: "not allowed".into(),
        },
        Kind::CaCreated {
            name: "Factory".into(),
            issuer: "ab".into(),
            not_after: "2031-03-01T12:00:00Z".into(),
        },
        Kind::CaRotated { name: "Factory 2".into(), old: "ab".into(), new: "cd".into() },
        issued(None),
        issued(Some("1e".into())),
        Kind::CertificateRevoked {
            serial: "1f".into(),
            name: "pump-7".into(),
            issuer: "ab".into(),
            reason: "keyCompromise",
        },
        Kind::CrlIssued {
            issuer: "ab".into(),
            number: 3,
            certificates: 1,
            next_update: "2026-03-31T12:00:00Z".into(),
        },
        Kind::TaskPanicked { task: "connection", message: "index out of bounds".into() },
        Kind::AuditOverflow { lost: 3 },
    ];
    kinds.extend(Verb::ALL.iter().map(|verb| denied(*verb, None)));
    kinds.extend(Gate::ALL.iter().map(|gate| Kind::ConnectionRefused {
        gate: *gate,
        reason,
        why: "because".into(),
        statement: (*gate == Gate::Connect).then_some("MQTT-3.1.0-1"),
    }));
    kinds.extend(Outcome::ALL.iter().map(|outcome| Kind::ControlCall {
        uid: Some(0),
        verb: Some("status"),
        about: "".into(),
        outcome: *outcome,
        why: "".into(),
    }));
    kinds
}

fn event(subject: Option<Arc<Subject>>, kind: Kind) -> Event {
    Event { time: UNIX_EPOCH + Duration::from_micros(1_772_366_400_000_123), subject, kind }
}

fn text(event: &Event) -> String {
    let mut line = Vec::new();
    line::append(&mut line, 42, event).unwrap();
    String::from_utf8(line).unwrap()
}

#[test]
fn a_refused_publish_is_one_line_with_all_that_is_known() {
    let kind = Kind::Denied {
        why: "no policy permits it".into(),
        verb: Verb::Publish,
        target: Some(Target::Topic("plant/7/valve".into())),
        policies: policies(),
        reason: ReasonCode::NotAuthorized,
    };
    assert_eq!(
        text(&event(Some(subject()), kind)),
        concat!(
            r#"{"v":1,"seq":42,"time":"2026-03-01T12:00:00.000123Z","event":"denied","#,
            r#""verb":"publish","topic":"plant/7/valve","policies":["no-valves-at-night"],"#,
            r#""reason":{"code":135,"name":"Not authorized"},"why":"no policy permits it","#,
            r#""listener":"mtls","address":"192.0.2.7","port":50112,"client_id":"pump-7","#,
            r#""principal":{"type":"Device","id":"pump-7"},"#,
            r#""certificate_serial":"1f","certificate_fingerprint":"9c0e"}"#,
            "\n"
        )
    );
}

#[test]
fn an_event_of_the_broker_names_no_client() {
    assert_eq!(
        text(&event(None, Kind::AuditOverflow { lost: 3 })),
        "{\"v\":1,\"seq\":42,\"time\":\"2026-03-01T12:00:00.000123Z\",\
         \"event\":\"audit.overflow\",\"lost\":3}\n"
    );
}

#[test]
fn a_hostile_name_stays_one_line_and_cannot_add_a_field() {
    let hostile = "a\",\"event\":\"policy.reloaded\"}\n{\"v\":1,\u{1b}[2J\u{2028}\u{202e}";
    let subject = Subject { client_id: Some(hostile.into()), ..Subject::default() };
    let kind = Kind::Denied {
        why: "no policy permits it".into(),
        verb: Verb::Subscribe,
        target: Some(Target::Filter(hostile.into())),
        policies: policies(),
        reason: ReasonCode::NotAuthorized,
    };
    let line = text(&event(Some(Arc::new(subject)), kind));
    assert_eq!(line.matches('\n').count(), 1);
    assert!(line.trim_end().chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{line}");
    let parsed: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["event"], "denied");
    assert_eq!(parsed["client_id"], hostile);
    assert_eq!(parsed["filter"], hostile);
}

#[test]
fn the_longest_line_fits_into_what_is_searched_at_start() {
    let worst: Arc<str> = "\u{1}".repeat(65_535).into();
    let subject = Subject {
        listener: Some(worst.clone()),
        client_id: Some(worst.clone()),
        principal: Some((PrincipalKind::Anonymous, worst.clone())),
        ..Subject::default()
    };
    let kind = Kind::Denied {
        why: "no policy permits it".into(),
        verb: Verb::Publish,
        target: Some(Target::Topic(worst.clone())),
        policies: vec![worst; 1_000].into(),
        reason: ReasonCode::NotAuthorized,
    };
    assert!(text(&event(Some(Arc::new(subject)), kind)).len() < 64 * 1024);
}

#[test]
fn every_event_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for kind in samples() {
        for subject in [None, Some(subject())] {
            let line = text(&event(subject, kind.clone()));
            let parsed: Value = serde_json::from_str(&line).unwrap();
            check_line(&schema, parsed.as_object().unwrap());
        }
    }
}

#[test]
fn the_schema_the_readme_the_code_and_these_tests_know_the_same_events() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let in_schema: BTreeSet<String> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|branch| branch["properties"]["event"]["const"].as_str().unwrap().to_owned())
        .collect();
    let in_code: BTreeSet<String> = include_str!("event.rs")
        .split("#[serde(rename = \"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    let in_samples: BTreeSet<String> = samples()
        .into_iter()
        .map(|kind| serde_json::from_str::<Value>(&text(&event(None, kind))).unwrap())
        .map(|line| line["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(in_schema, in_code);
    assert_eq!(in_samples, in_code);
    for name in in_code {
        assert!(README.contains(&format!("| `{name}` |")), "{name} is not in audit/README.md");
    }
}

fn check_line(schema: &Value, line: &Map<String, Value>) {
    let common = schema["properties"].as_object().unwrap();
    let branch = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .find(|branch| branch["properties"]["event"]["const"] == line["event"])
        .unwrap_or_else(|| panic!("{} is not in the schema", line["event"]));
    let own = branch["properties"].as_object().unwrap();
    for required in [&schema["required"], &branch["required"]] {
        for field in required.as_array().unwrap() {
            assert!(line.contains_key(field.as_str().unwrap()), "{field} is missing in {line:?}");
        }
    }
    for (field, value) in line {
        let rule = own
            .get(field)
            .or(common.get(field))
            .unwrap_or_else(|| panic!("{field} of {} is not in the schema", line["event"]));
        check_value(schema, rule, value, field);
    }
}

/// The part of JSON Schema that the schema uses; any other keyword fails.
fn check_value(schema: &Value, rule: &Value, value: &Value, at: &str) {
    for (keyword, wanted) in rule.as_object().unwrap() {
        let fine = match keyword.as_str() {
            "description" => true,
            "$ref" => {
                let name = wanted.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                check_value(schema, &schema["$defs"][name], value, at);
                true
            }
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|name| is_a(value, name)),
                name => is_a(value, name),
            },
            "minimum" => value.is_null() || value.as_i64() >= wanted.as_i64(),
            "maxLength" => {
                value.as_str().unwrap().chars().count() as u64 <= wanted.as_u64().unwrap()
            }
            "maxItems" => value.as_array().unwrap().len() as u64 <= wanted.as_u64().unwrap(),
            "items" => {
                for item in value.as_array().unwrap() {
                    check_value(schema, wanted, item, at);
                }
                true
            }
            "required" => wanted
                .as_array()
                .unwrap()
                .iter()
                .all(|field| value.get(field.as_str().unwrap()).is_some()),
            "properties" => {
                for (field, value) in value.as_object().unwrap() {
                    check_value(schema, &wanted[field], value, field);
                }
                true
            }
            // `properties` has indexed every field already.
            "additionalProperties" => wanted == &Value::Bool(false),
            other => panic!("{other} at {at} is not a keyword this test knows"),
        };
        assert!(fine, "{at}: {value} against {keyword} {wanted}");
    }
}

fn is_a(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other} is not a type this test knows"),
    }
}
