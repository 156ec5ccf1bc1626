//! What a store holds, in few words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Reading, Record, Sink, Space};
use crate::registry::State;
use crate::session::MessageId;
use crate::store::codec::{Clock, Damage, unseal};
use crate::store::keys::{self, Part};
use crate::store::open::FORMAT;
use crate::store::page::Entries;
use crate::store::registered::{unseal_ban, unseal_device};
use crate::store::{RetainedRecord, SessionNo, SessionRecord, StoreError};

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// The format of the store.
    pub store_format: u64,
    /// Bytes on the disk; none for what a running broker sends.
    pub disk_bytes: Option<u64>,
    /// The sessions, by number.
    pub sessions: Vec<SessionInspected>,
    /// Retained messages that have not expired.
    pub retained_messages: u64,
    /// Bytes that they count for.
    pub retained_bytes: u64,
    /// Bans that have not ended.
    pub bans: u64,
    /// Devices that are known, by their state.
    pub devices: BTreeMap<State, u64>,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionInspected {
    /// Its number.
    pub session: u64,
    /// The client identifier.
    pub client_id: String,
    /// The principal, as policies name it.
    pub principal: String,
    /// Its filters.
    pub subscriptions: u64,
    /// Messages that wait and have not expired.
    pub waiting_messages: u64,
    /// Bytes that they count for.
    pub waiting_bytes: u64,
    /// QoS 2 publications of the client that wait for PUBREL.
    pub received: u64,
    /// QoS 2 deliveries that wait for PUBCOMP.
    pub released: u64,
    /// It has a will that was not sent.
    pub has_will: bool,
    /// Seconds that it outlives its connection; none for ever.
    pub expiry_s: Option<u32>,
    /// When its last connection ended; none while it has one.
    pub parked_at: Option<String>,
    /// When it ends, unless its client comes back.
    pub expires_at: Option<String>,
}

/// Says what is there at `now`.
///
/// # Errors
/// When it cannot be read, or a record is damaged.
pub fn inspect(reading: Reading, now: SystemTime) -> Result<Inspected, StoreError> {
    let disk_bytes = reading.disk_bytes();
    let clock = Clock::at((std::time::Instant::now(), now));
    let mut summary = Summary { clock, found: Inspected::default(), sessions: BTreeMap::new() };
    reading.each(&mut summary)?;
    let sessions = summary.sessions.into_values().map(|session| session.told).collect();
    Ok(Inspected { store_format: FORMAT, disk_bytes, sessions, ..summary.found })
}

struct Summary {
    clock: Clock,
    found: Inspected,
    sessions: BTreeMap<SessionNo, Session>,
}

#[derive(Default)]
struct Session {
    told: SessionInspected,
    finished: u64,
    released: BTreeSet<u64>,
}

/// A time as text; of one that no calendar has, the seconds.
fn text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // The last second of the year 9999.
    if since > 253_402_300_799 {
        return format!("@{since}");
    }
    humantime::format_rfc3339_seconds(time).to_string()
}

impl Session {
    fn of(number: SessionNo, record: &SessionRecord) -> Self {
        let expiry_s = (record.expiry_s != u32::MAX).then_some(record.expiry_s);
        let expires_at = record.parked_at.zip(expiry_s).and_then(|(at, seconds)| {
            at.checked_add(std::time::Duration::from_secs(seconds.into())).map(text)
        });
        let told = SessionInspected {
            session: number.0,
            client_id: record.facts.client_id.as_str().to_owned(),
            principal: format!("{}::{:?}", record.identity.kind.as_str(), record.identity.name),
            has_will: record.will.is_some(),
            expiry_s,
            parked_at: record.parked_at.map(text),
            expires_at,
            ..SessionInspected::default()
        };
        Self { told, ..Self::default() }
    }
}

impl Summary {
    fn take(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        let Record { key, value, .. } = *record;
        match record.space {
            Space::State if key.starts_with(keys::SESSION_PREFIX) => self.state(key, value),
            Space::State if key.starts_with(keys::BAN_PREFIX) => {
                let ban = unseal_ban(keys::parse_ban(key)?, key, value)?;
                let now = UNIX_EPOCH + std::time::Duration::from_millis(self.clock.unix_ms());
                self.found.bans += u64::from(ban.is_in_force(now));
                Ok(())
            }
            Space::State if key.starts_with(keys::DEVICE_PREFIX) => {
                let device = unseal_device(key, value)?;
                *self.found.devices.entry(device.state).or_default() += 1;
                Ok(())
            }
            Space::Bodies | Space::State => Ok(()),
            Space::Queue => self.page(key, value),
            Space::Retained => {
                let kept = RetainedRecord::unseal(key, value, MessageId(0), &self.clock)?;
                if let Some(kept) = kept {
                    self.found.retained_messages += 1;
                    self.found.retained_bytes += kept.message.bytes();
                }
                Ok(())
            }
        }
    }

    fn state(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let (number, part) = keys::parse_state(key)?;
        if part == Part::Record {
            let record = SessionRecord::unseal(key, value)?;
            self.sessions.insert(number, Session::of(number, &record));
            return Ok(());
        }
        let mut fields = unseal(key, value)?;
        let session = self.sessions.get_mut(&number).ok_or(Damage("there is no such session"))?;
        match part {
            Part::Record => {}
            Part::Subscription => session.told.subscriptions += 1,
            Part::Held(_) => session.told.received += 1,
            Part::Progress => session.finished = fields.u64()?,
            Part::Released(seq) if seq <= session.finished => {}
            Part::Released(seq) => {
                session.told.released += 1;
                session.released.insert(seq);
            }
        }
        Ok(())
    }

    fn page(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let (number, _) = keys::parse_page(key)?;
        let session = self.sessions.get_mut(&number).ok_or(Damage("there is no such session"))?;
        let mut entries = Entries::open(key, value)?;
        while let Some(entry) = entries.next()? {
            let is_done = entry.seq <= session.finished || session.released.contains(&entry.seq);
            if !is_done && !entry.has_expired(&self.clock) {
                session.told.waiting_messages += 1;
                session.told.waiting_bytes = session.told.waiting_bytes.saturating_add(entry.bytes);
            }
        }
        Ok(())
    }
}

impl Sink for Summary {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        self.take(record).map_err(|damage| StoreError::Damaged {
            file: record.space.name().into(),
            what: format!(
                "{}: {damage}; `store verify` says all that is wrong",
                hex::encode(record.key)
            ),
        })
    }
}
