//! Whole conversations with one session, and a client that keeps its own books.

mod client;

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::client::Client;
use crate::mqtt::frame::FrameHeader;
use crate::mqtt::packet::{Packet, Publish, Qos, Side};
use crate::mqtt::{ProtocolVersion, ReasonCode, SubscriptionFilter, TopicName, Violation};
use crate::session::{
    Delivery, Inward, Link, Message, MessageId, Received, Session, Settings, Subscription,
    SubscriptionOptions, Ticket, Via,
};

/// The largest packet a client sends here.
const PACKET_BYTES_MAX: u32 = 1 << 16;
/// Messages kept to be delivered later.
const MESSAGES_MAX: usize = 16;
/// Deliveries of all bursts of one conversation.
const BURST_DELIVERIES_MAX: u32 = 4096;

/// What a publication may lead to; `None` ends the connection before it is settled.
const OUTCOMES: [Option<ReasonCode>; 6] = [
    Some(ReasonCode::Success),
    Some(ReasonCode::NoMatchingSubscribers),
    Some(ReasonCode::NotAuthorized),
    Some(ReasonCode::QuotaExceeded),
    Some(ReasonCode::PayloadFormatInvalid),
    None,
];

/// The bytes are the facts of a first connection and then steps, one after the other. A step
/// that begins with 0x10 or more is a packet of the client, a PUBLISH being followed by one byte
/// that chooses its outcome. Below that: 0 connects again, 1 lets time pass, 2 delivers a
/// message, 3 sends again what an earlier connection left, 4 sheds, 5 ends the session and
/// begins another, 6 delivers many messages, of which the client acknowledges all but some. Any
/// other byte is passed over.
///
/// Whatever the client does, it is sent nothing but valid packets, never more publications at a
/// time than it takes, and every message of QoS 2 reaches the router once.
///
/// # Panics
/// When that does not hold.
pub fn session(data: &[u8]) {
    let mut input = Input(data);
    let (settings, link) = (input.settings(), input.link());
    let now = Instant::now();
    let client = Client::new(&link, &settings);
    let mut conversation = Conversation {
        session: Session::new(settings, link, now),
        client,
        messages: vec![Arc::new(plain_message(now))],
        now,
        burst: 0,
    };
    while conversation.step(&mut input).is_some() {
        conversation.client.agrees_with(&conversation.session);
    }
}

/// What is left of the bytes. `None` is their end, and with it the end of the conversation.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A fact, which is 0 where the bytes have ended.
    fn fact(&mut self) -> u8 {
        self.u8().unwrap_or(0)
    }

    fn window(&mut self) -> NonZeroU16 {
        NonZeroU16::MIN.saturating_add(self.fact().into())
    }

    fn settings(&mut self) -> Settings {
        Settings {
            receive_maximum: self.window(),
            inflight_max: self.window(),
            subscriptions_max: 64,
        }
    }

    fn link(&mut self) -> Link {
        let facts = self.fact();
        let version = super::VERSIONS.get(usize::from(facts & 0b11)).copied();
        Link {
            version: version.unwrap_or(ProtocolVersion::V5),
            receive_maximum: self.window(),
            packet_bytes_max: NonZeroU32::new(u32::from(self.fact()) * 4),
            problem_information: facts & 0b100 != 0,
            topic_alias_max: u16::from(facts >> 4),
            outgoing_alias_max: u16::from(facts >> 6),
            keep_alive: (facts & 0b1000 != 0).then_some(Duration::from_secs(u16::MAX.into())),
        }
    }

    /// The next packet, as the first byte of its header and its body. `None` too where it is
    /// malformed before its body begins: those bytes are for another target.
    fn packet(&mut self) -> Option<(u8, &'a [u8])> {
        let header = FrameHeader::peek(self.0, PACKET_BYTES_MAX).ok()??;
        let body = self.0.get(header.header_bytes..header.packet_bytes())?;
        self.0 = self.0.get(header.packet_bytes()..)?;
        Some((header.first_byte, body))
    }
}

struct Conversation {
    session: Session,
    client: Client,
    messages: Vec<Arc<Message>>,
    now: Instant,
    /// Deliveries that bursts have taken so far.
    burst: u32,
}

