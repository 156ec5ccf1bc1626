//! The part of a durable session's queue that is in the store alone.
//!
//! Its messages come after those in memory. While it is not empty, whatever arrives goes there
//! too, so that the order stays; the connection reads ahead, part after part, until it has caught
//! up.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::oneshot;

use super::quota::Size;
use super::{Delivery, Page, Peer, Seq, StoreError};
use crate::store::{Change, Commit, Expiry, SessionNo, Store, UnderWay, Waiting};

/// Messages that are read at a time, and about how many bytes.
const READ_MOST: (usize, u64) = (256, 128 * 1024);
/// With so many in memory, there is no need to read ahead.
const READ_BELOW: usize = 128;

/// A session's part of the store.
#[derive(Clone, Debug)]
pub struct Durable {
    store: Arc<Store>,
    session: SessionNo,
    /// Whose mailbox it is.
    peer: Weak<Peer>,
}

impl Durable {
    pub(in crate::router) fn new(store: Arc<Store>, session: SessionNo, peer: Weak<Peer>) -> Self {
        Self { store, session, peer }
    }

    /// The part of a session that nobody has a mailbox for.
    #[must_use]
    pub fn alone(store: Arc<Store>, session: SessionNo) -> Self {
        Self { store, session, peer: Weak::new() }
    }

    /// Takes a change of the session down.
    pub fn change(&self, change: impl FnOnce(SessionNo) -> Change) -> Commit {
        self.store.change(change(self.session))
    }

    /// Reads back what its connection had under way: everything in its queue before `before`.
    ///
    /// # Errors
    /// When the store cannot read it.
    pub(super) async fn under_way(
        &self,
        before: Seq,
        after: Commit,
    ) -> Result<UnderWay, StoreError> {
        let (found, told) = oneshot::channel();
        self.store.under_way(self.session, before, after, move |under_way| {
            // Nobody waits any more where the broker ends.
            let _ = found.send(under_way);
        });
        self.store.flush();
        told.await.map_err(gone)?
    }

    /// Reads a part of its queue, from `from` on; an empty one where there is nothing more.
    ///
    /// # Errors
    /// When the store cannot read it.
    pub async fn read(&self, from: Seq, after: Commit) -> Result<Page, StoreError> {
        let (found, told) = oneshot::channel();
        self.store.read(self.session, from, after, READ_MOST, move |page| {
            let _ = found.send(page);
        });
        self.store.flush();
        told.await.map_err(gone)?
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

/// Nobody answers any more.
fn gone(_: oneshot::error::RecvError) -> StoreError {
    StoreError::Failed { doing: "read the store", error: "it is closed".to_owned() }
}

#[derive(Debug)]
pub(super) struct Backlog {
    durable: Durable,
    /// The number of the next delivery.
    next: Seq,
    /// The number of the first of `sizes`.
    first: Seq,
    /// A slot for each number, in order. The first and the last have a message.
    slots: VecDeque<Slot>,
    /// No message expires before.
    earliest: Expiry,
    messages: usize,
    bytes: u64,
    /// What of it is counted for the whole broker.
    pub(super) counted: Size,
    /// All that was enqueued so far is on disk once this is done.
    commit: Commit,
    /// A part is on its way.
    reading: bool,
}

/// A number of the queue. A long queue has many: no more than eight bytes each.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Of the message.
    bytes: u32,
    /// `None`: it has no message any more.
    expiry: Option<Expiry>,
}

const GONE: Slot = Slot { bytes: 0, expiry: None };

impl Slot {
    fn is_gone(self) -> bool {
        self.expiry.is_none()
    }
}

impl Backlog {
    pub(super) fn new(durable: Durable, waiting: &[Waiting], next: Seq) -> Self {
        let first = waiting.first().map_or(next, |first| first.seq);
        let mut backlog = Self {
            durable,
            next,
            first,
            slots: VecDeque::new(),
            earliest: Expiry::NEVER,
            messages: 0,
            bytes: 0,
            counted: Size::default(),
            commit: Commit::default(),
            reading: false,
        };
        for waiting in waiting {
            backlog.push(waiting);
        }
        backlog
    }

    /// Messages, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.messages, self.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Gives a delivery its number and hands it to the store. It is part of the backlog unless
    /// it is kept in memory.
    pub(super) fn enqueue(&mut self, delivery: &mut Delivery, in_memory: bool) -> Commit {
        let seq = self.next;
        delivery.seq = Some(seq);
        self.next = seq.after(1);
        self.commit = self.durable.change(|session| Change::Enqueue(session, delivery.clone()));
        if in_memory {
            self.first = self.next;
        } else if let Some(waiting) = Waiting::of(delivery) {
            self.push(&waiting);
        }
        self.commit
    }

    fn push(&mut self, waiting: &Waiting) {
        // The last numbers before it may be without a message too.
        if self.is_empty() {
            self.first = waiting.seq;
        }
        while self.end() < waiting.seq {
            self.slots.push_back(GONE);
        }
        let slot = self.count(waiting);
        self.slots.push_back(slot);
    }

