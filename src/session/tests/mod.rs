//! The session without a socket: literal packets in and out, and a clock that is set.

mod deliveries;
mod identifiers;
mod publications;
mod random;
mod resumption;

use std::sync::Arc;

use super::*;
use crate::mqtt::SubscriptionFilter;
use crate::mqtt::frame::{FrameHeader, PACKET_BYTES_MAX};
use crate::mqtt::packet::{PublishProperties, Side};

const V5: ProtocolVersion = ProtocolVersion::V5;
const V311: ProtocolVersion = ProtocolVersion::V311;
const ALL: [ProtocolVersion; 3] = [ProtocolVersion::V31, V311, V5];

fn link(version: ProtocolVersion) -> Link {
    Link {
        version,
        receive_maximum: NonZeroU16::MAX,
        packet_bytes_max: None,
        problem_information: true,
        topic_alias_max: 0,
        outgoing_alias_max: 0,
        keep_alive: None,
    }
}

/// A link whose client takes so many publications at a time.
fn window(version: ProtocolVersion, receive_maximum: u16) -> Link {
    Link { receive_maximum: NonZeroU16::new(receive_maximum).unwrap(), ..link(version) }
}

fn settings() -> Settings {
    Settings {
        receive_maximum: NonZeroU16::new(3).unwrap(),
        inflight_max: NonZeroU16::new(1000).unwrap(),
        subscriptions_max: 10,
    }
}

/// A session and the time it is told.
struct Bench {
    session: Session,
    now: Instant,
}

impl Bench {
    fn new(link: Link) -> Self {
        Self::with(settings(), link)
    }

    fn with(settings: Settings, link: Link) -> Self {
        let now = Instant::now();
        Self { session: Session::new(settings, link, now), now }
    }

    fn resume(&mut self, link: Link) {
        self.session.connect(settings(), link, self.now);
    }

    /// One packet from the client, whatever it leads to.
    fn receive<'a>(
        &mut self,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Received<'a>, Violation> {
        let packet = decode(bytes, self.session.link().version, Side::FromClient)?;
        self.session.receive(packet, self.now, out)
    }

    /// A packet that the session answers by itself: the answer.
    #[track_caller]
    fn hears(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let received = self.receive(bytes, &mut out);
        assert!(matches!(received, Ok(Received::Handled)), "{bytes:02X?} gives {received:?}");
        out
    }

    /// A PUBLISH that is to be routed, and is with this outcome: the answer.
    #[track_caller]
    fn takes(&mut self, bytes: &[u8], reason: ReasonCode) -> Vec<u8> {
        self.routes(bytes, reason).1
    }

    /// As [`Self::takes`], with the topic.
    #[track_caller]
    fn routes(&mut self, bytes: &[u8], reason: ReasonCode) -> (String, Vec<u8>) {
        let mut out = Vec::new();
        let received = self.receive(bytes, &mut out);
        let Ok(Received::Publish(inward)) = received else {
            panic!("{bytes:02X?} gives {received:?}")
        };
        assert_eq!(out, b"", "nothing is answered before the outcome is known");
        self.session.settle(inward.ticket(), reason, &mut out);
        (inward.topic.to_string(), out)
    }

    #[track_caller]
    fn violates(&mut self, bytes: &[u8]) -> (ReasonCode, &'static str) {
        let mut out = Vec::new();
        match self.receive(bytes, &mut out) {
            Err(violation) => (violation.reason, violation.statement),
            Ok(received) => panic!("{bytes:02X?} gives {received:?}"),
        }
    }

    fn send(&mut self, delivery: Delivery) -> (Sent, Vec<u8>) {
        let mut out = Vec::new();
        (self.session.send(delivery, self.now, &mut out), out)
    }

    /// A delivery that is sent: the PUBLISH.
    #[track_caller]
    fn writes(&mut self, delivery: Delivery) -> Vec<u8> {
        let (sent, out) = self.send(delivery);
        assert_eq!(sent, Sent::Written);
        out
    }

    fn resent(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.resend(self.now, &mut |_| true, &mut out);
        out
    }
}

#[track_caller]
fn decode(bytes: &[u8], version: ProtocolVersion, side: Side) -> Result<Packet<'_>, Violation> {
    let header = FrameHeader::peek(bytes, PACKET_BYTES_MAX)?.expect("a whole header");
    assert_eq!(header.packet_bytes(), bytes.len(), "{bytes:02X?} is not one packet");
    Packet::decode(header.first_byte, &bytes[header.header_bytes..], version, side)
}

fn message(
    qos: Qos,
    payload: &[u8],
    properties: Option<PublishProperties>,
    now: Instant,
) -> Message {
    let topic = TopicName::parse("t").unwrap();
    let properties = properties.map(Box::new);
    Message::new(MessageId(0), topic, payload.into(), qos, false, properties, now)
}

fn delivery_of(message: Message) -> Delivery {
    let options = SubscriptionOptions {
        qos: Qos::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        id: None,
    };
    let filter = SubscriptionFilter::parse("t").unwrap();
    let via = Via::one(Arc::new(Subscription::new(filter, options)));
    let qos = message.qos;
    Delivery {
        message: Arc::new(message),
        via: Arc::new(via),
        qos,
        retain: false,
        wide: false,
        seq: None,
    }
}

/// A message on topic `t`.
fn delivery(qos: Qos, payload: &[u8]) -> Delivery {
    delivery_of(message(qos, payload, None, Instant::now()))
}

/// The identifier in a PUBLISH of MQTT 3 on topic `t`, with QoS 1 or 2.
fn id_of(publish: &[u8]) -> u16 {
    u16::from_be_bytes([publish[5], publish[6]])
}

fn puback(id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [0x40, 2, high, low]
}

/// What is said in one direction at a time, cut into packets.
fn packets(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let header = FrameHeader::peek(bytes, PACKET_BYTES_MAX).unwrap().unwrap();
        let (packet, rest) = bytes.split_at(header.packet_bytes());
        packets.push(packet);
        bytes = rest;
    }
    packets
}
