//! All that a broker did to its disk while clients were at work, and what these knew meanwhile.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::disk::Disk;
use super::log::{Event, Log};
use crate::crash::cast::Cast;
use crate::crash::chance::Chance;
use crate::crash::witness::Witness;

/// So much longer each sync takes: what is answered too early is answered well before its end.
const SYNC_US: u32 = 1500;
/// How often the log is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a recording is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) seed: u64,
    pub(super) round: u32,
    /// The broker goes on so long, and until its log has so many bytes.
    pub(super) millis_max: u64,
    pub(super) log_bytes_max: u64,
    /// Of each retained message, for clients that begin.
    pub(super) retained_bytes: usize,
    /// Everything is delivered, and the broker left in peace, instead of traffic: after a while it
    /// gives back the room of what is gone.
    pub(super) rests: bool,
    pub(super) journals: Journals,
}

/// What becomes of a sync of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journals {
    Synced,
    /// It is not made.
    Swallowed,
    /// It ends when the next one does.
    Late,
}

pub(super) struct Recording {
    /// The disk before.
    pub(super) disk: Disk,
    pub(super) log: Log,
    witness: Witness,
    /// The clients when their sessions had begun.
    cast: Cast,
    /// How long the log was then.
    begun: u64,
    rests: bool,
}

impl Recording {
    /// Records a broker on the disk as it is; with clients that go on, or with new ones.
    pub(super) fn make(bench: &Bench, wanted: Wanted, cast: Option<Cast>) -> Result<Self, String> {
        let disk = Disk::read(&bench.disk());
        let path: PathBuf = bench.aside("disk.log");
        let _ = std::fs::remove_file(&path);
        let mut variables =
            vec![("SHIM_LOG", path.display().to_string()), ("SHIM_SYNC_US", SYNC_US.to_string())];
        match wanted.journals {
            Journals::Synced => {}
            Journals::Swallowed => variables.push(("SHIM_SWALLOW", ".jnl".to_owned())),
            Journals::Late => variables.push(("SHIM_LATE", ".jnl".to_owned())),
        }
        let started = bench.start_shimmed(&variables);
        let mut broker = started.map_err(|ended| format!("it does not start: {ended:?}"))?;
        let witness = Witness::new(&path);
        let address = broker.address;
        let (begun, cast) = match cast {
            None => {
                let cast = Cast::begin(wanted.seed, address, wanted.retained_bytes);
                (witness.position(), cast)
            }
            Some(mut cast) if wanted.rests => {
                let drained = cast.drain(address, wanted.round);
                drained.map_err(|complaint| cast.account(wanted.round, &complaint))?;
                (witness.position(), cast)
            }
            Some(cast) => (0, cast),
        };
        let mut until_its_end = || {
            let deadline = Instant::now() + Duration::from_millis(wanted.millis_max);
            // How much is recorded, by time or size: nothing depends on where it ends.
            while Instant::now() < deadline && witness.position() < wanted.log_bytes_max {
                std::thread::sleep(LOOK_AGAIN);
            }
            broker.kill();
        };
        if wanted.rests {
            until_its_end();
        } else {
            let mut playing = cast.clone();
            let outcome = playing.traffic((wanted.round, address), Some(&witness), until_its_end);
            outcome.map_err(|complaint| playing.account(wanted.round, &complaint))?;
        }
        let recording =
            Self { disk, log: Log::read(&path), witness, cast, begun, rests: wanted.rests };
        recording.describe();
        Ok(recording)
    }

    fn describe(&self) {
        let (mut events, mut journals, mut tables) = (0, 0, 0);
        for (_, event) in self.log.events() {
            events += 1;
            if let Event::Create { name, .. } = event {
                journals += u32::from(name.strip_suffix(".jnl").is_some());
                tables += u32::from(name.parse::<u64>().is_ok());
            }
        }
        eprintln!("a recording of {events} events: {journals} journals, {tables} tables made");
    }

    /// Moments for power cuts, in order. While sessions begin nothing was promised that is
    /// checked: few of them are before that, and none in a broker that drained.
    pub(super) fn moments(&self, count: usize, chance: &mut Chance) -> Vec<u64> {
        let (early, late): (Vec<u64>, Vec<u64>) =
            self.log.events().map(|(end, _)| end).partition(|end| self.is_early(*end));
        let mut moments = Vec::new();
        while moments.len() < count {
            let is_early = !self.rests && chance.once_in(5);
            let from = if is_early && !early.is_empty() { &early } else { &late };
            // A broker at rest may do nothing at all.
            let any = usize::try_from(chance.below(from.len().max(1) as u64)).unwrap();
            moments.push(from.get(any).copied().unwrap_or(self.begun));
        }
        moments.sort_unstable();
        moments
    }

    /// True while the sessions of the clients had not begun.
    pub(super) fn is_early(&self, moment: u64) -> bool {
        moment < self.begun
    }

    /// The clients at a moment; `None` while their sessions had not begun.
    pub(super) fn cast(&self, moment: u64) -> Option<Cast> {
        let mut cast = (!self.is_early(moment)).then(|| self.cast.clone())?;
        self.witness.recall(&mut cast, moment);
        Some(cast)
    }
}
