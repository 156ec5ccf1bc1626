//! What waits for one client: bounded in count and bytes, filled by publishers, drained by the
//! client's own connection.
//!
//! A publisher handles its whole read buffer, posts to each mailbox, and wakes each connection
//! once at the end, through [`Wakes`]; a connection that is scheduled already is not woken.
//!
//! What waits with QoS 1 or 2 for a durable session is in the store as well, and without a
//! connection only there: see [`backlog`].

mod backlog;
mod budget;
mod expiry;
mod quota;
mod room;
mod wakes;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Peer;
use crate::mqtt::ReasonCode;
use crate::mqtt::packet::{PacketId, Qos};
pub use crate::session::Overflow;
use crate::session::{Delivery, Seq};
use crate::store::{Commit, Durability, Page, StoreError, UnderWay, Waiting};

use backlog::Backlog;
pub use backlog::Durable;
pub use budget::Budget;
use expiry::earlier;
use quota::Size;
pub use quota::{Quota, Quotas};
pub use wakes::Wakes;

/// Bounds of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages waiting.
    pub messages_max: u32,
    /// Bytes waiting: topics, payloads and properties.
    pub bytes_max: u64,
    /// Messages waiting for all sessions of the principal together while nobody takes them.
    pub principal_messages_max: u32,
    /// Their bytes.
    pub principal_bytes_max: u64,
    /// What happens to a QoS 1 or 2 message when it is full. A QoS 0 message that finds the
    /// mailbox full is always dropped itself.
    pub overflow: Overflow,
    /// What an acknowledgement promises of what waits for a session that outlives its connection,
    /// as far as the store does; `None`: nothing, it is in memory.
    pub durability: Option<Durability>,
}

/// Whether the publisher of a message can still be refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It was asked for whether there is room, and there was: a full mailbox that refuses takes it.
    Yes,
    /// It was not, or nobody can be told.
    No,
}

/// How often it is told of one session that messages are dropped.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// Bytes of a durable session's queue that are kept in memory as well while it is connected.
const MEMORY_BYTES: u64 = 256 * 1024;

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

/// What a post leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub(super) posted: Posted,
    /// The caller has to wake the connection.
    wake: bool,
    /// Messages are dropped, and nobody was told for a while.
    tell: bool,
    /// The delivery is on disk once this is done.
    pub(super) commit: Option<Commit>,
}

impl Receipt {
    pub(super) const fn without(posted: Posted) -> Self {
        Self { posted, wake: false, tell: false, commit: None }
    }
}

/// What a session is made of again after its connection was lost together with its state.
#[derive(Debug)]
pub struct Recalled {
    /// QoS 2 publications of the client that wait for PUBREL, in order.
    pub held: Vec<PacketId>,
    /// Deliveries for which PUBREC came, in order.
    pub released: Vec<Seq>,
    /// The first and last of the deliveries that wait.
    pub waiting: Option<(Seq, Seq)>,
    /// The number of the next delivery.
    pub next: Seq,
}

/// How much a connection takes at a time.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// QoS 1 and 2 messages.
    pub room: u16,
    /// Of a durable session's queue nothing from here on.
    pub before: Option<Seq>,
    /// Messages.
    pub messages: usize,
    /// About so many bytes.
    pub bytes: u64,
}

impl Most {
    /// Nothing: for the signal alone.
    pub const NONE: Self = Self { room: 0, before: None, messages: 0, bytes: 0 };
}

/// The mailbox of one session.
#[derive(Debug)]
pub struct Mailbox {
    inner: Mutex<Inner>,
    /// A full mailbox refuses publishers: for who asks every mailbox of a route.
    may_refuse: AtomicBool,
    budget: Arc<Budget>,
    quota: Arc<Quota>,
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
    /// What waits in the store alone, behind the queue.
    backlog: Option<Box<Backlog>>,
    /// What of it counts for the quota.
    counted: Size,
    /// Nothing in the queue expires before; `None`: nothing does.
    expires_at: Option<Instant>,
    /// When the queue was last looked through for what has expired.
    expired_at: Option<Instant>,
    /// When it was last told that messages are dropped.
    told_at: Option<Instant>,
}

impl Inner {
    /// What waits and nobody is taking.
    fn resting(&self) -> Size {
        let (mut messages, mut bytes) =
            self.backlog.as_ref().map_or((0, 0), |backlog| backlog.size());
        if !self.attached {
            messages += self.queue.len();
            bytes += self.bytes;
        }
        Size { messages: messages as u64, bytes }
    }

    /// A message is dropped: whether somebody has to be told.
    fn tell(&mut self) -> bool {
        let now = Instant::now();
        let again = self.told_at.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        if again {
            self.told_at = Some(now);
        }
        again
    }

    /// Undertakes to wake the connection, if it has to be.
    fn schedule(&mut self) -> bool {
        let wake = self.attached && !self.scheduled;
        self.scheduled |= self.attached;
        wake
    }
}

