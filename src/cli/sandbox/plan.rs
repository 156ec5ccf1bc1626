//! What a process may do with files: a list of rules, made of what its configuration names.
//!
//! A rule stands on a file or folder as it is when the rule is made, and holds for all that is
//! below. A file that is replaced, by rename, is another file: so that it can be read again, the
//! rule for it stands on its folder, and for one that links lead to, on the folder that each of
//! them leads into.
//!
//! INVARIANT: no rule lets a folder of an authority be read. Rules cannot take away what a rule
//! above gives; so a folder with an authority below gets none, and what else is in it gets rules
//! one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use landlock::{AccessFs, make_bitflags};

use super::super::Failure;
use super::kernel::Rights;
use super::places::{Place, Use};
use super::way;
use crate::pki;
use crate::policy::Way;

/// Entries that are looked through for authorities, in one folder and all below.
const ENTRIES_MAX: usize = 200_000;
/// Folders inside each other that are looked through.
const DEPTH_MAX: usize = 32;

pub(super) const READ: Rights = make_bitflags!(AccessFs::{ReadFile | ReadDir});
/// To write lines to the end of a file, which is made where there is none; neither to remove nor to
/// shorten one.
const APPEND: Rights = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | MakeReg});
/// To put a file in the place of another.
const REPLACE: Rights =
    make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | MakeReg | RemoveFile});
/// Everything that can be done with files and folders.
pub(super) const OWN: Rights = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile
        | RemoveDir | Refer
});
const SOCKET: Rights = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
/// What can be done with a file.
const OF_A_FILE: Rights = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});

/// The rules, and what an operator has to know of them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By path, without links.
    rules: BTreeMap<PathBuf, Rule>,
    /// What has consequences that nobody would expect.
    pub(super) warnings: BTreeSet<String>,
    /// The authorities that are left out.
    pub(super) denied: BTreeSet<PathBuf>,
    /// The folders of which everything may be read but for these authorities.
    pub(super) around: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// The file of the configuration.
    configuration: PathBuf,
    /// The authority that this process is.
    own_authority: Option<PathBuf>,
    /// What of each folder that was looked through must not be read.
    hidden: HashMap<PathBuf, Option<Vec<PathBuf>>>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    rights: Rights,
    /// The device and inode that it stands on.
    stands_on: (u64, u64),
    /// It is one of those that every program needs.
    is_of_system: bool,
}

impl Plan {
    /// Nothing is allowed yet. `own_authority` may be read but for the key of its root.
    pub(super) fn new(configuration: &Path, own_authority: Option<&Path>) -> Self {
        let own_authority = own_authority.and_then(|folder| folder.canonicalize().ok());
        let configuration = configuration.canonicalize().unwrap_or_default();
        Self { configuration, own_authority, ..Self::default() }
    }

