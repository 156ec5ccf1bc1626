//! The part of a durable session's queue that is in the store alone.
//!
//! Its messages come after those in memory. While it is not empty, whatever arrives goes there
//! too, so that the order stays; the connection reads ahead, part after part, until it has caught
//! up.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::{Delivery, Page, Peer, Seq, StoreError};
use crate::store::{Change, Commit, SessionNo, Store, UnderWay};

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
        let gone = |_| StoreError::Failed { doing: "read the store", error: "it is closed".into() };
        told.await.map_err(gone)?
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

#[derive(Debug)]
pub(super) struct Backlog {
    durable: Durable,
    /// The number of the next delivery.
    next: Seq,
    /// The number of the first of `sizes`.
    first: Seq,
    /// The bytes of each message, in order; `None` where a number has no message any more.
    sizes: VecDeque<Option<u32>>,
    messages: usize,
    bytes: u64,
    /// All that was enqueued so far is on disk once this is done.
    commit: Commit,
    /// A part is on its way.
    reading: bool,
}

impl Backlog {
    pub(super) fn new(durable: Durable, waiting: &[(Seq, u32)], next: Seq) -> Self {
        let first = waiting.first().map_or(next, |(first, _)| *first);
        let mut backlog = Self {
            durable,
            next,
            first,
            sizes: VecDeque::new(),
            messages: 0,
            bytes: 0,
            commit: Commit::default(),
            reading: false,
        };
        for (seq, bytes) in waiting {
            backlog.push(*seq, *bytes);
        }
        backlog
    }

    /// Messages, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.messages, self.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sizes.is_empty()
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
        } else {
            self.push(seq, u32::try_from(delivery.message.bytes()).unwrap_or(u32::MAX));
        }
        self.commit
    }

    fn push(&mut self, seq: Seq, bytes: u32) {
        // The last numbers before it may be without a message too.
        if self.is_empty() {
            self.first = seq;
        }
        while self.end() < seq {
            self.sizes.push_back(None);
        }
        self.sizes.push_back(Some(bytes));
        self.messages += 1;
        self.bytes += u64::from(bytes);
    }

    /// The number after the last.
    fn end(&self) -> Seq {
        self.first.after(self.sizes.len() as u64)
    }

    /// Takes the first number off. `false`: there was no message behind it.
    fn pop(&mut self) -> bool {
        let Some(size) = self.sizes.pop_front() else { return false };
        self.first = self.first.after(1);
        if let Some(bytes) = size {
            self.messages -= 1;
            self.bytes -= u64::from(bytes);
        }
        size.is_some()
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
        let stored = queue.iter().rev().filter_map(|delivery| {
            Some((delivery.seq?, u32::try_from(delivery.message.bytes()).unwrap_or(u32::MAX)))
        });
        for (seq, bytes) in stored {
            self.put_first(seq, bytes);
        }
    }

    /// A message in the store waits again, which comes before all others that do.
    pub(super) fn put_first(&mut self, seq: Seq, bytes: u32) {
        while seq.after(1) < self.first {
            self.sizes.push_front(None);
            self.first = self.first.before().unwrap_or(Seq::FIRST);
        }
        self.sizes.push_front(Some(bytes));
        self.first = seq;
        self.messages += 1;
        self.bytes += u64::from(bytes);
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

    /// Asks for the next part, unless `waiting` messages in memory are enough for now.
    pub(super) fn read_ahead(&mut self, waiting: usize) {
        if self.reading || self.is_empty() || waiting >= READ_BELOW {
            return;
        }
        self.reading = true;
        let Durable { store, session, peer } = &self.durable;
        let (peer, from) = (Weak::clone(peer), self.first);
        store.read(*session, from, self.commit, READ_MOST, move |page| {
            if let Some(peer) = peer.upgrade() {
                peer.mailbox.put_back(from, page);
            }
        });
        store.flush();
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
