//! Chance that a seed determines: who pauses, who drops a connection, when the broker is killed.

use std::time::Duration;

/// A sequence of numbers (splitmix64).
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// One for each seed, round and actor.
    pub(crate) fn new(seed: u64, round: u32, actor: u32) -> Self {
        let mut chance = Self(seed ^ u64::from(round) << 32 ^ u64::from(actor) << 16);
        chance.number();
        chance
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A while, shorter than this.
    pub(crate) fn millis_below(&mut self, end: u64) -> Duration {
        Duration::from_micros(self.below(end * 1000))
    }

    /// Sleeps for a while, shorter than this.
    pub(crate) fn pause(&mut self, millis_end: u64) {
        std::thread::sleep(self.millis_below(millis_end));
    }
}
