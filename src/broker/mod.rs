//! The shared parts of a running broker: sessions and their takeover, wills, policies in force.
//!
//! A connection claims a session here and gives it back when it ends. What belongs to no
//! connection happens here too: a session that expires, a will whose delay is over, a new
//! policy set.

mod leftovers;
mod registered;
mod restore;
mod sessions;
mod survey;
mod upkeep;
mod wills;

pub use registered::{DeviceChange, Unwelcome};
pub use sessions::{NoSession, Owner, Term};
pub use survey::{SharedCertificate, Survey};

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::audit::{self, AuditLog, Event, Kind};
use crate::gates::flapping::Flapping;
use crate::gates::{Refusal, authorize};
use crate::identity::revocation::{self, Revocations};
use crate::metrics::Metrics;
use crate::mqtt::packet::{Qos, Will};
use crate::mqtt::{ClientId, ReasonCode};
use crate::policy::{Bundle, PolicyEpoch, Subject};
use crate::registry::Registry;
use crate::router::{
    Peer, Publisher, RetainedFull, RetainedSettings, RouteCache, Routed, Router, Signal, Standing,
    Unrouted, Wakes,
};
use crate::session::{Link, Message, Seq, Session};
use crate::store::{Change, Commit, Durability, QueueBounds, SessionRecord, Store, StoredWill};

use leftovers::{Left, Leftovers};
use sessions::{Claim, Claimed, Ended, Parked, Sessions};
use wills::PendingWill;

/// Bounds of a whole broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sessions, connected or not.
    pub sessions_max: u32,
    /// Bytes waiting in all mailboxes together.
    pub queued_bytes_max: u64,
    /// Bounds of the retained messages.
    pub retained: RetainedSettings,
}

/// The present time, by both clocks: one that only runs forward, and the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For intervals and deadlines.
    pub instant: Instant,
    /// For certificates and for policies that read the time.
    pub wall: SystemTime,
}

impl Now {
    /// Reads the clocks.
    #[must_use]
    pub fn read() -> Self {
        Self { instant: tokio::time::Instant::now().into_std(), wall: SystemTime::now() }
    }
}

/// One broker.
#[derive(Debug)]
pub struct Broker {
    /// Where messages go.
    pub router: Router,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The audit log.
    pub audit: AuditLog,
    /// Where durable sessions and retained messages are kept; without one, nothing is durable.
    pub store: Option<Arc<Store>>,
    /// The certificates that were taken back.
    pub revocations: revocation::Current,
    /// Bans and devices.
    pub registry: Registry,
    /// Who comes and goes all the time.
    pub flapping: Flapping,
    /// Somebody who may be connected was banned, and was not told yet.
    rouse: AtomicBool,
    policies: ArcSwap<Bundle>,
    sessions: Sessions,
    leftovers: Leftovers,
    tasks: Arc<()>,
}

/// Stands for one connection's task while it runs; see [`Broker::is_quiet`].
#[derive(Debug)]
pub struct Task {
    _counted: Arc<()>,
}

/// A session as a new connection gets it.
#[derive(Debug)]
pub struct Opened {
    /// The session as the router sees it.
    pub peer: Arc<Peer>,
    /// Its protocol state, resumed or new.
    pub session: Session,
    /// The connection's term.
    pub term: Term,
    /// True when a session was there to resume.
    pub resumed: bool,
    /// What CONNACK and the answers after it say of the session is on disk once this is done.
    pub commit: Option<Commit>,
}

/// What a new connection asks for.
#[derive(Debug)]
pub struct Opening {
    /// The client identifier, bound to the principal already.
    pub client_id: ClientId,
    /// The principal and the facts of the connection.
    pub standing: Standing,
    /// Begin with a new session in any case.
    pub clean_start: bool,
    /// The facts of the connection for the session.
    pub link: Link,
    /// The bounds of the session.
    pub settings: crate::session::Settings,
    /// The bounds of the mailbox.
    pub mailbox: Arc<crate::router::mailbox::Settings>,
    /// Sessions of the principal.
    pub sessions_max: u32,
    /// Where the connection comes from; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// Seconds the session outlives the connection; `u32::MAX` for ever.
    pub expiry_s: u32,
    /// The will of the connection.
    pub will: Option<Box<Will>>,
}

/// A session that its connection gives back.
#[derive(Debug)]
pub struct Departure {
    /// The session as the router sees it.
    pub peer: Arc<Peer>,
    /// Its protocol state.
    pub session: Session,
    /// The connection's term.
    pub term: Term,
    /// Seconds the session lives on; `u32::MAX` for ever.
    pub expiry_s: u32,
    /// The will, unless the client took it back.
    pub will: Option<Box<Will>>,
}

