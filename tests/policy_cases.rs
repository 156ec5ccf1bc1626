//! Case tables on the command line: `policy test`, `policy check` and `policy diff`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panic"
)]

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use harness::wire::{Publish, Version};
use harness::{Setup, portcullis};

const OWN: &str = r#"@id("own") permit (principal is Device,
    action in [Action::"write", Action::"read"], resource in TopicFilter::"devices/${cn}/#");
"#;
const LOCKED: &str = r#"@id("locked") forbid (principal, action == Action::"publish",
    resource in TopicFilter::"+/+/command/#");
"#;
const CASES: &str = "\
Device::dev1|-|publish|devices/dev1/t|-|allow|own
Device::dev1|-|publish|devices/dev2/t|-|deny|-
Device::dev1|-|publish|devices/dev1/command/x|-|allow|own
";

/// A folder with these files; `|` in tables stands for a tab.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let is_table = path.extension().is_some_and(|extension| extension == "tsv");
        let text = if is_table { text.replace('|', "\t") } else { (*text).to_owned() };
        fs::write(path, text).unwrap();
    }
    folder
}

/// The exit code, standard output and standard error.
fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn policy(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    told(portcullis(&[&["policy"], arguments].concat(), folder))
}

/// Folders of the cookbook.
const COOKBOOK: usize = 12;

#[test]
fn the_policies_of_this_repository_pass_their_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for arguments in [&["test", "policies/"][..], &["test"]] {
        let (code, out, err) = policy(arguments, root);
        assert_eq!(code, 0, "{out}{err}");
        let folders = out.lines().filter(|line| line.ends_with(" passed, 0 failed")).count();
        assert_eq!(folders, 3 + COOKBOOK, "{out}");
        assert!(!err.contains("there is no case table"), "{err}");
        assert!(!err.contains("no case is decided by"), "{err}");
    }
}

#[test]
fn cases_that_fail_are_told_one_a_line_and_the_exit_code_is_one() {
    let folder = folder(&[("p/a.cedar", OWN), ("p/cases.tsv", CASES)]);
    assert_eq!(
        policy(&["test", "p"], folder.path()),
        (0, "p: 3 passed, 0 failed\n".to_owned(), String::new())
    );
    let (code, out, err) = policy(&["test", "--verbose", "p"], folder.path());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with(
            "passed  p/cases.tsv:1: Device::dev1 publish devices/dev1/t: allowed by own\n\
             passed  p/cases.tsv:2: Device::dev1 publish devices/dev2/t: denied: no policy \
             permits it\n"
        ),
        "{out}"
    );

    fs::write(folder.path().join("p/b.cedar"), LOCKED).unwrap();
    fs::write(folder.path().join("p/more.tsv"), "oops\n").unwrap();
    let (code, out, err) = policy(&["test", "p"], folder.path());
    assert_eq!(code, 1);
    assert_eq!(
        out,
        "failed  p/more.tsv:1:1: a case has 7 columns, this line has 1; write principal, groups, \
         action, resource, facts, decision, by, with one tab between them and - for none\n\
         failed  p/cases.tsv:3:49: Device::dev1 publish devices/dev1/command/x: expected allowed \
         by own, but denied: forbidden by locked; correct the policies, or the case if the change \
         is meant\n\
         p: 2 passed, 2 failed\n"
    );
    assert_eq!(err, "error: 2 of 4 cases failed\n");
    let (code, _, err) = policy(&["check", "p"], folder.path());
    assert_eq!(code, 1, "what `test` refuses, `check` refuses");
    assert!(err.contains("p/cases.tsv:3:49") && err.contains("expected allowed by own"), "{err}");

    let (code, out, _) = policy(&["test", "--json", "p"], folder.path());
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &out["passed"], &out["failed"]), (1, &json!(2), &json!(2)));
    let told = &out["folders"][0];
    assert_eq!(told["folder"], "p");
    assert_eq!(told["cases"][2]["answer"], "denied: forbidden by locked");
    assert_eq!(told["cases"][2]["expected"], "allowed by own");
    assert_eq!(told["cases"][0]["problem"], Value::Null);
    assert_eq!(told["problems"].as_array().unwrap().len(), 1);
}

