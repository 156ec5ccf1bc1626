//! Explanations as people read them, and what holds for every one of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::random::Style;
use super::world::{Random, filters, nested, sequences};
use crate::policy::{Bundle, Explanation, Part, PolicyEpoch, Question, RuleEffect, State, Words};

const PLANT: &str = include_str!("explain/plant.cedar");

fn plant() -> Arc<Bundle> {
    let groups = nested(&[("operators", &["staff"]), ("staff", &[]), ("sensors", &[])]);
    match Bundle::load_text("plant.cedar", PLANT, Some(&groups), PolicyEpoch(7)) {
        Ok(bundle) => Arc::new(bundle),
        Err(error) => panic!("{}", error.problems().draw(false)),
    }
}

/// Reads `PRINCIPAL GROUPS ACTION RESOURCE FACTS…`.
fn question(text: &str) -> Question {
    let mut parts = text.split(' ');
    let mut next = || parts.next().unwrap_or_default();
    let (principal, groups, action, resource) = (next(), next(), next(), next());
    let groups = groups.split(',').filter(|group| *group != "-").collect();
    let facts = parts.map(|fact| fact.split_once('=').unwrap_or((fact, ""))).collect();
    Question::parse(&Words { principal, groups, action, resource, facts }).unwrap()
}

fn explain(text: &str) -> Explanation {
    question(text).explain(&plant()).unwrap()
}

/// The rules in a state, in the order of the explanation.
fn ids(explanation: &Explanation, state: State) -> Vec<&str> {
    let rules = explanation.rules.iter().filter(|rule| rule.state == state);
    rules.map(|rule| &*rule.id).collect()
}

#[test]
fn every_explanation_reads_as_it_is_written_down() {
    let bundle = plant();
    let cases = include_str!("explain/answers.txt");
    let mut found = String::new();
    for asked in cases.lines().filter_map(|line| line.strip_prefix("=== ")) {
        let drawn = question(asked).explain(&bundle).unwrap().draw(false);
        write!(found, "=== {asked}\n{drawn}\n").unwrap();
    }
    let different = found.lines().zip(cases.lines()).find(|(found, written)| found != written);
    assert!(found.trim_end() == cases.trim_end(), "{different:?}\n{found}");
}

#[test]
fn the_rule_that_was_meant_comes_first() {
    for (asked, first) in [
        ("Device::dev2 - publish devices/dev1/t", "own"),
        ("Device::dev1 - publish devices/dev1/command/x", "locked"),
        ("Device::dev1 - publish devices/dev1/t", "own"),
        ("User::o operators publish devices/a/command/x", "operators-command"),
        ("User::u - publish plants/fra1/x tag:plant=fra1 qos=2", "plant"),
        ("Service::s - receive sensors/x certificate=false", "revoked"),
        ("Device::dev1 - connect devices tls_version=12", "connect"),
    ] {
        assert_eq!(&*explain(asked).rules[0].id, first, "{asked}");
    }
}

#[test]
fn a_rule_nearly_applies_when_one_thing_keeps_it_from_it() {
    let near = |asked| ids(&explain(asked), State::Nearly).join(" ");
    // The condition, the principal, the resource.
    assert_eq!(
        near("User::o operators publish devices/a/command/x qos=0"),
        "operators-command locked"
    );
    assert_eq!(near("User::o - subscribe devices/#"), "operators-watch");
    assert!(near("Device::dev1 - publish devices/dev2/t").starts_with("own"));
    // The principal and the condition: too far.
    let far = explain("User::o - publish devices/a/command/x qos=0");
    assert!(ids(&far, State::DoesNotApply).contains(&"operators-command"), "{far:?}");
}

