//! Policy text that is wrong, or made to harm: refused, in place, and never the end of us.

use std::fs;

use super::world::{bundle, device, nested, publish, receive, receive_ok, subject, subscribe};
use crate::policy::scan::{BRACKET_DEPTH_MAX, OPERATORS_MAX, POLICY_BYTES_MAX};
use crate::policy::source::FILE_BYTES_MAX;
use crate::policy::{Bundle, LoadError, PolicyEpoch, fuzz_policy_text};

fn load(text: &str) -> Result<Bundle, LoadError> {
    let groups = nested(&[("staff", &[])]);
    Bundle::load_text("p.cedar", text, Some(&groups), PolicyEpoch(1))
}

fn refusal(text: &str) -> String {
    lines(&load(text).map(drop).unwrap_err())
}

fn lines(error: &LoadError) -> String {
    error.lines().collect::<Vec<_>>().join("\n")
}

fn with_condition(condition: &str) -> String {
    format!("@id(\"x\") permit (principal, action, resource) when {{ {condition} }};")
}

#[test]
fn text_that_would_overflow_the_stack_is_refused_before_it_is_parsed() {
    let nest = |open: &str, close: &str, count| {
        with_condition(&format!("{}true{}", open.repeat(count), close.repeat(count)))
    };
    let deep = format!("brackets are nested deeper than {BRACKET_DEPTH_MAX}");
    let chained = format!("more than {OPERATORS_MAX} operators in a row");
    let chain = |part: &str, count| with_condition(&vec!["true"; count].join(part));
    for (text, problem) in [
        (nest("(", ")", 200), &deep),
        (nest("[", "]", 200), &deep),
        (nest("{a:", "}", 200), &deep),
        (nest("(", ")", 1_000_000), &deep),
        (nest("if true then (", ") else false", 200), &deep),
        (chain(" && ", 300), &chained),
        (chain(" || ", 60_000), &chained),
        (with_condition(&format!("{}true", "!".repeat(10_000))), &chained),
        (with_condition(&format!("{}true", "if true then true else ".repeat(1000))), &chained),
        (with_condition(&format!("context{}", ".a".repeat(10_000))), &chained),
        (with_condition(&format!("context{}", "[\"a\"]".repeat(10_000))), &chained),
        (with_condition(&format!("{} > 1", vec!["1"; 1000].join(" + "))), &chained),
        (with_condition(&format!("{}1 > 1", "-".repeat(1000))), &chained),
        (
            format!("{} ;", with_condition("true").replace(';', " when { true }").repeat(300)),
            &chained,
        ),
        (nest("(true && ", ")", 31).replace("true && ", &"true && ".repeat(20)), &chained),
    ] {
        let found = refusal(&text);
        assert!(found.contains(problem.as_str()), "{found}\nnot {problem}");
    }
}

#[test]
fn within_the_bounds_the_deepest_text_is_parsed() {
    let brackets = BRACKET_DEPTH_MAX - 2;
    let deep = format!(
        "{}context.session.tls_version == 13{}",
        "(".repeat(brackets),
        ")".repeat(brackets)
    );
    assert!(load(&with_condition(&deep)).is_ok(), "{:?}", load(&with_condition(&deep)));
    let chain = vec!["resource in TopicFilter::\"a\""; 120].join(" || ");
    let text = with_condition(&chain).replace("action,", "action == Action::\"publish\",");
    assert!(load(&text).is_ok(), "{:?}", load(&text));
    let ifs = format!("{}true", "if context.qos == 1 then false else ".repeat(60));
    let text = with_condition(&ifs).replace("action,", "action == Action::\"publish\",");
    assert!(load(&text).is_ok(), "{:?}", load(&text));
    // What looks like brackets in strings and comments is none.
    let quoted = format!(
        "// {}\n@id(\"x\") @reason(\"{}\\\"{}\")\npermit (principal, action, resource); // ;",
        "(".repeat(99),
        "[".repeat(99),
        "{;".repeat(99)
    );
    assert_eq!(load(&quoted).unwrap().policies(), 1);
}

