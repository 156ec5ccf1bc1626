//! A publisher that sends again, with the same packet identifier, what was not acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::chance::Chance;
use super::line::{Line, acknowledged};
use super::message::{Complaint, Stop, Stream, TOPICS, When};
use super::witness::Actor;
use super::{Goal, Stage};
use crate::harness::raw::Client;
use crate::harness::wire::{self, Connect, Publish, Version};

/// So few packet identifiers that each is used again soon.
const IDENTIFIERS: u16 = 40;
/// New messages in one round.
const MESSAGES_MAX: u32 = 1500;
/// Every so many-th retained message clears its topic.
const CLEARS: u64 = 4;

#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(super) connect: Connect,
    window: usize,
    /// It publishes retained messages, with so many bytes each.
    retains: Option<usize>,
    outlets: Vec<Outlet>,
    /// In the order of sending.
    pending: VecDeque<Pending>,
    last_id: u16,
    pub(super) acknowledgements: u64,
}

/// One of its streams.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub(super) stream: Stream,
    /// The last message that was sent.
    pub(super) sent: u64,
    /// The last one that the broker has acknowledged: with PUBACK or PUBREC.
    pub(super) taken: u64,
    /// When, since everything was delivered last.
    pub(super) log: BTreeMap<u64, When>,
}

#[derive(Clone, Debug)]
struct Pending {
    id: u16,
    outlet: usize,
    seq: u64,
    /// PUBREC came.
    released: bool,
}

impl Publisher {
    pub(super) fn new(version: Version, number: u8, window: usize) -> Self {
        let streams = (0..TOPICS)
            .flat_map(|topic| [1, 2].map(|qos| Stream { publisher: number, topic, qos }));
        Self::with(Connect::new(version, &format!("publisher-{number}")), window, streams)
    }

    /// One for retained messages. Each topic has one QoS: QoS 1 and 2 overtake each other when
    /// they are sent again.
    pub(super) fn retaining(number: u8, topics: u8, payload_bytes: usize) -> Self {
        let streams =
            (0..topics).map(|topic| Stream { publisher: number, topic, qos: 1 + topic % 2 });
        let connect = Connect::new(Version::Mqtt5, &format!("publisher-{number}"));
        Self { retains: Some(payload_bytes), ..Self::with(connect, 8, streams) }
    }

    fn with(connect: Connect, window: usize, streams: impl Iterator<Item = Stream>) -> Self {
        let outlets =
            streams.map(|stream| Outlet { stream, sent: 0, taken: 0, log: BTreeMap::new() });
        Self {
            connect: connect.durable(),
            window,
            retains: None,
            outlets: outlets.collect(),
            pending: VecDeque::new(),
            last_id: 0,
            acknowledgements: 0,
        }
    }

    /// Begins the session.
    pub(super) fn begin(&self, address: SocketAddr) {
        Client::connect(address, &self.connect).disconnect();
    }

    pub(super) fn outlets(&self) -> &[Outlet] {
        &self.outlets
    }

