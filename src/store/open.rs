//! Opening a store: what it holds is read once, from one end to the other.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fjall::PersistMode;

use super::codec::{Clock, Damage, unseal};
use super::content::take_subscription;
use super::engine::{Engine, describe, failed};
use super::keys::{self, Part};
use super::page::{Entries, PageRef};
use super::queues::Queues;
use super::writer::{BodyCounts, number_record, progress_record};
use super::{
    Recovered, RecoveredSession, RetainedRecord, SessionNo, SessionRecord, Settings, Shared,
    StoreError,
};
use crate::session::Seq;

/// The format of the whole store that this version writes, and the highest that it reads.
const FORMAT: u64 = 1;

/// How often a long scan says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Keys that are removed at a time.
const REMOVED_AT_ONCE: usize = 4096;

/// What the scan found.
pub(super) struct Found {
    pub(super) engine: Engine,
    pub(super) recovered: Recovered,
    pub(super) queues: Queues,
    pub(super) counts: BodyCounts,
    pub(super) next_body: u64,
    pub(super) next_session: u64,
}

/// Opens the store and reads what it holds.
pub(super) fn open(
    settings: &Settings,
    shared: &Shared,
    clock: Clock,
) -> Result<Found, StoreError> {
    let folder = &settings.folder;
    make_folder(folder)?;
    let engine = Engine::open(folder).map_err(|error| cannot_open(folder, &error))?;
    check_format(folder, &engine)?;
    let mut scan = Scan {
        folder,
        clock,
        shared,
        sessions: BTreeMap::new(),
        queues: Queues::default(),
        counts: BodyCounts::default(),
        next_body: 0,
        dead: Vec::new(),
        progress: Progress::new(),
    };
    scan.state(&engine)?;
    scan.queue(&engine)?;
    let retained = scan.retained(&engine)?;
    scan.remove_dead(&engine)?;
    let Scan { sessions, queues, counts, mut next_body, .. } = scan;
    if let Some(last) = engine.bodies.last_key_value() {
        let key = last.key().map_err(failed("read the store"))?;
        let id = key.as_ref().try_into().map_or(0, u64::from_be_bytes);
        next_body = next_body.max(id.saturating_add(1));
    }
    let after_last = sessions.last_key_value().map_or(0, |(number, _)| number.0.saturating_add(1));
    let set_apart = number(&engine, keys::SESSIONS)
        .map_err(|damage| damaged(folder, "the number of the next session", damage))?;
    let next_session = set_apart.unwrap_or(0).max(after_last);
    let sessions = sessions.into_values().collect();
    let recovered = Recovered { sessions, retained };
    Ok(Found { engine, recovered, queues, counts, next_body, next_session })
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| StoreError::Failed {
        doing: "make the folder of the store",
        error: format!("{}: {error}", folder.display()),
    })
}

fn cannot_open(folder: &Path, error: &fjall::Error) -> StoreError {
    match error {
        fjall::Error::Locked => StoreError::InUse(folder.to_owned()),
        fjall::Error::InvalidVersion(version) => StoreError::Foreign {
            folder: folder.to_owned(),
            why: match version {
                Some(version) => format!("its files are of the engine's format {version}, not 3"),
                None => "the file `version` in it is none of the engine's".to_owned(),
            },
        },
        error => StoreError::Failed { doing: "open the store", error: describe(error) },
    }
}

/// Refuses what a later version wrote, and what is no store of ours.
fn check_format(folder: &Path, engine: &Engine) -> Result<(), StoreError> {
    let foreign = |why| Err(StoreError::Foreign { folder: folder.to_owned(), why });
    let format = number(engine, keys::FORMAT)
        .map_err(|damage| damaged(folder, "the format of the store", damage))?;
    match format {
        Some(FORMAT) => Ok(()),
        Some(format) => foreign(format!(
            "a later version wrote it (format {format}; this one reads {FORMAT}): use that version"
        )),
        None => {
            for keyspace in [&engine.state, &engine.queue, &engine.bodies, &engine.retained] {
                if keyspace.first_key_value().is_some() {
                    return foreign("it is a database of something else".to_owned());
                }
            }
            let mut batch = engine.database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&engine.state, keys::FORMAT, number_record(keys::FORMAT, FORMAT));
            batch.commit().map_err(failed("write to the store"))
        }
    }
}

fn number(engine: &Engine, key: &[u8]) -> Result<Option<u64>, Damage> {
    let Ok(stored) = engine.state.get(key) else {
        return Err(Damage("the engine cannot read it"));
    };
    stored.map(|stored| unseal(key, &stored)?.u64()).transpose()
}

fn damaged(folder: &Path, what: &str, damage: Damage) -> StoreError {
    StoreError::Damaged { file: folder.to_owned(), what: format!("{what}: {damage}") }
}

/// What is gathered on the way.
struct Scan<'a> {
    folder: &'a Path,
    clock: Clock,
    shared: &'a Shared,
    sessions: BTreeMap<SessionNo, RecoveredSession>,
    queues: Queues,
    counts: BodyCounts,
    next_body: u64,
    /// What nobody will ask for again.
    dead: Vec<Dead>,
    progress: Progress,
}

enum Dead {
    Page(SessionNo, PageRef),
    Retained(Vec<u8>),
}