#[test]
fn the_deepest_text_that_is_taken_is_judged_on_an_ordinary_stack() {
    let last = "context.qos == 1";
    for condition in [
        format!("{}{last}{}", "!(".repeat(30), ")".repeat(30)),
        format!("{}{last}", "true && ".repeat(240)),
        format!("{}{last}", "false || ".repeat(240)),
        format!("{}{last}", "if context.qos == 0 then false else ".repeat(80)),
        format!("{}{last}{}", "(true && true && true && ".repeat(30), ")".repeat(30)),
    ] {
        let text = with_condition(&condition).replace("action,", "action in Action::\"READ\",");
        for action in ["read", "write"] {
            let text = text.replace("READ", action);
            let judge = move || {
                let mut dev1 = subject(&bundle(&text), device("dev1", &[]));
                let (readable, writable) = (action == "read", action == "write");
                assert_eq!(publish(&mut dev1, "a").is_ok(), writable);
                assert_eq!(receive(&mut dev1, "a").is_ok(), readable);
                assert_eq!(subscribe(&mut dev1, "a/#").is_ok(), readable);
                assert!(!receive_ok(&mut dev1, "a/#"), "not with another qos");
            };
            let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(judge);
            thread.unwrap().join().unwrap();
        }
    }
}

#[test]
fn text_beyond_the_bounds_of_size_is_refused() {
    let comment = "// x\n".repeat(FILE_BYTES_MAX / 5 + 1);
    assert!(refusal(&comment).contains("larger than"));
    let set = format!("[{}].contains(1)", vec!["1"; POLICY_BYTES_MAX / 2].join(","));
    assert!(refusal(&with_condition(&set)).contains("a policy is longer than 65536 bytes"));
    let swallowed = format!(
        "@id(\"x\") permit (principal, action, resource) when {{ \"{}",
        "a;".repeat(40_000)
    );
    assert!(refusal(&swallowed).contains("a policy is longer than 65536 bytes"));
    assert!(refusal("").contains("there is no policy"));
    assert!(refusal("// nothing\n").contains("there is no policy"));
}

#[test]
fn a_mistake_is_shown_with_file_line_column_and_remedy() {
    for (text, shown) in [
        (
            "permit (principal, action, resource);",
            "p.cedar:1:1: the policy has no @id; name it: @id(\"…\"); refusals and the audit log tell it",
        ),
        (
            "\n  @id(\"a\")\n  permit (principal, action resource);",
            "p.cedar:3:29: unexpected token `resource`",
        ),
        (
            "@id(\"a\") permit (principal, action, resource);\n\n@id(\"a\") forbid (principal, action, resource);",
            "p.cedar:3:1: there are two policies with @id(\"a\"); give this one an @id of its own; the other is in p.cedar:1:1",
        ),
        (
            "@id(\"a\")\npermit (principal, action,\n  resource in TopicFilter::\"a/${typo}\");",
            "p.cedar:3:28: TopicFilter \"a/${typo}\": there is no placeholder ${typo}; there are ${cn}",
        ),
        (
            "@id(\"a\")\npermit (principal, action, resource in TopicFilter::\"$share/g/a\");",
            "p.cedar:2:53: TopicFilter \"$share/g/a\": a policy judges the filter inside $share/<group>/",
        ),
        (
            "@id(\"a\")\npermit (principal in Group::\"stuff\", action, resource);",
            "p.cedar:2:29: group \"stuff\" is not declared in principals.toml; did you mean \"staff\"?",
        ),
        (
            "@id(\"a\")\npermit (principal, action, resource) unless { principal in Group::\"welders\" };",
            "p.cedar:2:67: group \"welders\" is not declared in principals.toml; declare it there: [group.\"welders\"]",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"publish\", resource)\nwhen { context.payload_sze < 10 };",
            "p.cedar:2:8: for policy `a`, attribute `payload_sze`",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"publsh\", resource);",
            "p.cedar:1:39: for policy `a`, unrecognized action `Action::\"publsh\"`",
        ),
        (
            "@id(\"a\") permit (principal is User, action == Action::\"publish\", resource)\nwhen { principal is Device };",
            "p.cedar:1:1: for policy `a`, policy is impossible: the policy expression evaluates to false for all valid requests; correct what it asks for, or remove the policy",
        ),
        (
            "@id(\"a\") forbid (principal, action == Action::\"publish\", resource)\nwhen { context.payload_size * context.qos > 1000 };",
            "p.cedar:2:29: `*` in a forbid: on overflow its evaluation fails",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"publish\", resource)\nwhen { (resource in TopicFilter::\"a\") == true };",
            "p.cedar:2:34: a TopicFilter inside a comparison, a call or the condition of an `if`",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"publish\", resource)\nwhen { if resource in TopicFilter::\"a\" then true else context.retain };",
            "p.cedar:2:36: a TopicFilter inside a comparison, a call or the condition of an `if`",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"subscribe\", resource == Subscription::\"a/#\");",
            "p.cedar:1:86: comparing the text of a subscription is never sound",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"subscribe\", resource)\nwhen { resource.name like \"a/*\" };",
            "p.cedar:2:8: for policy `a`, attribute `name` on entity type `Subscription` not found",
        ),
        (
            "@id(\"a\") forbid (principal, action in Action::\"read\", resource)\nwhen { resource.name like \"a/*\" };",
            "p.cedar:2:8: for policy `a`, attribute `name` on entity type `Subscription` not found",
        ),
        (
            "@id(\"a\") permit (principal, action == Action::\"subscribe\", resource)\nwhen { resource like \"a/*\" };",
            "p.cedar:2:8: for policy `a`, unexpected type",
        ),
        (
            "@id(\"a\") forbid (principal, action == Action::\"subscribe\", resource)\nwhen { resource has name && resource.name like \"a/*\" };",
            "p.cedar:2:21: nothing that this policy is about ever has `name`; `portcullis policy schema`",
        ),
        (
            "@id(\"a\") permit (principal == ?principal, action, resource);",
            "p.cedar:1:31: expected a static policy, got a template containing the slot ?principal",
        ),
    ] {
        let found = refusal(text);
        assert!(found.starts_with(shown), "{found}\nnot\n{shown}\nfor\n{text}");
    }
}

