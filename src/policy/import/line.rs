//! One line of an ACL file, taken apart as the broker does whose file it is.
//!
//! Mosquitto: `aclfile__parse` in `src/security_default.c` of 2.0, `plugins/acl-file/acl_parse.c`
//! of 2.1. VerneMQ: `parse_acl_line` in `apps/vmq_acl/src/vmq_acl.erl`.

use super::acl_file::Access;

/// A line, taken apart.
pub(super) enum Statement<'a> {
    User(&'a str),
    Topic { pattern: bool, access: Access, topic: &'a str },
}

/// What is wrong with a line, or worth knowing of it.
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) remedy: &'static str,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, remedy: &'static str) -> Self {
        Self { message: message.into(), remedy }
    }
}

/// Words are separated by spaces; white space of any kind is taken off the end of a line and off
/// both ends of its last part. `topic read` alone is the topic `read`.
pub(super) fn mosquitto(line: &str) -> Result<Option<Statement<'_>>, Fault> {
    const SPACE: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];
    let line = line.trim_end_matches(SPACE);
    if line.starts_with('#') {
        return Ok(None);
    }
    let line = line.trim_start_matches(' ');
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim_start_matches(' ');
    match word {
        "" => Ok(None),
        "user" => match rest.trim_start_matches(SPACE) {
            "" => Err(Fault::new("a user without a name", "write: user NAME")),
            name => Ok(Some(Statement::User(name))),
        },
        "topic" | "pattern" => {
            let (access, topic) = match rest.split_once(' ') {
                None => (Access::ReadWrite, rest),
                Some((word, topic)) => {
                    let access = Access::named(word).ok_or_else(|| {
                        let message = format!("{word:?} is no kind of access");
                        Fault::new(message, "write read, write, readwrite, deny, or nothing")
                    })?;
                    (access, topic.trim_start_matches(SPACE))
                }
            };
            match topic {
                "" => Err(Fault::new("no topic", "write: topic [read|write] TOPIC")),
                topic => Ok(Some(Statement::Topic { pattern: word == "pattern", access, topic })),
            }
        }
        word => Err(unknown(word)),
    }
}

/// The words are separated by one space each; there are `read` and `write` and no other access.
pub(super) fn vernemq(line: &str) -> Result<Option<Statement<'_>>, Fault> {
    const SPACE: [char; 2] = [' ', '\t'];
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let trimmed = rest.trim_matches(SPACE);
    match (word, trimmed) {
        ("user", "") => Err(Fault::new("a user without a name", "write: user NAME")),
        ("user", name) => Ok(Some(Statement::User(name))),
        ("topic" | "pattern", _) => {
            let (access, topic) = match rest.split_once(' ') {
                Some(("read", topic)) => (Access::Read, topic.trim_matches(SPACE)),
                Some(("write", topic)) => (Access::Write, topic.trim_matches(SPACE)),
                _ => (Access::ReadWrite, trimmed),
            };
            match topic.split_once(' ') {
                Some((taken, _)) if Access::named(taken).is_some() => Err(Fault::new(
                    format!("VerneMQ takes {taken:?} for a part of the topic here"),
                    "write `topic read` or `topic write`, with one space, or neither for both",
                )),
                _ if topic.is_empty() => {
                    Err(Fault::new("no topic", "write: topic [read|write] TOPIC"))
                }
                _ => Ok(Some(Statement::Topic { pattern: word == "pattern", access, topic })),
            }
        }
        (word, _) => Err(unknown(word)),
    }
}

fn unknown(word: &str) -> Fault {
    let word: String = word.chars().take(32).collect();
    Fault::new(
        format!("a line begins with {word:?}"),
        "write topic, pattern or user; a comment has its # at the very beginning",
    )
}
