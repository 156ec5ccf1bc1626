//! ACL files: text to rules, and what cannot become a rule.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::filters::Normalised;
use super::super::problem::Problem;
use super::super::source::Source;
use super::filter::AclFilter;
use super::line::{self, Fault, Statement};
use super::{BYTES_MAX, Dialect, ImportError};
use crate::mqtt::TopicFilter;
use crate::pki;

/// Bytes of one line.
const LINE_BYTES_MAX: usize = 4096;
/// Lines that grant or deny.
const RULES_MAX: usize = 10_000;
/// All that clients may publish below `$SYS` in Mosquitto, whatever the ACL file says.
const BRIDGE_STATES: &str = "$SYS/broker/connection/+/state";

/// What a file says, and what could not be taken over.
#[derive(Debug, Default)]
pub(super) struct AclFile {
    /// In the order of the file, each thing said once.
    pub(super) rules: Vec<Rule>,
    /// Lines that no policy says.
    pub(super) untranslated: Vec<Problem>,
    /// What whoever runs the import should know of lines that were taken over.
    pub(super) notes: Vec<Problem>,
}

impl AclFile {
    /// Takes out the rules beyond ASCII that do not load by themselves.
    ///
    /// # Errors
    /// When one of them is a denial.
    pub(super) fn set_aside<T>(
        &mut self,
        source: &Source,
        load: impl Fn(&Self) -> Result<T, ImportError>,
    ) -> Result<(), ImportError> {
        let mut denials = Vec::new();
        for rule in std::mem::take(&mut self.rules) {
            let granted = Rule { access: Access::Read, ..rule.clone() };
            let alone = Self { rules: vec![granted], ..Self::default() };
            if rule.is_ascii() || load(&alone).is_ok() {
                self.rules.push(rule);
                continue;
            }
            let why = "policies may not mix scripts, or hold letters that look like others";
            let problem = untranslatable(source, why, rule.access, &rule.bytes);
            match rule.access {
                Access::Deny => denials.push(problem.line()),
                _ => self.untranslated.push(problem),
            }
        }
        if denials.is_empty() { Ok(()) } else { Err(ImportError::Unusable(denials)) }
    }
}

/// One line that grants or denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// From 1.
    pub(super) line: usize,
    /// Where it stands in the file.
    pub(super) bytes: Range<usize>,
    /// The line as written.
    pub(super) quote: Box<str>,
    pub(super) who: Who,
    pub(super) access: Access,
    pub(super) filter: AclFilter,
}

impl Rule {
    fn is_ascii(&self) -> bool {
        let user = if let Who::User(name) = &self.who { name } else { "" };
        self.quote.is_ascii() && user.is_ascii()
    }
}

/// Whom a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A `topic` line before the first `user` line.
    General,
    /// A `topic` line of this user.
    User(Arc<str>),
    /// A `pattern` line, wherever it stands.
    Pattern,
}

/// What a rule grants, or that it denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl Access {
    pub(super) const fn named(word: &str) -> Option<Self> {
        Some(match word.as_bytes() {
            b"read" => Self::Read,
            b"write" => Self::Write,
            b"readwrite" => Self::ReadWrite,
            b"deny" => Self::Deny,
            _ => return None,
        })
    }

    pub(super) const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// Reads a file.
///
/// # Errors
/// Everything for which its broker would not read on, and what exceeds a bound.
pub(super) fn read(source: &Source, dialect: Dialect) -> Result<AclFile, ImportError> {
    if source.text.len() > BYTES_MAX {
        let problem = Problem::new(format!("{} is larger than {BYTES_MAX} bytes", source.name));
        return Err(ImportError::Unusable(vec![
            problem.remedy("divide it by its users into several").line(),
        ]));
    }
    let mut reader = Reader {
        source,
        dialect,
        user: None,
        said: HashMap::new(),
        file: AclFile::default(),
        unusable: Vec::new(),
    };
    let mut start = 0;
    for (index, line) in source.text.split('\n').enumerate() {
        let end = start + line.len();
        reader.line(index + 1, line, start..end);
        if reader.file.rules.len() > RULES_MAX {
            let message = format!("more than {RULES_MAX} lines that grant or deny");
            let problem = source.problem(message, start..end);
            return Err(ImportError::Unusable(vec![
                problem.remedy("divide the file by its users into several").line(),
            ]));
        }
        start = end + 1;
    }
    if reader.unusable.is_empty() {
        Ok(reader.file)
    } else {
        Err(ImportError::Unusable(reader.unusable))
    }
}

