//! What is wrong with policies, shown where it is wrong.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::drawing::{Drawing, Excerpt, Tone};

/// The most problems that one load reports.
pub(super) const PROBLEMS_MAX: usize = 50;

/// Problems, up to a bound.
#[derive(Debug, Default)]
pub struct Problems {
    told: Vec<Problem>,
    /// Problems beyond the bound.
    untold: usize,
}

impl Problems {
    /// Takes in others, which come first.
    pub(super) fn put_first(&mut self, others: Vec<Problem>) {
        let untold = self.untold;
        *self = others.into_iter().chain(std::mem::take(&mut self.told)).collect();
        self.untold = self.untold.saturating_add(untold);
    }

    /// Those that are told.
    #[must_use]
    pub fn told(&self) -> &[Problem] {
        &self.told
    }

    /// How many there are, told or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.told.len().saturating_add(self.untold)
    }

    /// A line for each: file, line, column, what is wrong, what to do. For logs, where nothing can
    /// be drawn.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let told = self.told.iter().map(Problem::line);
        told.chain((self.untold > 0).then(|| format!("and {} more", self.untold)))
    }

    /// Draws each in the text of its policy, in colours for a terminal only.
    #[must_use]
    pub fn draw(&self, coloured: bool) -> String {
        let mut drawn: Vec<String> =
            self.told.iter().map(|problem| problem.draw(coloured)).collect();
        drawn.extend((self.untold > 0).then(|| format!("and {} more\n", self.untold)));
        drawn.join("\n")
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(found: I) -> Self {
        let mut found = found.into_iter();
        let told = found.by_ref().take(PROBLEMS_MAX).collect();
        Self { told, untold: found.count() }
    }
}

/// Why policies were not loaded: every problem found, up to a bound. There is at least one.
#[derive(Debug, thiserror::Error)]
pub struct LoadError(Problems);

impl LoadError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(problems.into_iter().collect())
    }

    /// See [`Problems::lines`].
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.lines()
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.0
    }
}

impl From<Problem> for LoadError {
    fn from(problem: Problem) -> Self {
        Self::new(vec![problem])
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = self.0.count();
        let plural = if problems == 1 { "problem" } else { "problems" };
        write!(f, "the policies cannot be loaded: {problems} {plural}")
    }
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub struct Problem {
    message: String,
    place: Option<Box<Place>>,
    remedy: Option<String>,
    severity: Severity,
}

/// Whether a problem keeps policies from being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    Warning,
}

#[derive(Debug)]
struct Place {
    file: Box<str>,
    text: Arc<str>,
    bytes: Range<usize>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, remedy: None, severity: Severity::Error }
    }

    /// Says where: bytes of the text of the named file.
    pub(super) fn at(mut self, name: &str, text: &Arc<str>, bytes: Range<usize>) -> Self {
        let place = Place { file: name.into(), text: Arc::clone(text), bytes };
        self.place = Some(Box::new(place));
        self
    }

    /// Worth a look, but no reason not to load.
    pub(super) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Says what to do.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// File, line, column, what is wrong, what to do.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{self}; {remedy}"),
            None => self.to_string(),
        }
    }

    /// File, line and column, both from 1, the column in characters.
    #[must_use]
    pub fn location(&self) -> Option<(&str, usize, usize)> {
        let place = self.place.as_ref()?;
        let before = place.text.get(..place.bytes.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Some((&place.file, line, column))
    }

    /// The text that it is about.
    pub(super) fn marked(&self) -> Option<&str> {
        let place = self.place.as_ref()?;
        place.text.get(place.bytes.clone())
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// Draws it in the text of its policy, in colours for a terminal only.
    #[must_use]
    pub fn draw(&self, coloured: bool) -> String {
        let found = self.place.as_ref().and_then(|place| {
            let Place { file, text, bytes } = &**place;
            let (excerpt, start) = Excerpt::around(file, text, bytes)?;
            let bytes = bytes.start.saturating_sub(start)..bytes.end.saturating_sub(start);
            Some((excerpt, vec![(bytes, None)]))
        });
        let (excerpt, marks) =
            found.map_or((None, Vec::new()), |(excerpt, marks)| (Some(excerpt), marks));
        let drawing = Drawing {
            tone: match self.severity {
                Severity::Error => Tone::Bad,
                Severity::Warning => Tone::Warning,
            },
            message: if excerpt.is_some() { self.message.clone() } else { self.to_string() },
            excerpt,
            marks,
            remedy: self.remedy.clone(),
        };
        drawing.draw(coloured)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line, column)) = self.location() {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (file, line, column) = match self.location() {
            Some((file, line, column)) => (Some(file), Some(line), Some(column)),
            None => (None, None, None),
        };
        let mut problem = serializer.serialize_struct("Problem", 5)?;
        problem.serialize_field("file", &file)?;
        problem.serialize_field("line", &line)?;
        problem.serialize_field("column", &column)?;
        problem.serialize_field("message", &self.message)?;
        problem.serialize_field("remedy", &self.remedy)?;
        problem.end()
    }
}