impl Broker {
    /// A broker without sessions.
    #[must_use]
    pub fn new(
        settings: &Settings,
        policies: Arc<Bundle>,
        metrics: Arc<Metrics>,
        audit: AuditLog,
        store: Option<Arc<Store>>,
    ) -> Self {
        let epoch = policies.epoch();
        let Settings { retained, queued_bytes_max, .. } = settings.clone();
        Self {
            router: Router::new(retained, queued_bytes_max, epoch, store.clone()),
            metrics,
            audit,
            store,
            revocations: revocation::none(),
            registry: Registry::default(),
            flapping: Flapping::new(None),
            rouse: AtomicBool::new(false),
            policies: ArcSwap::new(policies),
            sessions: Sessions::new(settings.sessions_max),
            leftovers: Leftovers::default(),
            tasks: Arc::default(),
        }
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> Arc<Bundle> {
        self.policies.load_full()
    }

    /// The epoch of the policies in force.
    #[must_use]
    pub fn policy_epoch(&self) -> PolicyEpoch {
        self.policies.load().epoch()
    }

    /// Puts a new policy set in force: every live connection judges everything it holds anew;
    /// what waits is judged when it leaves.
    pub fn set_policies(&self, bundle: Arc<Bundle>) {
        let epoch = bundle.epoch();
        crate::policy::retire(self.policies.swap(bundle));
        self.router.set_policy_epoch(epoch);
        self.sessions.signal_all(Signal::Rejudge);
    }

    /// Puts revocation lists in force: every connection looks whether its client's certificate is
    /// still trusted.
    pub fn set_revocations(&self, revocations: Revocations) {
        self.revocations.store(Arc::new(revocations));
        self.rouse_all();
    }

    /// Wakes every live connection, to look at what it stands on.
    pub fn rouse_all(&self) {
        self.sessions.signal_all(Signal::Rejudge);
    }

    /// Asks every connection to close, with this reason.
    pub fn close_all(&self, reason: ReasonCode) {
        self.sessions.signal_all(Signal::Close(reason));
    }

    /// Counts a connection's task until the value is dropped.
    #[must_use]
    pub fn task(&self) -> Task {
        Task { _counted: Arc::clone(&self.tasks) }
    }

    /// True when no connection's task runs any more: everybody has heard what there was to say.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        Arc::strong_count(&self.tasks) == 1
    }

    /// Sessions in all, and those with a connection.
    #[must_use]
    pub fn session_count(&self) -> (usize, usize) {
        self.sessions.count()
    }

    /// Who a session is judged as (the facts of its present or last connection), and whether it has
    /// a connection; `None` where there is no session.
    #[must_use]
    pub fn standing(&self, client_id: &ClientId) -> Option<(Standing, bool)> {
        self.sessions.standing(client_id)
    }

    /// Claims the session of a client identifier for a new connection, taking it over from an
    /// older connection of the same principal.
    ///
    /// # Errors
    /// [`NoSession`].
    pub async fn open(&self, opening: Opening, now: Now) -> Result<Opened, NoSession> {
        let Opening { client_id, standing, clean_start, link, settings, .. } = opening;
        let Opening { mailbox, sessions_max, address, expiry_s, will, .. } = opening;
        // A new session that outlives its connection is kept in the store.
        let is_kept = mailbox.durability.is_some() && expiry_s > 0;
        let new_mailbox = self.router.mailbox(mailbox, &standing.keeper.account);
        let new_peer = Arc::new(Peer::new(client_id, new_mailbox, standing.clone()));
        let claim = Claim {
            owner: Owner::of(&standing.identity),
            account: Arc::clone(&standing.keeper.account),
            sessions_max,
            clean_start,
            address,
            peer: &new_peer,
        };
        let claimed = self.sessions.claim(&claim, now.instant).await?;
        // A takeover may have taken its time.
        let now = Now::read();
        let (mut commit, mut together) = (None, None);
        let mut opened = match claimed {
            Claimed::New { term, ended } => {
                if let Some(ended) = ended {
                    commit = self.finish(*ended, now);
                }
                let mut session = Session::new(settings, link, now.instant);
                if let Some(store) = self.store.as_ref().filter(|_| is_kept) {
                    let number = store.next_session();
                    new_peer.make_durable(Arc::clone(store), number, &[], Seq::FIRST);
                    session.make_durable();
                }
                Opened { peer: new_peer, session, term, resumed: false, commit: None }
            }
            Claimed::Resumed { peer, mut session, term, due } => {
                if let Some(will) = due {
                    // It is none any more in the record below.
                    together = self.store.as_ref().map(|store| store.together());
                    self.send_will(will, now);
                }
                session.connect(settings, link, now.instant);
                peer.set_standing(standing);
                Opened { peer, session: *session, term, resumed: true, commit: None }
            }
        };
        if let Some(durable) = opened.peer.durable() {
            let will = will.map(|will| StoredWill { will: *will, due_at: None });
            let record = record(&opened.peer, expiry_s, None, will);
            // A resumed session waits too: its answers may speak of what an earlier connection has
            // taken down and nobody has seen on disk yet.
            let begun = durable.change(|number| Change::Session(number, Box::new(record)));
            commit = commit.max(Some(begun));
        }
        drop(together);
        if commit.is_some() {
            self.write_soon();
        }
        opened.commit = commit;
        Ok(opened)
    }

