//! Durable state: what was acknowledged is on disk, and comes back.
//!
//! One writer thread turns [`Change`]s into batches of the storage engine, each atomic and, with
//! [`Durability::Fsync`], synced before its [`Commit`] counts as done: everything that came in
//! while one batch was on its way to the disk makes up the next. Whoever has something to
//! acknowledge asks [`Store::poll_committed`] and is woken once.
//!
//! Changes are applied in the order in which they were given. The queue of a session is written
//! in pages: all that one batch adds to it is one record. A page goes when everything in it, and
//! before it, is finished. A message that waits for several sessions is stored once.

mod backup;
mod change;
mod codec;
mod content;
mod engine;
mod error;
mod folder;
mod inbox;
mod journal;
mod keeper;
mod keys;
mod mark;
mod open;
mod page;
mod queues;
mod reader;
mod record;
mod recovered;
mod registered;
mod repair;
mod salvage;
mod scan;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

pub use backup::{
    Backup, Checked, Counts, Finding, Inspected, MANIFEST, Made, Manifest, Reading,
    SessionInspected, Snapshot, export, import, inspect, receive, restore, verify,
};
pub use change::Change;
pub use error::StoreError;
pub use folder::prepare;
pub use record::{QueueBounds, RetainedRecord, SessionRecord, StoredWill};
pub use recovered::{Expiry, Page, Recovered, RecoveredSession, UnderWay, Waiting};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::session::{MessageId, Seq};

use codec::Clock;
use engine::Engine;
use folder::Folder;
use inbox::Inbox;
use keeper::{Keeper, Probes};
use queues::Queues;
use reader::{Reader, Request, Wanted};
use writer::Writer;

/// Where the store is, and what it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its folder, made with mode 0700 where there is none.
    pub folder: PathBuf,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// What cannot be read is set aside, and the rest served.
    pub accept_loss: bool,
    /// With fewer bytes free on its file system, nothing durable is taken any more. `None`: the
    /// larger of 5 % and 1 GiB.
    pub free_bytes_min: Option<u64>,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It survives the end of the process, not that of the machine: nothing is synced.
    Os,
    /// It survives a power cut: it was synced before.
    Fsync,
}

impl Durability {
    /// As the configuration has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Fsync => "fsync",
        }
    }
}

/// Names a durable session in one store. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo(pub u64);

/// The batch that a change goes to the disk with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit(pub u64);

/// What the threads of a store have in common.
#[derive(Debug)]
struct Shared {
    inbox: Inbox,
    queues: Mutex<Queues>,
    next_message: AtomicU64,
    /// Batches that were written.
    written: AtomicU64,
    /// Those of them that were synced before they counted as done.
    synced: AtomicU64,
    /// Records that were removed since room was given back.
    removed: AtomicU64,
    is_full: AtomicBool,
    /// Held while a snapshot is opened, and while versions of the engine's are removed.
    snapshots: Mutex<()>,
}

/// Ids of messages that were read back have this bit: they are none of those that arrived.
const READ_BACK: u64 = 1 << 63;

impl Shared {
    fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            queues: Mutex::default(),
            next_message: AtomicU64::new(0),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            snapshots: Mutex::default(),
        }
    }

    /// A name for a message that was read back.
    fn next_message(&self) -> MessageId {
        MessageId(READ_BACK | self.next_message.fetch_add(1, Ordering::Relaxed))
    }
}

