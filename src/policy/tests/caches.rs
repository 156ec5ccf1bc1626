//! A decision that is kept is never that of another packet, nor of another moment.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::world::{Message, bundle, delivery, device, message, now, receive_ok, subject};
use crate::mqtt::packet::Qos;
use crate::mqtt::{TopicName, UserProperties};
use crate::policy::Subject;

/// What is changed of a message that is permitted, so that it is not any more.
type Change = fn(&mut Message);

/// Conditions that hold for the message as it is, and not once it is changed.
const CONDITIONS: [(&str, Change); 15] = [
    ("context.qos <= 1", |it| it.qos = Qos::ExactlyOnce),
    ("!context.retain", |it| it.retain = true),
    ("context.payload_size <= 120", |it| it.payload_bytes = 121),
    ("[1, 120].contains(context.payload_size)", |it| it.payload_bytes = 121),
    ("context.time < datetime(\"2027-01-15T08:00:01Z\")", |it| it.now += SECOND),
    ("context.time.toTime() < duration(\"8h1s\")", |it| it.now += SECOND),
    ("context.time.toDate() == datetime(\"2027-01-15\")", |it| it.now += 86_400 * SECOND),
    ("principal is Device && context.time < principal.cert.not_after", |it| {
        it.now = UNIX_EPOCH + 1_900_000_000 * SECOND;
    }),
    ("!context.user_properties.contains(\"k=v\")", |it| {
        it.user_properties = UserProperties(vec![("k".into(), "v".into())]);
    }),
    ("!(context has content_type)", |it| it.content_type = Some("text/plain")),
    ("!{it: context}.it.retain", |it| it.retain = true),
    ("resource.name like \"a/b*\"", |it| it.topic = topic("a/c")),
    ("resource.levels == 2", |it| it.topic = topic("a/b/c")),
    ("resource == Topic::\"a/b\"", |it| it.topic = topic("a/c")),
    ("resource in TopicFilter::\"+/b\"", |it| it.topic = topic("a/c")),
];

/// Asks about a message, and says whether it is allowed.
type Judge = fn(&mut Subject, &Message) -> bool;

const SECOND: Duration = Duration::from_secs(1);

