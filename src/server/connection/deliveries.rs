//! What waits for a client, judged as it leaves.

use std::cell::Cell;
use std::task::Context;

use super::{Closing, Connected, Connection, closing_by_signal};
use crate::audit::{Target, Verb};
use crate::broker::Now;
use crate::gates::{Refusal, authorize};
use crate::metrics::DropReason;
use crate::mqtt::TopicName;
use crate::policy::{Denial, Subject};
use crate::router::Most;
use crate::router::Signal;
use crate::session::{Delivery, Sent, Stamp};

/// Bytes of deliveries that are encoded before they are written.
const BATCH_BYTES: usize = 64 * 1024;
/// Deliveries taken from the mailbox at a time.
const BATCH: usize = 512;

thread_local! {
    /// Empty between polls; a worker's, so that no connection holds one.
    static BATCH_OF_WORKER: Cell<Vec<Delivery>> = const { Cell::new(Vec::new()) };
}

impl Connection {
    /// Sends again what an earlier connection left in flight, then what waits in the mailbox,
    /// then retained messages, until a batch is full. `true`: there was something.
    pub(super) fn take_deliveries(
        &mut self,
        cx: &mut Context<'_>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<bool, Closing> {
        if self.link.session.is_resending() {
            self.resend(now, out);
        }
        let mut batch = BATCH_OF_WORKER.take();
        let most = Most {
            room: self.link.session.room(),
            before: self.link.session.wraps_at(),
            messages: BATCH,
            bytes: BATCH_BYTES as u64,
        };
        let signal = self.link.peer.mailbox.take(most, cx.waker(), &mut batch);
        let mut progress = !batch.is_empty();
        for delivery in batch.drain(..) {
            self.deliver(delivery, now, out);
        }
        BATCH_OF_WORKER.set(batch);
        match signal {
            Some(Signal::Close(reason)) => return Err(closing_by_signal(reason)),
            Some(Signal::Rejudge) => {
                self.rejudge(now)?;
                progress = true;
            }
            None => {}
        }
        progress |= self.replay(now, out, BATCH_BYTES);
        Ok(progress)
    }

    /// Sends again what an earlier connection left in flight and the client may still have.
    fn resend(&mut self, now: Now, out: &mut Vec<u8>) {
        let Connected { session, subject, peer, .. } = &mut self.link;
        let stamp = peer.stamp();
        let mut denied = Vec::new();
        let mut may = |delivery: &Delivery| match judge(subject, stamp, delivery, now) {
            Ok(()) => true,
            Err(denial) => {
                denied.push((delivery.message.topic.clone(), denial));
                false
            }
        };
        session.resend(now.instant, &mut may, out);
        for (topic, denial) in denied {
            self.record_undeliverable(&topic, denial, now);
        }
    }

    fn record_undeliverable(&self, topic: &TopicName, denial: Denial, now: Now) {
        let target = Target::Topic(topic.as_str().into());
        self.record_denied(Verb::Receive, Some(target), &Refusal::Denied(denial), now);
    }

    /// Judges one delivery for this client and sends it.
    pub(super) fn deliver(&mut self, delivery: Delivery, now: Now, out: &mut Vec<u8>) {
        if let Err(denial) = judge(&mut self.link.subject, self.link.peer.stamp(), &delivery, now) {
            self.link.session.pass(&delivery);
            return self.record_undeliverable(&delivery.message.topic, denial, now);
        }
        let metrics = &self.link.broker.metrics;
        match self.link.session.send(delivery, now.instant, out) {
            Sent::Written => {
                metrics.packets_sent.inc();
                metrics.publishes_delivered.inc()
            }
            Sent::Expired => metrics.publishes_dropped.of(DropReason::Expired).inc(),
            Sent::TooLarge => metrics.publishes_dropped.of(DropReason::TooLarge).inc(),
            Sent::NoIdentifier => metrics.publishes_dropped.of(DropReason::QueueFull).inc(),
        };
    }
}

/// Judges a delivery for its receiver, unless one of its subscriptions is cleared for all.
fn judge(
    subject: &mut Subject,
    stamp: Option<Stamp>,
    delivery: &Delivery,
    now: Now,
) -> Result<(), Denial> {
    if delivery.via.subscriptions.iter().any(|through| through.is_cleared_under(stamp)) {
        return Ok(());
    }
    authorize::receive(subject, &delivery.message, delivery.qos, delivery.retain, now.wall)
}
