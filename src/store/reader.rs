//! The thread that reads back what sessions have.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use super::codec::{Clock, Damage};
use super::engine::{Engine, describe, failed, is_damage};
use super::folder::Folder;
use super::keys::Part;
use super::page::{Entries, Entry};
use super::queues::Place;
use super::{Commit, Page, SessionNo, Shared, StoreError, UnderWay, keys};
use crate::session::{Message, Seq};

/// Messages that several sessions read are looked for among so many at most.
const SHARED_MAX: usize = 4096;

/// Something of a session that somebody wants, once the batch is on disk.
pub(super) struct Request {
    pub(super) session: SessionNo,
    pub(super) after: Commit,
    pub(super) wanted: Wanted,
}

/// What is wanted, and who wants it.
pub(super) enum Wanted {
    /// A part of the queue.
    Page { from: Seq, count_max: usize, bytes_max: u64, then: Then<Page> },
    /// What the connection had, from the queue up to a number.
    UnderWay { before: Seq, then: Then<UnderWay> },
}

/// Who wants it.
pub(super) type Then<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

impl Request {
    /// It will not be read.
    pub(super) fn refuse(self, error: StoreError) {
        match self.wanted {
            Wanted::Page { then, .. } => then(Err(error)),
            Wanted::UnderWay { then, .. } => then(Err(error)),
        }
    }
}

/// The reader's own state.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Engine,
    pub(super) folder: Arc<Folder>,
    /// Messages of `bodies` that somebody still has.
    pub(super) messages: HashMap<u64, Weak<Message>, ahash::RandomState>,
}

