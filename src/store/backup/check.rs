//! Whether all records can be read, and all that they refer to is there.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::time::{Instant, UNIX_EPOCH};

use super::{NUMBER_MAX, Reading, Record, Sink, Space};
use crate::session::MessageId;
use crate::store::codec::{Clock, Damage, Fields, unseal};
use crate::store::content::{take_message, take_subscription};
use crate::store::keys::{self, Part};
use crate::store::open::{FORMAT, FORMAT_MIN};
use crate::store::page::Entries;
use crate::store::registered::{unseal_ban, unseal_device};
use crate::store::{RetainedRecord, SessionNo, SessionRecord, StoreError};

/// Findings that are kept; the rest is counted.
const FINDINGS_MAX: usize = 1000;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The keyspace; none for what concerns a file.
    pub keyspace: Option<&'static str>,
    /// The key, in hexadecimal.
    pub key: Option<String>,
    /// Whose it is, where that is known.
    pub session: Option<String>,
    /// What is wrong.
    pub what: String,
    /// Something is lost by it. Otherwise it only takes room.
    pub is_loss: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(keyspace) = self.keyspace {
            write!(f, "{keyspace}")?;
            if let Some(key) = &self.key {
                write!(f, " {key}")?;
            }
            if let Some(session) = &self.session {
                write!(f, " of {session}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.what)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// Records that were read.
    pub records: u64,
    /// What is wrong: the first thousand.
    pub findings: Vec<Finding>,
    /// How many more findings there were.
    pub more: u64,
    /// Something is lost by what is wrong.
    pub is_loss: bool,
    /// What is as it should be and worth knowing.
    pub note: Option<String>,
}

/// Reads every record of the store or backup in this folder. A store is read in a copy, which
/// takes room for its journals beside it, and is not changed.
///
/// # Errors
/// When there is nothing to read, or somebody uses the store. What is damaged is no error.
pub fn verify(folder: &Path) -> Result<Checked, StoreError> {
    let mut checker = Checker::new();
    let reading = Reading::at_any_cost(folder, &mut |damage| {
        checker.add(None, &[], None, damage.to_string(), true);
        Ok(())
    });
    check(reading?, checker)
}

impl Reading {
    /// As [`verify`], of what is read already.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn verify(self) -> Result<Checked, StoreError> {
        check(self, Checker::new())
    }
}

fn check(reading: Reading, mut checker: Checker) -> Result<Checked, StoreError> {
    let note = reading.note();
    match reading.each(&mut checker) {
        Err(damage @ StoreError::Damaged { .. }) => {
            checker.cut_off = true;
            checker.add(None, &[], None, damage.to_string(), true);
        }
        read => read?,
    }
    Ok(Checked { note, ..checker.finish() })
}

/// Looks at each record.
pub(super) struct Checker {
    found: Checked,
    clock: Clock,
    has_format: bool,
    /// Sessions, by the client identifier.
    sessions: BTreeMap<SessionNo, String>,
    /// How often pages refer to each message of `bodies`.
    bodies: HashMap<u64, u64, ahash::RandomState>,
    /// The session of the last page, and the last number in it.
    last: (SessionNo, u64),
    /// Part of it could not be read: what is missing is no finding.
    cut_off: bool,
}

impl Checker {
    pub(super) fn new() -> Self {
        Self {
            found: Checked::default(),
            // Before anything expires.
            clock: Clock::at((Instant::now(), UNIX_EPOCH)),
            has_format: false,
            sessions: BTreeMap::new(),
            bodies: HashMap::default(),
            last: (SessionNo(0), 0),
            cut_off: false,
        }
    }

    fn add(
        &mut self,
        space: Option<Space>,
        key: &[u8],
        session: Option<SessionNo>,
        what: String,
        is_loss: bool,
    ) {
        self.found.is_loss |= is_loss;
        if self.found.findings.len() >= FINDINGS_MAX {
            self.found.more += 1;
            return;
        }
        let session = session.map(|number| match self.sessions.get(&number) {
            Some(client_id) => format!("session {} ({client_id:?})", number.0),
            None => format!("session {}", number.0),
        });
        let key = (!key.is_empty()).then(|| hex::encode(key));
        let keyspace = space.map(Space::name);
        self.found.findings.push(Finding { keyspace, key, session, what, is_loss });
    }

    pub(super) fn finish(mut self) -> Checked {
        if !self.cut_off {
            if !self.has_format {
                let what = "the format of the store is missing".to_owned();
                self.add(Some(Space::State), keys::FORMAT, None, what, true);
            }
            let mut unused: Vec<u64> =
                self.bodies.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
            unused.sort_unstable();
            for id in unused {
                let what = "no queue refers to this message: it only takes room".to_owned();
                self.add(Some(Space::Bodies), &keys::body(id), None, what, false);
            }
        }
        self.found
    }

    fn check(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        let Record { key, value, .. } = *record;
        match record.space {
            Space::Bodies => {
                let id = key.try_into().map(u64::from_be_bytes);
                let id = id.map_err(|_| Damage("the key of the message is none"))?;
                refuse_late(id)?;
                // Even if it cannot be read, it is there.
                self.bodies.insert(id, 0);
                let mut fields = unseal(key, value)?;
                take_message(&mut fields, MessageId(0), None, self.clock.instant())?;
                fields.finish()
            }
            Space::State if key.starts_with(keys::SESSION_PREFIX) => self.session(key, value),
            Space::State if key.starts_with(keys::BAN_PREFIX) => {
                let id = keys::parse_ban(key)?;
                refuse_late(id.0)?;
                unseal_ban(id, key, value).map(drop)
            }
            Space::State if key.starts_with(keys::DEVICE_PREFIX) => {
                unseal_device(key, value).map(drop)
            }
            Space::State => self.fact(key, value),
            Space::Queue => self.page(record),
            Space::Retained => {
                RetainedRecord::unseal(key, value, MessageId(0), &self.clock).map(drop)
            }
        }
    }

    fn fact(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let mut fields = unseal(key, value)?;
        if key == keys::FORMAT {
            self.has_format = true;
            if !(FORMAT_MIN..=FORMAT).contains(&fields.u64()?) {
                return Err(Damage("it is of another format"));
            }
            return fields.finish();
        }
        if key == keys::SESSIONS {
            refuse_late(fields.u64()?)?;
            return fields.finish();
        }
        if key == keys::MARK { Ok(()) } else { Err(Damage("the key of the record is unknown")) }
    }

    fn session(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let (number, part) = keys::parse_state(key)?;
        refuse_late(number.0)?;
        if part == Part::Record {
            let name = match SessionRecord::unseal(key, value) {
                Ok(record) => record.facts.client_id.as_str().to_owned(),
                Err(damage) => {
                    self.sessions.insert(number, String::new());
                    return Err(damage);
                }
            };
            self.sessions.insert(number, name);
            return Ok(());
        }
        if !self.sessions.contains_key(&number) {
            return Err(Damage("there is no such session"));
        }
        let mut fields = unseal(key, value)?;
        match part {
            Part::Record | Part::Held(_) => {}
            Part::Released(0) => return Err(Damage("a sequence number is 0")),
            Part::Released(seq) => refuse_late(seq)?,
            Part::Progress => {
                refuse_late(fields.u64()?)?;
                refuse_late(fields.u64()?)?;
            }
            Part::Subscription => {
                let (filter, _) = take_subscription(&mut fields)?;
                if *keys::subscription(number, &filter) != *key {
                    return Err(Damage("a subscription lies under another filter"));
                }
            }
        }
        Fields::finish(fields)
    }

    fn page(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        let Record { key, value, .. } = *record;
        let (number, first) = keys::parse_page(key)?;
        if !self.sessions.contains_key(&number) {
            return Err(Damage("there is no such session"));
        }
        let mut before = if self.last.0 == number { self.last.1 } else { 0 };
        let mut entries = Entries::open(key, value)?;
        let mut at = first;
        while let Some(entry) = entries.next()? {
            if entry.seq <= before {
                return Err(Damage("its numbers do not rise"));
            }
            refuse_late(entry.seq)?;
            (before, at) = (entry.seq, entry.seq);
            match entry.body {
                None => {
                    entry.message(MessageId(0), &self.clock)?;
                }
                Some(body) => match self.bodies.get_mut(&body) {
                    Some(count) => *count += 1,
                    None if self.cut_off => {}
                    None => {
                        let what = format!(
                            "delivery {} refers to message {}, which is not there",
                            entry.seq,
                            hex::encode(keys::body(body))
                        );
                        self.add(Some(Space::Queue), key, Some(number), what, true);
                    }
                },
            }
            entry.check()?;
        }
        self.last = (number, at);
        Ok(())
    }
}

/// Numbers that a store gives have to be higher than all that are there.
fn refuse_late(number: u64) -> Result<(), Damage> {
    if number > NUMBER_MAX { Err(Damage("a number is too large")) } else { Ok(()) }
}

impl Sink for Checker {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        self.found.records += 1;
        if let Err(damage) = self.check(record) {
            let session = match record.space {
                Space::State => keys::parse_state(record.key).ok().map(|(number, _)| number),
                Space::Queue => keys::parse_page(record.key).ok().map(|(number, _)| number),
                Space::Bodies | Space::Retained => None,
            };
            let what = match (record.space, str::from_utf8(record.key)) {
                (Space::Retained, Ok(topic)) => format!("topic {topic:?}: {damage}"),
                _ => damage.to_string(),
            };
            self.add(Some(record.space), record.key, session, what, true);
            if record.space == Space::Queue {
                // What it refers to is not known.
                self.cut_off = true;
            }
        }
        Ok(())
    }

    fn unreadable(&mut self, space: Space, error: StoreError) -> Result<(), StoreError> {
        self.cut_off = true;
        let what = format!("a table cannot be read, nor what comes behind it ({error})");
        self.add(Some(space), &[], None, what, true);
        Ok(())
    }
}
