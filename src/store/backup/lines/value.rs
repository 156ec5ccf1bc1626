//! Values that JSON has no word for, and what is wrong with one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::mqtt::TopicName;
use crate::mqtt::packet::Qos;

/// What is wrong with a value: the key, why, and what to do.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) String);

pub(super) fn wrong(key: &str, why: &str) -> Wrong {
    Wrong(format!("`{key}`: {why}"))
}

/// Bytes, in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data(pub(super) Vec<u8>);

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let decoded = STANDARD.decode(text.as_bytes());
        decoded.map(Self).map_err(|error| {
            serde::de::Error::custom(format_args!("this is no base64 ({error}); encode it so"))
        })
    }
}

/// A moment since 1970, in RFC 3339; behind the year 9999 as `@`, the seconds, and nine digits of
/// nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// The first second of the year 10000, which has no such text.
const LATE_S: u64 = 253_402_300_800;

impl Time {
    pub(super) fn of_ms(unix_ms: u64) -> Self {
        Self(Duration::from_millis(unix_ms))
    }

    /// The moment in milliseconds.
    pub(super) fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn of(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    pub(super) fn system(self) -> SystemTime {
        UNIX_EPOCH + self.0
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.as_secs() >= LATE_S {
            let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
            return serializer.collect_str(&format_args!("@{seconds}.{nanos:09}"));
        }
        serializer.collect_str(&humantime::format_rfc3339(self.system()))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        if let Some(late) = text.strip_prefix('@').and_then(late) {
            return Ok(Self(late));
        }
        let parsed = humantime::parse_rfc3339(&text);
        parsed.map(Self::of).map_err(|error| {
            let remedy = "write it as 2026-03-01T12:00:00Z";
            serde::de::Error::custom(format_args!("this is no time ({error}); {remedy}"))
        })
    }
}

fn late(text: &str) -> Option<Duration> {
    let (seconds, nanos) = text.split_once('.').filter(|(_, nanos)| nanos.len() == 9)?;
    let since = Duration::new(seconds.parse().ok()?, nanos.parse().ok()?);
    // What the clock of a machine can say.
    UNIX_EPOCH.checked_add(since).map(|_| since)
}

pub(super) fn qos(value: u8) -> Result<Qos, Wrong> {
    Qos::from_u8(value).ok_or_else(|| wrong("qos", "there is none such; write 0, 1 or 2"))
}

pub(super) fn topic(text: &str) -> Result<TopicName, Wrong> {
    TopicName::parse(text).map_err(|error| wrong("topic", &format!("{}; correct it", error.what)))
}
