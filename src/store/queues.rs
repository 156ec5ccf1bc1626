//! Which pages each session's queue has on disk, and how far it is done with.
//!
//! The writer changes it, the reader looks pages up in it: a queue is read by the keys of its
//! pages, never by a search that would go over what was removed before.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::page::PageRef;
use super::{Durability, SessionNo};

/// The queues of all sessions. A session that is not here does not exist.
#[derive(Debug, Default)]
pub(super) struct Queues(HashMap<SessionNo, Queue, ahash::RandomState>);

/// The queue of one session.
#[derive(Debug)]
pub(super) struct Queue {
    /// What is promised of it.
    pub(super) durability: Durability,
    /// In order, without overlap.
    pub(super) pages: VecDeque<PageRef>,
    /// Everything up to here is done with.
    pub(super) finished: u64,
    /// The highest sequence number that there was.
    pub(super) highest: u64,
    /// Above `finished`: deliveries whose message is never sent again.
    pub(super) released: BTreeSet<u64>,
    /// Above `finished`: those that were dropped, as runs of numbers: the first and the last.
    /// What is under way lies before or between them.
    pub(super) dropped: BTreeMap<u64, u64>,
}

/// Where to read on in a queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The keys of pages that may have what is wanted, by their first and last number.
    pub(super) pages: Vec<(u64, u64)>,
    pub(super) finished: u64,
    pub(super) released: BTreeSet<u64>,
}

/// Pages that are looked up at a time.
const PAGES_MAX: usize = 16;

impl Queues {
    /// Makes a session known, and what is promised of it.
    pub(super) fn begin(&mut self, number: SessionNo, durability: Durability) {
        self.0.entry(number).or_default().durability = durability;
    }

    /// Forgets a session, and says what it had.
    pub(super) fn end(&mut self, number: SessionNo) -> Option<Queue> {
        self.0.remove(&number)
    }

    pub(super) fn queue(&mut self, number: SessionNo) -> Option<&mut Queue> {
        self.0.get_mut(&number)
    }

    /// True when this delivery is not to be sent any more.
    pub(super) fn is_done(&self, number: SessionNo, seq: u64) -> bool {
        self.0.get(&number).is_none_or(|queue| queue.is_done(seq))
    }

    /// Pages of all queues.
    pub(super) fn pages(&self) -> u64 {
        self.0.values().map(|queue| queue.pages.len() as u64).sum()
    }

    /// The next pages of a queue from this number on; `None` when there is no such session.
    pub(super) fn place(&self, number: SessionNo, from: u64) -> Option<Place> {
        let queue = self.0.get(&number)?;
        let from = from.max(queue.finished.saturating_add(1));
        let start = queue.pages.partition_point(|page| page.last < from);
        let pages = queue.pages.range(start..).take(PAGES_MAX);
        Some(Place {
            pages: pages.map(|page| (page.first, page.last)).collect(),
            finished: queue.finished,
            released: queue.released.clone(),
        })
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            pages: VecDeque::new(),
            finished: 0,
            highest: 0,
            released: BTreeSet::new(),
            dropped: BTreeMap::new(),
        }
    }
}

impl Queue {
    /// True when this delivery is not to be sent any more.
    pub(super) fn is_done(&self, seq: u64) -> bool {
        let run = self.dropped.range(..=seq).next_back();
        seq <= self.finished
            || self.released.contains(&seq)
            || run.is_some_and(|(_, last)| seq <= *last)
    }

    /// Takes down that a delivery was dropped, and says which pages are to go.
    pub(super) fn drop(&mut self, seq: u64) -> Vec<PageRef> {
        self.highest = self.highest.max(seq);
        if self.is_done(seq) {
            return Vec::new();
        }
        if seq == self.finished.saturating_add(1) {
            return self.finish(seq).0;
        }
        let last = self.dropped.remove(&seq.saturating_add(1)).unwrap_or(seq);
        let before = self.dropped.range_mut(..seq).next_back();
        let first = match before.filter(|(_, last)| last.saturating_add(1) == seq) {
            Some((first, before)) => {
                *before = last;
                *first
            }
            None => {
                self.dropped.insert(seq, last);
                seq
            }
        };
        let from = self.pages.partition_point(|page| page.first < first);
        let to = self.pages.partition_point(|page| page.last <= last);
        if from < to { self.pages.drain(from..to).collect() } else { Vec::new() }
    }

