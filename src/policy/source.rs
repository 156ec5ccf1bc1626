//! Policy text as it lies on disk, and where in it something stands.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::Diagnostic;

use super::folder::{MANIFEST, Manifest};
use super::problem::{LoadError, Problem};
use super::scan::{locate, locate_word};
use crate::pki::files::open_regular;
use crate::pki::sha256_hex;

/// The file of a directory that declares groups and tags.
const PRINCIPALS_FILE: &str = "principals.toml";
/// Bytes of one file.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// Files in one directory that are read.
const FILES_MAX: usize = 4096;
/// Entries of one directory that are looked at.
const ENTRIES_MAX: usize = 1 << 16;
/// Folders inside each other that are looked at.
const DEPTH_MAX: usize = 16;
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

    /// A problem with a word, or with an operator.
    pub(super) fn word_problem(&self, message: impl Into<String>, word: &str) -> Problem {
        match locate_word(self.text(), word) {
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

/// Everything that a load reads of a policy folder, read once: what is checked is what is loaded.
#[derive(Debug)]
pub(super) struct PolicyFolder {
    /// The `*.cedar` files, in the order of their names.
    pub(super) policies: Vec<Source>,
    /// The `*.tsv` files, in the order of their names.
    pub(super) tables: Vec<Source>,
    pub(super) principals: Option<Source>,
    /// What lies there and is not read, though its name looks as if it should be.
    pub(super) left_out: Vec<Problem>,
}

impl PolicyFolder {
    /// Reads a policy folder.
    ///
    /// # Errors
    /// A folder or file that cannot be read, is empty, too large, or no UTF-8; no policy file, or
    /// too many files; policy text where it is not read; a manifest that does not fit.
    pub(super) fn read(dir: &Path) -> Result<Self, LoadError> {
        let unreadable = |path: &Path, error: &std::io::Error| {
            LoadError::from(Problem::new(format!("{} cannot be read: {error}", path.display())))
        };
        // Whatever the path leads to a moment later, the files come from one folder.
        let root = dir.canonicalize().map_err(|error| unreadable(dir, &error))?;
        let Listing { read, left_out } = Listing::of(dir, &root)?;
        let mut folder =
            Self { policies: Vec::new(), tables: Vec::new(), principals: None, left_out };
        let mut hashes = BTreeMap::new();
        let mut bytes = 0_usize;
        for (name, kind) in read {
            let (path, shown) = (root.join(&name), dir.join(&name));
            let real = path.canonicalize().map_err(|error| unreadable(&shown, &error))?;
            if !real.starts_with(&root) {
                let what = format!("{} is a link that leads out of the folder", shown.display());
                return Err(Problem::new(what).remedy("put the file itself there").into());
            }
            let source = read_named(&real, &shown)?;
            bytes = bytes.saturating_add(source.text.len());
            if bytes > BYTES_MAX {
                let what = format!(
                    "the files in {} are larger than {BYTES_MAX} bytes together",
                    dir.display()
                );
                return Err(Problem::new(what).remedy("divide the policies among brokers").into());
            }
            hashes.insert(name, sha256_hex(source.text.as_bytes()));
            match kind {
                Kind::Policies => folder.policies.push(source),
                Kind::Table => folder.tables.push(source),
                Kind::Principals => folder.principals = Some(source),
            }
        }
        let manifest = Manifest::read(&root, &hashes);
        let manifest = manifest.map_err(|error| unreadable(&dir.join(MANIFEST), &error))?;
        if let Manifest::Unfit(why) = manifest {
            return Err(Problem::new(format!("{}: {why}", dir.join(MANIFEST).display()))
                .remedy(
                    "is the folder copied only in part? Write it anew when it is complete: \
                     sha256sum *.cedar *.tsv principals.toml > policies.sha256; or remove it",
                )
                .into());
        }
        Ok(folder)
    }
}

/// What a file of a policy folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Policies,
    Table,
    Principals,
}

impl Kind {
    /// The kind of file that a load reads under this name; `None` when it reads none.
    pub(super) fn of(name: &OsStr) -> Option<Self> {
        let extension = Path::new(name).extension();
        if name == PRINCIPALS_FILE {
            Some(Self::Principals)
        } else if name.as_encoded_bytes().starts_with(b".") {
            None
        } else if extension.is_some_and(|it| it == "cedar") {
            Some(Self::Policies)
        } else {
            extension.is_some_and(|it| it == "tsv").then_some(Self::Table)
        }
    }
}

/// The entries of a policy folder.
struct Listing {
    /// Those that are read, in the order of their names.
    read: BTreeMap<OsString, Kind>,
    left_out: Vec<Problem>,
}

impl Listing {
    /// Sorts out the entries of a folder, which is shown as `dir`. Policy text that is not read may
    /// be a forbid that is missing: where it is sure to be some, nothing is loaded.
    fn of(dir: &Path, root: &Path) -> Result<Self, LoadError> {
        let mut listing = Self { read: BTreeMap::new(), left_out: Vec::new() };
        let mut problems = Vec::new();
        for entry in entries(root)? {
            let name = entry.file_name();
            let shown = dir.join(&name);
            if let Some(kind) = Kind::of(&name) {
                listing.read.insert(name, kind);
                if listing.read.len() > FILES_MAX {
                    let what = format!("{} holds more than {FILES_MAX} files", dir.display());
                    let remedy = "put the content of several into one";
                    return Err(Problem::new(what).remedy(remedy).into());
                }
                continue;
            }
            let hidden = name.as_encoded_bytes().starts_with(b".");
            let is_folder = entry.file_type().is_ok_and(|it| it.is_dir());
            if hidden && is_folder {
                continue;
            }
            let below = is_folder && !policy_folders(&entry.path())?.is_empty();
            let lower = name.to_string_lossy().to_lowercase();
            let ending = Path::new(&lower).extension();
            if below {
                let what = format!("the policies in {} are not read", shown.display());
                problems.push(Problem::new(what).remedy(format!(
                    "move them into {}, or the folder away from it",
                    dir.display()
                )));
            } else if ending.is_some_and(|it| it == "cedar" || it == "tsv")
                || lower == PRINCIPALS_FILE
            {
                let what = format!("{} is not read", shown.display());
                problems.push(Problem::new(what).remedy(
                    "policies are in *.cedar, cases in *.tsv, groups in principals.toml, all in \
                     lower case and none hidden: rename it, or move it away",
                ));
            } else if lower.contains(".cedar") && !hidden {
                let what =
                    format!("{} is not read: its name does not end in .cedar", shown.display());
                let found = Problem::new(what).remedy("rename it, or move it away").warning();
                listing.left_out.push(found);
            }
        }
        if !problems.is_empty() {
            return Err(LoadError::new(problems));
        }
        if listing.read.values().all(|kind| *kind != Kind::Policies) {
            return Err(no_policies(dir).into());
        }
        Ok(listing)
    }
}

fn no_policies(dir: &Path) -> Problem {
    Problem::new(format!("there is no *.cedar file in {}", dir.display()))
        .remedy("without a policy nothing is permitted: name the directory that has them")
}

/// The entries of a directory, in the order of their names.
fn entries(dir: &Path) -> Result<Vec<DirEntry>, LoadError> {
    let unreadable = |error: std::io::Error| {
        LoadError::from(Problem::new(format!("{} cannot be read: {error}", dir.display())))
    };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?);
        if entries.len() > ENTRIES_MAX {
            let what = format!("{} holds more than {ENTRIES_MAX} entries", dir.display());
            return Err(Problem::new(what).remedy("name a folder of policies").into());
        }
    }
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// The policy files of a directory, in the order of their names.
///
/// # Errors
/// A directory that cannot be read, or holds none or too many.
pub fn policy_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let is_policies = |entry: &DirEntry| Kind::of(&entry.file_name()) == Some(Kind::Policies);
    let found = entries(dir)?.into_iter().filter(is_policies);
    let paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    if paths.is_empty() { Err(no_policies(dir).into()) } else { Ok(paths) }
}