#[test]
fn a_slip_is_answered_with_what_was_meant() {
    let publish = |scope: &str, condition: &str| {
        format!(
            "@id(\"a\") permit (principal{scope}, action == Action::\"publish\", resource)\n\
             when {{ {condition} }};"
        )
    };
    for (text, shown) in [
        (
            publish(" is Devise", "context.retain"),
            "p.cedar:1:31: for policy `a`, unrecognized entity type `Devise`; did you mean `Device`?",
        ),
        (
            publish(" in Group::\"stuff\"", "context.retain"),
            "p.cedar:1:38: group \"stuff\" is not declared in principals.toml; did you mean \"staff\"?",
        ),
        (
            publish(" in Group::\"pumps\"", "context.retain"),
            "p.cedar:1:38: group \"pumps\" is not declared in principals.toml; declare it there: [group.\"pumps\"]",
        ),
        (
            publish("", "context.retain").replace("publish", "publsh"),
            "p.cedar:1:39: for policy `a`, unrecognized action `Action::\"publsh\"`; did you mean `Action::\"publish\"`?",
        ),
        (
            publish("", "context.retane"),
            "p.cedar:2:8: for policy `a`, attribute `retane` in context for Action::\"publish\" not found; did you mean `retain`?",
        ),
        (
            publish("", "principal.cerd.cn == \"x\""),
            "p.cedar:2:8: for policy `a`, attribute `cerd` on entity type `Anonymous` not found; did you mean `cert`?",
        ),
        (
            publish("", "contxt.retain"),
            "p.cedar:2:8: invalid member access `contxt.retain`, `contxt` has no fields or methods; did you mean `context`?",
        ),
        (
            publish("", "principal.hasTg(\"x\")"),
            "p.cedar:2:8: `hasTg` is not a valid method; did you mean `hasTag`?",
        ),
        (
            publish("", "context has content_typo"),
            "p.cedar:2:20: nothing has an attribute called `content_typo`; did you mean `content_type`?",
        ),
        (
            publish("", "!(context has x_y_z_ab)"),
            "p.cedar:2:22: nothing has an attribute called `x_y_z_ab`; the schema has every attribute: `portcullis policy schema`",
        ),
    ] {
        assert_eq!(refusal(&text), shown, "{text}");
    }
    let context = publish("", "context has content_type && principal has cert");
    assert!(load(&context).is_ok(), "{:?}", load(&context));
}

