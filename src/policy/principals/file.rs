//! Text to principals: every key is known, every value is usable, and every group that somebody
//! is put into exists; otherwise nothing is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use serde_spanned::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::value::{Fault, hash, principal_name, short_name, tag_value};
use super::{Grant, Principals};
use crate::identity::PrincipalKind;
use crate::identity::field::Field;
use crate::policy::groups::{DeclaredGroups, GROUPS_MAX, GroupProblem};
use crate::policy::problem::{LoadError, PROBLEMS_MAX, Problem};
use crate::policy::scan::check_characters;
use crate::policy::source::{self, FILE_BYTES_MAX, Source};
use crate::suggest::nearest;

/// Groups in one file.
const DECLARED_MAX: usize = 1 << 17;
/// Patterns with wildcards in one file: all of them are compared with what a client shows.
const PATTERNS_MAX: usize = 1024;
/// Tags of one entry.
const TAGS_MAX: usize = 64;

type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// Reads a file of principals.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub(super) fn read(source: &Source) -> Result<Principals, LoadError> {
    if source.text.len() > FILE_BYTES_MAX {
        return Err(source::too_large(&source.name).into());
    }
    check_characters(source)?;
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    let mut reader = Reader::new(source);
    for error in &errors {
        let at = error.span().unwrap_or_default();
        reader.refuse(at, error.message(), "correct the TOML, see https://toml.io");
    }
    // What was recovered from broken text is not what its author meant.
    if errors.is_empty() {
        reader.document(document.get_ref());
    }
    reader.finish()
}

struct Reader<'a> {
    source: &'a Source,
    /// With the byte where each stands.
    problems: Vec<(usize, Problem)>,
    /// The groups of the file, each with the place of its name.
    places: BTreeMap<Arc<str>, Range<usize>>,
    parents: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    principals: Principals,
}