    /// Everything has been delivered: what was acknowledged when is of no interest any more.
    pub(super) fn forget_log(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.log.clear());
    }

    /// Publishes until the broker is killed, or, for [`Goal::Finish`], until everything is
    /// acknowledged.
    pub(super) fn run(&mut self, stage: &Stage<'_>, chance: &mut Chance) -> Result<(), Complaint> {
        let mut left = MESSAGES_MAX;
        loop {
            let finishes = stage.goal == Goal::Finish;
            match self.serve(stage, chance, &mut left) {
                Err(Stop::Wrong(complaint)) => return Err(complaint),
                Err(Stop::Lost) if finishes => {
                    return Err(self.complaint("the connection is lost"));
                }
                Ok(()) if finishes => return Ok(()),
                Ok(()) | Err(Stop::Lost) => {}
            }
            if stage.is_over() {
                return Ok(());
            }
            chance.pause(30);
        }
    }

    /// One connection. Comes back by itself when it is to be dropped.
    fn serve(
        &mut self,
        stage: &Stage<'_>,
        chance: &mut Chance,
        left: &mut u32,
    ) -> Result<(), Stop> {
        let (mut line, connack) = Line::open(stage.address, &self.connect)?;
        if connack.code != 0 || !connack.session_present() {
            return Err(self.complaint(format!("its session is not there: {connack:?}")).into());
        }
        let mut out = Vec::new();
        for pending in &self.pending {
            if pending.released {
                out.extend(wire::ack(wire::PUBREL, pending.id));
            } else {
                out.extend(self.publish(pending).dup().bytes(line.version));
            }
        }
        line.send(&out)?;
        let drops = stage.goal == Goal::Traffic && chance.once_in(2);
        let mut packets = if drops { chance.below(300) } else { u64::MAX };
        let mut position = stage.position();
        out.clear();
        loop {
            while stage.goal == Goal::Traffic && *left > 0 && self.pending.len() < self.window {
                *left -= 1;
                let publish = self.next(chance);
                out.extend(publish.bytes(line.version));
            }
            // Before it is sent: what comes of it is not in the log yet.
            stage.keep(position, || Actor::Publisher(self.clone()));
            line.send(&out)?;
            out.clear();
            if packets == 0 {
                return Ok(());
            }
            let mut came = line.next()?;
            position = stage.position();
            while let Some(packet) = came {
                self.handle(&packet, stage, &mut out)?;
                packets = packets.saturating_sub(1);
                came = line.received();
            }
            if stage.goal == Goal::Finish && self.pending.is_empty() {
                return Ok(line.send(&wire::DISCONNECT)?);
            }
            if chance.once_in(4) {
                chance.pause(4);
            }
        }
    }

    /// A new message.
    fn next(&mut self, chance: &mut Chance) -> Publish {
        loop {
            self.last_id = self.last_id % IDENTIFIERS + 1;
            if self.pending.iter().all(|pending| pending.id != self.last_id) {
                break;
            }
        }
        let index = usize::try_from(chance.below(self.outlets.len() as u64)).unwrap();
        let outlet = &mut self.outlets[index];
        outlet.sent += 1;
        let pending =
            Pending { id: self.last_id, outlet: index, seq: outlet.sent, released: false };
        let publish = self.publish(&pending);
        self.pending.push_back(pending);
        publish
    }

    fn publish(&self, pending: &Pending) -> Publish {
        let stream = self.outlets[pending.outlet].stream;
        let seq = pending.seq;
        let mut publish = Publish::default().qos(stream.qos, pending.id);
        if let Some(bytes) = self.retains {
            publish.topic = format!("r/{}", stream.topic);
            publish.payload = retained(seq, bytes).unwrap_or_default();
            return publish.retain();
        }
        publish.topic = stream.topic();
        // Most are small, some are not: the store keeps them in different ways.
        publish.payload = stream.payload(seq, if seq.is_multiple_of(5) { 600 } else { 0 });
        publish
    }

    fn handle(&mut self, packet: &[u8], stage: &Stage<'_>, out: &mut Vec<u8>) -> Result<(), Stop> {
        let (kind, (id, reason)) = (packet[0], acknowledged(packet));
        let found = self.pending.iter().position(|pending| pending.id == id);
        // After a crash PUBREL may be for what is released already.
        let is_fine = reason < 0x80 || kind == wire::PUBCOMP && reason == 0x92;
        let Some(index) = found.filter(|_| is_fine) else {
            return Err(self.complaint(format!("unexpected {packet:02x?}")).into());
        };
        let pending = &mut self.pending[index];
        let (outlet, seq) = (pending.outlet, pending.seq);
        let qos = self.outlets[outlet].stream.qos;
        match (kind, qos, pending.released) {
            (wire::PUBACK, 1, false) => {
                self.pending.remove(index);
                self.taken(outlet, seq, stage);
            }
            (wire::PUBREC, 2, false) => {
                pending.released = true;
                out.extend(wire::ack(wire::PUBREL, id));
                self.taken(outlet, seq, stage);
            }
            (wire::PUBCOMP, 2, true) => {
                self.pending.remove(index);
            }
            _ => return Err(self.complaint(format!("unexpected {packet:02x?}")).into()),
        }
        Ok(())
    }

    fn taken(&mut self, outlet: usize, seq: u64, stage: &Stage<'_>) {
        let outlet = &mut self.outlets[outlet];
        outlet.taken = outlet.taken.max(seq);
        outlet.log.insert(seq, stage.now());
        self.acknowledgements += 1;
    }

    /// Whether a topic may have this retained message now.
    pub(super) fn may_be_retained(&self, topic: u8, found: Option<&[u8]>) -> Result<(), Complaint> {
        let outlet = &self.outlets[usize::from(topic)];
        let before = (outlet.taken == 0).then_some(None);
        let bytes = self.retains.unwrap_or_default();
        let later = (outlet.taken..=outlet.sent).map(|seq| retained(seq, bytes));
        let mut allowed = before.into_iter().chain(later);
        if allowed.any(|allowed| allowed.as_deref() == found) {
            return Ok(());
        }
        let found = found.map(|found| String::from_utf8_lossy(&found[..found.len().min(20)]));
        let (taken, sent) = (outlet.taken, outlet.sent);
        Err(self.complaint(format!(
            "r/{topic} has {found:?}, the last acknowledged is {taken} ({}), the last sent {sent}",
            outlet.log.get(&taken).map(ToString::to_string).unwrap_or_default(),
        )))
    }

    fn complaint(&self, what: impl Into<String>) -> Complaint {
        Complaint::new(&self.connect.client_id, what)
    }
}

/// What a retained topic holds after its message of this number.
fn retained(seq: u64, bytes: usize) -> Option<Vec<u8>> {
    (!seq.is_multiple_of(CLEARS)).then(|| format!("{seq:<bytes$}").into_bytes())
}
