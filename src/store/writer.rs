//! The one thread that writes: a batch of changes becomes one batch of the engine.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fjall::{OwnedWriteBatch, PersistMode, UserKey};

use super::codec::{Clock, Record, put_u64};
use super::content::put_subscription;
use super::engine::{Engine, failed};
use super::folder::Folder;
use super::mark::Marks;
use super::page::{PageRef, Writing, seal_body};
use super::queues::Queue;
use super::registered::{seal_ban, seal_device};
use super::{Change, Durability, RetainedRecord, SessionNo, Shared, StoreError, keys};
use crate::identity::Account;
use crate::mqtt::TopicName;
use crate::session::{Delivery, Message};

/// A message that counts for no more bytes than this is stored with each of its deliveries.
const SMALL_BYTES: u64 = 64;
/// Session numbers that are set apart at a time.
const SESSIONS_AT_ONCE: u64 = 1024;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// How often pages refer to each of `bodies`.
pub(super) type BodyCounts = Map<u64, u32>;

/// The writer's own state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Engine,
    /// Kept locked.
    pub(super) folder: Arc<Folder>,
    pub(super) marks: Marks,
    pub(super) durability: Durability,
    pub(super) counts: BodyCounts,
    pub(super) next_body: u64,
    /// Session numbers below this one are taken down as given.
    pub(super) sessions_end: u64,
    #[cfg(test)]
    pub(super) probe: Box<dyn FnMut() -> Result<(), StoreError> + Send>,
}

/// A message to retain, and for whom it counts.
type Kept = (Arc<Message>, Arc<Account>);

/// What a batch comes to. Of several changes to one thing only the last remains.
#[derive(Default)]
struct Outcome {
    /// Records of `state`; `None` is to be removed.
    state: BTreeMap<UserKey, Option<Vec<u8>>>,
    retained: Map<TopicName, Option<Kept>>,
    pending: Map<SessionNo, Vec<Delivery>>,
    gone: Vec<(SessionNo, PageRef)>,
    progressed: HashSet<SessionNo, ahash::RandomState>,
    ended: Vec<SessionNo>,
    /// Something in it is to survive a power cut.
    is_promised: bool,
}

