//! The storage engine, and how it is set up.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::StoreError;

const MIB: u64 = 1024 * 1024;

/// Bytes of blocks kept in memory. Queues are read once, in order: a cache helps little.
const CACHE_BYTES: u64 = 32 * MIB;
/// Bytes of journals from which on what is in memory is written to tables, so that the oldest
/// journal can go.
const JOURNAL_BYTES_MAX: u64 = 128 * MIB;
/// One writes tables, the other merges them.
const THREADS: usize = 2;

/// An open database. See [`super::keys`] for what lies where.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) state: Keyspace,
    pub(super) queue: Keyspace,
    pub(super) bodies: Keyspace,
    pub(super) retained: Keyspace,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// What is in a database, by name.
pub(super) const KEYSPACES: [&str; 4] = ["state", "queue", "bodies", "retained"];

impl Engine {
    /// Opens the database in this folder, and makes what is not there.
    pub(super) fn open(folder: &Path) -> fjall::Result<Self> {
        // What is damaged may be met by an assertion of the engine's.
        let opened = std::panic::catch_unwind(|| Self::try_open(folder));
        opened.unwrap_or(Err(fjall::Error::Unrecoverable))
    }

    fn try_open(folder: &Path) -> fjall::Result<Self> {
        let database = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(THREADS)
            .open()?;
        // What is asked for by its key is there: no filter is needed to know.
        let open = |name, memory_bytes| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(memory_bytes)
                    .expect_point_read_hits(true)
            })
        };
        Ok(Self {
            state: open("state", 8 * MIB)?,
            queue: open("queue", 16 * MIB)?,
            bodies: open("bodies", 16 * MIB)?,
            retained: open("retained", 8 * MIB)?,
            database,
        })
    }

    /// Its keyspaces, in the order of [`KEYSPACES`].
    pub(super) fn keyspaces(&self) -> [&Keyspace; 4] {
        [&self.state, &self.queue, &self.bodies, &self.retained]
    }
}

/// True for what comes of bytes on disk that are not what was written.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Storage(fjall::LsmError::Io(error)) | fjall::Error::Io(error) => matches!(
            error.kind(),
            std::io::ErrorKind::NotFound
                | std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
        ),
        fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted | fjall::Error::Locked => false,
        _ => true,
    }
}

/// What the engine says, as an error of ours.
pub(super) fn failed(doing: &'static str) -> impl Fn(fjall::Error) -> StoreError {
    move |error| StoreError::Failed { doing, error: describe(&error) }
}

pub(super) fn describe(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) => error.to_string(),
        fjall::Error::Poisoned => "the storage engine has failed before".to_owned(),
        error => error.to_string(),
    }
}
