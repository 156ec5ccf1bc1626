//! A subscriber that keeps what MQTT has it keep, and counts what its application gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::chance::Chance;
use super::line::{Line, acknowledged};
use super::message::{Complaint, Stop, Stream};
use super::witness::Actor;
use super::{Goal, Stage};
use crate::harness::raw::{Client, PATIENCE};
use crate::harness::wire::{self, Connect, Publish, Version, property};

/// What it is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Connected as long as there is a broker.
    Steady,
    /// Connected, but PUBACK comes late, after what was acknowledged in QoS 2 behind it.
    Tardy,
    /// Comes and goes.
    Flitting,
    /// Hardly ever there.
    Absent,
}

/// What it has subscribed to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wants {
    /// Everything, with this QoS.
    All(u8),
    /// The messages of one publisher.
    Of(u8),
    /// Everything with QoS 1, and the first topics with QoS 2.
    Overlapping,
    /// Its share of everything.
    Share,
}

impl Wants {
    fn filters(self) -> Vec<(String, u8)> {
        match self {
            Self::All(qos) => vec![("t/#".to_owned(), qos)],
            Self::Of(publisher) => vec![(format!("t/{publisher}/+"), 2)],
            Self::Overlapping => vec![("t/#".to_owned(), 1), ("t/+/0".to_owned(), 2)],
            Self::Share => vec![("$share/group/t/#".to_owned(), 2)],
        }
    }

    /// The QoS with which it gets the messages of a stream.
    pub(super) fn qos(self, stream: Stream) -> Option<u8> {
        let granted = match self {
            Self::All(qos) => Some(qos),
            Self::Of(publisher) => (publisher == stream.publisher).then_some(2),
            Self::Overlapping => Some(if stream.topic == 0 { 2 } else { 1 }),
            Self::Share => Some(2),
        };
        granted.map(|granted| granted.min(stream.qos))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(super) connect: Connect,
    pub(super) habit: Habit,
    pub(super) wants: Wants,
    /// QoS 2 deliveries that PUBREC was sent for and PUBREL has not come for.
    held: BTreeMap<u16, Vec<u8>>,
    /// The last message of each stream.
    last: BTreeMap<Stream, u64>,
    /// For a share: how often each message came, since everything was delivered last.
    pub(super) share: BTreeMap<(Stream, u64), u32>,
    /// The last fence that came.
    fence: u32,
    pub(super) deliveries: u64,
}

/// One connection.
struct Session<'a> {
    line: Line,
    subscriber: &'a mut Subscriber,
    out: Vec<u8>,
    /// PUBACKs that are late.
    late: Vec<u8>,
    /// Identifiers of QoS 2 deliveries that came and PUBREL has not come for.
    came: BTreeSet<u16>,
    pinged: bool,
}

impl Subscriber {
    pub(super) fn new(version: Version, name: &str, habit: Habit, wants: Wants) -> Self {
        Self {
            connect: Connect::new(version, name).durable(),
            habit,
            wants,
            held: BTreeMap::new(),
            last: BTreeMap::new(),
            share: BTreeMap::new(),
            fence: 0,
            deliveries: 0,
        }
    }

    /// The topic of its fence: everything for it that was published before comes before.
    pub(super) fn fence_topic(&self) -> String {
        format!("fence/{}", self.connect.client_id)
    }

    /// Begins the session, with all its subscriptions.
    pub(super) fn begin(&mut self, address: SocketAddr) {
        let mut client = Client::connect(address, &self.connect);
        let mut filters = self.wants.filters();
        filters.push((self.fence_topic(), 2));
        let filters: Vec<_> = filters.iter().map(|(filter, qos)| (&**filter, *qos)).collect();
        let properties = match self.connect.version {
            Version::Mqtt5 => property::subscription_id(7),
            _ => Vec::new(),
        };
        let granted = client.subscribe_with(&properties, &filters);
        assert!(granted.iter().all(|code| *code < 0x80), "{granted:?}");
    }

    /// The last message of a stream that it got.
    pub(super) fn last(&self, stream: Stream) -> u64 {
        self.last.get(&stream).copied().unwrap_or(0)
    }

