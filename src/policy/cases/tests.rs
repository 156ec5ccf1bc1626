//! What case tables hold, and how they say that they do not.

use std::fs;

use super::*;
use crate::policy::PolicyEpoch;
use crate::policy::source::{FILE_BYTES_MAX, PolicyFolder};
use crate::policy::tests::world::{bundle, nested};

const POLICIES: &str = r#"
    @id("own") permit (principal is Device, action in [Action::"write", Action::"read"],
        resource in TopicFilter::"devices/${cn}/#");
    @id("also") permit (principal in Group::"sensors", action == Action::"publish",
        resource in TopicFilter::"devices/+/t") when { context.qos <= 1 };
    @id("locked") forbid (principal, action in Action::"write",
        resource in TopicFilter::"+/+/command/#");
    @id("issued") forbid (principal is User, action, resource) unless {
        principal has cert && principal.cert.issuer != "evil" };
    @id("users") permit (principal is User, action == Action::"connect", resource);
"#;

/// A table in which `|` stands for a tab.
fn tables(text: &str) -> CaseTables {
    CaseTables(vec![Source::new("cases.tsv", &text.replace('|', "\t"))])
}

fn check(text: &str, bundle: &Arc<Bundle>) -> Vec<String> {
    match tables(text).check(bundle) {
        Ok(()) => Vec::new(),
        Err(error) => error.lines().collect(),
    }
}

#[test]
fn cases_that_hold_pass() {
    let text = "\
# a comment|with tabs

Device::dev1|-|publish|devices/dev1/x|-|allow|own
Device::\"dev1\"|-|publish|devices/dev1/x|-|allow|*\r
 \t
Device::dev1|sensors,others|publish|devices/dev1/t|qos=1 retain=true|allow|also,own
Device::dev1|sensors|publish|devices/dev1/t|qos=1|allow|own,also,own
Device::dev1|-|publish|devices/dev2/x|-|deny|-
Device::dev1|-|publish|devices/dev2/x|-|deny|*
Device::dev1|-|publish|devices/dev1/command/x|-|deny|locked
Device::dev1|-|publish|devices/dev1/command/x|-|deny|*
Device::dev1|-|subscribe|$share/g/devices/dev1/#|-|allow|own
Device::dev1|-|receive|devices/dev1/a b c|-|allow|own
User::u|-|connect|devices|-|allow|users
User::u|-|connect|devices|issuer=evil|deny|issued";
    assert_eq!(check(text, &bundle(POLICIES)), Vec::<String>::new());
    assert_eq!(tables(text).cases().count(), 12);
    assert!(tables("# nothing\n").check(&bundle(POLICIES)).is_ok());
}

#[test]
fn a_line_that_is_no_case_is_shown_with_a_remedy() {
    let bundle = bundle(POLICIES);
    for (line, expected) in [
        (
            "Device::d publish a",
            "cases.tsv:2:1: a case has 7 columns, this line has 1; write principal, groups, \
             action, resource, facts, decision, by, with one tab between them and - for none",
        ),
        (
            "Device::d|-|publish|a|-|deny|-|",
            "cases.tsv:2:1: a case has 7 columns, this line has 8; write principal, groups, \
             action, resource, facts, decision, by, with one tab between them and - for none",
        ),
        (
            "Devise::d|-|publish|a|-|deny|-",
            "cases.tsv:2:1: \"Devise\" is no type of principal; did you mean Device?",
        ),
        (
            "Device::é|-|pubish|a|-|deny|-",
            "cases.tsv:2:13: \"pubish\" is no action; did you mean publish?",
        ),
        (
            "Device::d|g|publish|a/+|-|deny|-",
            "cases.tsv:2:21: \"a/+\" is no topic name: a topic name holds a wildcard; correct it",
        ),
        (
            "Device::d|-|publish|a|qos=1 qoos=2|deny|-",
            "cases.tsv:2:23: \"qoos\" is no fact; did you mean qos?",
        ),
        (
            "Device::d|-|publish|a|qos|deny|-",
            "cases.tsv:2:23: \"qos\" is no fact; write name=value, with a space between facts, or \
             - for none",
        ),
        (
            "Device::d|-|publish|a|-|refuse|-",
            "cases.tsv:2:25: \"refuse\" is no decision; write allow or deny",
        ),
        (
            "Device::d|-|publish|a|-|allow|-",
            "cases.tsv:2:31: nothing is allowed without a policy that permits it; name the \
             policies, or write * for any",
        ),
        (
            "Device::d|-|publish|a|-|deny|",
            "cases.tsv:2:30: \"\" names no policies; write their ids with commas between them, - \
             where nothing forbids it, * for any",
        ),
        (
            "Device::d|-|publish|a|-|deny|a,,b",
            "cases.tsv:2:30: \"a,,b\" names no policies; write their ids with commas between \
             them, - where nothing forbids it, * for any",
        ),
    ] {
        assert_eq!(check(&format!("# first\n{line}\n"), &bundle), [expected], "{line}");
    }
}

