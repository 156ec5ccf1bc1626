//! A live connection under a new policy set: everything it holds is judged anew.

use std::sync::Arc;

use super::{Closing, Connection};
use crate::audit::{Event, Kind, Verb};
use crate::broker::Now;
use crate::gates::Refusal;
use crate::gates::authorize::{self, WithdrawnSubscription};
use crate::session::Stamp;
use crate::store::Change;

impl Connection {
    /// Judges the connection itself and its subscriptions under the policies in force, which a
    /// reload brings together with the authorities of certificates. What waits, and the will, are
    /// judged when they leave. Where the policies say the same of it as before, there is nothing to
    /// do.
    pub(super) fn rejudge(&mut self, now: Now) -> Result<(), Closing> {
        self.check_trust()?;
        let bundle = self.link.broker.policies();
        if self.link.subject.epoch() == bundle.epoch() {
            return Ok(());
        }
        if self.link.subject.rebase(bundle) {
            return Ok(());
        }
        self.judge_again(now)
    }

    /// The same under the policies that it is judged by already: time has passed that they read.
    pub(super) fn judge_again(&mut self, now: Now) -> Result<(), Closing> {
        self.link.connect_facts.now = now.wall;
        if let Err(denial) = self.link.subject.connect(&self.link.connect_facts) {
            let refusal = Refusal::Denied(denial);
            self.record_denied(Verb::Connect, None, &refusal, now);
            return Err(Closing::because(&refusal));
        }
        self.judge_subscriptions(now)
    }

    /// On a new connection: judges what a resumed session has subscribed to. A subscription that
    /// is not allowed any more is removed; the client is about to hear of its session anyway.
    pub(super) fn clear_subscriptions(&mut self) {
        // The answer of the setting is for live clients; here there is nothing to interrupt.
        let now = Now::read();
        let _ = self.judge_subscriptions(now);
        self.link.subject.shed();
    }

    fn judge_subscriptions(&mut self, now: Now) -> Result<(), Closing> {
        let moment = self.link.subject.next_moment(now.wall);
        self.rejudge_at = moment.and_then(|moment| {
            let away = moment.duration_since(now.wall).unwrap_or_default();
            now.instant.checked_add(away)
        });
        let stamp = Stamp::next();
        self.link.peer.set_stamp(Some(stamp));
        let subscriptions: Vec<_> =
            self.link.session.subscriptions().iter().map(Arc::clone).collect();
        let mut withdrawn = None;
        for subscription in subscriptions {
            let options = subscription.options;
            let subject = &mut self.link.subject;
            let judged = authorize::subscribe(
                subject,
                &subscription.filter,
                options.qos,
                options.no_local,
                now.wall,
            );
            let Err(denial) = judged else {
                if subject.receive_ok(&subscription.filter.filter) {
                    subscription.clear_under(stamp);
                }
                continue;
            };
            self.link.session.subscriptions_mut().remove(&subscription.filter);
            self.replays.end(&subscription.filter);
            self.change(|session| Change::Unsubscribe(session, subscription.filter.clone()));
            let left = self.link.broker.router.unsubscribe(&self.link.peer, &subscription);
            self.link.broker.redeliver(left, now);
            let filter = subscription.filter.to_string().into();
            let policies = denial.policies.iter().cloned().collect();
            let event = Kind::SubscriptionWithdrawn { filter, policies };
            self.link.broker.audit.record(Event::about(&self.link.client, event));
            withdrawn = Some(Refusal::Denied(denial));
        }
        match withdrawn {
            Some(refusal)
                if self.link.profile.authorize.withdrawn_subscription
                    == WithdrawnSubscription::Disconnect =>
            {
                Err(Closing::because(&refusal))
            }
            _ => Ok(()),
        }
    }
}
