//! All the clients of a trial, what they do together, and what is checked of them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::chance::Chance;
use super::fickle::{Ghost, Waverer};
use super::message::Complaint;
use super::publisher::Publisher;
use super::subscriber::{Habit, Subscriber, Wants};
use super::witness::{Actor, Witness};
use super::{Goal, Stage};
use crate::harness::raw::Client;
use crate::harness::wire::{Connect, Publish, Version};

/// Topics with retained messages.
const RETAINED_TOPICS: u8 = 6;

/// The clients of a trial.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    seed: u64,
    publishers: Vec<Publisher>,
    keeper: Publisher,
    subscribers: Vec<Subscriber>,
    ghost: Ghost,
    waverer: Waverer,
}

impl Cast {
    /// Begins all their sessions. Retained messages have so many bytes.
    pub(crate) fn begin(seed: u64, address: SocketAddr, retained_bytes: usize) -> Self {
        use Habit::{Absent, Flitting, Steady, Tardy};
        plain(address, "marker").publish_surely(&Publish::new("mark", "x").retain());
        let versions = [Version::Mqtt5, Version::Mqtt311, Version::Mqtt5, Version::Mqtt5];
        let mut publishers = Vec::new();
        for (number, version) in (0..).zip(versions) {
            let publisher = Publisher::new(version, number, 6 + 3 * usize::from(number));
            publisher.begin(address);
            publishers.push(publisher);
        }
        let keeper = Publisher::retaining(9, RETAINED_TOPICS, retained_bytes);
        keeper.begin(address);
        let mut subscribers = Vec::new();
        for (name, habit, wants) in [
            ("steady", Steady, Wants::All(2)),
            ("steady-1", Steady, Wants::All(1)),
            ("tardy", Tardy, Wants::All(2)),
            ("flitting", Flitting, Wants::All(2)),
            ("flitting-of-2", Flitting, Wants::Of(2)),
            ("overlapping", Flitting, Wants::Overlapping),
            ("absent", Absent, Wants::All(2)),
            ("absent-of-1", Absent, Wants::Of(1)),
            ("share-steady", Steady, Wants::Share),
            ("share-flitting", Flitting, Wants::Share),
        ] {
            let version = if name == "steady-1" { Version::Mqtt311 } else { Version::Mqtt5 };
            let mut subscriber = Subscriber::new(version, name, habit, wants);
            subscriber.begin(address);
            subscribers.push(subscriber);
        }
        let (ghost, waverer) = (Ghost::new(), Waverer::begin(address));
        Self { seed, publishers, keeper, subscribers, ghost, waverer }
    }