#[test]
fn every_policy_folder_below_is_tested_and_none_is_passed_over_in_silence() {
    let folder = folder(&[
        ("all/a/p.cedar", OWN),
        ("all/a/cases.tsv", CASES),
        ("all/deep/b/p.cedar", LOCKED),
        ("all/.git/p.cedar", "oops"),
        ("all/notes/readme.txt", "nothing"),
        ("bad/p.cedar", "oops"),
        ("empty/readme.txt", "nothing"),
    ]);
    let (code, out, err) = policy(&["test", "all", "all/", "all/a"], folder.path());
    assert_eq!((code, out.as_str()), (0, "all/a: 3 passed, 0 failed\n"));
    assert_eq!(err, "all/deep/b: there is no case table (*.tsv)\n");

    let (code, _, err) = policy(&["test", "all/deep"], folder.path());
    assert_eq!(code, 1, "nothing was run");
    assert!(err.ends_with("error: nothing was tested: there is no case\n"), "{err}");

    let (code, out, err) = policy(&["test", "all", "bad"], folder.path());
    assert_eq!((code, out.as_str()), (1, "all/a: 3 passed, 0 failed\n"));
    assert!(err.contains("bad/p.cedar:1:"), "{err}");
    assert!(err.ends_with("error: 1 folder does not load; 0 cases failed\n"), "{err}");

    for missing in ["empty", "absent"] {
        let (code, out, err) = policy(&["test", missing], folder.path());
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(missing), "{err}");
    }
    assert_eq!(policy(&["test", "--oops"], folder.path()).0, 2);
}

#[test]
fn rules_that_decide_no_case_are_named() {
    let folder = folder(&[
        ("p.cedar", OWN),
        ("q.cedar", LOCKED),
        ("cases.tsv", "Device::dev1|-|publish|devices/dev1/t|-|allow|own\n"),
    ]);
    let (code, _, err) = policy(&["test", "."], folder.path());
    assert_eq!((code, err.as_str()), (0, ".: no case is decided by locked\n"));
}

#[test]
fn a_diff_shows_each_decision_of_a_case_that_changes() {
    let folder = folder(&[
        ("old/p.cedar", OWN),
        ("old/cases.tsv", CASES),
        ("new/a.cedar", LOCKED),
        ("new/z.cedar", &OWN.replace("devices/", "+/")),
        ("new/cases.tsv", "Device::dev1|-|publish|plants/dev1/t|-|allow|own\n"),
    ]);
    let (code, out, err) = policy(&["diff", "old", "new"], folder.path());
    assert_eq!(code, 0);
    assert_eq!(
        out,
        "added: locked\n\
         changed: own\n\
         newly allowed: Device::dev1 publish plants/dev1/t\n    \
             old: denied: no policy permits it\n    \
             new: allowed by own\n    \
             new/cases.tsv:1\n\
         newly denied: Device::dev1 publish devices/dev1/command/x\n    \
             old: allowed by own\n    \
             new: denied: forbidden by locked\n    \
             old/cases.tsv:3\n"
    );
    assert_eq!(
        err,
        "of 4 cases and 0 recorded questions: 1 newly allowed, 1 newly denied, 0 decided by \
         others\n"
    );
    let (code, _, err) = policy(&["diff", "--exit-code", "old", "new"], folder.path());
    assert_eq!(code, 1);
    assert!(err.ends_with("error: 2 decisions change\n"), "{err}");
    let (code, out, _) = policy(&["diff", "--exit-code", "old", "old"], folder.path());
    assert_eq!((code, out.as_str()), (0, ""));

    let (code, out, _) = policy(&["diff", "--json", "old", "new"], folder.path());
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(out["rules"], json!({ "added": ["locked"], "removed": [], "changed": ["own"] }));
    assert_eq!(
        out["changes"][1],
        json!({
            "change": "newly denied",
            "question": "Device::dev1 publish devices/dev1/command/x",
            "origin": "old/cases.tsv:3",
            "old": { "decision": "allow", "policies": ["own"], "errors": [] },
            "new": { "decision": "deny", "policies": ["locked"], "errors": [] },
        })
    );
    assert_eq!(policy(&["diff", "old", "absent"], folder.path()).0, 1);
    assert_eq!(policy(&["diff", "old"], folder.path()).0, 2);
}

