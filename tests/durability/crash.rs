//! Kill -9 at random moments, while clients publish, receive, come and go: what was acknowledged
//! is there afterwards.
//!
//! Every message has a number, every client does what MQTT asks of it after a lost connection. In
//! the long form, `PORTCULLIS_CRASH_ROUNDS=500 cargo test --release --test durability crash --
//! --nocapture`; `PORTCULLIS_CRASH_SEED` repeats the chances of an earlier run, though not the
//! operating system's.
//!
//! It cannot tell whether anything was synced: what a killed process has written, the system
//! still writes.

mod chance;
mod fickle;
mod line;
mod message;
mod publisher;
mod subscriber;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::harness::wire::{Publish, Version};
use crate::harness::{Broker, Setup};
use chance::Chance;
use fickle::{Ghost, Waverer};
use message::{Complaint, When};
use publisher::Publisher;
use subscriber::{Habit, Subscriber, Wants};

/// Room for everything that waits for those who are hardly ever there.
const ROOMY: &str = "[profile.default.mailbox]\nmessages_max = 1000000\nbytes_max = \"128MiB\"";
/// Topics with retained messages.
const RETAINED_TOPICS: u8 = 6;
/// Rounds of the short form.
const ROUNDS: u32 = 10;

/// What clients work towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Going on until the broker is killed.
    Traffic,
    /// Bringing everything that was begun to its end.
    Finish,
}

/// What all clients know of a round.
#[derive(Debug)]
struct Stage<'a> {
    goal: Goal,
    round: u32,
    address: SocketAddr,
    began: Instant,
    /// The broker has been killed.
    over: &'a AtomicBool,
}

impl Stage<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn now(&self) -> When {
        When { round: self.round, at: self.began.elapsed() }
    }
}

/// A broker and its clients.
struct Trial {
    seed: u64,
    broker: Broker,
    publishers: Vec<Publisher>,
    keeper: Publisher,
    subscribers: Vec<Subscriber>,
    ghost: Ghost,
    waverer: Waverer,
}

impl Trial {
    fn begin(seed: u64, config: &str) -> Self {
        use Habit::{Absent, Flitting, Steady, Tardy};
        let broker = Setup::new().plaintext().config(ROOMY).config(config).start();
        broker.simple(Version::Mqtt5, "marker").publish_surely(&Publish::new("mark", "x").retain());
        let versions = [Version::Mqtt5, Version::Mqtt311, Version::Mqtt5, Version::Mqtt5];
        let mut publishers = Vec::new();
        for (number, version) in (0..).zip(versions) {
            let publisher = Publisher::new(version, number, 6 + 3 * usize::from(number));
            publisher.begin(&broker);
            publishers.push(publisher);
        }
        let keeper = Publisher::retaining(9, RETAINED_TOPICS);
        keeper.begin(&broker);
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
            subscriber.begin(&broker);
            subscribers.push(subscriber);
        }
        Self {
            seed,
            publishers,
            keeper,
            subscribers,
            ghost: Ghost::new(),
            waverer: Waverer::begin(&broker),
            broker,
        }
    }

    /// Traffic, a kill, a restart, and what can be checked at once.
    fn round(&mut self, round: u32) -> Result<(), Complaint> {
        let mut chance = Chance::new(self.seed, round, 0);
        let longest = if chance.once_in(4) { 40 } else { 600 };
        let delay = chance.millis_below(longest);
        let over = AtomicBool::new(false);
        let stage = Stage {
            goal: Goal::Traffic,
            round,
            address: self.broker.address("mqtt"),
            began: Instant::now(),
            over: &over,
        };
        let actors = (1..).map(|actor| Chance::new(self.seed, round, actor));
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut actors = actors;
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
            // At any moment: that is what is tried.
            std::thread::sleep(delay);
            self.broker.signal(Signal::KILL);
            over.store(true, Ordering::Relaxed);
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })?;
        eprintln!("round {round}: killed after {delay:?}");
        self.broker.restart(Signal::KILL);
        self.waverer.check(&self.broker, round)?;
        self.ghost.check(&self.broker)?;
        self.check_retained()
    }

    /// Every topic has the last acknowledged retained message, or a later one that was sent.
    fn check_retained(&self) -> Result<(), Complaint> {
        let mut reader = self.broker.simple(Version::Mqtt5, "reader");
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
    fn drain(&mut self, round: u32) -> Result<(), Complaint> {
        let over = AtomicBool::new(false);
        let stage = Stage {
            goal: Goal::Finish,
            round,
            address: self.broker.address("mqtt"),
            began: Instant::now(),
            over: &over,
        };
        let mut chance = Chance::new(self.seed, round, 100);
        for publisher in self.publishers.iter_mut().chain([&mut self.keeper]) {
            publisher.run(&stage, &mut chance)?;
        }
        let mut fences = self.broker.simple(Version::Mqtt5, "fences");
        for subscriber in &self.subscribers {
            let publish = Publish::new(&subscriber.fence_topic(), &round.to_string());
            fences.publish_surely(&publish);
        }
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (actor, subscriber) in (101..).zip(&mut self.subscribers) {
                let (stage, mut chance) = (&stage, Chance::new(self.seed, round, actor));
                threads.push(scope.spawn(move || subscriber.run(stage, &mut chance)));
            }
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })?;
        self.check_retained()?;
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
        self.publishers.iter_mut().for_each(Publisher::forget_log);
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.share.clear());
        Ok(())
    }

    /// Rounds, with everything brought to its end every few of them.
    fn run(&mut self, rounds: u32) -> Result<(), String> {
        let mut chance = Chance::new(self.seed, 0, 0);
        let began = Instant::now();
        for round in 1..=rounds {
            let mut outcome = self.round(round);
            if outcome.is_ok() && (round == rounds || chance.once_in(3)) {
                outcome = self.drain(round);
            }
            outcome.map_err(|complaint| self.account(round, &complaint))?;
            if round % 10 == 0 || round == rounds {
                let taken: u64 = self.publishers.iter().map(|one| one.acknowledgements).sum();
                let retained = self.keeper.acknowledgements;
                let deliveries: u64 = self.subscribers.iter().map(|one| one.deliveries).sum();
                eprintln!(
                    "after {round} rounds and {:.0?}: {taken} messages and {retained} retained \
                     ones acknowledged, {deliveries} deliveries",
                    began.elapsed(),
                );
            }
        }
        Ok(())
    }

    /// What is wrong, with what was acknowledged when.
    fn account(&self, round: u32, complaint: &Complaint) -> String {
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

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse().ok();
    Some(number.unwrap_or_else(|| panic!("{variable} is no number: {text}")))
}

fn seed() -> u64 {
    let clock = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_millis();
    number("PORTCULLIS_CRASH_SEED").unwrap_or_else(|| u64::try_from(clock()).unwrap())
}

#[test]
fn what_was_acknowledged_outlives_every_crash() {
    let seed = seed();
    eprintln!("PORTCULLIS_CRASH_SEED={seed}");
    let rounds = number("PORTCULLIS_CRASH_ROUNDS").unwrap_or(ROUNDS);
    if let Err(account) = Trial::begin(seed, "").run(rounds) {
        panic!("{account}");
    }
}

#[test]
fn a_crash_that_loses_everything_is_noticed() {
    let mut trial = Trial::begin(seed(), "[store]\ndurability = \"memory\"");
    let account = trial.run(4).unwrap_err();
    assert!(account.ends_with("its session is not there"), "{account}");
}
