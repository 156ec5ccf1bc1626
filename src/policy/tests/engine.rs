//! The engine with its slices and caches decides what a plain Authorizer over everything does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::random::{Oracle, Style};
use super::world::{Message, Random, delivery, device, identity, message, sequences, session};
use crate::identity::{Identity, PrincipalKind};
use crate::mqtt::UserProperties;
use crate::mqtt::packet::Qos;
use crate::policy::{Action, Bundle, Denial, PolicyEpoch, Subject};

const FILTERS: [&str; 16] = [
    "#",
    "a/#",
    "a/b",
    "+/b",
    "+",
    "+/+/#",
    "a/+",
    "$s/#",
    "${cn}/#",
    "a/${client_id}",
    "${principal}/b",
    "+/${group}",
    "a/${group}/#",
    "${tag:plant}/+",
    "b",
    "b/#",
];

const CONDITIONS: [&str; 21] = [
    "context.qos <= 1",
    "context.qos == 2",
    "context.retain",
    "context.payload_size < 100",
    "120 >= context.payload_size",
    "(principal is Device && context.time < principal.cert.not_after)",
    "(principal is Device && context.time > principal.cert.not_after)",
    "context.time.toTime() >= duration(\"8h\")",
    "(context has payload_size && context.payload_size == 120)",
    "context.session.tls_version >= 13",
    "context.session.source_ip.isInRange(ip(\"10.0.0.0/8\"))",
    "context.session.client_id == \"a\"",
    "context.time < datetime(\"2027-01-01\")",
    "context.time >= datetime(\"2027-01-01\")",
    "context.user_properties.contains(\"k=v\")",
    "principal in Group::\"g\"",
    "(principal is Device && principal.cert.cn == \"a\")",
    "(principal is Device && principal.hasTag(\"plant\") && principal.getTag(\"plant\") == \"b\")",
    "(resource is Topic && resource.name like \"a/*\")",
    "(resource is Topic && resource.levels > 2)",
    "resource == Topic::\"a/b\"",
];

const PRINCIPALS: [&str; 7] = [
    "principal",
    "principal is Device",
    "principal is User",
    "principal in Group::\"g\"",
    "principal is Device in Group::\"h\"",
    "principal == Device::\"a\"",
    "principal in User::\"u\"",
];

fn principals() -> Vec<Identity> {
    let mut tagged = device("a", &["g", "h"]);
    tagged.tags.insert("plant".into(), "b".into());
    let mut bare = device("b", &[]);
    bare.certificate = None;
    let mut user = identity(PrincipalKind::User, "u", &["g", "a"]);
    user.tags.clear();
    vec![tagged, bare, user, device("z", &["b", "h"])]
}

fn random_message(random: &mut Random, topics: &[String]) -> Message {
    let properties = if random.percent(50) { vec![("k".into(), "v".into())] } else { vec![] };
    Message {
        qos: *random.pick(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]),
        retain: random.percent(50),
        will: random.percent(50),
        payload_bytes: *random.pick(&[1, 99, 100, 119, 120, 121]),
        // Around the bounds of the conditions: the end of a year, eight o'clock, the certificate's.
        now: UNIX_EPOCH
            + Duration::from_millis(*random.pick(&[
                1_798_761_599_999,
                1_798_761_600_000,
                1_799_999_999_999,
                1_800_000_000_000,
                1_899_999_999_999,
                1_900_000_000_000,
                1_900_000_000_001,
            ])),
        user_properties: UserProperties(properties),
        ..message(random.pick::<String>(topics))
    }
}

#[test]
fn every_decision_is_that_of_a_plain_authorizer_over_the_whole_set() {
    let filters: Vec<String> = FILTERS.iter().map(|filter| (*filter).to_owned()).collect();
    let topics = sequences(&["a", "b", "$s", "g"], 3);
    let mut conditions = CONDITIONS.to_vec();
    conditions.push("context.will");
    let style = |actions, conditions| Style {
        filters: &filters,
        actions,
        conditions,
        principals: &PRINCIPALS,
    };
    let styles = [
        style(&["action == Action::\"publish\"", "action in Action::\"write\""], &conditions),
        style(&["action == Action::\"receive\""], &CONDITIONS[..]),
        style(&["action in [Action::\"publish\", Action::\"receive\"]"], &CONDITIONS[..]),
    ];
    let (mut allowed, mut denied, mut refused) = (0, 0, 0);
    for seed in 0..100 {
        let mut random = Random(seed);
        let written = random.pick(&styles[..]).policies(&mut random_of(seed), 6);
        let Ok(bundle) = Bundle::load_text("t", &written.text, None, PolicyEpoch(1)) else {
            refused += 1;
            continue;
        };
        let (bundle, oracle) = (Arc::new(bundle), Oracle::new(&written));
        for who in principals() {
            let facts = session(&who.name);
            let who = (Arc::new(who), Arc::new(facts));
            let mut subject =
                Subject::new(Arc::clone(&bundle), Arc::clone(&who.0), Arc::clone(&who.1));
            // Few topics, so that both caches are asked again and again.
            for _ in 0..40 {
                let message = random_message(&mut random, &topics[..30]);
                let publish = subject.publish(message.clone(), message.now).map(drop);
                let publish = publish.map_err(|denied| denied.denial);
                let receive = subject.receive(&message.topic, &delivery(&message));
                for (action, decision) in [("publish", publish), ("receive", receive)] {
                    let expected = oracle.judge(action, (&who.0, &who.1), &message);
                    let found = decision.as_ref().copied().map_err(ids);
                    assert_eq!(
                        found, expected,
                        "seed {seed}: {action} {message:?} by {:?}\n{}",
                        who.0.name, written.text
                    );
                    if found.is_ok() { allowed += 1 } else { denied += 1 }
                }
            }
        }
    }
    assert!(allowed > 2_000 && denied > 2_000, "{allowed} allowed, {denied} denied");
    assert!(refused < 30, "{refused} of the random sets were refused");
}

fn random_of(seed: u64) -> Random {
    Random(seed ^ 0xABCD_EF01)
}

fn ids(denial: &Denial) -> BTreeSet<String> {
    denial.policies.iter().map(ToString::to_string).collect()
}

#[test]
fn principals_with_the_same_candidates_share_their_compiled_rules() {
    let text = r#"
        @id("fleet") permit (principal is Device, action, resource in TopicFilter::"d/${cn}/#");
        @id("one") permit (principal == Device::"z", action == Action::"publish", resource);"#;
    let bundle = Bundle::load_text("t", text, None, PolicyEpoch(1)).unwrap();
    let acl = |name: &str, action| {
        let identity = device(name, &["g"]);
        bundle.acl(action, &identity, &bundle.resolve(&identity).unwrap().groups).unwrap()
    };
    let first = acl("a", Action::Publish);
    assert!(Arc::ptr_eq(&first, &acl("b", Action::Publish)));
    assert!(!Arc::ptr_eq(&first, &acl("z", Action::Publish)));
    let receive = acl("a", Action::Receive);
    assert!(Arc::ptr_eq(&receive, &acl("z", Action::Receive)), "z's own rule is for publish");
}

#[test]
fn bundles_are_shared_between_threads_and_subjects_move_between_them() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Bundle>();
    moved::<Subject>();
}

#[test]
fn a_subject_is_small_until_it_is_asked() {
    assert!(size_of::<Subject>() <= 32, "{}", size_of::<Subject>());
}
