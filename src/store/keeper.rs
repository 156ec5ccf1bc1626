//! The thread that looks after an open store: whether the engine still works, whether there is
//! room on the disk, and that room which is not needed any more is given back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::{AbstractTree as _, PersistMode};

use super::Shared;
use super::engine::{Engine, failed};
use super::folder::Folder;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(250);
/// So long nothing is written before room is given back.
const IDLE: Duration = Duration::from_secs(5);
/// After so long few are enough.
const LONG: Duration = Duration::from_secs(30);
/// So many records have to be gone for that.
const REMOVED_MIN: u64 = 1024;
/// The least that is to be free where nothing else is said: a part of the file system, and so
/// many bytes.
const FREE_PART: u64 = 20;
const FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// The room on a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub(super) free_bytes: u64,
    pub(super) bytes: u64,
}

/// Reads how much room there is at a place.
pub(super) type ReadSpace = Box<dyn Fn(&Path) -> io::Result<Space> + Send>;

pub(super) fn read_space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Space {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        bytes: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

/// The keeper's own state.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Engine,
    pub(super) folder: Arc<Folder>,
    pub(super) free_bytes_min: Option<u64>,
    pub(super) read_space: ReadSpace,
}

impl Keeper {
    /// Looks after the store until `stop` is closed.
    pub(super) fn run(self, stop: &Receiver<()>) {
        let mut rest = Rest { written: 0, since: Instant::now() };
        let mut tidying: Option<JoinHandle<()>> = None;
        let mut opened = true;
        while matches!(stop.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout)) {
            self.check_engine();
            self.check_space();
            if tidying.as_ref().is_none_or(JoinHandle::is_finished)
                && rest.is_idle(self.shared.written.load(Ordering::Relaxed))
                && self.is_worth_it(rest.since.elapsed(), &mut opened)
            {
                // Not here: it may take long.
                let (engine, shared) = (self.engine.clone(), Arc::clone(&self.shared));
                let folder = Arc::clone(&self.folder);
                let run = move || {
                    tidy(&engine, &shared);
                    drop((engine, folder));
                };
                tidying = std::thread::Builder::new().name("store tidy".into()).spawn(run).ok();
            }
        }
        if let Some(thread) = tidying {
            let _ = thread.join();
        }
    }

    /// A thread of the engine's that dies takes its poison, and leaves whoever writes waiting for
    /// it for ever.
    fn check_engine(&self) {
        if self.shared.inbox.failure().is_some() {
            return;
        }
        if let Err(error) = self.engine.database.persist(PersistMode::Buffer) {
            self.shared.inbox.fail(failed("keep the storage engine working")(error));
        }
    }

    /// Sees whether there is room.
    pub(super) fn check_space(&self) {
        // Of a place that cannot be read nothing is known: what is written to it will tell.
        let Ok(space) = (self.read_space)(&self.folder.root) else { return };
        let default = (space.bytes / FREE_PART).max(FREE_BYTES);
        let free_bytes_min = self.free_bytes_min.unwrap_or(default);
        let is_full = space.free_bytes < free_bytes_min;
        if self.shared.is_full.swap(is_full, Ordering::Relaxed) == is_full {
            return;
        }
        let Space { free_bytes, .. } = space;
        if is_full {
            tracing::error!(
                free_bytes,
                free_bytes_min,
                "the disk of the store is nearly full: durable messages are refused"
            );
        } else {
            tracing::warn!(free_bytes, "there is room for the store again");
        }
    }

    /// True when at least as much was removed as is left; where room is wanted or nothing has been
    /// written for long, when anything was, or may have been before the store was opened.
    fn is_worth_it(&self, rested: Duration, opened: &mut bool) -> bool {
        let removed = self.shared.removed.load(Ordering::Relaxed);
        let is_full = self.shared.is_full.load(Ordering::Relaxed);
        if is_full && std::mem::take(opened) {
            return true;
        }
        (removed >= REMOVED_MIN && removed >= self.shared.queues.lock().pages())
            || (removed > 0 && (is_full || rested >= LONG))
    }
}

/// Since when nothing was written.
struct Rest {
    written: u64,
    since: Instant,
}

impl Rest {
    fn is_idle(&mut self, written: u64) -> bool {
        if written != self.written {
            *self = Self { written, since: Instant::now() };
        }
        self.since.elapsed() >= IDLE
    }
}

/// Gives back the room of what was removed: journals go once all in them is in tables, and
/// tables are written anew without what is gone.
pub(super) fn tidy(engine: &Engine, shared: &Shared) {
    shared.removed.store(0, Ordering::Relaxed);
    let tidied = engine.keyspaces().into_iter().try_for_each(|keyspace| {
        keyspace.rotate_memtable()?;
        Ok::<_, fjall::Error>(())
    });
    // An engine that is poisoned writes no tables any more.
    let is_waiting =
        || engine.keyspaces().iter().any(|keyspace| keyspace.tree.sealed_memtable_count() > 0);
    // The engine tells nobody when it has written one.
    while is_waiting() && shared.inbox.failure().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let compacted = tidied.and_then(|()| {
        engine.keyspaces().into_iter().try_for_each(|keyspace| compact(engine, shared, keyspace))
    });
    match compacted {
        Ok(()) => tracing::debug!("room on the disk was given back"),
        Err(error) => tracing::warn!("room on the disk cannot be given back: {error:?}"),
    }
}

/// Writes all tables of a keyspace anew, and has the files of the old ones removed, which would
/// stay until the next table is written. Whoever still reads one keeps it until then.
fn compact(engine: &Engine, shared: &Shared, keyspace: &fjall::Keyspace) -> fjall::Result<()> {
    keyspace.major_compact()?;
    // A snapshot that is opened meanwhile would look for a version that goes here.
    let _no_snapshot = shared.snapshots.lock();
    let seqno = engine.database.seqno();
    keyspace.tree.get_version_history_lock().maintenance(keyspace.path(), seqno)?;
    Ok(())
}

/// What a store asks of the system, so that a test can answer in its place.
pub(super) struct Probes {
    pub(super) read_space: ReadSpace,
    /// Asked before each batch.
    #[cfg(test)]
    pub(super) write: Box<dyn FnMut() -> Result<(), super::StoreError> + Send>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            read_space: Box::new(read_space),
            #[cfg(test)]
            write: Box::new(|| Ok(())),
        }
    }
}
