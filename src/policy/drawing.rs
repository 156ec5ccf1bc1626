//! How a passage of a policy file is shown to a person: some lines of it, with marks in them.

use std::fmt;
use std::ops::Range;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError,
    MietteSpanContents, Severity, SourceCode, SourceSpan, SpanContents,
};
use serde::{Deserialize, Serialize};

use crate::harmless::{harmless, masked};

/// Bytes of an excerpt: what is longer is named by its place only.
const EXCERPT_BYTES_MAX: usize = 8 << 10;

/// Some whole lines of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// The name of the file.
    pub file: String,
    /// The number of the first line, from 1.
    pub first_line: usize,
    /// The lines.
    pub text: String,
}

impl Excerpt {
    /// The lines of a file that these bytes touch, and one more on either side; with the bytes as
    /// they stand in the excerpt. `None` when that is too much to show.
    pub(super) fn around(file: &str, text: &str, bytes: &Range<usize>) -> Option<(Self, usize)> {
        let before = text.get(..bytes.start)?;
        let line_start = |text: &str| text.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let own_line = line_start(before);
        let start = line_start(before.get(..own_line.saturating_sub(1)).unwrap_or_default());
        let line_end = |from: usize| {
            let end = text.get(from..).and_then(|rest| rest.find('\n'));
            end.map_or(text.len(), |at| from.saturating_add(at))
        };
        // A passage that takes in a line feed ends with the line before it.
        let last = if bytes.is_empty() { bytes.end } else { bytes.end.saturating_sub(1) };
        let own_end = line_end(last);
        let end = if own_end < text.len() { line_end(own_end.saturating_add(1)) } else { own_end };
        let lines = text.get(start..end)?;
        if lines.len() > EXCERPT_BYTES_MAX {
            return None;
        }
        let first_line = text.get(..start)?.matches('\n').count().saturating_add(1);
        Some((Self { file: file.to_owned(), first_line, text: lines.to_owned() }, start))
    }
}

/// How serious a drawing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Bad,
    Warning,
    Good,
    Plain,
}

/// Something said about a passage.
pub(super) struct Drawing {
    pub(super) tone: Tone,
    pub(super) message: String,
    pub(super) excerpt: Option<Excerpt>,
    /// Bytes of the excerpt, and what is said about them.
    pub(super) marks: Vec<(Range<usize>, Option<String>)>,
    pub(super) remedy: Option<String>,
}

impl Drawing {
    /// Draws it, in colours for a terminal only. Nothing in it acts on the terminal.
    pub(super) fn draw(self, coloured: bool) -> String {
        let mut theme =
            if coloured { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        match self.tone {
            Tone::Bad | Tone::Warning => {}
            Tone::Good => {
                "✓".clone_into(&mut theme.characters.advice);
                theme.styles.advice = theme.styles.highlights.last().copied().unwrap_or_default();
            }
            Tone::Plain => "·".clone_into(&mut theme.characters.advice),
        }
        let handler = GraphicalReportHandler::new_themed(theme)
            // A place that is broken over two lines cannot be copied.
            .with_wrap_lines(false)
            .with_links(false)
            .with_context_lines(1);
        let harmless = Harmless::of(self);
        let mut drawn = String::new();
        if handler.render_report(&mut drawn, &harmless).is_err() {
            drawn = harmless.to_string();
        }
        let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
        lines.join("\n") + "\n"
    }
}

/// A drawing without anything that could act on a terminal, as miette takes it.
#[derive(Debug)]
struct Harmless {
    severity: Severity,
    message: String,
    source: Option<Lines>,
    labels: Vec<LabeledSpan>,
    remedy: Option<String>,
}

impl Harmless {
    fn of(drawing: Drawing) -> Self {
        let Drawing { tone, message, excerpt, marks, remedy } = drawing;
        let label = |(bytes, note): (Range<usize>, Option<String>)| {
            LabeledSpan::new_with_span(note.map(|note| harmless(&note)), bytes)
        };
        Self {
            severity: match tone {
                Tone::Bad => Severity::Error,
                Tone::Warning => Severity::Warning,
                Tone::Good | Tone::Plain => Severity::Advice,
            },
            message: harmless(&message),
            source: excerpt.map(|excerpt| Lines {
                file: harmless(&excerpt.file),
                before: excerpt.first_line.saturating_sub(1),
                text: masked(&excerpt.text),
            }),
            labels: marks.into_iter().map(label).collect(),
            remedy: remedy.map(|remedy| harmless(&remedy)),
        }
    }
}

impl fmt::Display for Harmless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Harmless {}

impl Diagnostic for Harmless {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.remedy.as_ref().map(|remedy| Box::new(remedy) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|lines| lines as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source.as_ref()?;
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// Lines out of the middle of a file, which keep their numbers.
#[derive(Debug)]
struct Lines {
    file: String,
    before: usize,
    text: String,
}

impl SourceCode for Lines {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let read = self.text.as_str().read_span(span, lines_before, lines_after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.clone(),
            read.data(),
            *read.span(),
            read.line().saturating_add(self.before),
            read.column(),
            read.line_count(),
        )))
    }
}