impl<'a> Reader<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            source,
            problems: Vec::new(),
            places: BTreeMap::new(),
            parents: BTreeMap::new(),
            principals: Principals::default(),
        }
    }

    fn document(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            match &**key.get_ref() {
                "group" => self.groups(value),
                "principal" => self.named(value),
                "certificate" => self.certificates(value),
                _ => self.unknown_key(key, &["group", "principal", "certificate"]),
            }
        }
    }

    fn finish(mut self) -> Result<Principals, LoadError> {
        if self.problems.is_empty() {
            match DeclaredGroups::new(std::mem::take(&mut self.parents)) {
                Ok(groups) => {
                    self.check_depth(&groups);
                    self.check_members(&groups);
                    self.principals.groups = groups;
                }
                Err(problem) => {
                    let (GroupProblem::Cycle { group }
                    | GroupProblem::UndeclaredParent { group, .. }) = &problem;
                    let at = self.place(group);
                    self.refuse(at, problem.to_string(), "take one group of the circle out of it");
                }
            }
        }
        if self.problems.is_empty() {
            return Ok(self.principals);
        }
        self.problems.sort_by_key(|(at, _)| *at);
        Err(LoadError::new(self.problems.into_iter().map(|(_, problem)| problem).collect()))
    }

    /// Whoever were in such a group could do nothing at all.
    fn check_depth(&mut self, groups: &DeclaredGroups) {
        for (group, _) in groups.iter() {
            if groups.closure(std::slice::from_ref(group)).is_none() {
                let message = format!("with group {group:?} come more than {GROUPS_MAX} groups");
                self.refuse(self.place(group), message, "nest it in fewer groups");
            }
        }
    }

    /// Whoever is named in too many groups could do nothing at all.
    fn check_members(&mut self, groups: &DeclaredGroups) {
        let Principals { named, certificates, .. } = &self.principals;
        let named = named
            .iter()
            .map(|((kind, name), holdings)| (format!("{}::{name:?}", kind.as_str()), holdings));
        let certificates =
            certificates.iter().map(|(hash, it)| (format!("certificate {hash}"), it));
        let held = named.chain(certificates).filter_map(|(who, holdings)| {
            let direct: Vec<Arc<str>> = holdings.groups.iter().cloned().collect();
            let last = direct.last().filter(|_| groups.closure(&direct).is_none())?;
            Some((who, self.place(last)))
        });
        for (who, at) in held.collect::<Vec<_>>() {
            let message = format!("{who} is in more than {GROUPS_MAX} groups");
            self.refuse(at, message, "take it out of some, or nest them in fewer groups");
        }
    }

    /// `[group.NAME]`, for all names.
    fn groups(&mut self, value: &Value<'_>) {
        let Some(table) = self.table(value, "group", "[group.NAME]") else { return };
        if table.len() > DECLARED_MAX {
            let message = format!("there are more than {DECLARED_MAX} groups");
            return self.refuse(value.span(), message, "use tags where every principal differs");
        }
        for key in table.keys() {
            if let Some(name) = self.taken(key.span(), short_name(key.get_ref())) {
                self.places.insert(name, key.span());
            }
        }
        for (key, value) in table {
            self.group(&Arc::from(&**key.get_ref()), value);
        }
    }

    fn group(&mut self, group: &Arc<str>, value: &Value<'_>) {
        let Some(table) = self.table(value, "a group", "[group.NAME]") else { return };
        let mut parents = Vec::new();
        for (key, value) in table {
            match &**key.get_ref() {
                "in" => parents = self.parents(value),
                "members" => self.members(group, value),
                "certificates" => self.certificate_members(group, value),
                "granted_by" => self.grants(group, value),
                _ => self.unknown_key(key, &["in", "members", "certificates", "granted_by"]),
            }
        }
        self.parents.insert(Arc::clone(group), parents);
    }

    /// `in`: groups that a group is in, in order of name and each once.
    fn parents(&mut self, value: &Value<'_>) -> Vec<Arc<str>> {
        let mut parents = BTreeSet::new();
        let names = self.texts(value, "in", "in = [\"staff\"]");
        if names.len() > GROUPS_MAX {
            let message = format!("more than {GROUPS_MAX} groups");
            self.refuse(value.span(), message, "nest it in fewer groups");
            return Vec::new();
        }
        for (name, at) in names {
            match self.places.get_key_value(name) {
                Some((known, _)) => {
                    parents.insert(Arc::clone(known));
                }
                // The search costs as much as there are groups.
                None if self.is_full() => break,
                None => {
                    let known = nearest(name, self.places.keys().map(|known| &**known));
                    let remedy = known.map_or_else(
                        || format!("declare it: [group.{name:?}]"),
                        |known| format!("did you mean {known:?}?"),
                    );
                    self.refuse(at, format!("group {name:?} is not declared"), remedy);
                }
            }
        }
        parents.into_iter().collect()
    }

    /// `members`: principals by type and name.
    fn members(&mut self, group: &Arc<str>, value: &Value<'_>) {
        for (text, at) in self.texts(value, "members", "members = [\"User::ann\"]") {
            if let Some(member) = self.taken(at, principal_name(text)) {
                let holdings = self.principals.named.entry(member).or_default();
                holdings.groups.insert(Arc::clone(group));
            }
        }
    }

    /// `certificates`: members by the hash of their certificate.
    fn certificate_members(&mut self, group: &Arc<str>, value: &Value<'_>) {
        for (text, at) in self.texts(value, "certificates", "certificates = [\"<hash>\"]") {
            if let Some(fingerprint) = self.taken(at, hash(text, "certificate")) {
                let holdings = self.principals.certificates.entry(fingerprint).or_default();
                holdings.groups.insert(Arc::clone(group));
            }
        }
    }

    /// `[[group.NAME.granted_by]]`, all of them.
    fn grants(&mut self, group: &Arc<str>, value: &Value<'_>) {
        let shape = format!("[[group.{group:?}.granted_by]]");
        let Some(grants) = self.list(value, "granted_by", &shape) else { return };
        for value in grants {
            let Some(table) = self.table(value, "granted_by", &shape) else { continue };
            self.grant(group, table, value.span());
        }
    }

    fn grant(&mut self, group: &Arc<str>, table: &DeTable<'_>, at: Range<usize>) {
        let mut issuer = None;
        let mut fields = Vec::new();
        let known = ["issuer", "organizational_unit", "san_uri", "san_dns"];
        for (key, value) in table {
            let field = Field::ALL.into_iter().find(|field| field.as_str() == key.get_ref());
            match field {
                Some(field) => fields.push((field, value)),
                None if key.get_ref() == "issuer" => issuer = Some(value),
                None => return self.unknown_key(key, &known),
            }
        }
        let Some(issuer) = issuer else {
            let remedy = "say whose certificates confer the group: issuer = \"<hash>\"; `portcullis \
                          check` prints the hash of every client CA";
            return self.refuse(at, "there is no issuer", remedy);
        };
        let [(field, value)] = *fields else {
            let message = format!("{} fields confer the group here", fields.len());
            let remedy = "write exactly one of organizational_unit, san_uri and san_dns; each \
                          further one in an entry of its own";
            return self.refuse(at, message, remedy);
        };
        let issuer = self
            .text(issuer, "issuer", "issuer = \"<hash>\"")
            .and_then(|(text, at)| self.taken(at, hash(text, "public key of the authority")));
        let (Some((pattern, at)), Some(issuer)) =
            (self.text(value, field.as_str(), "\"text\""), issuer)
        else {
            return;
        };
        if let Err((message, remedy)) = field.check(pattern) {
            return self.refuse(at, format!("{} {pattern:?}: {message}", field.as_str()), remedy);
        }
        self.principals.grants.add(field, pattern, Grant { group: Arc::clone(group), issuer });
        if self.principals.grants.patterns.len() > PATTERNS_MAX {
            let message = format!("there are more than {PATTERNS_MAX} patterns with wildcards");
            self.refuse(at, message, "write fewer, wider ones, or name members");
        }
    }

    /// `[principal."TYPE::NAME"]`, all of them.
    fn named(&mut self, value: &Value<'_>) {
        let Some(table) = self.table(value, "principal", "[principal.\"Device::dev1\"]") else {
            return;
        };
        let mut seen = BTreeSet::new();
        for (key, value) in table {
            let Some(named) = self.taken(key.span(), principal_name(key.get_ref())) else {
                continue;
            };
            if named.0 == PrincipalKind::Anonymous {
                let remedy = "remove it; put Anonymous::anonymous into a group where it matters";
                self.refuse(key.span(), "a client without credentials has no tags", remedy);
            } else if !seen.insert(named.clone()) {
                let message = format!("{}::{:?} stands twice", named.0.as_str(), named.1);
                self.refuse(key.span(), message, "join the two entries");
            }
            let tags = self.tags(value);
            if !tags.is_empty() {
                self.principals.named.entry(named).or_default().tags = tags;
            }
        }
    }

    /// `[certificate."HASH"]`, all of them.
    fn certificates(&mut self, value: &Value<'_>) {
        let Some(table) = self.table(value, "certificate", "[certificate.\"<hash>\"]") else {
            return;
        };
        let mut seen = BTreeSet::new();
        for (key, value) in table {
            let fingerprint = hash(key.get_ref(), "certificate");
            let Some(fingerprint) = self.taken(key.span(), fingerprint) else { continue };
            if !seen.insert(Arc::clone(&fingerprint)) {
                self.refuse(key.span(), "this certificate stands twice", "join the two entries");
            }
            let tags = self.tags(value);
            if !tags.is_empty() {
                self.principals.certificates.entry(fingerprint).or_default().tags = tags;
            }
        }
    }

    /// The tags of one entry, which has nothing else.
    fn tags(&mut self, value: &Value<'_>) -> BTreeMap<Arc<str>, Arc<str>> {
        let shape = "tags = { plant = \"fra1\" }";
        let mut tags = BTreeMap::new();
        let Some(table) = self.table(value, "the entry", shape) else { return tags };
        for (key, value) in table {
            if key.get_ref() != "tags" {
                self.unknown_key(key, &["tags"]);
                continue;
            }
            let Some(table) = self.table(value, "tags", shape) else { continue };
            if table.len() > TAGS_MAX {
                let message = format!("there are more than {TAGS_MAX} tags");
                self.refuse(value.span(), message, "remove those that no policy reads");
                continue;
            }
            for (key, value) in table {
                let name = self.taken(key.span(), short_name(key.get_ref()));
                let Some((text, at)) = self.text(value, "a tag", shape) else { continue };
                if let (Some(name), Some(value)) = (name, self.taken(at, tag_value(text))) {
                    tags.insert(name, value);
                }
            }
        }
        tags
    }

    fn unknown_key(&mut self, key: &Key<'_>, known: &[&str]) {
        let message = format!("unknown key {:?}", key.get_ref());
        let remedy = nearest(key.get_ref(), known.iter().copied()).map_or_else(
            || format!("the keys here are {}", known.join(", ")),
            |known| format!("did you mean {known}?"),
        );
        self.refuse(key.span(), message, remedy);
    }

    fn table<'v>(
        &mut self,
        value: &'v Value<'_>,
        what: &str,
        shape: &str,
    ) -> Option<&'v DeTable<'v>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(value.span(), format!("{what} is a table"), format!("write {shape}"));
        }
        table
    }

    fn list<'v>(
        &mut self,
        value: &'v Value<'_>,
        what: &str,
        shape: &str,
    ) -> Option<&'v [Value<'v>]> {
        let list = value.get_ref().as_array();
        if list.is_none() {
            self.refuse(value.span(), format!("{what} is a list"), format!("write {shape}"));
        }
        list.map(|list| &**list)
    }

    fn text<'v>(
        &mut self,
        value: &'v Value<'_>,
        what: &str,
        shape: &str,
    ) -> Option<(&'v str, Range<usize>)> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.refuse(value.span(), format!("{what} is a text"), format!("write {shape}"));
        }
        text.map(|text| (text, value.span()))
    }

    /// The texts of a list, each with its place.
    fn texts<'v>(
        &mut self,
        value: &'v Value<'_>,
        what: &str,
        shape: &str,
    ) -> Vec<(&'v str, Range<usize>)> {
        let list = self.list(value, what, shape).unwrap_or_default();
        list.iter().filter_map(|item| self.text(item, what, shape)).collect()
    }

    /// What could be read, or nothing and the problem.
    fn taken<T>(&mut self, at: Range<usize>, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|(message, remedy)| self.refuse(at, message, remedy)).ok()
    }

    fn refuse(&mut self, at: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        if !self.is_full() {
            let start = at.start;
            self.problems.push((start, self.source.problem(message, at).remedy(remedy)));
        }
    }

    /// True when there are more problems than a report tells.
    fn is_full(&self) -> bool {
        self.problems.len() > PROBLEMS_MAX
    }

    fn place(&self, group: &str) -> Range<usize> {
        self.places.get(group).cloned().unwrap_or_default()
    }
}
