//! What can be seen of a policy folder from outside, to tell a finished replacement from files
//! that are still being copied.
//!
//! A half-copied folder, whose forbids have not arrived yet, is a valid and wider set of policies.
//! So a change is complete only when the folder as a whole is another one (a symbolic link that
//! points elsewhere, a folder that was renamed into place) and nothing in it is younger than the
//! replacement, or when its `policies.sha256`, which is to be written last, fits every file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::source::{Kind, read_bytes};
use crate::pki::sha256_hex;

/// The manifest: lines of `<SHA-256 in hex>  <file>`, as `sha256sum` writes them.
pub const MANIFEST: &str = "policies.sha256";
/// Links on the way to one folder: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// True for the name of a file in a policy folder that says something about the policies.
#[must_use]
pub fn is_policy_file(name: &OsStr) -> bool {
    name == MANIFEST || Kind::of(name).is_some()
}

/// How a path leads to a policy folder and to the files in it, or to any other file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Every entry on the way. Where one becomes another, the folder may be another.
    pub entries: BTreeSet<PathBuf>,
    /// The folder, and those that links in it lead to, without links: where the files are. None
    /// while the path leads nowhere.
    pub insides: BTreeMap<PathBuf, (u64, u64)>,
    /// The links among the entries, with what they say.
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Way {
    /// Follows a path as far as it leads.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let mut way = Self::default();
        let Ok(folder) = std::path::absolute(folder) else { return way };
        let Some(folder) = way.follow(PathBuf::from("/"), &folder) else { return way };
        way.enter(&folder);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if is_policy_file(&name)
                && entry.file_type().is_ok_and(|kind| kind.is_symlink())
                && let Some(file) = way.follow(folder.clone(), Path::new(&name))
                && let Some(inside) = file.parent()
            {
                way.enter(inside);
            }
        }
        way
    }

    /// True for a directory without which a change of the folder could go unnoticed, however
    /// ordinary it is.
    #[must_use]
    pub fn is_needed(&self, directory: &Path) -> bool {
        let holds = |entry: &PathBuf| entry.parent() == Some(directory);
        self.insides.contains_key(directory)
            || self.insides.keys().any(holds)
            || self.links.keys().any(holds)
    }

    /// Every directory in which something has to be seen, with its device and inode.
    #[must_use]
    pub fn directories(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let parents = self.entries.iter().filter_map(|entry| entry.parent());
        let parents = parents.filter_map(|parent| Some((parent.to_owned(), place(parent)?)));
        let insides = self.insides.iter().map(|(inside, place)| (inside.clone(), *place));
        parents.chain(insides).collect()
    }

    /// The folders that the links among the entries lead into, whether there is something at their
    /// end or not.
    pub fn led_into(&self) -> impl Iterator<Item = PathBuf> {
        self.links
            .iter()
            .filter_map(|(link, says)| link.parent()?.join(says).parent()?.canonicalize().ok())
    }

    fn enter(&mut self, inside: &Path) {
        if let Some(place) = place(inside) {
            self.insides.insert(inside.to_owned(), place);
        }
    }

    /// Where a path ends that begins in a folder without links; `None` when it leads nowhere.
    fn follow(&mut self, mut at: PathBuf, path: &Path) -> Option<PathBuf> {
        let names = |path: &Path| -> Vec<OsString> {
            path.components().rev().map(|name| name.as_os_str().to_owned()).collect()
        };
        let mut ahead = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            match Path::new(&name).components().next() {
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => drop(at.pop()),
                Some(Component::Normal(name)) => {
                    let entry = at.join(name);
                    self.entries.insert(entry.clone());
                    if entry.symlink_metadata().ok()?.is_symlink() {
                        links += 1;
                        let says = fs::read_link(&entry).ok().filter(|_| links <= LINKS_MAX)?;
                        ahead.extend(names(&says));
                        self.links.insert(entry, says);
                    } else {
                        at = entry;
                    }
                }
                _ => {}
            }
        }
        Some(at)
    }
}

