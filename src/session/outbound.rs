//! Towards the client: packet identifiers, what is in flight, and sending again.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use super::aliases::{OutgoingAliases, Said};
use super::message::{Delivery, Seq};
use super::{Link, Remains, Settings, Step};
use crate::mqtt::packet::{
    Ack, Packet, PacketId, PublishBody, PublishHead, Qos, encode_publish, publish_bytes,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, Violation};

/// What became of a delivery that was handed to [`super::Session::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Encoded.
    Written,
    /// Not sent, and never will be: it has expired.
    Expired,
    /// Not sent, and never will be: the client does not take packets of that size.
    TooLarge,
    /// Not sent: every packet identifier is in use. It does not happen to who asks for
    /// [`super::Session::room`] first.
    NoIdentifier,
}

/// QoS 1 and 2 publications on their way to the client, in the order they were sent.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// In the order of sending. What is done stays as a gap until the front has moved past it,
    /// so that a packet identifier is found by its distance from the front.
    inflight: VecDeque<Inflight>,
    /// How many of `inflight` are not done.
    active: u16,
    /// How many of `inflight`, from the front, were sent on this connection.
    sent: usize,
    /// The packet identifier given out last.
    last_id: u16,
    /// How many identifiers after `last_id` are known to be free.
    // INVARIANT: none of them stands in `inflight`. Only `next_id` puts identifiers there.
    free_ahead: u16,
    aliases: OutgoingAliases,
    /// Of a durable session's queue.
    queue: Option<Box<QueueEnd>>,
}

/// How far the queue of a durable session has been sent.
#[derive(Debug, Default)]
struct QueueEnd {
    /// The last delivery that was sent, or never will be, and so were all before it.
    last: Option<Seq>,
    /// What a restart has left: once the first of these numbers was sent, so was all up to the
    /// second, which is released.
    released: Option<(Seq, Seq)>,
    /// What is in flight is not in the order of its numbers.
    is_mixed: bool,
    /// Up to here they may have been sent before the broker was restarted.
    sent_before: Option<Seq>,
    /// The steps of the session that were not taken yet.
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Inflight {
    packet_id: PacketId,
    state: State,
    seq: Option<Seq>,
}

#[derive(Debug)]
enum State {
    /// PUBLISH sent, PUBACK or PUBREC awaited.
    Published(Delivery),
    /// PUBREL sent, PUBCOMP awaited.
    Released,
    /// Acknowledged to the end.
    Done,
}

impl Outbound {
    /// For a durable session that was in the store: everything before the next number may have
    /// been sent, and PUBREL was or will be sent for what is released.
    pub(super) fn restored(remains: &Remains<'_>) -> Self {
        let Remains { released, waiting, next, .. } = remains;
        let inflight = released.iter().map(|seq| Inflight {
            packet_id: id_of(*seq),
            state: State::Released,
            seq: Some(*seq),
        });
        let last_released = released.last().copied();
        let queue = QueueEnd {
            last: waiting.map_or(last_released, |(first, _)| first.before()),
            released: waiting.map(|(_, last)| last).zip(last_released),
            is_mixed: true,
            sent_before: next.before(),
            steps: Vec::new(),
        };
        Self {
            inflight: inflight.collect(),
            active: u16::try_from(released.len()).unwrap_or(u16::MAX),
            queue: Some(Box::new(queue)),
            ..Self::default()
        }
    }

    /// The deliveries have numbers from now on.
    pub(super) fn make_durable(&mut self) {
        self.queue.get_or_insert_default();
    }

    /// Notes a step of a durable session.
    pub(super) fn note(&mut self, step: Step) {
        if let Some(queue) = &mut self.queue {
            queue.steps.push(step);
        }
    }

    /// The steps since this was last called.
    pub(super) fn take_steps(&mut self) -> impl Iterator<Item = Step> {
        self.queue.iter_mut().flat_map(|queue| queue.steps.drain(..))
    }

