//! How much may be put into a mailbox, and what makes room in it.

use std::sync::atomic::Ordering;

use super::quota::Size;
use super::{Inner, Mailbox};

impl Inner {
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let (messages, stored) = self.backlog.as_ref().map_or((0, 0), |backlog| backlog.size());
        self.queue.len() + messages < self.settings.messages_max as usize
            && self.bytes.saturating_add(stored).saturating_add(bytes) <= self.settings.bytes_max
    }

    /// True when one more message of so many bytes is within what the principal may have.
    pub(super) fn is_within(&self, quota: Size, bytes: u64) -> bool {
        quota.messages < self.settings.principal_messages_max.into()
            && quota.bytes.saturating_add(bytes) <= self.settings.principal_bytes_max
    }

    /// True when what is put in now would wait with nobody taking it.
    pub(super) fn rests(&self, durable: bool) -> bool {
        !self.attached || durable && self.backlog.as_ref().is_some_and(|it| !it.is_empty())
    }
}

impl Mailbox {
    /// True when there is room for so many bytes more, within the principal's quota too.
    pub(super) fn has_room(&self, inner: &Inner, bytes: u64, durable: bool) -> bool {
        inner.has_room(bytes)
            && (!inner.rests(durable) || inner.is_within(self.quota.size(), bytes))
    }

    /// True when it is full and its profile wants publishers to hear of it.
    pub(in crate::router) fn refuses(&self) -> bool {
        if !self.may_refuse.load(Ordering::Relaxed) {
            return false;
        }
        let inner = self.inner.lock();
        !inner.ended && !self.has_room(&inner, 0, inner.backlog.is_some())
    }

    /// How many messages that are older than their subscription may be put in: they leave half of
    /// it to what is published meanwhile.
    #[must_use]
    pub fn room_for_retained(&self) -> usize {
        let inner = self.inner.lock();
        let (messages, stored) = inner.backlog.as_ref().map_or((0, 0), |backlog| backlog.size());
        let messages = inner.queue.len() + messages;
        let bytes = inner.bytes.saturating_add(stored);
        if bytes > inner.settings.bytes_max / 2 || !self.has_room(&inner, 0, true) {
            return usize::from(messages == 0);
        }
        let half = inner.settings.messages_max as usize / 2;
        half.max(1).saturating_sub(messages)
    }

    /// Drops the oldest messages until there is room for `bytes` more, and takes that from the
    /// budget unless it is for the store: how many went. `None`: there is no room.
    pub(super) fn drop_oldest(
        &self,
        inner: &mut Inner,
        bytes: u64,
        durable: bool,
    ) -> Option<usize> {
        // What would not fit into the empty mailbox does not drive the others out.
        let fits = durable || self.budget.would_have_room(bytes, inner.bytes);
        if bytes > inner.settings.bytes_max || !fits {
            return None;
        }
        if inner.rests(durable) {
            let (mut others, own) = (self.quota.size(), inner.resting());
            others.messages = others.messages.saturating_sub(own.messages);
            others.bytes = others.bytes.saturating_sub(own.bytes);
            if !inner.is_within(others, bytes) {
                return None;
            }
        }
        let mut dropped = 0;
        loop {
            if let Some(oldest) = inner.queue.pop_front() {
                let freed = oldest.message.bytes();
                inner.bytes -= freed;
                self.budget.give_back(1, freed);
                if let (Some(backlog), Some(seq)) = (&mut inner.backlog, oldest.seq) {
                    backlog.dropped(seq);
                }
            } else {
                inner.backlog.as_mut()?.drop_oldest()?;
            }
            dropped += 1;
            self.settle(inner);
            if self.has_room(inner, bytes, durable) && (durable || self.budget.take(bytes)) {
                return Some(dropped);
            }
        }
    }
}
