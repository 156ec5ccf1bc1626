//! Files that hold certificates and keys: read with a bound, keys only when nobody else can read
//! them, written whole or not at all, and never over another file.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with};
use rustix::process::{Gid, Uid};
use rustls::pki_types::pem;

/// The largest file of certificates or keys that is read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file of certificates or keys cannot be used. Each says the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refuses.
    #[error("{}: cannot {action}: {source}{}", path.display(), remedy(action, source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is larger than any file of certificates.
    #[error("{}: larger than {bytes_max} bytes; is this the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// Others than the owner may read or write a secret.
    #[error(
        "{0}: the {secret} has mode {mode:04o}, so that others than its owner can use it; run: chmod 600 {0}",
        path.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// What is in it.
        secret: Secret,
        /// Its permission bits.
        mode: u32,
    },
    /// There is a file already, and it may be the only copy of a key.
    #[error("{}: exists already and is not overwritten; move it away or choose another folder", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::TooLarge { path, .. }
            | Self::OpenToOthers { path, .. }
            | Self::Exists { path } => path,
        }
    }
}

/// What is in a file that is for its owner alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A private key.
    Key,
    /// A passphrase, or the PIN of a token.
    Passphrase,
    /// Passwords, or what is kept of them.
    Passwords,
    /// What is kept of one-time tokens.
    Tokens,
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "private key",
            Self::Passphrase => "file of a passphrase",
            Self::Passwords => "file of passwords",
            Self::Tokens => "file of one-time tokens",
        })
    }
}

/// What to do about it, where that is clear.
fn remedy(action: &str, error: &io::Error) -> &'static str {
    match (action, error.kind()) {
        (OPEN, io::ErrorKind::NotFound) => {
            "; check the path, or make one with: portcullis ca init, portcullis cert issue"
        }
        (_, io::ErrorKind::NotFound) => "; make its folder first",
        (OPEN, io::ErrorKind::PermissionDenied) => {
            "; let this user do so, or choose another path; a file that was replaced since the start \
             may lie outside the sandbox of a broker, which a restart mends"
        }
        (_, io::ErrorKind::PermissionDenied) => "; let this user do so, or choose another path",
        _ => "",
    }
}

const OPEN: &str = "open it";

impl FileError {
    fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

/// Opens a file to read it. Anything else, such as a pipe on which nobody writes, could keep the
/// reader waiting for ever, and is refused.
///
/// # Errors
/// When it cannot be opened, or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let without_waiting = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, without_waiting, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Reads a file that is no secret.
///
/// # Errors
/// When it cannot be read or is larger than [`FILE_BYTES_MAX`].
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    read_up_to(path, FILE_BYTES_MAX)
}

/// As [`read`], with another bound.
///
/// # Errors
/// When it cannot be read or is larger than that.
pub fn read_up_to(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let file = open_regular(path).map_err(|error| FileError::io(path, OPEN, error))?;
    read_bounded(path, file, bytes_max)
}

/// What is wrong with PEM, in words.
#[must_use]
pub fn pem_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("it ends before {}", String::from_utf8_lossy(end_marker).trim())
        }
        pem::Error::IllegalSectionStart { line } => {
            let line: String = String::from_utf8_lossy(line).trim().chars().take(64).collect();
            format!("{line:?} begins nothing")
        }
        pem::Error::Base64Decode(_) => "what stands in it is not base64".to_owned(),
        other => other.to_string(),
    }
}

/// Reads a private key.
///
/// # Errors
/// As [`read`], and when group or others have any permission for it.
pub fn read_key(path: &Path) -> Result<Vec<u8>, FileError> {
    read_secret(path, Secret::Key)
}

/// As [`read_key`], for another secret.
///
/// # Errors
/// As [`read_key`].
pub fn read_secret(path: &Path, secret: Secret) -> Result<Vec<u8>, FileError> {
    read_secret_up_to(path, secret, FILE_BYTES_MAX)
}

