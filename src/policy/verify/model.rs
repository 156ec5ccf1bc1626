//! What the solver says is possible, as a question that can be asked.
//!
//! A model names the filters that a resource is in, not a topic. A topic is made for it, the
//! policies are asked, and only what they confirm is a counterexample. What is not needed for it
//! is then left out, so that what remains is what matters.

use std::collections::BTreeSet;

use cedar_policy::{EvalResult, Record};
use cedar_policy_symcc::Env;
use smallvec::SmallVec;

use super::literals::{Literal, Relation, is_in};
use crate::mqtt::topic::Level;
use crate::policy::filters::Normalised;
use crate::policy::groups::DeclaredGroups;
use crate::policy::policy_filter::{Bindings, PolicyFilter};
use crate::policy::{Action, Bundle, Question, Words};

/// Combinations of what placeholders stand for, and topics tried for each.
const COMBINATIONS_MAX: usize = 64;

/// A question in words that are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedWords {
    /// Such as `Device::dev1`.
    pub principal: String,
    /// Groups it is in.
    pub groups: Vec<String>,
    /// The action.
    pub action: &'static str,
    /// The topic, filter or listener.
    pub resource: String,
    /// Names and values.
    pub facts: Vec<(String, String)>,
}

impl OwnedWords {
    /// As [`Question::parse`] reads them.
    #[must_use]
    pub fn words(&self) -> Words<'_> {
        Words {
            principal: &self.principal,
            groups: self.groups.iter().map(String::as_str).collect(),
            action: self.action,
            resource: &self.resource,
            facts: self.facts.iter().map(|(name, value)| (&**name, &**value)).collect(),
        }
    }
}

/// What became of a model.
pub(super) enum Realised {
    /// The policies confirm it.
    Confirmed(OwnedWords),
    /// No topic is in just these filters: the law that rules it out, as what cannot be.
    Impossible(String),
    /// The policies do not confirm it.
    Unconfirmed,
}

/// A possibility, according to the solver.
pub(super) struct Model {
    words: OwnedWords,
    /// The ids of the filters that the resource is in.
    filters: BTreeSet<String>,
}

impl Model {
    /// Reads what the solver found; `None` for what is no request.
    pub(super) fn read(
        action: Action,
        environment: &Env,
        declared: Option<&DeclaredGroups>,
    ) -> Option<Self> {
        let Env { request, entities } = environment;
        let (principal, resource) = (request.principal()?, request.resource()?);
        let ancestors = |of, kind: &str| -> BTreeSet<String> {
            let all = entities.ancestors(of).into_iter().flatten();
            let kind = all.filter(|it| it.type_name().to_string() == kind);
            kind.map(|it| it.id().unescaped().to_owned()).collect()
        };
        let mut facts = Vec::new();
        if let Some(context) = request.context() {
            for name in CONTEXT {
                read_fact(name, context.get(name), &mut facts);
            }
            if let Some(EvalResult::Record(session)) = context.get("session") {
                read_record(&SESSION, &session, &mut facts);
            }
        }
        let kind = principal.type_name().to_string();
        if let Some(entity) = entities.get(principal) {
            match entity.attr("cert") {
                Some(Ok(EvalResult::Record(certificate))) => {
                    read_record(&CERTIFICATE, &certificate, &mut facts);
                }
                _ if kind != "Anonymous" => facts.push(("certificate".into(), "false".into())),
                _ => {}
            }
            for (name, value) in entity.tags() {
                read_fact(&format!("tag:{name}"), value.ok(), &mut facts);
            }
        }
        if action == Action::Connect {
            facts.retain(|(name, _)| name != "listener");
        }
        let words = OwnedWords {
            principal: format!("{kind}::{}", principal.id().unescaped()),
            groups: ancestors(principal, "Group")
                .into_iter()
                .filter(|group| declared.is_none_or(|declared| declared.contains(group)))
                .collect(),
            action: action.as_str(),
            resource: resource.id().unescaped().to_owned(),
            facts,
        };
        Some(Self { words, filters: ancestors(resource, "TopicFilter") })
    }