    /// Takes down that everything up to here is done with. Says which pages are to go, and which
    /// numbers are released no more.
    pub(super) fn finish(&mut self, up_to: u64) -> (Vec<PageRef>, Vec<u64>) {
        if up_to <= self.finished {
            return (Vec::new(), Vec::new());
        }
        let mut up_to = up_to;
        while let Some(run) = self.dropped.first_entry()
            && *run.key() <= up_to.saturating_add(1)
        {
            up_to = up_to.max(run.remove());
        }
        self.finished = up_to;
        self.highest = self.highest.max(up_to);
        let done = self.pages.partition_point(|page| page.last <= up_to);
        let later = self.released.split_off(&up_to.saturating_add(1));
        let released = std::mem::replace(&mut self.released, later);
        (self.pages.drain(..done).collect(), released.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(first: u64, last: u64) -> PageRef {
        PageRef { first, last, bodies: Box::default() }
    }

    #[test]
    fn a_page_goes_when_all_in_it_and_before_it_is_finished() {
        let mut queue = Queue::default();
        queue.pages.extend([page(1, 3), page(4, 4), page(7, 9)]);
        queue.released.extend([2, 8]);
        assert_eq!(queue.finish(2), (vec![], vec![2]));
        assert!(queue.is_done(2) && !queue.is_done(3) && queue.is_done(8));
        assert_eq!(queue.finish(8), (vec![page(1, 3), page(4, 4)], vec![8]));
        assert_eq!(queue.finish(5), (vec![], vec![]));
        assert_eq!(queue.finish(9), (vec![page(7, 9)], vec![]));
        assert_eq!(queue.highest, 9);
    }

    #[test]
    fn what_was_dropped_goes_though_something_before_it_is_under_way() {
        let mut queue = Queue::default();
        queue.pages.extend([page(1, 3), page(4, 5), page(6, 6), page(7, 9)]);
        assert_eq!(queue.finish(2), (vec![], vec![]));
        assert_eq!(queue.drop(4), vec![]);
        assert_eq!(queue.drop(5), vec![page(4, 5)]);
        assert_eq!(queue.drop(6), vec![page(6, 6)]);
        assert!(!queue.is_done(3) && queue.is_done(5) && !queue.is_done(7));
        assert_eq!(queue.finish(3), (vec![page(1, 3)], vec![]));
        assert_eq!((queue.finished, queue.dropped.len()), (6, 0));
        assert_eq!(queue.drop(7), vec![]);
        assert_eq!(queue.finished, 7);
    }

    #[test]
    fn what_lies_between_two_that_were_dropped_is_not() {
        let mut queue = Queue::default();
        queue.pages.extend([page(1, 1), page(2, 2), page(3, 3), page(4, 4), page(5, 5)]);
        assert_eq!(queue.drop(2), vec![page(2, 2)]);
        assert_eq!(queue.drop(5), vec![page(5, 5)]);
        assert!(queue.is_done(2) && !queue.is_done(3) && !queue.is_done(4) && queue.is_done(5));
        assert_eq!(queue.drop(4), vec![page(4, 4)]);
        assert!(!queue.is_done(3));
        assert_eq!(queue.finish(1), (vec![page(1, 1)], vec![]));
        assert_eq!(queue.finished, 2);
        assert_eq!(queue.finish(3), (vec![page(3, 3)], vec![]));
        assert_eq!((queue.finished, queue.dropped.len()), (5, 0));
    }

    #[test]
    fn a_queue_is_read_from_the_page_that_holds_the_number() {
        let (mut queues, number) = (Queues::default(), SessionNo(1));
        assert_eq!(queues.place(number, 1), None);
        queues.begin(number, Durability::Fsync);
        let queue = queues.queue(number).unwrap();
        queue.pages.extend([page(1, 3), page(4, 4), page(7, 9)]);
        queue.finished = 2;
        let pages = |from| queues.place(number, from).unwrap().pages;
        assert_eq!(pages(1), [(1, 3), (4, 4), (7, 9)]);
        assert_eq!(pages(4), [(4, 4), (7, 9)]);
        assert_eq!(pages(5), [(7, 9)]);
        assert_eq!(pages(10), []);
    }
}
