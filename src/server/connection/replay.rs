//! Retained messages on their way to a new subscription.
//!
//! What a durable session is to get with QoS 1 or 2 goes into its queue, from where it comes after
//! a restart too; it leaves half of the queue to what is published meanwhile, and the rest follows
//! as the client takes it. Everything else goes out as it is looked up.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Connection;
use crate::broker::Now;
use crate::metrics::DropReason;
use crate::mqtt::SubscriptionFilter;
use crate::mqtt::packet::Qos;
use crate::router::{Cursor, Router, Wakes};
use crate::session::{Delivery, Subscription};

/// Retained messages looked up at a time.
const PAGE: usize = 64;
/// Pages in one round, so that what is looked through and not allowed to leave is bounded too.
const PAGES_OF_ROUND: usize = 8;
/// Pages that are queued while the answer to SUBSCRIBE waits, or the end of the connection: about
/// as much as half of a queue of the default size takes.
const PAGES_AT_ONCE: usize = 96;

/// A walk through the retained messages that match a subscription.
#[derive(Debug)]
struct Replay {
    subscription: Arc<Subscription>,
    cursor: Cursor,
    way: Way,
}

/// What a replay takes from where it walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Everything, to the socket.
    Out,
    /// What goes with QoS 0, to the socket.
    OutAtMostOnce,
    /// What goes with QoS 1 and 2, into the queue.
    Queue,
}

impl Way {
    fn takes(self, qos: Qos) -> bool {
        match self {
            Self::Out => true,
            Self::OutAtMostOnce => qos == Qos::AtMostOnce,
            Self::Queue => qos != Qos::AtMostOnce,
        }
    }
}

/// What is replayed, the oldest first. Most of the time there is nothing: no more than a pointer.
#[derive(Debug, Default)]
pub(super) struct Replays(Option<Box<SmallVec<[Replay; 1]>>>);

impl Replays {
    /// Begins one to a new subscription.
    pub(super) fn push(&mut self, subscription: Arc<Subscription>, durable: bool) {
        let replays = self.0.get_or_insert_default();
        let mut begin = |subscription, way| {
            replays.push(Replay { subscription, cursor: Cursor::default(), way });
        };
        if durable && subscription.options.qos != Qos::AtMostOnce {
            begin(Arc::clone(&subscription), Way::Queue);
            begin(subscription, Way::OutAtMostOnce);
        } else {
            begin(subscription, Way::Out);
        }
    }

    /// The first that `is_meant`, and its place.
    fn find(&mut self, is_meant: impl Fn(&Replay) -> bool) -> Option<(usize, &mut Replay)> {
        self.0.as_mut()?.iter_mut().enumerate().find(|(_, replay)| is_meant(replay))
    }

    fn remove(&mut self, at: usize) {
        if let Some(replays) = &mut self.0
            && at < replays.len()
        {
            replays.remove(at);
        }
        self.0.take_if(|replays| replays.is_empty());
    }

    /// Ends the replay to the subscription with this filter, which is gone or new.
    pub(super) fn end(&mut self, filter: &SubscriptionFilter) {
        if let Some(replays) = &mut self.0 {
            replays.retain(|replay| replay.subscription.filter != *filter);
        }
        self.0.take_if(|replays| replays.is_empty());
    }
}

impl Connection {
    /// Sends retained messages, those of the oldest new subscription first, until `out` holds
    /// `bytes_max`. `false`: there are none, or the client takes no more at present.
    pub(super) fn replay(&mut self, now: Now, out: &mut Vec<u8>, bytes_max: usize) -> bool {
        let mut progress = false;
        for _ in 0..PAGES_OF_ROUND {
            if out.len() >= bytes_max || !self.replay_page(now, out) {
                break;
            }
            progress = true;
        }
        progress
    }

    fn replay_page(&mut self, now: Now, out: &mut Vec<u8>) -> bool {
        let Some((at, Replay { subscription, way, .. })) = self.replays.find(|_| true) else {
            return false;
        };
        let limited = subscription.options.qos != Qos::AtMostOnce;
        let room = match way {
            Way::Queue => self.link.peer.mailbox.room_for_retained(),
            Way::Out if limited => self.link.session.room().into(),
            Way::Out | Way::OutAtMostOnce => PAGE,
        };
        let is_queued = *way == Way::Queue;
        let Some(page) = self.look_up(at, room.min(PAGE), now) else { return false };
        if is_queued {
            self.queue(page);
        } else {
            for delivery in page {
                self.deliver(delivery, now, out);
            }
        }
        true
    }

    /// The next `count` of the replay at this place, or fewer; `None` for none at all.
    fn look_up(&mut self, at: usize, count: usize, now: Now) -> Option<Vec<Delivery>> {
        let replay = self.replays.0.as_mut()?.get_mut(at).filter(|_| count > 0)?;
        let router = &self.link.broker.router;
        let mut page =
            router.retained(&replay.subscription, &mut replay.cursor, count, now.instant);
        page.retain(|delivery| replay.way.takes(delivery.qos));
        if replay.cursor.is_at_end() {
            self.replays.remove(at);
        }
        Some(page)
    }

    /// Puts into a durable session's queue what it is to get of retained messages, as far as that
    /// has room.
    pub(super) fn queue_retained(&mut self, now: Now) {
        for _ in 0..PAGES_AT_ONCE {
            let Some((at, _)) = self.replays.find(|replay| replay.way == Way::Queue) else { break };
            let room = self.link.peer.mailbox.room_for_retained();
            let Some(page) = self.look_up(at, room.min(PAGE), now) else { break };
            self.queue(page);
        }
    }

    fn queue(&mut self, page: Vec<Delivery>) {
        // The connection runs: it takes what is put in without being woken, or when this ends.
        let mut wakes = Wakes::default();
        let routed = Router::queue_retained(&self.link.peer, page, &mut wakes);
        if routed.dropped > 0 {
            let dropped = self.link.broker.metrics.publishes_dropped.of(DropReason::QueueFull);
            dropped.inc_by(routed.dropped as u64);
        }
        if routed.commit.is_some() {
            self.write_soon();
        }
    }
}