    /// Makes a question of it and has it confirmed.
    pub(super) fn realise(
        mut self,
        action: Action,
        literals: &[Literal],
        bundle: &Bundle,
        confirms: &dyn Fn(&OwnedWords) -> bool,
    ) -> Realised {
        self.leave_out_what_cannot_be_said();
        let kind = self.words.principal.split("::").next().unwrap_or_default().to_owned();
        let names = [format!("{kind}::anyone"), self.words.principal.clone()];
        let mut impossible = None;
        for name in names {
            self.words.principal = name;
            let (resources, exact) = self.resources(action, literals, bundle);
            if resources.is_empty() && exact {
                impossible = Some(self.condition(literals));
            }
            for resource in resources {
                self.words.resource = resource;
                if confirms(&self.words) {
                    return Realised::Confirmed(shortened(self.words, confirms));
                }
            }
        }
        impossible.map_or(Realised::Unconfirmed, Realised::Impossible)
    }

    /// Facts that cannot be written, such as a certificate that expires before 1970.
    fn leave_out_what_cannot_be_said(&mut self) {
        let alone = |fact: &(String, String)| {
            let one = OwnedWords {
                principal: "Device::anyone".into(),
                groups: Vec::new(),
                action: self.words.action,
                resource: "x".into(),
                facts: vec![fact.clone()],
            };
            Question::parse(&one.words()).is_ok()
        };
        let sayable = self.words.facts.iter().filter(|fact| alone(fact)).cloned().collect();
        self.words.facts = sayable;
    }

    /// Resources that are in just these filters; and whether there certainly is no other kind.
    fn resources(
        &self,
        action: Action,
        literals: &[Literal],
        bundle: &Bundle,
    ) -> (Vec<String>, bool) {
        if action == Action::Connect {
            return (vec![self.words.resource.clone(), "devices".to_owned()], false);
        }
        let mut words = self.words.clone();
        "x".clone_into(&mut words.resource);
        let Ok(question) = Question::parse(&words.words()) else { return (Vec::new(), false) };
        let Ok(resolved) = bundle.resolve(&question.identity) else { return (Vec::new(), false) };
        let bindings = Bindings {
            identity: &question.identity,
            client_id: question.session.client_id.as_str(),
            resolved: &resolved,
        };
        let parsed: Vec<(&Literal, PolicyFilter)> = literals
            .iter()
            .filter_map(|literal| Some((literal, PolicyFilter::parse(&literal.filter).ok()?)))
            .collect();
        let of = |relation, within: bool| {
            let named = parsed.iter().filter(move |(literal, _)| {
                literal.relation == relation && self.filters.contains(&literal.id()) == within
            });
            named.map(|(_, filter)| filter.filled(bindings)).collect::<Vec<_>>()
        };
        let everything = Normalised::of_levels(SmallVec::from_slice(&[Level::Plus, Level::Hash]));
        let fresh = fresh(literals);
        if action == Action::Subscribe {
            let covered = meets(vec![everything], &of(Relation::Covered, true));
            let overlapped: Vec<Normalised<'_>> =
                of(Relation::Overlapped, true).into_iter().flatten().collect();
            let met =
                covered.iter().flat_map(|it| overlapped.iter().filter_map(|other| it.meet(other)));
            let mut candidates: Vec<Normalised<'_>> = met.collect();
            candidates.extend(covered.iter().cloned());
            let topics = candidates.iter().flat_map(|it| topics(it, &fresh, 1));
            let mut texts: Vec<String> = topics.collect();
            texts.extend(candidates.iter().map(ToString::to_string));
            return (texts, false);
        }
        let within = of(Relation::Matched, true);
        let longest = parsed.iter().map(|(literal, _)| literal.filter.split('/').count());
        let longest = longest.max().unwrap_or_default();
        let mut found = Vec::new();
        for met in meets(vec![everything], &within).iter().take(COMBINATIONS_MAX) {
            found.extend(topics(met, &fresh, longest));
        }
        if within.is_empty() {
            // A topic that even `#` does not match.
            found.push(format!("${fresh}/{fresh}"));
        }
        // What a placeholder rules out for this principal it may not for another.
        let (varying, fixed): (Vec<_>, Vec<_>) = parsed
            .iter()
            .filter(|(literal, _)| !self.filters.contains(&literal.id()))
            .partition(|(literal, _)| literal.has_placeholder());
        let mut without = |outside: &[&(&Literal, PolicyFilter)]| {
            found.retain(|topic| {
                !outside.iter().any(|(_, filter)| {
                    let topic = Normalised::of_topic(topic);
                    filter.filled(bindings).iter().any(|it| it.covers(&topic))
                })
            });
            found.is_empty()
        };
        let none = without(&fixed);
        without(&varying);
        let exact = none && !self.within(literals).any(Literal::has_placeholder);
        (found, exact)
    }

