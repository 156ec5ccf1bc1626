//! What waits in all mailboxes together: in memory, which is bounded, and in the store alone.

use std::sync::atomic::{AtomicU64, Ordering};

use super::quota::{Quota, Size};

/// The bytes waiting in all mailboxes of a broker, and their bound.
#[derive(Debug)]
pub struct Budget {
    bytes: AtomicU64,
    messages: AtomicU64,
    bytes_max: u64,
    /// In the store alone.
    stored: Quota,
}

impl Budget {
    /// An empty budget.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            bytes_max,
            stored: Quota::default(),
        }
    }

    /// Bytes that wait in memory at present.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages that wait in memory at present.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Messages that wait at present, in memory and in the store.
    #[must_use]
    pub fn all_messages(&self) -> u64 {
        self.messages().saturating_add(self.stored.size().messages)
    }

    /// Their bytes.
    #[must_use]
    pub fn all_bytes(&self) -> u64 {
        self.bytes().saturating_add(self.stored.size().bytes)
    }

    /// One mailbox had so much in the store alone, and has so much now.
    pub(super) fn stored(&self, before: Size, now: Size) {
        self.stored.moved(before, now);
    }

    /// Counts one more message, unless there is no room for it.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts one more message, whether there is room for it or not.
    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// True when there is room for `bytes` once `freed` of those that wait are gone.
    pub(super) fn would_have_room(&self, bytes: u64, freed: u64) -> bool {
        self.bytes().saturating_sub(freed).saturating_add(bytes) <= self.bytes_max
    }

    pub(super) fn give_back(&self, messages: u64, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.messages.fetch_sub(messages, Ordering::Relaxed);
    }
}
