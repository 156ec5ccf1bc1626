//! All that an open store holds at one moment.

use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use super::stream::{Head, Manifest, StreamWriter};
use super::{Record, Sink, Space};
use crate::store::StoreError;
use crate::store::engine::{Engine, failed};
use crate::store::folder::Folder;

/// All that a store holds between two batches. The engine keeps what is in it until it goes.
pub struct Snapshot {
    // Before the engine, and the engine before the lock: fields go in this order.
    spaces: Vec<(Space, fjall::Iter)>,
    _engine: Engine,
    _folder: Option<Arc<Folder>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(in crate::store) fn of(engine: &Engine, folder: &Arc<Folder>) -> Self {
        Self { _folder: Some(Arc::clone(folder)), ..Self::alone(engine) }
    }

    /// Of a store that is locked by others as long as this is there.
    pub(in crate::store) fn alone(engine: &Engine) -> Self {
        use fjall::Readable as _;
        let snapshot = engine.database.snapshot();
        let open = |space: Space| (space, snapshot.iter(space.keyspace(engine)));
        let spaces = Space::ALL.into_iter().map(open).collect();
        Self { spaces, _engine: engine.clone(), _folder: None }
    }

    /// Gives all records to the sink.
    pub(super) fn each(mut self, sink: &mut impl Sink) -> Result<(), StoreError> {
        for (space, records) in self.spaces.drain(..) {
            for found in records {
                match found.into_inner() {
                    Ok((key, value)) => sink.record(&Record { space, key: &key, value: &value })?,
                    Err(error) => {
                        sink.unreadable(space, failed("read the store")(error))?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes all of it, in the form of a backup's file. A reader can tell when not all has come,
    /// and is told why.
    ///
    /// # Errors
    /// When the store cannot be read, or `out` not written.
    pub fn send(self, out: impl Write) -> Result<Manifest, StoreError> {
        let mut writer = StreamWriter::begin(out, Head::now(SystemTime::now()))?;
        match self.each(&mut writer) {
            Ok(()) => writer.finish().map(|(manifest, _)| manifest),
            Err(error) => {
                // Of several errors the first one counts.
                let _ = writer.fail(&error.to_string());
                Err(error)
            }
        }
    }
}
