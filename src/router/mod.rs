//! Where messages go: the subscription tree, retained messages, share groups, mailboxes.
//!
//! The router takes nothing but [`Permitted`] values: whoever publishes, be it a client, a will
//! or the broker itself, has passed the policy. It decides nothing about rights, with one
//! exception that needs both sides: the member of a share group is chosen among those that may
//! receive the message, as the caller's [`Judge`] says.

mod entries;
mod filters;
pub mod mailbox;
mod retained;
mod route;
mod shared;

use mailbox::Asked;
pub use mailbox::{Budget, Durable, Mailbox, Most, Posted, Quotas, Signal, Wakes};
pub use retained::{Cursor, Keeper, RetainedFull, Settings as RetainedSettings};
pub use route::RouteCache;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::identity::{Account, Identity};
use crate::mqtt::{ClientId, SubscriptionFilter};
use crate::policy::{Permitted, PolicyEpoch, SessionFacts};
use crate::session::{
    Delivery, Message, MessageId, Seq, Stamp, Subscription, SubscriptionOptions, Via,
};
use crate::store::{Change, Commit, Durability, SessionNo, Store, Waiting};

use entries::Entry;
use filters::Filters;
use mailbox::Receipt;
use retained::Retained;
use route::{Epochs, Route, RouteEpoch};
use shared::Group;

/// Says whether a peer may receive a message, for the choice within a share group.
pub type Judge<'a> = &'a dyn Fn(&Arc<Peer>, &Message) -> bool;

/// A session as the router sees it: a name, a mailbox, and who is judged when it receives.
#[derive(Debug)]
pub struct Peer {
    /// The client identifier.
    pub client_id: ClientId,
    /// What waits for it.
    pub mailbox: Mailbox,
    stamp: AtomicU64,
    standing: Mutex<Standing>,
    durable: OnceLock<Durable>,
}

/// Who a session is judged as: the facts of its present or last connection.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The principal.
    pub identity: Arc<Identity>,
    /// The facts of the connection.
    pub facts: Arc<SessionFacts>,
    /// For whom its retained messages count, as the profile of the connection says.
    pub keeper: Keeper,
}

impl Peer {
    /// A peer that is not connected yet.
    #[must_use]
    pub fn new(client_id: ClientId, mailbox: Mailbox, standing: Standing) -> Self {
        let (stamp, standing) = (AtomicU64::new(0), Mutex::new(standing));
        Self { client_id, mailbox, stamp, standing, durable: OnceLock::new() }
    }

    /// From now on the session is in the store; `waiting` is there already, and `next` the
    /// number of its next delivery. Only before its first delivery.
    pub fn make_durable(
        self: &Arc<Self>,
        store: Arc<Store>,
        session: SessionNo,
        waiting: &[Waiting],
        next: Seq,
    ) {
        let durable = Durable::new(store, session, Arc::downgrade(self));
        self.mailbox.make_durable(durable.clone(), waiting, next);
        let _ = self.durable.set(durable);
    }

    /// Its part of the store, if it is in the store.
    #[must_use]
    pub fn durable(&self) -> Option<&Durable> {
        self.durable.get()
    }

    /// What an acknowledgement promises of what waits for it; `None`: nothing.
    #[must_use]
    pub fn durability(&self) -> Option<Durability> {
        let promised = self.mailbox.settings().durability.unwrap_or(Durability::Os);
        self.durable().map(|durable| promised.min(durable.store().durability()))
    }

    /// The stamp of the present connection and policy epoch; `None` without a connection.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        Stamp::from_u64(self.stamp.load(Ordering::Acquire))
    }

    /// A connection, or a policy reload, brings a new stamp; `None` when the connection ends.
    pub fn set_stamp(&self, stamp: Option<Stamp>) {
        self.stamp.store(stamp.map_or(0, Stamp::as_u64), Ordering::Release);
    }

    /// Who the session is judged as.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// A new connection brings new facts.
    pub fn set_standing(&self, standing: Standing) {
        *self.standing.lock() = standing;
    }
}

