//! Opening a store, and making it where there is none.

use std::sync::Arc;

use fjall::PersistMode;

use super::codec::{Clock, Damage, unseal};
use super::engine::{Engine, describe, failed};
use super::folder::{Folder, State};
use super::mark::{Mark, Marks};
use super::scan::{Contents, scan};
use super::writer::{BodyCounts, number_record};
use super::{Recovered, Settings, Shared, StoreError, keys, repair, salvage};
use crate::store::queues::Queues;

/// The format of the whole store that this version writes, and the highest that it reads.
pub(super) const FORMAT: u64 = 3;
/// The lowest that it reads: what is of an older format becomes the present one, record by record as
/// they are written, and is nothing to an older version from then on.
pub(super) const FORMAT_MIN: u64 = 1;

/// An open store.
pub(super) struct Found {
    pub(super) engine: Engine,
    pub(super) folder: Arc<Folder>,
    pub(super) marks: Marks,
    pub(super) recovered: Recovered,
    pub(super) queues: Queues,
    pub(super) counts: BodyCounts,
    pub(super) next_body: u64,
    pub(super) next_session: u64,
}

/// Opens the store and reads what it holds.
pub(super) fn open(
    settings: &Settings,
    shared: &Shared,
    clock: Clock,
) -> Result<Found, StoreError> {
    let (folder, state) = Folder::take(settings)?;
    if state == State::New {
        folder.refuse_unfinished()?;
        make(&folder)?;
    }
    folder.check()?;
    let last = repair::repair(&folder)?;
    let mut engine = salvage::open(&folder)?;
    check_format(&folder, &engine)?;
    let known = read_mark(&folder, &engine);
    repair::compare(&folder, last, known)?;
    let last = known.max(last.unwrap_or(0));
    folder.check_end(last)?;
    let mut marks = Marks::after(last, folder.token);
    if folder.accept_loss && !salvage::is_whole(&folder, &engine) {
        engine = salvage::rebuild(&folder, engine, &mut marks)?;
    }
    let found = scan(&engine, &folder, &mut marks, shared, clock)?;
    let Contents { sessions, retained, bans, devices, queues, counts, next_body } = found;
    let after_last = sessions.last_key_value().map_or(0, |(number, _)| number.0.saturating_add(1));
    let set_apart = match number(&engine, keys::SESSIONS) {
        Ok(number) => number.unwrap_or(0),
        Err(damage) => {
            let what = format!("the number of the next session: {damage}");
            folder.accept(&folder.data, &what)?;
            // Numbers that were given to sessions that ended may be given again.
            0
        }
    };
    let next_session = set_apart.max(after_last);
    let sessions = sessions.into_values().collect();
    folder.is_opened()?;
    let recovered = Recovered { sessions, retained, bans, devices, losses: folder.take_losses() };
    let folder = Arc::new(folder);
    Ok(Found { engine, folder, marks, recovered, queues, counts, next_body, next_session })
}

/// Opens a copy of a store. What is damaged is told; where that is no error, the copy is opened
/// without it.
pub(super) fn open_copy(
    folder: &mut Folder,
    damaged: &mut dyn FnMut(StoreError) -> Result<(), StoreError>,
) -> Result<Engine, StoreError> {
    bear(folder, damaged, Folder::know_token)?;
    bear(folder, damaged, |folder| folder.check())?;
    let last = bear(folder, damaged, |folder| repair::repair(folder))?;
    let engine = bear(folder, damaged, |folder| salvage::open(folder))?;
    bear(folder, damaged, |folder| check_format(folder, &engine))?;
    let known = read_mark(folder, &engine);
    bear(folder, damaged, |folder| repair::compare(folder, last, known))?;
    bear(folder, damaged, |folder| folder.check_end(known.max(last.unwrap_or(0))))?;
    Ok(engine)
}

