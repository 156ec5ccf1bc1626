//! What can be had of a store whose tables are damaged, once the loss is accepted.
//!
//! What cannot be read stays in tables, and whatever merges them would fail on it: the store is
//! written anew with all that can be read, and the old one goes to `set-aside` as a whole.

use std::io;
use std::path::Path;

use fjall::{Keyspace, UserKey, UserValue};

use super::engine::{Engine, KEYSPACES, failed, is_damage};
use super::folder::{Folder, io_failed};
use super::mark::Marks;
use super::open::{cannot_open, words, write_format};
use super::{SessionNo, SessionRecord, StoreError, keys};

/// Records written at a time, and about how many bytes.
const AT_ONCE: (usize, usize) = (1024, 4 * 1024 * 1024);

/// Opens the engine. Where the loss is accepted, without those keyspaces that keep it from being
/// opened.
pub(super) fn open(folder: &Folder) -> Result<Engine, StoreError> {
    match Engine::open(&folder.data) {
        Ok(engine) => return Ok(engine),
        Err(error) if folder.accept_loss && is_damage(&error) => {
            let why = words(&error);
            folder.lost(&format!("{}: its tables cannot be read ({why})", folder.data.display()));
        }
        Err(error) => return Err(cannot_open(folder, &error)),
    }
    let copy = folder.set_aside("data")?;
    copy_folder(&folder.data, &copy)
        .map_err(io_failed("set aside what cannot be read", &folder.data))?;
    tracing::warn!(kept = %copy.display(), "the store as it was is set aside");
    let parked = folder.root.join("parked-keyspaces");
    let moved = io_failed("move a part of the store", &parked);
    if parked.exists() {
        std::fs::remove_dir_all(&parked).map_err(&moved)?;
    }
    std::fs::create_dir_all(&parked).map_err(&moved)?;
    let result = without_some(folder, &parked);
    std::fs::remove_dir_all(&parked).map_err(moved)?;
    result
}

/// Moves a keyspace aside. Without its own, which only names the others, the engine would take
/// these for left over: a new one takes its place.
pub(super) fn do_without(folder: &Folder, place: &Path, id: usize) -> Result<(), StoreError> {
    if place.exists() {
        folder.move_aside(place)?;
    }
    if id > 0 {
        return Ok(());
    }
    let other = folder.root.join("parked");
    let failed = io_failed("make a part of the store anew", &other);
    if other.exists() {
        std::fs::remove_dir_all(&other).map_err(&failed)?;
    }
    drop(Engine::open(&other).map_err(super::engine::failed("make a part of the store anew"))?);
    std::fs::create_dir_all(folder.data.join("keyspaces")).map_err(&failed)?;
    std::fs::rename(other.join("keyspaces/0"), place).map_err(&failed)?;
    std::fs::remove_dir_all(other).map_err(failed)
}

/// Tries without one keyspace after the other; then without more and more of them.
fn without_some(folder: &Folder, parked: &Path) -> Result<Engine, StoreError> {
    let moved = io_failed("move a part of the store", parked);
    // The engine's own keyspace is as good new.
    do_without(folder, &folder.data.join("keyspaces/0"), 0)?;
    let mut result = match Engine::open(&folder.data) {
        Ok(engine) => return Ok(engine),
        Err(error) => Err(cannot_open(folder, &error)),
    };
    for keeps_parked in [false, true] {
        for (at, name) in KEYSPACES.iter().enumerate() {
            // They were made in this order; the engine's own is 0.
            let id = (at + 1).to_string();
            let (place, aside) = (folder.data.join("keyspaces").join(&id), parked.join(&id));
            if !place.exists() {
                continue;
            }
            std::fs::rename(&place, &aside).map_err(&moved)?;
            match Engine::open(&folder.data) {
                Ok(engine) => {
                    folder.lost(&format!("all that the store had in `{name}`"));
                    return Ok(engine);
                }
                Err(error) => result = Err(cannot_open(folder, &error)),
            }
            if !keeps_parked {
                let _ = std::fs::remove_dir_all(&place);
                std::fs::rename(&aside, &place).map_err(&moved)?;
            }
        }
    }
    result
}

/// Tables are never written to again: another name for them is a copy.
pub(super) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&path, &to)?;
        } else if path.parent().is_some_and(|parent| parent.ends_with("tables")) {
            std::fs::hard_link(&path, to)?;
        } else {
            std::fs::copy(&path, to)?;
        }
    }
    Ok(())
}

