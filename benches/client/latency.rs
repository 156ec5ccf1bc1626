//! Latencies, counted in buckets so that a run of any length takes the same memory.

use std::time::Duration;

/// Buckets per power of two: percentiles are exact to about 1.6 %.
const STEPS: u64 = 64;

/// A histogram of latencies from 1 ns to hours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    longest_ns: u64,
}

impl Latencies {
    /// Counts one latency.
    pub(crate) fn record(&mut self, ns: u64) {
        let bucket = bucket(ns);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.longest_ns = self.longest_ns.max(ns);
    }

    /// The latency that `share` (0 to 1) of all stay below; zero when nothing was counted.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(upper_bound(index as u64).min(self.longest_ns));
            }
        }
        Duration::ZERO
    }

    /// The longest.
    pub(crate) const fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns)
    }

    /// How many were counted.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }
}

/// Below `STEPS` a bucket per nanosecond, above it `STEPS` buckets per power of two.
fn bucket(ns: u64) -> usize {
    let shift = (ns / STEPS).checked_ilog2().map_or(0, |log| u64::from(log) + 1);
    let step = ns >> shift.saturating_sub(1);
    (if shift == 0 { ns } else { shift * STEPS + (step - STEPS) }) as usize
}

/// The largest value of a bucket.
const fn upper_bound(bucket: u64) -> u64 {
    let shift = bucket / STEPS;
    if shift == 0 {
        return bucket;
    }
    ((bucket % STEPS + STEPS + 1) << (shift - 1)) - 1
}