impl Mailbox {
    /// An empty mailbox without a connection.
    #[must_use]
    pub fn new(settings: Arc<Settings>, budget: Arc<Budget>, quota: Arc<Quota>) -> Self {
        let may_refuse = AtomicBool::new(settings.overflow == Overflow::RefusePublisher);
        let inner = Inner {
            queue: VecDeque::new(),
            bytes: 0,
            settings,
            waker: None,
            attached: false,
            scheduled: false,
            ended: false,
            signal: None,
            backlog: None,
            counted: Size::default(),
            expires_at: None,
            expired_at: None,
            told_at: None,
        };
        Self { inner: Mutex::new(inner), may_refuse, budget, quota }
    }

    /// Has the quota know what of it counts. After every change to what waits.
    fn settle(&self, inner: &mut Inner) {
        let resting = inner.resting();
        if resting != inner.counted {
            self.quota.moved(inner.counted, resting);
            inner.counted = resting;
        }
        if let Some(backlog) = &mut inner.backlog {
            let (messages, bytes) = backlog.size();
            let stored = Size { messages: messages as u64, bytes };
            if stored != backlog.counted {
                self.budget.stored(backlog.counted, stored);
                backlog.counted = stored;
            }
        }
    }

    /// From now on what waits is kept in the store; `waiting` is there already.
    pub(super) fn make_durable(&self, durable: Durable, waiting: &[Waiting], next: Seq) {
        let backlog = Backlog::new(durable, waiting, next);
        let mut inner = self.inner.lock();
        inner.backlog = Some(Box::new(backlog));
        self.settle(&mut inner);
    }

