//! What a client knows of its session: enough to tell when the broker is wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::mqtt::frame::{FrameHeader, PACKET_BYTES_MAX};
use crate::mqtt::packet::{Ack, Packet, PacketId, Qos, Side};
use crate::mqtt::{ProtocolVersion, ReasonCode, TopicName};
use crate::session::{Link, Sent, Session, Settings};

/// What the broker waits for after a delivery of QoS 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Puback,
    Pubrec,
    Pubcomp,
}

pub(super) struct Client {
    version: ProtocolVersion,
    /// Publications of QoS 1 and 2 it takes at a time.
    receive_maximum: usize,
    packet_bytes_max: usize,
    /// Publications of QoS 2 that the broker takes at a time.
    broker_receive_maximum: usize,
    /// What it was sent on this connection and has not acknowledged, in order.
    awaited: VecDeque<(PacketId, Awaits)>,
    /// The same of earlier connections, to be sent again.
    earlier: VecDeque<(PacketId, Awaits)>,
    /// Publications of QoS 2 that the broker has taken and the client has not released.
    held: BTreeSet<PacketId>,
    aliases: BTreeMap<u16, String>,
}

/// A packet of the client, and what has to come of it.
pub(super) struct Announced {
    /// The topic of a publication that the router has to see.
    topic: Option<String>,
    publication: Option<(Qos, PacketId)>,
    answer: Option<Packet<'static>>,
}

impl Announced {
    pub(super) fn was_handled(&self) {
        assert_eq!(self.topic, None, "a publication is lost");
    }

    pub(super) fn was_passed_on(&self, topic: &TopicName) {
        assert_eq!(self.topic.as_deref(), Some(topic.as_str()), "not what the client published");
    }
}

impl Client {
    pub(super) fn new(link: &Link, settings: &Settings) -> Self {
        Self {
            version: link.version,
            receive_maximum: link.receive_maximum.get().into(),
            packet_bytes_max: link.packet_bytes_max.map_or(usize::MAX, |max| max.get() as usize),
            broker_receive_maximum: settings.receive_maximum.get().into(),
            awaited: VecDeque::new(),
            earlier: VecDeque::new(),
            held: BTreeSet::new(),
            aliases: BTreeMap::new(),
        }
    }

    pub(super) fn connect(&mut self, link: &Link, settings: &Settings) {
        let mut earlier = std::mem::take(&mut self.awaited);
        earlier.append(&mut self.earlier);
        let held = std::mem::take(&mut self.held);
        *self = Self { earlier, held, ..Self::new(link, settings) };
    }

    pub(super) fn agrees_with(&self, session: &Session) {
        assert_eq!(usize::from(session.inflight()), self.awaited.len() + self.earlier.len());
        assert_eq!(session.unreleased(), self.held.len());
    }

    /// The client is about to send a packet.
    pub(super) fn announce(&mut self, packet: &Packet<'_>) -> Announced {
        let mut announced = Announced { topic: None, publication: None, answer: None };
        match packet {
            Packet::Publish(publish) => {
                let properties = publish.properties.as_ref();
                let mut topic = publish.topic.to_owned();
                if let Some(alias) = properties.and_then(|it| it.topic_alias) {
                    if topic.is_empty() {
                        topic = self.aliases.get(&alias.get()).cloned().unwrap_or_default();
                    }
                    self.aliases.insert(alias.get(), topic.clone());
                }
                announced.publication = publish.packet_id.map(|id| (publish.qos, id));
                match announced.publication {
                    Some((Qos::ExactlyOnce, id)) if self.held.contains(&id) => {
                        announced.answer = Some(Packet::Pubrec(self.ack(id, ReasonCode::Success)));
                    }
                    _ => announced.topic = Some(topic),
                }
            }
            Packet::Puback(ack) => self.advance(ack.packet_id, Awaits::Puback, None),
            Packet::Pubcomp(ack) => self.advance(ack.packet_id, Awaits::Pubcomp, None),
            Packet::Pubrec(ack) if ack.reason.is_error() => {
                self.advance(ack.packet_id, Awaits::Pubrec, None);
            }
            Packet::Pubrec(ack) => {
                self.advance(ack.packet_id, Awaits::Pubrec, Some(Awaits::Pubcomp));
                let released = [&self.awaited, &self.earlier]
                    .into_iter()
                    .any(|list| list.contains(&(ack.packet_id, Awaits::Pubcomp)));
                let reason = success_if(released);
                announced.answer = Some(Packet::Pubrel(self.ack(ack.packet_id, reason)));
            }
            Packet::Pubrel(ack) => {
                let reason = success_if(self.held.remove(&ack.packet_id));
                announced.answer = Some(Packet::Pubcomp(self.ack(ack.packet_id, reason)));
            }
            Packet::Pingreq => announced.answer = Some(Packet::Pingresp),
            _ => {}
        }
        announced
    }

