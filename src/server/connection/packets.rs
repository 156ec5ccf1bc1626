//! What a client's packets lead to, gate after gate.

use std::sync::Arc;

use super::{Closing, Connection};
use crate::audit::{Event, Kind, Target, Verb};
use crate::broker::Now;
use crate::gates::Refusal;
use crate::gates::authorize::{self, DeniedPublish, DeniedSubscribe};
use crate::gates::rate::{Answer, Take};
use crate::metrics::DropReason;
use crate::mqtt::frame::{FrameError, FrameHeader};
use crate::mqtt::packet::{
    Disconnect, Packet, Qos, RetainHandling, Side, Suback, Subscribe, SubscribeEntry, Unsuback,
    Unsubscribe, count_filters,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, UserProperties, Violation};
use crate::router::{Publisher, Routed, Wakes};
use crate::session::{Inward, Message, Received, SubscriptionOptions};
use crate::store::Change;

/// One whole packet as bytes.
struct Frame<'a> {
    first_byte: u8,
    body: &'a [u8],
    /// Of all of it, the fixed header included.
    bytes: usize,
}

/// What one round may do for a client before others get their turn; a packet is one.
const WORK_MAX: u32 = 4096;
/// What a filter counts: each is judged, and that takes as long as many publications.
const FILTER_WORK: u32 = 64;

impl Connection {
    /// Handles the whole packets at the front of `input`: how many bytes they were. Stops early
    /// when the client is over its rate, or when others have waited long enough.
    pub(super) fn handle(
        &mut self,
        input: &[u8],
        now: Now,
        out: &mut Vec<u8>,
        wakes: &mut Wakes,
    ) -> Result<usize, Closing> {
        let mut handled = 0;
        let mut work = 0_u32;
        self.backlog = false;
        loop {
            let rest = input.get(handled..).unwrap_or_default();
            let Some(frame) = self.next_frame(rest)? else { return Ok(handled) };
            let version = self.link.session.link().version;
            // Each of them counts as a packet.
            let filters = count_filters(frame.first_byte, frame.body, version);
            if work >= WORK_MAX || !self.within_rate(filters.max(1), frame.bytes, now)? {
                self.backlog = true;
                return Ok(handled);
            }
            self.packet(&frame, now, out, wakes)?;
            handled += frame.bytes;
            work = work.saturating_add(1).saturating_add(filters.saturating_mul(FILTER_WORK));
        }
    }

    /// True when the first packet of `input` is not complete yet.
    pub(super) fn is_incomplete(&self, input: &[u8]) -> Result<bool, Closing> {
        Ok(self.next_frame(input)?.is_none())
    }

