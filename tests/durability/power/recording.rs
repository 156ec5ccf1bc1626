//! All that a broker did to its disk while clients were at work, and what these knew meanwhile.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::disk::Disk;
use super::log::Log;
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
    /// Syncs are not made.
    pub(super) swallow: bool,
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
}

impl Recording {
    /// Records a broker on the disk as it is; with clients that go on, or with new ones.
    pub(super) fn make(bench: &Bench, wanted: Wanted, cast: Option<Cast>) -> Result<Self, String> {
        let disk = Disk::read(&bench.disk());
        let path: PathBuf = bench.aside("disk.log");
        let _ = std::fs::remove_file(&path);
        let mut variables =
            vec![("SHIM_LOG", path.display().to_string()), ("SHIM_SYNC_US", SYNC_US.to_string())];
        if wanted.swallow {
            variables.push(("SHIM_SWALLOW", "1".to_owned()));
        }
        let started = bench.start_shimmed(&variables);
        let mut broker = started.map_err(|ended| format!("it does not start: {ended:?}"))?;
        let witness = Witness::new(&path);
        let address = broker.address;
        let is_new = cast.is_none();
        let cast = cast.unwrap_or_else(|| Cast::begin(wanted.seed, address, wanted.retained_bytes));
        let begun = if is_new { witness.position() } else { 0 };
        let mut playing = cast.clone();
        let outcome = playing.traffic((wanted.round, address), Some(&witness), || {
            let deadline = Instant::now() + Duration::from_millis(wanted.millis_max);
            while Instant::now() < deadline && witness.position() < wanted.log_bytes_max {
                std::thread::sleep(LOOK_AGAIN);
            }
            broker.kill();
        });
        outcome.map_err(|complaint| playing.account(wanted.round, &complaint))?;
        Ok(Self { disk, log: Log::read(&path), witness, cast, begun })
    }

    /// Moments for power cuts, in order.
    pub(super) fn moments(&self, count: usize, chance: &mut Chance) -> Vec<u64> {
        let ends: Vec<u64> = self.log.events().map(|(end, _)| end).collect();
        let mut moments: Vec<u64> = (0..count)
            .map(|_| ends[usize::try_from(chance.below(ends.len() as u64)).unwrap()])
            .collect();
        moments.sort_unstable();
        moments
    }

    /// The clients at a moment; `None` while their sessions had not begun.
    pub(super) fn cast(&self, moment: u64) -> Option<Cast> {
        let mut cast = (moment >= self.begun).then(|| self.cast.clone())?;
        self.witness.recall(&mut cast, moment);
        Some(cast)
    }
}