/// As [`read_secret`], with another bound.
///
/// # Errors
/// As [`read_secret`].
pub fn read_secret_up_to(
    path: &Path,
    secret: Secret,
    bytes_max: u64,
) -> Result<Vec<u8>, FileError> {
    let file = open_regular(path).map_err(|error| FileError::io(path, OPEN, error))?;
    // The mode of what was opened, not of what the path means a moment later.
    let metadata = file.metadata().map_err(|error| FileError::io(path, "examine it", error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::OpenToOthers { path: path.to_owned(), secret, mode });
    }
    read_bounded(path, file, bytes_max)
}

fn read_bounded(path: &Path, file: File, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::io(path, "read it", error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        Ok(bytes)
    } else {
        Err(FileError::TooLarge { path: path.to_owned(), bytes_max })
    }
}

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner only: mode 0600.
    Owner,
    /// Everybody: mode 0644.
    Everybody,
}

/// Makes a folder that only its owner may enter, unless there is one already.
///
/// # Errors
/// When it cannot be made.
pub fn create_private_folder(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| FileError::io(path, "create this folder", error))
}

/// Writes a new file: whole or not at all, durable, and never over a file that exists.
///
/// # Errors
/// [`FileError::Exists`], or what the operating system says.
pub fn write_new(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let folder = folder_of(path);
    let temporary = Temporary::create(folder, path, access)?;
    temporary.fill(bytes).map_err(|error| FileError::io(path, "write it", error))?;
    // A link fails where a rename would overwrite.
    std::fs::hard_link(&temporary.path, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists { path: path.to_owned() },
        _ => FileError::io(path, "create it", error),
    })?;
    sync_folder(folder).map_err(|error| FileError::io(path, "make it durable", error))
}

/// As [`write_new`], but not durable until [`sync_filesystem`]: for many files at a time.
///
/// # Errors
/// As [`write_new`].
pub fn write_new_unsynced(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let temporary = Temporary::create(folder_of(path), path, access)?;
    (&temporary.file).write_all(bytes).map_err(|error| FileError::io(path, "write it", error))?;
    let (cwd, from) = (rustix::fs::CWD, &temporary.path);
    match renameat_with(cwd, from, cwd, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(FileError::Exists { path: path.to_owned() }),
        Err(error) => Err(FileError::io(path, "create it", error.into())),
    }
}

/// Makes durable all that was written to the file system that a folder is on.
///
/// # Errors
/// What the operating system says.
pub fn sync_filesystem(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|opened| Ok(rustix::fs::syncfs(&opened)?))
        .map_err(|error| FileError::io(folder, "make it durable", error))
}

/// The folder a file is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes durable which files are in a folder.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a file, new or over an older one of the same name: whole or not at all, durable.
///
/// # Errors
/// What the operating system says; then the older one is still there.
pub fn put(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let folder = folder_of(path);
    let temporary = Temporary::create(folder, path, access)?;
    temporary.fill(bytes).map_err(|error| FileError::io(path, "write it", error))?;
    std::fs::rename(&temporary.path, path)
        .map_err(|error| FileError::io(path, "replace it", error))?;
    sync_folder(folder).map_err(|error| FileError::io(path, "make it durable", error))
}

/// As [`put`], into a folder of its own beside the path, which becomes a link to it: whoever may
/// read that folder alone finds the file again when it was replaced.
///
/// # Errors
/// What the operating system says; then the older one is still there.
pub(super) fn put_beside(
    path: &Path,
    inside: &str,
    bytes: &[u8],
    access: Access,
) -> Result<(), FileError> {
    put(&beside(path, inside, access)?, bytes, access)?;
    link_beside(path, inside)
}

