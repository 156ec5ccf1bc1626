//! What a session that has ended leaves to the other members of its share groups.
//!
//! Its queue may be long and lies on disk: it is read part by part, off everybody's way, and the
//! session is gone from the store once all of it has found a member. Until then its record says
//! that it lasts no longer, so that after a restart it is taken up again and nobody resumes it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Broker, Now, record};
use crate::mqtt::packet::Qos;
use crate::router::{Durable, Peer};
use crate::session::Seq;
use crate::store::{Change, Commit, Page, RecoveredSession, Store};

/// Queues that nobody resumes.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<VecDeque<Leftover>>);

/// What an ended session has in the store.
#[derive(Debug)]
pub(super) struct Left {
    /// The first that waits.
    pub(super) from: Seq,
    /// From here on nothing can have been sent.
    pub(super) unsent_from: Seq,
    /// Nothing of all that the session had can have been sent and not be done with.
    pub(super) all_unsent: bool,
}

#[derive(Debug)]
struct Leftover {
    durable: Durable,
    /// The first that waits.
    from: Seq,
    /// From here on nothing can have been sent.
    unsent_from: Seq,
    /// All of it is on disk once this is done.
    after: Commit,
}

impl Broker {
    /// A session has ended, and the store has what may be for others.
    pub(super) fn leave_behind(
        &self,
        peer: &Arc<Peer>,
        durable: &Durable,
        Left { from, unsent_from, all_unsent }: Left,
        now: Now,
    ) -> Commit {
        // A restart has to know it too.
        let parked_at = Some(now.wall).filter(|_| !all_unsent);
        let record = record(peer, 0, parked_at, None);
        let after = durable.change(|number| Change::Session(number, Box::new(record)));
        let leftover = Leftover { durable: durable.clone(), from, unsent_from, after };
        self.leftovers.0.lock().push_back(leftover);
        self.sessions.agenda().hurry();
        after
    }

    /// One that the store had when it was opened.
    pub(super) fn restore_leftover(&self, store: &Arc<Store>, recovered: &RecoveredSession) {
        let durable = Durable::alone(Arc::clone(store), recovered.number);
        let is_unsent = recovered.record.parked_at.is_none();
        match (recovered.waiting.first(), recovered.waiting.last()) {
            (Some(first), Some(last)) => {
                let from = first.seq;
                let unsent_from = if is_unsent { from } else { last.seq.after(1) };
                let leftover = Leftover { durable, from, unsent_from, after: Commit::default() };
                self.leftovers.0.lock().push_back(leftover);
            }
            _ => {
                durable.change(Change::End);
            }
        }
    }

    /// Delivers a part of what was left behind to other members of the share groups. `true`: there
    /// is more.
    pub(super) async fn hand_over(&self, now: Now) -> bool {
        let next = self.leftovers.0.lock().pop_front();
        let Some(Leftover { durable, from, unsent_from, after }) = next else { return false };
        match durable.read(from, after).await {
            Ok(page) if page.deliveries.is_empty() => {
                durable.change(Change::End);
            }
            Ok(Page { mut deliveries, next }) => {
                // A QoS 2 delivery that has begun belongs to that client alone [MQTT-4.8.2-5].
                deliveries.retain(|delivery| {
                    delivery.qos != Qos::ExactlyOnce || delivery.seq >= Some(unsent_from)
                });
                self.redeliver(deliveries, now);
                let leftover = Leftover { durable, from: next, unsent_from, after };
                self.leftovers.0.lock().push_back(leftover);
            }
            // It is tried again when the broker is started.
            Err(error) => {
                tracing::error!("what a session has left behind cannot be read: {error}");
            }
        }
        !self.leftovers.0.lock().is_empty()
    }
}
