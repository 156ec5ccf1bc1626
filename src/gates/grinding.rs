//! Against guessing: failed logins, counted by address and by name before anything is computed.
//!
//! An attempt is counted when it begins and given back when it succeeds, so that many at once
//! gain nothing. Both counts are kept in a fixed number of cells, and the hash, whose seed nobody
//! knows, says which: there is nothing to evict, and a name that does not exist counts like one
//! that does.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::RandomState;

/// How much may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures from one address (of IPv6: from one /64).
    pub per_address: NonZeroU32,
    /// Failures of one name, from wherever they come.
    pub per_name: NonZeroU32,
    /// After so long one failure is forgotten.
    pub forgotten_after: Duration,
}

/// Why nothing is even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Throttled {
    /// Too much has failed from the address.
    #[error("{failures_max} logins from the address have failed; not tried")]
    Address {
        /// The bound.
        failures_max: NonZeroU32,
    },
    /// Too much has failed with the name.
    #[error("{failures_max} logins with the name have failed; not tried")]
    Name {
        /// The bound.
        failures_max: NonZeroU32,
    },
}

/// The failures of all listeners.
#[derive(Debug)]
pub struct Grinding {
    settings: Settings,
    seed: RandomState,
    began: Instant,
    addresses: Cells,
    names: Cells,
}

/// An attempt that is counted, to be given back when it succeeds.
#[derive(Clone, Copy, Debug)]
#[must_use = "an attempt that succeeded is given back"]
pub struct Attempt {
    address: Option<u16>,
    name: Option<u16>,
}

impl Grinding {
    /// Nothing has failed yet.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self::seeded(settings, now, RandomState::new())
    }

    fn seeded(settings: Settings, now: Instant, seed: RandomState) -> Self {
        let (addresses, names) = Default::default();
        Self { settings, seed, began: now, addresses, names }
    }

    /// Counts an attempt as failed.
    ///
    /// # Errors
    /// When too much has failed before; then it is not counted.
    pub fn take(
        &self,
        address: Option<IpAddr>,
        name: Option<&str>,
        now: Instant,
    ) -> Result<Attempt, Throttled> {
        let Settings { per_address, per_name, .. } = self.settings;
        let address = address.map(|address| self.cell_of(source(address)));
        let name = name.map(|name| self.cell_of(name));
        if address.is_some_and(|cell| !self.count(&self.addresses, cell, per_address, now)) {
            return Err(Throttled::Address { failures_max: per_address });
        }
        if name.is_some_and(|cell| !self.count(&self.names, cell, per_name, now)) {
            self.give_back(Attempt { address, name: None });
            return Err(Throttled::Name { failures_max: per_name });
        }
        Ok(Attempt { address, name })
    }

    /// The attempt has succeeded, or nobody could judge it.
    pub fn give_back(&self, attempt: Attempt) {
        let nanos = self.nanos_per_failure();
        for (cells, cell) in [(&self.addresses, attempt.address), (&self.names, attempt.name)] {
            if let Some(empty_at) = cell.and_then(|cell| cells.of(cell)) {
                let less = |at: u64| Some(at.saturating_sub(nanos));
                // The closure never declines, so this never fails.
                let _ = empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
        }
    }

    fn cell_of(&self, key: impl Hash) -> u16 {
        let [low, high, ..] = self.seed.hash_one(key).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    fn nanos_per_failure(&self) -> u64 {
        u64::try_from(self.settings.forgotten_after.as_nanos()).unwrap_or(u64::MAX / 2).max(1)
    }

    /// Counts one more in a cell; `false`: there is no room for it.
    fn count(&self, cells: &Cells, cell: u16, most: NonZeroU32, now: Instant) -> bool {
        let nanos = self.nanos_per_failure();
        let now = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX / 2);
        let full = now.saturating_add(nanos.saturating_mul(most.get().into()));
        let Some(empty_at) = cells.of(cell) else { return false };
        let more = |at: u64| {
            let at = at.max(now).saturating_add(nanos);
            (at <= full).then_some(at)
        };
        empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// An IPv4 address, or the /64 of an IPv6 address.
fn source(address: IpAddr) -> (u8, u64) {
    match address.to_canonical() {
        IpAddr::V4(address) => (4, address.to_bits().into()),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments().map(u64::from);
            (6, a << 48 | b << 32 | c << 16 | d)
        }
    }
}

/// When the failures of each cell will all be forgotten, in nanoseconds since the beginning.
///
/// Made at the first failure: most brokers have no methods that could fail.
#[derive(Default)]
struct Cells(OnceLock<Box<[AtomicU64]>>);

impl Cells {
    /// 512 KiB.
    const COUNT: usize = 1 << 16;

    fn of(&self, cell: u16) -> Option<&AtomicU64> {
        let make = || std::iter::repeat_with(AtomicU64::default).take(Self::COUNT).collect();
        self.0.get_or_init(make).get(usize::from(cell))
    }
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cells").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn grinding(now: Instant) -> Grinding {
        let most = |most| NonZeroU32::new(most).unwrap();
        let settings =
            Settings { per_address: most(3), per_name: most(2), forgotten_after: 10 * SECOND };
        Grinding::seeded(settings, now, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Threat: password grinding.
    #[test]
    fn failures_of_a_name_and_of_an_address_are_bounded_and_forgotten() {
        let now = Instant::now();
        let grinding = grinding(now);
        let (a, b) = (Some(address("192.0.2.1")), Some(address("192.0.2.2")));
        let tried = |from, name, at| grinding.take(from, Some(name), now + at).map(drop);
        let by_name = Err(Throttled::Name { failures_max: NonZeroU32::new(2).unwrap() });
        let by_address = Err(Throttled::Address { failures_max: NonZeroU32::new(3).unwrap() });
        assert_eq!(tried(a, "ann", SECOND), Ok(()));
        assert_eq!(tried(b, "ann", SECOND), Ok(()));
        // The name, wherever it is tried from; what is not tried does not count for the address.
        assert_eq!(tried(a, "ann", SECOND), by_name);
        assert_eq!(tried(None, "ann", SECOND), by_name);
        assert_eq!(tried(a, "bob", SECOND), Ok(()));
        assert_eq!(tried(a, "eve", SECOND), Ok(()));
        assert_eq!(tried(a, "joe", SECOND), by_address);
        assert_eq!(tried(b, "joe", SECOND), Ok(()));
        // One is forgotten after ten seconds, and not before.
        assert_eq!(tried(a, "joe", SECOND * 10), by_address);
        assert_eq!(tried(a, "joe", SECOND * 11), Ok(()));
        assert_eq!(tried(a, "zoe", SECOND * 11), by_address);
    }

    #[test]
    fn what_succeeds_does_not_count_and_many_at_once_gain_nothing() {
        let now = Instant::now();
        let grinding = grinding(now);
        for _ in 0..100 {
            let attempt = grinding.take(Some(address("::1")), Some("ann"), now).unwrap();
            grinding.give_back(attempt);
        }
        let under_way: Vec<_> =
            (0..100).filter_map(|_| grinding.take(None, Some("ann"), now).ok()).collect();
        assert_eq!(under_way.len(), 2);
    }

    #[test]
    fn the_addresses_of_one_site_count_together() {
        let now = Instant::now();
        let grinding = grinding(now);
        for host in ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"] {
            let _ = grinding.take(Some(address(host)), None, now).unwrap();
        }
        assert!(grinding.take(Some(address("2001:db8::3")), None, now).is_err());
        assert!(grinding.take(Some(address("2001:db8:0:1::3")), None, now).is_ok());
        assert!(grinding.take(None, None, now).is_ok());
    }
}