    /// A delivery of a durable session's queue will not be sent.
    pub(super) fn pass(&mut self, seq: Option<Seq>) {
        if let Some(queue) = &mut self.queue {
            queue.last = queue.last.max(seq);
            if let Some((_, last)) = queue.released.take_if(|(waited, _)| seq >= Some(*waited)) {
                queue.last = queue.last.max(Some(last));
            }
        }
    }

    /// True when nothing of a durable session's queue can have been sent that is not done with, and
    /// the rest begins here.
    pub(super) fn is_unsent(&self, from: Seq) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.sent_before < Some(from))
            && self.finished() >= from.before()
    }

    /// Of a durable session's queue from `from` on, which has not been taken out since the broker
    /// was started: from here on nothing was sent before either.
    pub(super) fn unsent_from(&self, from: Seq) -> Seq {
        let sent_before = self.queue.as_ref().and_then(|queue| queue.sent_before);
        sent_before.map_or(from, |last| last.after(1).max(from))
    }

    /// Everything in a durable session's queue up to here is done with; `None`: nothing yet.
    pub(super) fn finished(&self) -> Option<Seq> {
        let last = self.queue.as_ref()?.last;
        self.first_unfinished().map_or(last, |seq| seq.before().min(last))
    }

    /// The first delivery of a durable session's queue that has to wait until others are done:
    /// its packet identifier would be one of theirs.
    pub(super) fn wraps_at(&self) -> Option<Seq> {
        Some(self.first_unfinished()?.after(u64::from(QUEUE_IDENTIFIERS)))
    }

    fn first_unfinished(&self) -> Option<Seq> {
        let undone = self.inflight.iter().filter(|entry| !matches!(entry.state, State::Done));
        let mut numbers = undone.filter_map(|entry| entry.seq);
        let is_mixed = self.queue.as_ref().is_some_and(|queue| queue.is_mixed);
        if is_mixed { numbers.min() } else { numbers.next() }
    }

    /// Marks everything in flight as to be sent again on a new connection.
    pub(super) fn rewind(&mut self) {
        self.aliases.forget();
        self.inflight.retain(|entry| !matches!(entry.state, State::Done));
        self.sent = 0;
    }

    /// Frees what can be made again.
    pub(super) fn shed(&mut self) {
        self.aliases.forget();
    }

    /// True when something of an earlier connection is still to be sent again.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.inflight.len()
    }

    /// How many more QoS 1 and 2 publications may be sent.
    pub(super) fn room(&self, link: &Link, settings: &Settings) -> u16 {
        if self.has_unsent() {
            return 0;
        }
        link.receive_maximum.min(settings.inflight_max).get().saturating_sub(self.active)
    }

    /// How many QoS 1 and 2 publications are in flight.
    pub(super) fn active(&self) -> u16 {
        self.active
    }

    /// Sends again what was in flight when the last connection ended, in order, as far as the
    /// client's receive maximum lets it: publications with DUP, and PUBREL
    /// [MQTT-4.4.0-1]. A publication that the client `may` not have any more ends here.
    pub(super) fn resend(
        &mut self,
        link: &Link,
        now: Instant,
        may: &mut dyn FnMut(&Delivery) -> bool,
        out: &mut Vec<u8>,
    ) {
        let limit = usize::from(link.receive_maximum.get());
        let mut awaited = self
            .inflight
            .iter()
            .take(self.sent)
            .filter(|entry| !matches!(entry.state, State::Done))
            .count();
        while awaited < limit {
            let Some(entry) = self.inflight.get_mut(self.sent) else { return };
            self.sent += 1;
            match &entry.state {
                State::Done => {}
                State::Published(delivery) => {
                    // Expired or not: its delivery has begun, so it is brought to its end.
                    if fits(delivery, link, now) && may(delivery) {
                        encode(delivery, Some(entry.packet_id), true, link, now, out);
                        awaited += 1;
                    } else {
                        entry.state = State::Done;
                        self.active = self.active.saturating_sub(1);
                    }
                }
                State::Released => {
                    let ack = Ack::new(entry.packet_id, ReasonCode::Success);
                    Packet::Pubrel(ack).encode(link.version, out);
                    awaited += 1;
                }
            }
        }
    }

    /// Sends one delivery. QoS 1 and 2 need [`Outbound::room`].
    pub(super) fn send(
        &mut self,
        delivery: Delivery,
        link: &Link,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Sent {
        let seq = delivery.seq;
        self.pass(seq);
        if delivery.message.has_expired(now) {
            return Sent::Expired;
        }
        if !fits(&delivery, link, now) {
            return Sent::TooLarge;
        }
        if delivery.qos == Qos::AtMostOnce {
            self.encode(&delivery, None, link, now, out);
            return Sent::Written;
        }
        let packet_id = match seq {
            Some(seq) => Some(id_of(seq)),
            None => self.next_id(),
        };
        let Some(packet_id) = packet_id else { return Sent::NoIdentifier };
        let sent_before = self.queue.as_ref().and_then(|queue| queue.sent_before);
        if seq.is_some() && seq <= sent_before {
            encode(&delivery, Some(packet_id), true, link, now, out);
        } else {
            self.encode(&delivery, Some(packet_id), link, now, out);
        }
        self.inflight.push_back(Inflight { packet_id, state: State::Published(delivery), seq });
        self.sent = self.inflight.len();
        self.active = self.active.saturating_add(1);
        Sent::Written
    }

    /// A first delivery, by a topic alias where the client takes them.
    fn encode(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        link: &Link,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let message = &delivery.message;
        if link.outgoing_alias_max == 0 || !link.version.is_v5() {
            return encode(delivery, packet_id, false, link, now, out);
        }
        let mut body = message.body(message.expiry_left_s(now), &delivery.via.ids);
        match self.aliases.say(&message.topic, link.outgoing_alias_max) {
            Said::InFull => {}
            Said::ByAlias(alias) => {
                body.topic = "";
                body.topic_alias = Some(alias);
            }
            Said::Naming(alias) => {
                body.topic_alias = Some(alias);
                if is_taken(&body, delivery.qos, link) {
                    self.aliases.name(&message.topic);
                } else {
                    body.topic_alias = None;
                }
            }
        }
        let head =
            PublishHead { dup: false, qos: delivery.qos, retain: delivery.retain, packet_id };
        encode_publish(out, link.version, head, &body);
    }

    /// PUBACK: a QoS 1 delivery is done. An identifier that is not in flight is ignored: the
    /// client may acknowledge what it got on an earlier connection.
    ///
    /// # Errors
    /// A [`Violation`] when the identifier belongs to a QoS 2 delivery.
    pub(super) fn puback(&mut self, packet_id: PacketId) -> Result<(), Violation> {
        let Some(entry) = self.entry(packet_id) else { return Ok(()) };
        match &entry.state {
            State::Published(delivery) if delivery.qos == Qos::AtLeastOnce => {
                entry.state = State::Done;
                self.finish_one();
            }
            State::Done => {}
            State::Published(_) | State::Released => {
                return Err(Violation::protocol("4.3.3", "PUBACK for a QoS 2 delivery"));
            }
        }
        Ok(())
    }

    /// PUBREC: answers with PUBREL, or ends the delivery when the client refused it, which
    /// frees its place in the quota [MQTT-4.9.0-2].
    ///
    /// # Errors
    /// A [`Violation`] when the identifier belongs to a QoS 1 delivery.
    pub(super) fn pubrec(
        &mut self,
        ack: &Ack,
        version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        let failed = ack.reason.is_error();
        let mut released = None;
        let reason = match self.entry(ack.packet_id) {
            Some(entry) => match &entry.state {
                State::Published(delivery) if delivery.qos == Qos::ExactlyOnce => {
                    if failed {
                        entry.state = State::Done;
                        self.finish_one();
                        return Ok(());
                    }
                    entry.state = State::Released;
                    released = entry.seq;
                    ReasonCode::Success
                }
                State::Released => ReasonCode::Success,
                State::Published(_) => {
                    return Err(Violation::protocol("4.3.2", "PUBREC for a QoS 1 delivery"));
                }
                State::Done => ReasonCode::PacketIdentifierNotFound,
            },
            None => ReasonCode::PacketIdentifierNotFound,
        };
        if !failed {
            Packet::Pubrel(Ack::new(ack.packet_id, reason)).encode(version, out);
        }
        if let Some(seq) = released {
            self.note(Step::Released(seq));
        }
        Ok(())
    }

    /// PUBCOMP: a QoS 2 delivery is done.
    ///
    /// # Errors
    /// A [`Violation`] when the delivery was not released.
    pub(super) fn pubcomp(&mut self, packet_id: PacketId) -> Result<(), Violation> {
        let Some(entry) = self.entry(packet_id) else { return Ok(()) };
        match &entry.state {
            State::Released => {
                entry.state = State::Done;
                self.finish_one();
            }
            State::Done => {}
            State::Published(_) => {
                return Err(Violation::protocol("4.3.3", "PUBCOMP before PUBREL"));
            }
        }
        Ok(())
    }

    /// Takes out the publications that were not acknowledged at all, in order.
    pub(super) fn take_unacknowledged(&mut self) -> Vec<Delivery> {
        self.active = 0;
        self.sent = 0;
        std::mem::take(&mut self.inflight)
            .into_iter()
            .filter_map(|entry| match entry.state {
                State::Published(delivery) => Some(delivery),
                State::Released | State::Done => None,
            })
            .collect()
    }

    /// How many places the queue has, gaps included.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.inflight.len()
    }

    fn finish_one(&mut self) {
        self.active = self.active.saturating_sub(1);
        while self.inflight.front().is_some_and(|entry| matches!(entry.state, State::Done)) {
            self.inflight.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        if let Some(queue) = self.queue.as_mut().filter(|_| self.inflight.is_empty()) {
            queue.is_mixed = queue.released.is_some();
        }
        // A client that never acknowledges one message must not make the gaps behind it grow.
        if self.inflight.len() > 2 * usize::from(self.active) + 64 {
            self.close_gaps();
        }
        if self.inflight.is_empty() && self.inflight.capacity() > 64 {
            self.inflight = VecDeque::new();
        }
    }

    fn close_gaps(&mut self) {
        let sent = self.inflight.iter().take(self.sent);
        self.sent = sent.filter(|entry| !matches!(entry.state, State::Done)).count();
        self.inflight.retain(|entry| !matches!(entry.state, State::Done));
    }

    /// The place of an identifier: its distance from the front where there are no gaps in the
    /// numbers, else by a search.
    fn position(&self, packet_id: PacketId) -> Option<usize> {
        let front = self.inflight.front()?.packet_id.as_u16();
        let id = packet_id.as_u16();
        let distance =
            if id >= front { id - front } else { id.wrapping_sub(front).wrapping_sub(1) };
        let guess = usize::from(distance);
        if self.inflight.get(guess).is_some_and(|entry| entry.packet_id == packet_id) {
            return Some(guess);
        }
        self.inflight.iter().position(|entry| entry.packet_id == packet_id)
    }

    fn entry(&mut self, packet_id: PacketId) -> Option<&mut Inflight> {
        let position = self.position(packet_id)?;
        self.inflight.get_mut(position)
    }

    /// The next identifier that is not in use; `None` when all are.
    fn next_id(&mut self) -> Option<PacketId> {
        let lowest = if self.queue.is_some() { QUEUE_IDENTIFIERS + 1 } else { 1 };
        if self.last_id < lowest - 1 || self.last_id == u16::MAX {
            self.last_id = lowest - 1;
            self.free_ahead = 0;
        }
        if self.free_ahead == 0 {
            self.find_free();
        }
        self.free_ahead = self.free_ahead.checked_sub(1)?;
        self.last_id = id_after(self.last_id, 1);
        PacketId::new(self.last_id).filter(|id| id.as_u16() >= lowest)
    }

    /// Moves `last_id` on to where identifiers are free, and counts how many follow each other.
    /// Acknowledgements only free more, so that one search serves a whole run of them.
    fn find_free(&mut self) {
        // A gap keeps its identifier; there may be so many that they leave no other.
        self.close_gaps();
        let mut used: Vec<u16> =
            self.inflight.iter().map(|entry| steps(self.last_id, entry.packet_id)).collect();
        used.sort_unstable();
        let taken = used.iter().zip(1..=u16::MAX).take_while(|(step, at)| *step == at).count();
        let next_used = used.get(taken).map_or(IDENTIFIERS + 1, |step| usize::from(*step));
        self.last_id = id_after(self.last_id, taken);
        self.free_ahead = u16::try_from(next_used - taken - 1).unwrap_or(u16::MAX);
    }
}