struct Reader<'a> {
    source: &'a Source,
    dialect: Dialect,
    /// Of the last `user` line.
    user: Option<Arc<str>>,
    /// Where each thing was said first.
    said: HashMap<(Who, Access, AclFilter), usize>,
    file: AclFile,
    /// What is wrong, a line each.
    unusable: Vec<String>,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, text: &str, bytes: Range<usize>) {
        if text.len() > LINE_BYTES_MAX {
            let message = format!("a line is longer than {LINE_BYTES_MAX} bytes");
            return self.refuse(Fault::new(message, "shorten it"), &bytes);
        }
        let statement = match self.dialect {
            Dialect::Mosquitto => line::mosquitto(text),
            Dialect::Vernemq => line::vernemq(text),
        };
        match statement {
            Ok(None) => {}
            Ok(Some(Statement::User(name))) => self.user(name, &bytes),
            Ok(Some(Statement::Topic { pattern, access, topic })) => {
                let who = match (&self.user, pattern) {
                    (_, true) => Who::Pattern,
                    (None, false) => Who::General,
                    (Some(user), false) => Who::User(Arc::clone(user)),
                };
                self.topic(&Draft { number, text, who, access, topic }, &bytes);
            }
            Err(fault) => self.refuse(fault, &bytes),
        }
    }

    fn user(&mut self, name: &str, bytes: &Range<usize>) {
        if let Some(character) = pki::unsafe_character(name) {
            // Left out, what follows would be granted to the user before.
            let message = format!("the name of the user holds {character:?}");
            let fault = Fault::new(message, "no certificate has such a name; remove the user");
            self.refuse(fault, bytes);
        }
        self.user = Some(name.into());
    }

    fn topic(&mut self, draft: &Draft<'_>, bytes: &Range<usize>) {
        if draft.topic.starts_with("$share") {
            // Mosquitto applies no line to such topics; nothing is lost with a denial either.
            let fault = Fault::new(
                "policies judge the filter inside $share/<group>/",
                "write a policy on that filter with context.share_group, and leave the line out",
            );
            return self.file.untranslated.push(self.problem(fault, bytes));
        }
        let raw = match TopicFilter::parse(draft.topic) {
            Ok(raw) => raw,
            Err(violation) => {
                return self.refuse(Fault::new(violation.what, "correct the topic"), bytes);
            }
        };
        let mut access = draft.access;
        if self.dialect == Dialect::Mosquitto
            && draft.topic.starts_with("$SYS")
            && access.writes()
            && !is_bridge_state(&raw)
        {
            let fault = Fault::new(
                "below $SYS Mosquitto takes nothing but the states of bridges, and the policies not \
                 even those",
                "if there are bridges, write: pattern write $SYS/broker/connection/%c/state",
            );
            self.file.notes.push(self.problem(fault, bytes));
            if access == Access::Write {
                return;
            }
            access = Access::Read;
        }
        match AclFilter::parse(draft.topic, draft.who == Who::Pattern, self.dialect) {
            Ok(filter) => self.rule(draft, access, filter, bytes),
            Err(problem) => {
                let problem = untranslatable(self.source, &problem.to_string(), access, bytes);
                match access {
                    Access::Deny => self.unusable.push(problem.line()),
                    _ => self.file.untranslated.push(problem),
                }
            }
        }
    }

    fn rule(&mut self, draft: &Draft<'_>, access: Access, filter: AclFilter, bytes: &Range<usize>) {
        let mut note = |message: String, remedy| {
            let problem = self.source.problem(message, bytes.clone()).remedy(remedy);
            self.file.notes.push(problem);
        };
        let key = (draft.who.clone(), access, filter.clone());
        if let Some(first) = self.said.get(&key) {
            return note(format!("says the same as line {first}"), "it has no policy of its own");
        }
        self.said.insert(key, draft.number);
        if self.dialect == Dialect::Vernemq && draft.topic.starts_with(['+', '#']) {
            note(
                "VerneMQ takes a wildcard at the first level for `$SYS` and `$share` too, the \
                 policy does not"
                    .to_owned(),
                "write a policy if that is meant",
            );
        }
        self.file.rules.push(Rule {
            line: draft.number,
            bytes: bytes.clone(),
            quote: draft.text.trim().into(),
            who: draft.who.clone(),
            access,
            filter,
        });
    }

    fn refuse(&mut self, fault: Fault, bytes: &Range<usize>) {
        self.unusable.push(self.problem(fault, bytes).line());
    }

    fn problem(&self, fault: Fault, bytes: &Range<usize>) -> Problem {
        self.source.problem(fault.message, bytes.clone()).remedy(fault.remedy)
    }
}

/// A line that no policy says. To leave out a grant narrows; to leave out a denial would widen.
pub(super) fn untranslatable(
    source: &Source,
    why: &str,
    access: Access,
    bytes: &Range<usize>,
) -> Problem {
    source.problem(why, bytes.clone()).remedy(match access {
        Access::Deny => "without this denial the policies would permit more; write it another way",
        _ => "write a policy for what is meant, and leave the line out",
    })
}

/// A line on its way to a rule.
struct Draft<'a> {
    number: usize,
    text: &'a str,
    who: Who,
    access: Access,
    topic: &'a str,
}

fn is_bridge_state(filter: &TopicFilter) -> bool {
    TopicFilter::parse(BRIDGE_STATES)
        .is_ok_and(|states| Normalised::of(&states).covers(&Normalised::of(filter)))
}
