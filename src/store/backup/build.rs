//! A store made of records that come from elsewhere: beside its place, and put there once it is
//! whole.

use std::path::{Path, PathBuf};

use super::check::Checker;
use super::folder::Backup;
use super::stream::Manifest;
use super::{Record, Sink, Space};
use crate::store::engine::{Engine, failed};
use crate::store::folder::{Folder, State, UNFINISHED};
use crate::store::mark::Marks;
use crate::store::open::write_format;
use crate::store::{Settings, StoreError, keys};

/// Records written at a time, and about how many bytes.
const AT_ONCE: (usize, usize) = (1024, 4 * 1024 * 1024);

/// Makes a store of a backup. The backup is read twice: nothing is written before all of it was
/// found to be whole.
///
/// # Errors
/// When there is a store already, or the backup is damaged: then there is no store.
pub fn restore(backup: &Path, settings: &Settings) -> Result<Manifest, StoreError> {
    let backup_folder = backup;
    let backup = Backup::open(backup)?;
    let mut checker = Checker::new();
    backup.each(&mut checker)?;
    let checked = checker.finish();
    if let Some(finding) = checked.findings.iter().find(|finding| finding.is_loss) {
        let what = format!(
            "the store was damaged when this backup was made: {finding}; use another backup \
             (`store verify` says all that is wrong)"
        );
        return Err(StoreError::Damaged { file: backup_folder.to_owned(), what });
    }
    let mut build = Build::begin(settings)?;
    backup.each(&mut build)?;
    build.finish()?;
    Ok(backup.manifest().clone())
}

/// A store that is being made. Without [`Build::finish`] nothing of it stays.
#[derive(Debug)]
pub(super) struct Build {
    // The engine goes before what it writes to.
    engine: Option<Engine>,
    place: Place,
    folder: Folder,
    marks: Marks,
    batch: Vec<(Space, Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

/// Where it is made.
#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // What stays behind goes when the store is made.
            let _ = std::fs::remove_dir_all(&self.0);
            let _ = std::fs::remove_file(self.0.with_file_name(UNFINISHED));
        }
    }
}

impl Build {
    /// Locks the folder, which has to be empty or absent.
    ///
    /// # Errors
    /// When it is not, or the folder cannot be made.
    pub(super) fn begin(settings: &Settings) -> Result<Self, StoreError> {
        let root = &settings.folder;
        let settings = Settings { accept_loss: false, ..settings.clone() };
        let (folder, state) = Folder::take(&settings)?;
        if state == State::Complete {
            let why = "there is a store already, and nothing is overwritten; move it away, or \
                       name another folder in `store.folder`";
            return Err(StoreError::Foreign { folder: root.clone(), why: why.to_owned() });
        }
        folder.begin_unfinished()?;
        let place = Place(folder.being_made());
        let engine = Engine::open(&place.0).map_err(failed("make the store"))?;
        let marks = Marks::after(0, folder.token);
        Ok(Self { engine: Some(engine), place, folder, marks, batch: Vec::new(), bytes: 0 })
    }

    fn engine(&self) -> Result<&Engine, StoreError> {
        self.engine.as_ref().ok_or_else(crate::store::inbox::closed)
    }

    /// Takes a record; true if there was none under its key.
    pub(super) fn put(
        &mut self,
        space: Space,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let keyspace = space.keyspace(self.engine()?);
        let is_new = !keyspace.contains_key(&key).map_err(failed("read the store"))?
            && !self.batch.iter().any(|(of, other, _)| (*of, other) == (space, &key));
        self.add(space, key, value)?;
        Ok(is_new)
    }

    fn add(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        self.bytes += key.len() + value.len();
        self.batch.push((space, key, value));
        if self.batch.len() >= AT_ONCE.0 || self.bytes >= AT_ONCE.1 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let mut batch = self.marks.batch(engine);
        self.bytes = 0;
        for (space, key, value) in self.batch.drain(..) {
            batch.insert(space.keyspace(engine), key, value);
        }
        batch.commit().map_err(failed("make the store"))
    }

    /// Syncs the store, and puts it in its place.
    ///
    /// # Errors
    /// When that fails.
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        self.flush()?;
        if let Some(engine) = self.engine.take() {
            write_format(&engine, &mut self.marks)?;
            drop(engine);
        }
        self.folder.is_made()?;
        self.folder.put_in_place()?;
        self.folder.is_opened()?;
        self.place.0.clear();
        Ok(())
    }
}

impl Sink for Build {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        let Record { space, key, value } = *record;
        // Those of the store that this was.
        if space == Space::State && (key == keys::MARK || key == keys::FORMAT) {
            return Ok(());
        }
        self.add(space, key.to_vec(), value.to_vec())
    }
}