    /// Receives until the broker is killed; for [`Goal::Finish`], until the fence of the round
    /// has come and nothing is under way.
    pub(super) fn run(&mut self, stage: &Stage<'_>, chance: &mut Chance) -> Result<(), Complaint> {
        if stage.goal == Goal::Finish {
            return match self.drain(stage, chance) {
                Ok(()) => Ok(()),
                Err(Stop::Wrong(complaint)) => Err(complaint),
                Err(Stop::Lost) => Err(self.complaint("the connection is lost")),
            };
        }
        if self.habit == Habit::Absent && !chance.once_in(5) {
            return Ok(());
        }
        loop {
            let packets = match self.habit {
                Habit::Steady | Habit::Tardy if chance.once_in(3) => chance.below(1000),
                Habit::Steady | Habit::Tardy => u64::MAX,
                Habit::Flitting | Habit::Absent => chance.below(200),
            };
            if let Err(Stop::Wrong(complaint)) = self.receive(stage, chance, packets) {
                return Err(complaint);
            }
            if stage.is_over() {
                return Ok(());
            }
            let is_steady = matches!(self.habit, Habit::Steady | Habit::Tardy);
            chance.pause(if is_steady { 5 } else { 80 });
        }
    }

    fn open(&mut self, stage: &Stage<'_>) -> Result<Session<'_>, Stop> {
        let (line, connack) = Line::open(stage.address, &self.connect)?;
        if connack.code != 0 || !connack.session_present() {
            return Err(self.complaint(format!("its session is not there: {connack:?}")).into());
        }
        let (out, late) = (Vec::new(), Vec::new());
        let came = BTreeSet::new();
        Ok(Session { line, subscriber: self, out, late, came, pinged: false })
    }

    /// One connection, for so many packets.
    fn receive(
        &mut self,
        stage: &Stage<'_>,
        chance: &mut Chance,
        mut packets: u64,
    ) -> Result<(), Stop> {
        let is_tardy = self.habit == Habit::Tardy;
        let mut session = self.open(stage)?;
        while packets > 0 {
            let took = session.take(stage)?;
            packets = packets.saturating_sub(took);
            if chance.once_in(20) {
                chance.pause(15);
            }
            if !is_tardy || chance.once_in(6) {
                session.acknowledge_late();
            }
            // The last answers may be lost: the connection is dropped before.
            if packets > 0 || chance.once_in(2) {
                session.answer()?;
            }
        }
        if chance.once_in(2) {
            session.line.send(&wire::DISCONNECT)?;
        }
        Ok(())
    }

    fn drain(&mut self, stage: &Stage<'_>, chance: &mut Chance) -> Result<(), Stop> {
        let mut session = self.open(stage)?;
        let mut deadline = Instant::now() + PATIENCE;
        let mut asked = false;
        while !session.pinged {
            if session.take(stage)? > 0 {
                deadline = Instant::now() + PATIENCE;
            }
            session.acknowledge_late();
            session.answer()?;
            let Self { fence, held, .. } = &*session.subscriber;
            if *fence == stage.round && held.is_empty() && !asked {
                session.line.send(&wire::PINGREQ)?;
                asked = true;
            }
            if Instant::now() >= deadline {
                let what = format!("nothing more comes; fence {fence}, PUBREL missing: {held:?}");
                return Err(session.subscriber.complaint(what).into());
            }
        }
        if chance.once_in(2) {
            session.line.send(&wire::DISCONNECT)?;
        }
        Ok(())
    }

    /// A message reaches the application.
    fn deliver(&mut self, publish: &Publish) -> Result<(), Complaint> {
        if publish.topic == self.fence_topic() {
            let fence: u32 = publish.text().parse().unwrap();
            // That it was acknowledged may have been on its way to the disk.
            if fence <= self.fence && !publish.dup {
                return Err(self.complaint(format!("fence {fence} once more")));
            }
            self.fence = self.fence.max(fence);
            return Ok(());
        }
        let parsed = Stream::parse(&publish.payload);
        let wanted = parsed.and_then(|(stream, seq)| Some((stream, seq, self.wants.qos(stream)?)));
        let Some((stream, seq, qos)) = wanted.filter(|(stream, _, qos)| {
            stream.topic() == publish.topic && *qos == publish.qos && !publish.retain
        }) else {
            return Err(self.complaint(format!("a message that is not for it: {publish:?}")));
        };
        self.deliveries += 1;
        let last = self.last.entry(stream).or_default();
        let (before, is_new) = (*last, seq > *last);
        *last = seq.max(before);
        if matches!(self.wants, Wants::Share) {
            let times = self.share.entry((stream, seq)).or_default();
            *times += 1;
            // What its publisher sends again may go to the other member, ahead of this one's.
            if qos == 2 && !is_new {
                let what = format!("{seq} came after {before}");
                return Err(self.complaint(what).about(stream, seq..=seq));
            }
        } else if qos == 2 && !is_new {
            let what = format!("{seq} came twice, with {}, after {before}", identified(publish));
            return Err(self.complaint(what).about(stream, seq..=seq));
        } else if seq > before + 1 {
            let what = format!("{} to {} did not come before {seq}", before + 1, seq - 1);
            return Err(self.complaint(what).about(stream, before + 1..=seq - 1));
        }
        Ok(())
    }

    pub(super) fn complaint(&self, what: impl Into<String>) -> Complaint {
        Complaint::new(&self.connect.client_id, what)
    }
}

impl Session<'_> {
    /// Takes what has come: how many packets.
    fn take(&mut self, stage: &Stage<'_>) -> Result<u64, Stop> {
        let mut count = 0;
        let mut came = self.line.next()?;
        let position = stage.position();
        while let Some(packet) = came {
            self.handle(&packet)?;
            count += 1;
            came = self.line.received();
        }
        if count > 0 {
            stage.keep(position, || Actor::Subscriber(self.subscriber.clone()));
        }
        Ok(count)
    }

