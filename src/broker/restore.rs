//! What the store held is put back: sessions, their subscriptions, retained messages.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::warn;

use super::sessions::{Owner, Parked};
use super::wills::PendingWill;
use super::{Broker, Departure, Now};
use crate::audit::{self, Event, Kind};
use crate::gates::authorize;
use crate::mqtt::ProtocolVersion;
use crate::policy::Subject;
use crate::router::mailbox::{Recalled, Settings as MailboxSettings};
use crate::router::{Keeper, Peer, RetainedSettings, Standing};
use crate::session::{Link, Remains, Session, Settings};
use crate::store::{Change, Recovered, RecoveredSession, SessionRecord, Store, StoredWill};

impl Broker {
    /// Puts back what the store held when it was opened. Every session waits for its client; what
    /// it may not subscribe to any more is withdrawn, as on a new connection. Before the first
    /// client.
    pub fn restore(&self, recovered: Recovered, now: Now) {
        let Some(store) = &self.store else { return };
        for what in recovered.losses {
            self.audit.record(Event::broker(Kind::StoreLossAccepted { what: what.into() }));
        }
        // Before any will is sent.
        self.registry.bans.restore(recovered.bans);
        self.registry.devices.restore(recovered.devices);
        for session in recovered.sessions {
            if session.record.expiry_s == 0 {
                self.restore_leftover(store, &session);
            } else {
                self.restore_session(store, session, now);
            }
        }
        for record in recovered.retained {
            let bounds = RetainedSettings { messages_max: u32::MAX, bytes_max: u64::MAX };
            let keeper = Keeper { account: record.account, bounds: Arc::new(bounds) };
            let topic = record.message.topic.clone();
            if let Err(full) = self.router.restore_retained(record.message, &keeper) {
                warn!(topic = topic.as_str(), "a retained message stays on disk only: {full}");
            }
        }
        self.write_soon();
    }

    /// Takes back a session from a connection that has panicked: its state is in doubt. A durable one
    /// is read back from the store, so that nothing acknowledged is lost; any other ends.
    pub async fn close_in_doubt(&self, mut departure: Departure, now: Now) {
        let Departure { peer, session, expiry_s, will, .. } = &mut departure;
        peer.set_stamp(None);
        peer.mailbox.detach();
        let Some(durable) = peer.durable() else {
            *expiry_s = 0;
            return self.close(departure, now);
        };
        let will = will.as_deref().map(|will| StoredWill { will: will.clone(), due_at: None });
        let record = super::record(peer, *expiry_s, Some(now.wall), will);
        let after = durable.change(|number| Change::Session(number, Box::new(record)));
        match peer.mailbox.recall(durable, after).await {
            Ok(Recalled { held, released, waiting, next }) => {
                let remains = Remains { held: &held, released: &released, waiting, next };
                let link = link(session.link().version);
                let mut restored = Session::restored(UNBOUNDED, link, &remains, now.instant);
                *restored.subscriptions_mut() = std::mem::take(session.subscriptions_mut());
                *session = restored;
            }
            // It is on disk; but who would go on without it would acknowledge what it has lost.
            Err(error) => return durable.store().fail(error),
        }
        self.close(departure, Now::read());
    }

    fn restore_session(&self, store: &Arc<Store>, recovered: RecoveredSession, now: Now) {
        let RecoveredSession { number, record, subscriptions, held, released, waiting, next_seq } =
            recovered;
        let standing = standing(&record);
        let client_id = standing.facts.client_id.clone();
        let mailbox = MailboxSettings {
            messages_max: record.queue.messages_max,
            bytes_max: record.queue.bytes_max,
            principal_messages_max: record.principal.messages_max,
            principal_bytes_max: record.principal.bytes_max,
            overflow: record.overflow,
            durability: Some(record.durability),
        };
        let mailbox = self.router.mailbox(Arc::new(mailbox), &record.account);
        let peer = Arc::new(Peer::new(client_id, mailbox, standing.clone()));
        peer.make_durable(Arc::clone(store), number, &waiting, next_seq);
        let ends = waiting.first().zip(waiting.last()).map(|(first, last)| (first.seq, last.seq));
        let remains = Remains { held: &held, released: &released, waiting: ends, next: next_seq };
        let link = link(standing.facts.protocol);
        let mut session = Session::restored(UNBOUNDED, link, &remains, now.instant);

        let mut subject =
            Subject::new(self.policies(), Arc::clone(&standing.identity), standing.facts.clone());
        for (filter, options) in subscriptions {
            let judged = authorize::subscribe(
                &mut subject,
                &filter,
                options.qos,
                options.no_local,
                now.wall,
            );
            match judged {
                Ok(permit) => {
                    let subscription = self.router.subscribe(&peer, permit, options);
                    session.subscriptions_mut().insert(subscription);
                }
                Err(denial) => {
                    let policies = denial.policies.iter().cloned().collect();
                    let text = filter.to_string().into();
                    let client = audit::Subject::default()
                        .identified(&standing.identity)
                        .named(standing.facts.client_id.shared());
                    let event = Kind::SubscriptionWithdrawn { filter: text, policies };
                    self.audit.record(Event::about(&Arc::new(client), event));
                    store.change(Change::Unsubscribe(number, filter));
                }
            }
        }

        let parked_at = record.parked_at.unwrap_or(now.wall);
        let expires_at = match record.expiry_s {
            u32::MAX => None,
            seconds => Some(instant_of(parked_at + Duration::from_secs(seconds.into()), now)),
        };
        let will = record.will.map(|StoredWill { will, due_at }| {
            // Its connection ended with the broker.
            let delay = Duration::from_secs(will.delay_s.min(record.expiry_s).into());
            let due_at = instant_of(due_at.unwrap_or(now.wall + delay), now);
            PendingWill { will: Box::new(will), standing: standing.clone(), due_at }
        });
        let owner = Owner::of(&standing.identity);
        let account = Arc::clone(&standing.keeper.account);
        self.sessions.restore(owner, account, peer, Parked { session, expires_at, will });
    }
}

fn standing(record: &SessionRecord) -> Standing {
    let bounds = RetainedSettings {
        messages_max: record.retained.messages_max,
        bytes_max: record.retained.bytes_max,
    };
    Standing {
        identity: Arc::clone(&record.identity),
        facts: Arc::clone(&record.facts),
        keeper: Keeper { account: Arc::clone(&record.account), bounds: Arc::new(bounds) },
    }
}

/// The bounds of a session without a client: those of its next connection take their place.
const UNBOUNDED: Settings = Settings {
    receive_maximum: NonZeroU16::MAX,
    inflight_max: NonZeroU16::MAX,
    subscriptions_max: u32::MAX,
};

/// A connection that nobody has: the facts of the next one take its place.
fn link(version: ProtocolVersion) -> Link {
    Link {
        version,
        receive_maximum: NonZeroU16::MAX,
        packet_bytes_max: None,
        problem_information: false,
        topic_alias_max: 0,
        outgoing_alias_max: 0,
        keep_alive: None,
    }
}

/// The moment by the other clock; what is past is now.
fn instant_of(at: SystemTime, now: Now) -> Instant {
    let left = at.duration_since(now.wall).unwrap_or_default();
    now.instant.checked_add(left).unwrap_or(now.instant)
}
