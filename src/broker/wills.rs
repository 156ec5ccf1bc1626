//! Wills that wait: for their delay, or for the end of their session.

use std::collections::BTreeSet;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::mqtt::ClientId;
use crate::mqtt::packet::Will;
use crate::router::Standing;

/// A will whose connection is gone.
#[derive(Debug)]
pub(super) struct PendingWill {
    /// The message.
    pub(super) will: Box<Will>,
    /// Who is judged when it is sent: the principal and facts of its CONNECT.
    pub(super) standing: Standing,
    /// When it is sent, unless its session ends before.
    pub(super) due_at: Instant,
}

/// When which session has something due: an expiry or a will. At most one entry a session.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: Mutex<BTreeSet<(Instant, ClientId)>>,
    sooner: Notify,
}

impl Agenda {
    /// Enters a session that was parked.
    pub(super) fn add(&self, at: Instant, client_id: ClientId) {
        let mut entries = self.entries.lock();
        let first = entries.first().is_none_or(|(first, _)| at < *first);
        entries.insert((at, client_id));
        drop(entries);
        if first {
            self.sooner.notify_one();
        }
    }

    /// Takes a session off that is not parked any more.
    pub(super) fn remove(&self, at: Instant, client_id: &ClientId) {
        self.entries.lock().remove(&(at, client_id.clone()));
    }

    /// Takes off the sessions with something due by `now`, at most `count_max`; and when the
    /// next one is due.
    pub(super) fn take_due(
        &self,
        now: Instant,
        count_max: usize,
    ) -> (Vec<ClientId>, Option<Instant>) {
        let mut entries = self.entries.lock();
        let mut due = Vec::new();
        while due.len() < count_max && entries.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(entries.pop_first().map(|(_, client_id)| client_id));
        }
        (due, entries.first().map(|(at, _)| *at))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Something is due at once, which stands nowhere.
    pub(super) fn hurry(&self) {
        self.sooner.notify_one();
    }

    /// Waits until something is due sooner than all before.
    pub(super) async fn sooner(&self) {
        self.sooner.notified().await;
    }
}
