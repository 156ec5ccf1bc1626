//! Power cuts, simulated: what was acknowledged is there when the power comes back.
//!
//! A broker runs with a shim between it and the system ([`shim`], `shim.c`) that writes down all
//! that is done to the disk of its store. From any part of that log, a disk is made as a power cut
//! at that moment may have left it ([`disk`], [`image`]). A broker is started on it, the clients
//! of the kill -9 trial go on as they were at that moment, and are checked in the same way: what
//! was acknowledged is delivered, QoS 1 at least once, QoS 2 exactly once, in order; of retained
//! messages the last acknowledged is there; sessions and subscriptions are as was last said.
//!
//! Each recording begins with the disk that a power cut in the one before has left: cuts also fall
//! into the time when a broker opens what an earlier cut has torn.
//!
//! In the long form, `PORTCULLIS_POWER_CUTS=500 cargo test --release --test durability power --
//! --nocapture`; `PORTCULLIS_POWER_SEED` repeats the chances of an earlier run.
//! `PORTCULLIS_POWER_KEEP` names a folder where each disk is kept as it was left, until the next
//! one: after a failure, the one to look at.

mod bench;
mod disk;
mod faults;
mod image;
mod log;
mod model;
mod recording;
mod shim;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Instant;

use crate::crash::cast::Cast;
use crate::crash::chance::Chance;
use crate::crash::{number, seed};
use crate::harness::raw::Client;
use crate::lasting;
use bench::Bench;
use image::{Image, Keep};
use recording::{Journals, Recording, Wanted};

/// Power cuts of the short form.
const CUTS: usize = 20;
/// Power cuts in one recording.
const CUTS_EACH: usize = 10;
/// Recordings that follow from each other; then all begins anew.
const CHAIN: usize = 4;

/// What a trial is like.
#[derive(Clone, Copy, Debug)]
struct Terms {
    seed: u64,
    cuts: usize,
    journals: Journals,
}

/// What a recording is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Small messages.
    Light,
    /// So many bytes that the engine has to write what it keeps in memory to tables.
    Heavy,
    /// Everything is delivered, and then nothing happens: tables are written anew.
    Rest,
}

struct Trial {
    terms: Terms,
    bench: Bench,
    chance: Chance,
    /// Of recordings and checks: what is published to tell them apart must not come twice.
    round: u32,
    done: usize,
}

impl Trial {
    fn new(terms: Terms) -> Self {
        let chance = Chance::new(terms.seed, 0, 0);
        Self { terms, bench: Bench::new(), chance, round: 0, done: 0 }
    }

    fn run(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let mut cast = None;
        for recording in 0.. {
            if recording % CHAIN == 0 {
                cast = None;
                self.bench.wipe();
            }
            let kind = match (recording / CHAIN % 2, recording % CHAIN) {
                (0, _) => Kind::Light,
                (_, 3) if cast.is_some() => Kind::Rest,
                _ => Kind::Heavy,
            };
            cast = self.record_and_cut(kind, cast)?;
            eprintln!("{} power cuts in {:.0?}", self.done, began.elapsed());
            if self.done >= self.terms.cuts {
                return Ok(());
            }
        }
        Ok(())
    }

    fn record(&mut self, kind: Kind, cast: Option<Cast>) -> Result<Recording, String> {
        self.round += 1;
        let wanted = Wanted {
            seed: self.terms.seed,
            round: self.round,
            millis_max: match kind {
                Kind::Light => 200 + self.chance.below(400),
                Kind::Heavy => 3000,
                Kind::Rest => 7000,
            },
            log_bytes_max: 48 << 20,
            retained_bytes: if kind == Kind::Light { 0 } else { 40_000 },
            rests: kind == Kind::Rest,
            journals: self.terms.journals,
        };
        Recording::make(&self.bench, wanted, cast)
    }

    /// A recording, and power cuts in it. What one of them leaves is on the disk afterwards; the
    /// clients of that moment go on with it.
    fn record_and_cut(&mut self, kind: Kind, cast: Option<Cast>) -> Result<Option<Cast>, String> {
        let recording = self.record(kind, cast)?;
        let count = CUTS_EACH.min(self.terms.cuts - self.done);
        let moments = recording.moments(count, &mut self.chance);
        // Much has to be waiting for a broker at rest to have something to give back.
        let follows = match kind {
            Kind::Light => usize::try_from(self.chance.below(count as u64)).unwrap(),
            Kind::Heavy | Kind::Rest => count - 1,
        };
        let mut disk = recording.disk.clone();
        let mut events = recording.log.events().peekable();
        let mut left = None;
        for (at, moment) in moments.into_iter().enumerate() {
            while let Some((_, event)) = events.next_if(|(end, _)| *end <= moment) {
                disk.take(event);
            }
            let keep = Keep::choose(&disk, &mut self.chance);
            let image = Image::cut(&disk, keep, &mut self.chance);
            let cast = recording.cast(moment);
            self.done += 1;
            let what = format!(
                "power cut {} at byte {moment} of the log, {} changes not settled, {keep:?}",
                self.done,
                disk.pending.len(),
            );
            eprintln!("{what}");
            self.check(&image, cast.clone()).map_err(|account| format!("{what}: {account}"))?;
            if at == follows {
                left = Some((image, cast));
            }
        }
        let Some((image, cast)) = left else { return Ok(None) };
        self.bench.put(&image);
        Ok(cast)
    }

