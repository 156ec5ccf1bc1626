//! The subscriptions that stand at one place: of one filter, or in one share group.
//!
//! Nearly always they are few, and a list is all there is. Where a whole fleet subscribes to the
//! same filter, an index by peer keeps coming and going cheap.

use std::collections::HashMap;
use std::sync::Arc;

use super::Peer;
use crate::session::Subscription;

/// A subscription of a peer.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) peer: Arc<Peer>,
    pub(super) subscription: Arc<Subscription>,
}

impl Entry {
    fn key(&self) -> usize {
        Arc::as_ptr(&self.peer).addr()
    }
}

/// The number of entries from which they are found by index.
const INDEX_FROM: usize = 32;

/// At most one entry for each peer, in no particular order.
#[derive(Debug, Default)]
pub(super) struct Entries {
    list: Vec<Entry>,
    /// From the address of a peer, which an entry keeps alive, to its place in the list.
    index: Option<Box<Index>>,
}

#[derive(Debug)]
struct Index(HashMap<usize, usize, ahash::RandomState>);

impl Entries {
    pub(super) fn as_slice(&self) -> &[Entry] {
        &self.list
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Puts an entry in, in place of the same peer's; `true` when it is an additional one.
    pub(super) fn put(&mut self, entry: Entry) -> bool {
        let place = self.place(&entry.peer);
        if let Some(present) = place.and_then(|place| self.list.get_mut(place)) {
            *present = entry;
            return false;
        }
        if let Some(index) = &mut self.index {
            index.0.insert(entry.key(), self.list.len());
        }
        if self.list.is_empty() {
            self.list.reserve_exact(1);
        }
        self.list.push(entry);
        if self.index.is_none() && self.list.len() >= INDEX_FROM {
            let keys = self.list.iter().map(Entry::key);
            self.index = Some(Box::new(Index(keys.zip(0..).collect())));
        }
        true
    }

    /// Takes a peer's entry out; `true` when there was one.
    pub(super) fn remove(&mut self, peer: &Arc<Peer>) -> bool {
        let Some(place) = self.place(peer) else { return false };
        let removed = self.list.swap_remove(place);
        if let Some(index) = &mut self.index {
            index.0.remove(&removed.key());
            if let Some(moved) = self.list.get(place) {
                index.0.insert(moved.key(), place);
            }
        }
        if self.list.len() < INDEX_FROM / 2 {
            self.index = None;
        }
        if self.list.is_empty() || self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to_fit();
        }
        true
    }

    fn place(&self, peer: &Arc<Peer>) -> Option<usize> {
        match &self.index {
            Some(index) => index.0.get(&Arc::as_ptr(peer).addr()).copied(),
            None => self.list.iter().position(|entry| Arc::ptr_eq(&entry.peer, peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::SubscriptionFilter;
    use crate::mqtt::packet::Qos;
    use crate::router::tests::peer;
    use crate::session::SubscriptionOptions;

    fn entry(peer: &Arc<Peer>) -> Entry {
        let options = SubscriptionOptions {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
        };
        let filter = SubscriptionFilter::parse("a").unwrap();
        let subscription = Arc::new(Subscription::new(filter, options));
        Entry { peer: Arc::clone(peer), subscription }
    }

    #[test]
    fn many_are_found_replaced_and_removed_like_few() {
        let peers: Vec<_> = (0..200).map(|number| peer(&number.to_string())).collect();
        let mut entries = Entries::default();
        for peer in &peers {
            assert!(entries.put(entry(peer)));
            assert!(!entries.put(entry(peer)));
        }
        assert!(entries.index.is_some());
        for peer in peers.iter().step_by(3) {
            assert!(entries.remove(peer));
            assert!(!entries.remove(peer));
        }
        for (number, peer) in peers.iter().enumerate() {
            assert_eq!(entries.remove(peer), number % 3 != 0);
        }
        assert!(entries.is_empty() && entries.index.is_none());
        assert_eq!(entries.list.capacity(), 0);
    }
}