    /// One message more.
    fn count(&mut self, waiting: &Waiting) -> Slot {
        self.messages += 1;
        self.bytes += u64::from(waiting.bytes);
        self.earliest = self.earliest.min(waiting.expiry);
        Slot { bytes: waiting.bytes, expiry: Some(waiting.expiry) }
    }

    /// Drops what has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        if !self.earliest.has_passed(now) {
            return;
        }
        self.earliest = Expiry::NEVER;
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(at) else { break };
            let Some(expiry) = slot.expiry else { continue };
            if !expiry.has_passed(now) {
                self.earliest = self.earliest.min(expiry);
                continue;
            }
            self.messages -= 1;
            self.bytes -= u64::from(slot.bytes);
            *slot = GONE;
            self.dropped(self.first.after(at as u64));
        }
        while self.slots.pop_back_if(|slot| slot.is_gone()).is_some() {}
        while self.slots.pop_front_if(|slot| slot.is_gone()).is_some() {
            self.first = self.first.after(1);
        }
    }

    /// The number after the last.
    fn end(&self) -> Seq {
        self.first.after(self.slots.len() as u64)
    }

    /// Takes the first number off. `false`: there was no message behind it.
    fn pop(&mut self) -> bool {
        let Some(slot) = self.slots.pop_front() else { return false };
        self.first = self.first.after(1);
        if !slot.is_gone() {
            self.messages -= 1;
            self.bytes -= u64::from(slot.bytes);
        }
        !slot.is_gone()
    }

    /// Drops the first message. `None`: there is none.
    pub(super) fn drop_oldest(&mut self) -> Option<()> {
        while !self.is_empty() {
            let seq = self.first;
            if self.pop() {
                self.dropped(seq);
                return Some(());
            }
        }
        None
    }

    /// A message will not be delivered.
    pub(super) fn dropped(&self, seq: Seq) {
        self.durable.change(|session| Change::Dropped(session, seq));
    }

    /// What is in memory is in the store too: from now on only there.
    pub(super) fn take_back(&mut self, queue: &VecDeque<Delivery>) {
        self.reading = false;
        for waiting in queue.iter().rev().filter_map(Waiting::of) {
            self.put_first(&waiting);
        }
    }

    /// A message in the store waits again, which comes before all others that do.
    pub(super) fn put_first(&mut self, waiting: &Waiting) {
        while waiting.seq.after(1) < self.first && !self.is_empty() {
            self.slots.push_front(GONE);
            self.first = self.first.before().unwrap_or(Seq::FIRST);
        }
        let slot = self.count(waiting);
        self.slots.push_front(slot);
        self.first = waiting.seq;
    }

    /// The number before which everything was taken out.
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    /// The first and the last that wait, and the number of the next.
    pub(super) fn ends(&self) -> (Option<(Seq, Seq)>, Seq) {
        let last = self.end().before().filter(|_| !self.is_empty());
        (last.map(|last| (self.first, last)), self.next)
    }

    /// The next part to ask for, unless `waiting` messages in memory are enough for now.
    pub(super) fn read_ahead(&mut self, waiting: usize) -> Option<ReadAhead> {
        if self.reading || self.is_empty() || waiting >= READ_BELOW {
            return None;
        }
        self.reading = true;
        Some(ReadAhead { durable: self.durable.clone(), from: self.first, after: self.commit })
    }

    /// The part from `from` on has come, or cannot be read. `false`: it was for an earlier
    /// connection.
    pub(super) fn came(&mut self, from: Seq) -> bool {
        let is_ours = self.reading && from <= self.first;
        self.reading &= !is_ours;
        is_ours
    }

    /// What of a part still waits. What is missing in it has expired, and is dropped.
    pub(super) fn advance(&mut self, page: Page) -> impl Iterator<Item = Delivery> + use<> {
        let first = self.first;
        let mut there = page.deliveries.iter().filter_map(|delivery| delivery.seq).peekable();
        while there.next_if(|seq| *seq < first).is_some() {}
        while self.first < page.next && !self.is_empty() {
            let seq = self.first;
            let is_there = there.next_if_eq(&seq).is_some();
            if self.pop() && !is_there {
                self.dropped(seq);
            }
        }
        page.deliveries.into_iter().filter(move |delivery| delivery.seq >= Some(first))
    }
}

/// A part of the backlog that is to be asked for.
pub(super) struct ReadAhead {
    durable: Durable,
    from: Seq,
    after: Commit,
}

impl ReadAhead {
    /// Asks for it. A store that has ended answers at once: not with the mailbox locked.
    pub(super) fn ask(self) {
        let Self { durable: Durable { store, session, peer }, from, after } = self;
        store.read(session, from, after, READ_MOST, move |page| {
            if let Some(peer) = peer.upgrade() {
                peer.mailbox.put_back(from, page);
            }
        });
        store.flush();
    }
}
