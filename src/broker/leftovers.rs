//! What a session that has ended leaves to the other members of its share groups.
//!
//! Its queue may be long and lies on disk: it is read part by part, off everybody's way, and the
//! session is gone from the store once all of it has found a member. Until then its record says
//! that it lasts no longer, so that after a restart it is taken up again and nobody resumes it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Broker, Now, record};
use crate::mqtt::packet::Qos;
use crate::router::{Durable, Peer};
use crate::session::Seq;
use crate::store::{Change, Commit, RecoveredSession, Store};

/// Queues that nobody resumes.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<Vec<Leftover>>);

#[derive(Debug)]
struct Leftover {
    durable: Durable,
    /// The first that waits.
    from: Seq,
    /// All of it is on disk once this is done.
    after: Commit,
}

impl Broker {
    /// A session has ended, and from `from` on the store has what may be for others.
    pub(super) fn leave_behind(
        &self,
        peer: &Arc<Peer>,
        durable: &Durable,
        from: Seq,
        now: Now,
    ) -> Commit {
        let record = record(peer, 0, Some(now.wall), None);
        let after = durable.change(|number| Change::Session(number, Box::new(record)));
        let leftover = Leftover { durable: durable.clone(), from, after };
        self.leftovers.0.lock().push(leftover);
        self.sessions.agenda().hurry();
        after
    }

    /// One that the store had when it was opened.
    pub(super) fn restore_leftover(&self, store: &Arc<Store>, recovered: &RecoveredSession) {
        let durable = Durable::alone(Arc::clone(store), recovered.number);
        match recovered.waiting.first() {
            Some(first) => {
                let after = Commit::default();
                self.leftovers.0.lock().push(Leftover { durable, from: first.seq, after });
            }
            None => {
                durable.change(Change::End);
            }
        }
    }

    /// Delivers what was left behind to other members of the share groups.
    pub(super) async fn hand_over(&self, now: Now) {
        let leftovers = std::mem::take(&mut *self.leftovers.0.lock());
        for Leftover { durable, mut from, after } in leftovers {
            loop {
                let page = match durable.read(from, after).await {
                    Ok(page) => page,
                    Err(error) => {
                        // It is tried again when the broker is started.
                        tracing::error!("what a session has left behind cannot be read: {error}");
                        break;
                    }
                };
                if page.deliveries.is_empty() {
                    durable.change(Change::End);
                    break;
                }
                from = page.next;
                let mut deliveries = page.deliveries;
                // A QoS 2 delivery may have begun: it belongs to that client alone [MQTT-4.8.2-5].
                deliveries.retain(|delivery| delivery.qos != Qos::ExactlyOnce);
                self.redeliver(deliveries, now);
            }
        }
    }
}
