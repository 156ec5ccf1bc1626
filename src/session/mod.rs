//! The protocol state of one client, without socket, clock, file or async.
//!
//! A [`Session`] outlives its connections: it keeps the subscriptions, the QoS 2 identifiers
//! that are not released, and what is in flight to the client. [`Session::connect`] gives it a
//! [`Link`], the facts of one connection. From then on packets go in through
//! [`Session::receive`], deliveries through [`Session::send`]; bytes for the client come out in
//! a buffer of the caller's. What a publication leads to is decided outside, between `receive`
//! and [`Session::settle`].

mod aliases;
mod inbound;
mod message;
mod outbound;
mod subscription;

pub use message::{Delivery, Message, MessageId, Origin, Seq, Via};
pub use outbound::Sent;
pub use subscription::{Stamp, Subscription, SubscriptionOptions, Subscriptions};

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use crate::mqtt::packet::{
    Ack, Auth, Disconnect, Packet, PacketId, Publish, Qos, Subscribe, Unsubscribe,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, TopicName, Violation};

use inbound::Inbound;
use outbound::Outbound;

/// Bounds of one session's protocol state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// QoS 1 and 2 publications the broker takes from the client at a time (announced as
    /// Receive Maximum in MQTT 5).
    pub receive_maximum: NonZeroU16,
    /// QoS 1 and 2 publications sent to the client at a time, whatever it allows.
    pub inflight_max: NonZeroU16,
    /// Subscriptions.
    pub subscriptions_max: u32,
}

/// What CONNECT fixed for one connection.
#[derive(Clone, Debug)]
pub struct Link {
    /// The protocol version.
    pub version: ProtocolVersion,
    /// QoS 1 and 2 publications the client takes at a time.
    pub receive_maximum: NonZeroU16,
    /// The largest packet the client takes, in bytes.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The client takes reason strings and user properties in any packet.
    pub problem_information: bool,
    /// The highest topic alias the client may use; 0 is none.
    pub topic_alias_max: u16,
    /// The highest topic alias that the broker may use towards the client; 0 is none.
    pub outgoing_alias_max: u16,
    /// The keep-alive interval in force; `None` is off.
    pub keep_alive: Option<Duration>,
}

/// What the session wants done about a packet.
#[derive(Debug)]
pub enum Received<'a> {
    /// Nothing: the session has answered by itself.
    Handled,
    /// To be authorised, routed, and given back to [`Session::settle`].
    Publish(Inward<'a>),
    /// To be authorised, entered, and answered with SUBACK.
    Subscribe(Subscribe),
    /// To be undone and answered with UNSUBACK.
    Unsubscribe(Unsubscribe),
    /// The client ends the connection.
    Disconnect(Box<Disconnect>),
    /// An extended authentication, which a gate has to answer.
    Auth(Box<Auth>),
}

/// A publication from the client, its alias resolved, not a duplicate.
#[derive(Debug)]
pub struct Inward<'a> {
    /// The topic it is for.
    pub topic: TopicName,
    /// The packet as it came.
    pub publish: Publish<'a>,
}

impl Inward<'_> {
    /// What [`Session::settle`] needs to acknowledge it.
    pub fn ticket(&self) -> Ticket {
        Ticket { qos: self.publish.qos, packet_id: self.publish.packet_id }
    }
}

/// Stands for one publication that is not acknowledged yet.
#[derive(Debug)]
#[must_use = "a publication that is not settled is never acknowledged"]
pub struct Ticket {
    qos: Qos,
    packet_id: Option<PacketId>,
}

impl Ticket {
    /// True when the client is told what became of its publication.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.packet_id.is_some()
    }
}

/// A step of a durable session that has to be on disk before its answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A QoS 2 publication of the client was taken.
    Held(PacketId),
    /// PUBREL came for it.
    Freed(PacketId),
    /// PUBREC came for this delivery.
    Released(Seq),
}

/// What a durable session was when the broker stopped.
#[derive(Debug)]
pub struct Remains<'a> {
    /// QoS 2 publications of the client that wait for PUBREL, in order.
    pub held: &'a [PacketId],
    /// Deliveries for which PUBREC came, in order.
    pub released: &'a [Seq],
    /// The first and last of the deliveries that wait. Some released ones may lie behind them.
    pub waiting: Option<(Seq, Seq)>,
    /// The number of the next delivery.
    pub next: Seq,
}

