//! Where records are read from: a store that nobody uses, a backup, a running broker.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::Sink;
use super::folder::Backup;
use super::snapshot::Snapshot;
use super::stream::StreamReader;
use crate::store::engine::Engine;
use crate::store::folder::Folder;
use crate::store::{StoreError, open};

/// Something that holds what a store does.
#[derive(Debug)]
pub enum Reading {
    /// A store that is locked meanwhile, and is not changed.
    Store(Locked),
    /// A backup.
    Backup(Backup),
    /// What a running broker sends.
    Stream(Stream),
}

impl Reading {
    /// The backup or the store in this folder.
    ///
    /// # Errors
    /// When there is neither, a broker uses the store, or its files are damaged. What is damaged
    /// in records is found when they are read.
    pub fn at(folder: &Path) -> Result<Self, StoreError> {
        if Backup::is_at(folder) {
            return Backup::open(folder).map(Self::Backup);
        }
        Locked::open(folder, &mut Err).map(Self::Store)
    }

    /// As [`Reading::at`]; what is damaged in the files of a store is told instead, and the rest
    /// is read.
    pub(super) fn at_any_cost(
        folder: &Path,
        damaged: &mut dyn FnMut(StoreError) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        if Backup::is_at(folder) {
            return Backup::open(folder).map(Self::Backup);
        }
        Locked::open(folder, damaged).map(Self::Store)
    }

    /// What a running broker sends.
    #[must_use]
    pub fn stream(input: Box<dyn Read + Send>) -> Self {
        let remedy = "its log says more; try again";
        Self::Stream(Stream { input, name: "the broker's answer".into(), remedy })
    }

    pub(super) fn each(self, sink: &mut impl Sink) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.each(sink),
            Self::Backup(backup) => backup.each(sink),
            Self::Stream(stream) => {
                let Stream { input, name, remedy } = stream;
                StreamReader::open(input, name, remedy)?.each(sink).map(drop)
            }
        }
    }

    /// Bytes on the disk, where there is one.
    pub(super) fn disk_bytes(&self) -> Option<u64> {
        match self {
            Self::Store(store) => Some(store.bytes),
            Self::Backup(backup) => Some(backup.manifest().bytes),
            Self::Stream(_) => None,
        }
    }

    /// What stays as it is and is worth knowing.
    pub(super) fn note(&self) -> Option<String> {
        match self {
            Self::Store(store) => store.note.clone(),
            Self::Backup(_) | Self::Stream(_) => None,
        }
    }
}

/// What a running broker sends.
pub struct Stream {
    pub(super) input: Box<dyn Read + Send>,
    pub(super) name: PathBuf,
    pub(super) remedy: &'static str,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A store that nobody else has open, read in a copy.
#[derive(Debug)]
pub struct Locked {
    // The engine goes before the copy, and the copy before the lock.
    engine: Engine,
    _copy: Copy,
    _folder: Folder,
    bytes: u64,
    note: Option<String>,
}

/// Removes the copy.
#[derive(Debug)]
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays behind goes when the next copy is made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Locked {
    fn open(
        root: &Path,
        damaged: &mut dyn FnMut(StoreError) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let mut folder = Folder::copy_of(root)?;
        let copy = Copy(folder.root.clone());
        let bytes = bytes_below(&root.join("data"));
        // What is said of a file of the copy is meant of the store's.
        let at_home = |error| match error {
            StoreError::Damaged { file, what } => {
                let file = file.strip_prefix(&copy.0).map(|rest| root.join(rest)).unwrap_or(file);
                StoreError::Damaged { file, what }
            }
            other => other,
        };
        let mut told = |error| damaged(at_home(error));
        let engine = open::open_copy(&mut folder, &mut told).map_err(at_home)?;
        let is_torn = std::fs::read_dir(folder.root.join("set-aside"))
            .is_ok_and(|entries| entries.count() > 0 && !folder.accept_loss);
        let note = is_torn.then(|| {
            "the end of a journal is torn, as a power cut leaves it: what was never acknowledged; \
             the next start cuts it off"
                .to_owned()
        });
        Ok(Self { engine, _copy: copy, _folder: folder, bytes, note })
    }

    fn each(self, sink: &mut impl Sink) -> Result<(), StoreError> {
        Snapshot::alone(&self.engine).each(sink)
    }
}

fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        // Journals are made longer than they are full.
        Ok(metadata) => metadata.blocks().saturating_mul(512),
        Err(_) => 0,
    });
    bytes.sum()
}
