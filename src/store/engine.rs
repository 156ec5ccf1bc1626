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

impl Engine {
    pub(super) fn open(folder: &Path) -> fjall::Result<Self> {
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
