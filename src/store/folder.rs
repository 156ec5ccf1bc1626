//! The folder of a store: whose it is, and that all is there which the engine takes for granted.
//!
//! | entry | what |
//! |---|---|
//! | `lock` | locked by whoever has the store open; says that the store is complete |
//! | `data` | the engine's folder, with `identity`: the token of the store |
//! | `data.new` | a store that is being made; renamed once it is whole |
//! | `set-aside` | what could not be read |
//! | `copy` | what a command reads that must not change the store; it goes with the command |
//!
//! The engine makes anew what it does not find: an entry that is missing is found out here, before
//! the engine sees the folder.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::engine::KEYSPACES as KEYSPACE_NAMES;
use super::mark::Token;
use super::{Settings, StoreError, salvage, tables};

/// What the lock file of a complete store says.
const COMPLETE: &str = "portcullis store\n";
/// What the engine's own `version` file says.
const ENGINE_VERSION: &[u8] = b"FJL\x03";
/// A copy to read in.
pub(super) const COPY: &str = "copy";
/// The engine's own and four of ours.
const KEYSPACES: usize = 5;
/// A record whose key is longer in hexadecimal is named by its SHA-256.
const RECORD_NAME_MAX: usize = 128;
/// Losses that are told one by one; of more, these are.
const LOSSES_MAX: usize = 256;
/// How often a lock is tried for, and how long apart: a process that was killed may be on its
/// way out.
const LOCK_TRIES: usize = 4;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The folder of a store that nobody else has open.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    pub(super) data: PathBuf,
    pub(super) token: Token,
    pub(super) accept_loss: bool,
    /// The last batch before it was closed in order, if it was.
    pub(super) closed_with: Option<u64>,
    lock: File,
    /// What was lost and is accepted, for the audit log.
    losses: Mutex<Vec<String>>,
}

/// Says with which batch the store was closed: it is there while nobody has it open.
const CLOSED: &str = "closed";
/// Says that a store is being restored or imported, and is not whole.
pub(super) const UNFINISHED: &str = "unfinished";

/// What is to be done before the store can be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Complete,
    /// It is to be made: see [`Folder::being_made`].
    New,
}

