//! What waits for one client: bounded in count and bytes, filled by publishers, drained by the
//! client's own connection.
//!
//! A publisher handles its whole read buffer, posts to each mailbox, and wakes each connection
//! once at the end, through [`Wakes`]; a connection that is scheduled already is not woken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::Peer;
use crate::mqtt::ReasonCode;
use crate::mqtt::packet::Qos;
use crate::session::Delivery;

/// Bounds of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages waiting.
    pub messages_max: u32,
    /// Bytes waiting: topics, payloads and properties.
    pub bytes_max: u64,
    /// Which QoS 1 or 2 message goes when it is full. A QoS 0 message that finds the mailbox
    /// full is always dropped itself.
    pub overflow: Overflow,
}

/// Which QoS 1 or 2 message is dropped when a mailbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The one that arrives.
    DropNewest,
    /// The one that waits longest.
    DropOldest,
}

/// The bytes waiting in all mailboxes of a broker, and their bound.
#[derive(Debug)]
pub struct Budget {
    bytes: AtomicU64,
    messages: AtomicU64,
    bytes_max: u64,
}

impl Budget {
    /// An empty budget.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), messages: AtomicU64::new(0), bytes_max }
    }

    /// Bytes that wait at present.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages that wait at present.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Counts one more message, unless there is no room for it.
    fn take(&self, bytes: u64) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// True when there is room for `bytes` once `freed` of those that wait are gone.
    fn would_have_room(&self, bytes: u64, freed: u64) -> bool {
        self.bytes().saturating_sub(freed).saturating_add(bytes) <= self.bytes_max
    }

    fn give_back(&self, messages: u64, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.messages.fetch_sub(messages, Ordering::Relaxed);
    }
}

/// A message to a connection from outside of its own traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Close, with this reason.
    Close(ReasonCode),
    /// The policy set has changed: judge everything anew.
    Rejudge,
}

/// What became of a posted delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It waits.
    Queued,
    /// It was dropped: the mailbox or the broker's budget is full.
    Dropped,
    /// It waits, and so many older ones were dropped for it.
    DroppedOldest(usize),
    /// The client is not connected and the message is QoS 0.
    Absent,
    /// The session has ended.
    Ended,
}

/// The mailbox of one session.
#[derive(Debug)]
pub struct Mailbox {
    inner: Mutex<Inner>,
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Delivery>,
    bytes: u64,
    settings: Arc<Settings>,
    /// The connection's task, while there is one and it waits.
    waker: Option<Waker>,
    /// A connection is attached.
    attached: bool,
    /// Somebody has undertaken to wake the connection, or it runs.
    scheduled: bool,
    /// The session is over: nothing is put in any more.
    ended: bool,
    signal: Option<Signal>,
}

impl Inner {
    fn has_room(&self, bytes: u64) -> bool {
        self.queue.len() < self.settings.messages_max as usize
            && self.bytes.saturating_add(bytes) <= self.settings.bytes_max
    }
}