    /// Traffic until the broker has been killed, which `kill` does at some moment.
    pub(crate) fn traffic(
        &mut self,
        (round, address): (u32, SocketAddr),
        witness: Option<&Witness>,
        kill: impl FnOnce(),
    ) -> Result<(), Complaint> {
        let over = AtomicBool::new(false);
        let began = Instant::now();
        let stage = Stage { goal: Goal::Traffic, round, address, began, over: &over, witness };
        let seed = self.seed;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut actors = (1..).map(|actor| Chance::new(seed, round, actor));
            let mut chance = || actors.next().unwrap();
            let stage = &stage;
            for publisher in self.publishers.iter_mut().chain([&mut self.keeper]) {
                let mut chance = chance();
                threads.push(scope.spawn(move || publisher.run(stage, &mut chance)));
            }
            for subscriber in &mut self.subscribers {
                let mut chance = chance();
                threads.push(scope.spawn(move || subscriber.run(stage, &mut chance)));
            }
            let (ghost, mut chances) = (&mut self.ghost, chance());
            threads.push(scope.spawn(move || ghost.run(stage, &mut chances)));
            let (waverer, mut chances) = (&mut self.waverer, chance());
            threads.push(scope.spawn(move || {
                waverer.run(stage, &mut chances);
                Ok(())
            }));
            kill();
            over.store(true, Ordering::Relaxed);
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })
    }

    /// What can be checked at once after a restart.
    pub(crate) fn check(&mut self, address: SocketAddr, round: u32) -> Result<(), Complaint> {
        self.waverer.check(address, round)?;
        self.ghost.check(address)?;
        self.check_retained(address)
    }

    /// Every topic has the last acknowledged retained message, or a later one that was sent.
    fn check_retained(&self, address: SocketAddr) -> Result<(), Complaint> {
        let mut reader = plain(address, "reader");
        reader.subscribe("r/#", 0);
        // Comes after all of the others.
        reader.subscribe("mark", 0);
        let mut found = vec![None; usize::from(RETAINED_TOPICS)];
        loop {
            let publish = reader.receive();
            let Some(topic) = publish.topic.strip_prefix("r/") else { break };
            found[topic.parse::<usize>().unwrap()] = Some(publish.payload);
        }
        for (topic, found) in (0..).zip(&found) {
            self.keeper.may_be_retained(topic, found.as_deref())?;
        }
        Ok(())
    }

    /// Brings everything to its end, and checks that all of it came.
    pub(crate) fn drain(&mut self, address: SocketAddr, round: u32) -> Result<(), Complaint> {
        let (over, began) = (AtomicBool::new(false), Instant::now());
        let stage = Stage { goal: Goal::Finish, round, address, began, over: &over, witness: None };
        let mut chance = Chance::new(self.seed, round, 100);
        for publisher in self.publishers.iter_mut().chain([&mut self.keeper]) {
            publisher.run(&stage, &mut chance)?;
        }
        let mut fences = plain(address, "fences");
        for subscriber in &self.subscribers {
            let publish = Publish::new(&subscriber.fence_topic(), &round.to_string());
            fences.publish_surely(&publish);
        }
        let seed = self.seed;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (actor, subscriber) in (101..).zip(&mut self.subscribers) {
                let (stage, mut chance) = (&stage, Chance::new(seed, round, actor));
                threads.push(scope.spawn(move || subscriber.run(stage, &mut chance)));
            }
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })?;
        self.check_retained(address)?;
        self.check_delivered()?;
        self.publishers.iter_mut().for_each(Publisher::forget_log);
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.share.clear());
        Ok(())
    }

    fn check_delivered(&self) -> Result<(), Complaint> {
        for outlet in self.publishers.iter().flat_map(Publisher::outlets) {
            let (stream, sent) = (outlet.stream, outlet.sent);
            for subscriber in &self.subscribers {
                let last = subscriber.last(stream);
                let is_shared = matches!(subscriber.wants, Wants::Share);
                if !is_shared && subscriber.wants.qos(stream).is_some() && last < sent {
                    let what = format!("{} to {sent} did not come", last + 1);
                    return Err(subscriber.complaint(what).about(stream, last + 1..=sent));
                }
            }
            // Both members together.
            for seq in outlet.log.keys() {
                let counts =
                    self.subscribers.iter().filter_map(|one| one.share.get(&(stream, *seq)));
                let count: u32 = counts.sum();
                if count == 0 || stream.qos == 2 && count > 1 {
                    let what = format!("{seq} came {count} times");
                    return Err(Complaint::new("share-*", what).about(stream, *seq..=*seq));
                }
            }
        }
        Ok(())
    }

    /// Takes a client as it was at another moment.
    pub(super) fn replace(&mut self, actor: Actor) {
        match actor {
            Actor::Publisher(publisher) => {
                let mut all = self.publishers.iter_mut().chain([&mut self.keeper]);
                let name = &publisher.connect.client_id;
                let place = all.find(|one| one.connect.client_id == *name).unwrap();
                *place = publisher;
            }
            Actor::Subscriber(subscriber) => {
                let mut all = self.subscribers.iter_mut();
                let name = &subscriber.connect.client_id;
                let place = all.find(|one| one.connect.client_id == *name).unwrap();
                *place = subscriber;
            }
            Actor::Ghost(ghost) => self.ghost = ghost,
            Actor::Waverer(waverer) => self.waverer = waverer,
        }
    }

    /// What was acknowledged and delivered so far, in words.
    pub(crate) fn tally(&self) -> String {
        let taken: u64 = self.publishers.iter().map(|one| one.acknowledgements).sum();
        let retained = self.keeper.acknowledgements;
        let deliveries: u64 = self.subscribers.iter().map(|one| one.deliveries).sum();
        format!(
            "{taken} messages and {retained} retained ones acknowledged, {deliveries} deliveries"
        )
    }

    /// What is wrong, with what was acknowledged when.
    pub(crate) fn account(&self, round: u32, complaint: &Complaint) -> String {
        let Complaint { client, what, about } = complaint;
        let mut text = format!("seed {}, round {round}: {client}: {what}", self.seed);
        let Some((stream, numbers)) = about else { return text };
        let _ = write!(text, "; {stream}");
        let outlets = self.publishers.iter().flat_map(Publisher::outlets);
        for outlet in outlets.filter(|outlet| outlet.stream == *stream) {
            for seq in numbers.clone().take(5) {
                let _ = match outlet.log.get(&seq) {
                    Some(when) => write!(text, "; {seq} was acknowledged {when}"),
                    None if seq <= outlet.sent => write!(text, "; {seq} has no acknowledgement"),
                    None => write!(text, "; {seq} was never sent"),
                };
            }
        }
        text
    }
}

/// A client without a session.
fn plain(address: SocketAddr, client_id: &str) -> Client {
    Client::connect(address, &Connect::new(Version::Mqtt5, client_id))
}
