//! Rules as Cedar policies, in text.

use std::fmt::Write as _;

use super::super::problem::Problem;
use super::Dialect;
use super::acl_file::{Access, Rule, Who};
use super::model::Acl;
use crate::identity::PrincipalKind;

/// What a reader of the policies has to know of the broker they come from.
const MOSQUITTO: &str = r#"
// What differs from Mosquitto:
// - Mosquitto grants every SUBSCRIBE and holds back what the client may not read. Here a SUBSCRIBE
//   is refused unless one policy covers the whole filter; what is delivered is judged as there. To
//   grant every SUBSCRIBE as Mosquitto does, write
//     @id("subscribe") permit (principal, action == Action::"subscribe", resource);
// - A `pattern deny` line takes nothing back that a `topic` line grants, so that it is no forbid,
//   but an exception of the `pattern` lines.
// - A user name or client id that holds / + # fills no placeholder here. In Mosquitto one with + or
//   # gets nothing from any `pattern` line, and one with / fills several levels: issue no such name.
"#;

const VERNEMQ: &str = r"
// What differs from VerneMQ:
// - VerneMQ judges SUBSCRIBE alone, and lets a/# through where a/+ is granted. Here one policy has
//   to cover the whole filter, and whatever is delivered is judged again.
// - In VerneMQ a wildcard at the first level matches $SYS and $share too, here it does not. A shared
//   subscription needs a policy of its own, on the filter inside and context.share_group.
// - A user name or client id that holds / + # fills no placeholder here: issue no such name.
// - The general lines concern every client, as VerneMQ has it; its manual says anonymous ones only.
";

/// Writes the policies of a file.
pub(super) fn write(
    acl: &Acl,
    name: &str,
    kind: PrincipalKind,
    untranslated: &[Problem],
) -> String {
    let mut text = header(acl, name, kind);
    for problem in untranslated {
        let line = problem.location().map_or(0, |(_, line, _)| line);
        let message = problem.message().escape_debug();
        let _ = writeln!(text, "\n// Line {line} is not in these policies: {message}");
    }
    for rule in &acl.rules {
        text.push('\n');
        policies(&mut text, acl, rule, kind);
    }
    text
}

fn header(acl: &Acl, name: &str, kind: PrincipalKind) -> String {
    let broker = acl.dialect.as_str();
    let kind = kind.as_str();
    let name = name.rsplit('/').next().unwrap_or(name).escape_debug();
    let mut text = format!(
        "// What {name} permits,
// translated by `portcullis policy import {broker}`: a policy for each line that grants or denies,
// named after the number of the line. cases.tsv says of each line what it lets through and what it
// does not.
//
// An ACL file does not say who may connect. Until you write that, nobody may; for example:
//
//   @id(\"connect\")
//   @reason(\"whoever has a certificate of ours may come in by TLS 1.3\")
//   permit (principal is {kind}, action == Action::\"connect\", resource)
//   when {{ context.session.tls_version >= 13 }};
//
// A user of the ACL file is {kind}::\"name\" here, the name being what the listener takes from the
// certificate.
"
    );
    text.push_str(match acl.dialect {
        Dialect::Mosquitto => MOSQUITTO,
        Dialect::Vernemq => VERNEMQ,
    });
    if acl.rules.iter().any(|rule| rule.filter.names_client_id()) {
        text.push_str(
            "//
// ${client_id} is what the client says: it needs a listener that binds client ids to identities.
",
        );
    }
    text
}

fn policies(text: &mut String, acl: &Acl, rule: &Rule, kind: PrincipalKind) {
    if rule.who == Who::Pattern && rule.access == Access::Deny {
        let (line, quote) = (rule.line, rule.quote.escape_debug());
        let _ = writeln!(text, "// Line {line} is an exception of other patterns: {quote}");
        return;
    }
    let exceptions: Vec<&Rule> = acl.exceptions(rule).collect();
    let split = acl.is_split(rule);
    let whole = Policy {
        id: rule.id(),
        actions: match (rule.access, split) {
            (Access::Read, false) => r#"action in Action::"read""#,
            (Access::Read, true) => r#"action == Action::"receive""#,
            (Access::Write, _) => r#"action == Action::"publish""#,
            (Access::ReadWrite, false) => r#"action in [Action::"publish", Action::"read"]"#,
            (Access::ReadWrite, true) | (Access::Deny, _) => {
                r#"action in [Action::"publish", Action::"receive"]"#
            }
        },
        unless: unless_excepted(rule, &exceptions, kind),
    };
    whole.write(text, acl, rule, kind);
    if split {
        text.push('\n');
        let subscribe = Policy {
            id: rule.subscribe_id(),
            actions: r#"action == Action::"subscribe""#,
            unless: (acl.dialect == Dialect::Vernemq).then(|| "context has share_group".to_owned()),
        };
        subscribe.write(text, acl, rule, kind);
    }
}

/// What distinguishes the policies of one rule.
struct Policy {
    id: String,
    actions: &'static str,
    unless: Option<String>,
}

impl Policy {
    fn write(&self, text: &mut String, acl: &Acl, rule: &Rule, kind: PrincipalKind) {
        let effect = if rule.access == Access::Deny { "forbid" } else { "permit" };
        let kind = kind.as_str();
        let everybody = format!("principal is {kind} || principal is Anonymous");
        let (principal, when) = match &rule.who {
            Who::User(name) => (format!("principal == {kind}::{}", quoted(name)), None),
            Who::General if acl.dialect == Dialect::Mosquitto => {
                ("principal is Anonymous".to_owned(), None)
            }
            Who::Pattern if rule.filter.names_user() => (format!("principal is {kind}"), None),
            Who::General | Who::Pattern => ("principal".to_owned(), Some(everybody)),
        };
        let _ = write!(
            text,
            "@id({})\n@reason({})\n{effect} (\n  {principal},\n  {},\n  resource in {}\n)",
            quoted(&self.id),
            quoted(&format!("line {}: {}", rule.line, rule.quote)),
            self.actions,
            filter(rule),
        );
        for (word, condition) in [("when", &when), ("unless", &self.unless)] {
            if let Some(condition) = condition {
                let _ = write!(text, " {word} {{ {condition} }}");
            }
        }
        text.push_str(";\n");
    }
}

/// The `pattern` denials, as a condition. A client without a name does not meet those that name it.
fn unless_excepted(rule: &Rule, exceptions: &[&Rule], kind: PrincipalKind) -> Option<String> {
    let has_name = rule.filter.names_user();
    let (named, others): (Vec<&Rule>, Vec<&Rule>) =
        exceptions.iter().copied().partition(|it| it.filter.names_user() && !has_name);
    let among = |rules: &[&Rule]| {
        let filters: Vec<String> = rules.iter().map(|rule| filter(rule)).collect();
        format!("resource in [{}]", filters.join(", "))
    };
    let named_user = || format!("(principal is {} && {})", kind.as_str(), among(&named));
    match (others.is_empty(), named.is_empty()) {
        (true, true) => None,
        (false, true) => Some(among(&others)),
        (true, false) => Some(named_user()),
        (false, false) => Some(format!("{} || {}", among(&others), named_user())),
    }
}

fn filter(rule: &Rule) -> String {
    format!("TopicFilter::{}", quoted(&rule.filter.policy_text()))
}

/// A Cedar string. What cannot be seen is escaped, so that the text is what it looks like.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '\'' => quoted.push('\''),
            other => quoted.extend(other.escape_debug()),
        }
    }
    quoted.push('"');
    quoted
}