/// Every folder that holds `*.cedar` files, this one or below it. Links to folders are not
/// followed, so that none is met twice; hidden folders are left out.
///
/// # Errors
/// A folder that cannot be read; too many entries, or folders inside each other.
pub fn policy_folders(dir: &Path) -> Result<BTreeSet<PathBuf>, LoadError> {
    let mut found = BTreeSet::new();
    let mut open = vec![(dir.to_owned(), 0_usize)];
    while let Some((folder, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            let what = format!("{} is more than {DEPTH_MAX} folders deep", folder.display());
            return Err(Problem::new(what).remedy("name a folder of policies").into());
        }
        for entry in entries(&folder)? {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type().is_ok_and(|it| it.is_dir()) {
                open.push((entry.path(), depth + 1));
            } else if Path::new(&name)
                .extension()
                .is_some_and(|it| it.eq_ignore_ascii_case("cedar"))
            {
                found.insert(folder.clone());
            }
        }
    }
    Ok(found)
}

pub(super) fn read_file(path: &Path) -> Result<Source, LoadError> {
    read_named(path, path)
}

/// Reads a file that is known to its reader by another path.
fn read_named(path: &Path, shown: &Path) -> Result<Source, LoadError> {
    let name = shown.display();
    let bytes = read_bytes(path)
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

/// The bytes of a file; of one that is too large, one more than it may have.
pub(super) fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    open_regular(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn too_large(name: &str) -> Problem {
    Problem::new(format!("{name} is larger than {FILE_BYTES_MAX} bytes")).remedy(
        if name.ends_with(PRINCIPALS_FILE) {
            "name certificates by a field that confers their group: granted_by, not members"
        } else {
            "divide it into several files"
        },
    )
}