/// The durable state of one broker. See the module for how it is written.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    durability: Durability,
    next_session: AtomicU64,
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    engine: Engine,
    folder: Arc<Folder>,
    requests: mpsc::Sender<Request>,
    stop: mpsc::Sender<()>,
    keeper: JoinHandle<()>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl Store {
    /// Opens the store, makes it where there is none, and reads what it holds. `now` is the same
    /// moment by both clocks: expiry is kept as calendar time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        settings: &Settings,
        now: (std::time::Instant, std::time::SystemTime),
    ) -> Result<(Arc<Self>, Recovered), StoreError> {
        Self::open_with(settings, now, Probes::default())
    }

    fn open_with(
        settings: &Settings,
        now: (std::time::Instant, std::time::SystemTime),
        probes: Probes,
    ) -> Result<(Arc<Self>, Recovered), StoreError> {
        let mut shared = Shared::new();
        let found = open::open(settings, &shared, Clock::at(now))?;
        shared.queues = Mutex::new(found.queues);
        let shared = Arc::new(shared);
        let writer = Writer {
            shared: Arc::clone(&shared),
            engine: found.engine.clone(),
            folder: Arc::clone(&found.folder),
            marks: found.marks,
            durability: settings.durability,
            counts: found.counts,
            next_body: found.next_body,
            sessions_end: found.next_session,
            #[cfg(test)]
            probe: probes.write,
        };
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            engine: found.engine.clone(),
            folder: Arc::clone(&found.folder),
            free_bytes_min: settings.free_bytes_min,
            read_space: probes.read_space,
        };
        keeper.check_space();
        let reader = Reader {
            shared: Arc::clone(&shared),
            engine: found.engine,
            folder: found.folder,
            messages: HashMap::default(),
        };
        let (engine, folder) = (reader.engine.clone(), Arc::clone(&reader.folder));
        let (requests, wanted) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let threads = Threads {
            engine,
            folder,
            requests,
            stop,
            keeper: spawn("store keeper", move || keeper.run(&stopped))?,
            writer: spawn("store writer", move || writer.run())?,
            reader: spawn("store reader", move || reader.run(&wanted))?,
        };
        let next_session = AtomicU64::new(found.next_session);
        let durability = settings.durability;
        let store = Self { shared, durability, next_session, threads: Mutex::new(Some(threads)) };
        Ok((Arc::new(store), found.recovered))
    }

    /// The most that an acknowledgement promises.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The name for a new session.
    #[must_use]
    pub fn next_session(&self) -> SessionNo {
        SessionNo(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a change down; it is written with the next batch, which [`Store::flush`] starts.
    pub fn change(&self, change: Change) -> Commit {
        self.shared.inbox.push(change)
    }

    /// True while not so much waits to be written that publishers have to wait for it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.inbox.has_room()
    }

    /// As [`Store::has_room`]; when there is none, the waker is woken once there is again.
    pub fn poll_room(&self, waker: &Waker) -> bool {
        self.shared.inbox.poll_room(waker)
    }

    /// What this thread takes down until the value is dropped is written in one batch, all of it
    /// or nothing. It keeps the writer from its work: not for long, and not twice in one thread.
    #[must_use]
    pub fn together(&self) -> Together<'_> {
        Together { _boundary: self.shared.inbox.together() }
    }

    /// Starts the next batch, unless one is being written: then it follows. Where nothing but
    /// [`Change::Finished`] was taken down there is no hurry: that is written within a second.
    pub fn flush(&self) {
        self.shared.inbox.call();
    }

    /// True when this batch is on disk, as far as the durability promises.
    #[must_use]
    pub fn is_committed(&self, commit: Commit) -> bool {
        self.shared.inbox.is_committed(commit)
    }

    /// As [`Store::is_committed`]; when it is not, the waker is woken once it is, or once it is
    /// known that it never will be.
    pub fn poll_committed(&self, commit: Commit, waker: &Waker) -> bool {
        self.shared.inbox.poll(commit, waker)
    }

    /// Reads a part of a session's queue on a thread of the store's, after `commit` is done: from
    /// `from` on, at most `count_max` deliveries and about `bytes_max` bytes, but one at least.
    /// `then` is called with it on that thread. What is finished, released or expired is not
    /// among them; where there is nothing more, the page is empty.
    pub fn read(
        &self,
        session: SessionNo,
        from: Seq,
        after: Commit,
        (count_max, bytes_max): (usize, u64),
        then: impl FnOnce(Result<Page, StoreError>) + Send + 'static,
    ) {
        let wanted = Wanted::Page { from, count_max, bytes_max, then: Box::new(then) };
        self.request(Request { session, after, wanted });
    }

    /// Reads back, on a thread of the store's and after `after` is done, what a session's
    /// connection had under way; of the queue what comes before `before`. `then` is called with
    /// it on that thread.
    pub fn under_way(
        &self,
        session: SessionNo,
        before: Seq,
        after: Commit,
        then: impl FnOnce(Result<UnderWay, StoreError>) + Send + 'static,
    ) {
        let wanted = Wanted::UnderWay { before, then: Box::new(then) };
        self.request(Request { session, after, wanted });
    }

    fn request(&self, request: Request) {
        let refused = match &*self.threads.lock() {
            Some(threads) => threads.requests.send(request).err().map(|error| error.0),
            None => Some(request),
        };
        if let Some(request) = refused {
            request.refuse(self.shared.inbox.failure().unwrap_or_else(inbox::closed));
        }
    }

    /// From now on nothing more is acknowledged: something that has to be read cannot be.
    pub fn fail(&self, error: StoreError) {
        self.shared.inbox.fail(error);
    }

    /// Batches that were written, and how many of them were synced.
    #[must_use]
    pub fn batches(&self) -> (u64, u64) {
        let Shared { written, synced, .. } = &*self.shared;
        (written.load(Ordering::Relaxed), synced.load(Ordering::Relaxed))
    }

    /// All that is in the store now, as it is between two batches: whatever was acknowledged
    /// before is in it. It takes room on the disk while it is there.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (engine, folder) = {
            // Whoever reads a queue wants this lock too.
            let threads = self.threads.lock();
            let threads = threads.as_ref().ok_or_else(inbox::closed)?;
            (threads.engine.clone(), Arc::clone(&threads.folder))
        };
        let _no_removal = self.shared.snapshots.lock();
        Ok(Snapshot::of(&engine, &folder))
    }

    /// True while there is so little room on the disk that nothing durable is to be taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Relaxed)
    }

    /// Waits until writing has failed, and says why. From then on no commit is done any more.
    pub async fn failed(&self) -> StoreError {
        self.shared.inbox.failed().await
    }

    /// Writes what was taken down, syncs and stops the threads.
    ///
    /// # Errors
    /// When that fails.
    pub fn close(&self) -> Result<(), StoreError> {
        self.shared.inbox.close();
        self.join();
        self.shared.inbox.failure().map_or(Ok(()), Err)
    }

    fn join(&self) {
        let Some(threads) = self.threads.lock().take() else { return };
        let Threads { engine, folder, requests, stop, keeper, writer, reader } = threads;
        drop((engine, folder, requests));
        self.join_one(writer);
        self.join_one(reader);
        drop(stop);
        self.join_one(keeper);
    }

    /// Waits for a thread. One that waits itself for an engine that has failed is left alone.
    fn join_one(&self, thread: JoinHandle<()>) {
        // One that drops the last reference to the store cannot wait for itself.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        let mut left = JOIN_PAUSES_MAX;
        while !thread.is_finished() {
            if self.shared.inbox.failure().is_some() {
                left -= 1;
                if left == 0 {
                    tracing::error!("a thread of the store does not end");
                    return;
                }
            }
            std::thread::sleep(JOIN_PAUSE);
        }
        if thread.join().is_err() {
            tracing::error!("a thread of the store has panicked");
        }
    }
}

/// How often, and how long each time, a thread of a store that has failed is waited for.
const JOIN_PAUSES_MAX: u32 = 500;
const JOIN_PAUSE: Duration = Duration::from_millis(2);

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.inbox.stop();
        self.join();
    }
}

/// See [`Store::together`].
#[derive(Debug)]
pub struct Together<'a> {
    _boundary: parking_lot::RwLockReadGuard<'a, ()>,
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map_err(|error| StoreError::Failed {
        doing: "start a thread of the store",
        error: error.to_string(),
    })
}