impl Folder {
    /// Locks the folder, and makes it where there is none. Nothing is written into one that is
    /// no store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn take(settings: &Settings) -> Result<(Self, State), StoreError> {
        let root = settings.folder.clone();
        let failed = io_failed("open the folder of the store", &root);
        refuse_foreign(&root)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(io_failed("make the folder of the store", &root))?;
        let path = root.join("lock");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&path).map_err(&failed)?;
        take_lock(&lock, &root)?;
        let copy = root.join(COPY);
        if copy.exists() {
            // Whoever made it is gone: the lock is ours.
            std::fs::remove_dir_all(&copy).map_err(&failed)?;
        }
        let data = root.join("data");
        let closed_with = read_closed(&root);
        let (token, accept_loss) = (Token::default(), settings.accept_loss);
        let mut folder =
            Self { root, data, token, accept_loss, closed_with, lock, losses: Mutex::default() };
        check_kinds(&folder.data)?;
        check_kinds(&folder.being_made())?;
        let is_complete = std::fs::metadata(&path).map_err(&failed)?.len() > 0;
        if !folder.data.exists() && read_token(&folder.being_made())?.is_some() {
            std::fs::rename(folder.being_made(), &folder.data).map_err(&failed)?;
            sync_folder(&folder.root)?;
        }
        if folder.data.exists() {
            folder.token = folder.read_identity()?;
            if !is_complete {
                folder.complete()?;
            }
            return Ok((folder, State::Complete));
        }
        if is_complete {
            folder.accept(&folder.data, "it is not there")?;
        }
        folder.closed_with = None;
        aws_lc_rs::rand::fill(&mut folder.token).map_err(|_| StoreError::Failed {
            doing: "make the token of the store",
            error: "there are no random numbers".to_owned(),
        })?;
        // A folder with `data.new` and no lock is taken for somebody else's.
        sync_folder(&folder.root)?;
        if folder.being_made().exists() {
            std::fs::remove_dir_all(folder.being_made()).map_err(failed)?;
        }
        Ok((folder, State::New))
    }

    /// Locks a store as it is, and makes a copy of it to read in: reading it through the engine
    /// writes to it. Tables, which are never written to again, get a second name instead.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn copy_of(root: &Path) -> Result<Self, StoreError> {
        let none = |why: &str| StoreError::Foreign { folder: root.to_owned(), why: why.to_owned() };
        let options = OpenOptions::new().read(true).write(true).clone();
        let lock = match options.open(root.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(none("there is no store; name its folder, or a backup's"));
            }
            opened => opened.map_err(io_failed("open the folder of the store", root))?,
        };
        take_lock(&lock, root)?;
        let (data, copy) = (root.join("data"), root.join(COPY));
        if !data.exists() {
            return Err(none("it holds no store that is complete"));
        }
        check_kinds(&data)?;
        let failed = io_failed("make a copy of the store to read", &copy);
        if copy.exists() {
            // Whoever made it is gone: the lock is ours.
            std::fs::remove_dir_all(&copy).map_err(&failed)?;
        }
        DirBuilder::new().mode(0o700).create(&copy).map_err(&failed)?;
        if let Err(error) = salvage::copy_folder(&data, &copy.join("data")) {
            // Most likely the disk is full.
            let _ = std::fs::remove_dir_all(&copy);
            return Err(failed(error));
        }
        let (token, accept_loss, closed_with) = (Token::default(), false, read_closed(root));
        let (data, losses) = (copy.join("data"), Mutex::default());
        Ok(Self { data, root: copy, token, accept_loss, closed_with, lock, losses })
    }

    /// Reads the token of a copy.
    pub(super) fn know_token(&mut self) -> Result<(), StoreError> {
        self.token = self.read_identity()?;
        Ok(())
    }

    /// Where the engine's folder is made.
    pub(super) fn being_made(&self) -> PathBuf {
        self.root.join("data.new")
    }

    /// What is being made is whole, and will be put in its place even after a crash.
    pub(super) fn is_made(&self) -> Result<(), StoreError> {
        // The engine syncs what is in its keyspaces, and not that they are there.
        sync_folder(&self.being_made().join("keyspaces"))?;
        write_identity(&self.being_made(), &self.token)
    }

    /// The engine's folder was made, and is closed: from now on it is the store's.
    pub(super) fn put_in_place(&self) -> Result<(), StoreError> {
        let made = self.being_made();
        std::fs::rename(&made, &self.data)
            .map_err(io_failed("put the new store in its place", &self.data))?;
        sync_folder(&self.root)?;
        self.complete()
    }

    fn complete(&self) -> Result<(), StoreError> {
        sync_above(&self.root)?;
        let failed = io_failed("write the lock file of the store", &self.root);
        (&self.lock).write_all(COMPLETE.as_bytes()).map_err(&failed)?;
        self.lock.sync_all().map_err(failed)?;
        sync_folder(&self.root)
    }

    fn read_identity(&self) -> Result<Token, StoreError> {
        if let Some(token) = read_token(&self.data)? {
            return Ok(token);
        }
        let path = self.data.join("identity");
        self.accept(&path, "it is missing, or does not hold the token of the store")?;
        let mut token = Token::default();
        // Without random numbers the token is one that others know: no loss beyond the one that
        // was accepted.
        let _ = aws_lc_rs::rand::fill(&mut token);
        write_identity(&self.data, &token)?;
        Ok(token)
    }

    /// Says that the store is not whole until it is put in its place.
    pub(super) fn begin_unfinished(&self) -> Result<(), StoreError> {
        write_synced(&self.root.join(UNFINISHED), b"")?;
        sync_folder(&self.root)
    }

    /// Refuses to make a new store where another was being restored.
    pub(super) fn refuse_unfinished(&self) -> Result<(), StoreError> {
        if !self.root.join(UNFINISHED).exists() {
            return Ok(());
        }
        let why = "restoring or importing it was interrupted; do that again, or remove the folder";
        Err(StoreError::Foreign { folder: self.root.clone(), why: why.to_owned() })
    }

    /// Compares the last batch there is with the one that the store was closed with.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], unless the loss is accepted.
    pub(super) fn check_end(&self, last: u64) -> Result<(), StoreError> {
        match self.closed_with.filter(|closed| last < *closed) {
            Some(closed) => {
                let what =
                    format!("it ends with batch {last}, and was closed after batch {closed}");
                self.accept(&self.data, &what)
            }
            None => Ok(()),
        }
    }

    /// From now on it is open: what was said of its end does not hold any more.
    pub(super) fn is_opened(&self) -> Result<(), StoreError> {
        for name in [CLOSED, UNFINISHED] {
            match std::fs::remove_file(self.root.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io_failed("open the store", &self.root))?,
            }
        }
        sync_folder(&self.root)
    }

    /// It is closed, with everything up to this batch synced.
    pub(super) fn is_closed(&self, last: u64) -> Result<(), StoreError> {
        write_synced(&self.root.join(CLOSED), last.to_string().as_bytes())?;
        sync_folder(&self.root)
    }

    /// Refuses a folder that lacks what the engine would make anew, empty.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let version = self.data.join("version");
        // What begins as it should is of another version, and the engine says which.
        let is_there = std::fs::read(&version)
            .is_ok_and(|it| it.len() == ENGINE_VERSION.len() && it.starts_with(b"FJL"));
        if !is_there {
            self.accept(&version, "it is missing, or not what the engine writes there")?;
            self.write_data("version", ENGINE_VERSION)?;
        }
        // The engine opens it without making it. It holds nothing.
        let lock = self.data.join("lock");
        if !lock.exists() {
            self.write_data("lock", b"")?;
        }
        for id in 0..KEYSPACES {
            let path = self.data.join("keyspaces").join(id.to_string());
            if let Err((file, what)) = tables::check(&path) {
                self.accept(&file, &what)?;
                salvage::do_without(self, &path, id)?;
            }
        }
        Ok(())
    }

    /// Goes on where the loss is accepted.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where it is not.
    pub(super) fn accept(&self, file: &Path, what: &str) -> Result<(), StoreError> {
        if !self.accept_loss {
            return Err(self.damaged(file, what));
        }
        self.lost(&format!("{}: {what}", file.display()));
        Ok(())
    }

    /// Says that something is lost, which was accepted.
    pub(super) fn lost(&self, what: &str) {
        tracing::warn!("damage that is accepted: {what}");
        let mut losses = self.losses.lock();
        if losses.len() < LOSSES_MAX {
            losses.push(what.to_owned());
        }
    }

    /// What was lost since the store was opened.
    pub(super) fn take_losses(&self) -> Vec<String> {
        std::mem::take(&mut self.losses.lock())
    }

    pub(super) fn damaged(&self, file: &Path, what: &str) -> StoreError {
        let remedy = if self.accept_loss {
            "restore a backup"
        } else {
            "restore a backup, or serve the rest with `--accept-loss`"
        };
        StoreError::Damaged { file: file.to_owned(), what: format!("{what}: {remedy}") }
    }

    /// Where the tables of a keyspace are.
    pub(super) fn tables_of(&self, keyspace: &str) -> PathBuf {
        // They were made in this order; the engine's own is 0.
        let id = KEYSPACE_NAMES.iter().position(|name| *name == keyspace).map_or(0, |at| at + 1);
        self.data.join("keyspaces").join(id.to_string()).join("tables")
    }

    /// Where something of this name is set aside: it does not exist yet.
    pub(super) fn set_aside(&self, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.root.join("set-aside");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(io_failed("make a folder", &folder))?;
        let names = std::iter::once(name.to_owned());
        let mut names = names.chain((2..).map(|number: u64| format!("{name}.{number}")));
        let free = names.find_map(|name| {
            let path = folder.join(name);
            (!path.exists()).then_some(path)
        });
        Ok(free.unwrap_or(folder))
    }

    /// Writes a record into `set-aside`, under its keyspace and key.
    pub(super) fn set_record_aside(
        &self,
        keyspace: &str,
        key: &[u8],
        stored: &[u8],
    ) -> Result<PathBuf, StoreError> {
        let mut name = hex::encode(key);
        if name.len() > RECORD_NAME_MAX {
            name = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key));
        }
        let name = format!("{keyspace}-{name}");
        let path = self.root.join("set-aside").join(&name);
        if std::fs::read(&path).is_ok_and(|kept| kept == stored) {
            return Ok(path);
        }
        let path = self.set_aside(&name)?;
        write_synced(&path, stored)?;
        Ok(path)
    }

    /// Renames a part of the store into `set-aside`.
    pub(super) fn move_aside(&self, path: &Path) -> Result<(), StoreError> {
        let relative = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
        let aside = self.set_aside(&relative.replace('/', "-"))?;
        tracing::warn!(file = %path.display(), to = %aside.display(), "set aside");
        std::fs::rename(path, aside).map_err(io_failed("set aside what cannot be read", path))
    }

    /// Writes a file of the engine's.
    pub(super) fn write_data(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        write_synced(&self.data.join(name), bytes)?;
        self.sync_data()
    }

    pub(super) fn sync_data(&self) -> Result<(), StoreError> {
        sync_folder(&self.data)
    }
}