#[test]
fn a_mark_names_the_very_part_and_the_facts_it_met() {
    let explanation =
        explain("Device::s sensors publish sensors/a/telemetry/x qos=2 payload_size=70000");
    let rule = explanation.rules.iter().find(|rule| &*rule.id == "sensors-telemetry").unwrap();
    assert_eq!((rule.effect, rule.state), (RuleEffect::Permit, State::Nearly));
    let marks: Vec<_> = rule
        .marks
        .iter()
        .map(|mark| {
            (mark.part, &*mark.text, mark.line, mark.column, mark.holds, mark.met.join(";"))
        })
        .collect();
    assert_eq!(
        marks,
        [
            (Part::When, "context.qos <= 1", 19, 10, Some(false), "context.qos is 2".to_owned()),
            (
                Part::When,
                "context.payload_size <= 65536",
                19,
                49,
                Some(false),
                "context.payload_size is 70000".to_owned()
            ),
        ]
    );
}

#[test]
fn a_guarded_part_is_not_blamed_for_failing_when_its_guard_is_false() {
    let text = r#"@id("p") permit (principal, action == Action::"publish", resource)
        when { context has content_type && context.content_type == "x" && context.qos == 0 };"#;
    let bundle = Bundle::load_text("p", text, None, PolicyEpoch(1)).unwrap();
    let explanation = question("Device::d - publish a qos=1").explain(&Arc::new(bundle)).unwrap();
    let texts: Vec<_> = explanation.rules[0].marks.iter().map(|mark| &*mark.text).collect();
    assert_eq!(texts, ["context has content_type"]);
}

#[test]
fn a_refused_subscription_is_taken_apart() {
    let portions = |portions: &[crate::policy::Portion]| {
        let words = portions.iter().map(|it| format!("{} {}", it.filter, it.policies.join(",")));
        words.collect::<Vec<_>>().join("; ")
    };
    for (asked, refused, allowed) in [
        ("Device::dev2 - subscribe devices/+/t", "", "devices/dev2/t own"),
        ("Device::dev2 - subscribe $share/g/#", "devices/+/private/# private", ""),
        (
            "User::o operators subscribe devices/# source_ip=192.0.2.1",
            "devices/+/private/# private",
            "",
        ),
        ("User::o operators subscribe +/a/#", "devices/a/private/# private", ""),
        ("User::o operators subscribe +/a/t", "", "devices/a/t operators-watch"),
        ("Service::s - subscribe +/+ source_ip=10.0.0.1", "", ""),
        ("Device::dev1 - subscribe devices/dev1/t", "", ""),
    ] {
        let explanation = explain(asked);
        assert_eq!(portions(&explanation.refused), refused, "{asked}");
        assert_eq!(portions(&explanation.would_be_allowed), allowed, "{asked}");
    }
}

#[test]
fn what_is_told_is_bounded_however_many_policies_there_are() {
    let mut text = String::from(
        "@id(\"own\") permit (principal == Device::\"d7\", action, resource in TopicFilter::\"x/7\");\n",
    );
    for index in 0..2000 {
        write!(
            text,
            "@id(\"a{index}\") permit (principal is Device, action in Action::\"write\", resource in TopicFilter::\"x/{index}/#\");\n\
             @id(\"b{index}\") permit (principal == Device::\"d{index}\", action in Action::\"write\", resource in TopicFilter::\"y/#\");\n\
             @id(\"c{index}\") forbid (principal, action in Action::\"write\", resource in TopicFilter::\"z\") when {{ context.qos == {} }};\n",
            index % 3
        )
        .unwrap();
    }
    let bundle = Arc::new(Bundle::load_text("p", &text, None, PolicyEpoch(1)).unwrap());
    for (asked, first) in [
        ("Device::d7 - publish x/7/a", "a7"),
        ("Device::d7 - publish y/7", "b7"),
        ("Device::d7 - publish z qos=1", "c1"),
        ("Device::d7 - publish x/3000", "a0"),
    ] {
        let explanation = question(asked).explain(&bundle).unwrap();
        assert_eq!(&*explanation.rules[0].id, first, "{asked}");
        assert!(explanation.rules.len() <= 48 && explanation.filters.len() <= 16);
        assert_eq!(explanation.rules.len() + explanation.rules_untold, 6001);
        let bytes = serde_json::to_string(&explanation).unwrap().len();
        assert!(bytes < 200_000, "{bytes}");
    }
}

