//! How many refusals are recorded one by one. Being refused costs a client next to nothing, and
//! must not let it fill the disk: beyond the bound refusals are counted together.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A bound on the records about one cause, in each second.
#[derive(Debug)]
pub struct RecordLimit {
    per_second: u32,
    /// When the present second began, and the records since.
    second: Mutex<Option<(Instant, u32)>>,
}

impl RecordLimit {
    /// So many a second.
    #[must_use]
    pub const fn per_second(records: u32) -> Self {
        Self { per_second: records, second: Mutex::new(None) }
    }

    /// True for the first records of each second; the caller counts the others.
    #[must_use]
    pub fn may_record(&self, now: Instant) -> bool {
        let mut second = self.second.lock();
        let same = second
            .filter(|(since, _)| now.saturating_duration_since(*since) < Duration::from_secs(1));
        let (since, records) = same.unwrap_or((now, 0));
        *second = Some((since, records.saturating_add(1)));
        records < self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_first_records() {
        let limit = RecordLimit::per_second(2);
        let began = Instant::now();
        let may = |milliseconds| limit.may_record(began + Duration::from_millis(milliseconds));
        assert_eq!([0, 1, 2, 999].map(may), [true, true, false, false]);
        assert_eq!([1000, 1999, 1999].map(may), [true, true, false]);
    }
}