#[test]
fn a_decision_that_others_make_is_shown_only_when_asked_for() {
    let folder = folder(&[
        ("old/p.cedar", OWN),
        ("new/p.cedar", &OWN.replace("own", "subtree")),
        ("new/cases.tsv", "Device::dev1|-|publish|devices/dev1/t|-|allow|subtree\n"),
    ]);
    let (code, out, err) = policy(&["diff", "--exit-code", "old", "new"], folder.path());
    assert_eq!((code, out.as_str()), (0, "added: subtree\nremoved: own\n"));
    assert!(err.contains("1 decided by others"), "{err}");
    let (_, out, _) = policy(&["diff", "--verbose", "old", "new"], folder.path());
    assert!(out.contains("decided by others: Device::dev1 publish devices/dev1/t"), "{out}");
}

/// The log is one that a broker has written.
#[test]
fn a_diff_asks_again_what_an_audit_log_has_recorded() {
    let narrow = r#"@id("connect") permit (principal, action == Action::"connect", resource);"#;
    let broker = Setup::new().plaintext().policies(narrow).start();
    let mut client = broker.simple(Version::Mqtt5, "pump-7");
    for _ in 0..2 {
        client.send(&Publish::new("plant/valve", "x").qos(1, 1));
        client.expect_ack_any(0x40, 1);
    }
    broker.audited("both refusals", |record| {
        record["event"] == "denied" && record["seq"].as_u64().is_some_and(|seq| seq >= 4)
    });
    let wide = format!(
        "{narrow} @id(\"valves\") permit (principal, action == Action::\"publish\", \
         resource in TopicFilter::\"plant/valve\") when {{ context.session.listener == \"mqtt\" \
         && context.session.client_id == \"pump-7\" }};"
    );
    let none = narrow.replace("permit", "forbid");
    broker.write("wide/p.cedar", &wide);
    broker.write("none/p.cedar", &none);
    let audit = "audit/audit.jsonl";
    let diff = |new| policy(&["diff", "policies", new, "--audit", audit], broker.path());
    let (code, out, err) = diff("wide");
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("newly allowed: Anonymous::anonymous publish plant/valve with listener=mqtt "),
        "{out}"
    );
    assert!(out.contains("\n    recorded 2 times, last at 20"), "{out}");
    assert!(out.contains("\n    new: allowed by valves\n"), "{out}");
    assert!(
        err.ends_with(
            "of 0 cases and 2 recorded questions: 1 newly allowed, 0 newly denied, 0 decided by \
             others\n"
        ),
        "{err}"
    );
    let (_, out, _) = diff("none");
    assert!(out.contains("newly denied: Anonymous::anonymous connect mqtt with "), "{out}");

    broker.write("other.jsonl", "no JSON\n");
    let arguments = ["diff", "policies", "wide", "--audit", audit, "--audit", "other.jsonl"];
    let (code, again, err) = policy(&arguments, broker.path());
    assert_eq!(code, 0);
    assert!(again.contains("recorded 2 times"), "{again}");
    assert!(err.starts_with("audit: 1 lines are no records"), "{err}");
    let (code, _, err) = policy(&["diff", "policies", "wide", "--audit", "no"], broker.path());
    assert_eq!(code, 1);
    assert!(err.contains("audit log no: "), "{err}");
    let (_, _, err) = policy(&["diff", "wide", "policies", "--audit", audit], broker.path());
    assert!(err.contains("decide 1 of the recorded questions otherwise than the log"), "{err}");
}
