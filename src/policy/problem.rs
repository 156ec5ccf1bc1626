//! What is wrong with policies, shown where it is wrong.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// The most problems that one load reports.
pub(super) const PROBLEMS_MAX: usize = 50;

/// Why policies were not loaded: every problem found, up to a bound. There is at least one.
///
/// As a [`Diagnostic`] it draws each problem in the text of its policy; [`Self::lines`] is for
/// logs, where nothing can be drawn.
#[derive(Debug, thiserror::Error)]
pub struct LoadError {
    problems: Vec<Problem>,
    /// Problems beyond the bound.
    untold: usize,
}

impl LoadError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        let untold = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        Self { problems, untold }
    }

    /// A line for each problem: file, line, column, what is wrong, what to do.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let told = self.problems.iter().map(Problem::line);
        told.chain((self.untold > 0).then(|| format!("and {} more", self.untold)))
    }

    /// The problems, in the order of the files.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for LoadError {
    fn from(problem: Problem) -> Self {
        Self::new(vec![problem])
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = self.problems.len().saturating_add(self.untold);
        let plural = if problems == 1 { "problem" } else { "problems" };
        write!(f, "the policies cannot be loaded: {problems} {plural}")
    }
}

impl Diagnostic for LoadError {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub struct Problem {
    message: String,
    place: Option<Box<Place>>,
    remedy: Option<String>,
}

#[derive(Debug)]
struct Place {
    text: NamedSource<Arc<str>>,
    bytes: Range<usize>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, remedy: None }
    }

    /// Says where: bytes of the text of the named file.
    pub(super) fn at(mut self, name: &str, text: &Arc<str>, bytes: Range<usize>) -> Self {
        let text = NamedSource::new(name, Arc::clone(text));
        self.place = Some(Box::new(Place { text, bytes }));
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

    /// In one line: file, line, column, what is wrong, what to do.
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
        let before = place.text.inner().get(..place.bytes.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Some((place.text.name(), line, column))
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

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.remedy.as_ref().map(|remedy| Box::new(remedy) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|place| &place.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::underline(place.bytes.clone());
        Some(Box::new(std::iter::once(label)))
    }
}