/// Who publishes a message.
#[derive(Clone, Copy, Debug)]
pub enum Publisher<'a> {
    /// A session, on its connection.
    Session(&'a Arc<Peer>),
    /// Somebody who left a will.
    Gone(&'a Standing),
}

impl Publisher<'_> {
    fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Session(peer) => Some(peer),
            Self::Gone(_) => None,
        }
    }

    fn keeper(&self) -> Keeper {
        match self {
            Self::Session(peer) => peer.standing.lock().keeper.clone(),
            Self::Gone(standing) => standing.keeper.clone(),
        }
    }
}

/// How many members of a share group are tried for one message, when sessions end meanwhile.
const CHOICES_MAX: usize = 4;

/// Why a permitted message was not routed.
#[derive(Debug)]
pub enum Unrouted {
    /// The permit is of an older policy epoch: authorise the message again.
    Stale(Box<Message>),
    /// The message is to be retained and there is no room for it.
    RetainedFull(RetainedFull),
    /// The message would go to the disk, and there is hardly any room left.
    DiskFull,
    /// A session that it would wait for is full, and wants publishers to hear of it.
    QueueFull,
}

/// What routing a message did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Clients it was queued for.
    pub queued: usize,
    /// Messages that were dropped: this one, or older ones, where a mailbox was full; and this
    /// one where no member of a share group may receive it.
    pub dropped: usize,
    /// True when at least one subscription matched.
    pub matched: bool,
    /// All that is durable about it is on disk once this is done.
    pub commit: Option<Commit>,
}

/// The router of one broker.
#[derive(Debug)]
pub struct Router {
    filters: RwLock<Filters>,
    epochs: Epochs,
    retained: RwLock<Retained>,
    budget: Arc<Budget>,
    quotas: Quotas,
    next_message: AtomicU64,
    policy_epoch: AtomicU64,
    /// Where retained messages are kept.
    store: Option<Arc<Store>>,
}

impl Router {
    /// An empty router.
    #[must_use]
    pub fn new(
        retained: RetainedSettings,
        queued_bytes_max: u64,
        epoch: PolicyEpoch,
        store: Option<Arc<Store>>,
    ) -> Self {
        Self {
            store,
            filters: RwLock::default(),
            epochs: Epochs::default(),
            retained: RwLock::new(Retained::new(retained)),
            budget: Arc::new(Budget::new(queued_bytes_max)),
            quotas: Quotas::default(),
            next_message: AtomicU64::new(1),
            policy_epoch: AtomicU64::new(epoch.0),
        }
    }

    /// The budget that all mailboxes of this router share.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// A mailbox of a session that counts for this account.
    #[must_use]
    pub fn mailbox(&self, settings: Arc<mailbox::Settings>, account: &Arc<Account>) -> Mailbox {
        Mailbox::new(settings, Arc::clone(&self.budget), self.quotas.of(account))
    }

    /// The name for the next message.
    #[must_use]
    pub fn next_message_id(&self) -> MessageId {
        MessageId(self.next_message.fetch_add(1, Ordering::Relaxed))
    }

    /// From now on only permits of this epoch or a later one are taken.
    pub fn set_policy_epoch(&self, epoch: PolicyEpoch) {
        self.policy_epoch.store(epoch.0, Ordering::Release);
    }

    /// Enters a subscription, in place of the one that the peer has with the same filter.
    pub fn subscribe(
        &self,
        peer: &Arc<Peer>,
        filter: Permitted<'_, SubscriptionFilter>,
        options: SubscriptionOptions,
    ) -> Arc<Subscription> {
        let subscription = Arc::new(Subscription::new(filter.into_inner(), options));
        let entry = Entry { peer: Arc::clone(peer), subscription: Arc::clone(&subscription) };
        self.filters.write().insert(entry);
        self.epochs.changed(&subscription.filter.filter);
        subscription
    }