    fn within<'a>(&self, literals: &'a [Literal]) -> impl Iterator<Item = &'a Literal> {
        literals.iter().filter(|literal| self.filters.contains(&literal.id()))
    }

    /// To be in these filters and in no other.
    fn condition(&self, literals: &[Literal]) -> String {
        let each = literals.iter().map(|literal| {
            let within = is_in(&literal.id());
            if self.filters.contains(&literal.id()) { within } else { format!("!({within})") }
        });
        each.collect::<Vec<_>>().join(" && ")
    }
}

/// What one filter of each has in common.
fn meets<'a>(from: Vec<Normalised<'a>>, with: &[Vec<Normalised<'a>>]) -> Vec<Normalised<'a>> {
    with.iter().fold(from, |met, choices| {
        let pairs = met.iter().flat_map(|it| choices.iter().filter_map(|other| it.meet(other)));
        pairs.take(COMBINATIONS_MAX).collect()
    })
}

/// A level that no filter names.
fn fresh(literals: &[Literal]) -> String {
    let mut fresh = "x".to_owned();
    while literals.iter().any(|literal| literal.filter.split('/').any(|level| level == fresh)) {
        fresh.push('x');
    }
    fresh
}

/// Topics of a filter whose wildcards are fresh levels, up to a number of levels beyond which
/// nothing changes.
fn topics(filter: &Normalised<'_>, fresh: &str, longest: usize) -> Vec<String> {
    let fixed: Vec<&str> = filter
        .levels()
        .iter()
        .filter_map(|level| match level {
            Level::Literal(text) => Some(*text),
            Level::Plus => Some(fresh),
            Level::Hash => None,
        })
        .collect();
    let more = if filter.levels().last() == Some(&Level::Hash) { longest + 1 } else { 0 };
    (0..=more)
        .map(|more| {
            let levels = fixed.iter().copied().chain(std::iter::repeat_n(fresh, more));
            levels.collect::<Vec<_>>().join("/")
        })
        .collect()
}

/// Leaves out every fact and group without which it is still confirmed.
fn shortened(mut words: OwnedWords, confirms: &dyn Fn(&OwnedWords) -> bool) -> OwnedWords {
    for at in (0..words.facts.len()).rev() {
        let mut without = words.clone();
        without.facts.remove(at);
        if confirms(&without) {
            words = without;
        }
    }
    for at in (0..words.groups.len()).rev() {
        let mut without = words.clone();
        without.groups.remove(at);
        if confirms(&without) {
            words = without;
        }
    }
    words
}

const CONTEXT: [&str; 12] = [
    "qos",
    "retain",
    "will",
    "payload_size",
    "content_type",
    "user_properties",
    "no_local",
    "clean_start",
    "session_expiry",
    "keep_alive",
    "has_will",
    "time",
];
const SESSION: [&str; 5] =
    ["client_id", "listener", "source_ip", "protocol_version", "tls_version"];
const CERTIFICATE: [&str; 6] = ["cn", "fingerprint", "issuer", "not_after", "spiffe", "dns_names"];

fn read_record(names: &[&str], record: &Record, facts: &mut Vec<(String, String)>) {
    for name in names {
        read_fact(name, record.get(name).cloned(), facts);
    }
}

fn read_fact(name: &str, value: Option<EvalResult>, facts: &mut Vec<(String, String)>) {
    let name = match name {
        "user_properties" => "user_property",
        "dns_names" => "dns_name",
        other => other,
    };
    let mut put = |value: String| facts.push((name.to_owned(), value));
    match value {
        Some(EvalResult::Bool(value)) => put(value.to_string()),
        Some(EvalResult::Long(value)) => put(value.to_string()),
        Some(EvalResult::String(value)) => put(value),
        Some(EvalResult::ExtensionValue(text)) => put(extension(&text)),
        Some(EvalResult::Set(members)) => {
            for member in members.iter() {
                if let EvalResult::String(member) = member {
                    put(member.clone());
                }
            }
        }
        _ => {}
    }
}

/// The value of an address or a moment, from how Cedar writes it.
fn extension(text: &str) -> String {
    let quoted = text.split('"').nth(1).unwrap_or(text);
    let milliseconds = || -> Option<u64> {
        let (_, after) = text.split_once("duration(\"")?;
        after.split_once("ms\")")?.0.parse().ok()
    };
    if let Some(milliseconds) = milliseconds() {
        let since = std::time::Duration::from_millis(milliseconds);
        let moment = std::time::SystemTime::UNIX_EPOCH.checked_add(since);
        return moment.map_or_else(
            || quoted.to_owned(),
            |moment| humantime::format_rfc3339(moment).to_string(),
        );
    }
    quoted.split_once('/').map_or(quoted, |(address, _)| address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicFilter;

    #[test]
    fn topics_of_a_filter_use_levels_that_nothing_names() {
        let of = |text: &str| topics(&Normalised::of(&TopicFilter::parse(text).unwrap()), "x", 1);
        assert_eq!(of("a/+/b"), ["a/x/b"]);
        assert_eq!(of("a/#"), ["a", "a/x", "a/x/x"]);
        assert_eq!(of("#"), ["x", "x/x", "x/x/x"]);
        let named = Literal::of(Relation::Matched, "x/xx/#").unwrap();
        assert_eq!(fresh(&[named]), "xxx");
    }

    #[test]
    fn what_is_not_needed_is_left_out() {
        let fact = |name: &str| (name.to_owned(), "1".to_owned());
        let words = OwnedWords {
            principal: "Device::d".into(),
            groups: vec!["a".into(), "b".into()],
            action: "publish",
            resource: "x".into(),
            facts: vec![fact("qos"), fact("payload_size"), fact("retain")],
        };
        let confirms = |it: &OwnedWords| {
            it.facts.contains(&fact("payload_size")) && it.groups.contains(&"b".to_owned())
        };
        let short = shortened(words, &confirms);
        assert_eq!((short.facts, short.groups), (vec![fact("payload_size")], vec!["b".into()]));
    }

    #[test]
    fn addresses_and_moments_are_read_as_cedar_writes_them() {
        for (text, expected) in [
            ("10.0.0.1/32", "10.0.0.1"),
            ("ip(\"10.0.0.1/32\")", "10.0.0.1"),
            (
                "(datetime(\"1970-01-01T00:00:00.000Z\")).offset(duration(\"86400000ms\"))",
                "1970-01-02T00:00:00Z",
            ),
        ] {
            assert_eq!(extension(text), expected, "{text}");
        }
    }
}
