//! What a store holds is read once when it is opened, from one end to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use fjall::Keyspace;

use super::codec::{Clock, Damage, unseal};
use super::content::take_subscription;
use super::engine::{Engine, failed, is_damage};
use super::folder::Folder;
use super::keys::{self, Part};
use super::mark::Marks;
use super::open::words;
use super::page::{Entries, PageRef};
use super::queues::Queues;
use super::registered::{unseal_ban, unseal_device};
use super::writer::{BodyCounts, progress_record};
use super::{RecoveredSession, RetainedRecord, SessionNo, SessionRecord, Shared, StoreError};
use crate::registry::{Ban, Device};
use crate::session::Seq;

/// How often a long scan says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Keys that are removed at a time.
const REMOVED_AT_ONCE: usize = 4096;

/// Records that cannot be read are logged one by one up to so many.
const LOGGED_MAX: u64 = 1000;

/// What the scan found.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) sessions: BTreeMap<SessionNo, RecoveredSession>,
    pub(super) retained: Vec<RetainedRecord>,
    pub(super) bans: Vec<Ban>,
    pub(super) devices: Vec<Device>,
    pub(super) queues: Queues,
    pub(super) counts: BodyCounts,
    pub(super) next_body: u64,
}

/// Reads all there is. What nobody will ask for again is removed.
///
/// # Errors
/// [`StoreError::Damaged`], unless the loss is accepted: then what cannot be read is set aside.
pub(super) fn scan(
    engine: &Engine,
    folder: &Folder,
    marks: &mut Marks,
    shared: &Shared,
    clock: Clock,
) -> Result<Contents, StoreError> {
    let mut scan = Scan {
        engine,
        folder,
        clock,
        shared,
        found: Contents::default(),
        dead: Vec::new(),
        damages: Damages { folder, count: 0, first: None },
        progress: Progress::new(),
    };
    scan.registered()?;
    scan.state()?;
    scan.queue()?;
    scan.retained()?;
    scan.damages.refuse()?;
    scan.remove_dead(marks)?;
    let mut found = scan.found;
    if let Some(last) = engine.bodies.last_key_value() {
        let key = last.key().map_err(unreadable(folder, "bodies"))?;
        let id = key.as_ref().try_into().map_or(0, u64::from_be_bytes);
        found.next_body = found.next_body.max(id.saturating_add(1));
    }
    Ok(found)
}

/// What the engine says when it cannot read: damage, where that is what it comes of.
fn unreadable<'a>(
    folder: &'a Folder,
    keyspace: &'a str,
) -> impl Fn(fjall::Error) -> StoreError + 'a {
    move |error| {
        if is_damage(&error) {
            let what = format!("a table of `{keyspace}` cannot be read ({})", words(&error));
            folder.damaged(&folder.tables_of(keyspace), &what)
        } else {
            failed("read the store")(error)
        }
    }
}

/// What is gathered on the way.
struct Scan<'a> {
    engine: &'a Engine,
    folder: &'a Folder,
    clock: Clock,
    shared: &'a Shared,
    found: Contents,
    /// What nobody will ask for again.
    dead: Vec<Dead>,
    damages: Damages<'a>,
    progress: Progress,
}

enum Dead {
    Page(SessionNo, PageRef),
    /// A record of which nothing else is known.
    Record(Keyspace, Vec<u8>),
}

/// A part of a session's state that comes before its record would be a mistake of ours: keys of
/// sessions sort their record first.
const NO_SESSION: Damage = Damage("it belongs to no session");

