//! Bytes of keys and records.
//!
//! A record is its version, its fields and a checksum over key and all of it, so that a record
//! under a wrong key is found out too. Integers in keys are big-endian, so that they sort.
//! Reading never goes past the bytes that are there, and makes nothing of a length before it was
//! compared with them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The version of every record that is written, and the highest that is read.
const VERSION: u8 = 2;

const CHECKSUM_BYTES: usize = 8;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) &'static str);

const CUT: Damage = Damage("the record ends before its last field does");

/// A record that is being written.
pub(super) struct Record {
    bytes: Vec<u8>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self::with_capacity(64)
    }

    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut record = Self { bytes: Vec::with_capacity(bytes) };
        record.bytes.push(VERSION);
        record
    }

    /// The fields, to be appended to.
    pub(super) fn fields(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The record as it is stored under `key`.
    pub(super) fn seal(mut self, key: &[u8]) -> Vec<u8> {
        let sum = checksum(key, &self.bytes);
        self.bytes.extend_from_slice(&sum.to_be_bytes());
        self.bytes
    }
}

fn checksum(key: &[u8], bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(key))
}

/// The fields of the record that is stored under `key`.
pub(super) fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Result<Fields<'a>, Damage> {
    let (bytes, sum) = stored.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CUT)?;
    if checksum(key, bytes) != u64::from_be_bytes(*sum) {
        return Err(Damage("the checksum of the record is wrong"));
    }
    match bytes.split_first() {
        Some((version @ 1..=VERSION, rest)) => Ok(Fields { version: *version, rest }),
        Some(_) => Err(Damage("the record was written by a later version")),
        None => Err(CUT),
    }
}

/// What is left to read of a record.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    version: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The version of the record.
    pub(super) fn version(&self) -> u8 {
        self.version
    }

    /// Fields that are no record: without version and checksum.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { version: VERSION, rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses bytes after the last field.
    pub(super) fn finish(self) -> Result<(), Damage> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Damage("the record has bytes after its last field"))
        }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Damage> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(CUT)?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Damage> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Damage> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damage("a flag of the record is neither 0 nor 1")),
        }
    }

    pub(super) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn varint(&mut self) -> Result<u64, Damage> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7F);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage("a number of the record is too large"))
    }

    pub(super) fn varint_u32(&mut self) -> Result<u32, Damage> {
        u32::try_from(self.varint()?).map_err(|_| Damage("a number of the record is too large"))
    }

    pub(super) fn data(&mut self) -> Result<&'a [u8], Damage> {
        let bytes = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        self.take(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.data()?).map_err(|_| Damage("a text of the record is not UTF-8"))
    }

    /// What `take` reads, where it is there.
    pub(super) fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, Damage>,
    ) -> Result<Option<T>, Damage> {
        if self.bool()? { take(self).map(Some) } else { Ok(None) }
    }

    /// As many as were counted. None of them takes no bytes, so that a wrong count ends soon.
    pub(super) fn list<T, L: FromIterator<T>>(
        &mut self,
        mut take: impl FnMut(&mut Self) -> Result<T, Damage>,
    ) -> Result<L, Damage> {
        let count = self.varint()?;
        (0..count).map(|_| take(self)).collect()
    }

    pub(super) fn time(&mut self) -> Result<SystemTime, Damage> {
        let (seconds, nanos) = (self.varint()?, self.varint_u32()?);
        if nanos >= 1_000_000_000 {
            return Err(Damage("a time of the record has too many nanoseconds"));
        }
        UNIX_EPOCH
            .checked_add(Duration::new(seconds, nanos))
            .ok_or(Damage("a time of the record is too late"))
    }
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut rest = value;
    while rest > 0x7F {
        let [.., low] = rest.to_be_bytes();
        out.push(low | 0x80);
        rest >>= 7;
    }
    let [.., low] = rest.to_be_bytes();
    out.push(low);
}

pub(super) fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    put_varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_data(out, text.as_bytes());
}

pub(super) fn put_option<T>(
    out: &mut Vec<u8>,
    value: Option<T>,
    put: impl FnOnce(&mut Vec<u8>, T),
) {
    out.push(value.is_some().into());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn put_list<T>(
    out: &mut Vec<u8>,
    list: impl ExactSizeIterator<Item = T>,
    mut put: impl FnMut(&mut Vec<u8>, T),
) {
    put_varint(out, list.len() as u64);
    for item in list {
        put(out, item);
    }
}

/// A time before 1970 becomes its beginning.
pub(super) fn put_time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    put_varint(out, since.as_secs());
    put_varint(out, since.subsec_nanos().into());
}

/// One moment by both clocks: what is monotonic in memory is calendar time on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    pub(super) fn at((instant, time): (Instant, SystemTime)) -> Self {
        Self { instant, unix: time.duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    pub(super) fn now() -> Self {
        Self::at((Instant::now(), SystemTime::now()))
    }

    pub(super) fn instant(&self) -> Instant {
        self.instant
    }

    /// Milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        millis(self.unix)
    }

    pub(super) fn unix_ms_of(&self, instant: Instant) -> u64 {
        millis(match instant.checked_duration_since(self.instant) {
            Some(ahead) => self.unix.saturating_add(ahead),
            None => self.unix.saturating_sub(self.instant.duration_since(instant)),
        })
    }

    /// `None` for what is further away than the clock of the machine can say: in effect, never.
    pub(super) fn instant_of(&self, unix_ms: u64) -> Option<Instant> {
        let unix = Duration::from_millis(unix_ms);
        match unix.checked_sub(self.unix) {
            Some(ahead) => self.instant.checked_add(ahead),
            None => Some(
                self.instant.checked_sub(self.unix.saturating_sub(unix)).unwrap_or(self.instant),
            ),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written_and_no_larger() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut fields = Fields { version: VERSION, rest: &out };
            assert_eq!(fields.varint(), Ok(value));
            assert!(fields.is_empty());
            for cut in 0..out.len() {
                assert!(Fields { version: VERSION, rest: &out[..cut] }.varint().is_err());
            }
        }
        assert!(Fields { version: VERSION, rest: &[0xFF; 20] }.varint().is_err());
        assert!(
            Fields {
                version: VERSION,
                rest: &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]
            }
            .varint()
            .is_err()
        );
    }

    #[test]
    fn a_record_is_read_under_its_own_key_and_unchanged_only() {
        let mut record = Record::new();
        put_text(record.fields(), "text");
        let stored = record.seal(b"key");
        assert_eq!(unseal(b"key", &stored).unwrap().text(), Ok("text"));
        assert!(unseal(b"kez", &stored).is_err());
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(unseal(b"key", &changed).is_err());
            assert!(unseal(b"key", &stored[..at]).is_err());
        }
    }

    #[test]
    fn a_length_without_its_bytes_allocates_nothing() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!(Fields { version: VERSION, rest: &out }.data(), Err(CUT));
        let list = Fields { version: VERSION, rest: &out }.list::<_, Vec<_>>(Fields::u8);
        assert_eq!(list, Err(CUT));
    }

    #[test]
    fn a_moment_is_the_same_by_both_clocks() {
        let clock = Clock::now();
        let hour = Duration::from_hours(1);
        for instant in [clock.instant, clock.instant + hour] {
            let back = clock.instant_of(clock.unix_ms_of(instant)).unwrap();
            let apart = instant.max(back) - instant.min(back);
            assert!(apart < Duration::from_millis(2), "{apart:?}");
        }
        assert!(clock.instant_of(0).is_some());
        assert!(clock.instant_of(u64::MAX).is_none_or(|at| at > clock.instant + hour));
    }
}
