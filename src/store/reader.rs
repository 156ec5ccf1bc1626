//! The thread that reads queues back.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use super::codec::{Clock, Damage};
use super::engine::{Engine, failed};
use super::page::{Entries, Entry};
use super::queues::Place;
use super::{Commit, Page, SessionNo, Shared, StoreError, keys};
use crate::session::{Message, Seq};

/// Messages that several sessions read are looked for among so many at most.
const SHARED_MAX: usize = 4096;

/// A part of a queue that somebody wants.
pub(super) struct Request {
    pub(super) session: SessionNo,
    pub(super) from: Seq,
    pub(super) after: Commit,
    pub(super) count_max: usize,
    pub(super) bytes_max: u64,
    pub(super) then: Then,
}

/// Who wants it.
pub(super) type Then = Box<dyn FnOnce(Result<Page, StoreError>) + Send>;

/// The reader's own state.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Engine,
    pub(super) folder: PathBuf,
    /// Messages of `bodies` that somebody still has.
    pub(super) messages: HashMap<u64, Weak<Message>, ahash::RandomState>,
}

impl Reader {
    /// Reads what is asked for until nobody can ask any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(Request { session, from, after, count_max, bytes_max, then }) = requests.recv()
        {
            let page = self.shared.inbox.wait(after).and_then(|()| {
                let mut page = Reading {
                    page: Page { deliveries: Vec::new(), next: from },
                    count_max: count_max.max(1),
                    bytes_left: bytes_max,
                    clock: Clock::now(),
                };
                self.read(session, &mut page).map(|()| page.page)
            });
            then(page);
        }
    }

    fn read(&mut self, session: SessionNo, reading: &mut Reading) -> Result<(), StoreError> {
        loop {
            let place = self.shared.queues.lock().place(session, reading.page.next.0.get());
            let Some(place) = place.filter(|place| !place.pages.is_empty()) else { return Ok(()) };
            for (first, last) in &place.pages {
                let key = keys::page(session, *first);
                let stored = self.engine.queue.get(key).map_err(failed("read the store"))?;
                // A page that is not there any more was finished meanwhile.
                if let Some(stored) = stored {
                    match self.take_page(&key, &stored, &place, reading) {
                        Ok(More::Wanted) => {}
                        Ok(More::Enough) => return Ok(()),
                        Err(Trouble::Damage(damage)) => {
                            return Err(self.damaged(session, (*first, *last), damage));
                        }
                        Err(Trouble::Engine(error)) => return Err(error),
                    }
                }
                reading.go_on_after(*last);
            }
        }
    }

    fn take_page(
        &mut self,
        key: &[u8],
        stored: &[u8],
        place: &Place,
        reading: &mut Reading,
    ) -> Result<More, Trouble> {
        let mut entries = Entries::open(key, stored)?;
        while let Some(entry) = entries.next()? {
            let seq = entry.seq;
            let is_done = seq <= place.finished || place.released.contains(&seq);
            if seq < reading.page.next.0.get() || is_done || entry.has_expired(&reading.clock) {
                continue;
            }
            if reading.has_enough_before(entry.bytes) {
                return Ok(More::Enough);
            }
            reading.bytes_left = reading.bytes_left.saturating_sub(entry.bytes);
            let message = self.message(&entry, &reading.clock)?;
            reading.page.deliveries.push(entry.delivery(message)?);
            reading.go_on_after(seq);
        }
        Ok(More::Wanted)
    }

    fn message(&mut self, entry: &Entry<'_>, clock: &Clock) -> Result<Arc<Message>, Trouble> {
        let id = self.shared.next_message();
        let Some(body) = entry.body else { return Ok(Arc::new(entry.message(id, clock)?)) };
        if let Some(message) = self.messages.get(&body).and_then(Weak::upgrade) {
            return Ok(message);
        }
        let key = keys::body(body);
        let stored = self.engine.bodies.get(key).map_err(failed("read the store"))?;
        let stored = stored.ok_or(Damage("a message that an entry refers to is not there"))?;
        let message = Arc::new(entry.message_in(&key, &stored, id, clock)?);
        if self.messages.len() >= SHARED_MAX {
            self.messages.retain(|_, message| message.strong_count() > 0);
        }
        if self.messages.len() < SHARED_MAX {
            self.messages.insert(body, Arc::downgrade(&message));
        }
        Ok(message)
    }

    fn damaged(&self, session: SessionNo, (first, last): (u64, u64), damage: Damage) -> StoreError {
        let what = format!(
            "deliveries {first} to {last} of session {} cannot be read: {damage}",
            session.0
        );
        tracing::error!(store = %self.folder.display(), "{what}");
        StoreError::Damaged { file: self.folder.clone(), what }
    }
}

/// What is read, and how much more may be.
struct Reading {
    page: Page,
    count_max: usize,
    bytes_left: u64,
    clock: Clock,
}

impl Reading {
    fn has_enough_before(&self, bytes: u64) -> bool {
        let count = self.page.deliveries.len();
        count > 0 && (count >= self.count_max || bytes > self.bytes_left)
    }

    fn go_on_after(&mut self, seq: u64) {
        let next = std::num::NonZeroU64::MIN.saturating_add(seq);
        self.page.next = self.page.next.max(Seq(next));
    }
}

enum More {
    Wanted,
    Enough,
}

enum Trouble {
    Damage(Damage),
    Engine(StoreError),
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Engine(error)
    }
}