#[test]
fn a_case_that_fails_tells_what_was_expected_and_what_came() {
    let bundle = bundle(POLICIES);
    let remedy = "correct the policies, or the case if the change is meant";
    for (line, expected) in [
        (
            "Device::d|-|publish|devices/e/x|-|allow|own",
            "cases.tsv:1:35: Device::d publish devices/e/x: expected allowed by own, but denied: \
             no policy permits it; ",
        ),
        (
            "Device::d|-|publish|devices/d/x|qos=1 retain=true|deny|-",
            "cases.tsv:1:51: Device::d publish devices/d/x with qos=1 retain=true: expected \
             denied: no policy permits it, but allowed by own; ",
        ),
        (
            "Device::d|sensors,b|publish|devices/d/t|-|allow|own",
            "cases.tsv:1:49: Device::d publish devices/d/t in sensors,b: expected allowed by own, \
             but allowed by also, own; ",
        ),
        (
            "Device::d|-|publish|devices/d/command|-|deny|-",
            "cases.tsv:1:46: Device::d publish devices/d/command: expected denied: no policy \
             permits it, but denied: forbidden by locked; ",
        ),
        (
            "Device::d|-|publish|a|-|deny|locked",
            "cases.tsv:1:30: Device::d publish a: expected denied: forbidden by locked, but \
             denied: no policy permits it; ",
        ),
        (
            "Device::d|-|publish|a|-|allow|*",
            "cases.tsv:1:25: Device::d publish a: expected allowed, but denied: no policy permits \
             it; ",
        ),
        (
            "User::u|-|connect|a|-|deny|*",
            "cases.tsv:1:23: User::u connect a: expected denied, but allowed by users; ",
        ),
    ] {
        assert_eq!(check(line, &bundle), [format!("{expected}{remedy}")], "{line}");
    }
    assert_eq!(
        check("Device::d|-|publish|devices/d/x|-|allow|onw", &bundle),
        ["cases.tsv:1:41: Device::d publish devices/d/x: expected allowed by onw, but allowed \
             by own; there is no policy \"onw\""]
    );
}

#[test]
fn an_evaluation_that_fails_is_never_what_a_case_names() {
    let bundle = bundle(
        r#"@id("all") permit (principal, action, resource);
        @id("issuer") forbid (principal is Device, action, resource) when {
            principal.cert.issuer == "evil" };"#,
    );
    let case = |by: &str| format!("Device::d|-|publish|a|certificate=false|deny|{by}");
    for by in ["-", "issuer"] {
        let failures = check(&case(by), &bundle).join("\n");
        assert!(failures.contains("but denied: refused for error while evaluating"), "{failures}");
    }
    assert_eq!(check(&case("*"), &bundle), Vec::<String>::new());
}

