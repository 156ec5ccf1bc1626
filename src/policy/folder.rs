//! What can be seen of a policy folder from outside, to tell a finished replacement from files
//! that are still being copied.
//!
//! A half-copied folder, whose forbids have not arrived yet, is a valid and wider set of policies.
//! So a change is complete only when the folder as a whole is another one (a symbolic link that
//! points elsewhere, a folder that was renamed into place), or when its `policies.sha256`, which
//! is to be written last, fits every file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::pki::sha256_hex;

use super::source::FILE_BYTES_MAX;

/// The manifest: lines of `<SHA-256 in hex>  <file>`, as `sha256sum` writes them.
pub const MANIFEST: &str = "policies.sha256";

/// The state of a policy folder at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderState {
    /// Which folder it is: device and inode, symbolic links followed.
    place: (u64, u64),
    /// The path is a symbolic link, which changes as a whole.
    linked: bool,
    /// Size and last change of each file that a load reads, by name.
    files: BTreeMap<OsString, (u64, i64, i64, u64)>,
    /// The hash of the manifest, where it fits all files.
    manifest: Option<String>,
}

/// What has become of a folder between two looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderChange {
    /// Nothing that a load would notice.
    None,
    /// It was replaced as a whole: it may be loaded.
    Replaced,
    /// Files in it have changed, and nothing says that they all have.
    Edited,
}

impl FolderState {
    /// Looks at a folder.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(folder)?;
        let linked = fs::symlink_metadata(folder)?.is_symlink();
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_loaded(&name) {
                continue;
            }
            let file = fs::metadata(entry.path())?;
            files.insert(name, (file.len(), file.mtime(), file.mtime_nsec(), file.ino()));
        }
        let manifest = manifest(folder, files.keys())?;
        Ok(Self { place: (metadata.dev(), metadata.ino()), linked, files, manifest })
    }

    /// What has changed since an earlier look; `renamed` where something was renamed to the path
    /// in between. A folder that was made anew in its place is filled file by file, too.
    #[must_use]
    pub fn since(&self, earlier: &Self, renamed: bool) -> FolderChange {
        let complete = self.manifest.is_some() && self.manifest != earlier.manifest;
        let other = self.place != earlier.place;
        if complete || (other && (renamed || self.linked)) {
            FolderChange::Replaced
        } else if other || self.files != earlier.files {
            FolderChange::Edited
        } else {
            FolderChange::None
        }
    }
}

/// True for what a load reads.
fn is_loaded(name: &OsString) -> bool {
    let path = Path::new(name);
    let visible = !name.as_encoded_bytes().starts_with(b".");
    let known = path.extension().is_some_and(|it| it == "cedar" || it == "tsv");
    visible && (known || name == "principals.toml")
}

/// The hash of the manifest, if it names exactly these files with the hashes they have.
fn manifest<'a>(
    folder: &Path,
    files: impl Iterator<Item = &'a OsString>,
) -> io::Result<Option<String>> {
    let text = match read(&folder.join(MANIFEST)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(lines) = std::str::from_utf8(&text) else { return Ok(None) };
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    for line in lines.lines() {
        // Two spaces, or a space and an asterisk for a file read as bytes.
        let Some((hash, name)) = line.split_once(' ') else { return Ok(None) };
        let Some(name) = name.strip_prefix([' ', '*']) else { return Ok(None) };
        named.insert(name, hash);
    }
    for file in files {
        let Some(hash) = file.to_str().and_then(|name| named.remove(name)) else {
            return Ok(None);
        };
        if !sha256_hex(&read(&folder.join(file))?).eq_ignore_ascii_case(hash) {
            return Ok(None);
        }
    }
    Ok(named.is_empty().then(|| sha256_hex(&text)))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            fs::create_dir(folder.path()).unwrap();
            folder.write("a.cedar", "a");
            folder
        }

        fn path(&self) -> std::path::PathBuf {
            self.0.path().join("policies")
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path().join(name), text).unwrap();
        }

        fn state(&self) -> FolderState {
            FolderState::read(&self.path()).unwrap()
        }

        /// What `sha256sum` would print.
        fn sign(&self, names: &[&str]) {
            let line = |name: &&str| {
                let hash = sha256_hex(&fs::read(self.path().join(name)).unwrap());
                format!("{hash}  {name}\n")
            };
            let lines: String = names.iter().map(line).collect();
            self.write(MANIFEST, &lines);
        }
    }

    #[test]
    fn files_that_change_one_by_one_are_no_replacement() {
        let folder = Folder::new();
        let before = folder.state();
        folder.write("notes.txt", "x");
        folder.write(".b.cedar.swp", "x");
        assert_eq!(folder.state().since(&before, false), FolderChange::None);
        for (name, text) in [("a.cedar", "abc"), ("principals.toml", "x"), ("cases.tsv", "x")] {
            let before = folder.state();
            folder.write(name, text);
            assert_eq!(folder.state().since(&before, false), FolderChange::Edited, "{name}");
        }
        let before = folder.state();
        fs::remove_file(folder.path().join("a.cedar")).unwrap();
        assert_eq!(folder.state().since(&before, false), FolderChange::Edited);
    }

    #[test]
    fn a_folder_renamed_into_place_and_a_link_that_points_elsewhere_are_replacements() {
        let folder = Folder::new();
        let before = folder.state();
        let new = folder.0.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("a.cedar"), "a").unwrap();
        fs::rename(folder.path(), folder.0.path().join("old")).unwrap();
        fs::rename(&new, folder.path()).unwrap();
        assert_eq!(folder.state().since(&before, true), FolderChange::Replaced);
        // As it looks while a new folder is made and filled.
        assert_eq!(folder.state().since(&before, false), FolderChange::Edited);

        let link = folder.0.path().join("link");
        std::os::unix::fs::symlink("policies", &link).unwrap();
        let before = FolderState::read(&link).unwrap();
        let next = folder.0.path().join("next");
        std::os::unix::fs::symlink("old", &next).unwrap();
        fs::rename(&next, &link).unwrap();
        assert_eq!(FolderState::read(&link).unwrap().since(&before, false), FolderChange::Replaced);
    }

    #[test]
    fn a_manifest_counts_only_when_it_fits_every_file() {
        let folder = Folder::new();
        let mut before = folder.state();
        let mut change = |folder: &Folder| {
            let now = folder.state();
            let change = now.since(&before, false);
            before = now;
            change
        };
        folder.sign(&["a.cedar"]);
        assert_eq!(change(&folder), FolderChange::Replaced);
        assert_eq!(change(&folder), FolderChange::None, "once");
        // A forbid has arrived that the manifest does not know of yet, and another has not.
        folder.write("b.cedar", "b");
        assert_eq!(change(&folder), FolderChange::Edited);
        folder.sign(&["a.cedar", "b.cedar"]);
        fs::remove_file(folder.path().join("b.cedar")).unwrap();
        assert_eq!(change(&folder), FolderChange::Edited);
        folder.write("b.cedar", "c");
        assert_eq!(change(&folder), FolderChange::Edited, "another text");
        folder.write("b.cedar", "b");
        assert_eq!(change(&folder), FolderChange::Replaced);
        for odd in ["", "oops", "aa  a.cedar\n", "aa b.cedar"] {
            folder.write("a.cedar", odd);
            folder.write(MANIFEST, odd);
            assert_eq!(change(&folder), FolderChange::Edited, "{odd:?}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(FolderState::read(&folder.path().join("none")).is_err());
    }
}
