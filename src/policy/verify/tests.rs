//! With the real solver. Without one these fail: a proof that was skipped proves nothing.

use std::fmt::Write as _;

use super::decision::RULES_MAX;
use super::*;
use crate::policy::tests::world::{bundle, nested};
use crate::policy::{Comparison, PolicyEpoch, Words};

const LIMITS: Limits = Limits { timeout: Duration::from_mins(1), memory_bytes_max: 4 << 30 };

const POLICIES: &str = r#"
    @id("door") permit (principal, action == Action::"connect", resource == Listener::"devices")
        when { context.session.tls_version == 13 };
    @id("telemetry") permit (principal in Group::"sensors", action == Action::"publish",
        resource in TopicFilter::"sensors/#") when { context.payload_size <= 1024 };
    @id("own") permit (principal is Device, action in [Action::"write", Action::"read"],
        resource in TopicFilter::"devices/${cn}/#");
    @id("locked") forbid (principal, action in Action::"write",
        resource in TopicFilter::"+/+/command/#") unless { principal in Group::"operators" };
    @id("watch") permit (principal in Group::"operators", action in Action::"read",
        resource in TopicFilter::"sensors/#");
    @id("secret") forbid (principal, action == Action::"subscribe",
        resource in TopicFilter::"sensors/secret/#");
"#;

fn decide(claim: &Claim) -> Verdict {
    claim.decide(&Solver::find().unwrap(), LIMITS).unwrap()
}

/// The verdict in short: what stands at the end of a refutation is the question.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Proven(_) => "proven".to_owned(),
        Verdict::Refuted(found) => found.words.words().to_string(),
        Verdict::Undecided { why } => format!("undecided: {why}"),
    }
}

fn change(from: &str, to: &str) -> String {
    assert!(from.is_empty() || POLICIES.contains(from), "{from}");
    let new = if from.is_empty() { format!("{POLICIES}{to}") } else { POLICIES.replace(from, to) };
    short(&decide(&Claim::NothingNew { old: bundle(POLICIES), new: bundle(&new) }))
}

#[test]
fn what_narrows_rights_is_proven_to() {
    for (from, to) in [
        ("", ""),
        ("payload_size <= 1024", "payload_size <= 512 && context.qos == 0"),
        ("TopicFilter::\"sensors/#\") when", "TopicFilter::\"sensors/+/t\") when"),
        ("TopicFilter::\"devices/${cn}/#\"", "TopicFilter::\"devices/${cn}/t\""),
        (
            "principal is Device, action in [",
            "principal is Device in Group::\"sensors\", action in [",
        ),
        ("+/+/command/#", "+/+/#"),
        ("tls_version == 13", "tls_version == 13 && context.keep_alive > 10"),
        ("tls_version == 13", "tls_version > 12"),
        ("sensors/secret/#", "sensors/#"),
        // What is permitted anyway, said once more.
        (
            "",
            "@id(\"more\") permit (principal in Group::\"operators\", action == \
             Action::\"receive\", resource in TopicFilter::\"sensors/a\");",
        ),
    ] {
        assert_eq!(change(from, to), "proven", "{from} to {to}");
    }
}

#[test]
fn what_widens_rights_is_refuted_by_a_question_that_the_policies_confirm() {
    for (from, to, expected) in [
        ("payload_size <= 1024", "payload_size <= 1025", "with payload_size=1025"),
        ("+/+/command/#", "+/+/command/+", "/command"),
        ("tls_version == 13", "tls_version >= 12", "connect devices with tls_version=12"),
        ("sensors/secret/#", "sensors/secret/x", "subscribe sensors/secret"),
        ("devices/${cn}/#", "devices/+/#", "Device::anyone publish devices/x"),
    ] {
        // Which of many it is, is up to the solver.
        let found = change(from, to);
        let refuted = !found.starts_with("undecided") && found.contains(expected);
        assert!(refuted, "{from} to {to}: {found}");
    }
}

#[test]
fn nobody_in_a_group_may_do_something_or_somebody_can() {
    let groups: &[(&str, &[&str])] = &[("sensors", &[]), ("staff", &[]), ("operators", &["staff"])];
    let loaded = Bundle::load_text("t.cedar", POLICIES, Some(&nested(groups)), PolicyEpoch(1));
    let bundle = Arc::new(loaded.unwrap());
    for (group, action, resource, expected) in [
        ("sensors", Action::Publish, "a/b/command/#", "proven"),
        ("operators", Action::Subscribe, "sensors/secret/#", "proven"),
        ("operators", Action::Connect, "backend", "proven"),
        ("operators", Action::Receive, "$SYS/#", "proven"),
        ("operators", Action::Connect, "devices", "connect devices"),
        ("operators", Action::Receive, "sensors/secret/#", "receive sensors/secret"),
        ("sensors", Action::Publish, "sensors/1/#", "publish sensors/1"),
    ] {
        let claim = Claim::Nobody {
            bundle: Arc::clone(&bundle),
            group: group.to_owned(),
            action,
            resource: resource.to_owned(),
        };
        let found = short(&decide(&claim));
        let as_expected = !found.starts_with("undecided") && found.contains(expected);
        assert!(as_expected, "{group} {action:?} {resource}: {found}");
    }
}