impl Scan<'_> {
    fn registered(&mut self) -> Result<(), StoreError> {
        let keyspace = &self.engine.state;
        let bans = keyspace.prefix(keys::BAN_PREFIX);
        for found in bans.chain(keyspace.prefix(keys::DEVICE_PREFIX)) {
            let (key, stored) = found.into_inner().map_err(unreadable(self.folder, "state"))?;
            let taken = if key.starts_with(keys::BAN_PREFIX) {
                keys::parse_ban(&key)
                    .and_then(|id| unseal_ban(id, &key, &stored))
                    .map(|ban| self.found.bans.push(ban))
            } else {
                unseal_device(&key, &stored).map(|device| self.found.devices.push(device))
            };
            if let Err(damage) = taken {
                let what = keys::describe("state", &key, |_| None);
                self.damages.found("state", &key, &stored, &what, damage)?;
                self.dead.push(Dead::Record(keyspace.clone(), key.to_vec()));
            }
            self.progress.count("bans and devices");
        }
        Ok(())
    }

    fn state(&mut self) -> Result<(), StoreError> {
        let keyspace = &self.engine.state;
        for found in keyspace.prefix(keys::SESSION_PREFIX) {
            let (key, stored) = found.into_inner().map_err(unreadable(self.folder, "state"))?;
            if let Err(damage) = self.take_state(&key, &stored) {
                let what = match keys::parse_state(&key) {
                    Ok((number, part)) => {
                        format!("{part:?} of {}", self.found.name_session(number))
                    }
                    Err(_) => "a record of a session".to_owned(),
                };
                self.damages.found("state", &key, &stored, &what, damage)?;
                self.dead.push(Dead::Record(keyspace.clone(), key.to_vec()));
            }
            self.progress.count("session records");
        }
        Ok(())
    }

    fn take_state(&mut self, key: &[u8], stored: &[u8]) -> Result<(), Damage> {
        let (number, part) = keys::parse_state(key)?;
        if part == Part::Record {
            let record = SessionRecord::unseal(key, stored)?;
            self.found.queues.begin(number, record.durability);
            self.found.sessions.insert(
                number,
                RecoveredSession {
                    number,
                    record,
                    subscriptions: Vec::new(),
                    held: Vec::new(),
                    released: Vec::new(),
                    waiting: Vec::new(),
                    next_seq: Seq(NonZeroU64::MIN),
                },
            );
            return Ok(());
        }
        let mut fields = unseal(key, stored)?;
        let session = self.found.sessions.get_mut(&number).ok_or(NO_SESSION)?;
        let queue = self.found.queues.queue(number).ok_or(NO_SESSION)?;
        match part {
            Part::Record => {}
            Part::Subscription => session.subscriptions.push(take_subscription(&mut fields)?),
            Part::Held(id) => session.held.push(id),
            Part::Progress => {
                queue.finished = fields.u64()?;
                queue.highest = fields.u64()?.max(queue.finished);
            }
            Part::Released(seq) if seq <= queue.finished => {}
            Part::Released(seq) => {
                queue.released.insert(seq);
                queue.highest = queue.highest.max(seq);
                let seq = NonZeroU64::new(seq).ok_or(Damage("a sequence number is 0"))?;
                session.released.push(Seq(seq));
            }
        }
        fields.finish()
    }

    fn queue(&mut self) -> Result<(), StoreError> {
        let keyspace = &self.engine.queue;
        for found in keyspace.iter() {
            let (key, stored) = found.into_inner().map_err(unreadable(self.folder, "queue"))?;
            if let Err(damage) = self.take_page(&key, &stored) {
                let what = match keys::parse_page(&key) {
                    Ok((number, first)) => {
                        let session = self.found.name_session(number);
                        format!("the deliveries from {first} on of {session}")
                    }
                    Err(_) => "a page of the queues".to_owned(),
                };
                self.damages.found("queue", &key, &stored, &what, damage)?;
                self.dead.push(Dead::Record(keyspace.clone(), key.to_vec()));
            }
            self.progress.count("queue pages");
        }
        let Contents { sessions, queues, .. } = &mut self.found;
        for (number, session) in sessions {
            let highest = queues.queue(*number).map_or(0, |queue| queue.highest);
            session.next_seq = Seq(NonZeroU64::MIN.saturating_add(highest));
            session.waiting.shrink_to_fit();
        }
        Ok(())
    }

    fn take_page(&mut self, key: &[u8], stored: &[u8]) -> Result<(), Damage> {
        let (number, first) = keys::parse_page(key)?;
        let session = self.found.sessions.get_mut(&number).ok_or(NO_SESSION)?;
        let queue = self.found.queues.queue(number).ok_or(NO_SESSION)?;
        let waiting_before = session.waiting.len();
        let mut bodies = Vec::new();
        let mut last = first;
        let mut entries = Entries::open(key, stored)?;
        while let Some(entry) = entries.next()? {
            last = entry.seq;
            bodies.extend(entry.body);
            if !queue.is_done(last) && !entry.has_expired(&self.clock) {
                let waiting = entry.waiting(&self.clock);
                session.waiting.push(waiting.ok_or(Damage("a sequence number is 0"))?);
            }
        }
        queue.highest = queue.highest.max(last);
        for id in &bodies {
            *self.found.counts.entry(*id).or_default() += 1;
            self.found.next_body = self.found.next_body.max(id.saturating_add(1));
        }
        let page = PageRef { first, last, bodies: bodies.into() };
        if session.waiting.len() == waiting_before {
            self.dead.push(Dead::Page(number, page));
        } else {
            queue.pages.push_back(page);
        }
        Ok(())
    }

    fn retained(&mut self) -> Result<(), StoreError> {
        let keyspace = &self.engine.retained;
        for found in keyspace.iter() {
            let (key, stored) = found.into_inner().map_err(unreadable(self.folder, "retained"))?;
            let id = self.shared.next_message();
            match RetainedRecord::unseal(&key, &stored, id, &self.clock) {
                Ok(Some(record)) => self.found.retained.push(record),
                Ok(None) => self.dead.push(Dead::Record(keyspace.clone(), key.to_vec())),
                Err(damage) => {
                    let what = format!("retained message of {:?}", String::from_utf8_lossy(&key));
                    self.damages.found("retained", &key, &stored, &what, damage)?;
                    self.dead.push(Dead::Record(keyspace.clone(), key.to_vec()));
                }
            }
            self.progress.count("retained messages");
        }
        Ok(())
    }

    /// Removes what has expired, was finished or set aside. What is lost of it is found dead
    /// again.
    fn remove_dead(&mut self, marks: &mut Marks) -> Result<(), StoreError> {
        let Contents { counts, queues, .. } = &mut self.found;
        for dead in self.dead.chunks(REMOVED_AT_ONCE) {
            let mut batch = marks.batch(self.engine);
            let mut sessions = BTreeSet::new();
            for dead in dead {
                match dead {
                    Dead::Record(keyspace, key) => batch.remove(keyspace, key.as_slice()),
                    Dead::Page(number, page) => {
                        sessions.insert(*number);
                        batch.remove(&self.engine.queue, keys::page(*number, page.first));
                        for id in &page.bodies {
                            let count = counts.entry(*id).or_default();
                            *count = count.saturating_sub(1);
                            if *count == 0 {
                                counts.remove(id);
                                batch.remove(&self.engine.bodies, keys::body(*id));
                            }
                        }
                    }
                }
            }
            // The numbers of what goes are not given again.
            for number in sessions {
                let Some(queue) = queues.queue(number) else { continue };
                let key = keys::progress(number);
                let record = progress_record(&key, queue.finished, queue.highest);
                batch.insert(&self.engine.state, key, record);
            }
            batch.commit().map_err(failed("write to the store"))?;
        }
        Ok(())
    }
}

