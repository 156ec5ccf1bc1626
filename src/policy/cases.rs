//! Case tables: what a set of policies has to decide, written beside it and held at every load.
//!
//! A table is a `*.tsv` file of the policy folder: UTF-8, one case a line, seven columns with one
//! tab between them. Empty lines and lines that begin with `#` are left out. `-` stands for none.
//! A case never changes what is decided, so it is no part of the hash of the policies.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::bundle::Bundle;
use super::examiner::Examiner;
use super::permit::Denial;
use super::problem::{LoadError, PROBLEMS_MAX, Problem};
use super::question::{Answer, Part, Question, Words};
use super::scan;
use super::source::Source;

/// Lines of all tables of a folder, since each may cost an evaluation at every load.
const LINES_MAX: usize = 100_000;
/// The columns, in order.
const COLUMNS: [&str; 7] = ["principal", "groups", "action", "resource", "facts", "decision", "by"];
const GROUPS: usize = 1;
const DECISION: usize = 5;
const BY: usize = 6;

/// The case tables of one policy folder.
#[derive(Debug)]
pub struct CaseTables(Vec<Source>);

impl CaseTables {
    /// The tables of a folder; there may be none.
    ///
    /// # Errors
    /// Too many lines; a character that cannot be seen.
    pub(super) fn new(dir: &Path, tables: Vec<Source>) -> Result<Self, LoadError> {
        let lines: usize = tables.iter().map(|table| table.text.matches('\n').count()).sum();
        if lines > LINES_MAX {
            let many = format!(
                "the case tables in {} have more than {LINES_MAX} lines together",
                dir.display()
            );
            return Err(Problem::new(many).remedy("keep those that tell rules apart").into());
        }
        tables.iter().try_for_each(scan::check_characters)?;
        Ok(Self(tables))
    }

    /// True when there is no table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cases, in the order of files and lines; for a line that is none, what is wrong.
    pub fn cases(&self) -> impl Iterator<Item = Result<Case, Problem>> {
        self.0.iter().flat_map(Line::all).map(Case::parse)
    }

    /// Runs every case.
    ///
    /// # Errors
    /// The cases that fail, and the lines that are none.
    pub(super) fn check(&self, bundle: &Arc<Bundle>) -> Result<(), LoadError> {
        let mut examiner = Examiner::new(bundle);
        let failures = self.cases().filter_map(|case| match case {
            Ok(case) => case.run(&mut examiner).failure,
            Err(problem) => Some(problem),
        });
        // One more than a report holds, so that it says that there are more.
        let failures: Vec<Problem> = failures.take(PROBLEMS_MAX + 1).collect();
        if failures.is_empty() { Ok(()) } else { Err(LoadError::new(failures)) }
    }
}

/// One line of a table that is neither empty nor a comment.
#[derive(Clone, Debug)]
struct Line {
    table: Source,
    bytes: Range<usize>,
    /// From 1.
    number: usize,
}

impl Line {
    fn all(table: &Source) -> impl Iterator<Item = Self> {
        let mut start = 0;
        let lines = table.text.split('\n').enumerate().map(move |(index, text)| {
            let begin = start;
            start += text.len() + 1;
            let text = text.strip_suffix('\r').unwrap_or(text);
            (index + 1, begin, text)
        });
        lines.filter(|(_, _, text)| !text.trim().is_empty() && !text.starts_with('#')).map(
            |(number, begin, text)| Self {
                table: table.clone(),
                bytes: begin..begin + text.len(),
                number,
            },
        )
    }

    fn text(&self) -> &str {
        self.table.text.get(self.bytes.clone()).unwrap_or_default()
    }

    fn cells(&self) -> Result<[&str; COLUMNS.len()], Problem> {
        let cells: Vec<&str> = self.text().split('\t').collect();
        <[&str; COLUMNS.len()]>::try_from(cells).map_err(|cells| {
            let what =
                format!("a case has {} columns, this line has {}", COLUMNS.len(), cells.len());
            self.table.problem(what, self.bytes.clone()).remedy(format!(
                "write {}, with one tab between them and - for none",
                COLUMNS.join(", ")
            ))
        })
    }

    /// A problem with one cell.
    fn problem(&self, column: usize, message: impl Into<String>) -> Problem {
        let cells = self.text().split('\t');
        let before: usize = cells.clone().take(column).map(|cell| cell.len() + 1).sum();
        let start = self.bytes.start.saturating_add(before).min(self.bytes.end);
        let length = cells.clone().nth(column).map_or(0, str::len);
        self.table.problem(message, start..start + length)
    }
}

/// A question with the answer that it has to get.
#[derive(Clone, Debug)]
pub struct Case {
    /// The question.
    pub question: Question,
    /// The answer.
    pub expected: Expected,
    line: Line,
}

/// What a case came to.
#[derive(Debug)]
pub struct CaseRun {
    /// The answer.
    pub answer: Answer,
    /// Why the case fails, where it does.
    pub failure: Option<Problem>,
}

impl Case {
    fn parse(line: Line) -> Result<Self, Problem> {
        let cells = line.cells()?;
        let [.., decision, by] = cells;
        let question = Question::parse(&words(&line, cells)?).map_err(|error| {
            let column = match error.part {
                Part::Principal => 0,
                Part::Action => 2,
                Part::Resource => 3,
                Part::Facts => 4,
            };
            line.problem(column, error.message).remedy(error.remedy)
        })?;
        let expected = expected(&line, decision, by)?;
        Ok(Self { question, expected, line })
    }

    /// The file of the table, and the line, from 1.
    #[must_use]
    pub fn place(&self) -> (&str, usize) {
        (&self.line.table.name, self.line.number)
    }