/// The device and the inode of a directory.
fn place(directory: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A moment of the file system, in seconds and nanoseconds.
type Stamp = (i64, i64);

fn changed_at(metadata: &Metadata) -> Stamp {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// The state of a policy folder at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderState {
    /// Which folder it is, and how the path leads there.
    way: Way,
    /// Size, last change and inode of each file that a load reads, by name.
    files: BTreeMap<OsString, (u64, i64, i64, u64)>,
    manifest: Manifest,
    /// When the youngest of the links was made.
    linked: Stamp,
    /// The last change of the folder itself: an entry in it, or its own name.
    renamed: Stamp,
    /// The last change of a file or an entry in it.
    filled: Stamp,
}

/// What has become of a folder between two looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FolderChange {
    /// Nothing that a load would notice.
    None,
    /// It was replaced as a whole: it may be loaded.
    Replaced,
    /// It is not as it was, and it may be unfinished.
    Edited(Doubt),
}

/// Why a changed folder may be unfinished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Files have changed, and nothing says that they all have.
    InPlace,
    /// The folder was replaced, and then something in it changed.
    Filled,
    /// There is a manifest, and it does not fit.
    Manifest(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InPlace => f.write_str(
                "files were changed where they are: only a folder or link that is renamed into \
                 place, or a policies.sha256 that fits, says that all are there",
            ),
            Self::Filled => f.write_str("files in it changed after it was put in its place"),
            Self::Manifest(why) => write!(f, "policies.sha256 does not fit: {why}"),
        }
    }
}

impl FolderState {
    /// Looks at a folder.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(folder)?;
        let way = Way::of(folder);
        let mut files = BTreeMap::new();
        let mut filled = Stamp::default();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if Kind::of(&name).is_none() {
                continue;
            }
            let file = fs::metadata(entry.path())?;
            filled = filled.max(changed_at(&file));
            files.insert(name, (file.len(), file.mtime(), file.mtime_nsec(), file.ino()));
        }
        for inside in way.insides.keys() {
            let inside = fs::metadata(inside)?;
            filled = filled.max((inside.mtime(), inside.mtime_nsec()));
        }
        let linked = way.links.keys().filter_map(|link| link.symlink_metadata().ok());
        let linked = linked.map(|link| changed_at(&link)).max().unwrap_or_default();
        let manifest = Manifest::of(folder, files.keys())?;
        Ok(Self { way, files, manifest, linked, renamed: changed_at(&metadata), filled })
    }

    /// What has changed since an earlier look; `renamed` where something was renamed to an entry
    /// of the way in between. A folder that was made anew in its place is filled file by file,
    /// too.
    #[must_use]
    pub fn since(&self, earlier: &Self, renamed: bool) -> FolderChange {
        let other = self.way.insides != earlier.way.insides;
        let linked = self.way.links != earlier.way.links;
        let replaced = other && (renamed || linked);
        let same = !other && self.files == earlier.files && self.manifest == earlier.manifest;
        // What comes into a folder changes the folder as well: only a later change is its rename.
        let filled = if linked { self.filled > self.linked } else { self.filled >= self.renamed };
        match &self.manifest {
            _ if same => FolderChange::None,
            Manifest::Unfit(why) => FolderChange::Edited(Doubt::Manifest(why.clone())),
            Manifest::Fits(_) if replaced || self.manifest != earlier.manifest => {
                FolderChange::Replaced
            }
            _ if replaced && filled => FolderChange::Edited(Doubt::Filled),
            _ if replaced => FolderChange::Replaced,
            _ => FolderChange::Edited(Doubt::InPlace),
        }
    }

    /// True when a manifest says that all files are there.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        matches!(self.manifest, Manifest::Fits(_))
    }
}

/// What the manifest says of the files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// There is none.
    Absent,
    /// It names exactly these files, with the hashes they have. Its own hash.
    Fits(String),
    /// It does not, and why.
    Unfit(String),
}

