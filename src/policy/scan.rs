//! The scan that makes policy text fit for the parser.
//!
//! Policy text is hostile: Cedar's parser and validator recurse, and a few hundred nested
//! brackets end the process by a stack overflow that nothing can catch. So nothing is parsed
//! before this scan has bounded how deep its syntax tree can become.

use std::ops::Range;

use super::problem::Problem;
use super::source::{FILE_BYTES_MAX, Source, too_large};
use crate::harmless::is_harmful;

/// Bytes of one policy.
pub(super) const POLICY_BYTES_MAX: usize = 64 << 10;
/// Brackets inside each other.
pub(super) const BRACKET_DEPTH_MAX: usize = 32;
/// Operators on the way to the innermost bracket, since each can make the tree one level deeper.
pub(super) const OPERATORS_MAX: usize = 256;

/// Finds the policies in a text: each range ends after its `;`, the last one with the text.
///
/// # Errors
/// The first bound that the text exceeds.
pub(super) fn scan(source: &Source) -> Result<Vec<Range<usize>>, Problem> {
    if source.text.len() > FILE_BYTES_MAX {
        return Err(too_large(&source.name));
    }
    check_characters(source)?;
    let mut policies = Vec::new();
    let mut policy = Nesting::default();
    for token in tokens(&source.text) {
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

/// Refuses characters that show a reader another text than the parser reads: what cannot be seen,
/// what changes the order of the rest, and what ends a line for one of the two only.
///
/// # Errors
/// The first such character.
pub(super) fn check_characters(source: &Source) -> Result<(), Problem> {
    check_mark(source)?;
    let text = &source.text;
    let lone = |at: usize| text.as_bytes().get(at + 1) != Some(&b'\n');
    let found = text.char_indices().find(|(at, character)| match character {
        '\n' | '\t' => false,
        '\r' => lone(*at),
        _ => is_harmful(*character),
    });
    let Some((at, character)) = found else { return Ok(()) };
    let message = format!("the character U+{:04X} may not stand here", u32::from(character));
    Err(source.problem(message, at..at + character.len_utf8()).remedy(if character == '\r' {
        "end lines with a line feed, or with a carriage return and a line feed"
    } else {
        "remove it: it cannot be seen, or changes how the rest is shown"
    }))
}

/// Refuses a byte order mark, which some editors write at the beginning of a file.
///
/// # Errors
/// When there is one.
pub(super) fn check_mark(source: &Source) -> Result<(), Problem> {
    if source.text.starts_with('\u{FEFF}') {
        let problem = source.problem("the file begins with a byte order mark (U+FEFF)", 0..3);
        return Err(problem.remedy("save it as UTF-8 without a byte order mark (BOM)"));
    }
    Ok(())
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

/// What a token does to the nesting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    Comma,
    /// `;`, which stands nowhere inside a policy.
    End,
    /// Whatever can make the tree deeper: an operator, a dot, `if`.
    Operator,
    Other,
}

/// One token, comments left out.
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) bytes: Range<usize>,
}

/// The tokens of a text.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = Token> + '_ {
    Scanner { bytes: text.as_bytes(), at: 0 }
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
            self.skip_while(|byte| byte != b'\n');
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

/// The comments of a text, in order, without the blanks around them.
pub(super) fn comments(text: &str) -> Vec<&str> {
    let mut comments = Vec::new();
    let mut end = 0;
    // Whatever is no token is a blank or a comment.
    let starts =
        tokens(text).map(|token| token.bytes).chain(std::iter::once(text.len()..text.len()));
    for token in starts {
        let between = text.get(end..token.start).unwrap_or_default();
        comments.extend(between.lines().map(str::trim).filter(|line| !line.is_empty()));
        end = token.end;
    }
    comments
}

/// The words of a text that stand outside strings and comments, in order.
pub(super) fn words(policy: &str) -> impl Iterator<Item = &str> {
    tokens(policy).filter_map(|token| policy.get(token.bytes)).filter(|text| is_word(text))
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// Where a word or an operator stands first in a policy; an attribute also in quotes.
pub(super) fn locate_word(policy: &str, name: &str) -> Option<Range<usize>> {
    let quoted = format!("\"{name}\"");
    let token = tokens(policy).find(|token| {
        policy.get(token.bytes.clone()).is_some_and(|text| text == name || text == quoted)
    });
    token.map(|token| token.bytes)
}

/// Where an entity literal's id stands in a policy, quotes included; `None` when it is written
/// with escapes.
pub(super) fn locate(policy: &str, entity_type: &str, id: &str) -> Option<Range<usize>> {
    let (mut named, mut colons) = (false, false);
    for token in tokens(policy) {
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