    /// The question in words, as the table has it.
    #[must_use]
    pub fn words(&self) -> String {
        let words = self.line.cells().and_then(|cells| words(&self.line, cells));
        words.map_or_else(|_| self.line.text().to_owned(), |words| words.to_string())
    }

    /// Asks, past every cache and as the broker does; both have to give what is expected.
    pub fn run(&self, examiner: &mut Examiner) -> CaseRun {
        let (answer, judged) = examiner.ask_and_judge(&self.question);
        let failure = self
            .undeclared_group(examiner.bundle())
            .or_else(|| self.disagreement(&answer, &judged))
            .or_else(|| self.surprise(&answer, examiner.bundle()));
        CaseRun { answer, failure }
    }

    fn undeclared_group(&self, bundle: &Bundle) -> Option<Problem> {
        let error = self.question.undeclared_group(bundle)?;
        Some(self.line.problem(GROUPS, error.message).remedy(error.remedy))
    }

    fn disagreement(&self, answer: &Answer, judged: &Result<(), Denial>) -> Option<Problem> {
        let agree = match (answer, judged) {
            (Answer::Allowed(_), Ok(())) => true,
            (Answer::Denied(asked), Err(judged)) => asked == judged,
            _ => false,
        };
        let judged = match judged {
            Ok(()) => "allowed".to_owned(),
            Err(denial) => format!("denied: {denial}"),
        };
        let problem = || {
            let what = format!("{}: past the caches {answer}, with them {judged}", self.words());
            self.line.problem(0, what).remedy("this is a fault of the broker: please report it")
        };
        (!agree).then(problem)
    }

    fn surprise(&self, answer: &Answer, bundle: &Bundle) -> Option<Problem> {
        if self.expected.holds(answer) {
            return None;
        }
        let what = format!("{}: expected {}, but {answer}", self.words(), self.expected);
        let unknown = self.expected.policies().iter().find(|id| !bundle.has_policy(id));
        Some(match unknown {
            Some(id) => self.line.problem(BY, what).remedy(format!("there is no policy {id:?}")),
            None => {
                let column =
                    if self.expected.is_allowed() == answer.is_allowed() { BY } else { DECISION };
                self.line
                    .problem(column, what)
                    .remedy("correct the policies, or the case if the change is meant")
            }
        })
    }
}

/// What a case expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is allowed.
    Allowed(By),
    /// It is denied.
    Denied(By),
}

/// Which policies decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// It does not matter.
    Whatever,
    /// These and no others, in order; and no policy fails to evaluate.
    These(Vec<Arc<str>>),
}

impl Expected {
    fn holds(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Self::Allowed(By::Whatever), Answer::Allowed(_))
            | (Self::Denied(By::Whatever), Answer::Denied(_)) => true,
            (Self::Allowed(By::These(ids)), Answer::Allowed(policies)) => ids == policies,
            (Self::Denied(By::These(ids)), Answer::Denied(denial)) => {
                denial.errors.is_empty() && *ids == denial.policies
            }
            _ => false,
        }
    }

    const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    fn policies(&self) -> &[Arc<str>] {
        match self {
            Self::Allowed(By::These(ids)) | Self::Denied(By::These(ids)) => ids,
            Self::Allowed(By::Whatever) | Self::Denied(By::Whatever) => &[],
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(By::Whatever) => f.write_str("allowed"),
            Self::Allowed(By::These(ids)) => write!(f, "allowed by {}", ids.join(", ")),
            Self::Denied(By::Whatever) => f.write_str("denied"),
            Self::Denied(By::These(ids)) if ids.is_empty() => {
                f.write_str("denied: no policy permits it")
            }
            Self::Denied(By::These(ids)) => write!(f, "denied: forbidden by {}", ids.join(", ")),
        }
    }
}

fn words<'a>(line: &Line, cells: [&'a str; COLUMNS.len()]) -> Result<Words<'a>, Problem> {
    let [principal, groups, action, resource, facts, ..] = cells;
    let list = |cell: &'a str, separator: char| {
        let listed = if cell == "-" { "" } else { cell };
        listed.split(separator).filter(|word| !word.is_empty())
    };
    let facts = list(facts, ' ').map(|fact| {
        fact.split_once('=').ok_or_else(|| {
            line.problem(4, format!("{fact:?} is no fact"))
                .remedy("write name=value, with a space between facts, or - for none")
        })
    });
    Ok(Words {
        principal,
        groups: list(groups, ',').collect(),
        action,
        resource,
        facts: facts.collect::<Result<_, _>>()?,
    })
}

fn expected(line: &Line, decision: &str, by: &str) -> Result<Expected, Problem> {
    let expected = match decision {
        "allow" => Expected::Allowed,
        "deny" => Expected::Denied,
        other => {
            let problem = line.problem(DECISION, format!("{other:?} is no decision"));
            return Err(problem.remedy("write allow or deny"));
        }
    };
    let by = match (by, decision) {
        ("*", _) => By::Whatever,
        ("-", "allow") => {
            let problem = line.problem(BY, "nothing is allowed without a policy that permits it");
            return Err(problem.remedy("name the policies, or write * for any"));
        }
        ("-", _) => By::These(Vec::new()),
        (ids, _) if ids.split(',').any(str::is_empty) => {
            let problem = line.problem(BY, format!("{ids:?} names no policies"));
            return Err(problem.remedy(
                "write their ids with commas between them, - where nothing forbids it, * for any",
            ));
        }
        (ids, _) => {
            let mut ids: Vec<Arc<str>> = ids.split(',').map(Arc::from).collect();
            ids.sort();
            ids.dedup();
            By::These(ids)
        }
    };
    Ok(expected(by))
}

#[cfg(test)]
mod tests;
