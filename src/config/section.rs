//! Reading a table: each key is taken once, by name, with its default and its bounds beside it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use super::error::Problem;
use super::file::{Entry, Place, Table, Texts, Value, is_bare_key_byte};
use super::kind::Kind;
use crate::suggest::nearest;

/// The most listeners, and the most profiles.
const NAMES_MAX: usize = 64;
/// The longest name of a listener or profile, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A key's effective value and where it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The dotted key, such as `listener.devices.tls.key`.
    pub key: String,
    /// The value in TOML's notation, or `unset` for a key that has no default.
    pub value: String,
    /// Where it was set.
    pub from: SetBy,
    /// The paths that it names.
    pub paths: Vec<PathBuf>,
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// Nowhere: the built-in default holds.
    Default,
    /// In the configuration file.
    File {
        /// The file.
        name: String,
        /// The line, from 1.
        line: u32,
    },
    /// By an override on the command line.
    Override,
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Override => f.write_str("--set"),
        }
    }
}

/// What reading finds out, besides the settings themselves.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) texts: Texts,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) origins: Vec<Origin>,
}

/// One table while it is read, present or not. When it goes out of scope, every key in it that
/// nobody took is reported as unknown, so that forgetting to check is impossible.
#[derive(Debug)]
pub(super) struct Section<'a> {
    name: String,
    place: Option<Place>,
    table: Option<&'a Table>,
    known: BTreeSet<&'static str>,
    /// True when the keys of the table are names chosen by the operator.
    names_are_free: bool,
    /// The section whose values stand in for what this one leaves unset.
    base: Option<String>,
    report: &'a RefCell<Report>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a Table, report: &'a RefCell<Report>) -> Self {
        Self {
            name: String::new(),
            place: None,
            table: Some(table),
            known: BTreeSet::new(),
            names_are_free: false,
            base: None,
            report,
        }
    }

    /// Says that values this section leaves unset come from the section `base`.
    pub(super) fn inherit_from(&mut self, base: &str) {
        self.base = Some(base.to_owned());
    }

    /// Takes a key that has a default. A wrong value is reported; the default then stands in
    /// for it, so that reading can go on and find what else is wrong.
    pub(super) fn take<K: Kind>(
        &mut self,
        key: &'static str,
        kind: &K,
        default: K::Meant,
    ) -> K::Meant {
        if let Some(meant) = self.parse(key, kind, Some(&default)) {
            return meant;
        }
        if !self.has(key) {
            let from = self.inherited(key);
            self.record(key, kind.show(&default), kind.paths(&default), from);
        }
        default
    }

    /// Takes a key that has no default.
    pub(super) fn find<K: Kind>(&mut self, key: &'static str, kind: &K) -> Option<K::Meant> {
        let meant = self.parse(key, kind, None);
        if !self.has(key) {
            self.record(key, "unset".to_owned(), Vec::new(), SetBy::Default);
        }
        meant
    }

    fn parse<K: Kind>(
        &mut self,
        key: &'static str,
        kind: &K,
        default: Option<&K::Meant>,
    ) -> Option<K::Meant> {
        self.known.insert(key);
        let entry = self.entry(key)?;
        match kind.parse(&entry.value) {
            Ok(meant) => {
                let from = self.set_by(&entry.place);
                self.record(key, kind.show(&meant), kind.paths(&meant), from);
                Some(meant)
            }
            Err(wrong) => {
                let remedy = wrong.remedy.unwrap_or_else(|| match default {
                    Some(default) => {
                        format!("write {}, such as {}", kind.expects(), kind.show(default))
                    }
                    None => format!("write {}", kind.expects()),
                });
                self.refuse(key, &wrong.message, &remedy);
                None
            }
        }
    }

    /// A table in this one, present or not.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.known.insert(key);
        let entry = self.entry(key);
        let mut section = self.below(key, entry);
        section.base = self.base.as_ref().map(|base| format!("{base}.{key}"));
        section
    }

    /// A table that may be left out.
    pub(super) fn find_section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let section = self.section(key);
        if !self.has(key) {
            self.record(key, "unset".to_owned(), Vec::new(), SetBy::Default);
            return None;
        }
        Some(section)
    }

    /// A table that nobody typed, under its dotted name.
    pub(super) fn absent(&self, name: &str) -> Section<'a> {
        self.below(name, None)
    }

    /// The tables of a table whose keys are names.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(&'a str, Section<'a>)> {
        let mut parent = self.section(key);
        parent.names_are_free = true;
        let Some(table) = parent.table else { return Vec::new() };
        if table.entries.len() > NAMES_MAX {
            self.refuse(key, &format!("has more than {NAMES_MAX} tables"), "remove some");
            return Vec::new();
        }
        let mut sections = Vec::new();
        for (name, entry) in &table.entries {
            let well_formed =
                name.bytes().all(is_bare_key_byte) && (1..=NAME_BYTES_MAX).contains(&name.len());
            if well_formed {
                sections.push((name.as_str(), parent.below(name, Some(entry))));
            } else {
                self.report_at(
                    Some(&entry.key_place),
                    key,
                    &format!("has a table with the name {name:?}"),
                    "name it with up to 64 letters, digits, \"-\" and \"_\"",
                );
            }
        }
        sections
    }

    fn below(&self, key: &str, entry: Option<&'a Entry>) -> Section<'a> {
        let name = self.key(key);
        let table = match entry.map(|entry| &entry.value) {
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                self.report_at(
                    entry.map(|entry| &entry.place),
                    &name,
                    &format!("is {}, not a table", other.noun()),
                    &format!("write [{name}] and its keys below"),
                );
                None
            }
            None => None,
        };
        Section {
            name,
            place: entry.map(|entry| entry.place.clone()),
            table,
            known: BTreeSet::new(),
            names_are_free: false,
            base: None,
            report: self.report,
        }
    }

    /// True when the key, dotted or not, was typed, rightly or wrongly.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Reports a key, dotted or not, that is wrong by itself or beside others: at its value, or
    /// else at the innermost table around it that was typed.
    pub(super) fn refuse(&self, key: &str, message: &str, remedy: &str) {
        let place = self.path(key).last().map(|entry| &entry.place).or(self.place.as_ref());
        self.report_at(place, &self.key(key), message, remedy);
    }

    /// Notes what is allowed and yet risky.
    pub(super) fn warn(&self, key: &str, message: &str) {
        let warning = format!("{} {message}", self.key(key));
        self.report.borrow_mut().warnings.push(warning);
    }

    fn record(&self, key: &str, value: String, paths: Vec<PathBuf>, from: SetBy) {
        let origin = Origin { key: self.key(key), value, from, paths };
        self.report.borrow_mut().origins.push(origin);
    }

    fn report_at(&self, place: Option<&Place>, key: &str, message: &str, remedy: &str) {
        let mut report = self.report.borrow_mut();
        let problem = report.texts.problem(place, key, message, remedy);
        report.problems.push(problem);
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.path(key).nth(key.split('.').count() - 1)
    }

    /// The entries on the way to a dotted key, as far as they were typed.
    fn path<'b>(&self, key: &'b str) -> impl Iterator<Item = &'a Entry> + use<'a, 'b> {
        let mut table = self.table;
        key.split('.').map_while(move |name| {
            let entry = table?.entries.get(name)?;
            table = match &entry.value {
                Value::Table(table) => Some(table),
                _ => None,
            };
            Some(entry)
        })
    }

    /// The dotted name of a key of this table.
    pub(super) fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn set_by(&self, place: &Place) -> SetBy {
        let report = self.report.borrow();
        report.texts.line_in_file(place).map_or(SetBy::Override, |line| SetBy::File {
            name: report.texts.file_name().to_owned(),
            line,
        })
    }

    fn inherited(&self, key: &str) -> SetBy {
        let Some(base) = &self.base else { return SetBy::Default };
        let key = format!("{base}.{key}");
        let report = self.report.borrow();
        let origin = report.origins.iter().find(|origin| origin.key == key);
        origin.map_or(SetBy::Default, |origin| origin.from.clone())
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let Some(table) = self.table.filter(|_| !self.names_are_free) else { return };
        for (key, entry) in &table.entries {
            if self.known.contains(key.as_str()) {
                continue;
            }
            let remedy = match nearest(key, self.known.iter().copied()) {
                Some(known) => format!("did you mean {known}?"),
                None if key == "policies" => "put it above the first [table]".to_owned(),
                None => {
                    let known: Vec<&str> = self.known.iter().copied().collect();
                    format!("known here: {}", known.join(", "))
                }
            };
            let is_bare = key.bytes().all(is_bare_key_byte);
            let name = if is_bare { self.key(key) } else { self.key(&format!("{key:?}")) };
            self.report_at(Some(&entry.key_place), &name, "is not a known key", &remedy);
        }
    }
}
