//! Random lives of durable sessions, with restarts and kills in between, against a simple model.
//!
//! Every step waits until the broker has answered it, so that what must be there afterwards is
//! known exactly. One thing is open after a restart: whether a client's last word on a delivery
//! (PUBACK, PUBCOMP) was written, for which nobody waits. It may be asked for once more.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use rustix::process::Signal;

use crate::harness::Broker;
use crate::harness::raw::Client;
use crate::harness::wire::{self, Connect, Publish, Version};
use crate::{lasting, start};

const CLIENTS: usize = 3;
const TOPICS: [&str; 3] = ["t/0", "t/1", "t/2"];
const FILTERS: [&str; 5] = ["t/0", "t/1", "t/+", "t/#", "+/2"];

#[derive(Clone, Debug)]
enum Step {
    /// The client connects and takes what waits for it, or goes without a word.
    Toggle(usize),
    Subscribe(usize, &'static str, u8),
    Unsubscribe(usize, Index),
    /// Somebody publishes.
    Publish(&'static str, u8, bool),
    /// A client publishes with QoS 2, and does not release it.
    Hold(usize, &'static str),
    /// It sends again what it has not released, or releases it.
    Repeat(usize, Index),
    Release(usize, Index),
    /// It acknowledges one of its deliveries: QoS 2 up to PUBREC.
    Acknowledge(usize, Index),
    /// PUBCOMP.
    Complete(usize, Index),
    /// Its session ends, and a new one begins when it comes again.
    End(usize),
    Restart(Signal),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    let topic = || select(&TOPICS[..]);
    prop_oneof![
        5 => client().prop_map(Step::Toggle),
        5 => (client(), select(&FILTERS[..]), 1..3_u8)
            .prop_map(|(client, filter, qos)| Step::Subscribe(client, filter, qos)),
        1 => (client(), any::<Index>()).prop_map(|(client, which)| Step::Unsubscribe(client, which)),
        9 => (topic(), select(vec![1, 2, 2]), any::<bool>())
            .prop_map(|(topic, qos, retain)| Step::Publish(topic, qos, retain)),
        4 => (client(), topic()).prop_map(|(client, topic)| Step::Hold(client, topic)),
        2 => (client(), any::<Index>()).prop_map(|(client, which)| Step::Repeat(client, which)),
        2 => (client(), any::<Index>()).prop_map(|(client, which)| Step::Release(client, which)),
        9 => (client(), any::<Index>()).prop_map(|(client, which)| Step::Acknowledge(client, which)),
        4 => (client(), any::<Index>()).prop_map(|(client, which)| Step::Complete(client, which)),
        1 => client().prop_map(Step::End),
        3 => select(vec![Signal::KILL, Signal::KILL, Signal::TERM]).prop_map(Step::Restart),
    ]
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// PUBLISH may come, or has come and is not answered.
    Open,
    /// PUBREC was sent and PUBREL has come.
    Released,
    /// Acknowledged to the end.
    Done,
}

#[derive(Clone, Debug)]
struct Delivery {
    payload: String,
    qos: u8,
    /// Once it has come.
    id: Option<u16>,
    state: State,
    /// After a restart the broker may not know that it is done.
    unsure: bool,
    /// It has come, or PUBREL has, on the present connection.
    asked: bool,
}

#[derive(Default)]
struct Session {
    exists: bool,
    client: Option<Client>,
    /// The broker was restarted since the client was there.
    was_restarted: bool,
    subscriptions: BTreeMap<&'static str, u8>,
    queue: Vec<Delivery>,
    /// QoS 2 publications of its own that are not released.
    held: BTreeMap<u16, (&'static str, String)>,
}

impl Session {
    /// The QoS with which it gets a message on this topic.
    fn qos(&self, topic: &str) -> Option<u8> {
        let matches = |filter: &str| match filter {
            "t/+" | "t/#" => true,
            "+/2" => topic == "t/2",
            exact => exact == topic,
        };
        let matching = self.subscriptions.iter().filter(|(filter, _)| matches(filter));
        matching.map(|(_, qos)| *qos).max()
    }

    /// The `which`th of the deliveries in this state that have come.
    fn pick(&mut self, which: Index, state: State) -> Option<&mut Delivery> {
        let came = |one: &&mut Delivery| one.state == state && one.asked;
        let mut found: Vec<_> = self.queue.iter_mut().filter(came).collect();
        if found.is_empty() { None } else { Some(found.swap_remove(which.index(found.len()))) }
    }

    /// On a new connection a message has come, behind the `next` first: how many are before the
    /// next now.
    fn came_again(&mut self, message: &Publish, next: usize) -> usize {
        let text = message.text();
        let at = self.queue.iter().skip(next).position(|one| one.payload == text);
        let at = next + at.unwrap_or_else(|| panic!("{text} comes again, or in disorder"));
        let delivery = &mut self.queue[at];
        match delivery.state {
            State::Open => {}
            State::Done if delivery.unsure && delivery.qos == 1 => delivery.state = State::Open,
            state => panic!("{text} comes, and is {state:?}"),
        }
        (delivery.id, delivery.asked) = (message.id, true);
        at + 1
    }

    /// On a new connection PUBREL has come.
    fn released(&mut self, id: u16) {
        let found = self.queue.iter_mut().find(|one| {
            let unsure = one.state == State::Done && one.unsure && one.qos == 2;
            one.id == Some(id) && (one.state == State::Released || unsure)
        });
        let delivery = found.unwrap_or_else(|| panic!("PUBREL {id} comes, and nothing waits"));
        (delivery.state, delivery.asked) = (State::Released, true);
    }

    /// The message has come.
    fn came(&mut self, message: &Publish) {
        let text = message.text();
        let found = self.queue.iter_mut().find(|one| one.payload == text && one.id.is_none());
        let found = found.unwrap_or_else(|| panic!("{text} came, and is not expected"));
        assert_eq!(found.qos, message.qos);
        (found.id, found.asked) = (message.id, true);
    }
}

struct World {
    broker: Broker,
    sessions: [Session; CLIENTS],
    retained: BTreeMap<&'static str, String>,
    next: u32,
}

fn name(client: usize) -> String {
    format!("c{client}")
}

impl World {
    /// Everybody has come once.
    fn new() -> Self {
        let sessions = Default::default();
        let mut world = Self { broker: start(), sessions, retained: BTreeMap::new(), next: 0 };
        for client in 0..CLIENTS {
            world.connect(client);
        }
        world
    }

    fn payload(&mut self) -> String {
        self.next += 1;
        self.next.to_string()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Toggle(client) => match self.sessions[*client].client.take() {
                Some(gone) => self.leave(*client, gone),
                None => self.connect(*client),
            },
            Step::Restart(signal) => self.restart(*signal),
            Step::Publish(topic, qos, retain) => {
                let payload = self.payload();
                let mut message = Publish::new(topic, &payload);
                if *retain {
                    message = message.retain();
                    self.retained.insert(topic, payload.clone());
                }
                let mut writer = self.broker.simple(Version::Mqtt5, "writer");
                if *qos == 1 {
                    writer.publish_surely(&message);
                } else {
                    writer.send(&message.qos(2, 1));
                    writer.expect_ack(wire::PUBREC, 1);
                    writer.raw.send(&wire::ack(wire::PUBREL, 1));
                    writer.expect_ack(wire::PUBCOMP, 1);
                }
                self.deliver(topic, &payload, *qos);
            }
            Step::End(client) => {
                self.sessions[*client] = Session::default();
                self.broker.client(&Connect::new(Version::Mqtt5, &name(*client))).disconnect();
            }
            _ => self.client_step(step),
        }
    }

    /// What a client that is connected does.
    fn client_step(&mut self, step: &Step) {
        let (Step::Subscribe(client, ..)
        | Step::Unsubscribe(client, _)
        | Step::Hold(client, _)
        | Step::Repeat(client, _)
        | Step::Release(client, _)
        | Step::Acknowledge(client, _)
        | Step::Complete(client, _)) = *step
        else {
            return;
        };
        let payload = self.payload();
        let session = &mut self.sessions[client];
        let Some(mut connected) = session.client.take() else { return };
        match step {
            Step::Subscribe(_, filter, qos) => {
                // Retained messages are looked at in the end: here nothing is sent for them.
                let options = qos | 2 << 4;
                assert_eq!(connected.subscribe(filter, options), *qos);
                session.subscriptions.insert(filter, *qos);
            }
            Step::Unsubscribe(_, which) if !session.subscriptions.is_empty() => {
                let at = which.index(session.subscriptions.len());
                let filter = *session.subscriptions.keys().nth(at).unwrap();
                assert_eq!(connected.unsubscribe(&[filter]), [0]);
                session.subscriptions.remove(filter);
            }
            Step::Hold(_, topic) => {
                let id = (1..=u16::MAX).find(|id| !session.held.contains_key(id)).unwrap();
                connected.send(&Publish::new(topic, &payload).qos(2, id));
                connected.expect_ack(wire::PUBREC, id);
                session.held.insert(id, (topic, payload.clone()));
                session.client = Some(connected);
                return self.deliver(topic, &payload, 2);
            }
            Step::Repeat(_, which) if !session.held.is_empty() => {
                let at = which.index(session.held.len());
                let (id, (topic, payload)) = session.held.iter().nth(at).unwrap();
                connected.send(&Publish::new(topic, payload).qos(2, *id).dup());
                connected.expect_ack(wire::PUBREC, *id);
            }
            Step::Release(_, which) if !session.held.is_empty() => {
                let at = which.index(session.held.len());
                let id = *session.held.keys().nth(at).unwrap();
                connected.raw.send(&wire::ack(wire::PUBREL, id));
                connected.expect_ack(wire::PUBCOMP, id);
                session.held.remove(&id);
            }
            Step::Acknowledge(_, which) => {
                if let Some(delivery) = session.pick(*which, State::Open) {
                    let id = delivery.id.unwrap();
                    if delivery.qos == 1 {
                        connected.raw.send(&wire::ack(wire::PUBACK, id));
                        (delivery.state, delivery.unsure) = (State::Done, true);
                    } else {
                        connected.raw.send(&wire::ack(wire::PUBREC, id));
                        connected.expect_ack(wire::PUBREL, id);
                        delivery.state = State::Released;
                    }
                }
            }
            Step::Complete(_, which) => {
                if let Some(delivery) = session.pick(*which, State::Released) {
                    connected.raw.send(&wire::ack(wire::PUBCOMP, delivery.id.unwrap()));
                    (delivery.state, delivery.unsure) = (State::Done, true);
                }
            }
            _ => {}
        }
        connected.ping();
        session.client = Some(connected);
    }

    /// A message was taken: it waits for everybody who subscribes, and comes to who is there.
    fn deliver(&mut self, topic: &str, payload: &str, qos: u8) {
        for session in &mut self.sessions {
            let Some(granted) = session.qos(topic) else { continue };
            session.queue.push(Delivery {
                payload: payload.to_owned(),
                qos: granted.min(qos),
                id: None,
                state: State::Open,
                unsure: false,
                asked: false,
            });
            if let Some(mut client) = session.client.take() {
                let message = client.receive();
                assert_eq!(message.text(), payload);
                session.came(&message);
                session.client = Some(client);
            }
        }
    }

    /// The client goes without a word. Once it is gone, nothing is delivered to where it was.
    fn leave(&mut self, client: usize, gone: Client) {
        let session = &mut self.sessions[client];
        gone.disconnect();
        for delivery in &mut session.queue {
            delivery.asked = false;
        }
    }

    /// The client comes, and takes what waits for it up to a mark behind it.
    fn connect(&mut self, client: usize) {
        let mark = self.payload();
        let mut connected = self.broker.client(&lasting(&name(client)));
        let session = &mut self.sessions[client];
        assert_eq!(connected.connack.session_present(), session.exists);
        if !std::mem::replace(&mut session.exists, true) {
            session.client = Some(connected);
            return;
        }
        connected.raw.send(&wire::subscribe(Version::Mqtt5, 1, &[], &[("mark", 1)]));
        let mut next = 0;
        loop {
            let packet = connected.raw.recv_packet();
            match packet[0] {
                // From now on the mark is the last that waits.
                0x90 => {
                    let mut writer = self.broker.simple(Version::Mqtt5, "writer");
                    writer.publish_surely(&Publish::new("mark", &mark));
                }
                wire::PUBREL => {
                    let id = u16::from_be_bytes([packet[2], packet[3]]);
                    session.released(id);
                }
                _ => {
                    let message = Publish::parse(Version::Mqtt5, &packet);
                    if message.topic == "mark" {
                        connected.acknowledge(&message);
                        // An earlier one may be asked for again.
                        if message.text() == mark {
                            break;
                        }
                        continue;
                    }
                    next = session.came_again(&message, next);
                }
            }
        }
        connected.unsubscribe(&["mark"]);
        for delivery in &mut session.queue {
            let Delivery { payload, state, asked, .. } = delivery;
            assert!(*state == State::Done || *asked, "{payload} is lost: {state:?}");
            // What it does not ask for after a restart was on its disk.
            delivery.unsure &= !session.was_restarted;
        }
        session.was_restarted = false;
        // It sends again what is not released, as it has to, and it is not taken twice.
        for (id, (topic, payload)) in &session.held {
            connected.send(&Publish::new(topic, payload).qos(2, *id).dup());
            connected.expect_ack(wire::PUBREC, *id);
        }
        session.client = Some(connected);
    }

    fn restart(&mut self, signal: Signal) {
        for client in 0..CLIENTS {
            // Before the end of the broker, so that it is known what it was told.
            if let Some(gone) = self.sessions[client].client.take() {
                self.leave(client, gone);
            }
        }
        self.broker.restart(signal);
        for session in &mut self.sessions {
            // In order, everything is written that is done with all before it: the disk knows how
            // far a queue is done with, and not what is done behind. What one restart has lost, the
            // next cannot write while its client has not come.
            let mut is_known = signal == Signal::TERM && !session.was_restarted;
            session.was_restarted = true;
            for delivery in &mut session.queue {
                is_known &= delivery.state == State::Done;
                delivery.unsure &= !is_known;
            }
        }
    }

    /// Everything that is left comes, and is brought to its end.
    fn finish(&mut self) {
        self.restart(Signal::KILL);
        for client in 0..CLIENTS {
            if self.sessions[client].exists {
                self.connect(client);
            }
        }
        let mut reader = self.broker.simple(Version::Mqtt5, "reader");
        reader.subscribe("t/#", 0);
        let found: BTreeMap<_, _> = (0..self.retained.len())
            .map(|_| reader.receive())
            .map(|message| (message.topic.clone(), message.text().to_owned()))
            .collect();
        let expected =
            self.retained.iter().map(|(topic, text)| ((*topic).to_owned(), text.clone()));
        assert_eq!(found, expected.collect());
        reader.ping();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sessions_go_on_as_a_simple_model_does(steps in vec(step(), 40..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
