//! Yes, said a moment ago: so that a client that reconnects costs no hash and no request.
//!
//! Only a yes is kept, for a minute at most, under a key that takes in the secret itself; a
//! reload drops all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use parking_lot::Mutex;

use crate::identity::method::Accepted;

/// The longest that a yes is kept.
pub(crate) const KEPT_MAX: Duration = Duration::from_mins(1);
/// Yeses kept at a time.
const ENTRIES_MAX: usize = 10_000;

/// What is kept under a key.
type Entries = HashMap<Key, (Instant, Accepted), ahash::RandomState>;

/// Everything an answer depends on, as a keyed hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// The yeses of all methods.
pub(super) struct YesCache {
    key: hmac::Key,
    /// Counts the times that all were dropped: what was asked before is not kept after.
    era: AtomicU64,
    entries: Mutex<Entries>,
}

impl std::fmt::Debug for YesCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("YesCache").finish_non_exhaustive()
    }
}

/// When something was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(u64);

impl YesCache {
    /// Keeps nothing yet; `None`: the system has no random numbers.
    pub(super) fn new() -> Option<Self> {
        let mut key = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut key).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Some(Self { key, era: AtomicU64::new(0), entries: Mutex::default() })
    }

    /// The key of a question: the method first, then all that its answer depends on.
    pub(super) fn key(&self, parts: &[&[u8]]) -> Key {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            // With its length before it, no part can reach into the next.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut key = [0; 32];
        key.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        Key(key)
    }

    /// A yes that still counts; and else the era to keep one in.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Result<Accepted, Era> {
        let era = Era(self.era.load(Ordering::Acquire));
        let entries = self.entries.lock();
        let found = entries.get(key).filter(|(until, _)| *until > now);
        found.map(|(_, accepted)| accepted.clone()).ok_or(era)
    }

    /// Keeps a yes, unless all were dropped since it was asked for.
    pub(super) fn keep(
        &self,
        key: Key,
        era: Era,
        accepted: &Accepted,
        kept: Duration,
        now: Instant,
    ) {
        let mut entries = self.entries.lock();
        if self.era.load(Ordering::Acquire) != era.0 || kept.is_zero() {
            return;
        }
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (until, _)| *until > now);
        }
        if entries.len() < ENTRIES_MAX {
            entries.insert(key, (now + kept.min(KEPT_MAX), accepted.clone()));
        }
    }

    /// Drops all of them.
    pub(super) fn clear(&self) {
        let mut entries = self.entries.lock();
        self.era.fetch_add(1, Ordering::AcqRel);
        entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_kept_for_a_minute_for_the_same_secret_and_until_a_reload() {
        let cache = YesCache::new().unwrap();
        let now = Instant::now();
        let ann = Accepted::named("ann".into());
        let key = cache.key(&[b"staff", b"ann", b"secret"]);
        assert_ne!(cache.key(&[b"staff", b"anns", b"ecret"]).0, key.0);
        assert_ne!(cache.key(&[b"staff", b"ann", b"secres"]).0, key.0);
        let era = cache.find(&key, now).unwrap_err();
        cache.keep(key, era, &ann, Duration::from_hours(1), now);
        assert_eq!(
            cache.find(&key, now + KEPT_MAX.saturating_sub(Duration::from_millis(1))),
            Ok(ann.clone())
        );
        assert!(cache.find(&key, now + KEPT_MAX).is_err());
        cache.clear();
        assert!(cache.find(&key, now).is_err());
        // Asked for before the reload, answered after it.
        cache.keep(key, era, &ann, KEPT_MAX, now);
        assert!(cache.find(&key, now).is_err());
        let era = cache.find(&key, now).unwrap_err();
        cache.keep(key, era, &ann, Duration::ZERO, now);
        assert!(cache.find(&key, now).is_err());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let cache = YesCache::new().unwrap();
        let now = Instant::now();
        for number in 0..ENTRIES_MAX + 10 {
            let key = cache.key(&[&number.to_le_bytes()]);
            cache.keep(key, Era(0), &Accepted::named("a".into()), KEPT_MAX, now);
        }
        assert_eq!(cache.entries.lock().len(), ENTRIES_MAX);
        let key = cache.key(&[b"later"]);
        cache.keep(key, Era(0), &Accepted::named("a".into()), KEPT_MAX, now + KEPT_MAX);
        assert_eq!(cache.entries.lock().len(), 1);
    }
}