impl Mailbox {
    /// An empty mailbox without a connection.
    #[must_use]
    pub fn new(settings: Arc<Settings>, budget: Arc<Budget>) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            bytes: 0,
            settings,
            waker: None,
            attached: false,
            scheduled: false,
            ended: false,
            signal: None,
        };
        Self { inner: Mutex::new(inner), budget }
    }

    /// The bounds in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.inner.lock().settings)
    }

    /// A connection begins to drain the mailbox, under these bounds.
    pub fn attach(&self, settings: Arc<Settings>) {
        let mut inner = self.inner.lock();
        inner.settings = settings;
        inner.attached = true;
        inner.scheduled = true;
        inner.waker = None;
        inner.signal = None;
    }

    /// The connection is gone. What waits with QoS 0 goes with it [MQTT-3.1.2-5].
    pub fn detach(&self) {
        let mut inner = self.inner.lock();
        inner.attached = false;
        inner.scheduled = false;
        inner.waker = None;
        let before = (inner.queue.len(), inner.bytes);
        inner.queue.retain(|delivery| delivery.qos != Qos::AtMostOnce);
        inner.bytes = inner.queue.iter().map(|delivery| delivery.message.bytes()).sum();
        self.budget.give_back((before.0 - inner.queue.len()) as u64, before.1 - inner.bytes);
        inner.queue.shrink_to_fit();
    }

    /// The session is over, or about to be: what waits is dropped at once, whoever still holds
    /// the mailbox, and nothing is put in any more.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        inner.ended = true;
        let (messages, bytes) = (inner.queue.len() as u64, inner.bytes);
        inner.queue = VecDeque::new();
        inner.bytes = 0;
        self.budget.give_back(messages, bytes);
    }

    /// True while a connection is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.inner.lock().attached
    }

    /// Puts a delivery in. `true` beside it: the caller has to wake the connection.
    fn post(&self, delivery: Delivery) -> (Posted, bool) {
        let bytes = delivery.message.bytes();
        let mut inner = self.inner.lock();
        if inner.ended {
            return (Posted::Ended, false);
        }
        if !inner.attached && delivery.qos == Qos::AtMostOnce {
            return (Posted::Absent, false);
        }
        let mut posted = Posted::Queued;
        if !(inner.has_room(bytes) && self.budget.take(bytes)) {
            if delivery.qos == Qos::AtMostOnce || inner.settings.overflow == Overflow::DropNewest {
                return (Posted::Dropped, false);
            }
            match self.drop_oldest(&mut inner, bytes) {
                Some(dropped) => posted = Posted::DroppedOldest(dropped),
                None => return (Posted::Dropped, false),
            }
        }
        inner.bytes += bytes;
        inner.queue.push_back(delivery);
        let wake = inner.attached && !inner.scheduled;
        inner.scheduled |= inner.attached;
        (posted, wake)
    }

    /// Drops the oldest messages until there is room for `bytes` more, and takes that from the
    /// budget: how many went. `None`: there is no room.
    fn drop_oldest(&self, inner: &mut Inner, bytes: u64) -> Option<usize> {
        // What would not fit into the empty mailbox does not drive the others out.
        if bytes > inner.settings.bytes_max || !self.budget.would_have_room(bytes, inner.bytes) {
            return None;
        }
        let mut dropped = 0;
        while let Some(oldest) = inner.queue.pop_front() {
            let freed = oldest.message.bytes();
            inner.bytes -= freed;
            self.budget.give_back(1, freed);
            dropped += 1;
            if inner.has_room(bytes) && self.budget.take(bytes) {
                return Some(dropped);
            }
        }
        None
    }

    /// Sends the connection a signal. A close is not overwritten by anything later.
    pub fn signal(&self, signal: Signal) {
        let waker = {
            let mut inner = self.inner.lock();
            if !inner.attached || matches!(inner.signal, Some(Signal::Close(_))) {
                return;
            }
            inner.signal = Some(signal);
            inner.scheduled = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what may be sent now, in order, into `into`: at most `count_max` messages, about
    /// `bytes_max` bytes, and no more QoS 1 and 2 messages than `room`. When that is none,
    /// `waker` is kept for the next post or signal; else it is for the caller to come again.
    /// Returns the signal, once.
    pub fn take(
        &self,
        mut room: u16,
        count_max: usize,
        bytes_max: u64,
        waker: &Waker,
        into: &mut Vec<Delivery>,
    ) -> Option<Signal> {
        let mut inner = self.inner.lock();
        let (mut count, mut bytes) = (0, 0);
        while count < count_max && bytes < bytes_max {
            let Some(front) = inner.queue.front() else { break };
            if front.qos != Qos::AtMostOnce {
                if room == 0 {
                    break;
                }
                room -= 1;
            }
            count += 1;
            bytes += front.message.bytes();
            into.extend(inner.queue.pop_front());
        }
        inner.bytes -= bytes;
        self.budget.give_back(count as u64, bytes);
        if count == 0 {
            inner.scheduled = false;
            if inner.queue.is_empty() && inner.queue.capacity() > 64 {
                inner.queue = VecDeque::new();
            }
            match &mut inner.waker {
                Some(kept) => kept.clone_from(waker),
                None => inner.waker = Some(waker.clone()),
            }
        }
        inner.signal.take()
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().queue.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all that came through subscriptions for which `through` says so.
    pub fn extract(&self, through: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut inner = self.inner.lock();
        let mut taken = Vec::new();
        let mut kept = VecDeque::with_capacity(inner.queue.len());
        let mut bytes = 0;
        for delivery in std::mem::take(&mut inner.queue) {
            if through(&delivery) {
                bytes += delivery.message.bytes();
                taken.push(delivery);
            } else {
                kept.push_back(delivery);
            }
        }
        inner.queue = kept;
        inner.bytes -= bytes;
        self.budget.give_back(taken.len() as u64, bytes);
        taken
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.budget.give_back(inner.queue.len() as u64, inner.bytes);
    }
}

/// The connections to wake at the end of a publisher's batch, each once.
#[derive(Debug, Default)]
pub struct Wakes(Vec<Arc<Peer>>);

impl Wakes {
    /// Posts a delivery to a peer and remembers to wake it.
    pub(super) fn post(&mut self, peer: &Arc<Peer>, delivery: Delivery) -> Posted {
        let (posted, wake) = peer.mailbox.post(delivery);
        if wake {
            self.0.push(Arc::clone(peer));
        }
        posted
    }

    /// Wakes them.
    pub fn wake_all(&mut self) {
        for peer in self.0.drain(..) {
            let waker = peer.mailbox.inner.lock().waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        if self.0.capacity() > 1024 {
            self.0 = Vec::new();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake_all();
    }
}

#[cfg(test)]
mod tests;