#[test]
fn a_group_has_to_be_declared_where_any_is() {
    let text = "Device::d|sensors,sensers|publish|devices/d/t|-|allow|*";
    assert_eq!(check(text, &bundle(POLICIES)), Vec::<String>::new());
    let declared = nested(&[("sensors", &["staff"]), ("staff", &[])]);
    let load = |text| Bundle::load_text("p", text, Some(&declared), PolicyEpoch(1)).unwrap();
    let bundle = Arc::new(load(POLICIES));
    assert_eq!(
        check(text, &bundle),
        ["cases.tsv:1:11: group \"sensers\" is not declared; did you mean sensors?"]
    );
    assert_eq!(
        check(&text.replace("sensers", "x"), &bundle),
        ["cases.tsv:1:11: group \"x\" is not declared; declare it among the groups of the \
             principals, or correct it"]
    );
    assert_eq!(check(&text.replace(",sensers", ""), &bundle), Vec::<String>::new());
}

#[test]
fn two_answers_to_one_question_are_a_failure() {
    let case = tables("Device::d|-|publish|a|-|deny|-").cases().next().unwrap().unwrap();
    let denied = Denial::default();
    let by = |id: &str| Denial { policies: vec![id.into()], errors: Vec::new() };
    for (answer, judged) in [
        (Answer::Allowed(Vec::new()), Err(denied.clone())),
        (Answer::Denied(denied.clone()), Ok(())),
        (Answer::Denied(denied.clone()), Err(by("x"))),
    ] {
        let problem = case.disagreement(&answer, &judged).unwrap().line();
        assert!(problem.starts_with("cases.tsv:1:1: Device::d publish a: past the caches"));
        assert!(problem.ends_with("this is a fault of the broker: please report it"), "{problem}");
    }
    assert!(case.disagreement(&Answer::Allowed(vec!["x".into()]), &Ok(())).is_none());
    assert!(case.disagreement(&Answer::Denied(by("x")), &Err(by("x"))).is_none());
}

#[test]
fn a_folder_is_loaded_if_and_only_if_its_cases_pass() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text.replace('|', "\t")).unwrap();
    };
    let load = || Bundle::load_dir(dir.path(), PolicyEpoch(1));
    let lines = || load().unwrap_err().lines().collect::<Vec<_>>().join("\n");
    write("p.cedar", POLICIES);
    write("principals.toml", "[group.sensors]\n");
    let hash = load().unwrap().hash().to_owned();
    write("b.tsv", "Device::d|-|publish|devices/d/x|-|allow|own\n");
    write("notes.txt", "oops");
    assert_eq!(load().unwrap().hash(), hash, "cases are no part of what decides");
    write("a.tsv", "Device::d|-|publish|a|-|allow|*\noops\n");
    write("c.tsv", "Device::d|-|publish|b|-|allow|*\n");
    let problems = lines();
    let places = ["a.tsv:1:25: Device::d", "a.tsv:2:1: a case has", "c.tsv:1:25: Device::d"];
    assert_eq!(problems.lines().count(), places.len(), "{problems}");
    for (problem, place) in problems.lines().zip(places) {
        assert!(problem.contains(place), "{problem}\nnot {place}");
    }
    assert_eq!(Bundle::load_dir_untested(dir.path(), PolicyEpoch(1)).unwrap().hash(), hash);
    // A half-copied table is no shorter table.
    fs::remove_file(dir.path().join("c.tsv")).unwrap();
    for (text, problem) in [
        ("", "a.tsv is empty"),
        (
            "Device::d|-|publish|devices/d/\u{202e}x|-|allow|own",
            "a.tsv:1:31: the character U+202E may not stand here",
        ),
        ("\u{feff}Device::d|-|publish|a|-|deny|*", "begins with a byte order mark"),
        ("Device::d|-|publish|devices/d/x|-|all", "a.tsv:1:1: a case has 7 columns"),
    ] {
        write("a.tsv", text);
        assert!(lines().contains(problem), "{}", lines());
    }
    fs::write(dir.path().join("a.tsv"), b"\xff").unwrap();
    assert!(lines().contains("is no UTF-8"));
    write("a.tsv", &"#\n".repeat(LINES_MAX));
    assert!(lines().contains("more than 100000 lines together"));
    write("a.tsv", &" ".repeat(FILE_BYTES_MAX + 1));
    assert!(lines().contains("larger than"));
}