    /// The bounds in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.inner.lock().settings)
    }

    /// A connection begins to drain the mailbox, under these bounds.
    pub fn attach(&self, settings: Arc<Settings>) {
        let mut inner = self.inner.lock();
        let may_refuse = settings.overflow == Overflow::RefusePublisher;
        self.may_refuse.store(may_refuse, Ordering::Relaxed);
        inner.settings = settings;
        inner.attached = true;
        inner.scheduled = true;
        inner.waker = None;
        inner.signal = None;
        self.settle(&mut inner);
    }

    /// The connection is gone. What waits with QoS 0 goes with it [MQTT-3.1.2-5], what is in the
    /// store is only there.
    pub fn detach(&self) {
        let mut inner = self.inner.lock();
        let Inner { queue, backlog, .. } = &mut *inner;
        if let Some(backlog) = backlog {
            backlog.take_back(queue);
        }
        inner.attached = false;
        inner.scheduled = false;
        inner.waker = None;
        let before = (inner.queue.len(), inner.bytes);
        inner.queue.retain(|delivery| delivery.qos != Qos::AtMostOnce && delivery.seq.is_none());
        inner.bytes = inner.queue.iter().map(|delivery| delivery.message.bytes()).sum();
        self.budget.give_back((before.0 - inner.queue.len()) as u64, before.1 - inner.bytes);
        inner.queue.shrink_to_fit();
        self.settle(&mut inner);
    }

    /// Of a durable session whose connection is gone, and with it what it had under way: reads that
    /// back, once `after` is done. What was not acknowledged waits again.
    ///
    /// # Errors
    /// When the store cannot read it.
    pub async fn recall(&self, durable: &Durable, after: Commit) -> Result<Recalled, StoreError> {
        let first = self.inner.lock().backlog.as_ref().map(|backlog| backlog.first());
        let UnderWay { held, released, waiting } =
            durable.under_way(first.unwrap_or(Seq::FIRST), after).await?;
        let mut inner = self.inner.lock();
        let Some(backlog) = &mut inner.backlog else {
            return Ok(Recalled { held, released, waiting: None, next: Seq::FIRST });
        };
        for waiting in waiting.iter().rev() {
            backlog.put_first(waiting);
        }
        let (waiting, next) = backlog.ends();
        self.settle(&mut inner);
        Ok(Recalled { held, released, waiting, next })
    }

    /// The session is over, or about to be: what waits is dropped at once, whoever still holds
    /// the mailbox, and nothing is put in any more. Returns from where on the store has something.
    pub fn end(&self) -> Option<Seq> {
        let mut inner = self.inner.lock();
        inner.ended = true;
        let backlog = inner.backlog.take();
        let counted = backlog.as_ref().map_or(Size::default(), |backlog| backlog.counted);
        self.budget.stored(counted, Size::default());
        let stored = backlog.and_then(|backlog| Some(backlog.ends().0?.0));
        let (messages, bytes) = (inner.queue.len() as u64, inner.bytes);
        inner.queue = VecDeque::new();
        inner.bytes = 0;
        self.budget.give_back(messages, bytes);
        self.settle(&mut inner);
        stored
    }

    /// True while a connection is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.inner.lock().attached
    }

    /// Puts a delivery in.
    fn post(&self, delivery: Delivery, asked: Asked) -> Receipt {
        let mut inner = self.inner.lock();
        let receipt = self.put(&mut inner, delivery, asked);
        self.settle(&mut inner);
        receipt
    }

    fn put(&self, inner: &mut Inner, mut delivery: Delivery, asked: Asked) -> Receipt {
        let bytes = delivery.message.bytes();
        if inner.ended {
            return Receipt::without(Posted::Ended);
        }
        if !inner.attached && delivery.qos == Qos::AtMostOnce {
            return Receipt::without(Posted::Absent);
        }
        let durable = delivery.qos != Qos::AtMostOnce && inner.backlog.is_some();
        let (mut posted, mut tell) = (Posted::Queued, false);
        // Of the budget a durable one takes only where it is kept in memory as well.
        let mut fits = self.has_room(inner, bytes, durable) && (durable || self.budget.take(bytes));
        if !fits {
            self.expire_in(inner, Instant::now());
            fits = self.has_room(inner, bytes, durable) && (durable || self.budget.take(bytes));
        }
        if !fits {
            let overflow = match inner.settings.overflow {
                _ if delivery.qos == Qos::AtMostOnce => Overflow::DropNewest,
                Overflow::RefusePublisher if asked == Asked::No => Overflow::DropNewest,
                overflow => overflow,
            };
            let dropped = match overflow {
                Overflow::DropNewest => None,
                Overflow::DropOldest => self.drop_oldest(inner, bytes, durable),
                // Others may have come between: more than the bound by as many as publish at once.
                Overflow::RefusePublisher if durable => Some(0),
                Overflow::RefusePublisher => self.budget.take(bytes).then_some(0),
            };
            tell = dropped != Some(0) && inner.tell();
            match dropped {
                Some(0) => {}
                Some(dropped) => posted = Posted::DroppedOldest(dropped),
                None => return Receipt { tell, ..Receipt::without(Posted::Dropped) },
            }
        }
        let mut commit = None;
        if let Some(backlog) = inner.backlog.as_mut().filter(|_| durable) {
            // In memory too where it can be sent at once; QoS 2 not before it is on disk: sent
            // and forgotten, its publisher would send it again.
            let at_once = inner.attached
                && delivery.qos == Qos::AtLeastOnce
                && backlog.is_empty()
                && inner.bytes < MEMORY_BYTES
                && self.budget.take(bytes);
            commit = Some(backlog.enqueue(&mut delivery, at_once));
            if !at_once {
                return Receipt { posted, wake: inner.schedule(), tell, commit };
            }
        }
        inner.bytes += bytes;
        inner.expires_at = earlier(inner.expires_at, delivery.message.expires_at);
        inner.queue.push_back(delivery);
        Receipt { posted, wake: inner.schedule(), tell, commit }
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

    /// Takes what may be sent now, in order, into `into`, as much as `most` says. When that is
    /// nothing, `waker` is kept for the next post or signal; else it is for the caller to come
    /// again. Returns the signal, once.
    pub fn take(&self, most: Most, waker: &Waker, into: &mut Vec<Delivery>) -> Option<Signal> {
        let mut inner = self.inner.lock();
        let (mut count, mut bytes) = (0, 0);
        let mut room = most.room;
        while count < most.messages && bytes < most.bytes {
            let Some(front) = inner.queue.front() else { break };
            if front.qos != Qos::AtMostOnce {
                let too_far = most.before.is_some_and(|end| front.seq >= Some(end));
                if room == 0 || too_far {
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
        self.settle(&mut inner);
        let waiting = inner.queue.len();
        let backlog = inner.backlog.as_mut().filter(|_| most.messages > 0);
        let ahead = backlog.and_then(|backlog| backlog.read_ahead(waiting));
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
        let signal = inner.signal.take();
        drop(inner);
        if let Some(ahead) = ahead {
            ahead.ask();
        }
        signal
    }

    /// A part of the backlog is in memory again, for the connection to take. Where it cannot be
    /// read the connection is closed: it stays as it is, and nothing is passed over.
    pub(super) fn put_back(&self, from: Seq, page: Result<Page, StoreError>) {
        let waker = {
            let mut inner = self.inner.lock();
            let Inner { queue, bytes, backlog, attached, signal, expires_at, .. } = &mut *inner;
            let Some(backlog) = backlog.as_mut().filter(|_| *attached) else { return };
            if !backlog.came(from) {
                return;
            }
            match page {
                Ok(page) => {
                    for delivery in backlog.advance(page) {
                        let more = delivery.message.bytes();
                        self.budget.add(more);
                        *bytes += more;
                        *expires_at = earlier(*expires_at, delivery.message.expires_at);
                        queue.push_back(delivery);
                    }
                }
                Err(error) => {
                    tracing::error!("a queue cannot be read: {error}");
                    *signal = Some(Signal::Close(ReasonCode::ImplementationSpecificError));
                }
            }
            inner.scheduled = true;
            self.settle(&mut inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.queue.len() + inner.backlog.as_ref().map_or(0, |backlog| backlog.size().0)
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
        self.settle(&mut inner);
        taken
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.budget.give_back(inner.queue.len() as u64, inner.bytes);
        self.quota.moved(inner.counted, Size::default());
        let stored = inner.backlog.as_ref().map_or(Size::default(), |backlog| backlog.counted);
        self.budget.stored(stored, Size::default());
    }
}

#[cfg(test)]
mod tests;
