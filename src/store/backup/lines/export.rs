//! From records to lines.

use std::io::{self, Write};
use std::time::{Instant, UNIX_EPOCH};

use super::{
    AccountText, BanText, DeliveryText, DeviceText, FilterText, Line, MessageText, SessionText,
    Time,
};
use crate::session::MessageId;
use crate::store::backup::{Reading, Record, Sink, Space};
use crate::store::codec::{Clock, Damage, unseal};
use crate::store::content::{take_message, take_subscription};
use crate::store::keys::{self, Part};
use crate::store::open::FORMAT;
use crate::store::page::{Entries, Entry};
use crate::store::registered::{unseal_ban, unseal_device};
use crate::store::{RetainedRecord, SessionRecord, StoreError};

/// Writes a line of JSON for each thing that is there.
///
/// # Errors
/// When it cannot be read, a record is damaged, or `out` cannot be written.
pub fn export(reading: Reading, out: &mut dyn Write) -> Result<(), StoreError> {
    let mut export = Export { out };
    export.put(&Line::Store { format: FORMAT }).map_err(unwritten)?;
    reading.each(&mut export)?;
    export.put(&Line::End).map_err(unwritten)?;
    export.out.flush().map_err(unwritten)
}

/// A clock that every moment on disk is ahead of: nothing has expired, and a moment is read as it
/// was written.
pub(super) fn clock() -> Clock {
    Clock::at((Instant::now(), UNIX_EPOCH))
}

/// The lines of a record.
pub(super) fn lines(
    record: &Record<'_>,
    mut take: impl FnMut(Line) -> io::Result<()>,
) -> Result<io::Result<()>, Damage> {
    let Record { key, value, .. } = *record;
    let clock = clock();
    let line = match record.space {
        Space::Bodies => {
            let id = key.try_into().map(u64::from_be_bytes);
            let id = id.map_err(|_| Damage("the key of the message is none"))?;
            let mut fields = unseal(key, value)?;
            let message = take_message(&mut fields, MessageId(0), None, clock.instant())?;
            fields.finish()?;
            Line::Message { id, message: MessageText::of(&message) }
        }
        Space::State if key.starts_with(keys::SESSION_PREFIX) => session_line(key, value)?,
        Space::State if key == keys::SESSIONS => {
            Line::NextSession { session: unseal(key, value)?.u64()? }
        }
        Space::State if key.starts_with(keys::BAN_PREFIX) => {
            let ban = unseal_ban(keys::parse_ban(key)?, key, value)?;
            Line::Ban(Box::new(BanText::of(&ban)))
        }
        Space::State if key.starts_with(keys::DEVICE_PREFIX) => {
            Line::Device(Box::new(DeviceText::of(&unseal_device(key, value)?)))
        }
        Space::State => return Ok(Ok(())),
        Space::Queue => {
            let (number, _) = keys::parse_page(key)?;
            let mut entries = Entries::open(key, value)?;
            while let Some(entry) = entries.next()? {
                if let Err(error) = take(delivery_line(number.0, &entry, &clock)?) {
                    return Ok(Err(error));
                }
            }
            return Ok(Ok(()));
        }
        Space::Retained => {
            let kept = RetainedRecord::unseal(key, value, MessageId(0), &clock)?;
            let Some(RetainedRecord { message, account }) = kept else { return Ok(Ok(())) };
            Line::Retained {
                account: AccountText::of(&account),
                expires_at: message.expires_at.map(|at| Time::of_ms(clock.unix_ms_of(at))),
                message: MessageText::of(&message),
            }
        }
    };
    Ok(take(line))
}

fn session_line(key: &[u8], value: &[u8]) -> Result<Line, Damage> {
    let (number, part) = keys::parse_state(key)?;
    let session = number.0;
    if part == Part::Record {
        let record = SessionRecord::unseal(key, value)?;
        return Ok(Line::Session(Box::new(SessionText::of(session, &record))));
    }
    let mut fields = unseal(key, value)?;
    let line = match part {
        Part::Subscription => {
            let (filter, options) = take_subscription(&mut fields)?;
            Line::Subscription { session, subscription: FilterText::of(&filter, options) }
        }
        Part::Held(id) => Line::Received { session, packet_id: id.as_u16() },
        Part::Progress => {
            Line::Progress { session, finished: fields.u64()?, highest: fields.u64()? }
        }
        Part::Released(seq) => Line::Released { session, seq },
        Part::Record => return Err(Damage("the key of the record is unknown")),
    };
    fields.finish()?;
    Ok(line)
}

fn delivery_line(session: u64, entry: &Entry<'_>, clock: &Clock) -> Result<Line, Damage> {
    let queued = entry.check()?;
    let message = match entry.body {
        Some(_) => None,
        None => Some(MessageText::of(&entry.message(MessageId(0), clock)?)),
    };
    Ok(Line::Delivery(Box::new(DeliveryText {
        session,
        seq: entry.seq,
        qos: queued.qos.as_u8(),
        retain: queued.retain,
        subscription_ids: queued.ids.to_vec(),
        shared: queued.shared.map(|(filter, options)| FilterText::of(filter, options)),
        expires_at: queued.expires_unix_ms.map(Time::of_ms),
        message_id: entry.body,
        message,
    })))
}

struct Export<'a> {
    out: &'a mut dyn Write,
}

impl Export<'_> {
    fn put(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

fn unwritten(error: impl Into<io::Error>) -> StoreError {
    StoreError::Failed { doing: "write what is exported", error: error.into().to_string() }
}

impl Sink for Export<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        let written = lines(record, |line| self.put(&line)).map_err(|damage| {
            let what = format!(
                "{}: {damage}; `store verify` says all that is wrong",
                hex::encode(record.key)
            );
            StoreError::Damaged { file: record.space.name().into(), what }
        })?;
        written.map_err(unwritten)
    }
}