#[test]
fn nothing_that_is_drawn_acts_on_the_terminal() {
    let text = "@id(\"a\") // \u{1b}[2J\u{202e}\r\npermit (principal, action, \u{1b}[31mresource);";
    let drawn = load(text).unwrap_err().problems().draw(false);
    assert!(!drawn.contains(['\u{1b}', '\u{202e}', '\r']), "{drawn}");
    assert!(drawn.contains("p.cedar:1:13"), "{drawn}");
    assert!(drawn.contains("?[31mresource"), "{drawn}");
}

#[test]
fn text_that_reads_otherwise_than_it_is_parsed_is_refused() {
    let rule = "@id(\"a\") permit (principal, action, resource);";
    for (text, place, code) in [
        (format!("// old rule: \r{rule}"), "1:14", "U+000D"),
        (format!("{rule}\r"), "1:47", "U+000D"),
        (format!("// note\u{2028}{rule}"), "1:8", "U+2028"),
        (format!("// note\u{b}{rule}"), "1:8", "U+000B"),
        (format!("// \u{202e}x\n{rule}"), "1:4", "U+202E"),
        (format!("{rule}// \0"), "1:50", "U+0000"),
        (rule.replace("\"a\"", "\"a\0\""), "1:7", "U+0000"),
        (rule.replace("\"a\"", "\"a\u{200b}\""), "1:7", "U+200B"),
        (format!("// \u{1b}[8m\n{rule}"), "1:4", "U+001B"),
    ] {
        let found = refusal(&text);
        let shown = format!("p.cedar:{place}: the character {code} may not stand here; ");
        assert!(found.starts_with(&shown), "{found}\nnot\n{shown}");
    }
    let marked = refusal(&format!("\u{feff}{rule}"));
    assert!(marked.starts_with("p.cedar:1:1: the file begins with a byte order mark"), "{marked}");
    assert!(load(&format!("// a\tb é\r\n{rule}\r\n")).is_ok());
}