impl Writer {
    /// Writes until the store is closed or something fails.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let run = std::panic::AssertUnwindSafe(|| self.write_all());
        let ended = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            let error = "the thread that writes has panicked".to_owned();
            Err(StoreError::Failed { doing: "write to the store", error })
        });
        match ended {
            Ok(()) => shared.inbox.stop(),
            Err(error) => shared.inbox.fail(error),
        }
    }

    fn write_all(&mut self) -> Result<(), StoreError> {
        let mut spare = Vec::new();
        while let Some(mut batch) = self.shared.inbox.next(spare) {
            self.write(&mut batch.changes)?;
            self.shared.inbox.publish(batch.commit);
            spare = batch.changes;
        }
        let sync = self.engine.database.persist(PersistMode::SyncAll);
        sync.map_err(failed("sync the store"))?;
        if let Err(error) = self.folder.is_closed(self.marks.last()) {
            // Nothing is lost by it but a check when it is opened again.
            tracing::warn!("it cannot be said in the store where it ends: {error}");
        }
        Ok(())
    }

    /// Writes a batch, and leaves the list empty.
    fn write(&mut self, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let clock = Clock::now();
        let mut outcome = self.apply(changes);
        self.forget_ended(&mut outcome)?;
        let mut batch = self.marks.batch(&self.engine);
        let added = self.put_pages(&mut batch, &outcome.pending, &clock);
        self.remove_pages(&mut batch, &outcome.gone);
        for (key, record) in outcome.state {
            match record {
                Some(record) => batch.insert(&self.engine.state, key, record),
                None => batch.remove(&self.engine.state, key),
            }
        }
        for (topic, kept) in outcome.retained {
            let key = topic.as_str();
            match kept {
                Some((message, account)) => {
                    let record = RetainedRecord::seal(&message, &account, &clock);
                    batch.insert(&self.engine.retained, key, record);
                }
                None => batch.remove(&self.engine.retained, key),
            }
        }
        #[cfg(test)]
        (self.probe)()?;
        let must_sync = self.durability == Durability::Fsync && outcome.is_promised;
        let mode = if must_sync { PersistMode::SyncData } else { PersistMode::Buffer };
        batch.durability(Some(mode)).commit().map_err(failed("write to the store"))?;
        if must_sync {
            self.marks.synced();
            self.shared.synced.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.written.fetch_add(1, Ordering::Relaxed);
        self.shared.removed.fetch_add(outcome.gone.len() as u64, Ordering::Relaxed);
        let mut queues = self.shared.queues.lock();
        for (number, page) in added {
            if let Some(queue) = queues.queue(number) {
                queue.pages.push_back(page);
            }
        }
        Ok(())
    }

    /// What the changes come to, one after the other.
    fn apply(&mut self, changes: &mut Vec<Change>) -> Outcome {
        let shared = Arc::clone(&self.shared);
        let mut queues = shared.queues.lock();
        let mut outcome = Outcome::default();
        for change in changes.drain(..) {
            if let Change::Session(number, record) = &change {
                let number = *number;
                queues.begin(number, record.durability);
                self.take_number(number, &mut outcome);
            }
            let ended = if let Change::End(number) = change { queues.end(number) } else { None };
            let queue = change.session().and_then(|number| queues.queue(number));
            outcome.add(change, queue, ended);
        }
        for (number, deliveries) in &mut outcome.pending {
            if let Some(queue) = queues.queue(*number) {
                deliveries
                    .retain(|delivery| delivery.seq.is_some_and(|seq| !queue.is_done(seq.0.get())));
                outcome.is_promised |=
                    !deliveries.is_empty() && queue.durability == Durability::Fsync;
            }
        }
        for number in &outcome.progressed {
            if let Some(queue) = queues.queue(*number) {
                let key = keys::progress(*number);
                let record = progress_record(&key, queue.finished, queue.highest);
                outcome.state.insert(key, Some(record));
            }
        }
        outcome
    }

    /// Takes down that the number is given, some numbers ahead.
    fn take_number(&mut self, number: SessionNo, outcome: &mut Outcome) {
        if number.0 < self.sessions_end {
            return;
        }
        self.sessions_end = number.0.saturating_add(SESSIONS_AT_ONCE);
        let record = number_record(keys::SESSIONS, self.sessions_end);
        outcome.state.insert(keys::SESSIONS.into(), Some(record));
    }

    /// Removes all that ended sessions have on disk in `state`.
    fn forget_ended(&self, outcome: &mut Outcome) -> Result<(), StoreError> {
        for number in &outcome.ended {
            for found in self.engine.state.prefix(keys::session(*number)) {
                let key = found.key().map_err(failed("read the store"))?;
                outcome.state.entry(key).or_insert(None);
            }
        }
        Ok(())
    }

    /// Writes what waits, and says which pages that makes.
    fn put_pages(
        &mut self,
        batch: &mut OwnedWriteBatch,
        pending: &Map<SessionNo, Vec<Delivery>>,
        clock: &Clock,
    ) -> Vec<(SessionNo, PageRef)> {
        let mut shared = shared_messages(pending);
        let mut added = Vec::new();
        let mut put = |page: Writing, batch: &mut OwnedWriteBatch, number| {
            let written = page.seal();
            batch.insert(&self.engine.queue, written.key, written.record);
            added.push((number, written.page));
        };
        for (number, deliveries) in pending {
            let mut writing = None;
            for delivery in deliveries {
                let Some(seq) = delivery.seq.map(|seq| seq.0.get()) else { continue };
                if let Some(page) = writing.take_if(|page: &mut Writing| page.is_full()) {
                    put(page, batch, *number);
                }
                let message = &delivery.message;
                let body = shared.get_mut(&address(message)).map(|sharing| {
                    *sharing.body.get_or_insert_with(|| {
                        let id = self.next_body;
                        self.next_body += 1;
                        let key = keys::body(id);
                        batch.insert(&self.engine.bodies, key, seal_body(&key, message));
                        id
                    })
                });
                if let Some(id) = body {
                    *self.counts.entry(id).or_default() += 1;
                }
                let page = writing.get_or_insert_with(|| Writing::new(*number, seq));
                page.push(seq, delivery, body, clock);
            }
            if let Some(page) = writing {
                put(page, batch, *number);
            }
        }
        added
    }

    /// Removes pages, and bodies with their last page.
    fn remove_pages(&mut self, batch: &mut OwnedWriteBatch, gone: &[(SessionNo, PageRef)]) {
        for (number, page) in gone {
            batch.remove(&self.engine.queue, keys::page(*number, page.first));
            for id in &page.bodies {
                let Entry::Occupied(mut count) = self.counts.entry(*id) else { continue };
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    batch.remove(&self.engine.bodies, keys::body(*id));
                }
            }
        }
    }
}