    /// Where the connection comes from that takes a session over from the one of this term.
    #[must_use]
    pub fn successor_address(&self, client_id: &ClientId, term: Term) -> Option<IpAddr> {
        self.sessions.claimed_from(client_id, term)
    }

    /// Takes back a session from its connection: it waits for the client, or ends. The will is
    /// sent, now or later.
    pub fn close(&self, departure: Departure, now: Now) {
        let Departure { peer, session, term, expiry_s, will } = departure;
        peer.set_stamp(None);
        peer.mailbox.detach();
        let later = |seconds: u32| now.instant.checked_add(Duration::from_secs(seconds.into()));
        let standing = peer.standing();
        let will = will.map(|will| {
            let delay_s = will.delay_s.min(expiry_s);
            let due_at = later(delay_s).unwrap_or(now.instant);
            PendingWill { will, standing, due_at }
        });
        let leaving = self.sessions.leave(&peer.client_id, term);
        if expiry_s == 0 {
            // Out of the router first: a new session of this name must not meet the old one.
            let parked = Parked { session, expires_at: None, will };
            self.finish(Ended { peer, parked }, now);
            return;
        }
        let (due, will) = match will {
            Some(will) if will.due_at <= now.instant => (Some(will), None),
            will => (None, will),
        };
        if let Some(due) = due {
            self.send_will(due, now);
        }
        let expires_at = if expiry_s == u32::MAX { None } else { later(expiry_s) };
        if let Some(durable) = peer.durable() {
            let will = will.as_ref().map(|will| StoredWill {
                will: (*will.will).clone(),
                due_at: Some(now.wall + will.due_at.saturating_duration_since(now.instant)),
            });
            let record = record(&peer, expiry_s, Some(now.wall), will);
            durable.change(|number| Change::Session(number, Box::new(record)));
            self.write_soon();
        }
        leaving.park(Parked { session, expires_at, will });
    }

    /// Ends a session: its subscriptions go, its share groups get what it did not acknowledge,
    /// its will is sent. A durable one is gone from the disk once the commit is done.
    fn finish(&self, ended: Ended, now: Now) -> Option<Commit> {
        let Ended { peer, parked: Parked { mut session, will, .. } } = ended;
        let mut waiting = Vec::new();
        let mut is_member = false;
        for subscription in session.subscriptions_mut().drain() {
            is_member |= subscription.filter.share.is_some();
            waiting.extend(self.router.unsubscribe(&peer, &subscription));
        }
        let stored = peer.mailbox.end().filter(|_| is_member);
        let commit = peer.durable().map(|durable| match stored {
            Some(from) => {
                let all_unsent = session.is_unsent(from);
                let left = Left { from, unsent_from: session.unsent_from(from), all_unsent };
                self.leave_behind(&peer, durable, left, now)
            }
            None => durable.change(Change::End),
        });
        // A QoS 2 delivery that began belongs to this client alone [MQTT-4.8.2-5].
        let mut unfinished = session.take_unacknowledged();
        unfinished.retain(|delivery| delivery.qos != Qos::ExactlyOnce);
        unfinished.append(&mut waiting);
        self.redeliver(unfinished, now);
        if let Some(will) = will {
            self.send_will(will, now);
        }
        self.write_soon();
        commit
    }

    /// What was handed to the store goes to the disk.
    fn write_soon(&self) {
        if let Some(store) = &self.store {
            store.flush();
        }
    }

    /// Delivers to other members of their share groups what a member left behind.
    pub fn redeliver(&self, deliveries: Vec<crate::session::Delivery>, now: Now) {
        if deliveries.is_empty() {
            return;
        }
        let mut wakes = Wakes::default();
        self.router.redeliver(deliveries, &mut wakes, &self.judge(now));
        self.tell_of_full(&mut wakes);
        self.write_soon();
    }