#[test]
fn what_only_several_filters_together_rule_out_is_found_out() {
    let permit = |filter: &str| {
        format!(
            "@id({filter:?}) permit (principal, action == Action::\"publish\", resource in \
             TopicFilter::{filter:?});"
        )
    };
    let whole = bundle(&permit("a/#"));
    let parts = bundle(&(permit("a") + &permit("a/+") + &permit("a/+/+/#")));
    let claim = Claim::NothingNew { old: parts, new: Arc::clone(&whole) };
    assert_eq!(short(&decide(&claim)), "proven", "a/# is these three");
    let parts = bundle(&(permit("a") + &permit("a/+/+/#")));
    let claim = Claim::NothingNew { old: parts, new: whole };
    assert_eq!(short(&decide(&claim)), "Device::anyone publish a/x");
}

#[test]
fn a_claim_that_is_too_large_or_takes_too_long_is_undecided() {
    let mut many = String::new();
    for at in 0..=RULES_MAX {
        let _ = writeln!(
            many,
            "@id(\"r{at}\") permit (principal, action == Action::\"publish\", resource in \
             TopicFilter::\"+/{at}/#\");"
        );
    }
    let claim = Claim::NothingNew { old: bundle(POLICIES), new: bundle(&many) };
    let verdict = short(&decide(&claim));
    assert!(verdict.contains("the solver copes with 64"), "{verdict}");

    let claim = Claim::NothingNew {
        old: bundle(POLICIES),
        new: bundle(&POLICIES.replace("<= 1024", "<= 512")),
    };
    let hurried = Limits { timeout: Duration::from_millis(1), ..LIMITS };
    let verdict = claim.decide(&Solver::find().unwrap(), hurried).unwrap();
    assert!(short(&verdict).contains("--timeout"), "{verdict:?}");
}

#[test]
fn rules_are_compared_only_where_principals_are_the_same() {
    let load = |groups: &[(&str, &[&str])]| {
        let principals = nested(groups);
        Bundle::load_text("t.cedar", POLICIES, Some(&principals), PolicyEpoch(1)).unwrap()
    };
    let old = load(&[("sensors", &[]), ("operators", &[])]);
    let new = load(&[("sensors", &["operators"]), ("operators", &[])]);
    let verdict = decide(&Claim::NothingNew { old: Arc::new(old), new: Arc::new(new) });
    assert!(short(&verdict).contains("principals.toml differs"), "{verdict:?}");
}

/// The solver against many questions: what is proven, no question breaks.
#[test]
fn what_is_proven_no_question_breaks() {
    const FILTERS: [&str; 7] = ["a/#", "a/+", "+/b", "a/b", "#", "a/${cn}", "+/+/c"];
    const RESOURCES: [&str; 11] =
        ["a", "a/b", "a/x", "x/b", "a/b/c", "x", "$s/b", "a/#", "#", "+/b", "a/+"];
    const CONDITIONS: [&str; 4] = [
        "",
        " when { context.qos == 0 }",
        " unless { resource in TopicFilter::\"a/b\" }",
        " unless { principal in Group::\"g\" }",
    ];
    let mut seed = 20_261_126_u64;
    let mut pick = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let mut verdicts = [0; 3];
    for _ in 0..24 {
        let mut rule = |at: usize| {
            let effect = ["permit", "permit", "forbid"][pick(3)];
            let action = ["action", "action in Action::\"read\""][pick(2)];
            let (filter, condition) = (FILTERS[pick(7)], CONDITIONS[pick(4)]);
            format!(
                "@id(\"{at}\") {effect} (principal is Device, {action}, resource in \
                 TopicFilter::\"{filter}\"){condition};"
            )
        };
        let mut rules: Vec<String> = (0..4).map(&mut rule).collect();
        let old = bundle(&rules.concat());
        rules[0] = rule(0);
        let new = bundle(&rules.concat());
        let verdict = decide(&Claim::NothingNew { old: Arc::clone(&old), new: Arc::clone(&new) });
        let at = match verdict {
            Verdict::Refuted(_) => 0,
            Verdict::Undecided { .. } => 1,
            Verdict::Proven(_) => 2,
        };
        verdicts[at] += 1;
        if at < 2 {
            continue;
        }
        let mut comparison = Comparison::new(&old, &new);
        for action in ["publish", "subscribe", "receive"] {
            for resource in RESOURCES {
                for (cn, qos, group) in [("b", "0", "g"), ("x", "1", "h"), ("b", "1", "h")] {
                    let words = Words {
                        principal: "Device::d",
                        groups: vec![group],
                        action,
                        resource,
                        facts: vec![("cn", cn), ("qos", qos)],
                    };
                    let Ok(question) = Question::parse(&words) else { continue };
                    let answers = comparison.ask(&question);
                    let wider = answers.new.is_allowed() && !answers.old.is_allowed();
                    assert!(!wider, "{words}: {answers:?}");
                }
            }
        }
    }
    assert!(verdicts[0] > 0 && verdicts[2] > 0, "refuted, undecided, proven: {verdicts:?}");
    println!("refuted, undecided, proven: {verdicts:?}");
}
