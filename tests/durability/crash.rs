//! Kill -9 at random moments, while clients publish, receive, come and go: what was acknowledged
//! is there afterwards.
//!
//! Every message has a number, every client does what MQTT asks of it after a lost connection. In
//! the long form, `PORTCULLIS_CRASH_ROUNDS=500 cargo test --release --test durability crash --
//! --nocapture`; `PORTCULLIS_CRASH_SEED` repeats the chances of an earlier run, though not the
//! operating system's.
//!
//! It cannot tell whether anything was synced: what a killed process has written, the system
//! still writes. For that see [`crate::power`].

pub(crate) mod cast;
pub(crate) mod chance;
mod fickle;
mod line;
pub(crate) mod message;
mod publisher;
mod subscriber;
pub(crate) mod witness;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::harness::{Broker, Setup};
use cast::Cast;
use chance::Chance;
use message::{Complaint, When};
use witness::{Actor, Witness};

/// Room for everything that waits for those who are hardly ever there.
pub(crate) const ROOMY: &str =
    "[profile.default.mailbox]\nmessages_max = 1000000\nbytes_max = \"128MiB\"";
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
    /// Who keeps what they are like, in a recording.
    witness: Option<&'a Witness>,
}

impl Stage<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn now(&self) -> When {
        When { round: self.round, at: self.began.elapsed() }
    }

    /// How long the log of a recording is.
    fn position(&self) -> u64 {
        self.witness.map_or(0, Witness::position)
    }

    /// This is what the client was like when the log was so long.
    fn keep(&self, position: u64, actor: impl FnOnce() -> Actor) {
        if let Some(witness) = self.witness {
            witness.keep(position, actor());
        }
    }
}

/// A broker and its clients.
struct Trial {
    seed: u64,
    broker: Broker,
    cast: Cast,
}

impl Trial {
    fn begin(seed: u64, config: &str) -> Self {
        let broker = Setup::new().plaintext().config(ROOMY).config(config).start();
        let cast = Cast::begin(seed, broker.address("mqtt"), 0);
        Self { seed, broker, cast }
    }

    /// Traffic, a kill, a restart, and what can be checked at once.
    fn round(&mut self, round: u32) -> Result<(), Complaint> {
        let mut chance = Chance::new(self.seed, round, 0);
        let longest = if chance.once_in(4) { 40 } else { 600 };
        let delay = chance.millis_below(longest);
        let address = self.broker.address("mqtt");
        let broker = &mut self.broker;
        self.cast.traffic((round, address), None, || {
            // At any moment: that is what is tried.
            std::thread::sleep(delay);
            broker.signal(Signal::KILL);
        })?;
        eprintln!("round {round}: killed after {delay:?}");
        self.broker.restart(Signal::KILL);
        self.cast.check(self.broker.address("mqtt"), round)
    }

    /// Rounds, with everything brought to its end every few of them.
    fn run(&mut self, rounds: u32) -> Result<(), String> {
        let mut chance = Chance::new(self.seed, 0, 0);
        let began = Instant::now();
        for round in 1..=rounds {
            let mut outcome = self.round(round);
            if outcome.is_ok() && (round == rounds || chance.once_in(3)) {
                outcome = self.cast.drain(self.broker.address("mqtt"), round);
            }
            outcome.map_err(|complaint| self.cast.account(round, &complaint))?;
            if round % 10 == 0 || round == rounds {
                let tally = self.cast.tally();
                eprintln!("after {round} rounds and {:.0?}: {tally}", began.elapsed());
            }
        }
        Ok(())
    }
}

pub(crate) fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse().ok();
    Some(number.unwrap_or_else(|| panic!("{variable} is no number: {text}")))
}

/// The number in a variable; without it, one that the clock gives.
pub(crate) fn seed(variable: &str) -> u64 {
    let clock = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_millis();
    let seed = number(variable).unwrap_or_else(|| u64::try_from(clock()).unwrap());
    eprintln!("{variable}={seed}");
    seed
}

#[test]
fn what_was_acknowledged_outlives_every_crash() {
    let seed = seed("PORTCULLIS_CRASH_SEED");
    let rounds = number("PORTCULLIS_CRASH_ROUNDS").unwrap_or(ROUNDS);
    if let Err(account) = Trial::begin(seed, "").run(rounds) {
        panic!("{account}");
    }
}

#[test]
fn a_crash_that_loses_everything_is_noticed() {
    let seed = seed("PORTCULLIS_CRASH_SEED");
    let mut trial = Trial::begin(seed, "[store]\ndurability = \"memory\"");
    let account = trial.run(4).unwrap_err();
    assert!(account.ends_with("its session is not there"), "{account}");
}
