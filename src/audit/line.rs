//! One event as one line.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::event::{Event, Kind, Subject};
use super::text::{Bounded, Harmless, NAME_BYTES_MAX, Principal, SHORT_BYTES_MAX};

/// The version of the format; changes when a reader of the old one would go wrong.
pub(super) const FORMAT_VERSION: u8 = 1;

/// RFC 3339 in UTC, always with six digits, so that lines sort by their time as text.
const TIME: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
);

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    seq: u64,
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    #[serde(flatten)]
    kind: &'a Kind,
    #[serde(flatten)]
    subject: Option<&'a Subject>,
}

/// Appends the event and a line feed.
///
/// # Errors
/// When the event cannot be written as JSON; then nothing is appended.
pub(super) fn append(line: &mut Vec<u8>, seq: u64, event: &Event) -> serde_json::Result<()> {
    let before = line.len();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *line, Harmless);
    let written = Line {
        v: FORMAT_VERSION,
        seq,
        time: event.time,
        kind: &event.kind,
        subject: event.subject.as_deref(),
    }
    .serialize(&mut serializer);
    match written {
        Ok(()) => line.push(b'\n'),
        Err(_) => line.truncate(before),
    }
    written
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(listener) = &self.listener {
            map.serialize_entry("listener", &Bounded(listener, SHORT_BYTES_MAX))?;
        }
        if let Some(address) = &self.address {
            map.serialize_entry("address", address)?;
        }
        if let Some(port) = &self.port {
            map.serialize_entry("port", port)?;
        }
        if let Some(client_id) = &self.client_id {
            map.serialize_entry("client_id", &Bounded(client_id, NAME_BYTES_MAX))?;
        }
        if let Some(principal) = &self.principal {
            map.serialize_entry("principal", &Principal(principal))?;
        }
        if let Some(certificate) = &self.certificate {
            map.serialize_entry(
                "certificate_serial",
                &Bounded(&certificate.serial, SHORT_BYTES_MAX),
            )?;
            map.serialize_entry(
                "certificate_fingerprint",
                &Bounded(&certificate.fingerprint, SHORT_BYTES_MAX),
            )?;
        }
        map.end()
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // A clock before 1970 is written as 1970: a wrong time is better than a missing event.
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let utc = OffsetDateTime::UNIX_EPOCH
        .checked_add(since_epoch.try_into().map_err(S::Error::custom)?)
        .ok_or_else(|| S::Error::custom("a time beyond the year 9999"))?;
    serializer.serialize_str(&utc.format(TIME).map_err(S::Error::custom)?)
}
