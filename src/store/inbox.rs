//! Between those who change the store and its writer.
//!
//! Changes gather in one generation while the writer is busy with the one before. A commit is
//! the number of a generation. One lock, held for a push or a swap, never while anything is
//! written.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::{Change, Commit, StoreError};

/// How long changes wait that nobody waits for.
const LAZY_MAX: Duration = Duration::from_secs(1);

/// Wakers by what makes two of them the same, so that a task that asks twice is woken once.
type Wakers = HashMap<(usize, usize), Waker, ahash::RandomState>;

/// What is on its way to the writer, and how far the writer is.
#[derive(Debug)]
pub(super) struct Inbox {
    gathering: Mutex<Gathering>,
    /// Held by the writer while it takes a batch, shared by those whose changes must not be
    /// parted. Taken before `gathering`, never after.
    boundary: RwLock<()>,
    bell: Condvar,
    /// What the changes that are being gathered weigh. Changed under the lock of `gathering`.
    gathered_bytes: AtomicU64,
    committed: AtomicU64,
    failure: watch::Sender<Option<StoreError>>,
}

#[derive(Debug)]
struct Gathering {
    changes: Vec<Change>,
    generation: u64,
    /// Among the changes is one that somebody may wait for.
    urgent: bool,
    /// They are to be written now.
    called: bool,
    writer: Writer,
    end: End,
    /// Those who wait for this generation.
    waiting: Wakers,
    /// Those who wait for the one that is being written.
    in_flight: Wakers,
}

/// What the writer is doing.
#[derive(Debug, PartialEq, Eq)]
enum Writer {
    Busy,
    /// It wakes by itself after a while.
    Dozes,
    Sleeps,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// Once everything is written.
    AfterAll,
    /// At once, or already.
    Now,
}