    /// A broker starts on what is left, and everything promised is there.
    fn check(&mut self, image: &Image, cast: Option<Cast>) -> Result<(), String> {
        self.round += 1;
        self.bench.put(image);
        let keep = std::env::var("PORTCULLIS_POWER_KEEP").ok();
        if let Some(keep) = &keep {
            let _ = std::fs::remove_dir_all(keep);
            self.bench.keep(Path::new(keep));
        }
        let started = self.bench.start();
        let broker = started.map_err(|ended| format!("it does not start: {ended:?}"))?;
        let address = broker.address;
        // Before anything was promised, a broker that works is all there can be.
        let mut cast = cast.unwrap_or_else(|| Cast::begin(self.terms.seed, address, 0));
        let outcome = cast.check(address, self.round);
        let outcome = outcome.and_then(|()| cast.drain(address, self.round));
        outcome.map_err(|complaint| cast.account(self.round, &complaint))?;
        eprintln!("all is there: {}", cast.tally());
        Ok(())
    }
}

#[test]
fn what_was_acknowledged_outlives_every_power_cut() {
    let seed = seed("PORTCULLIS_POWER_SEED");
    let cuts = number("PORTCULLIS_POWER_CUTS").unwrap_or(CUTS);
    if let Err(account) = (Trial::new(Terms { seed, cuts, journals: Journals::Synced })).run() {
        panic!("{account}");
    }
}

/// The trial, which passes with every sync, finds a loss; or a client meets it first, which waits in
/// vain or is told what cannot be.
fn is_lost(journals: Journals) {
    let seed = seed("PORTCULLIS_POWER_SEED");
    let mut trial = Trial::new(Terms { seed, cuts: 2 * CUTS, journals });
    if let Ok(account) = std::panic::catch_unwind(AssertUnwindSafe(|| trial.run())) {
        let account = account.unwrap_err();
        assert!(account.contains("power cut"), "{account}");
        eprintln!("{account}");
    }
}

#[test]
fn without_the_sync_what_was_acknowledged_is_lost() {
    is_lost(Journals::Swallowed);
}

#[test]
fn with_a_sync_that_comes_too_late_what_was_acknowledged_is_lost() {
    is_lost(Journals::Late);
}

/// Until its store was made a broker has promised nothing, but it has to start.
#[test]
fn a_store_that_the_power_was_cut_from_while_it_was_made_is_made_again() {
    let seed = seed("PORTCULLIS_POWER_SEED");
    let cuts = number("PORTCULLIS_POWER_CUTS").unwrap_or(CUTS) / 2;
    let mut trial = Trial::new(Terms { seed, cuts, journals: Journals::Synced });
    let recording = trial.record(Kind::Light, None).unwrap();
    let early: Vec<_> =
        recording.log.events().take_while(|(end, _)| recording.is_early(*end)).collect();
    for cut in 1..=cuts {
        let taken = usize::try_from(trial.chance.below(early.len() as u64)).unwrap();
        let mut disk = recording.disk.clone();
        early[..taken].iter().for_each(|(_, event)| disk.take(*event));
        let keep = Keep::choose(&disk, &mut trial.chance);
        eprintln!("power cut {cut} after {taken} events of {}, {keep:?}", early.len());
        trial.bench.put(&Image::cut(&disk, keep, &mut trial.chance));
        let broker = trial.bench.start().unwrap();
        Client::connect(broker.address, &lasting("client")).ping();
    }
}

/// What the engine syncs of a new store is not enough: that its folders are there is not in it.
#[test]
fn a_new_store_is_there_though_nothing_was_written_that_no_sync_asked_for() {
    let seed = seed("PORTCULLIS_POWER_SEED");
    let mut trial = Trial::new(Terms { seed, cuts: 1, journals: Journals::Synced });
    let recording = trial.record(Kind::Light, None).unwrap();
    let mut disk = recording.disk.clone();
    recording.log.events().for_each(|(_, event)| disk.take(event));
    let image = Image::cut(&disk, Keep::Nothing, &mut Chance::new(seed, 0, 1));
    trial.check(&image, recording.cast(u64::MAX)).unwrap();
}
