//! The audit log and the diagnostic log: `[audit]` and `[log]`.

use std::path::PathBuf;

use super::kind::{Flag, Location, Word};
use super::quantity::count;
use super::section::Section;

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file.
    pub path: PathBuf,
    /// Events that may wait to be written.
    pub queue_max: u32,
}

/// The diagnostic log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least important level that is written.
    pub level: LogLevel,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// The importance of a line in the diagnostic log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs a person.
    Error,
    /// What may need one soon.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in the configuration, which `tracing` understands as well.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

const LOG_LEVEL: Word<LogLevel> = Word(&[
    (LogLevel::Error.as_str(), LogLevel::Error),
    (LogLevel::Warn.as_str(), LogLevel::Warn),
    (LogLevel::Info.as_str(), LogLevel::Info),
    (LogLevel::Debug.as_str(), LogLevel::Debug),
    (LogLevel::Trace.as_str(), LogLevel::Trace),
]);

pub(super) fn read_audit(
    section: &mut Section<'_>,
    path: &Location,
    default: &str,
) -> AuditSettings {
    AuditSettings {
        path: section.take("path", path, path.folder.join(default)),
        queue_max: section.take("queue_max", &count(16, 1_000_000), 8192),
    }
}

pub(super) fn read_log(section: &mut Section<'_>) -> LogSettings {
    LogSettings {
        level: section.take("level", &LOG_LEVEL, LogLevel::Info),
        json: section.take("json", &Flag, false),
    }
}
