//! Other policies: whoever keeps its decisions has the answers that it would get anew.

use std::fmt::Write as _;
use std::sync::Arc;

use super::world::{
    Random, connect, device, principals, publish, receive, receive_ok, subject, subscribe,
};
use crate::policy::permit::Denial;
use crate::policy::{Bundle, PolicyEpoch, Subject};

const SCOPES: [&str; 6] = [
    "principal",
    "principal is Device",
    "principal is User",
    "principal == Device::\"d1\"",
    "principal in Group::\"inner\"",
    "principal in Group::\"outer\"",
];
const ACTIONS: [&str; 5] = [
    "action",
    "action == Action::\"connect\"",
    "action == Action::\"publish\"",
    "action == Action::\"subscribe\"",
    "action == Action::\"receive\"",
];
const GROUPS: [&str; 4] = [
    "[group.inner]\nmembers = [\"Device::d1\"]\n[group.outer]",
    "[group.inner]\nmembers = [\"Device::d1\"]\nin = [\"outer\"]\n[group.outer]",
    "[group.inner]\nin = [\"outer\"]\n[group.outer]\nmembers = [\"Device::d1\"]",
    "[group.inner]\nmembers = [\"Device::d1\"]\n[group.outer]\nmembers = [\"Device::d1\"]",
];

/// A rule, its number in its id: the same number is not always the same rule.
fn rule(random: &mut Random, number: usize) -> String {
    let effect = if random.percent(70) { "permit" } else { "forbid" };
    let (scope, action) = (*random.pick(&SCOPES), *random.pick(&ACTIONS));
    let resource = match action {
        "action" | "action == Action::\"connect\"" => "resource",
        _ => *random.pick(&["resource", "resource in TopicFilter::\"a/#\""]),
    };
    let when = *random.pick(&["", "", "when { principal in Group::\"outer\" }"]);
    format!("@id(\"r{number}\") {effect} ({scope}, {action}, {resource}) {when};\n")
}

fn load(rules: &[String], groups: &str, epoch: u64) -> Option<Arc<Bundle>> {
    let text = rules.concat();
    let bundle = Bundle::load_text("t", &text, Some(&principals(groups)), PolicyEpoch(epoch));
    bundle.ok().map(Arc::new)
}

fn answers(subject: &mut Subject) -> String {
    let mut text = String::new();
    let mut add = |answer: Result<(), Denial>| {
        let _ = writeln!(text, "{answer:?}");
    };
    add(connect(subject));
    for topic in ["a/b", "b", "a/b", "b"] {
        add(publish(subject, topic));
        add(receive(subject, topic));
    }
    for filter in ["a/#", "#", "b"] {
        add(subscribe(subject, filter));
    }
    let _ = writeln!(text, "{} {}", receive_ok(subject, "a/#"), receive_ok(subject, "b"));
    text
}

#[test]
fn who_keeps_its_decisions_has_the_answers_of_the_new_policies() {
    let (mut random, mut kept, mut judged) = (Random(7), 0, 0);
    for _ in 0..400 {
        let mut rules: Vec<String> =
            (0..=random.below(5)).map(|number| rule(&mut random, number)).collect();
        let groups = *random.pick(&GROUPS);
        let Some(old) = load(&rules, groups, 1) else { continue };
        // One rule is another, or says the opposite, or is gone, or more; or the groups are others;
        // or nothing is.
        match random.below(6) {
            0 => {
                let at = random.below(rules.len());
                rules[at] = rule(&mut random, at);
            }
            1 => drop(rules.pop()),
            2 => rules.push(rule(&mut random, 9)),
            3 => {
                let at = random.below(rules.len());
                let is_permit = rules[at].contains(" permit ");
                let [from, to] =
                    if is_permit { ["permit", "forbid"] } else { ["forbid", "permit"] };
                rules[at] = rules[at].replace(from, to);
            }
            _ => {}
        }
        let groups = if random.percent(40) { *random.pick(&GROUPS) } else { groups };
        let Some(new) = load(&rules, groups, 2) else { continue };
        // The same again: nothing of the old ones was taken over into it.
        let untouched = load(&rules, groups, 2).unwrap();
        for name in ["d1", "d2"] {
            let mut known = subject(&old, device(name, &[]));
            let before = answers(&mut known);
            let stays = known.rebase(Arc::clone(&new));
            let anew = answers(&mut subject(&untouched, device(name, &[])));
            // Who comes later shares what was compiled for others.
            assert_eq!(answers(&mut subject(&new, device(name, &[]))), anew);
            assert_eq!(answers(&mut known), anew, "{name} {groups}\n{}", rules.concat());
            assert!(!stays || before == anew);
            (kept, judged) = (kept + usize::from(stays), judged + usize::from(!stays));
        }
    }
    assert!(kept > 100 && judged > 100, "{kept} {judged}");
}

#[test]
fn what_does_not_concern_a_principal_leaves_its_decisions() {
    let own = "@id(\"own\") permit (principal == Device::\"d1\", action, resource);\n".to_owned();
    let other =
        "@id(\"other\") permit (principal == Device::\"d2\", action, resource);\n".to_owned();
    let all =
        "@id(\"all\") forbid (principal, action == Action::\"connect\", resource);\n".to_owned();
    let groups = "[group.inner]\n[group.outer]";
    let members = "[group.inner]\nmembers = [\"Device::d2\"]\n[group.outer]";
    let old = load(&[own.clone(), other.clone()], groups, 1).unwrap();
    for (rules, groups, d1_stays, d2_stays) in [
        (vec![own.clone(), other.clone()], groups, true, true),
        (vec![other.clone(), own.clone()], groups, true, true),
        (vec![own.clone()], groups, true, false),
        (vec![own.clone(), other.clone()], members, true, false),
        (vec![own.clone(), other.clone(), all], groups, false, false),
        (vec![own.replace("permit", "forbid"), other], groups, false, true),
    ] {
        let new = load(&rules, groups, 2).unwrap();
        for (name, stays) in [("d1", d1_stays), ("d2", d2_stays)] {
            for asked_before in [false, true] {
                let mut subject = subject(&old, device(name, &[]));
                if asked_before {
                    let _ = publish(&mut subject, "a");
                }
                assert_eq!(subject.rebase(Arc::clone(&new)), stays, "{name} {rules:?} {groups}");
                assert_eq!(subject.epoch(), PolicyEpoch(2));
            }
        }
    }
}
