//! What waits for all sessions of one principal together while nobody takes it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::identity::Account;

/// A number of messages, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The messages and bytes that wait for the sessions of one principal: of a session without a
/// connection all of them, of one that is connected those that are in the store alone.
#[derive(Debug, Default)]
pub struct Quota {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Quota {
    /// What waits.
    pub(super) fn size(&self) -> Size {
        Size {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// One mailbox counted for `before` and counts for `now`.
    pub(super) fn moved(&self, before: Size, now: Size) {
        self.messages.fetch_add(now.messages.wrapping_sub(before.messages), Ordering::Relaxed);
        self.bytes.fetch_add(now.bytes.wrapping_sub(before.bytes), Ordering::Relaxed);
    }
}

/// The quotas of the principals that have sessions.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_account: HashMap<Arc<Account>, Weak<Quota>, ahash::RandomState>,
    /// At this many entries the unused ones are removed.
    sweep_at: usize,
}

const SWEEP_AT_MIN: usize = 64;

impl Quotas {
    /// The one that all sessions of this account share.
    #[must_use]
    pub fn of(&self, account: &Arc<Account>) -> Arc<Quota> {
        let mut known = self.0.lock();
        if let Some(quota) = known.by_account.get(account).and_then(Weak::upgrade) {
            return quota;
        }
        if known.by_account.len() >= known.sweep_at.max(SWEEP_AT_MIN) {
            known.by_account.retain(|_, quota| quota.strong_count() > 0);
            known.sweep_at = known.by_account.len().saturating_mul(2);
        }
        let quota = Arc::new(Quota::default());
        known.by_account.insert(Arc::clone(account), Arc::downgrade(&quota));
        quota
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn the_sessions_of_a_principal_share_one_quota_while_there_are_any() {
        let account = |number: usize| {
            let identity = Identity { name: format!("p{number}").into(), ..Identity::anonymous() };
            Arc::new(Account::of(&identity, None))
        };
        let quotas = Quotas::default();
        let first = quotas.of(&account(0));
        first.moved(Size::default(), Size { messages: 2, bytes: 20 });
        first.moved(Size { messages: 2, bytes: 20 }, Size { messages: 1, bytes: 5 });
        assert_eq!(quotas.of(&account(0)).size(), Size { messages: 1, bytes: 5 });
        assert_eq!(quotas.of(&account(1)).size(), Size::default());
        for number in 1..1000 {
            drop(quotas.of(&account(number)));
        }
        assert!(quotas.0.lock().by_account.len() <= SWEEP_AT_MIN);
        assert_eq!(quotas.of(&account(0)).size(), Size { messages: 1, bytes: 5 });
    }
}
