//! Routes: who gets the messages of a topic, computed once and kept by each publisher until a
//! subscription changes that could matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::shared::Group;
use super::{Peer, Router};
use crate::mqtt::packet::Qos;
use crate::mqtt::{TopicFilter, TopicName};
use crate::session::{Message, Subscription, Via};

/// One client on a route.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) peer: Arc<Peer>,
    pub(super) via: Arc<Via>,
    /// The highest QoS among its matching subscriptions [MQTT-3.3.4-2].
    pub(super) qos: Qos,
    pub(super) retain_as_published: bool,
}

/// Who gets the messages of one topic.
#[derive(Debug, Default)]
pub(super) struct Route {
    pub(super) targets: Vec<Target>,
    pub(super) groups: Vec<Arc<Group>>,
    /// Some subscription matches, if only a no-local one of the publisher's own.
    pub(super) matched: bool,
}

impl Route {
    /// Matches a topic. A client with several matching subscriptions gets one delivery with the
    /// highest QoS and all their identifiers; its no-local ones do not count for its own
    /// messages [MQTT-3.8.3-3].
    fn compute(router: &Router, topic: &str, from: Option<&Arc<Peer>>) -> Self {
        let mut matches: Vec<(Arc<Peer>, Arc<Subscription>)> = Vec::new();
        let mut groups = Vec::new();
        let mut matched = false;
        let mut entry = |entry: &super::Entry| {
            matched = true;
            let own = from.is_some_and(|from| Arc::ptr_eq(from, &entry.peer));
            if !(own && entry.subscription.options.no_local) {
                matches.push((Arc::clone(&entry.peer), Arc::clone(&entry.subscription)));
            }
        };
        router.filters.read().matching(topic, &mut entry, &mut |group| {
            groups.push(Arc::clone(group));
        });
        matches.sort_by_key(|(peer, _)| Arc::as_ptr(peer).addr());
        let mut targets: Vec<Target> = Vec::new();
        for same in matches.chunk_by(|a, b| Arc::ptr_eq(&a.0, &b.0)) {
            let Some((peer, _)) = same.first() else { continue };
            let subscriptions: SmallVec<[Arc<Subscription>; 1]> =
                same.iter().map(|(_, subscription)| Arc::clone(subscription)).collect();
            let ids = subscriptions
                .iter()
                .filter_map(|one| one.options.id.map(std::num::NonZeroU32::get));
            let ids = ids.collect();
            let qos =
                subscriptions.iter().map(|one| one.options.qos).max().unwrap_or(Qos::AtMostOnce);
            let retain_as_published =
                subscriptions.iter().any(|one| one.options.retain_as_published);
            let via = Arc::new(Via { subscriptions, ids });
            targets.push(Target { peer: Arc::clone(peer), via, qos, retain_as_published });
        }
        matched |= !groups.is_empty();
        Self { targets, groups, matched }
    }
}

impl Route {
    /// True when the message would go to the disk: it is to be retained, or some durable session
    /// gets it with a QoS above 0.
    pub(super) fn is_written(&self, message: &Message) -> bool {
        let keeps = message.retain && !message.payload.is_empty();
        let is_queued = |qos: Qos, peer: &Peer| {
            qos.min(message.qos) != Qos::AtMostOnce && peer.durable().is_some()
        };
        keeps
            || self.targets.iter().any(|target| is_queued(target.qos, &target.peer))
            || self.groups.iter().any(|group| group.any(is_queued))
    }

    /// Whoever has a message refused that would wait for a session that is full.
    pub(super) fn refused_by(&self, message: &Message) -> Option<Arc<Peer>> {
        if message.qos == Qos::AtMostOnce {
            return None;
        }
        let mut targets = self.targets.iter().filter(|one| one.qos != Qos::AtMostOnce);
        let full = targets.find(|one| one.peer.mailbox.refuses()).map(|one| Arc::clone(&one.peer));
        full.or_else(|| self.groups.iter().find_map(|group| group.refused_by()))
    }
}

/// A state of the part of the tree that a topic can match in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteEpoch {
    bucket: u64,
    wildcard: u64,
}

const BUCKETS: usize = 256;

/// Counters of changes: one per bucket of first levels, one for filters that begin with a
/// wildcard.
#[derive(Debug)]
pub(super) struct Epochs {
    buckets: Box<[AtomicU64]>,
    wildcard: AtomicU64,
    hasher: ahash::RandomState,
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            buckets: std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect(),
            wildcard: AtomicU64::default(),
            hasher: ahash::RandomState::new(),
        }
    }
}

impl Epochs {
    /// A subscription with this filter came or went: to be called after the tree has changed.
    pub(super) fn changed(&self, filter: &TopicFilter) {
        let counter = match first_level(filter.as_str()) {
            "+" | "#" => Some(&self.wildcard),
            level => self.bucket(level),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Release);
        }
    }

    /// To be read before the tree is matched: a change in between makes the route stale.
    pub(super) fn of(&self, topic: &str) -> RouteEpoch {
        let bucket = self.bucket(first_level(topic));
        RouteEpoch {
            bucket: bucket.map_or(0, |counter| counter.load(Ordering::Acquire)),
            wildcard: self.wildcard.load(Ordering::Acquire),
        }
    }

    fn bucket(&self, level: &str) -> Option<&AtomicU64> {
        let index = usize::try_from(self.hasher.hash_one(level) % BUCKETS as u64).ok()?;
        self.buckets.get(index)
    }
}

fn first_level(text: &str) -> &str {
    text.split('/').next().unwrap_or_default()
}

/// Topics per publisher whose routes are kept.
const ROUTES: usize = 16;

/// The routes of one publisher's recent topics: direct-mapped, made at the first publication.
#[derive(Debug, Default)]
pub struct RouteCache {
    slots: Option<Box<[Option<Slot>; ROUTES]>>,
}

#[derive(Debug)]
struct Slot {
    topic: TopicName,
    epoch: RouteEpoch,
    route: Arc<Route>,
}

impl RouteCache {
    /// Frees what can be made again.
    pub fn shed(&mut self) {
        self.slots = None;
    }

    pub(super) fn route(
        &mut self,
        router: &Router,
        topic: &TopicName,
        from: Option<&Arc<Peer>>,
    ) -> Arc<Route> {
        let epoch = router.epoch_of(topic.as_str());
        let slots = self.slots.get_or_insert_with(|| Box::new([const { None }; ROUTES]));
        let hash = router.epochs.hasher.hash_one(topic.as_str());
        let index = usize::try_from(hash % ROUTES as u64).unwrap_or(0);
        let Some(slot) = slots.get_mut(index) else {
            return Arc::new(Route::compute(router, topic.as_str(), from));
        };
        match slot {
            Some(kept)
                if kept.epoch == epoch && (kept.topic.same(topic) || kept.topic == *topic) =>
            {
                Arc::clone(&kept.route)
            }
            _ => {
                let route = Arc::new(Route::compute(router, topic.as_str(), from));
                *slot = Some(Slot { topic: topic.clone(), epoch, route: Arc::clone(&route) });
                route
            }
        }
    }
}