/// Where [`put_beside`] puts a file. The folder is there.
pub(super) fn beside(path: &Path, inside: &str, access: Access) -> Result<PathBuf, FileError> {
    let folder = folder_of(path).join(inside);
    let mode = match access {
        Access::Owner => 0o700,
        Access::Everybody => 0o755,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(&folder)
        .map_err(|error| FileError::io(&folder, "create this folder", error))?;
    Ok(folder.join(path.file_name().unwrap_or_default()))
}

/// Makes a path a link to the file of its name in a folder beside, where what it was is found now.
/// There need not be one. Returns where it is.
pub(super) fn settle(path: &Path, inside: &str, access: Access) -> Result<PathBuf, FileError> {
    let real = beside(path, inside, access)?;
    if path.symlink_metadata().is_ok_and(|it| it.is_file()) {
        std::fs::rename(path, &real).map_err(|error| FileError::io(path, "move it", error))?;
    }
    link_beside(path, inside)?;
    Ok(real)
}

/// Makes a path a link to the file of its name in a folder beside, in the place of whatever it is.
pub(super) fn link_beside(path: &Path, inside: &str) -> Result<(), FileError> {
    let target = Path::new(inside).join(path.file_name().unwrap_or_default());
    if std::fs::read_link(path).is_ok_and(|says| says == target) {
        return Ok(());
    }
    let folder = folder_of(path);
    let linked = || {
        // Always of the same name, so that one that is left behind goes with the next.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.link"));
        let _ = std::fs::remove_file(&temporary);
        std::os::unix::fs::symlink(&target, &temporary)?;
        std::fs::rename(&temporary, path)?;
        sync_folder(folder)
    };
    linked().map_err(|error| FileError::io(path, "link to it", error))
}

/// Replaces the content of a file: whole or not at all, durable. Owner and permissions stay, and
/// so does a link to it.
///
/// # Errors
/// When there is no such file, or the operating system refuses, perhaps to give the new content
/// to the owner of the old.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let about = |action| move |error| FileError::io(path, action, error);
    let path = &path.canonicalize().map_err(about("find it"))?;
    let about = |action| move |error| FileError::io(path, action, error);
    let old = path.metadata().map_err(about("examine it"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let temporary = Temporary::create(folder, path, Access::Owner)?;
    let new = temporary.file.metadata().map_err(about("examine it"))?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        let (uid, gid) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
        rustix::fs::fchown(&temporary.file, Some(uid), Some(gid))
            .map_err(|error| FileError::io(path, "keep its owner", error.into()))?;
    }
    temporary.file.set_permissions(old.permissions()).map_err(about("keep its permissions"))?;
    temporary.fill(bytes).map_err(about("write it"))?;
    std::fs::rename(&temporary.path, path).map_err(about("replace it"))?;
    sync_folder(folder).map_err(about("make it durable"))
}

/// Writes a new key, for its owner only, and its certificate, for everybody: both or none.
///
/// # Errors
/// As [`write_new`], for either.
pub fn write_new_pair(
    (key_path, key): (&Path, &[u8]),
    (certificate_path, certificate): (&Path, &[u8]),
) -> Result<(), FileError> {
    write_new(key_path, key, Access::Owner)?;
    write_new(certificate_path, certificate, Access::Everybody).inspect_err(|_| {
        // It was made a moment ago, and belongs to no certificate.
        let _ = std::fs::remove_file(key_path);
    })
}

/// Removes what programs that were stopped have left behind in a folder: files under the names of
/// [`Temporary`] that nobody holds.
pub fn remove_abandoned(folder: &Path) {
    // It is tidiness: whatever fails is tried again by the next command.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(Temporary::is_name) {
            continue;
        }
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(file) = open(entry.path(), flags, Mode::empty()).map(File::from) else { continue };
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if is_file && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A file beside its destination, removed on drop. It is locked for as long as somebody writes it,
/// which tells it from one that was left behind.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    const BEGINNING: &str = ".portcullis-";
    const ENDING: &str = ".tmp";

    fn is_name(name: &str) -> bool {
        let middle = name.strip_prefix(Self::BEGINNING);
        let middle = middle.and_then(|rest| rest.strip_suffix(Self::ENDING));
        middle.is_some_and(|it| it.len() == 16 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    fn create(folder: &Path, destination: &Path, access: Access) -> Result<Self, FileError> {
        loop {
            let made = Self::try_create(folder, destination, access)?;
            let locked = flock(&made.file, FlockOperation::LockExclusive);
            let metadata = made.file.metadata();
            let metadata =
                metadata.map_err(|error| FileError::io(destination, "create it", error))?;
            // Where the file system has no locks, nothing is removed by them either. Before it was
            // locked, somebody may have taken it for one that was left behind.
            if locked.is_err() || metadata.nlink() > 0 {
                return Ok(made);
            }
        }
    }

    fn try_create(folder: &Path, destination: &Path, access: Access) -> Result<Self, FileError> {
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| {
            FileError::io(destination, "name a temporary file", io::Error::other("no randomness"))
        })?;
        let random = hex::encode(random);
        let path = folder.join(format!("{}{random}{}", Self::BEGINNING, Self::ENDING));
        let mode = match access {
            Access::Owner => 0o600,
            Access::Everybody => 0o644,
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(|error| FileError::io(destination, "create it", error))?;
        Ok(Self { path, file })
    }

    fn fill(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)?;
        self.file.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_never_written_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.key");
        write_new(&path, b"first", Access::Owner).unwrap();
        let error = write_new(&path, b"second", Access::Owner).unwrap_err();
        assert!(matches!(error, FileError::Exists { .. }), "{error}");
        assert_eq!(read_key(&path).unwrap(), b"first");
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions_and_the_links_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.cedar"), folder.path().join("link"));
        assert!(replace(&path, b"new").is_err(), "there is nothing to replace");
        for mode in [0o600, 0o644, 0o660, 0o400] {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, "old").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            if !link.exists() {
                std::os::unix::fs::symlink("a.cedar", &link).unwrap();
            }
            replace(&link, b"new").unwrap();
            assert_eq!(read(&path).unwrap(), b"new");
            assert_eq!(mode_of(&path), mode);
            assert!(link.is_symlink());
            let names = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(names, 2, "nothing is left behind");
        }
    }

    #[test]
    fn a_key_that_others_can_use_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        write_new(&path, b"key", Access::Owner).unwrap();
        for (mode, refused) in
            [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let outcome = read_key(&path);
            assert_eq!(outcome.is_err(), refused, "{mode:o}");
            if let Err(error) = outcome {
                let text = error.to_string();
                assert!(text.contains(&format!("private key has mode {mode:04o}")), "{text}");
                let error = read_secret(&path, Secret::Passphrase).unwrap_err().to_string();
                assert!(error.contains("the file of a passphrase has mode"), "{error}");
                assert!(text.ends_with(&format!("chmod 600 {}", path.display())), "{text}");
            }
        }
    }

    #[test]
    fn what_a_stopped_program_left_behind_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let held = Temporary::create(folder.path(), &path("list"), Access::Owner).unwrap();
        let abandoned = ".portcullis-0123456789abcdef.tmp";
        let others = ["dev1.key", ".portcullis-0123.tmp", ".portcullis-0123456789abcdef.tmp.pem"];
        for name in others.into_iter().chain([abandoned]) {
            std::fs::write(path(name), "").unwrap();
        }
        let folder_of_that_name = ".portcullis-fedcba9876543210.tmp";
        std::fs::create_dir(path(folder_of_that_name)).unwrap();
        let link = ".portcullis-aaaaaaaaaaaaaaaa.tmp";
        std::os::unix::fs::symlink("dev1.key", path(link)).unwrap();
        remove_abandoned(folder.path());
        assert!(!path(abandoned).exists());
        assert!(held.path.exists(), "somebody writes it");
        for name in others.into_iter().chain([folder_of_that_name, link]) {
            assert!(path(name).exists(), "{name}");
        }
        drop(held);
        remove_abandoned(Path::new("/nowhere"));
    }

    #[test]
    fn a_file_beyond_the_bound_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.pem");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLarge { .. })));
    }
}
