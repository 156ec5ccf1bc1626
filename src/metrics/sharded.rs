//! Storage of a counter that every connection adds to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Atomic;

/// Enough that two busy workers seldom share one; more would only cost memory and scrape time.
const SHARDS: usize = 16;

/// A number spread over cache lines, so that workers do not pass one line back and forth.
/// Adding touches the calling thread's shard; reading sums all.
#[derive(Debug, Default)]
pub struct Sharded([Shard; SHARDS]);

/// Two cache lines: neighbouring lines are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

impl Atomic<u64> for Sharded {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// Returns the previous value of the calling thread's shard only; nobody needs the sum.
    fn inc_by(&self, value: u64) -> u64 {
        let shard = SHARD.with(|index| *index);
        self.0.get(shard).map_or(0, |shard| shard.0.fetch_add(value, Ordering::Relaxed))
    }

    fn get(&self) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(shard.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_add_is_counted_once_each() {
        let sharded = Sharded::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        sharded.inc_by(3);
                    }
                });
            }
        });
        assert_eq!(sharded.get(), 2 * 16 * 1_000 * 3);
    }
}