/// A part of a session's state that comes before its record would be a mistake of ours: keys of
/// sessions sort their record first.
const NO_SESSION: Damage = Damage("it belongs to no session");

impl Scan<'_> {
    fn damaged(&self, what: &str, damage: Damage) -> StoreError {
        damaged(self.folder, what, damage)
    }

    fn state(&mut self, engine: &Engine) -> Result<(), StoreError> {
        for found in engine.state.prefix(keys::SESSION_PREFIX) {
            let (key, stored) = found.into_inner().map_err(failed("read the store"))?;
            self.take_state(&key, &stored).map_err(|damage| {
                let key = hex::encode(&key);
                self.damaged(&format!("record {key} of the sessions"), damage)
            })?;
            self.progress.count("session records");
        }
        Ok(())
    }

    fn take_state(&mut self, key: &[u8], stored: &[u8]) -> Result<(), Damage> {
        let (number, part) = keys::parse_state(key)?;
        if part == Part::Record {
            let record = SessionRecord::unseal(key, stored)?;
            self.sessions.insert(
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
            self.queues.begin(number);
            return Ok(());
        }
        let mut fields = unseal(key, stored)?;
        let session = self.sessions.get_mut(&number).ok_or(NO_SESSION)?;
        let queue = self.queues.queue(number).ok_or(NO_SESSION)?;
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

    fn queue(&mut self, engine: &Engine) -> Result<(), StoreError> {
        for found in engine.queue.iter() {
            let (key, stored) = found.into_inner().map_err(failed("read the store"))?;
            self.take_page(&key, &stored).map_err(|damage| {
                let key = hex::encode(&key);
                self.damaged(&format!("page {key} of the queues"), damage)
            })?;
            self.progress.count("queue pages");
        }
        for (number, session) in &mut self.sessions {
            let highest = self.queues.queue(*number).map_or(0, |queue| queue.highest);
            session.next_seq = Seq(NonZeroU64::MIN.saturating_add(highest));
            session.waiting.shrink_to_fit();
        }
        Ok(())
    }

    fn take_page(&mut self, key: &[u8], stored: &[u8]) -> Result<(), Damage> {
        let (number, first) = keys::parse_page(key)?;
        let session = self.sessions.get_mut(&number).ok_or(NO_SESSION)?;
        let queue = self.queues.queue(number).ok_or(NO_SESSION)?;
        let waiting_before = session.waiting.len();
        let mut bodies = Vec::new();
        let mut last = first;
        let mut entries = Entries::open(key, stored)?;
        while let Some(entry) = entries.next()? {
            last = entry.seq;
            bodies.extend(entry.body);
            if !queue.is_done(last) && !entry.has_expired(&self.clock) {
                let seq = NonZeroU64::new(last).ok_or(Damage("a sequence number is 0"))?;
                let bytes = u32::try_from(entry.bytes).unwrap_or(u32::MAX);
                session.waiting.push((Seq(seq), bytes));
            }
        }
        queue.highest = queue.highest.max(last);
        for id in &bodies {
            *self.counts.entry(*id).or_default() += 1;
            self.next_body = self.next_body.max(id.saturating_add(1));
        }
        let page = PageRef { first, last, bodies: bodies.into() };
        if session.waiting.len() == waiting_before {
            self.dead.push(Dead::Page(number, page));
        } else {
            queue.pages.push_back(page);
        }
        Ok(())
    }

    fn retained(&mut self, engine: &Engine) -> Result<Vec<RetainedRecord>, StoreError> {
        let mut retained = Vec::new();
        for found in engine.retained.iter() {
            let (key, stored) = found.into_inner().map_err(failed("read the store"))?;
            let id = self.shared.next_message();
            match RetainedRecord::unseal(&key, &stored, id, &self.clock) {
                Ok(Some(record)) => retained.push(record),
                Ok(None) => self.dead.push(Dead::Retained(key.to_vec())),
                Err(damage) => {
                    let topic = String::from_utf8_lossy(&key);
                    return Err(self.damaged(&format!("retained message of {topic:?}"), damage));
                }
            }
            self.progress.count("retained messages");
        }
        Ok(retained)
    }

    /// Removes what has expired or was finished. What is lost of it is found dead again.
    fn remove_dead(&mut self, engine: &Engine) -> Result<(), StoreError> {
        for dead in self.dead.chunks(REMOVED_AT_ONCE) {
            let mut batch = engine.database.batch();
            let mut sessions = std::collections::BTreeSet::new();
            for dead in dead {
                match dead {
                    Dead::Retained(topic) => batch.remove(&engine.retained, topic.as_slice()),
                    Dead::Page(number, page) => {
                        sessions.insert(*number);
                        batch.remove(&engine.queue, keys::page(*number, page.first));
                        for id in &page.bodies {
                            let count = self.counts.entry(*id).or_default();
                            *count = count.saturating_sub(1);
                            if *count == 0 {
                                self.counts.remove(id);
                                batch.remove(&engine.bodies, keys::body(*id));
                            }
                        }
                    }
                }
            }
            // The numbers of what goes are not given again.
            for number in sessions {
                let Some(queue) = self.queues.queue(number) else { continue };
                let key = keys::progress(number);
                let record = progress_record(&key, queue.finished, queue.highest);
                batch.insert(&engine.state, key, record);
            }
            batch.commit().map_err(failed("write to the store"))?;
        }
        Ok(())
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