pub(super) fn take_lock(lock: &File, root: &Path) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(io_failed("lock the store", root)(error));
            }
            Err(std::fs::TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse(root.to_owned()));
            }
        }
    }
}

/// The batch that the store was closed with.
fn read_closed(root: &Path) -> Option<u64> {
    let path = root.join(CLOSED);
    if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
        return None;
    }
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Refuses what is neither a file nor a folder: a link leads elsewhere, and a pipe nowhere.
fn check_kinds(folder: &Path) -> Result<(), StoreError> {
    let wrong = |file: PathBuf, what: &str| {
        let what = format!("{what}; put the store's own in its place");
        StoreError::Damaged { file, what }
    };
    // What is not there, or cannot be read, is told by whoever needs it.
    let Ok(found) = std::fs::symlink_metadata(folder) else { return Ok(()) };
    if !found.is_dir() {
        return Err(wrong(folder.to_owned(), "it is no folder"));
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            check_kinds(&entry.path())?;
        } else if !kind.is_file() {
            return Err(wrong(entry.path(), "it is not a regular file"));
        }
    }
    Ok(())
}

/// Makes the folder of a store where there is none, and its name durable: for a process that may
/// not look at the folders above once it opens the store.
///
/// # Errors
/// [`StoreError`]; a folder that is none of a store is left as it is.
pub fn prepare(settings: &Settings) -> Result<(), StoreError> {
    let root = &settings.folder;
    refuse_foreign(root)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.map_err(io_failed("make the folder of the store", root))?;
    let is_complete = root.join("lock").metadata().is_ok_and(|lock| lock.len() > 0);
    if is_complete { Ok(()) } else { sync_above(root) }
}

