//! From a file to a configuration: read within bounds, parsed, and checked as a whole.

use std::cell::RefCell;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::file::{FILE_BYTES_MAX, File};
use super::section::{Origin, Report, Section};

/// Reads the file at `path`, and a configuration from its name, its text and its folder. Beside it
/// a warning, where others can change the file.
///
/// # Errors
/// When it cannot be read, is too large or no UTF-8; and what `from_text` finds.
pub(super) fn load<T>(
    path: &Path,
    from_text: impl FnOnce(&str, &str, &Path) -> Result<T, ConfigError>,
) -> Result<(T, Option<String>), ConfigError> {
    let Typed { name, text, folder, is_open } = Typed::read(path)?;
    Ok((from_text(&name, &text, &folder)?, is_open))
}

/// A configuration file as it was found.
struct Typed {
    name: String,
    text: String,
    folder: PathBuf,
    /// A warning, where others can change it.
    is_open: Option<String>,
}

impl Typed {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or no UTF-8.
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let unreadable = |message: String, remedy: &str| {
            ConfigError::new(vec![Problem {
                source: name.clone(),
                line_and_column: None,
                key: String::new(),
                message,
                remedy: remedy.to_owned(),
                excerpt: None,
            }])
        };
        let read = || -> std::io::Result<(Vec<u8>, u32, PathBuf)> {
            let file = fs::File::open(path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut content = Vec::new();
            file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
            let folder = std::path::absolute(path)?.parent().map(Path::to_path_buf);
            Ok((content, mode, folder.unwrap_or_default()))
        };
        let (content, mode, folder) = read().map_err(|error| {
            unreadable(format!("cannot be read: {error}"), "name a file that the broker may read")
        })?;
        if content.len() > FILE_BYTES_MAX {
            return Err(unreadable("is larger than 1 MiB".into(), "name a configuration file"));
        }
        let is_open = (mode & 0o022 != 0)
            .then(|| format!("{name} can be changed by users other than its owner"));
        let text = String::from_utf8(content)
            .map_err(|_| unreadable("is not UTF-8".into(), "save it as UTF-8"))?;
        Ok(Self { name, text, folder, is_open })
    }
}

/// What is told of a configuration besides what it means.
pub(super) struct Told {
    pub(super) origins: Vec<Origin>,
    pub(super) warnings: Vec<String>,
}

/// Parses a text and reads it, whole or not at all.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn checked<T>(
    name: &str,
    text: &str,
    overrides: &[String],
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> Result<(T, Told), ConfigError> {
    let file = File::parse(name, text, overrides).map_err(ConfigError::new)?;
    let report = RefCell::new(Report {
        texts: file.texts,
        problems: Vec::new(),
        warnings: Vec::new(),
        origins: Vec::new(),
    });
    let meant = read(&mut Section::root(&file.root, &report));
    let Report { problems, warnings, mut origins, .. } = report.into_inner();
    if !problems.is_empty() {
        return Err(ConfigError::new(problems));
    }
    origins.sort_by(|left, right| left.key.cmp(&right.key));
    Ok((meant, Told { origins, warnings }))
}