/// Packet identifiers for the queue of a durable session: 1 to this, one after the other. A
/// delivery has the same one after a restart. The rest is for what is not in the queue.
const QUEUE_IDENTIFIERS: u16 = 49_151;

/// The packet identifier of a delivery in the queue of a durable session.
fn id_of(seq: Seq) -> PacketId {
    let place = (seq.0.get() - 1) % u64::from(QUEUE_IDENTIFIERS);
    let id = u16::try_from(place).ok().and_then(|place| PacketId::new(place + 1));
    id.unwrap_or(PacketId(NonZeroU16::MIN))
}

/// How many packet identifiers there are: 1 to 65,535, after which 1 follows.
const IDENTIFIERS: usize = u16::MAX as usize;

/// The identifier so many steps after another one, 0 standing before the first.
fn id_after(id: u16, steps: usize) -> u16 {
    let after = usize::from(id) + steps;
    u16::try_from(if after > IDENTIFIERS { after - IDENTIFIERS } else { after }).unwrap_or(1)
}

/// How many steps after `last` an identifier comes: at least 1.
fn steps(last: u16, id: PacketId) -> u16 {
    let id = id.as_u16();
    if id > last { id - last } else { u16::MAX - last + id }
}

/// True when the client takes a packet of this size [MQTT-3.1.2-24].
fn fits(delivery: &Delivery, link: &Link, now: Instant) -> bool {
    if link.packet_bytes_max.is_none() {
        return true;
    }
    let message = &delivery.message;
    is_taken(&message.body(message.expiry_left_s(now), &delivery.via.ids), delivery.qos, link)
}

fn is_taken(body: &PublishBody<'_>, qos: Qos, link: &Link) -> bool {
    let bytes = publish_bytes(link.version, qos, body);
    link.packet_bytes_max.is_none_or(|limit| bytes <= limit.get() as usize)
}

fn encode(
    delivery: &Delivery,
    packet_id: Option<PacketId>,
    dup: bool,
    link: &Link,
    now: Instant,
    out: &mut Vec<u8>,
) {
    let version = link.version;
    let message: &Arc<_> = &delivery.message;
    let plain = packet_id.is_none() && !delivery.retain && message.expires_at.is_none();
    if delivery.wide && plain && (delivery.via.ids.is_empty() || !version.is_v5()) {
        out.extend_from_slice(message.shared_frame(version));
        return;
    }
    let head = PublishHead { dup, qos: delivery.qos, retain: delivery.retain, packet_id };
    let body = message.body(message.expiry_left_s(now), &delivery.via.ids);
    encode_publish(out, version, head, &body);
}