/// With so much waiting for the writer, whoever would add to it has to wait too: a disk that is
/// slower than the publishers must not fill the memory.
const GATHERED_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn key(waker: &Waker) -> (usize, usize) {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

/// What the writer writes next.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) commit: Commit,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let gathering = Gathering {
            changes: Vec::new(),
            generation: 1,
            urgent: false,
            called: false,
            writer: Writer::Busy,
            end: End::NotYet,
            waiting: Wakers::default(),
            in_flight: Wakers::default(),
        };
        Self {
            gathering: Mutex::new(gathering),
            boundary: RwLock::new(()),
            bell: Condvar::new(),
            gathered_bytes: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            failure: watch::Sender::new(None),
        }
    }

    /// What this thread pushes until the guard is dropped is in one batch.
    pub(super) fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.boundary.read()
    }

    /// Takes a change down. After the end it is dropped, and its commit is never done.
    pub(super) fn push(&self, change: Change) -> Commit {
        let mut gathering = self.gathering.lock();
        let commit = Commit(gathering.generation);
        if gathering.end != End::NotYet {
            return commit;
        }
        self.gathered_bytes.fetch_add(change.weight_bytes(), Ordering::Relaxed);
        let is_urgent = !matches!(change, Change::Finished(..) | Change::Dropped(..));
        gathering.urgent |= is_urgent;
        gathering.changes.push(change);
        let must_doze = gathering.writer == Writer::Sleeps && !is_urgent;
        if must_doze {
            gathering.writer = Writer::Busy;
        }
        drop(gathering);
        if must_doze {
            self.bell.notify_one();
        }
        commit
    }

    /// Has the writer write what is here, unless nobody waits for it.
    pub(super) fn call(&self) {
        let mut gathering = self.gathering.lock();
        if gathering.called || !gathering.urgent {
            return;
        }
        gathering.called = true;
        let rests = gathering.writer != Writer::Busy;
        drop(gathering);
        if rests {
            self.bell.notify_one();
        }
    }

    /// True while not so much waits for the writer that others have to wait for it.
    pub(super) fn has_room(&self) -> bool {
        self.gathered_bytes.load(Ordering::Relaxed) < GATHERED_BYTES_MAX
    }

    /// As [`Inbox::has_room`]; when there is none, the waker is woken once what waits is on disk.
    /// After the end there is room: nothing is taken down any more.
    pub(super) fn poll_room(&self, waker: &Waker) -> bool {
        if self.has_room() {
            return true;
        }
        let mut gathering = self.gathering.lock();
        if self.has_room() || gathering.end != End::NotYet {
            return true;
        }
        gathering.waiting.entry(key(waker)).or_insert_with(|| waker.clone());
        drop(gathering);
        self.call();
        false
    }

    pub(super) fn is_committed(&self, commit: Commit) -> bool {
        self.committed.load(Ordering::Acquire) >= commit.0
    }

    /// True when the commit is done; else the waker is woken once it is, or once it is known
    /// that it never will be.
    pub(super) fn poll(&self, commit: Commit, waker: &Waker) -> bool {
        if self.is_committed(commit) {
            return true;
        }
        let mut gathering = self.gathering.lock();
        // The writer takes the wakers after it has published: who is not among them yet must
        // look again, and whoever comes to the lock later finds it published.
        if self.is_committed(commit) {
            return true;
        }
        if gathering.end != End::Now {
            let is_gathering = commit.0 >= gathering.generation;
            let Gathering { waiting, in_flight, .. } = &mut *gathering;
            let wakers = if is_gathering { waiting } else { in_flight };
            wakers.entry(key(waker)).or_insert_with(|| waker.clone());
        }
        false
    }

    /// Blocks until the commit is done.
    ///
    /// # Errors
    /// When it never will be.
    pub(super) fn wait(&self, commit: Commit) -> Result<(), StoreError> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        while !self.poll(commit, &waker) {
            if self.gathering.lock().end == End::Now {
                return Err(self.failure().unwrap_or_else(closed));
            }
            std::thread::park();
        }
        Ok(())
    }

    /// For the writer, which is done with the batch before: the next one, or nothing any more.
    /// `spare` is an empty list to gather in.
    pub(super) fn next(&self, spare: Vec<Change>) -> Option<Batch> {
        let mut gathering = self.gathering.lock();
        // Who waits has waited for the batch before already.
        gathering.called |= gathering.urgent;
        let mut wake_at = None;
        while !gathering.called {
            match gathering.end {
                End::NotYet => {}
                End::AfterAll if !gathering.changes.is_empty() => break,
                End::AfterAll | End::Now => return None,
            }
            if gathering.changes.is_empty() {
                gathering.writer = Writer::Sleeps;
                self.bell.wait(&mut gathering);
            } else {
                let until = *wake_at.get_or_insert_with(|| Instant::now() + LAZY_MAX);
                gathering.writer = Writer::Dozes;
                if self.bell.wait_until(&mut gathering, until).timed_out() {
                    break;
                }
            }
        }
        gathering.writer = Writer::Busy;
        drop(gathering);
        let _boundary = self.boundary.write();
        let mut gathering = self.gathering.lock();
        if gathering.end == End::Now {
            return None;
        }
        let commit = Commit(gathering.generation);
        gathering.generation += 1;
        gathering.urgent = false;
        gathering.called = false;
        gathering.in_flight = std::mem::take(&mut gathering.waiting);
        let changes = std::mem::replace(&mut gathering.changes, spare);
        self.gathered_bytes.store(0, Ordering::Relaxed);
        Some(Batch { changes, commit })
    }

    /// For the writer: the batch is on disk.
    pub(super) fn publish(&self, commit: Commit) {
        self.committed.store(commit.0, Ordering::Release);
        let wakers = std::mem::take(&mut self.gathering.lock().in_flight);
        wakers.into_values().for_each(Waker::wake);
    }

    /// The writer is to write what is here, and end.
    pub(super) fn close(&self) {
        self.end(End::AfterAll);
    }

    /// Nothing more is written.
    pub(super) fn stop(&self) {
        self.end(End::Now);
    }

    /// Nothing more is written, for this reason.
    pub(super) fn fail(&self, error: StoreError) {
        tracing::error!(%error, "the store has failed: nothing more is acknowledged");
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(error);
            is_first
        });
        self.stop();
    }

    fn end(&self, end: End) {
        let mut gathering = self.gathering.lock();
        let mut wakers = Vec::new();
        if end == End::Now {
            gathering.changes = Vec::new();
            wakers.extend(std::mem::take(&mut gathering.waiting).into_values());
            wakers.extend(std::mem::take(&mut gathering.in_flight).into_values());
        }
        if gathering.end != End::Now {
            gathering.end = end;
        }
        drop(gathering);
        self.bell.notify_one();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Why the writer has ended, if something was wrong.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    pub(super) async fn failed(&self) -> StoreError {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            // The sender is ours: it is not gone while this waits.
            if failure.changed().await.is_err() {
                return closed();
            }
        }
    }
}