    /// The first frame, where it is complete.
    fn next_frame<'a>(&self, input: &'a [u8]) -> Result<Option<Frame<'a>>, Closing> {
        let packet_bytes_max = self.link.profile.size.packet_bytes_max;
        let header = match FrameHeader::peek(input, packet_bytes_max) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(None),
            Err(FrameError::Malformed(violation)) => return Err(self.violated(violation)),
            Err(FrameError::TooLarge { bytes, bytes_max }) => {
                return Err(Closing::ByBroker {
                    reason: ReasonCode::PacketTooLarge,
                    why: format!("a packet of {bytes} bytes, the most allowed is {bytes_max}"),
                    told: true,
                });
            }
        };
        let bytes = header.packet_bytes();
        let body = input.get(header.header_bytes..bytes);
        Ok(body.map(|body| Frame { first_byte: header.first_byte, body, bytes }))
    }

    fn within_rate(&mut self, packets: u32, bytes: usize, now: Now) -> Result<bool, Closing> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.link.rate.take(packets, bytes, now.instant) {
            Take::Ok => Ok(true),
            Take::Wait(wait) => match self.link.profile.rate.answer {
                Answer::SlowDown => {
                    self.paused_until = now.instant.checked_add(wait);
                    Ok(false)
                }
                Answer::Disconnect => Err(Closing::because(&Refusal::Rate)),
            },
        }
    }

    /// One packet, through the gates in their order.
    fn packet(
        &mut self,
        frame: &Frame<'_>,
        now: Now,
        out: &mut Vec<u8>,
        wakes: &mut Wakes,
    ) -> Result<(), Closing> {
        self.link.broker.metrics.packets_received.inc();
        let version = self.link.session.link().version;
        let packet = Packet::decode(frame.first_byte, frame.body, version, Side::FromClient)
            .map_err(|violation| self.violated(violation))?;
        let profile = Arc::clone(&self.link.profile);
        profile.size.check(&packet).map_err(|exceeded| Closing::because(&exceeded.into()))?;
        profile.features.check(&packet).map_err(|missing| Closing::because(&missing.into()))?;
        let answered = out.len();
        let received = self
            .link
            .session
            .receive(packet, now.instant, out)
            .map_err(|violation| self.violated(violation))?;
        let handled = match received {
            Received::Handled => Ok(()),
            Received::Publish(inward) => self.publish(inward, now, out, wakes),
            Received::Subscribe(subscribe) => self.subscribe(subscribe, now, out),
            Received::Unsubscribe(unsubscribe) => {
                self.unsubscribe(&unsubscribe, now, out);
                Ok(())
            }
            Received::Disconnect(disconnect) => Err(self.disconnect(&disconnect)),
            Received::Auth(auth) => self.authenticate_again(&auth, now, out),
        };
        if out.len() > answered {
            self.link.broker.metrics.packets_sent.inc();
        }
        handled
    }

    fn publish(
        &mut self,
        inward: Inward<'_>,
        now: Now,
        out: &mut Vec<u8>,
        wakes: &mut Wakes,
    ) -> Result<(), Closing> {
        self.link.broker.metrics.publishes_received.inc();
        let version = self.link.session.link().version;
        let ticket = inward.ticket();
        // Exactly once: where the disk has the message, it has its identifier too, so that it is
        // known when it is sent again after a crash.
        let broker = Arc::clone(&self.link.broker);
        let is_held = inward.publish.qos == Qos::ExactlyOnce && self.link.peer.durable().is_some();
        let together = broker.store.as_ref().filter(|_| is_held).map(|store| store.together());
        let topic = inward.topic.clone();
        #[cfg(test)]
        assert_ne!(topic.as_str(), super::tests::PANICS_ON, "provoked");
        let reason = match self.route(inward, now, wakes) {
            Ok(Routed { matched, commit, .. }) => {
                if ticket.is_answered() {
                    self.wait_for(commit);
                } else if commit.is_some() {
                    self.write_soon();
                }
                if matched || !version.is_v5() {
                    ReasonCode::Success
                } else {
                    ReasonCode::NoMatchingSubscribers
                }
            }
            Err(refusal) => {
                let denied = matches!(refusal, Refusal::Denied(_));
                let target = Target::Topic(topic.as_str().into());
                self.record_denied(Verb::Publish, Some(target), &refusal, now);
                let drop_it = self.link.profile.authorize.denied_publish_v3
                    == DeniedPublish::DropAndAcknowledge;
                match version {
                    ProtocolVersion::V5 => refusal.reason(),
                    // What is merely unavailable is never acknowledged.
                    _ if denied && drop_it => ReasonCode::Success,
                    _ => return Err(Closing::because(&refusal)),
                }
            }
        };
        self.link.session.settle(ticket, reason, out);
        if together.is_some() {
            self.note_steps();
        }
        Ok(())
    }

    /// Authorises a publication and hands it to the router.
    fn route(
        &mut self,
        inward: Inward<'_>,
        now: Now,
        wakes: &mut Wakes,
    ) -> Result<Routed, Refusal> {
        let Inward { topic, publish } = inward;
        let broker = &self.link.broker;
        let message = Message::new(
            broker.router.next_message_id(),
            topic,
            publish.payload.into(),
            publish.qos,
            publish.retain,
            publish.properties,
            now.instant,
        );
        let subject = &mut self.link.subject;
        let publisher = Publisher::Session(&self.link.peer);
        let routed = broker.publish(subject, message, publisher, &mut self.routes, wakes, now)?;
        if routed.dropped > 0 {
            let dropped = broker.metrics.publishes_dropped.of(DropReason::QueueFull);
            dropped.inc_by(routed.dropped as u64);
        }
        Ok(routed)
    }

    fn subscribe(
        &mut self,
        subscribe: Subscribe,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<(), Closing> {
        let version = self.link.session.link().version;
        let mut reasons = Vec::with_capacity(subscribe.entries.len());
        let mut explained = None;
        // A subscription without its retained messages would be an old one after a crash.
        let broker = Arc::clone(&self.link.broker);
        let together = broker.store.as_ref().filter(|_| self.link.peer.durable().is_some());
        let together = together.map(|store| store.together());
        for entry in subscribe.entries {
            let options = SubscriptionOptions {
                qos: entry.qos,
                no_local: entry.no_local,
                retain_as_published: entry.retain_as_published,
                id: subscribe.subscription_id,
            };
            let filter = entry.filter.to_string();
            match self.subscribe_one(&entry, options, now) {
                Ok(qos) => reasons.push(match qos {
                    Qos::AtMostOnce => ReasonCode::Success,
                    Qos::AtLeastOnce => ReasonCode::GrantedQos1,
                    Qos::ExactlyOnce => ReasonCode::GrantedQos2,
                }),
                Err(refusal) => {
                    let target = Target::Filter(filter.into());
                    self.record_denied(Verb::Subscribe, Some(target), &refusal, now);
                    let answer = self.link.profile.authorize.denied_subscribe_v31;
                    if version == ProtocolVersion::V31 && answer == DeniedSubscribe::Disconnect {
                        return Err(Closing::because(&refusal));
                    }
                    reasons.push(refusal.reason());
                    if !matches!(refusal, Refusal::Denied(_)) {
                        explained.get_or_insert_with(|| refusal.to_string().into_boxed_str());
                    }
                }
            }
        }
        self.queue_retained(now);
        drop(together);
        let link = self.link.session.link();
        let mut suback = Suback {
            packet_id: subscribe.packet_id,
            reasons,
            reason_string: explained.filter(|_| link.problem_information),
            user_properties: UserProperties::default(),
        };
        if suback.reason_string.is_some() {
            let bytes = Packet::Suback(suback.clone()).encoded_bytes(version);
            let fits = link.packet_bytes_max.is_none_or(|most| bytes <= most.get() as usize);
            suback.reason_string.take_if(|_| !fits);
        }
        Packet::Suback(suback).encode(version, out);
        Ok(())
    }

    fn subscribe_one(
        &mut self,
        entry: &SubscribeEntry,
        options: SubscriptionOptions,
        now: Now,
    ) -> Result<Qos, Refusal> {
        let profile = &self.link.profile;
        let filter = &entry.filter;
        profile.size.check_topic(filter.filter.as_str(), ReasonCode::TopicFilterInvalid)?;
        profile.features.check_subscription(entry)?;
        let subscriptions = self.link.session.subscriptions();
        let is_new = subscriptions.with_filter(filter).is_none();
        let allowed = self.link.session.settings().subscriptions_max;
        if is_new && subscriptions.len() >= allowed as usize {
            return Err(Refusal::Subscriptions { allowed });
        }
        let subject = &mut self.link.subject;
        let permit =
            authorize::subscribe(subject, filter, options.qos, options.no_local, now.wall)?;
        let subscription = self.link.broker.router.subscribe(&self.link.peer, permit, options);
        if let Some(stamp) = self.link.peer.stamp()
            && self.link.subject.receive_ok(&subscription.filter.filter)
        {
            subscription.clear_under(stamp);
        }
        self.link.session.subscriptions_mut().insert(Arc::clone(&subscription));
        self.change(|session| Change::Subscribe(session, filter.clone(), options));
        let replay = match entry.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => is_new,
            RetainHandling::Never => false,
        };
        // A shared subscription gets no retained messages [MQTT-4.8.2, 3.8.4].
        if replay && subscription.filter.share.is_none() {
            self.replays.end(&subscription.filter);
            self.replays.push(subscription, self.link.peer.durable().is_some());
        }
        Ok(options.qos)
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, now: Now, out: &mut Vec<u8>) {
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            match self.link.session.subscriptions_mut().remove(filter) {
                Some(subscription) => {
                    self.replays.end(filter);
                    self.change(|session| Change::Unsubscribe(session, filter.clone()));
                    let broker = &self.link.broker;
                    let left = broker.router.unsubscribe(&self.link.peer, &subscription);
                    broker.redeliver(left, now);
                    reasons.push(ReasonCode::Success);
                }
                None => reasons.push(ReasonCode::NoSubscriptionExisted),
            }
        }
        let unsuback = Unsuback {
            packet_id: unsubscribe.packet_id,
            reasons,
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        Packet::Unsuback(unsuback).encode(self.link.session.link().version, out);
    }

    fn disconnect(&mut self, disconnect: &Disconnect) -> Closing {
        if let Some(expiry_s) = disconnect.session_expiry_s {
            if self.link.expiry_s == 0 && expiry_s != 0 {
                return self.violated(Violation::protocol(
                    "MQTT-3.1.2-23",
                    "DISCONNECT gives a session expiry where CONNECT gave none",
                ));
            }
            self.link.expiry_s = self.link.profile.features.session_expiry_s(expiry_s);
        }
        let will = disconnect.reason != ReasonCode::Success;
        Closing::ByClient { reason: disconnect.reason, will }
    }

    /// Records a violation and ends the connection because of it.
    pub(super) fn violated(&self, violation: Violation) -> Closing {
        self.link.broker.metrics.violations.inc();
        self.link.broker.audit.record(Event::about(&self.link.client, violation.into()));
        violation.into()
    }

    /// Records what a gate refused.
    pub(super) fn record_denied(
        &self,
        verb: Verb,
        target: Option<Target>,
        refusal: &Refusal,
        now: Now,
    ) {
        let policies = match refusal {
            Refusal::Denied(denial) => denial.policies.iter().cloned().collect(),
            _ => Arc::default(),
        };
        let denied = Kind::Denied {
            verb,
            target,
            policies,
            reason: refusal.reason(),
            why: refusal.to_string().into(),
        };
        let broker = &self.link.broker;
        broker.metrics.denials.of(verb).inc();
        if self.link.rate.may_record(now.instant) {
            broker.audit.record(Event::about(&self.link.client, denied));
        } else {
            broker.audit.leave_out();
        }
    }
}