/// What happens to a QoS 1 or 2 message when its session's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It is dropped.
    DropNewest,
    /// The one that waits longest is.
    DropOldest,
    /// It is refused to its publisher, and nobody gets it. One whose publisher cannot be told (a
    /// will, what a share group's member left behind) is dropped.
    RefusePublisher,
}

/// The state of one client identifier.
#[derive(Debug)]
pub struct Session {
    link: Link,
    settings: Settings,
    inbound: Inbound,
    outbound: Outbound,
    subscriptions: Subscriptions,
    last_heard: Instant,
}

impl Session {
    /// A new session on its first connection.
    #[must_use]
    pub fn new(settings: Settings, link: Link, now: Instant) -> Self {
        Self {
            link,
            settings,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            subscriptions: Subscriptions::default(),
            last_heard: now,
        }
    }

    /// A durable session as it was before the broker stopped; its subscriptions are to be entered
    /// again. `link` stands for that of its last connection.
    #[must_use]
    pub fn restored(settings: Settings, link: Link, remains: &Remains<'_>, now: Instant) -> Self {
        Self {
            inbound: Inbound::restored(remains.held),
            outbound: Outbound::restored(remains),
            ..Self::new(settings, link, now)
        }
    }

    /// From now on the session is durable: its steps are noted. Only before its first packet.
    pub fn make_durable(&mut self) {
        self.outbound.make_durable();
    }

    /// The steps since this was last called.
    pub fn take_steps(&mut self) -> impl Iterator<Item = Step> {
        self.outbound.take_steps()
    }

    /// True when nothing of a durable session's queue can have been sent that is not done with, not
    /// before the broker was restarted either, and the rest begins here.
    #[must_use]
    pub fn is_unsent(&self, from: Seq) -> bool {
        self.outbound.is_unsent(from)
    }

    /// Of a durable session's queue from `from` on, which has not been taken out since the broker
    /// was started: from here on nothing was sent before either.
    #[must_use]
    pub fn unsent_from(&self, from: Seq) -> Seq {
        self.outbound.unsent_from(from)
    }

    /// Everything in a durable session's queue up to here is done with; `None`: nothing yet.
    #[must_use]
    pub fn finished(&self) -> Option<Seq> {
        self.outbound.finished()
    }

    /// From here on a durable session's queue has to wait until others are done.
    #[must_use]
    pub fn wraps_at(&self) -> Option<Seq> {
        self.outbound.wraps_at()
    }

    /// A delivery will not be sent.
    pub fn pass(&mut self, delivery: &Delivery) {
        self.outbound.pass(delivery.seq);
    }

    /// Resumes the session on a new connection, perhaps of another version. What is in flight
    /// is to be sent again: see [`Session::resend`].
    pub fn connect(&mut self, settings: Settings, link: Link, now: Instant) {
        self.link = link;
        self.settings = settings;
        self.last_heard = now;
        self.inbound.new_connection();
        self.outbound.rewind();
    }

    /// The facts of the present or last connection.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The bounds in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The subscriptions.
    #[must_use]
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// The subscriptions, to be changed.
    pub fn subscriptions_mut(&mut self) -> &mut Subscriptions {
        &mut self.subscriptions
    }