    fn handle(&mut self, packet: &[u8]) -> Result<(), Stop> {
        let subscriber = &mut *self.subscriber;
        match packet[0] {
            wire::PUBREL => {
                let (id, _) = acknowledged(packet);
                subscriber.held.remove(&id);
                self.came.remove(&id);
                self.out.extend(wire::ack(wire::PUBCOMP, id));
            }
            0x30..=0x3f => {
                let publish = Publish::parse(self.line.version, packet);
                match (publish.qos, publish.id) {
                    (1, Some(id)) => {
                        subscriber.deliver(&publish)?;
                        self.late.extend(wire::ack(wire::PUBACK, id));
                    }
                    (2, Some(id)) => {
                        // Sending again is for a new connection [MQTT-4.4.0-1].
                        if !self.came.insert(id) {
                            let what = format!("twice on one connection: {publish:?}");
                            return Err(subscriber.complaint(what).into());
                        }
                        match subscriber.held.get(&id) {
                            None => {
                                subscriber.deliver(&publish)?;
                                subscriber.held.insert(id, publish.payload);
                            }
                            Some(held) if *held == publish.payload => {}
                            Some(held) => {
                                let held = String::from_utf8_lossy(held);
                                let what = format!("{held} had the identifier of {publish:?}");
                                return Err(subscriber.complaint(what).into());
                            }
                        }
                        self.out.extend(wire::ack(wire::PUBREC, id));
                    }
                    _ => return Err(subscriber.complaint(format!("{publish:?}")).into()),
                }
            }
            0xd0 => self.pinged = true,
            _ => return Err(subscriber.complaint(format!("unexpected {packet:02x?}")).into()),
        }
        Ok(())
    }

    fn acknowledge_late(&mut self) {
        self.out.append(&mut self.late);
    }

    fn answer(&mut self) -> Result<(), Stop> {
        let out = std::mem::take(&mut self.out);
        Ok(self.line.send(&out)?)
    }
}

fn identified(publish: &Publish) -> String {
    let again = if publish.dup { "DUP and " } else { "" };
    format!("{again}identifier {}", publish.id.unwrap_or(0))
}