    /// Whether a session may receive a message, judged with the facts of its present or last
    /// connection.
    pub fn judge(&self, now: Now) -> impl Fn(&Arc<Peer>, &Message) -> bool + '_ {
        move |peer, message| {
            let standing = peer.standing();
            let mut subject = Subject::new(self.policies(), standing.identity, standing.facts);
            authorize::receive(&mut subject, message, message.qos, message.retain, now.wall).is_ok()
        }
    }

    /// Sends the will of a session that goes on without it: a durable one is told so in the batch
    /// that holds the message, lest it is sent again after a restart.
    fn send_parked_will(
        &self,
        will: PendingWill,
        peer: &Peer,
        expires_at: Option<Instant>,
        now: Now,
    ) {
        let _together = self.store.as_ref().map(|store| store.together());
        if let Some(durable) = peer.durable() {
            let left = expires_at.map(|at| at.saturating_duration_since(now.instant).as_secs());
            let expiry_s =
                left.map_or(u32::MAX, |left| u32::try_from(left + 1).unwrap_or(u32::MAX));
            let record = record(peer, expiry_s, Some(now.wall), None);
            durable.change(|number| Change::Session(number, Box::new(record)));
        }
        self.send_will(will, now);
    }

    /// Authorises a message and routes it; under the newest policies, when they change meanwhile.
    ///
    /// # Errors
    /// The [`Refusal`]; nothing was delivered then.
    pub fn publish(
        &self,
        subject: &mut Subject,
        message: Message,
        publisher: Publisher<'_>,
        routes: &mut RouteCache,
        wakes: &mut Wakes,
        now: Now,
    ) -> Result<Routed, Refusal> {
        let routed = self.route(subject, message, publisher, routes, wakes, now);
        self.tell_of_full(wakes);
        routed
    }

    /// Records that messages are dropped, for whom it has to be.
    fn tell_of_full(&self, wakes: &mut Wakes) {
        for peer in wakes.take_full() {
            let standing = peer.standing();
            let client = audit::Subject::default()
                .identified(&standing.identity)
                .named(peer.client_id.shared());
            let full = Kind::SessionQueueFull { waiting: peer.mailbox.len() as u64 };
            self.audit.record(Event::about(&Arc::new(client), full));
        }
    }

    fn route(
        &self,
        subject: &mut Subject,
        message: Message,
        publisher: Publisher<'_>,
        routes: &mut RouteCache,
        wakes: &mut Wakes,
        now: Now,
    ) -> Result<Routed, Refusal> {
        let permit = authorize::publish(subject, message, now.wall)?;
        let judge = self.judge(now);
        let message = match self.router.publish(permit, publisher, routes, wakes, &judge) {
            Ok(done) => return Ok(done),
            Err(Unrouted::RetainedFull(full)) => return Err(full.into()),
            Err(Unrouted::DiskFull) => return Err(Refusal::DiskFull),
            Err(Unrouted::QueueFull) => return Err(Refusal::QueueFull),
            Err(Unrouted::Stale(message)) => message,
        };
        // Its owner judges the subject itself anew before the next packet; this one is judged by
        // a subject of its own.
        let (identity, session) = (Arc::clone(subject.identity()), Arc::clone(subject.session()));
        let mut fresh = Subject::new(self.policies(), identity, session);
        let permit = authorize::publish(&mut fresh, *message, now.wall)?;
        self.router.publish(permit, publisher, routes, wakes, &judge).map_err(|unrouted| {
            match unrouted {
                Unrouted::RetainedFull(full) => full.into(),
                Unrouted::DiskFull => Refusal::DiskFull,
                Unrouted::QueueFull => Refusal::QueueFull,
                // Two changes of policy within one publication: it may come again.
                Unrouted::Stale(_) => RetainedFull::Store.into(),
            }
        })
    }
}

/// A session as the store keeps it.
fn record(
    peer: &Peer,
    expiry_s: u32,
    parked_at: Option<SystemTime>,
    will: Option<StoredWill>,
) -> SessionRecord {
    let Standing { identity, facts, keeper } = peer.standing();
    let queue = peer.mailbox.settings();
    SessionRecord {
        identity,
        facts,
        account: keeper.account,
        retained: QueueBounds {
            messages_max: keeper.bounds.messages_max,
            bytes_max: keeper.bounds.bytes_max,
        },
        queue: QueueBounds { messages_max: queue.messages_max, bytes_max: queue.bytes_max },
        principal: QueueBounds {
            messages_max: queue.principal_messages_max,
            bytes_max: queue.principal_bytes_max,
        },
        overflow: queue.overflow,
        // One that was kept stays so under a profile that would not have kept it.
        durability: queue.durability.unwrap_or(Durability::Os),
        expiry_s,
        parked_at,
        will,
    }
}

#[cfg(test)]
mod tests;
