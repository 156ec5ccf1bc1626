//! What has expired while it waited goes, and makes room.

use std::time::{Duration, Instant};

use super::{Inner, Mailbox};

/// How often a queue in memory is looked through for what has expired: it takes the longer, the more
/// waits.
pub(super) const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// The earlier of two moments; `None` is never.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

impl Mailbox {
    /// Drops what has expired while it waited.
    pub fn expire(&self, now: Instant) {
        self.expire_in(&mut self.inner.lock(), now);
    }

    pub(super) fn expire_in(&self, inner: &mut Inner, now: Instant) {
        if let Some(backlog) = &mut inner.backlog {
            backlog.expire(now);
        }
        self.expire_in_memory(inner, now);
        self.settle(inner);
    }

    fn expire_in_memory(&self, inner: &mut Inner, now: Instant) {
        if inner.expires_at.is_none_or(|at| now < at)
            || inner.expired_at.is_some_and(|at| now.duration_since(at) < EXPIRE_EVERY)
        {
            return;
        }
        let (mut messages, mut bytes, mut next) = (0, 0, None);
        let Inner { queue, backlog, .. } = inner;
        queue.retain(|delivery| {
            let message = &delivery.message;
            if !message.has_expired(now) {
                next = earlier(next, message.expires_at);
                return true;
            }
            if let (Some(backlog), Some(seq)) = (&*backlog, delivery.seq) {
                backlog.dropped(seq);
            }
            messages += 1;
            bytes += message.bytes();
            false
        });
        inner.bytes -= bytes;
        inner.expires_at = next;
        inner.expired_at = Some(now);
        self.budget.give_back(messages, bytes);
    }
}