impl Manifest {
    /// Reads the manifest of a folder that has these files.
    fn of<'a>(folder: &Path, files: impl Iterator<Item = &'a OsString>) -> io::Result<Self> {
        if folder.join(MANIFEST).symlink_metadata().is_err() {
            return Ok(Self::Absent);
        }
        let hashed = files.map(|name| {
            let bytes = read_bytes(&folder.join(name))?;
            Ok((name.clone(), sha256_hex(&bytes)))
        });
        Self::read(folder, &hashed.collect::<io::Result<_>>()?)
    }

    /// Compares the manifest of a folder with the hashes of its files.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    pub(super) fn read(folder: &Path, hashes: &BTreeMap<OsString, String>) -> io::Result<Self> {
        let path = folder.join(MANIFEST);
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(Self::Absent);
        }
        let text = read_bytes(&path)?;
        Ok(match compare(&text, hashes) {
            Ok(()) => Self::Fits(sha256_hex(&text)),
            Err(why) => Self::Unfit(why),
        })
    }
}

/// Why a manifest does not name exactly these files with these hashes.
fn compare(manifest: &[u8], hashes: &BTreeMap<OsString, String>) -> Result<(), String> {
    let lines = std::str::from_utf8(manifest).map_err(|_| "it is no UTF-8".to_owned())?;
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    for (number, line) in lines.lines().enumerate() {
        // Two spaces, or a space and an asterisk for a file read as bytes.
        let parts = line.split_once(' ');
        let Some((hash, name)) =
            parts.and_then(|(hash, name)| Some((hash, name.strip_prefix([' ', '*'])?)))
        else {
            return Err(format!("line {} is no hash and name, as sha256sum writes", number + 1));
        };
        named.insert(name, hash);
    }
    for (file, has) in hashes {
        let shown = file.display();
        match file.to_str().and_then(|name| named.remove(name)) {
            None => return Err(format!("it does not name {shown}")),
            Some(hash) if !has.eq_ignore_ascii_case(hash) => {
                return Err(format!("it names {shown} with another content"));
            }
            Some(_) => {}
        }
    }
    match named.first_key_value() {
        Some((name, _)) => Err(format!("it names {name}, which is not there or is not read")),
        None => Ok(()),
    }
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

    /// So that what comes now has a later time than what was before: the clock of the file system
    /// ticks every 10 ms at most, and its times cannot be set.
    fn a_moment_passes() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    fn misfit(why: &str) -> FolderChange {
        FolderChange::Edited(Doubt::Manifest(why.to_owned()))
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
            assert_eq!(
                folder.state().since(&before, false),
                FolderChange::Edited(Doubt::InPlace),
                "{name}"
            );
        }
        let before = folder.state();
        fs::remove_file(folder.path().join("a.cedar")).unwrap();
        assert_eq!(folder.state().since(&before, false), FolderChange::Edited(Doubt::InPlace));
    }

    #[test]
    fn a_folder_renamed_into_place_and_a_link_that_points_elsewhere_are_replacements() {
        let folder = Folder::new();
        let before = folder.state();
        let new = folder.0.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("a.cedar"), "a").unwrap();
        a_moment_passes();
        fs::rename(folder.path(), folder.0.path().join("old")).unwrap();
        fs::rename(&new, folder.path()).unwrap();
        assert_eq!(folder.state().since(&before, true), FolderChange::Replaced);
        // As it looks while a new folder is made and filled.
        assert_eq!(folder.state().since(&before, false), FolderChange::Edited(Doubt::InPlace));

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
        assert_eq!(change(&folder), misfit("it does not name b.cedar"));
        folder.sign(&["a.cedar", "b.cedar"]);
        fs::remove_file(folder.path().join("b.cedar")).unwrap();
        let missing = misfit("it names b.cedar, which is not there or is not read");
        assert_eq!(change(&folder), missing);
        folder.write("b.cedar", "c");
        assert_eq!(change(&folder), misfit("it names b.cedar with another content"));
        folder.write("b.cedar", "b");
        assert_eq!(change(&folder), FolderChange::Replaced);
        for (odd, why) in [
            ("", "it does not name a.cedar"),
            ("oops", "line 1 is no hash and name, as sha256sum writes"),
            ("aa  a.cedar\n", "it names a.cedar with another content"),
            ("aa b.cedar", "line 1 is no hash and name, as sha256sum writes"),
        ] {
            folder.write("a.cedar", odd);
            folder.write(MANIFEST, odd);
            assert_eq!(change(&folder), misfit(why), "{odd:?}");
        }
    }

    #[test]
    fn a_rename_does_not_outweigh_a_manifest_that_does_not_fit() {
        let folder = Folder::new();
        let before = folder.state();
        let new = folder.0.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("a.cedar"), "a").unwrap();
        fs::write(new.join(MANIFEST), format!("{}  b.cedar\n", sha256_hex(b"b"))).unwrap();
        a_moment_passes();
        fs::rename(folder.path(), folder.0.path().join("old")).unwrap();
        fs::rename(&new, folder.path()).unwrap();
        assert_eq!(folder.state().since(&before, true), misfit("it does not name a.cedar"));
    }

    #[test]
    fn what_is_filled_after_it_was_put_in_place_is_unfinished() {
        let folder = Folder::new();
        let before = folder.state();
        let new = folder.0.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("a.cedar"), "a").unwrap();
        fs::rename(folder.path(), folder.0.path().join("old")).unwrap();
        fs::rename(&new, folder.path()).unwrap();
        a_moment_passes();
        folder.write("b.cedar", "b");
        assert_eq!(folder.state().since(&before, true), FolderChange::Edited(Doubt::Filled));

        let link = folder.0.path().join("link");
        std::os::unix::fs::symlink("policies", &link).unwrap();
        let before = FolderState::read(&link).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("old", &link).unwrap();
        a_moment_passes();
        fs::remove_file(folder.0.path().join("old/a.cedar")).unwrap();
        let after = FolderState::read(&link).unwrap();
        assert_eq!(after.since(&before, false), FolderChange::Edited(Doubt::Filled));
    }

    #[test]
    fn any_link_on_the_way_may_replace_the_folder_and_those_inside_it_too() {
        let folder = Folder::new();
        let root = folder.0.path().canonicalize().unwrap();
        let link = |to: &str, at: &str| {
            let _ = fs::remove_file(root.join(at));
            std::os::unix::fs::symlink(to, root.join(at)).unwrap();
        };
        for release in ["1", "2"] {
            fs::create_dir_all(root.join(release).join("policies")).unwrap();
            fs::write(root.join(release).join("policies/a.cedar"), release).unwrap();
        }
        link("1", "inner");
        link("inner", "outer");
        let path = root.join("outer/policies");
        let before = FolderState::read(&path).unwrap();
        for entry in ["outer", "inner", "1", "1/policies"] {
            assert!(before.way.entries.contains(&root.join(entry)), "{entry}");
        }
        a_moment_passes();
        link("2", "inner");
        let after = FolderState::read(&path).unwrap();
        assert_eq!(after.since(&before, false), FolderChange::Replaced);
        link("nowhere", "inner");
        assert!(FolderState::read(&path).is_err());
        assert!(Way::of(&path).entries.contains(&root.join("nowhere")));
        link("inner", "inner");
        assert!(Way::of(&path).insides.is_empty());

        // As Kubernetes lays out a volume.
        for version in ["..1", "..2"] {
            fs::create_dir_all(root.join("volume").join(version)).unwrap();
            fs::write(root.join("volume").join(version).join("a.cedar"), version).unwrap();
        }
        link("..1", "volume/..data");
        link("..data/a.cedar", "volume/a.cedar");
        let volume = root.join("volume");
        let before = FolderState::read(&volume).unwrap();
        a_moment_passes();
        link("..2", "volume/..data_tmp");
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        let after = FolderState::read(&volume).unwrap();
        assert!(before.way.entries.contains(&volume.join("..data")));
        assert_eq!(after.since(&before, true), FolderChange::Replaced);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(FolderState::read(&folder.path().join("none")).is_err());
    }
}