impl Reader {
    /// Reads what is asked for until nobody can ask any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            if let Err(error) = self.shared.inbox.wait(request.after) {
                request.refuse(error);
                continue;
            }
            let session = request.session;
            match request.wanted {
                Wanted::Page { from, count_max, bytes_max, then } => {
                    let mut page = Reading {
                        page: Page { deliveries: Vec::new(), next: from },
                        count_max: count_max.max(1),
                        bytes_left: bytes_max,
                        clock: Clock::now(),
                    };
                    then(self.read(session, &mut page).map(|()| page.page));
                }
                Wanted::UnderWay { before, then } => then(self.under_way(session, before)),
            }
        }
    }

    fn under_way(&self, session: SessionNo, before: Seq) -> Result<UnderWay, StoreError> {
        let mut found = UnderWay::default();
        for record in self.engine.state.prefix(keys::session(session)) {
            let key = record.key().map_err(failed("read the store"))?;
            if let Ok((_, Part::Held(id))) = keys::parse_state(&key) {
                found.held.push(id);
            }
        }
        let clock = Clock::now();
        let mut next = 0;
        while next < before.0.get() {
            let Some(place) = self.shared.queues.lock().place(session, next) else { break };
            let released = place.released.iter().filter_map(|seq| NonZeroU64::new(*seq));
            found.released = released.map(Seq).collect();
            let Some((_, last)) = place.pages.last() else { break };
            next = last.saturating_add(1);
            for (first, _) in place.pages {
                let key = keys::page(session, first);
                let Some(stored) = self.engine.queue.get(key).map_err(failed("read the store"))?
                else {
                    continue;
                };
                let mut entries = Entries::open(&key, &stored).map_err(damaged)?;
                while let Some(entry) = entries.next().map_err(damaged)? {
                    let is_done = self.shared.queues.lock().is_done(session, entry.seq);
                    let waiting = entry.waiting(&clock).filter(|it| it.seq < before && !is_done);
                    found.waiting.extend(waiting);
                }
            }
        }
        Ok(found)
    }

    fn read(&mut self, session: SessionNo, reading: &mut Reading) -> Result<(), StoreError> {
        loop {
            let place = self.shared.queues.lock().place(session, reading.page.next.0.get());
            let Some(place) = place.filter(|place| !place.pages.is_empty()) else { return Ok(()) };
            for (first, last) in &place.pages {
                let key = keys::page(session, *first);
                let at = At { session, first: *first, last: *last, key };
                match self.engine.queue.get(key) {
                    // A page that is not there any more was finished meanwhile.
                    Ok(None) => {}
                    Ok(Some(stored)) => match self.take_page(&at, &stored, &place, reading)? {
                        More::Wanted => {}
                        More::Enough => return Ok(()),
                    },
                    Err(error) if is_damage(&error) => self.lost(&at, &[], &describe(&error)),
                    Err(error) => return Err(failed("read the store")(error)),
                }
                reading.go_on_after(*last);
            }
        }
    }

    /// Takes what is wanted of a page. What cannot be read of it is set aside; without it goes
    /// on.
    fn take_page(
        &mut self,
        at: &At,
        stored: &[u8],
        place: &Place,
        reading: &mut Reading,
    ) -> Result<More, StoreError> {
        let mut damage = None;
        let more = match Entries::open(&at.key, stored) {
            Ok(entries) => self.take_entries(entries, place, reading, &mut damage)?,
            Err(found) => {
                damage = Some(found);
                More::Wanted
            }
        };
        if let Some(damage) = damage {
            self.lost(at, stored, &damage.to_string());
        }
        Ok(more)
    }

    fn take_entries(
        &mut self,
        mut entries: Entries<'_>,
        place: &Place,
        reading: &mut Reading,
        damage: &mut Option<Damage>,
    ) -> Result<More, StoreError> {
        loop {
            let entry = match entries.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(More::Wanted),
                Err(found) => {
                    damage.get_or_insert(found);
                    return Ok(More::Wanted);
                }
            };
            let seq = entry.seq;
            let is_done = seq <= place.finished || place.released.contains(&seq);
            if seq < reading.page.next.0.get() || is_done || entry.has_expired(&reading.clock) {
                continue;
            }
            if reading.has_enough_before(entry.bytes) {
                return Ok(More::Enough);
            }
            reading.bytes_left = reading.bytes_left.saturating_sub(entry.bytes);
            let message = self.message(&entry, &reading.clock);
            match message.and_then(|message| Ok(entry.delivery(message)?)) {
                Ok(delivery) => reading.page.deliveries.push(delivery),
                Err(Trouble::Damage(found)) => {
                    damage.get_or_insert(found);
                }
                Err(Trouble::Engine(error)) => return Err(error),
            }
            reading.go_on_after(seq);
        }
    }

    fn message(&mut self, entry: &Entry<'_>, clock: &Clock) -> Result<Arc<Message>, Trouble> {
        let id = self.shared.next_message();
        let Some(body) = entry.body else { return Ok(Arc::new(entry.message(id, clock)?)) };
        if let Some(message) = self.messages.get(&body).and_then(Weak::upgrade) {
            return Ok(message);
        }
        let key = keys::body(body);
        let stored = self.engine.bodies.get(key).map_err(|error| {
            if is_damage(&error) {
                Trouble::Damage(Damage("the table with a message of its cannot be read"))
            } else {
                Trouble::Engine(failed("read the store")(error))
            }
        })?;
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

    /// Says what is not delivered, and keeps it for whoever looks into it.
    fn lost(&self, at: &At, stored: &[u8], why: &str) {
        let kept = if stored.is_empty() {
            "nowhere".to_owned()
        } else {
            match self.folder.set_record_aside("queue", &at.key, stored) {
                Ok(path) => path.display().to_string(),
                Err(error) => format!("nowhere ({error})"),
            }
        };
        tracing::error!(
            session = at.session.0,
            first = at.first,
            last = at.last,
            kept,
            "deliveries are lost: {why}"
        );
    }
}

/// A page that is needed cannot be read.
fn damaged(damage: Damage) -> StoreError {
    StoreError::Failed { doing: "read the store", error: damage.to_string() }
}

/// Which page is read.
struct At {
    session: SessionNo,
    first: u64,
    last: u64,
    key: [u8; 16],
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