/// Does something with a copy, again without what is damaged if that was told and is no error.
fn bear<T>(
    folder: &mut Folder,
    damaged: &mut dyn FnMut(StoreError) -> Result<(), StoreError>,
    mut act: impl FnMut(&mut Folder) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let was_accepted = std::mem::replace(&mut folder.accept_loss, false);
    let done = match act(folder) {
        Err(error @ StoreError::Damaged { .. }) => {
            damaged(error)?;
            folder.accept_loss = true;
            act(folder)
        }
        done => done,
    };
    folder.accept_loss |= was_accepted;
    done
}

/// Makes an empty store beside the place where it will be, so that a crash leaves all or nothing.
fn make(folder: &Folder) -> Result<(), StoreError> {
    let place = folder.being_made();
    let engine = Engine::open(&place).map_err(failed("make the store"))?;
    write_format(&engine, &mut Marks::after(0, folder.token))?;
    drop(engine);
    folder.is_made()?;
    folder.put_in_place()
}

pub(super) fn write_format(engine: &Engine, marks: &mut Marks) -> Result<(), StoreError> {
    let mut batch = marks.batch(engine).durability(Some(PersistMode::SyncAll));
    batch.insert(&engine.state, keys::FORMAT, number_record(keys::FORMAT, FORMAT));
    batch.commit().map_err(failed("write to the store"))?;
    marks.synced();
    Ok(())
}

pub(super) fn cannot_open(folder: &Folder, error: &fjall::Error) -> StoreError {
    match error {
        fjall::Error::Locked => StoreError::InUse(folder.root.clone()),
        fjall::Error::InvalidVersion(Some(version)) => StoreError::Foreign {
            folder: folder.data.clone(),
            why: format!("its files are of the engine's format {version}, not 3"),
        },
        error if super::engine::is_damage(error) => {
            folder.damaged(&folder.data, &format!("its tables cannot be read ({})", words(error)))
        }
        error => StoreError::Failed { doing: "open the store", error: describe(error) },
    }
}

/// What the engine says of damage, for people.
pub(super) fn words(error: &fjall::Error) -> String {
    let bare = match error {
        fjall::Error::Storage(fjall::LsmError::ChecksumMismatch { .. }) => {
            "a block is not what was written: its checksum differs"
        }
        fjall::Error::InvalidVersion(None) => "the file of the engine's format is none",
        fjall::Error::Unrecoverable => "the engine cannot make sense of them",
        error => return error.to_string(),
    };
    bare.to_owned()
}

/// Refuses what a later version wrote.
fn check_format(folder: &Folder, engine: &Engine) -> Result<(), StoreError> {
    match number(engine, keys::FORMAT) {
        Ok(Some(FORMAT)) => return Ok(()),
        Ok(Some(format @ FORMAT_MIN..FORMAT)) => {
            tracing::info!(
                from = format,
                to = FORMAT,
                "the store is brought to the present format"
            );
        }
        Ok(Some(format)) => {
            return Err(StoreError::Foreign {
                folder: folder.root.clone(),
                why: format!(
                    "a later version wrote it (format {format}; this one reads {FORMAT}): use \
                     that version"
                ),
            });
        }
        Ok(None) => folder.accept(&folder.data, "the format of the store is not there")?,
        Err(damage) => {
            folder.accept(&folder.data, &format!("the format of the store: {damage}"))?;
        }
    }
    let record = number_record(keys::FORMAT, FORMAT);
    engine.state.insert(keys::FORMAT, record).map_err(failed("write to the store"))
}

/// The number of the last batch that the engine knows of.
fn read_mark(folder: &Folder, engine: &Engine) -> u64 {
    let stored = engine.state.get(keys::MARK).ok().flatten();
    let mark = stored.and_then(|stored| Mark::unseal(&stored, &folder.token).ok());
    mark.map_or(0, |mark| mark.number)
}

fn number(engine: &Engine, key: &[u8]) -> Result<Option<u64>, Damage> {
    let Ok(stored) = engine.state.get(key) else {
        return Err(Damage("the engine cannot read it"));
    };
    stored.map(|stored| unseal(key, &stored)?.u64()).transpose()
}