/// The folders above may be as new as the store: without their names it would be gone.
fn sync_above(root: &Path) -> Result<(), StoreError> {
    let failed = io_failed("sync a folder above the store", root);
    let real = root.canonicalize().map_err(&failed)?;
    for folder in real.ancestors().skip(1) {
        match File::open(folder) {
            // One that may not be read is none that was made just now.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            opened => opened.and_then(|folder| folder.sync_all()).map_err(&failed)?,
        }
    }
    Ok(())
}

/// Refuses a folder that has something in it and is no store.
fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    let failed = io_failed("read the folder of the store", root);
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(&failed)?,
    };
    let lock = std::fs::read(root.join("lock")).ok();
    let is_ours = lock.as_ref().is_some_and(|text| text.starts_with(b"portcullis store"))
        || root.join("data/identity").exists();
    if is_ours {
        return Ok(());
    }
    for entry in entries {
        let name = entry.map_err(&failed)?.file_name();
        let is_of_a_new_store = match name.to_str() {
            Some("lock") => lock.as_ref().is_some_and(Vec::is_empty),
            Some("data.new" | UNFINISHED) => lock.is_some(),
            Some("lost+found") => true,
            _ => false,
        };
        if !is_of_a_new_store {
            let why = format!("it holds `{}`, and is no store", name.to_string_lossy());
            return Err(StoreError::Foreign { folder: root.to_owned(), why });
        }
    }
    Ok(())
}

fn write_identity(folder: &Path, token: &Token) -> Result<(), StoreError> {
    write_synced(&folder.join("identity"), hex::encode(token).as_bytes())?;
    sync_folder(folder)
}

/// The token of a store; `None` where it was not written to its end.
///
/// # Errors
/// When it is there and cannot be read: the disk may yet give it back.
fn read_token(folder: &Path) -> Result<Option<Token>, StoreError> {
    let path = folder.join("identity");
    let read = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(io_failed("read the token of the store", &path))?,
    };
    Ok(hex::decode(read.trim_ascii()).ok().and_then(|token| token.try_into().ok()))
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(io_failed("write a file of the store", path))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(io_failed("sync a folder of the store", path))
}

/// What the system says, as an error of ours.
pub(super) fn io_failed(
    doing: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |error| StoreError::Failed { doing, error: format!("{}: {error}", path.display()) }
}