#[test]
fn what_can_never_apply_is_refused() {
    let forbid =
        |scope: &str, condition: &str| format!("@id(\"a\") forbid ({scope})\n{condition};");
    let publish = "principal, action == Action::\"publish\", resource";
    let on = |resource: &str| forbid(&format!("{publish} {resource}"), "");
    let when = |condition: &str| forbid(publish, &format!("when {{ {condition} }}"));
    for (text, shown) in [
        (
            on(r#"== Topic::"a/+""#),
            "p.cedar:1:77: no topic has this name: it is compared as it is written",
        ),
        (on(r#"== Topic::"a/#/b""#), "p.cedar:1:77: no topic has this name"),
        (
            forbid(r#"principal == Device::"${cn}", action, resource"#, ""),
            "p.cedar:1:39: only a TopicFilter has placeholders",
        ),
        (
            on(r#"in TopicFilter::"a/%c/#""#),
            "p.cedar:1:83: TopicFilter \"a/%c/#\": \"%c\" is a level like any other",
        ),
        (on(r#"in TopicFilter::"dev-%u""#), "p.cedar:1:83: TopicFilter \"dev-%u\": "),
        (
            on(r#"in TopicFilter::"a/*""#),
            "p.cedar:1:83: TopicFilter \"a/*\": \"*\" is a level like any other",
        ),
        (
            when("context.qos > 2"),
            "p.cedar:2:16: this comparison is never true: `qos` is 0, 1 or 2; correct the number",
        ),
        (
            when("context.qos == 1 && context.qos == 2"),
            "p.cedar:2:16: the policy never applies: no `qos` fulfils all of its conditions",
        ),
        (
            when("context.retain || context.session.tls_version == 1"),
            "p.cedar:2:42: this comparison is never true: `tls_version` is 12 or 13",
        ),
        (
            forbid(
                &format!("{publish} in TopicFilter::\"a/#\""),
                "when { context.retain && resource in TopicFilter::\"${cn}/b/#\" } when { resource in TopicFilter::\"b/#\" }",
            ),
            "p.cedar:2:97: the policy never applies: no topic is in both \"a/#\" and \"b/#\"",
        ),
    ] {
        let found = refusal(&text);
        assert!(found.starts_with(shown), "{found}\nnot\n{shown}\nfor\n{text}");
    }
    for fine in [
        on(r#"in TopicFilter::"a/100%/%cpu/*x""#),
        when("context.qos >= 0 && context.session.tls_version == 0"),
        forbid(
            &format!("{publish} in TopicFilter::\"+/a/#\""),
            "when { resource in TopicFilter::\"${cn}/#\" } unless { resource in TopicFilter::\"b\" }",
        ),
    ] {
        assert!(load(&fine).is_ok(), "{:?}", load(&fine));
    }
}

#[test]
fn arithmetic_that_can_overflow_is_refused_in_a_forbid_and_denies_in_a_permit() {
    for (operator, condition, overflows) in [
        ("+", "context.payload_size + 9223372036854775807 > 0", true),
        ("-", "-9223372036854775807 - context.payload_size < 0", true),
        ("*", "context.payload_size * 9223372036854775807 > 0", true),
        ("+", "context.payload_size + 1 > 0", false),
        ("-", "context.payload_size - 1 > 0", false),
        ("*", "context.payload_size * 2 > 0", false),
        ("-", "-context.payload_size < 0", false),
    ] {
        let policy = |effect: &str| {
            format!(
                "@id(\"a\") {effect} (principal, action == Action::\"publish\", resource)
                when {{ {condition} }};"
            )
        };
        let found = refusal(&policy("forbid"));
        assert!(found.contains(&format!("`{operator}` in a forbid")), "{condition}: {found}");
        let text = policy("permit") + "@id(\"all\") permit (principal, action, resource);";
        let judged = publish(&mut subject(&bundle(&text), device("dev1", &[])), "a");
        let denial = judged.err().map(|denial| denial.to_string()).unwrap_or_default();
        assert_eq!(denial.contains("integer overflow"), overflows, "{condition}: {denial}");
        assert_eq!(!denial.is_empty(), overflows, "{condition}: {denial}");
    }
}

#[test]
fn an_exception_that_can_never_hold_is_refused() {
    let permit = |action: &str, condition: &str| {
        format!(
            "@id(\"a\") permit (principal, action {action}, resource)\nunless {{ {condition} }};"
        )
    };
    let named = "resource has name && resource.name like \"secret/*\"";
    for (action, condition, attribute) in [
        ("== Action::\"subscribe\"", named, "name"),
        ("== Action::\"connect\"", named, "name"),
        ("== Action::\"publish\"", "context has share_group", "share_group"),
        ("in Action::\"write\"", "resource has wildcard", "wildcard"),
    ] {
        let found = refusal(&permit(action, condition));
        let shown = format!("nothing that this policy is about ever has `{attribute}`");
        assert!(found.contains(&shown), "{found}");
    }
    // What is received is judged by itself.
    assert!(load(&permit("in Action::\"read\"", named)).is_ok());
}

#[test]
fn a_listener_that_does_not_exist_is_named() {
    let known = ["devices".into(), "ops".into()];
    for condition in [
        "resource == Listener::\"devcies\"",
        "context.session.listener == \"devcies\"",
        "!(\"devcies\" == context.session.listener)",
    ] {
        let text = format!(
            "@id(\"a\") forbid (principal, action == Action::\"connect\", resource)\nwhen {{ {condition} }};"
        );
        let bundle = load(&text).unwrap();
        let found = lines(&bundle.check_listeners(&known).unwrap_err());
        assert!(
            found.contains("no listener of the configuration is called \"devcies\""),
            "{found}"
        );
        assert!(
            found.starts_with("p.cedar:2:") && found.contains("did you mean \"devices\"?"),
            "{found}"
        );
        let bundle = load(&text.replace("devcies", "ops")).unwrap();
        assert!(bundle.check_listeners(&known).is_ok());
    }
}

#[test]
fn no_function_of_times_can_fail_in_a_forbid() {
    let forbid = |condition: &str| {
        format!(
            "@id(\"a\") forbid (principal, action == Action::\"publish\", resource)\nwhen {{ {condition} }};"
        )
    };
    for condition in [
        "context.time.offset(duration(\"9223372036854775807ms\")) > context.time",
        "context.time.offset(context.time.toTime()) > context.time",
    ] {
        let found = refusal(&forbid(condition));
        assert!(found.starts_with("p.cedar:2:21: `offset` in a forbid: on overflow"), "{found}");
    }
    assert!(load(&forbid("context.time.offset(duration(\"30d\")) > context.time")).is_ok());
}

#[test]
fn what_is_behind_a_text_that_cannot_be_parsed_is_guessed() {
    let rule = "permit (principal, action, resource)";
    for (text, hint) in [
        (format!("@id(\"a\") {rule}\n@id(\"b\") {rule};"), "is the `;` of the policy before it missing?"),
        (format!("/* why */ @id(\"a\") {rule};"), "Cedar has only comments that begin with //"),
        (
            "@id(\"a\") permit (principal, action == Action::\"subscribe\", resource) when { resource.name like \"a*\" };".to_owned(),
            "the text of a subscription cannot be compared",
        ),
    ] {
        let found = refusal(&text);
        assert!(found.contains(hint), "{found}\nnot\n{hint}");
    }
}

#[test]
fn an_id_can_be_seen_and_named_in_a_case() {
    for (id, problem) in [
        ("x,y", "no case could name"),
        ("-", "no case could name"),
        ("*", "no case could name"),
        (" ", "no case could name"),
        ("a\\u{1b}", "the @id has the character U+001B; remove it"),
        (&"x".repeat(129), "the @id is longer than 128 bytes; shorten it"),
    ] {
        let found = refusal(&format!("@id(\"{id}\") permit (principal, action, resource);"));
        assert!(found.contains(problem), "{found}");
    }
}

#[test]
fn a_group_that_is_not_declared_is_found_wherever_a_policy_names_it() {
    let undeclared = "group \"stuff\" is not declared in principals.toml";
    for (principal, condition) in [
        ("principal in Group::\"staff\"", "true"),
        ("principal is Device in Group::\"staff\"", "true"),
        ("principal", "principal in Group::\"staff\""),
        ("principal", "!(principal is Device in Group::\"staff\")"),
        ("principal", "principal in [Group::\"staff\"]"),
        ("principal", "context.session.tls_version == 13 || principal in Group::\"staff\""),
        ("principal", "if principal in Group::\"staff\" then true else false"),
    ] {
        for (effect, keyword) in [("permit", "when"), ("forbid", "unless")] {
            let text = format!(
                "@id(\"a\") {effect} ({principal}, action, resource) {keyword} {{ {condition} }};"
            );
            let text = text.replace("unless { true }", "");
            assert!(load(&text).is_ok(), "{text}: {:?}", load(&text));
            let found = refusal(&text.replace("staff", "stuff"));
            assert!(found.contains(undeclared), "{text}: {found}");
        }
    }
}

#[test]
fn several_mistakes_are_shown_at_once_and_drawn_in_their_text() {
    let text = "permit (principal, action, resource);\n@id(\"b\") permit (principal, action, resource in TopicFilter::\"a+\");\n@id(\"c\") oops;";
    let error = load(text).unwrap_err();
    assert_eq!(error.problems().count(), 3, "{error}");
    let drawn = error.problems().draw(false);
    for part in [
        "p.cedar:1:1",
        "p.cedar:2:62",
        "p.cedar:3:14",
        "TopicFilter::\"a+\"",
        "help: write it as in SUBSCRIBE",
    ] {
        assert!(drawn.contains(part), "{part}\n{drawn}");
    }
    let many = "permit (principal, action, resource);\n".repeat(200);
    assert_eq!(load(&many).unwrap_err().problems().told().len(), 50);
}

#[test]
fn a_directory_is_loaded_whole_in_any_order_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Bundle::load_dir(dir.path(), PolicyEpoch(1));
    let permit = |id: &str| format!("@id(\"{id}\") permit (principal, action, resource);\n");
    assert!(lines(&load().unwrap_err()).contains("no *.cedar file"));
    fs::write(dir.path().join("b.cedar"), permit("one")).unwrap();
    fs::write(dir.path().join("a.cedar"), format!("// why\n{}", permit("two"))).unwrap();
    fs::write(dir.path().join("notes.txt"), "oops").unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    let first = load().unwrap();
    assert_eq!(first.policies(), 2);
    assert_eq!(first.hash().len(), 64);
    fs::write(dir.path().join("b.cedar"), permit("two") + &permit("one")).unwrap();
    fs::remove_file(dir.path().join("a.cedar")).unwrap();
    assert_eq!(load().unwrap().hash(), first.hash(), "the same policies in another file");
    fs::write(dir.path().join("c.cedar"), permit("three")).unwrap();
    assert_ne!(load().unwrap().hash(), first.hash());
    for (content, problem) in [
        (&b""[..], "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "is no UTF-8"),
        (b"@id(\"cut\") permit (principal, act", "c.cedar:1:"),
        (b"@id(\"one\") forbid (principal, action, resource);", "two policies with @id(\"one\")"),
    ] {
        fs::write(dir.path().join("c.cedar"), content).unwrap();
        let error = lines(&load().unwrap_err());
        assert!(error.contains(problem), "{error}\nnot {problem}");
    }
    fs::write(dir.path().join("c.cedar"), " ".repeat(FILE_BYTES_MAX + 1)).unwrap();
    assert!(lines(&load().unwrap_err()).contains("larger than"));
    fs::remove_file(dir.path().join("c.cedar")).unwrap();
    fs::create_dir(dir.path().join("c.cedar")).unwrap();
    assert!(lines(&load().unwrap_err()).contains("cannot be read"));
    assert!(Bundle::load_dir(&dir.path().join("absent"), PolicyEpoch(1)).is_err());
}

#[test]
fn only_regular_files_inside_the_folder_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, outside) = (dir.path().join("policies"), dir.path().join("outside"));
    fs::create_dir(&folder).unwrap();
    fs::write(&outside, "secret").unwrap();
    let load = || Bundle::load_dir(&folder, PolicyEpoch(1));
    fs::write(folder.join("a.cedar"), "@id(\"a\") permit (principal, action, resource);").unwrap();
    for name in ["b.cedar", "b.tsv", "principals.toml", "policies.sha256"] {
        let path = folder.join(name);
        // Nobody writes there: whoever waits for it waits for ever.
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = lines(&load().unwrap_err());
        assert!(
            error.contains(&format!("{name} cannot be read: it is not a regular file")),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        if name == "policies.sha256" {
            continue;
        }
        std::os::unix::fs::symlink("../outside", &path).unwrap();
        let error = lines(&load().unwrap_err());
        assert!(
            error.contains(&format!("{name} is a link that leads out of the folder")),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir(folder.join("..data")).unwrap();
    fs::rename(folder.join("a.cedar"), folder.join("..data/a.cedar")).unwrap();
    std::os::unix::fs::symlink("..data/a.cedar", folder.join("a.cedar")).unwrap();
    assert_eq!(load().unwrap().policies(), 1, "a link that stays inside");
}

#[test]
fn policy_text_that_would_not_be_read_is_refused_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Bundle::load_dir(dir.path(), PolicyEpoch(1));
    let policy = "@id(\"a\") permit (principal in Group::\"g\", action, resource);";
    fs::write(dir.path().join("a.cedar"), policy).unwrap();
    fs::write(dir.path().join("principals.toml"), "[group.g]").unwrap();
    for (name, problem) in [
        ("G.Cedar", "G.Cedar is not read; policies are in *.cedar"),
        (".f.cedar", ".f.cedar is not read; "),
        ("Cases.TSV", "Cases.TSV is not read; "),
        ("Principals.toml", "Principals.toml is not read; "),
        ("sub/forbids/f.cedar", "sub are not read; move them into "),
        ("sub/F.CEDAR", "sub are not read; move them into "),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        let error = lines(&load().unwrap_err());
        assert!(error.contains(problem), "{name}: {error}");
        fs::remove_file(&path).unwrap();
    }
    for name in ["notes.txt", ".a.cedar.swp", ".git/x.cedar", "sub/notes.md"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
    }
    assert_eq!(load().unwrap().warnings().count(), 0);
    fs::write(dir.path().join("f.cedar.txt"), "x").unwrap();
    let warned: Vec<String> = load().unwrap().warnings().lines().collect();
    assert_eq!(warned.len(), 1);
    assert!(warned[0].contains("f.cedar.txt is not read: its name does not end in .cedar"));
}

#[test]
fn a_manifest_that_does_not_fit_is_an_error_for_every_load() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "@id(\"a\") permit (principal, action, resource);";
    let hash = crate::pki::sha256_hex(policy.as_bytes());
    fs::write(dir.path().join("a.cedar"), policy).unwrap();
    let load = |manifest: String| {
        fs::write(dir.path().join("policies.sha256"), manifest).unwrap();
        Bundle::load_dir_untested(dir.path(), PolicyEpoch(1))
    };
    assert!(load(format!("{hash}  a.cedar\n")).is_ok());
    let error = lines(&load(format!("{hash}  a.cedar\n{hash}  commands.cedar\n")).unwrap_err());
    assert!(
        error.contains("policies.sha256: it names commands.cedar, which is not there"),
        "{error}"
    );
    assert!(error.contains("is the folder copied only in part?"), "{error}");
}

#[test]
fn a_file_of_principals_that_is_too_large_is_not_to_be_divided() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "@id(\"a\") permit (principal, action, resource);";
    fs::write(dir.path().join("a.cedar"), policy).unwrap();
    fs::write(dir.path().join("principals.toml"), "#".repeat(FILE_BYTES_MAX + 1)).unwrap();
    let error = lines(&Bundle::load_dir(dir.path(), PolicyEpoch(1)).unwrap_err());
    assert!(error.contains("principals.toml is larger than"), "{error}");
    assert!(error.contains("granted_by, not members") && !error.contains("divide"), "{error}");
}

#[test]
fn without_principals_no_group_exists() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Bundle::load_dir(dir.path(), PolicyEpoch(1));
    let principals = |content: &str| {
        fs::write(dir.path().join("principals.toml"), content).unwrap();
        load()
    };
    let policy = "@id(\"a\") permit (principal in Group::\"staff\", action, resource);";
    fs::write(dir.path().join("a.cedar"), policy).unwrap();
    let absent = lines(&load().unwrap_err());
    assert!(absent.contains("a.cedar:1:38: group \"staff\" is not declared"), "{absent}");
    assert!(absent.contains("declare it there: [group.\"staff\"]"), "{absent}");
    let first = principals("[group.staff]").unwrap();
    assert_ne!(
        principals("[group.staff]\nmembers = [\"User::ann\"]").unwrap().hash(),
        first.hash()
    );
    assert_eq!(principals("# none yet\n[group.staff]\nmembers = []").unwrap().hash(), first.hash());
    for (content, problem) in [
        ("[group.stuff]", "did you mean \"stuff\"?"),
        ("[group.staff", "principals.toml:1:13: "),
        ("[group.staff]\nmember = []", "principals.toml:2:1: unknown key \"member\""),
        ("", "is empty"),
    ] {
        let error = lines(&principals(content).unwrap_err());
        assert!(error.contains(problem), "{error}\nnot {problem}");
    }
    fs::remove_file(dir.path().join("principals.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("principals.toml")).unwrap();
    assert!(lines(&load().unwrap_err()).contains("principals.toml cannot be read"));
}

#[test]
fn no_bytes_are_too_odd_to_be_refused() {
    let seeds: [&[u8]; 12] = [
        b"",
        b"\"",
        b"\"\\",
        b"//",
        b"/",
        b";;;;",
        b")))",
        b"(((",
        b"\xc3\x28",
        b"@id(\"\xc3\xa9\")\xe2\x80\xa8;",
        b"permit(principal,action,resource)when{\"\\\xc3\xa9\"==\"\"};",
        b"\xef\xbb\xbfpermit",
    ];
    for seed in seeds {
        fuzz_policy_text(seed);
    }
    let valid = include_bytes!("../../../policies/starter/commands.cedar");
    for cut in (0..valid.len()).step_by(7) {
        fuzz_policy_text(&valid[..cut]);
        let mut changed = valid.to_vec();
        changed[cut] = b"(){}[];\"\\/+#.!,"[cut % 15];
        fuzz_policy_text(&changed);
    }
}