    /// The session has answered a packet by itself, or not.
    pub(super) fn answered(&self, announced: &Announced, out: &[u8]) {
        let packets = self.read(out);
        assert!(packets.iter().eq(&announced.answer), "{packets:?} not {:?}", announced.answer);
    }

    /// A publication has led to this outcome.
    pub(super) fn settled(&mut self, announced: &Announced, outcome: ReasonCode, out: &[u8]) {
        let answer = announced.publication.map(|(qos, id)| {
            let ack = self.ack(id, outcome);
            if qos == Qos::AtLeastOnce { Packet::Puback(ack) } else { Packet::Pubrec(ack) }
        });
        let packets = self.read(out);
        assert!(packets.iter().eq(&answer), "{packets:?} not {answer:?}");
        if let Some((Qos::ExactlyOnce, id)) = announced.publication
            && !(outcome.is_error() && self.version.is_v5())
        {
            self.held.insert(id);
            assert!(self.held.len() <= self.broker_receive_maximum);
        }
    }

    /// A new delivery came, if it was written.
    pub(super) fn delivered(&mut self, sent: Sent, qos: Qos, out: &[u8]) {
        let packets = self.read(out);
        let [Packet::Publish(publish)] = packets.as_slice() else {
            assert!(packets.is_empty() && sent != Sent::Written, "{sent:?} {packets:?}");
            return;
        };
        assert_eq!((sent, publish.qos, publish.dup), (Sent::Written, qos, false));
        assert!(out.len() <= self.packet_bytes_max, "too large a packet");
        if let Some(id) = publish.packet_id {
            let mut used = self.awaited.iter().chain(&self.earlier);
            assert!(used.all(|(used, _)| *used != id), "{id:?} is in use");
            self.wait_for(id, awaits_of(qos));
        }
    }

    /// Deliveries of earlier connections came again, perhaps with `more` to follow.
    pub(super) fn resent(&mut self, out: &[u8], more: bool) {
        for packet in self.read(out) {
            let (id, awaits) = match packet {
                Packet::Publish(publish) if publish.dup => {
                    (publish.packet_id, awaits_of(publish.qos))
                }
                Packet::Pubrel(ack) => (Some(ack.packet_id), Awaits::Pubcomp),
                _ => unreachable!("{packet:?} is not sent again"),
            };
            let position =
                self.earlier.iter().position(|(of, what)| (Some(*of), *what) == (id, awaits));
            let (Some(id), Some(position)) = (id, position) else {
                unreachable!("{id:?} was not in flight, or out of order")
            };
            // What was passed over has become too large for the client.
            self.earlier.drain(..=position);
            self.wait_for(id, awaits);
        }
        if !more {
            self.earlier.clear();
        }
    }

    /// The acknowledgement of the delivery that came last, if it is of QoS 1.
    pub(super) fn puback_of_last(&self) -> Option<Packet<'static>> {
        let (id, awaits) = self.awaited.back()?;
        (*awaits == Awaits::Puback).then(|| Packet::Puback(Ack::new(*id, ReasonCode::Success)))
    }

    fn wait_for(&mut self, id: PacketId, awaits: Awaits) {
        self.awaited.push_back((id, awaits));
        assert!(self.awaited.len() <= self.receive_maximum, "more than the client takes at a time");
    }

    /// Moves a delivery on that awaits `from`; `None` ends it.
    fn advance(&mut self, id: PacketId, from: Awaits, to: Option<Awaits>) {
        for list in [&mut self.awaited, &mut self.earlier] {
            let Some(position) = list.iter().position(|entry| *entry == (id, from)) else {
                continue;
            };
            match (list.get_mut(position), to) {
                (Some(entry), Some(to)) => entry.1 = to,
                _ => drop(list.remove(position)),
            }
        }
    }

    /// An acknowledgement as this client reads it: MQTT 3 has no reasons.
    fn ack(&self, id: PacketId, reason: ReasonCode) -> Ack {
        Ack::new(id, if self.version.is_v5() { reason } else { ReasonCode::Success })
    }

    /// The packets that the broker has sent, which have to be whole and valid.
    fn read<'a>(&self, mut bytes: &'a [u8]) -> Vec<Packet<'a>> {
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            let header = FrameHeader::peek(bytes, PACKET_BYTES_MAX);
            let Ok(Some(header)) = header else { unreachable!("{header:?} from {bytes:02X?}") };
            let body = bytes.get(header.header_bytes..header.packet_bytes());
            let Some(body) = body else { unreachable!("a packet is cut: {bytes:02X?}") };
            match Packet::decode(header.first_byte, body, self.version, Side::FromServer) {
                Ok(packet) => packets.push(packet),
                Err(violation) => unreachable!("{violation}: {bytes:02X?}"),
            }
            bytes = bytes.get(header.packet_bytes()..).unwrap_or_default();
        }
        packets
    }
}

fn awaits_of(qos: Qos) -> Awaits {
    if qos == Qos::ExactlyOnce { Awaits::Pubrec } else { Awaits::Puback }
}

fn success_if(known: bool) -> ReasonCode {
    if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound }
}