    /// Takes in one packet. Answers that need no decision are appended to `out`.
    ///
    /// # Errors
    /// A [`Violation`] where the packet breaks a rule that depends on what came before it. It
    /// ends the connection.
    pub fn receive<'a>(
        &mut self,
        packet: Packet<'a>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Received<'a>, Violation> {
        self.last_heard = now;
        let version = self.link.version;
        match packet {
            Packet::Publish(publish) => {
                let topic = self.inbound.topic(&publish, &self.link)?;
                if !self.inbound.is_new(&publish, &self.link, &self.settings)? {
                    if let Some(packet_id) = publish.packet_id {
                        Packet::Pubrec(Ack::new(packet_id, ReasonCode::Success))
                            .encode(version, out);
                    }
                    return Ok(Received::Handled);
                }
                return Ok(Received::Publish(Inward { topic, publish }));
            }
            Packet::Puback(ack) => self.outbound.puback(ack.packet_id)?,
            Packet::Pubrec(ack) => self.outbound.pubrec(&ack, version, out)?,
            Packet::Pubcomp(ack) => self.outbound.pubcomp(ack.packet_id)?,
            Packet::Pubrel(ack) => {
                let known = self.inbound.release(ack.packet_id);
                if known {
                    self.outbound.note(Step::Freed(ack.packet_id));
                }
                let reason = if known || !version.is_v5() {
                    ReasonCode::Success
                } else {
                    ReasonCode::PacketIdentifierNotFound
                };
                Packet::Pubcomp(Ack::new(ack.packet_id, reason)).encode(version, out);
            }
            Packet::Pingreq => Packet::Pingresp.encode(version, out),
            Packet::Subscribe(subscribe) => return Ok(Received::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => return Ok(Received::Unsubscribe(unsubscribe)),
            Packet::Disconnect(disconnect) => return Ok(Received::Disconnect(disconnect)),
            Packet::Auth(auth) => return Ok(Received::Auth(auth)),
            Packet::Connect(_) => {
                return Err(Violation::protocol("MQTT-3.1.0-2", "a second CONNECT"));
            }
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                return Err(Violation::protocol("2.1.2", "a packet that only a server sends"));
            }
        }
        Ok(Received::Handled)
    }

    /// Acknowledges a publication with its outcome [MQTT-4.3.2-4], [MQTT-4.3.3-8].
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is spent by settling it")]
    pub fn settle(&mut self, ticket: Ticket, reason: ReasonCode, out: &mut Vec<u8>) {
        let Some(packet_id) = ticket.packet_id else { return };
        let ack = Ack::new(packet_id, reason);
        match ticket.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => Packet::Puback(ack).encode(self.link.version, out),
            Qos::ExactlyOnce => {
                // MQTT 3 has no refusal in PUBREC: the client goes on to PUBREL.
                if !reason.is_error() || !self.link.version.is_v5() {
                    self.inbound.hold(packet_id);
                    self.outbound.note(Step::Held(packet_id));
                }
                Packet::Pubrec(ack).encode(self.link.version, out);
            }
        }
    }

    /// How many QoS 1 and 2 deliveries [`Session::send`] takes at present.
    #[must_use]
    pub fn room(&self) -> u16 {
        self.outbound.room(&self.link, &self.settings)
    }

    /// Sends one delivery; QoS 1 and 2 only while there is [`Session::room`].
    pub fn send(&mut self, delivery: Delivery, now: Instant, out: &mut Vec<u8>) -> Sent {
        self.outbound.send(delivery, &self.link, now, out)
    }

    /// Sends again what an earlier connection left in flight, as far as the client takes it at
    /// a time; call it until [`Session::is_resending`] is false, before anything new is sent.
    /// `may` decides for each publication whether the client may still have it: its rights may
    /// have changed in between.
    pub fn resend(
        &mut self,
        now: Instant,
        may: &mut dyn FnMut(&Delivery) -> bool,
        out: &mut Vec<u8>,
    ) {
        self.outbound.resend(&self.link, now, may, out);
    }

    /// True while something of an earlier connection is still to be sent again.
    #[must_use]
    pub fn is_resending(&self) -> bool {
        self.outbound.has_unsent()
    }

    /// QoS 1 and 2 publications in flight to the client.
    #[must_use]
    pub fn inflight(&self) -> u16 {
        self.outbound.active()
    }

    /// QoS 2 publications of the client that wait for PUBREL.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        self.inbound.unreleased()
    }

    /// When the client will have been silent for too long: one and a half keep-alive intervals
    /// after the last packet [MQTT-3.1.2-22]. `None` with keep-alive off.
    #[must_use]
    pub fn keep_alive_deadline(&self) -> Option<Instant> {
        let interval = self.link.keep_alive?;
        self.last_heard.checked_add(interval + interval / 2)
    }

    /// Frees what can be made again, for a client that is silent.
    pub fn shed(&mut self) {
        self.inbound.shed();
        self.outbound.shed();
    }

    /// Ends the session: what was never acknowledged, for share groups to deliver elsewhere.
    #[must_use]
    pub fn take_unacknowledged(&mut self) -> Vec<Delivery> {
        self.outbound.take_unacknowledged()
    }
}

#[cfg(test)]
mod tests;
