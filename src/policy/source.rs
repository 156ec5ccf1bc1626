//! Policy text as it lies on disk, and where in it something stands.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::Diagnostic;

use super::problem::{LoadError, Problem};
use super::scan::locate;

/// The file of a directory that declares groups and tags.
const PRINCIPALS_FILE: &str = "principals.toml";
/// Bytes of one file.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// Files in one directory.
const FILES_MAX: usize = 4096;
/// Bytes of all files together.
const BYTES_MAX: usize = 256 << 20;

/// The text of one file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) name: Arc<str>,
    pub(super) text: Arc<str>,
}

impl Source {
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// A policy in it.
    pub(super) fn place(&self, range: Range<usize>) -> Place {
        Place { source: self.clone(), range }
    }

    pub(super) fn problem(&self, message: impl Into<String>, bytes: Range<usize>) -> Problem {
        Problem::new(message).at(&self.name, &self.text, bytes)
    }
}

/// Where a policy stands: all of its text is here, shared with the others of its file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) source: Source,
    pub(super) range: Range<usize>,
}

impl Place {
    pub(super) fn text(&self) -> &str {
        self.source.text.get(self.range.clone()).unwrap_or_default()
    }

    /// A problem with the policy as a whole: its first line is marked.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        let line = self.text().lines().next().map_or(0, str::len);
        self.problem_within(message, 0..line)
    }

    /// A problem with these bytes of the policy.
    pub(super) fn problem_within(
        &self,
        message: impl Into<String>,
        bytes: Range<usize>,
    ) -> Problem {
        let at = |offset: usize| self.range.start.saturating_add(offset).min(self.range.end);
        self.source.problem(message, at(bytes.start)..at(bytes.end))
    }

    /// A problem with one entity literal.
    pub(super) fn literal_problem(
        &self,
        message: impl Into<String>,
        kind: &str,
        id: &str,
    ) -> Problem {
        match locate(self.text(), kind, id) {
            Some(bytes) => self.problem_within(message, bytes),
            None => self.problem(message),
        }
    }

    /// A problem that Cedar found.
    pub(super) fn diagnostic(&self, found: &dyn Diagnostic) -> Problem {
        let label = found.labels().and_then(|mut labels| labels.next());
        let problem = match label {
            Some(label) => {
                let end = label.offset().saturating_add(label.len());
                self.problem_within(found.to_string(), label.offset()..end)
            }
            None => self.problem(found.to_string()),
        };
        match found.help() {
            Some(help) => problem.remedy(help.to_string()),
            None => problem,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.problem("").location() {
            Some((file, line, column)) => write!(f, "{file}:{line}:{column}"),
            None => f.write_str(&self.source.name),
        }
    }
}

/// Reads every `*.cedar` file of a directory.
///
/// # Errors
/// As [`policy_files`], and files that cannot be read, are empty, too large, or no UTF-8.
pub(super) fn read_dir(dir: &Path) -> Result<Vec<Source>, LoadError> {
    read_all(dir, &policy_files(dir)?)
}

/// The policy files of a directory, in the order of their names.
///
/// # Errors
/// A directory that cannot be read, or holds none or too many.
pub fn policy_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let paths = files(dir, "cedar")?;
    if paths.is_empty() {
        return Err(Problem::new(format!("there is no *.cedar file in {}", dir.display()))
            .remedy("without a policy nothing is permitted: name the directory that has them")
            .into());
    }
    Ok(paths)
}

/// Reads every file of a directory whose name ends in this, in the order of their names.
///
/// # Errors
/// A directory or file that cannot be read, is empty, too large, or no UTF-8; too many files.
pub(super) fn read_files(dir: &Path, ending: &str) -> Result<Vec<Source>, LoadError> {
    read_all(dir, &files(dir, ending)?)
}

/// Files whose names begin with a dot are left out, and so is what lies in sub-directories.
fn files(dir: &Path, ending: &str) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error: std::io::Error| {
        LoadError::from(Problem::new(format!("{} cannot be read: {error}", dir.display())))
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == ending) {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(Problem::new(format!(
                "{} holds more than {FILES_MAX} *.{ending} files",
                dir.display()
            ))
            .remedy("put the content of several into one")
            .into());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_all(dir: &Path, paths: &[PathBuf]) -> Result<Vec<Source>, LoadError> {
    let mut sources = Vec::with_capacity(paths.len());
    let mut bytes = 0_usize;
    for path in paths {
        let source = read_file(path)?;
        bytes = bytes.saturating_add(source.text.len());
        if bytes > BYTES_MAX {
            return Err(Problem::new(format!(
                "the files in {} are larger than {BYTES_MAX} bytes together",
                dir.display()
            ))
            .into());
        }
        sources.push(source);
    }
    Ok(sources)
}

/// Reads the file of a directory that declares groups and tags; `None` when there is none.
///
/// # Errors
/// A file that cannot be read, is empty, too large, or no UTF-8; a link that leads nowhere.
pub(super) fn read_principals(dir: &Path) -> Result<Option<Source>, LoadError> {
    let path = dir.join(PRINCIPALS_FILE);
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => read_file(&path).map(Some),
    }
}

pub(super) fn read_file(path: &Path) -> Result<Source, LoadError> {
    let name = path.display();
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| Problem::new(format!("{name} cannot be read: {error}")))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(too_large(&name.to_string()).into());
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| Problem::new(format!("{name} is no UTF-8: {}", error.utf8_error())))?;
    if text.trim().is_empty() {
        return Err(Problem::new(format!("{name} is empty"))
            .remedy("was it cut off while it was written? Remove it if it is not needed")
            .into());
    }
    Ok(Source::new(&name.to_string(), &text))
}

pub(super) fn too_large(name: &str) -> Problem {
    Problem::new(format!("{name} is larger than {FILE_BYTES_MAX} bytes"))
        .remedy("divide it into several files")
}