#[test]
fn nothing_in_an_explanation_acts_on_the_terminal() {
    let text = "@id(\"p\") permit (principal, action == Action::\"publish\", resource)\n\
        when { context.qos == 1 && context.session.client_id != \"\\u{1b}\" };";
    let bundle = Arc::new(Bundle::load_text("p\u{1b}", text, None, PolicyEpoch(1)).unwrap());
    let asked = question("Device::d\u{1b}\u{202e} - publish a\u{200b}b qos=2 client_id=\u{1b}");
    let drawn = asked.explain(&bundle).unwrap().draw(false);
    assert!(!drawn.contains(['\u{1b}', '\u{200b}', '\u{202e}']), "{drawn}");
    assert!(drawn.contains("context.qos is 2"), "{drawn}");
}

#[test]
fn an_explanation_survives_the_way_through_json() {
    let explanation = explain("Device::dev1 - subscribe devices/#");
    let json = serde_json::to_string(&explanation).unwrap();
    let again: Explanation = serde_json::from_str(&json).unwrap();
    assert_eq!(again, explanation);
    assert_eq!(again.draw(false), explanation.draw(false));
}

#[test]
fn of_any_policies_and_any_question_the_explanation_agrees_with_the_answer() {
    let names = filters(&["a", "b", "+"], 2);
    let style = Style {
        filters: &names,
        actions: &["action in Action::\"read\"", "action in Action::\"write\"", "action"],
        conditions: &[
            "context.qos == 0",
            "principal in Group::\"b\"",
            "context.session.tls_version == 13",
        ],
        principals: &[
            "principal",
            "principal is Device",
            "principal in Group::\"b\"",
            "principal is User",
        ],
    };
    let topics = sequences(&["a", "b", "z"], 2);
    let mut explained = 0;
    for seed in 0..150 {
        let mut random = Random(seed);
        let written = style.policies(&mut random, 5);
        let Ok(bundle) = Bundle::load_text("t", &written.text, None, PolicyEpoch(1)) else {
            continue;
        };
        let bundle = Arc::new(bundle);
        for _ in 0..6 {
            let action = *random.pick(&["publish", "receive", "subscribe"]);
            let resource =
                if action == "subscribe" { random.pick(&names) } else { random.pick(&topics) };
            if resource.is_empty() {
                continue;
            }
            let groups = *random.pick(&["-", "b"]);
            let asked = format!("Device::a {groups} {action} {resource} qos={}", random.below(2));
            let question = question(&asked);
            let explanation = question.explain(&bundle).unwrap();
            let context = format!("seed {seed}: {asked}\n{}\n{explanation:#?}", written.text);
            assert_eq!(explanation.allowed, question.judge(&bundle).is_ok(), "{context}");
            let decided: BTreeSet<&str> = ids(&explanation, State::Decides).into_iter().collect();
            let answer = question.ask(&bundle);
            let policies: BTreeSet<&str> = answer.policies().iter().map(|id| &**id).collect();
            assert_eq!(decided, policies, "{context}");
            for rule in &explanation.rules {
                let applies = matches!(rule.state, State::Decides | State::Applies);
                assert!(rule.error.is_none(), "{context}");
                assert!(applies || !rule.marks.is_empty(), "{} has no mark\n{context}", rule.id);
                for mark in &rule.marks {
                    let line = written.text.lines().nth(mark.line - 1).unwrap();
                    let there: String = line.chars().skip(mark.column - 1).collect();
                    assert!(there.starts_with(&mark.text), "{mark:?}\n{context}");
                }
            }
            explained += 1;
        }
    }
    assert!(explained > 500, "{explained}");
}
