//! Where an authority is: what marks its folder, and what in it nobody else may read.

use std::path::{Path, PathBuf};

/// Where an authority keeps what is for everybody. Only that is in it, so that who may read this
/// folder finds a file that was replaced, and no key.
pub(super) const PUBLIC: &str = "public";
/// Where it keeps the key that signs certificates.
pub(super) const ISSUING: &str = "issuing";
/// Where it keeps its one-time tokens.
pub(super) const TOKENS: &str = "tokens";
/// Each of these says that a folder is an authority's. A certificate alone does not.
const MARKS: [&str; 3] = ["ca.key", "root.key", "inventory.jsonl"];
/// What is the authority's own, of files and folders.
const OWN: [&str; 10] = [
    "ca.key",
    "root.key",
    "inventory.jsonl",
    "tokens.json",
    "audit.jsonl",
    ISSUING,
    TOKENS,
    "retired",
    "next",
    ".next",
];

/// The folder that a file of an authority is in, beside the link that has its name: each is replaced
/// now and then, and whoever may read that folder, but not the key of the root, finds it again.
pub(super) fn inside(name: &str) -> Option<&'static str> {
    match name {
        "root.key" => None,
        "ca.key" => Some(ISSUING),
        _ => Some(PUBLIC),
    }
}

/// True for a folder with keys or records of an authority, made by this program or not.
#[must_use]
pub fn is_authority(folder: &Path) -> bool {
    MARKS.iter().any(|mark| folder.join(mark).symlink_metadata().is_ok())
}

/// True for a file that a root's key is in, by its name.
#[must_use]
pub fn is_root_key(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "root.key")
}

/// The authority whose own a path is: a key, a record, or what is in a folder of such. The path is
/// one without links.
#[must_use]
pub fn secret_of(path: &Path) -> Option<PathBuf> {
    let is_own = |folder: &&Path| {
        let first = path.strip_prefix(folder).ok().and_then(|rest| rest.components().next());
        first.is_some_and(|first| OWN.iter().any(|own| first.as_os_str() == *own))
    };
    let folders = path.ancestors().skip(1).filter(|folder| is_authority(folder));
    folders.filter(is_own).last().map(Path::to_owned)
}
