//! Wills that wait: for their delay, or for the end of their session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Broker, Now};
use crate::audit::{self, Event, Kind};
use crate::gates::Refusal;
use crate::mqtt::packet::Will;
use crate::mqtt::{ClientId, TopicName};
use crate::policy::Subject;
use crate::router::{Publisher, RouteCache, Routed, Standing, Wakes};
use crate::session::Message;

/// A will whose connection is gone.
#[derive(Debug)]
pub(super) struct PendingWill {
    /// The message.
    pub(super) will: Box<Will>,
    /// Who is judged when it is sent: the principal and facts of its CONNECT.
    pub(super) standing: Standing,
    /// When it is sent, unless its session ends before.
    pub(super) due_at: Instant,
}

/// When which session has something due: an expiry or a will. At most one entry a session.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: Mutex<BTreeSet<(Instant, ClientId)>>,
    sooner: Notify,
}

impl Agenda {
    /// Enters a session that was parked.
    pub(super) fn add(&self, at: Instant, client_id: ClientId) {
        let mut entries = self.entries.lock();
        let first = entries.first().is_none_or(|(first, _)| at < *first);
        entries.insert((at, client_id));
        drop(entries);
        if first {
            self.sooner.notify_one();
        }
    }

    /// Takes a session off that is not parked any more.
    pub(super) fn remove(&self, at: Instant, client_id: &ClientId) {
        self.entries.lock().remove(&(at, client_id.clone()));
    }

    /// Takes off the sessions with something due by `now`, at most `count_max`; and when the
    /// next one is due.
    pub(super) fn take_due(
        &self,
        now: Instant,
        count_max: usize,
    ) -> (Vec<ClientId>, Option<Instant>) {
        let mut entries = self.entries.lock();
        let mut due = Vec::new();
        while due.len() < count_max && entries.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(entries.pop_first().map(|(_, client_id)| client_id));
        }
        (due, entries.first().map(|(at, _)| *at))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Something is due at once, which stands nowhere.
    pub(super) fn hurry(&self) {
        self.sooner.notify_one();
    }

    /// Waits until something is due sooner than all before.
    pub(super) async fn sooner(&self) {
        self.sooner.notified().await;
    }
}

impl Broker {
    /// Sends a will, if its client may still publish it.
    pub(super) fn send_will(&self, pending: PendingWill, now: Now) {
        let PendingWill { will, standing, .. } = pending;
        let topic = will.topic.clone();
        if let Err(why) = self.stands(&standing, now) {
            return self.discarded(&standing, &topic, Arc::default(), &why);
        }
        let mut subject =
            Subject::new(self.policies(), Arc::clone(&standing.identity), standing.facts.clone());
        let routed = self.publish_will(&mut subject, *will, &standing, now);
        self.write_soon();
        let Err(refusal) = routed else { return };
        let policies = match &refusal {
            Refusal::Denied(denial) => denial.policies.iter().cloned().collect(),
            _ => Arc::default(),
        };
        self.discarded(&standing, &topic, policies, &refusal.to_string());
    }

    /// Looks whether a client that is gone could come back as who it was.
    pub(super) fn stands(&self, standing: &Standing, now: Now) -> Result<(), String> {
        self.is_welcome(standing, now).map_err(|unwelcome| unwelcome.to_string())?;
        let Some(certificate) = &standing.identity.certificate else { return Ok(()) };
        let now_s = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if certificate.not_after_unix_s < i64::try_from(now_s).unwrap_or(i64::MAX) {
            return Err("the client's certificate has expired".to_owned());
        }
        let revoked = certificate.id().and_then(|id| self.revocations.load().revoked(&[id]));
        revoked.map_or(Ok(()), |revoked| Err(revoked.to_string()))
    }

    /// Records that a will is not sent.
    pub fn discarded(
        &self,
        standing: &Standing,
        topic: &TopicName,
        policies: Arc<[Arc<str>]>,
        why: &str,
    ) {
        let client = audit::Subject::default()
            .identified(&standing.identity)
            .named(standing.facts.client_id.shared());
        let topic = topic.as_str().into();
        let discarded = Kind::WillDiscarded { topic, policies, why: why.to_owned().into() };
        self.audit.record(Event::about(&Arc::new(client), discarded));
    }

    fn publish_will(
        &self,
        subject: &mut Subject,
        will: Will,
        standing: &Standing,
        now: Now,
    ) -> Result<Routed, Refusal> {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        let id = self.router.next_message_id();
        let message = Message::new(id, topic, payload, qos, retain, properties, now.instant);
        let mut wakes = Wakes::default();
        let (message, publisher) = (message.as_will(), Publisher::Gone(standing));
        self.publish(subject, message, publisher, &mut RouteCache::default(), &mut wakes, now)
    }
}