    /// Every rule.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Path, Rights)> {
        self.rules.iter().map(|(path, rule)| (path.as_path(), rule.rights))
    }

    /// The paths that may be read, and those that may be written to, but for what every program
    /// needs and what is below another one.
    pub(super) fn shown(&self) -> (Vec<&Path>, Vec<&Path>) {
        let writes = !READ & !AccessFs::IoctlDev;
        let having = |rights: Rights| {
            let mut shown: Vec<&Path> = Vec::new();
            for (path, rule) in &self.rules {
                let is_below = shown.iter().any(|above| path.starts_with(above));
                if !rule.is_of_system && !is_below && rule.rights.intersects(rights) {
                    shown.push(path);
                }
            }
            shown
        };
        (having(READ), having(writes))
    }

    /// Allows what has to be done with a path of the configuration.
    ///
    /// # Errors
    /// When it is an authority's own, or could be used only together with such.
    pub(super) fn allow(&mut self, place: &Place) -> Result<(), Failure> {
        match place.what_for {
            Use::Read | Use::List => self.allow_file(place),
            Use::Policies => {
                self.allow_links(&place.path);
                self.allow_folder(place, READ)?;
                self.allow_replacing(place);
                Ok(())
            }
            Use::Credentials => {
                self.allow_file(place)?;
                // Where it cannot be replaced, it stays as it is, and the log says so.
                if let Some(folder) = self.folder_alone(&place.path) {
                    self.add(&folder, REPLACE);
                }
                Ok(())
            }
            Use::Append => {
                // Beside the configuration, which is not to be written to, the file that is there.
                let folder = self.folder_alone(&place.path);
                match folder.filter(|folder| !self.configuration.starts_with(folder)) {
                    Some(folder) => self.add(&folder, APPEND),
                    None => self.add(&place.path, APPEND & OF_A_FILE),
                }
                Ok(())
            }
            Use::Own => self.allow_folder(place, OWN),
            Use::Socket => self.allow_socket(place),
            Use::Nothing => Ok(()),
        }
    }

    /// Allows a socket to be made, and one that is there to be removed: so may then be every file
    /// in its folder and below.
    fn allow_socket(&mut self, place: &Place) -> Result<(), Failure> {
        let Place { key, path, .. } = place;
        let Some(folder) = way::folder_of(path) else { return Ok(()) };
        let hidden = self.hidden_in(&folder);
        if let Some(authority) = hidden.iter().flatten().next() {
            return Err(Failure(format!(
                "{key}: {} lies in a folder that holds the authority {}, whose files this process \
                 could remove then; give the socket a folder of its own",
                path.display(),
                authority.display()
            )));
        }
        // Of one that is too large to be looked through nobody knows what is in it.
        if hidden.is_none() || self.configuration.starts_with(&folder) || way::is_broad(&folder) {
            self.add(&folder, SOCKET & !AccessFs::RemoveFile);
            self.warnings.insert(format!(
                "{key}: {} lies in {}, where nothing is to be removed: at the end the socket stays \
                 there, until the next start; give it a folder of its own",
                path.display(),
                folder.display()
            ));
        } else {
            self.add(&folder, SOCKET);
        }
        Ok(())
    }

    /// Allows a file to be read, and whatever takes its place.
    fn allow_file(&mut self, place: &Place) -> Result<(), Failure> {
        let Place { key, path, what_for } = place;
        self.allow_links(path);
        let Ok(real) = path.canonicalize() else {
            // It is told by whoever needs it. Somebody may put one there.
            if let Some(folder) = way::folder_of(path).filter(|it| !way::is_broad(it)) {
                self.read_below(&folder);
            }
            return Ok(());
        };
        if real.is_dir() {
            return self.allow_folder(place, READ);
        }
        let shown = path.display();
        if let Some(authority) = pki::secret_of(&real) {
            return Err(Failure(format!(
                "{key}: {shown} is the authority's own, of {}: give this process a certificate and \
                 key that are not an authority's (portcullis cert issue --profile server), and the \
                 lists and trust.pem of its folder public",
                authority.display()
            )));
        }
        let Some(folder) = real.parent() else { return Ok(()) };
        let is_own = self.own_authority.as_deref().is_some_and(|own| folder.starts_with(own));
        if is_own {
            return Ok(());
        }
        if pki::is_authority(folder) {
            if *what_for == Use::List {
                return Err(Failure(format!(
                    "{key}: {shown} lies among the keys of the authority {0}, so that this process \
                     could not read the next list; run: portcullis ca crl --dir {0}, which puts \
                     what is for everybody into {0}/public",
                    folder.display()
                )));
            }
            self.add(&real, READ & OF_A_FILE);
            self.denied.insert(folder.to_owned());
            self.warnings.insert(format!(
                "{key}: {shown} lies among the keys of the authority {}: when it is replaced, it \
                 cannot be read again before a restart; move it away from there",
                folder.display()
            ));
        } else if way::is_broad(folder) {
            self.add(&real, READ & OF_A_FILE);
            self.warnings.insert(format!(
                "{key}: {shown} lies directly in {}, where too much else is to allow that: when it is \
                 replaced, it cannot be read again before a restart; give it a folder of its own",
                folder.display()
            ));
        } else {
            self.read_below(folder);
            // Where the folder could not be allowed as a whole.
            self.add(&real, READ & OF_A_FILE);
        }
        Ok(())
    }

    /// The folder of a file, if it may be written to for the sake of that.
    fn folder_alone(&mut self, path: &Path) -> Option<PathBuf> {
        let folder = way::folder_of(path).filter(|folder| !way::is_broad(folder))?;
        self.hidden_in(&folder)?.is_empty().then_some(folder)
    }

    /// Allows a folder that is named.
    fn allow_folder(&mut self, place: &Place, rights: Rights) -> Result<(), Failure> {
        let Place { key, path, .. } = place;
        let Ok(real) = path.canonicalize() else { return Ok(()) };
        let refused = |authority: &Path| {
            Err(Failure(format!(
                "{key}: {} holds the authority {}; move one of them",
                path.display(),
                authority.display()
            )))
        };
        match self.hidden_in(&real) {
            Some(hidden) if hidden.is_empty() => self.add(&real, rights),
            Some(hidden) => return refused(hidden.first().unwrap_or(&real)),
            // What is in it is this process's own making.
            None if rights == OWN => self.add(&real, rights),
            None => {
                return Err(Failure(format!(
                    "{key}: {} holds too much to look through for an authority; name a folder that \
                     has nothing else in it",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// A folder may be replaced as a whole, in the one around it.
    fn allow_replacing(&mut self, place: &Place) {
        let Ok(real) = place.path.canonicalize() else { return };
        let Some(around) = real.parent() else { return };
        if way::is_broad(around) {
            self.warnings.insert(format!(
                "{}: {} lies directly in {}, where too much else is to allow that: it cannot be \
                 replaced as a whole; give it a folder around it",
                place.key,
                place.path.display(),
                around.display()
            ));
        } else {
            self.read_below(around);
        }
    }

    /// Each link on a way may lead elsewhere tomorrow, in the folder that it leads into.
    fn allow_links(&mut self, path: &Path) {
        for folder in Way::of(path).led_into() {
            if !way::is_broad(&folder) {
                self.read_below(&folder);
            }
        }
    }

    /// Allows a folder to be read, or what of it is nobody's secret.
    fn read_below(&mut self, folder: &Path) {
        match self.hidden_in(folder) {
            Some(hidden) if hidden.is_empty() => self.add(folder, READ),
            Some(hidden) if hidden.iter().any(|it| it == folder) => self.denied.extend(hidden),
            Some(hidden) => {
                self.read_around(folder, &hidden);
                self.around.insert(folder.to_owned(), hidden.clone());
                for authority in hidden {
                    self.warnings.insert(format!(
                        "the authority's folder {0} lies in {1}: until it is moved out of {1}, what \
                         is replaced by rename directly in {1}, as editors do with the \
                         configuration or policies, cannot be read again before a restart",
                        authority.display(),
                        folder.display()
                    ));
                    self.denied.insert(authority);
                }
            }
            None => {
                self.warnings.insert(format!(
                    "{} holds too much to look through for an authority: of what is in it only \
                     what is named can be read, and not again once it is replaced",
                    folder.display()
                ));
            }
        }
    }

    /// Allows to read what is in a folder, one by one, but for what is `hidden`.
    fn read_around(&mut self, folder: &Path, hidden: &[PathBuf]) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if hidden.contains(&path) || !(kind.is_dir() || kind.is_file()) {
                continue;
            }
            if hidden.iter().any(|it| it.starts_with(&path)) {
                self.read_around(&path, hidden);
            } else {
                self.add(&path, READ);
            }
        }
    }

    /// Allows everything in the folder of the authority that this process is, but to read the key
    /// of its root.
    ///
    /// # Errors
    /// When it holds too much to tell where that key is.
    pub(super) fn allow_own_authority(&mut self) -> Result<(), Failure> {
        let Some(own) = self.own_authority.clone() else { return Ok(()) };
        let Some(hidden) = self.hidden_in(&own) else {
            return Err(Failure(format!(
                "est.authority: {} holds too much to look through for the key of the root; move what \
                 is not the authority's out of it",
                own.display()
            )));
        };
        if hidden.is_empty() {
            self.add(&own, OWN);
            return Ok(());
        }
        self.add(&own, OWN & !READ | AccessFs::ReadDir);
        self.read_around(&own, &hidden);
        for key in hidden {
            self.warnings.insert(format!(
                "{} is needed for `portcullis ca rotate` only, and this process may not read it: keep \
                 it elsewhere",
                key.display()
            ));
            self.denied.insert(key);
        }
        Ok(())
    }

    /// What of a folder must not be read; `None` where it cannot be known. Several files are in one
    /// folder, which is looked through once.
    fn hidden_in(&mut self, folder: &Path) -> Option<Vec<PathBuf>> {
        if let Some(known) = self.hidden.get(folder) {
            return known.clone();
        }
        let found = self.look_through(folder);
        self.hidden.insert(folder.to_owned(), found.clone());
        found
    }

    fn look_through(&self, folder: &Path) -> Option<Vec<PathBuf>> {
        let own = self.own_authority.as_deref();
        let mut hidden = Vec::new();
        let mut open = vec![(folder.to_owned(), 0_usize)];
        let mut entries = 0_usize;
        while let Some((folder, depth)) = open.pop() {
            let is_own = own.is_some_and(|own| folder.starts_with(own));
            if !is_own && pki::is_authority(&folder) {
                hidden.push(folder);
                continue;
            }
            if depth > DEPTH_MAX {
                return None;
            }
            // What this process may not list, it may not read.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                entries += 1;
                if entries > ENTRIES_MAX {
                    return None;
                }
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push((path, depth + 1));
                } else if is_own && pki::is_root_key(&path) {
                    hidden.push(path);
                }
            }
        }
        Some(hidden)
    }

    /// Allows what every program needs. What is not there needs no rule.
    pub(super) fn allow_system(&mut self, paths: &[(&str, Rights)]) {
        for (path, rights) in paths {
            let Ok(real) = Path::new(path).canonicalize() else { continue };
            let is_link = Path::new(path).is_symlink();
            // A link such as /etc/resolv.conf leads to a file that is replaced.
            let folder = real.parent().filter(|it| is_link && real.is_file() && !way::is_broad(it));
            let at = folder.map_or_else(|| real.clone(), Path::to_owned);
            if let Some(stands_on) = stands_on(&at) {
                let rule = Rule { rights: *rights, stands_on, is_of_system: true };
                self.rules.entry(at).or_insert(rule);
            }
        }
    }

    /// Warns where what may be written to holds what says what is permitted.
    pub(super) fn warn_of_writable(&mut self, paths: &[(&str, &Path)]) {
        for (name, path) in paths {
            let Ok(real) = path.canonicalize() else { continue };
            let writable = self.rules.iter().find(|(at, rule)| {
                rule.rights.intersects(AccessFs::WriteFile | AccessFs::RemoveFile)
                    && real.starts_with(at)
            });
            if let Some((at, _)) = writable {
                self.warnings.insert(format!(
                    "files in {} can be written or removed, and {name} is in it; give files of \
                     passwords, and sockets, a folder of their own",
                    at.display()
                ));
            }
        }
    }

    fn add(&mut self, path: &Path, rights: Rights) {
        let Ok(real) = path.canonicalize() else { return };
        let Some(stands_on) = stands_on(&real) else { return };
        let rights = if real.is_dir() { rights } else { rights & OF_A_FILE };
        let rule = Rule { rights: Rights::empty(), stands_on, is_of_system: false };
        let rule = self.rules.entry(real).or_insert(rule);
        rule.rights |= rights;
        rule.is_of_system = false;
    }

    /// Why a path that is to be read is outside; `None` where it is not, or is not there.
    pub(super) fn why_outside(&self, path: &Path) -> Option<&'static str> {
        let real = path.canonicalize().ok()?;
        let places: HashMap<(u64, u64), Rights> =
            self.rules.values().map(|rule| (rule.stands_on, rule.rights)).collect();
        let reads = |at: &Path| {
            let rights = stands_on(at).and_then(|at| places.get(&at));
            rights.is_some_and(|rights| rights.contains(AccessFs::ReadFile))
        };
        if real.ancestors().any(reads) {
            None
        } else if self.rules.contains_key(&real) {
            Some("was replaced, and the sandbox has what was there at the start")
        } else {
            Some("is outside the sandbox that was made at the start")
        }
    }
}

/// The device and the inode of a file or folder.
fn stands_on(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