impl Outcome {
    /// Adds a change. `queue` is that of its session; a change to a session that has none comes
    /// too late, and does nothing.
    fn add(&mut self, change: Change, queue: Option<&mut Queue>, ended: Option<Queue>) {
        if let Change::Finished(number, up_to) = change {
            if let Some(queue) = queue {
                self.finish(number, up_to.0.get(), queue);
            }
            return;
        }
        if let Change::Dropped(number, seq) = change {
            if let Some(queue) = queue {
                let pages = queue.drop(seq.0.get());
                self.gone.extend(pages.into_iter().map(|page| (number, page)));
                self.progressed.insert(number);
            }
            return;
        }
        if let Change::Enqueue(number, delivery) = change {
            if let Some(queue) = queue {
                let seq = delivery.seq.map_or(0, |seq| seq.0.get());
                queue.highest = queue.highest.max(seq);
                self.pending.entry(number).or_default().push(delivery);
            }
            return;
        }
        let promised = queue.as_deref().or(ended.as_ref());
        self.is_promised |= promised.is_none_or(|queue| queue.durability == Durability::Fsync);
        match (change, queue) {
            (Change::Session(number, record), Some(_)) => {
                let key = keys::session(number);
                let record = record.seal(&key);
                self.state.insert(key, Some(record));
            }
            (Change::Subscribe(number, filter, options), Some(_)) => {
                let key = keys::subscription(number, &filter);
                let mut record = Record::new();
                put_subscription(record.fields(), &filter, options);
                let record = record.seal(&key);
                self.state.insert(key, Some(record));
            }
            (Change::Unsubscribe(number, filter), Some(_)) => {
                self.state.insert(keys::subscription(number, &filter), None);
            }
            (Change::Released(number, seq), Some(queue)) => {
                let seq = seq.0.get();
                if seq > queue.finished && queue.released.insert(seq) {
                    queue.highest = queue.highest.max(seq);
                    self.mark(keys::released(number, seq));
                }
            }
            (Change::Held(number, id), Some(_)) => self.mark(keys::held(number, id)),
            (Change::Freed(number, id), Some(_)) => {
                self.state.insert(keys::held(number, id), None);
            }
            (Change::End(number), _) => {
                if let Some(queue) = ended {
                    self.end(number, queue);
                }
            }
            (Change::Retain(message, account), _) => {
                self.retained.insert(message.topic.clone(), Some((message, account)));
            }
            (Change::Clear(topic), _) => {
                self.retained.insert(topic, None);
            }
            (Change::Ban(ban), _) => {
                let key = keys::ban(ban.id);
                let record = seal_ban(&key, &ban);
                self.state.insert(key, Some(record));
            }
            (Change::Unban(id), _) => {
                self.state.insert(keys::ban(id), None);
            }
            (Change::Device(device), _) => {
                let key = keys::device(&device.principal);
                let record = seal_device(&key, &device);
                self.state.insert(key, Some(record));
            }
            (Change::Forget(principal), _) => {
                self.state.insert(keys::device(&principal), None);
            }
            _ => {}
        }
    }

    /// Puts a record that says all by being there.
    fn mark(&mut self, key: UserKey) {
        let record = Record::new().seal(&key);
        self.state.insert(key, Some(record));
    }

    fn finish(&mut self, number: SessionNo, up_to: u64, queue: &mut Queue) {
        let (pages, released) = queue.finish(up_to);
        self.gone.extend(pages.into_iter().map(|page| (number, page)));
        for seq in released {
            self.state.insert(keys::released(number, seq), None);
        }
        self.progressed.insert(number);
    }

    fn end(&mut self, number: SessionNo, queue: Queue) {
        self.gone.extend(queue.pages.into_iter().map(|page| (number, page)));
        self.pending.remove(&number);
        self.progressed.remove(&number);
        let begin = keys::session(number);
        let later = self.state.range(begin.clone()..).map(|(key, _)| key);
        let its_own: Vec<_> = later.take_while(|key| key.starts_with(&begin)).cloned().collect();
        for key in its_own {
            self.state.remove(&key);
        }
        self.ended.push(number);
    }
}

/// A message that several deliveries of the batch have.
struct Sharing {
    body: Option<u64>,
}

/// The messages worth storing once, by their address.
fn shared_messages(pending: &Map<SessionNo, Vec<Delivery>>) -> Map<usize, Sharing> {
    let mut seen = HashSet::with_hasher(ahash::RandomState::new());
    let mut shared = Map::default();
    if pending.len() < 2 {
        return shared;
    }
    for delivery in pending.values().flatten() {
        let message = &delivery.message;
        // Whoever holds the only reference shares it with nobody.
        if Arc::strong_count(message) > 1
            && message.bytes() > SMALL_BYTES
            && !seen.insert(address(message))
        {
            shared.insert(address(message), Sharing { body: None });
        }
    }
    shared
}

fn address(message: &Arc<Message>) -> usize {
    Arc::as_ptr(message).addr()
}

/// How far a queue is done with, and the highest number there was.
pub(super) fn progress_record(key: &[u8], finished: u64, highest: u64) -> Vec<u8> {
    let mut record = Record::new();
    put_u64(record.fields(), finished);
    put_u64(record.fields(), highest);
    record.seal(key)
}

/// A fact of the store that is a number.
pub(super) fn number_record(key: &[u8], value: u64) -> Vec<u8> {
    let mut record = Record::new();
    put_u64(record.fields(), value);
    record.seal(key)
}