impl Conversation {
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        if *input.0.first()? >= 0x10 {
            return self.packet(input);
        }
        match input.u8()? {
            0 => self.connect(input),
            1 => self.now = self.now.checked_add(Duration::from_secs(input.u8()?.into()))?,
            2 => self.deliver(input.u8()?),
            3 => self.resend(),
            4 => self.session.shed(),
            5 => self.begin_anew(input),
            6 => self.deliver_many(input.u8()?),
            _ => {}
        }
        Some(())
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        let (settings, link) = (input.settings(), input.link());
        self.client.connect(&link, &settings);
        self.session.connect(settings, link, self.now);
        assert!(self.session.keep_alive_deadline().is_none_or(|deadline| deadline > self.now));
    }

    fn begin_anew(&mut self, input: &mut Input<'_>) {
        let inflight = usize::from(self.session.inflight());
        assert!(self.session.take_unacknowledged().len() <= inflight);
        assert_eq!(self.session.inflight(), 0);
        let (settings, link) = (input.settings(), input.link());
        self.client = Client::new(&link, &settings);
        self.session = Session::new(settings, link, self.now);
    }

    fn packet(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (first_byte, body) = input.packet()?;
        let version = self.session.link().version;
        let received = match Packet::decode(first_byte, body, version, Side::FromClient) {
            Ok(packet) => self.receive(packet, input),
            Err(violation) => Err(violation),
        };
        if received.is_err() {
            self.connect(input);
        }
        Some(())
    }

    /// Does what a connection does about a packet of its client. An error ends the connection.
    fn receive(&mut self, packet: Packet<'_>, input: &mut Input<'_>) -> Result<(), Violation> {
        let over = Err(Violation::protocol("3.14", "the connection is over"));
        let mut out = Vec::new();
        let announced = self.client.announce(&packet);
        match self.session.receive(packet, self.now, &mut out)? {
            Received::Handled => announced.was_handled(),
            Received::Publish(inward) => {
                announced.was_passed_on(&inward.topic);
                let chosen = usize::from(input.fact()) % OUTCOMES.len();
                let Some(outcome) = OUTCOMES.get(chosen).copied().flatten() else { return over };
                let ticket = self.keep(inward);
                self.session.settle(ticket, outcome, &mut out);
                self.client.settled(&announced, outcome, &out);
                return Ok(());
            }
            Received::Subscribe(subscribe) => {
                for entry in subscribe.entries {
                    let options = SubscriptionOptions {
                        qos: entry.qos,
                        no_local: entry.no_local,
                        retain_as_published: entry.retain_as_published,
                        id: subscribe.subscription_id,
                    };
                    self.subscribe(entry.filter, options);
                }
            }
            Received::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.filters {
                    self.session.subscriptions_mut().remove(filter);
                    assert!(self.session.subscriptions().with_filter(filter).is_none());
                }
            }
            Received::Disconnect(_) | Received::Auth(_) => return over,
        }
        self.client.answered(&announced, &out);
        Ok(())
    }

    /// Makes the message of a publication, to be delivered later.
    fn keep(&mut self, inward: Inward<'_>) -> Ticket {
        let ticket = inward.ticket();
        let Inward { topic, publish } = inward;
        let Publish { qos, retain, properties, payload, .. } = publish;
        let id = MessageId(self.messages.len() as u64);
        let message = Message::new(id, topic, payload.into(), qos, retain, properties, self.now);
        if self.messages.len() == MESSAGES_MAX {
            self.messages.remove(0);
        }
        self.messages.push(Arc::new(message));
        ticket
    }

    fn subscribe(&mut self, filter: SubscriptionFilter, options: SubscriptionOptions) {
        let subscriptions_max = self.session.settings().subscriptions_max as usize;
        let subscriptions = self.session.subscriptions_mut();
        if subscriptions.len() < subscriptions_max {
            let subscription = Arc::new(Subscription::new(filter, options));
            subscriptions.insert(Arc::clone(&subscription));
            let found = subscriptions.with_filter(&subscription.filter);
            assert!(found.is_some_and(|found| Arc::ptr_eq(found, &subscription)));
        }
    }

    /// `how`: the QoS in the two lowest bits, then retain and wide, then which message.
    fn deliver(&mut self, how: u8) {
        let qos = Qos::from_u8(how & 0b11).unwrap_or(Qos::ExactlyOnce);
        if qos != Qos::AtMostOnce && self.session.room() == 0 {
            return;
        }
        let which = usize::from(how >> 4);
        let Some(message) = self.messages.get(which % self.messages.len().max(1)) else { return };
        let subscriptions = self.session.subscriptions();
        let subscribed = subscriptions.iter().nth(which % subscriptions.len().max(1));
        let Some(through) = subscribed.cloned().or_else(everything) else { return };
        let delivery = Delivery {
            message: Arc::clone(message),
            via: Arc::new(Via::one(through)),
            qos,
            retain: how & 0b100 != 0,
            wide: how & 0b1000 != 0,
            seq: None,
        };
        let mut out = Vec::new();
        let sent = self.session.send(delivery, self.now, &mut out);
        self.client.delivered(sent, qos, &out);
    }

    fn resend(&mut self) {
        let mut out = Vec::new();
        self.session.resend(self.now, &mut |_| true, &mut out);
        self.client.resent(&out, self.session.is_resending());
    }

    /// As many deliveries of QoS 1 as `how` says, of which the client acknowledges at once all
    /// but every `how % 16 + 2`nd.
    fn deliver_many(&mut self, how: u8) {
        for number in 0..u32::from(how) {
            if self.burst == BURST_DELIVERIES_MAX {
                return;
            }
            self.burst += 1;
            self.deliver(Qos::AtLeastOnce.as_u8());
            if number % (u32::from(how % 16) + 2) != 0
                && let Some(puback) = self.client.puback_of_last()
            {
                let mut out = Vec::new();
                self.client.announce(&puback);
                assert!(self.session.receive(puback, self.now, &mut out).is_ok());
                assert!(out.is_empty());
            }
        }
    }
}

/// A message for the conversations in which the client publishes none.
fn plain_message(now: Instant) -> Message {
    let Ok(topic) = TopicName::parse("a/b") else { unreachable!("a topic name") };
    Message::new(MessageId(0), topic, [0; 3].into(), Qos::ExactlyOnce, false, None, now)
}

/// The subscription of a client that has made none.
fn everything() -> Option<Arc<Subscription>> {
    let options = SubscriptionOptions {
        qos: Qos::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        id: None,
    };
    Some(Arc::new(Subscription::new(SubscriptionFilter::parse("#").ok()?, options)))
}
