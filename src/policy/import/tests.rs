//! ACL text to Cedar text, and both decide alike.

use std::fmt::Write as _;
use std::sync::Arc;

use super::acl_file;
use super::model::{Acl, Client, Verb};
use super::{BYTES_MAX, Dialect, ImportError, Translation, translate};
use crate::identity::PrincipalKind;
use crate::policy::source::Source;
use crate::policy::tests::world::{Random, filters, sequences};
use crate::policy::{Bundle, PolicyEpoch, Problem, Question, Words};
use Dialect::{Mosquitto, Vernemq};

fn import(dialect: Dialect, text: &str) -> Result<Translation, ImportError> {
    translate("acl", text, dialect, PrincipalKind::User)
}

fn imported(dialect: Dialect, text: &str) -> Translation {
    import(dialect, text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The policies without `@reason` and with single spaces.
fn policies(dialect: Dialect, text: &str) -> Vec<String> {
    let translation = imported(dialect, text);
    let blocks = translation.policies.split("\n\n");
    let policies = blocks.filter(|block| block.starts_with("@id") || block.starts_with("// Line"));
    let without_reason = |block: &str| {
        let lines = block.lines().filter(|line| !line.starts_with("@reason"));
        lines.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    policies.map(without_reason).collect()
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::line).collect()
}

#[test]
fn each_kind_of_line_becomes_the_policy_that_says_it() {
    for (dialect, text, expected) in [
        (
            Mosquitto,
            "user bob\ntopic read a/#",
            vec![
                r#"@id("acl-line-2") permit ( principal == User::"bob", action in Action::"read", resource in TopicFilter::"a/#" );"#,
            ],
        ),
        (
            Mosquitto,
            "user bob\ntopic write a/+",
            vec![
                r#"@id("acl-line-2") permit ( principal == User::"bob", action == Action::"publish", resource in TopicFilter::"a/+" );"#,
            ],
        ),
        (
            Mosquitto,
            "user bob\ntopic readwrite a b/c\ntopic a",
            vec![
                r#"@id("acl-line-2") permit ( principal == User::"bob", action in [Action::"publish", Action::"read"], resource in TopicFilter::"a b/c" );"#,
                r#"@id("acl-line-3") permit ( principal == User::"bob", action in [Action::"publish", Action::"read"], resource in TopicFilter::"a" );"#,
            ],
        ),
        (
            Mosquitto,
            "user bob\ntopic deny a/secret/#",
            vec![
                r#"@id("acl-line-2") forbid ( principal == User::"bob", action in [Action::"publish", Action::"receive"], resource in TopicFilter::"a/secret/#" );"#,
            ],
        ),
        (
            Mosquitto,
            "topic read a",
            vec![
                r#"@id("acl-line-1") permit ( principal is Anonymous, action in Action::"read", resource in TopicFilter::"a" );"#,
            ],
        ),
        (
            Mosquitto,
            "user bob\npattern write up/%u/%c/+",
            vec![
                r#"@id("acl-line-2") permit ( principal is User, action == Action::"publish", resource in TopicFilter::"up/${principal}/${client_id}/+" );"#,
            ],
        ),
        (
            Mosquitto,
            "pattern read down/%c",
            vec![
                r#"@id("acl-line-1") permit ( principal, action in Action::"read", resource in TopicFilter::"down/${client_id}" ) when { principal is User || principal is Anonymous };"#,
            ],
        ),
        (
            Vernemq,
            "topic write a\nuser bob\ntopic read b",
            vec![
                r#"@id("acl-line-1") permit ( principal, action == Action::"publish", resource in TopicFilter::"a" ) when { principal is User || principal is Anonymous };"#,
                r#"@id("acl-line-3") permit ( principal == User::"bob", action == Action::"receive", resource in TopicFilter::"b" );"#,
                r#"@id("acl-line-3-subscribe") permit ( principal == User::"bob", action == Action::"subscribe", resource in TopicFilter::"b" ) unless { context has share_group };"#,
            ],
        ),
        (
            Vernemq,
            "pattern %u/x",
            vec![
                r#"@id("acl-line-1") permit ( principal is User, action in [Action::"publish", Action::"receive"], resource in TopicFilter::"${principal}/x" );"#,
                r#"@id("acl-line-1-subscribe") permit ( principal is User, action == Action::"subscribe", resource in TopicFilter::"${principal}/x" ) unless { context has share_group };"#,
            ],
        ),
    ] {
        assert_eq!(policies(dialect, text), expected, "{text}");
    }
}

/// Mosquitto looks at patterns only when no `topic` line of the client decided.
#[test]
fn a_denial_of_a_pattern_is_an_exception_of_the_patterns_it_overlaps() {
    let text = "user bob\ntopic readwrite a/#\npattern deny a/secret\npattern deny %u/secret\n\
                pattern read a/+\npattern write b/#\npattern readwrite %u/#";
    assert_eq!(
        policies(Mosquitto, text),
        [
            r#"@id("acl-line-2") permit ( principal == User::"bob", action in [Action::"publish", Action::"read"], resource in TopicFilter::"a/#" );"#,
            "// Line 3 is an exception of other patterns: pattern deny a/secret",
            "// Line 4 is an exception of other patterns: pattern deny %u/secret",
            r#"@id("acl-line-5") permit ( principal, action == Action::"receive", resource in TopicFilter::"a/+" ) when { principal is User || principal is Anonymous } unless { resource in [TopicFilter::"a/secret"] || (principal is User && resource in [TopicFilter::"${principal}/secret"]) };"#,
            r#"@id("acl-line-5-subscribe") permit ( principal, action == Action::"subscribe", resource in TopicFilter::"a/+" ) when { principal is User || principal is Anonymous };"#,
            r#"@id("acl-line-6") permit ( principal, action == Action::"publish", resource in TopicFilter::"b/#" ) when { principal is User || principal is Anonymous } unless { (principal is User && resource in [TopicFilter::"${principal}/secret"]) };"#,
            r#"@id("acl-line-7") permit ( principal is User, action in [Action::"publish", Action::"receive"], resource in TopicFilter::"${principal}/#" ) unless { resource in [TopicFilter::"a/secret", TopicFilter::"${principal}/secret"] };"#,
            r#"@id("acl-line-7-subscribe") permit ( principal is User, action == Action::"subscribe", resource in TopicFilter::"${principal}/#" );"#,
        ]
    );
}

#[test]
fn words_comments_and_white_space_are_read_as_by_the_broker() {
    let id = |dialect, text| -> Vec<String> {
        let policies = policies(dialect, text);
        policies.iter().map(|it| it.split('"').rev().nth(1).unwrap().to_owned()).collect()
    };
    // Mosquitto: separated by spaces; the end of a line, and of its last part, is trimmed.
    for (text, topics) in [
        ("  topic   read   a b  \r\n", vec!["a b"]),
        ("# topic x\n\n \t \ntopic a\n#\n", vec!["a"]),
        ("topic read \t a\t\n", vec!["a"]),
        ("topic read", vec!["read"]),
        ("topic deny \ntopic write write", vec!["deny", "write"]),
        ("topic # x\ntopic #", vec![]),
    ] {
        match topics.as_slice() {
            [] => assert!(matches!(import(Mosquitto, text), Err(ImportError::Unusable(_)))),
            topics => assert_eq!(id(Mosquitto, text), topics, "{text:?}"),
        }
    }
    // VerneMQ: one space after each word, and the last part is trimmed.
    assert_eq!(id(Vernemq, "# x\n\ntopic write  a b \t\nuser  u \ntopic write x"), ["a b", "x"]);
    assert!(policies(Vernemq, "user  u \ntopic write x")[0].contains("User::\"u\""));
    let user = imported(Mosquitto, "user   u  v \r\ntopic write x");
    assert!(user.policies.contains("User::\"u  v\""), "{}", user.policies);
}

#[test]
fn what_the_broker_itself_would_not_take_is_refused_with_its_line() {
    for (dialect, text, expected) in [
        (Mosquitto, "topic\n", "acl:1:1: no topic; write: topic [read|write] TOPIC"),
        (Mosquitto, "\nuser \n", "acl:2:1: a user without a name; write: user NAME"),
        (
            Mosquitto,
            "topic red a",
            "acl:1:1: \"red\" is no kind of access; write read, write, readwrite, deny, or nothing",
        ),
        (
            Mosquitto,
            " # late\ntopic a",
            "acl:1:1: a line begins with \"#\"; write topic, pattern or user; a comment has its # at the very beginning",
        ),
        (
            Mosquitto,
            "topic\tread a",
            "acl:1:1: a line begins with \"topic\\tread\"; write topic, pattern or user; a comment has its # at the very beginning",
        ),
        (
            Mosquitto,
            "\u{feff}topic a",
            "acl:1:1: the file begins with a byte order mark (U+FEFF); save it as UTF-8 without a byte order mark (BOM)",
        ),
        (
            Mosquitto,
            "topic read a/b#",
            "acl:1:1: a # is not a whole level of its filter; correct the topic",
        ),
        (
            Mosquitto,
            "topic read a+/b",
            "acl:1:1: a + is not a whole level of its filter; correct the topic",
        ),
        (Mosquitto, "topic a/\0", "acl:1:1: a topic filter holds NUL; correct the topic"),
        (
            Mosquitto,
            "user a\u{202e}b\ntopic x",
            "acl:1:1: the name of the user holds '\\u{202e}'; no certificate has such a name; remove the user",
        ),
        (Vernemq, "topic ", "acl:1:1: no topic; write: topic [read|write] TOPIC"),
        (Vernemq, "topic read ", "acl:1:1: no topic; write: topic [read|write] TOPIC"),
        (Vernemq, "user", "acl:1:1: a user without a name; write: user NAME"),
        (
            Vernemq,
            "topic deny a",
            "acl:1:1: VerneMQ takes \"deny\" for a part of the topic here; write `topic read` or `topic write`, with one space, or neither for both",
        ),
        (
            Vernemq,
            "topic  read a",
            "acl:1:1: VerneMQ takes \"read\" for a part of the topic here; write `topic read` or `topic write`, with one space, or neither for both",
        ),
        (
            Vernemq,
            " topic a",
            "acl:1:1: a line begins with \"\"; write topic, pattern or user; a comment has its # at the very beginning",
        ),
    ] {
        let Err(ImportError::Unusable(problems)) = import(dialect, text) else {
            panic!("{text:?} is taken");
        };
        assert_eq!(problems, [expected], "{text:?}");
    }
    let error = import(Mosquitto, "topik a\n\ntopic b\nuser").unwrap_err().to_string();
    assert!(error.starts_with("no policies can be made of this file:\nacl:1:1: "), "{error}");
    assert!(error.contains("\nacl:4:1: a user without a name"), "every problem is told: {error}");
}

#[test]
fn a_line_that_no_policy_says_exactly_is_told_of_and_left_out() {
    const LEAVE_OUT: &str = "write a policy for what is meant, and leave the line out";
    const SHARED: &str = "policies judge the filter inside $share/<group>/; write a policy on that \
                          filter with context.share_group, and leave the line out";
    let deep = format!("topic {}a", "a/".repeat(128));
    for (dialect, text, expected) in [
        (
            Mosquitto,
            "pattern read a/x%u/b",
            format!("a placeholder fills one whole level, and \"x%u\" has more in it; {LEAVE_OUT}"),
        ),
        (
            Vernemq,
            "pattern read %c%u",
            format!(
                "a placeholder fills one whole level, and \"%c%u\" has more in it; {LEAVE_OUT}"
            ),
        ),
        (
            Vernemq,
            "pattern read %m/%u",
            format!("there are no mountpoints, so that %m stands for nothing; {LEAVE_OUT}"),
        ),
        // Text in an ACL file; taken over as it is, it would grant every client something.
        (
            Mosquitto,
            "topic read a/${cn}/b",
            format!("\"${{cn}}\" would be a placeholder in a policy; {LEAVE_OUT}"),
        ),
        (
            Mosquitto,
            "pattern read %u/x${",
            format!("\"x${{\" would be a placeholder in a policy; {LEAVE_OUT}"),
        ),
        (Mosquitto, "topic a/\u{202e}", format!("the topic holds '\\u{{202e}}'; {LEAVE_OUT}")),
        (
            Mosquitto,
            &deep,
            format!("a filter in a policy may have 128 levels, this one has 129; {LEAVE_OUT}"),
        ),
        (Mosquitto, "topic read $share/g/a", SHARED.to_owned()),
        (Vernemq, "topic $share/g", SHARED.to_owned()),
        (Vernemq, "topic $shared", SHARED.to_owned()),
    ] {
        let whole = format!("user bob\n{text}\ntopic write other");
        let translation = imported(dialect, &whole);
        assert_eq!(lines(&translation.untranslated), [format!("acl:2:1: {expected}")]);
        assert!(translation.policies.contains("\n// Line 2 is not in these policies: "));
        assert!(!translation.policies.contains("@id(\"acl-line-2\")"), "{text:?}");
        assert!(translation.policies.contains("@id(\"acl-line-3\")"));
        let alone = import(dialect, text).unwrap_err();
        assert!(matches!(&alone, ImportError::Empty(told) if told.len() == 1), "{alone}");
    }
    assert!(matches!(import(Mosquitto, "# nothing\nuser bob\n"), Err(ImportError::Empty(_))));
}

/// To leave out a denial would permit more than the file does.
#[test]
fn a_denial_that_no_policy_says_refuses_the_file() {
    for denial in ["pattern deny a/x%u", "topic deny a/${cn}", "topic deny a/\u{43c}x"] {
        let text = format!("topic a/#\n{denial}");
        let error = import(Mosquitto, &text).unwrap_err();
        assert!(matches!(&error, ImportError::Unusable(told) if told.len() == 1), "{error}");
        let expected = "; without this denial the policies would permit more; write it another way";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

/// The validator of policies refuses them, and would not say of which line they are.
#[test]
fn text_in_several_scripts_is_told_of_by_its_line() {
    let text = "topic write \u{43c}\u{430}\u{448}\u{438}\u{43d}\u{430}/+\nuser x\u{43c}\n\
                topic write a\nuser \u{43c}\ntopic write a\npattern deny \u{43c}/#\npattern a/#";
    let translation = imported(Mosquitto, text);
    assert_eq!(
        lines(&translation.untranslated),
        ["acl:3:1: policies may not mix scripts, or hold letters that look like others; write a \
         policy for what is meant, and leave the line out"]
    );
    assert_eq!(policies(Mosquitto, text).len(), 5, "{}", translation.policies);
}

#[test]
fn what_the_reader_may_take_for_something_else_is_noted() {
    for (dialect, text, expected) in [
        (
            Mosquitto,
            "topic a\ntopic b\ntopic readwrite a",
            "acl:3:1: says the same as line 1; it has no policy of its own",
        ),
        (
            Mosquitto,
            "topic $SYS/#",
            "acl:1:1: below $SYS Mosquitto takes nothing but the states of bridges, and the policies not even those; if there are bridges, write: pattern write $SYS/broker/connection/%c/state",
        ),
        (
            Vernemq,
            "topic write +/a",
            "acl:1:1: VerneMQ takes a wildcard at the first level for `$SYS` and `$share` too, the policy does not; write a policy if that is meant",
        ),
    ] {
        assert_eq!(lines(&imported(dialect, text).notes), [expected], "{text}");
    }
    assert_eq!(policies(Mosquitto, "topic a\ntopic a\nuser u\ntopic a\npattern a").len(), 3);
    let literal = import(Mosquitto, "topic read a/%u").unwrap_err().to_string();
    assert!(literal.contains("\"%u\" is a level like any other here"), "{literal}");
    // The line that Mosquitto's own example ends with.
    let state = "pattern write $SYS/broker/connection/%c/state";
    assert_eq!(lines(&imported(Mosquitto, state).notes), [""; 0]);
    assert!(policies(Mosquitto, state)[0].contains("connection/${client_id}/state"));
    let read = policies(Mosquitto, "topic $SYS/#");
    assert!(read[0].contains(r#"action in Action::"read""#), "{read:?}");
    assert!(import(Mosquitto, "topic write $SYS/x").is_err());
}

#[test]
fn names_and_topics_are_escaped_so_that_they_stay_one_string() {
    let text = "user bob\" || true //\\\ntopic write a\");permit(principal,action,resource);//\n\
                user o'neil\ntopic write \u{43c}\u{301}";
    assert_eq!(
        policies(Mosquitto, text),
        [
            r#"@id("acl-line-2") permit ( principal == User::"bob\" || true //\\", action == Action::"publish", resource in TopicFilter::"a\");permit(principal,action,resource);//" );"#,
            r#"@id("acl-line-4") permit ( principal == User::"o'neil", action == Action::"publish", resource in TopicFilter::"м\u{301}" );"#,
        ]
    );
    let name = "/tmp/acl\n@id(\"x\")permit(principal,action,resource);";
    let translation = translate(name, "topic a", Mosquitto, PrincipalKind::User).unwrap();
    assert_eq!(translation.counts.0, 1, "the name of the file stays in its comment");
}

#[test]
fn users_become_principals_of_the_kind_that_is_asked_for() {
    let text = "user bob\ntopic write a\npattern write b";
    let translation = translate("acl", text, Mosquitto, PrincipalKind::Device).unwrap();
    assert!(translation.policies.contains("principal == Device::\"bob\""));
    assert!(translation.policies.contains("principal is Device || principal is Anonymous"));
    assert!(translation.cases.contains("Device::\"bob\"\t-\tpublish\ta\t-\tallow\tacl-line-2\n"));
    assert!(!translation.policies.contains("User"), "{}", translation.policies);
}

#[test]
fn hostile_sizes_are_refused() {
    let text = format!("topic {}", "a".repeat(5000));
    let error = import(Mosquitto, &text).unwrap_err().to_string();
    assert!(error.contains("acl:1:1: a line is longer than 4096 bytes"), "{error}");
    let error = import(Mosquitto, &"#".repeat(BYTES_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("acl is larger than 1048576 bytes; divide it"), "{error}");
    let mut text = String::new();
    for number in 0..10_001 {
        let _ = writeln!(text, "topic {number}");
    }
    let error = import(Mosquitto, &text).unwrap_err().to_string();
    assert!(error.contains("acl:10001:1: more than 10000 lines"), "{error}");
    // More exceptions than one policy can hold: refused as a whole, not cut.
    let mut text = String::from("pattern read #\n");
    for number in 0..3000 {
        let _ = writeln!(text, "pattern deny some/longer/filter/{number}/#");
    }
    let error = import(Mosquitto, &text).unwrap_err().to_string();
    assert!(error.contains("a policy is longer than 65536 bytes"), "{error}");
}

#[test]
fn every_line_has_a_case_on_either_side() {
    let text = "user bob\ntopic read a/+\ntopic deny a/x\npattern write b/%c\n";
    let cases = imported(Mosquitto, text).cases;
    assert_eq!(
        cases.lines().skip(3).collect::<Vec<_>>(),
        [
            "# 2: topic read a/+",
            "User::\"bob\"\t-\tpublish\ta/any\t-\tdeny\t-",
            "User::\"bob\"\t-\treceive\ta/any\t-\tallow\tacl-line-2",
            "User::\"bob\"\t-\treceive\ta-not/any\t-\tdeny\t-",
            "User::\"bob\"\t-\tsubscribe\ta/+\t-\tallow\tacl-line-2",
            "User::\"bob\"\t-\tsubscribe\t+/+\t-\tdeny\t-",
            "",
            "# 3: topic deny a/x",
            "User::\"bob\"\t-\tpublish\ta/x\t-\tdeny\tacl-line-3",
            "User::\"bob\"\t-\treceive\ta/x\t-\tdeny\tacl-line-3",
            "User::\"bob\"\t-\treceive\ta/x-not\t-\tallow\tacl-line-2",
            "",
            "# 4: pattern write b/%c",
            "User::\"somebody\"\t-\tpublish\tb/somebody-1\tclient_id=somebody-1\tallow\tacl-line-4",
            "User::\"somebody\"\t-\tpublish\tb/somebody-1-not\tclient_id=somebody-1\tdeny\t-",
            "User::\"somebody\"\t-\treceive\tb/somebody-1\tclient_id=somebody-1\tdeny\t-",
        ]
    );
}

/// A random file over few levels, so that lines meet.
fn random_file(random: &mut Random, dialect: Dialect) -> String {
    let mut text = String::new();
    let topics = filters(&["a", "+", "%u", "%c", "$SYS"], 2);
    for _ in 0..=random.below(12) {
        let words: &[&str] = match dialect {
            Mosquitto => &["read ", "write ", "readwrite ", "", "deny ", "deny "],
            Vernemq => &["read ", "write ", ""],
        };
        match random.below(5) {
            0 => {
                let _ = writeln!(text, "user {}", random.pick(&["a", "u", "x/y", "$u"]));
            }
            kind => {
                let keyword = if kind < 3 { "topic" } else { "pattern" };
                let (word, topic) = (random.pick(words), random.pick(&topics));
                let _ = writeln!(text, "{keyword} {word}{topic}");
            }
        }
    }
    text
}

/// The policies decide as the model of the broker does: on every topic, not only on the cases.
#[test]
fn policies_decide_as_the_broker_does_on_every_topic() {
    let topics = sequences(&["a", "u", "$SYS"], 2);
    let subscriptions = filters(&["a", "u", "+", "$SYS"], 2);
    let client = |name: Option<&str>, client_id: &str| Client {
        name: name.map(Arc::from),
        client_id: client_id.into(),
    };
    let clients = [
        client(Some("a"), "b"),
        client(Some("u"), "a"),
        client(Some("x/y"), "+"),
        client(Some("$u"), "$SYS"),
        client(None, "u"),
    ];
    let mut random = Random(6);
    let mut decided = [0, 0];
    for round in 0..60 {
        let dialect = if round % 2 == 0 { Mosquitto } else { Vernemq };
        let text = random_file(&mut random, dialect);
        let Ok(translation) = import(dialect, &text) else { continue };
        let rules = acl_file::read(&Source::new("acl", &text), dialect).unwrap().rules;
        let acl = Acl::new(dialect, rules);
        let bundle = Bundle::load_text("p", &translation.policies, None, PolicyEpoch(1)).unwrap();
        let bundle = Arc::new(bundle);
        for _ in 0..200 {
            let client = random.pick(&clients);
            let verb = *random.pick(&[Verb::Publish, Verb::Receive, Verb::Subscribe]);
            let resource =
                random.pick(if verb == Verb::Subscribe { &subscriptions } else { &topics });
            let name = client.name.as_ref();
            let principal = name.map_or("Anonymous::anonymous".into(), |it| format!("User::{it}"));
            let question = Question::parse(&Words {
                principal: &principal,
                action: verb.as_str(),
                resource,
                facts: vec![("client_id", &client.client_id)],
                ..Words::default()
            })
            .unwrap();
            let (answer, expected) = (question.ask(&bundle), acl.decide(client, verb, resource));
            let answered: Vec<String> = answer.policies().iter().map(ToString::to_string).collect();
            assert!(
                answer.is_allowed() == expected.allowed && answered == expected.by,
                "{text}\n{client:?} {verb:?} {resource}: {answer}, expected {expected:?}\n{}",
                translation.policies
            );
            decided[usize::from(expected.allowed)] += 1;
        }
    }
    assert!(decided[0] > 1000 && decided[1] > 1000, "both sides are met: {decided:?}");
}

#[test]
fn the_cookbook_shows_what_the_command_makes_of_the_file_beside_it() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/cookbook/migrated-from-mosquitto/");
    let read = |name: &str| std::fs::read_to_string(format!("{dir}{name}")).unwrap();
    let translation =
        translate("mosquitto.acl", &read("mosquitto.acl"), Mosquitto, PrincipalKind::User).unwrap();
    assert_eq!(translation.policies, read("acl.cedar"));
    assert_eq!(translation.cases, read("cases.tsv"));
    assert_eq!(translation.untranslated.len() + translation.notes.len(), 0);
}
