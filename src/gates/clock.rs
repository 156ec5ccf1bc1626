//! The time of the caller, as the rate limiters' clock.
//!
//! The limiters of `governor` ask a clock; the gates are told the time. This clock shows what
//! it was told last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::nanos::Nanos;

/// Half of what fits: sums of two times, such as those a limiter makes, fit as well.
const NANOS_MAX: u64 = u64::MAX / 2;

/// A clock that shows the latest time it was told. Clones are the same clock.
#[derive(Clone, Debug)]
pub(super) struct ToldClock {
    start: Instant,
    now: Arc<AtomicU64>,
}

impl ToldClock {
    pub(super) fn starting_at(start: Instant) -> Self {
        Self { start, now: Arc::default() }
    }

    /// Sets the clock, never back: threads may be told times in another order than they come
    /// here. Returns what it shows, in nanoseconds.
    pub(super) fn tell(&self, now: Instant) -> u64 {
        let now = u64::try_from(now.saturating_duration_since(self.start).as_nanos())
            .unwrap_or(NANOS_MAX)
            .min(NANOS_MAX);
        self.now.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// The time between the latest time it was told and this one; none if this one is earlier.
    pub(super) fn since_told(&self, now: Instant) -> Duration {
        let told = Duration::from_nanos(self.now.load(Ordering::Relaxed));
        now.saturating_duration_since(self.start).saturating_sub(told)
    }
}

impl Clock for ToldClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.now.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_shows_the_latest_time_and_never_goes_back() {
        let start = Instant::now();
        let clock = ToldClock::starting_at(start);
        assert_eq!(clock.tell(start + Duration::from_nanos(7)), 7);
        assert_eq!(clock.tell(start + Duration::from_nanos(3)), 7);
        assert_eq!(clock.now().as_u64(), 7);
        assert_eq!(clock.tell(start + Duration::from_secs(1_000_000_000)), 10u64.pow(18));
    }
}