/// What is not possible any more once a store is closed.
pub(super) fn closed() -> StoreError {
    StoreError::Failed { doing: "use the store", error: "it is closed".to_owned() }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::session::Seq;
    use crate::store::SessionNo;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn urgent() -> Change {
        Change::End(SessionNo(1))
    }

    fn lazy() -> Change {
        Change::Finished(SessionNo(1), Seq(NonZeroU64::MIN))
    }

    #[test]
    fn a_waker_is_woken_once_when_its_own_batch_is_done() {
        let inbox = Inbox::new();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let first = inbox.push(urgent());
        assert!(!inbox.poll(first, &waker));
        assert!(!inbox.poll(first, &waker));
        let batch = inbox.next(Vec::new()).unwrap();
        assert_eq!((batch.commit, batch.changes.len()), (first, 1));
        let second = inbox.push(urgent());
        assert!(second > first);
        assert!(!inbox.poll(first, &waker));
        inbox.publish(first);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(inbox.poll(first, &waker) && !inbox.poll(second, &waker));
        // What came in meanwhile is written without being called for.
        assert_eq!(inbox.next(Vec::new()).unwrap().commit, second);
        inbox.publish(second);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn whoever_would_add_to_too_much_waits_until_it_is_on_disk() {
        let inbox = Inbox::new();
        let topic = crate::mqtt::TopicName::parse("t").unwrap();
        let payload = vec![0; 1 << 20].into();
        let id = crate::session::MessageId(0);
        let qos = crate::mqtt::packet::Qos::AtMostOnce;
        let message =
            crate::session::Message::new(id, topic, payload, qos, true, None, Instant::now());
        let message = Arc::new(message);
        let account = crate::identity::Account {
            kind: crate::identity::PrincipalKind::Device,
            name: "dev1".into(),
        };
        let account = Arc::new(account);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut pushed = 0;
        while inbox.poll_room(&waker) {
            inbox.push(Change::Retain(Arc::clone(&message), Arc::clone(&account)));
            pushed += 1;
            assert!(pushed <= 64, "no bound");
        }
        assert!(pushed > 60, "{pushed}");
        let batch = inbox.next(Vec::new()).unwrap();
        assert!(inbox.has_room());
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        inbox.publish(batch.commit);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(inbox.poll_room(&waker));
        while inbox.has_room() {
            inbox.push(Change::Retain(Arc::clone(&message), Arc::clone(&account)));
        }
        inbox.stop();
        assert!(inbox.poll_room(&waker));
    }

    #[test]
    fn what_belongs_together_is_in_one_batch() {
        let inbox = Arc::new(Inbox::new());
        let together = inbox.together();
        let first = inbox.push(urgent());
        inbox.call();
        let writer = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || inbox.next(Vec::new()).unwrap()
        });
        // Until the writer wants the batch.
        while inbox.boundary.try_read().is_some() {
            std::thread::yield_now();
        }
        assert_eq!(inbox.push(urgent()), first);
        drop(together);
        let batch = writer.join().unwrap();
        assert_eq!((batch.commit, batch.changes.len()), (first, 2));
    }

    #[test]
    fn what_nobody_waits_for_is_written_later_all_the_same() {
        let inbox = Inbox::new();
        inbox.push(lazy());
        inbox.call();
        let before = Instant::now();
        assert_eq!(inbox.next(Vec::new()).unwrap().changes.len(), 1);
        assert!(before.elapsed() >= LAZY_MAX);
        inbox.push(lazy());
        inbox.close();
        assert_eq!(inbox.next(Vec::new()).unwrap().changes.len(), 1);
        assert!(inbox.next(Vec::new()).is_none());
    }

    #[test]
    fn after_a_failure_nothing_is_committed_and_nobody_waits() {
        let inbox = Arc::new(Inbox::new());
        let commit = inbox.push(urgent());
        let waiting = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || inbox.wait(commit)
        });
        inbox.next(Vec::new()).unwrap();
        inbox.fail(StoreError::Failed { doing: "write", error: "no space".to_owned() });
        assert_eq!(waiting.join().unwrap().unwrap_err().to_string(), "write: no space");
        assert!(!inbox.is_committed(commit));
        assert!(inbox.next(Vec::new()).is_none());
        let later = inbox.push(urgent());
        assert!(!inbox.poll(later, Waker::noop()));
    }

    #[test]
    fn no_wake_is_lost_between_many_who_wait_and_one_who_writes() {
        const ROUNDS: usize = 2_000;
        let inbox = Arc::new(Inbox::new());
        let writer = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                let mut batches = 0;
                while let Some(batch) = inbox.next(Vec::new()) {
                    inbox.publish(batch.commit);
                    batches += 1;
                }
                batches
            }
        });
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let inbox = Arc::clone(&inbox);
                std::thread::spawn(move || {
                    for _ in 0..ROUNDS {
                        let commit = inbox.push(urgent());
                        inbox.call();
                        inbox.wait(commit).unwrap();
                    }
                })
            })
            .collect();
        for thread in waiting {
            thread.join().unwrap();
        }
        inbox.close();
        assert!(writer.join().unwrap() <= 4 * ROUNDS);
    }
}