impl Contents {
    fn name_session(&self, number: SessionNo) -> String {
        match self.sessions.get(&number) {
            Some(session) => {
                format!("session {} of {:?}", number.0, session.record.facts.client_id.as_str())
            }
            None => format!("session {}", number.0),
        }
    }
}

/// Records that cannot be read.
struct Damages<'a> {
    folder: &'a Folder,
    count: u64,
    first: Option<String>,
}

impl Damages<'_> {
    /// One more. It is set aside where the loss is accepted.
    fn found(
        &mut self,
        keyspace: &str,
        key: &[u8],
        stored: &[u8],
        what: &str,
        damage: Damage,
    ) -> Result<(), StoreError> {
        self.count += 1;
        let is_logged = self.count <= LOGGED_MAX;
        if self.folder.accept_loss {
            let aside = self.folder.set_record_aside(keyspace, key, stored)?;
            if is_logged {
                let key = hex::encode(key);
                let aside = aside.display();
                self.folder.lost(&format!("{what}: {damage}; key {key}, kept as {aside}"));
            }
        } else if is_logged {
            tracing::error!(keyspace, key = hex::encode(key), "{what} cannot be read: {damage}");
        }
        let text = || format!("{what} cannot be read ({damage}; key {})", hex::encode(key));
        self.first.get_or_insert_with(text);
        Ok(())
    }

    fn refuse(&self) -> Result<(), StoreError> {
        match &self.first {
            Some(first) if !self.folder.accept_loss => {
                let more = self.count - 1;
                let more =
                    if more == 0 { String::new() } else { format!(", and {more} records more") };
                Err(self.folder.damaged(&self.folder.data, &format!("{first}{more}")))
            }
            _ => Ok(()),
        }
    }
}

/// Says how far a long scan is.
struct Progress {
    said_at: Instant,
    counted: u64,
}

impl Progress {
    fn new() -> Self {
        Self { said_at: Instant::now(), counted: 0 }
    }

    fn count(&mut self, what: &'static str) {
        self.counted += 1;
        if self.counted.is_multiple_of(1024) && self.said_at.elapsed() >= PROGRESS_EVERY {
            self.said_at = Instant::now();
            tracing::info!(records = self.counted, "opening the store: at the {what}");
        }
    }
}
