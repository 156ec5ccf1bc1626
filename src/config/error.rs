//! What is wrong with a configuration: always a key, a place and a remedy.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};

/// The most problems that are reported at once.
const PROBLEMS_MAX: usize = 50;
/// Columns of a drawn report.
const RENDER_WIDTH: usize = 100;

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.lines())]
pub struct ConfigError {
    problems: Vec<Problem>,
    unlisted: usize,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::position);
        let unlisted = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        Self { problems, unlisted }
    }

    /// The problems, at least one and at most 50.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Draws the problems for a person: the source line, an arrow, the remedy. With `colour`
    /// for a terminal only.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let theme =
            if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(RENDER_WIDTH)
            .with_links(false)
            .with_context_lines(1);
        let mut drawn = String::new();
        for problem in &self.problems {
            if handler.render_report(&mut drawn, &Drawing(problem)).is_err() {
                drawn.push_str(&problem.to_string());
            }
            drawn.push('\n');
        }
        drawn.push_str(&self.remainder());
        drawn
    }

    fn lines(&self) -> String {
        let mut lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        if self.unlisted > 0 {
            lines.push(self.remainder());
        }
        lines.join("\n")
    }

    fn remainder(&self) -> String {
        if self.unlisted == 0 { String::new() } else { format!("and {} more", self.unlisted) }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The file, or `--set` for an override.
    pub source: String,
    /// Line and column, from 1; `None` where there is no place to point at.
    pub line_and_column: Option<(u32, u32)>,
    /// The dotted key; empty for the file as a whole.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub remedy: String,
    pub(super) excerpt: Option<Excerpt>,
}

/// The text that a problem points at.
#[derive(Clone, Debug)]
pub(super) struct Excerpt {
    /// Which text: the file is first, then the overrides in their order.
    pub(super) text: usize,
    pub(super) source: Arc<NamedSource<String>>,
    pub(super) span: Range<usize>,
}

impl Problem {
    fn position(&self) -> (usize, usize) {
        self.excerpt.as_ref().map_or((0, 0), |excerpt| (excerpt.text, excerpt.span.start))
    }

    fn headline(&self) -> String {
        if self.key.is_empty() {
            self.message.clone()
        } else {
            format!("{} {}", self.key, self.message)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.source)?;
        if let Some((line, column)) = self.line_and_column {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}; {}", self.headline(), self.remedy)
    }
}

/// A problem as miette wants it.
#[derive(Debug)]
struct Drawing<'a>(&'a Problem);

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.excerpt.is_none() {
            write!(f, "{}: ", self.0.source)?;
        }
        f.write_str(&self.0.headline())
    }
}

impl std::error::Error for Drawing<'_> {}

impl Diagnostic for Drawing<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.0.remedy))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.0.excerpt.as_ref().map(|excerpt| &*excerpt.source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.0.excerpt.as_ref()?;
        let label = LabeledSpan::new_with_span(Some("here".into()), excerpt.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}