#[test]
fn a_report_is_bounded_and_says_that_there_is_more() {
    let many = "Device::d|-|publish|a|-|allow|*\n".repeat(PROBLEMS_MAX * 3);
    let lines = check(&many, &bundle(POLICIES));
    assert_eq!(lines.len(), PROBLEMS_MAX + 1);
    assert_eq!(lines.last().unwrap(), "and 1 more");
}

#[test]
fn no_table_is_too_odd_to_be_read() {
    let bundle = bundle(POLICIES);
    let table = include_str!("../../../policies/starter/cases.tsv").as_bytes();
    for cut in (0..table.len()).step_by(37) {
        let mut changed = table.to_vec();
        changed[cut] = b"\t\n\r #:=,*-\"\0"[cut % 12];
        for text in [&table[..cut], &changed] {
            let text = String::from_utf8_lossy(text);
            let tables = CaseTables(vec![Source::new("cases.tsv", &text)]);
            for case in tables.cases() {
                let problem = match case {
                    Ok(case) => case.run(&mut Examiner::new(&bundle)).failure,
                    Err(problem) => Some(problem),
                };
                assert!(problem.is_none_or(|problem| problem.location().is_some()));
            }
        }
    }
}

/// The policies of a folder that comes with the broker, one text each.
fn shipped(name: &str) -> (CaseTables, Vec<String>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name);
    let folder = PolicyFolder::read(&dir).unwrap();
    let policies = folder.policies.iter().flat_map(|source| {
        let ranges = crate::policy::scan::scan(source).unwrap();
        ranges
            .into_iter()
            .map(|range| source.text.get(range).unwrap().to_owned())
            .collect::<Vec<_>>()
    });
    let policies = policies.collect();
    (CaseTables::new(&dir, folder.tables).unwrap(), policies)
}

#[test]
fn without_any_one_rule_of_the_starter_policies_a_case_fails() {
    let (tables, policies) = shipped("starter");
    assert!(tables.check(&bundle(&policies.concat())).is_ok());
    for missing in 0..policies.len() {
        let mut fewer = policies.clone();
        let removed = fewer.remove(missing);
        assert!(tables.check(&bundle(&fewer.concat())).is_err(), "no case needs {removed}");
    }
}

#[test]
fn with_any_one_rule_of_the_starter_policies_widened_a_case_fails() {
    let (tables, policies) = shipped("starter");
    let whole = policies.concat();
    for (narrow, wide) in [
        ("tls_version >= 13", "tls_version >= 12"),
        (
            "principal is Device,\n  action == Action::\"connect\"",
            "principal,\n  action == Action::\"connect\"",
        ),
        ("devices/${cn}/#", "devices/#"),
        ("devices/${cn}/#", "devices/+/temperature"),
        ("+/+/command/#", "+/+/command/+"),
        ("unless { principal in Group::\"operators\" }", "when { context.qos >= 1 }"),
        ("context.qos >= 1 && ", ""),
        (" && !context.retain", ""),
        ("devices/+/command/#", "+/+/command/#"),
        ("devices/+/command/#", "devices/#"),
        ("resource in TopicFilter::\"devices/#\"", "resource"),
    ] {
        assert!(whole.contains(narrow), "{narrow}");
        let widened = whole.replace(narrow, wide);
        assert!(tables.check(&bundle(&widened)).is_err(), "no case tells {narrow} from {wide}");
    }
}

#[test]
fn the_permissive_cases_hold_each_verb() {
    let (tables, policies) = shipped("permissive");
    for verb in ["connect", "publish", "subscribe", "receive"] {
        let hole =
            format!("@id(\"hole\") forbid (principal, action == Action::\"{verb}\", resource);");
        assert!(tables.check(&bundle(&(policies.concat() + &hole))).is_err(), "{verb}");
    }
}
