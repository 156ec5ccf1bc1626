//! Policy text as it lies on disk, and the scan that makes it fit for the parser.
//!
//! Policy text is hostile: Cedar's parser and validator recurse, and a few hundred nested
//! brackets end the process by a stack overflow that nothing can catch. So nothing is parsed
//! before this scan has bounded how deep its syntax tree can become.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::problem::{LoadError, Problem};

/// The file of a directory that declares groups and tags.
const PRINCIPALS_FILE: &str = "principals.toml";
/// Bytes of one file.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// Bytes of one policy.
pub(super) const POLICY_BYTES_MAX: usize = 64 << 10;
/// Brackets inside each other.
pub(super) const BRACKET_DEPTH_MAX: usize = 32;
/// Operators on the way to the innermost bracket, since each can make the tree one level deeper.
pub(super) const OPERATORS_MAX: usize = 256;
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

    pub(super) fn problem(&self, message: impl Into<String>, bytes: Range<usize>) -> Problem {
        Problem::new(message).at(&self.name, &self.text, bytes)
    }
}

/// Reads every `*.cedar` file of a directory.
///
/// # Errors
/// As [`read_files`], and when there is none.
pub(super) fn read_dir(dir: &Path) -> Result<Vec<Source>, LoadError> {
    let sources = read_files(dir, "cedar")?;
    if sources.is_empty() {
        return Err(Problem::new(format!("there is no *.cedar file in {}", dir.display()))
            .remedy("without a policy nothing is permitted: name the directory that has them")
            .into());
    }
    Ok(sources)
}

/// Reads every file of a directory whose name ends in this, in the order of their names. Names
/// that begin with a dot are left out, and so is what lies in sub-directories.
///
/// # Errors
/// A directory or file that cannot be read, is empty, too large, or no UTF-8; too many files.
pub(super) fn read_files(dir: &Path, ending: &str) -> Result<Vec<Source>, LoadError> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        LoadError::from(Problem::new(format!("{} cannot be read: {error}", path.display())))
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))? {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
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
    let mut sources = Vec::with_capacity(paths.len());
    let mut bytes = 0_usize;
    for path in &paths {
        let source = read_file(path)?;
        bytes = bytes.saturating_add(source.text.len());
        if bytes > BYTES_MAX {
            return Err(Problem::new(format!(
                "the *.{ending} files in {} are larger than {BYTES_MAX} bytes together",
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

fn read_file(path: &Path) -> Result<Source, LoadError> {
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

/// Finds the policies in a text: each range ends after its `;`, the last one with the text.
///
/// # Errors
/// The first bound that the text exceeds.
pub(super) fn scan(source: &Source) -> Result<Vec<Range<usize>>, Problem> {
    if source.text.len() > FILE_BYTES_MAX {
        return Err(too_large(&source.name));
    }
    let scanner = Scanner { bytes: source.text.as_bytes(), at: 0 };
    let mut policies = Vec::new();
    let mut policy = Nesting::default();
    for token in scanner {
        let start = *policy.start.get_or_insert(token.bytes.start);
        if token.bytes.end.saturating_sub(start) > POLICY_BYTES_MAX {
            return Err(source
                .problem(
                    format!("a policy is longer than {POLICY_BYTES_MAX} bytes"),
                    start..start.saturating_add(1),
                )
                .remedy("is a `;` missing? Otherwise divide it"));
        }
        if token.kind == Kind::End {
            policies.push(start..token.bytes.end);
            policy = Nesting::default();
            continue;
        }
        policy.take(token.kind).map_err(|message| {
            source.problem(message, token.bytes).remedy("divide the policy into several")
        })?;
    }
    if let Some(start) = policy.start {
        policies.push(start..source.text.len());
    }
    Ok(policies)
}

/// How deep the tree of the policy can be at this point.
#[derive(Default)]
struct Nesting {
    start: Option<usize>,
    /// Operators on each level of brackets since the last comma there.
    operators: Vec<usize>,
    /// Operators outside all brackets.
    outermost: usize,
}

impl Nesting {
    fn take(&mut self, kind: Kind) -> Result<(), String> {
        match kind {
            Kind::Open => {
                self.operator();
                self.operators.push(0);
            }
            Kind::Close => {
                self.operators.pop();
            }
            Kind::Comma => *self.operators.last_mut().unwrap_or(&mut self.outermost) = 0,
            Kind::Operator => self.operator(),
            Kind::End | Kind::Other => return Ok(()),
        }
        if self.operators.len() > BRACKET_DEPTH_MAX {
            return Err(format!("brackets are nested deeper than {BRACKET_DEPTH_MAX}"));
        }
        if self.outermost + self.operators.iter().sum::<usize>() > OPERATORS_MAX {
            return Err(format!("more than {OPERATORS_MAX} operators in a row"));
        }
        Ok(())
    }

    fn operator(&mut self) {
        *self.operators.last_mut().unwrap_or(&mut self.outermost) += 1;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Close,
    Comma,
    /// `;`, which stands nowhere inside a policy.
    End,
    /// Whatever can make the tree deeper: an operator, a dot, `if`.
    Operator,
    Other,
}

struct Token {
    kind: Kind,
    bytes: Range<usize>,
}

/// Cedar's tokens, as coarse as the scan needs them.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at.checked_add(ahead)?).copied()
    }

    fn skip_while(&mut self, test: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&test) {
            self.at += 1;
        }
    }

    fn skip_string(&mut self) {
        while let Some(byte) = self.peek(0) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return;
            }
        }
        self.at = self.bytes.len();
    }
}

impl Iterator for Scanner<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace());
            if self.peek(0) != Some(b'/') || self.peek(1) != Some(b'/') {
                break;
            }
            self.skip_while(|byte| byte != b'\n' && byte != b'\r');
        }
        let start = self.at;
        let byte = self.peek(0)?;
        self.at += 1;
        let kind = match byte {
            b'(' | b'[' | b'{' => Kind::Open,
            b')' | b']' | b'}' => Kind::Close,
            b',' => Kind::Comma,
            b';' => Kind::End,
            b'"' => {
                self.skip_string();
                Kind::Other
            }
            b'&' | b'|' | b'=' | b'!' | b'<' | b'>' | b':' => {
                let doubled = byte != b'!' && self.peek(0) == Some(byte);
                if doubled || self.peek(0) == Some(b'=') {
                    self.at += 1;
                }
                Kind::Operator
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'.' | b'?' => Kind::Operator,
            _ if byte.is_ascii_alphanumeric() || byte == b'_' => {
                self.skip_while(|next| next.is_ascii_alphanumeric() || next == b'_');
                match self.bytes.get(start..self.at) {
                    Some(b"if") => Kind::Operator,
                    _ => Kind::Other,
                }
            }
            _ => Kind::Other,
        };
        // A byte of a longer character stands outside strings and comments only in text that
        // the parser refuses; the range then still has to fall on characters.
        if !byte.is_ascii() {
            self.skip_while(|next| !next.is_ascii());
        }
        Some(Token { kind, bytes: start..self.at })
    }
}

/// Where an entity literal's id stands in a policy, quotes included; `None` when it is written
/// with escapes.
pub(super) fn locate(policy: &str, entity_type: &str, id: &str) -> Option<Range<usize>> {
    let scanner = Scanner { bytes: policy.as_bytes(), at: 0 };
    let (mut named, mut colons) = (false, false);
    for token in scanner {
        let text = policy.get(token.bytes.clone())?;
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        if named && colons && inner == Some(id) {
            return Some(token.bytes);
        }
        colons = text == "::";
        named = (named && colons) || text == entity_type;
    }
    None
}