    /// Removes a subscription. For a shared one, what waits in the peer's mailbox because of it
    /// comes back, for [`Router::redeliver`].
    #[must_use]
    pub fn unsubscribe(&self, peer: &Arc<Peer>, subscription: &Subscription) -> Vec<Delivery> {
        self.filters.write().remove(peer, subscription);
        self.epochs.changed(&subscription.filter.filter);
        if subscription.filter.share.is_none() {
            return Vec::new();
        }
        peer.mailbox.extract(|delivery| {
            delivery.via.shared().is_some_and(|shared| shared.filter == subscription.filter)
        })
    }

    /// Routes a message to every matching subscription, and retains it where it says so.
    ///
    /// `routes` is the publisher's cache.
    ///
    /// # Errors
    /// [`Unrouted`]; nothing was delivered then.
    pub fn publish(
        &self,
        message: Permitted<'_, Message>,
        publisher: Publisher<'_>,
        routes: &mut RouteCache,
        wakes: &mut Wakes,
        judge: Judge<'_>,
    ) -> Result<Routed, Unrouted> {
        if message.epoch().0 < self.policy_epoch.load(Ordering::Acquire) {
            return Err(Unrouted::Stale(Box::new(message.into_inner())));
        }
        let message = Arc::new(message.into_inner());
        let route = routes.route(self, &message.topic, publisher.peer());
        if self.store.as_ref().is_some_and(|store| store.is_full()) && route.is_written(&message) {
            return Err(Unrouted::DiskFull);
        }
        let asked = match publisher {
            Publisher::Session(_) => {
                if let Some(full) = route.refused_by(&message) {
                    wakes.refused(&full);
                    return Err(Unrouted::QueueFull);
                }
                Asked::Yes
            }
            Publisher::Gone(_) => Asked::No,
        };
        let mut commit = None;
        if message.retain {
            commit = self.retain(&message, &publisher.keeper()).map_err(Unrouted::RetainedFull)?;
        }
        let mut routed = Self::deliver(&message, &route, asked, wakes, judge);
        routed.commit = routed.commit.max(commit);
        Ok(routed)
    }

    /// Makes a message its topic's last.
    fn retain(
        &self,
        message: &Arc<Message>,
        keeper: &Keeper,
    ) -> Result<Option<Commit>, RetainedFull> {
        // The store hears of changes in the order in which they are made.
        let mut retained = self.retained.write();
        retained.set(Arc::clone(message), keeper)?;
        Ok(self.store.as_ref().map(|store| {
            store.change(if message.payload.is_empty() {
                Change::Clear(message.topic.clone())
            } else {
                Change::Retain(Arc::clone(message), Arc::clone(&keeper.account))
            })
        }))
    }

    /// Enters a retained message that the store had.
    ///
    /// # Errors
    /// [`RetainedFull`], under bounds that were lowered meanwhile.
    pub fn restore_retained(
        &self,
        message: Arc<Message>,
        keeper: &Keeper,
    ) -> Result<(), RetainedFull> {
        self.retained.write().set(message, keeper)
    }

    fn deliver(
        message: &Arc<Message>,
        route: &Route,
        asked: Asked,
        wakes: &mut Wakes,
        judge: Judge<'_>,
    ) -> Routed {
        let mut routed = Routed { matched: route.matched, ..Routed::default() };
        let wide = route.targets.len() > 1;
        for target in &route.targets {
            let delivery = Delivery {
                message: Arc::clone(message),
                via: Arc::clone(&target.via),
                qos: target.qos.min(message.qos),
                retain: target.retain_as_published && message.retain,
                wide,
                seq: None,
            };
            routed.count(wakes.post(&target.peer, delivery, asked));
        }
        for group in &route.groups {
            routed.count(Self::deliver_shared(message, group, asked, wakes, judge));
        }
        routed
    }

