//! One subscription of one session, and the set of them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mqtt::SubscriptionFilter;
use crate::mqtt::packet::Qos;

/// How the messages of a subscription are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The highest QoS.
    pub qos: Qos,
    /// Messages of this client itself are not delivered.
    pub no_local: bool,
    /// The retain flag is forwarded as it was published.
    pub retain_as_published: bool,
    /// The subscription identifier.
    pub id: Option<NonZeroU32>,
}

/// A subscription as granted. Immutable: subscribing again makes a new one.
#[derive(Debug)]
pub struct Subscription {
    /// The filter, perhaps shared.
    pub filter: SubscriptionFilter,
    /// How to deliver.
    pub options: SubscriptionOptions,
    /// The stamp under which every message of the filter is known to be receivable; 0 is none.
    cleared: AtomicU64,
}

/// Marks one connection under one policy epoch. What was decided under a stamp holds for no
/// other: a new connection and a new policy set both bring a new stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(std::num::NonZeroU64);

impl Stamp {
    /// The next stamp, different from all before.
    #[must_use]
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let value = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::num::NonZeroU64::new(value).unwrap_or(std::num::NonZeroU64::MAX))
    }

    /// The stamp as a number, never 0.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The stamp with this number; 0 is none.
    #[must_use]
    pub fn from_u64(number: u64) -> Option<Self> {
        std::num::NonZeroU64::new(number).map(Self)
    }
}

impl Subscription {
    /// A subscription of which nothing is known yet about what may be received through it.
    #[must_use]
    pub fn new(filter: SubscriptionFilter, options: SubscriptionOptions) -> Self {
        Self { filter, options, cleared: AtomicU64::new(0) }
    }

    /// Records that under this stamp every message through this subscription may be received.
    pub fn clear_under(&self, stamp: Stamp) {
        self.cleared.store(stamp.as_u64(), Ordering::Release);
    }

    /// True when every message through this subscription may be received under this stamp.
    /// Without a stamp nothing is.
    #[must_use]
    pub fn is_cleared_under(&self, stamp: Option<Stamp>) -> bool {
        stamp.is_some_and(|stamp| self.cleared.load(Ordering::Acquire) == stamp.as_u64())
    }
}

/// The subscriptions of one session. A client has few: a vector is smaller than a map, and
/// beyond [`INDEX_FROM`] of them a map takes over.
#[derive(Debug, Default)]
pub struct Subscriptions {
    list: Vec<Arc<Subscription>>,
    index: Option<Box<Index>>,
}

/// Filters to places in the list; behind a pointer, since most sessions have none.
#[derive(Debug)]
struct Index(HashMap<SubscriptionFilter, usize, ahash::RandomState>);

/// The number of subscriptions from which they are looked up by a map.
const INDEX_FROM: usize = 16;

impl Subscriptions {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.list.iter()
    }

    /// The subscription with exactly this filter.
    #[must_use]
    pub fn with_filter(&self, filter: &SubscriptionFilter) -> Option<&Arc<Subscription>> {
        self.list.get(self.position(filter)?)
    }

    /// Adds a subscription, or puts it in the place of the one with the same filter, which is
    /// returned.
    pub fn insert(&mut self, subscription: Arc<Subscription>) -> Option<Arc<Subscription>> {
        if let Some(position) = self.position(&subscription.filter) {
            let slot = self.list.get_mut(position)?;
            return Some(std::mem::replace(slot, subscription));
        }
        if let Some(index) = &mut self.index {
            index.0.insert(subscription.filter.clone(), self.list.len());
        }
        self.list.push(subscription);
        if self.index.is_none() && self.list.len() > INDEX_FROM {
            let filters = self.list.iter().map(|subscription| subscription.filter.clone());
            self.index = Some(Box::new(Index(filters.zip(0..).collect())));
        }
        None
    }

    /// Takes the subscription with exactly this filter away.
    pub fn remove(&mut self, filter: &SubscriptionFilter) -> Option<Arc<Subscription>> {
        let position = self.position(filter)?;
        let removed = self.list.swap_remove(position);
        if let Some(index) = &mut self.index {
            index.0.remove(filter);
            if let Some(moved) = self.list.get(position) {
                index.0.insert(moved.filter.clone(), position);
            }
        }
        Some(removed)
    }

    /// Takes all away.
    pub fn drain(&mut self) -> Vec<Arc<Subscription>> {
        self.index = None;
        std::mem::take(&mut self.list)
    }

    fn position(&self, filter: &SubscriptionFilter) -> Option<usize> {
        match &self.index {
            Some(index) => index.0.get(filter).copied(),
            None => self.list.iter().position(|subscription| subscription.filter == *filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(filter: &str) -> Arc<Subscription> {
        let filter = SubscriptionFilter::parse(filter).unwrap();
        let options = SubscriptionOptions {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
        };
        Arc::new(Subscription::new(filter, options))
    }

    #[test]
    fn many_subscriptions_are_found_and_removed_like_few() {
        let mut subscriptions = Subscriptions::default();
        for number in 0..100 {
            assert!(subscriptions.insert(subscription(&format!("a/{number}"))).is_none());
        }
        assert!(subscriptions.insert(subscription("a/7")).is_some());
        assert_eq!(subscriptions.len(), 100);
        for number in (0..100).step_by(2) {
            let filter = SubscriptionFilter::parse(&format!("a/{number}")).unwrap();
            assert!(subscriptions.remove(&filter).is_some());
            assert!(subscriptions.remove(&filter).is_none());
        }
        for number in 0..100 {
            let filter = SubscriptionFilter::parse(&format!("a/{number}")).unwrap();
            assert_eq!(subscriptions.with_filter(&filter).is_some(), number % 2 == 1);
        }
    }

    #[test]
    fn a_clearance_holds_under_its_own_stamp_only() {
        let subscription = subscription("a");
        assert!(!subscription.is_cleared_under(None));
        let stamp = Stamp::next();
        subscription.clear_under(stamp);
        assert!(subscription.is_cleared_under(Some(stamp)));
        assert!(!subscription.is_cleared_under(Some(Stamp::next())));
        assert!(!subscription.is_cleared_under(None));
    }
}