/// True when the engine has all its keyspaces as they were made, and can read all that is in them.
pub(super) fn is_whole(folder: &Folder, engine: &Engine) -> bool {
    let has = |id: usize| folder.data.join("keyspaces").join(id.to_string()).exists();
    (1..=KEYSPACES.len()).all(has)
        && engine
            .keyspaces()
            .into_iter()
            .all(|keyspace| keyspace.iter().all(|found| found.into_inner().is_ok()))
}

/// Writes the store anew, with all that can be read.
pub(super) fn rebuild(
    folder: &Folder,
    old: Engine,
    marks: &mut Marks,
) -> Result<Engine, StoreError> {
    let place = folder.being_made();
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(io_failed("make room", &place))?;
    }
    let new = Engine::open(&place).map_err(failed("make the store anew"))?;
    for ((from, to), name) in old.keyspaces().into_iter().zip(new.keyspaces()).zip(KEYSPACES) {
        let mut copy = Copy { to, engine: &new, marks, batch: Vec::new(), bytes: 0 };
        let holes = each(from, |key, value| copy.put(key, value))?;
        copy.flush()?;
        for hole in holes {
            let tables = folder.tables_of(name);
            folder.lost(&format!("{}: {}", tables.display(), hole.describe(name, &old)));
        }
    }
    write_format(&new, marks)?;
    drop((old, new));
    folder.is_made()?;
    folder.move_aside(&folder.data)?;
    folder.put_in_place()?;
    Engine::open(&folder.data).map_err(|error| cannot_open(folder, &error))
}

struct Copy<'a> {
    to: &'a Keyspace,
    engine: &'a Engine,
    marks: &'a mut Marks,
    batch: Vec<(UserKey, UserValue)>,
    bytes: usize,
}

impl Copy<'_> {
    fn put(&mut self, key: UserKey, value: UserValue) -> Result<(), StoreError> {
        if *key == *keys::MARK || *key == *keys::FORMAT {
            return Ok(());
        }
        self.bytes += key.len() + value.len();
        self.batch.push((key, value));
        if self.batch.len() >= AT_ONCE.0 || self.bytes >= AT_ONCE.1 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let mut batch = self.marks.batch(self.engine);
        self.bytes = 0;
        for (key, value) in self.batch.drain(..) {
            batch.insert(self.to, key, value);
        }
        batch.commit().map_err(failed("make the store anew"))
    }
}

/// Keys between which nothing can be read.
struct Hole {
    /// The last before; empty for none.
    after: Vec<u8>,
    /// The first behind.
    before: Option<Vec<u8>>,
}

impl Hole {
    /// What was there: whose, and which part of it.
    fn describe(&self, keyspace: &str, engine: &Engine) -> String {
        let place = |key: &[u8]| keys::describe(keyspace, key, |number| client_id(engine, number));
        let after = match &*self.after {
            [] => "its beginning".to_owned(),
            key => place(key),
        };
        let before = match &self.before {
            Some(key) => place(key),
            None => "its end".to_owned(),
        };
        format!("what `{keyspace}` had between {after} and {before}")
    }
}

/// Whose session it is, where its record can be read.
fn client_id(engine: &Engine, number: SessionNo) -> Option<String> {
    let key = keys::session(number);
    let stored = engine.state.get(&key).ok().flatten()?;
    let record = SessionRecord::unseal(&key, &stored).ok()?;
    Some(record.facts.client_id.as_str().to_owned())
}

/// Takes every record that can be read. Behind a place that cannot, it goes on at the first key
/// found in steps that double; says which places there were.
fn each(
    keyspace: &Keyspace,
    mut take: impl FnMut(UserKey, UserValue) -> Result<(), StoreError>,
) -> Result<Vec<Hole>, StoreError> {
    let mut from = Some(Vec::new());
    let mut holes = Vec::new();
    while let Some(begin) = from.take() {
        let mut last = begin.clone();
        for found in keyspace.range(begin..) {
            match found.into_inner() {
                Ok((key, value)) => {
                    last = key.to_vec();
                    take(key, value)?;
                }
                Err(error) if is_damage(&error) => {
                    from = behind(keyspace, &last);
                    holes.push(Hole { after: last, before: from.clone() });
                    break;
                }
                Err(error) => return Err(failed("read the store")(error)),
            }
        }
    }
    Ok(holes)
}

/// The first key found behind this one that can be read.
fn behind(keyspace: &Keyspace, last: &[u8]) -> Option<Vec<u8>> {
    let mut head = [0; 16];
    for (place, byte) in head.iter_mut().zip(last) {
        *place = *byte;
    }
    (0..u128::BITS).find_map(|step| {
        let key = u128::from_be_bytes(head).checked_add(1 << step)?.to_be_bytes();
        let found = keyspace.range(key..).next()?;
        Some(found.key().ok()?.to_vec())
    })
}