    /// Delivers to one member of a share group.
    fn deliver_shared(
        message: &Arc<Message>,
        group: &Group,
        asked: Asked,
        wakes: &mut Wakes,
        judge: Judge<'_>,
    ) -> Receipt {
        // A member whose session ends just now has left the group already: choose again.
        for _ in 0..CHOICES_MAX {
            let Some(member) = group.choose(message, judge) else { break };
            let delivery = shared_delivery(message, &member.subscription);
            let receipt = wakes.post(&member.peer, delivery, asked);
            if receipt.posted != Posted::Ended {
                return receipt;
            }
        }
        Receipt::without(Posted::Dropped)
    }

    /// Delivers again, to other members of their share groups, what a member left behind; what
    /// did not come through a share group is dropped. Returns how many found a member.
    pub fn redeliver(
        &self,
        deliveries: Vec<Delivery>,
        wakes: &mut Wakes,
        judge: Judge<'_>,
    ) -> usize {
        let mut delivered = 0;
        for delivery in deliveries {
            let Some(shared) = delivery.via.shared() else { continue };
            let SubscriptionFilter { share: Some(name), filter } = &shared.filter else { continue };
            let Some(group) = self.filters.read().group(filter, name) else { continue };
            let posted =
                Self::deliver_shared(&delivery.message, &group, Asked::No, wakes, judge).posted;
            delivered += usize::from(matches!(posted, Posted::Queued | Posted::DroppedOldest(_)));
        }
        delivered
    }

    /// The next retained messages that match a filter: see [`Cursor`]. There may be none and
    /// more after them. Whether the client may receive them is judged when they leave, like
    /// everything.
    #[must_use]
    pub fn retained(
        &self,
        subscription: &Arc<Subscription>,
        cursor: &mut Cursor,
        count_max: usize,
        now: Instant,
    ) -> Vec<Delivery> {
        let filter = &subscription.filter.filter;
        let page = self.retained.read().page(filter, cursor, count_max, now);
        if page.is_empty() {
            return Vec::new();
        }
        let via = Arc::new(Via::one(Arc::clone(subscription)));
        page.into_iter()
            .map(|message| Delivery {
                qos: subscription.options.qos.min(message.qos),
                message,
                via: Arc::clone(&via),
                retain: true,
                wide: false,
                seq: None,
            })
            .collect()
    }

    /// Puts retained messages into the queue of a durable session, where they outlast its
    /// connection and are counted like everything else in it.
    pub fn queue_retained(peer: &Arc<Peer>, page: Vec<Delivery>, wakes: &mut Wakes) -> Routed {
        let mut routed = Routed::default();
        for delivery in page {
            routed.count(wakes.post(peer, delivery, Asked::No));
        }
        routed
    }

    /// Removes expired retained messages, a page at a time; returns how many went.
    pub fn expire_retained(&self, cursor: &mut Cursor, now: Instant) -> usize {
        let mut retained = self.retained.write();
        let expired = retained.expire(cursor, 1024, now);
        if let Some(store) = &self.store {
            for message in &expired {
                store.change(Change::Clear(message.topic.clone()));
            }
        }
        expired.len()
    }

    /// Retained messages, and their bytes.
    #[must_use]
    pub fn retained_size(&self) -> (usize, u64) {
        let retained = self.retained.read();
        (retained.len(), retained.bytes())
    }

    /// Subscriptions of all sessions.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.filters.read().len()
    }

    fn epoch_of(&self, topic: &str) -> RouteEpoch {
        self.epochs.of(topic)
    }
}

impl Routed {
    fn count(&mut self, receipt: Receipt) {
        self.commit = self.commit.max(receipt.commit);
        match receipt.posted {
            Posted::Queued => self.queued += 1,
            Posted::DroppedOldest(dropped) => {
                self.queued += 1;
                self.dropped += dropped;
            }
            Posted::Dropped => self.dropped += 1,
            Posted::Absent | Posted::Ended => {}
        }
    }
}

fn shared_delivery(message: &Arc<Message>, subscription: &Arc<Subscription>) -> Delivery {
    Delivery {
        message: Arc::clone(message),
        via: Arc::new(Via::one(Arc::clone(subscription))),
        qos: subscription.options.qos.min(message.qos),
        retain: subscription.options.retain_as_published && message.retain,
        wide: false,
        seq: None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