fn topic(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

/// The same condition on a permit and on a forbid, with a filter in the scope and without.
fn policies(action: &str, condition: &str) -> [String; 4] {
    let scopes = ["resource", "resource in TopicFilter::\"a/#\""];
    let permit = scopes.map(|scope| {
        format!("@id(\"p\") permit (principal, {action}, {scope}) when {{ {condition} }};")
    });
    let forbid = scopes.map(|scope| {
        format!(
            "@id(\"p\") permit (principal, action, resource);
            @id(\"f\") forbid (principal, {action}, {scope}) unless {{ {condition} }};"
        )
    });
    let ([one, two], [three, four]) = (permit, forbid);
    [one, two, three, four]
}

fn publish(subject: &mut Subject, message: &Message) -> bool {
    subject.publish(message.clone(), message.now).is_ok()
}

fn receive(subject: &mut Subject, message: &Message) -> bool {
    subject.receive(&message.topic, &delivery(message)).is_ok()
}

/// Asks forwards, backwards and again, each time so often that whatever can be kept is.
fn check(text: &str, questions: &[(Judge, &Message, bool)]) {
    let mut dev1 = subject(&bundle(text), device("dev1", &[]));
    for _ in 0..2 {
        for (judge, message, allowed) in questions.iter().chain(questions.iter().rev()) {
            for _ in 0..3 {
                assert_eq!(judge(&mut dev1, message), *allowed, "{message:?}\n{text}");
            }
        }
    }
}

#[test]
fn a_decision_is_made_anew_where_anything_it_depends_on_has_changed() {
    let usual = message("a/b");
    for (condition, change) in CONDITIONS {
        let mut changed = usual.clone();
        change(&mut changed);
        for text in policies("action in [Action::\"publish\", Action::\"receive\"]", condition) {
            check(&text, &[(publish, &usual, true), (publish, &changed, false)]);
            check(&text, &[(receive, &usual, true), (receive, &changed, false)]);
        }
    }
    let will = Message { will: true, ..usual.clone() };
    for text in policies("action == Action::\"publish\"", "!context.will") {
        check(&text, &[(publish, &usual, true), (publish, &will, false)]);
    }
}

#[test]
fn a_decision_about_the_one_topic_of_a_scope_is_not_that_about_another() {
    let (named, other) = (message("a/b"), message("a/c"));
    for scope in ["resource == Topic::\"a/b\"", "resource in Topic::\"a/b\""] {
        let permit = format!("@id(\"p\") permit (principal, action, {scope});");
        let forbid = format!(
            "@id(\"p\") permit (principal, action, resource in TopicFilter::\"a/#\");
            @id(\"f\") forbid (principal, action, {scope});"
        );
        for (text, allowed) in [(permit, true), (forbid, false)] {
            check(&text, &[(publish, &named, allowed), (publish, &other, !allowed)]);
            check(&text, &[(receive, &named, allowed), (receive, &other, !allowed)]);
            let mut dev1 = subject(&bundle(&text), device("dev1", &[]));
            assert!(!receive_ok(&mut dev1, "a/#"), "{text}");
        }
    }
}

#[test]
fn a_decision_about_one_action_is_not_that_about_another() {
    let usual = message("a/b");
    for (refused, published, received) in [("publish", false, true), ("receive", true, false)] {
        let action = format!("action == Action::\"{refused}\"");
        for text in policies(&action, "context.session.tls_version == 12") {
            let permit =
                "@id(\"rest\") permit (principal, action, resource in TopicFilter::\"a/#\")
                unless { action == Action::\"REFUSED\" };";
            let text = format!("{text}\n{}", permit.replace("REFUSED", refused));
            check(&text, &[(publish, &usual, published), (receive, &usual, received)]);
        }
    }
}

#[test]
fn only_where_a_rule_that_reads_more_can_apply_is_every_packet_judged() {
    let properties = UserProperties(vec![("k".into(), "v".into())]);
    let (unscoped, scopes) = ("resource", ["a/#", "b/#", "c/#"]);
    let scoped = scopes.map(|filter| format!("resource in TopicFilter::\"{filter}\""));
    let of_all = [scoped[0].as_str(), unscoped, &scoped[2]];
    for scopes in [scoped.each_ref().map(String::as_str), of_all] {
        // The filters have their numbers from the first rule, which names them in another order.
        let mut text =
            "@id(\"all\") permit (principal, action, resource in TopicFilter::\"#\") when
            { resource in [TopicFilter::\"c/#\", TopicFilter::\"b/#\", TopicFilter::\"a/#\"] };"
                .to_owned();
        for (at, scope) in scopes.iter().enumerate() {
            write!(
                text,
                "@id(\"f{at}\") forbid (principal, action == Action::\"publish\", {scope})
                when {{ context.user_properties.contains(\"k=v\") }};"
            )
            .unwrap();
        }
        for name in ["a/x", "b/x", "c/x"] {
            let usual = message(name);
            let changed = Message { user_properties: properties.clone(), ..usual.clone() };
            check(&text, &[(publish, &usual, true), (publish, &changed, false)]);
        }
    }
}

/// Each comparison, and whether it holds before the bound, at it and after it.
const COMPARISONS: [(&str, [bool; 3]); 6] = [
    ("<", [true, false, false]),
    ("<=", [true, true, false]),
    (">", [false, false, true]),
    (">=", [false, true, true]),
    ("==", [false, true, false]),
    ("!=", [true, false, true]),
];

#[test]
fn a_decision_changes_exactly_at_the_bound() {
    let at = |payload_bytes, now| Message { payload_bytes, now, ..message("a/b") };
    // Milliseconds are all that a policy can see of the time.
    let around = |moment: SystemTime| {
        [moment - Duration::from_nanos(1), moment, moment + Duration::from_millis(1)]
            .map(|now| at(1, now))
    };
    let not_after = UNIX_EPOCH + 1_900_000_000 * SECOND;
    for (number, bound, messages) in [
        ("context.payload_size", "100", [99, 100, 101].map(|bytes| at(bytes, now()))),
        ("context.time", "datetime(\"2027-01-15T08:00:00Z\")", around(now())),
        ("context.time.toTime()", "duration(\"8h\")", around(now())),
        ("context.time", "principal.cert.not_after", around(not_after)),
    ] {
        let mirror = |operator: &str| {
            let turned = |sign| match sign {
                '<' => '>',
                '>' => '<',
                other => other,
            };
            operator.chars().map(turned).collect::<String>()
        };
        for (operator, holds) in COMPARISONS {
            for condition in [
                format!("{number} {operator} {bound}"),
                format!("{bound} {} {number}", mirror(operator)),
            ] {
                let text = format!(
                    "@id(\"p\") permit (principal is Device, action == Action::\"publish\", resource)
                    when {{ {condition} }};"
                );
                let [before, exact, after] = &messages;
                let [first, second, third] = holds;
                check(
                    &text,
                    &[(publish, before, first), (publish, exact, second), (publish, after, third)],
                );
            }
        }
    }
}

#[test]
fn deliveries_are_judged_one_by_one_where_a_packet_could_be_refused() {
    for (condition, _) in CONDITIONS {
        for text in policies("action == Action::\"receive\"", condition) {
            let mut dev1 = subject(&bundle(&text), device("dev1", &[]));
            assert!(!receive_ok(&mut dev1, "a/#"), "{text}");
            let elsewhere = text.contains("forbid") && text.contains("a/#");
            assert_eq!(receive_ok(&mut dev1, "c/#"), elsewhere, "{text}");
        }
    }
    for condition in [
        "context.retain || !context.retain",
        "context.session.tls_version == 13",
        "principal is Device && principal.cert.cn == \"dev1\"",
    ] {
        for text in policies("action == Action::\"receive\"", condition) {
            let mut dev1 = subject(&bundle(&text), device("dev1", &[]));
            assert!(receive_ok(&mut dev1, "a/#"), "{text}");
        }
    }
}

#[test]
fn of_too_many_intervals_of_payloads_none_is_taken_for_all() {
    // What is compared with the first bounds decides nothing.
    let idle = |bounds: i32| -> String {
        let idle =
            |it| format!("(context.payload_size < {it} || context.payload_size >= {it}) && ");
        (1..=bounds).map(idle).collect()
    };
    for (bounds, last, all) in [(6, 0, true), (6, 120, false), (9, 0, false), (9, 120, false)] {
        let condition = match last {
            0 => format!("{}context.qos >= 0", idle(bounds)),
            last => format!("{}context.payload_size <= {last}", idle(bounds)),
        };
        for text in policies("action == Action::\"receive\"", &condition) {
            let mut dev1 = subject(&bundle(&text), device("dev1", &[]));
            assert_eq!(receive_ok(&mut dev1, "a/#"), all, "{text}");
        }
    }
}
