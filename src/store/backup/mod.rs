//! What a store holds, taken out of it and put into another: backups, and lines of JSON.
//!
//! A record goes as it is, key and value, by keyspace: `bodies` before `queue`, which refers to
//! them, so that whoever reads from one end to the other knows each message before it is asked
//! for. The same bytes are a backup's file and what a running broker sends over its control
//! socket: see [`stream`].
//!
//! Nothing that is read here is trusted: a length makes no room before its bytes are there, and a
//! store is built beside its place and renamed once everything was found to be whole.

mod build;
mod check;
mod folder;
mod lines;
mod reading;
mod snapshot;
mod stream;
mod summary;

pub use build::restore;
pub use check::{Checked, Finding, verify};
pub use folder::{Backup, MANIFEST, Made, receive};
pub use lines::{export, import};
pub use reading::Reading;
pub use snapshot::Snapshot;
pub use stream::{Counts, Manifest};
pub use summary::{Inspected, SessionInspected, inspect};

use super::StoreError;
use super::engine::Engine;

/// The highest number of a session, a delivery or a message: no store comes this far, and one that
/// begins here still has as many to give.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// A keyspace, in the order in which records leave a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Bodies,
    State,
    Queue,
    Retained,
}

impl Space {
    const ALL: [Self; 4] = [Self::Bodies, Self::State, Self::Queue, Self::Retained];

    const fn name(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::State => "state",
            Self::Queue => "queue",
            Self::Retained => "retained",
        }
    }

    fn keyspace(self, engine: &Engine) -> &fjall::Keyspace {
        match self {
            Self::Bodies => &engine.bodies,
            Self::State => &engine.state,
            Self::Queue => &engine.queue,
            Self::Retained => &engine.retained,
        }
    }
}

/// A record as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record<'a> {
    space: Space,
    key: &'a [u8],
    value: &'a [u8],
}

/// Whoever takes records, in order.
trait Sink {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError>;

    /// The engine cannot read on in a keyspace.
    fn unreadable(&mut self, _space: Space, error: StoreError) -> Result<(), StoreError> {
        Err(error)
    }
}

/// Both get each record.
struct Both<'a, A, B>(&'a mut A, &'a mut B);

impl<A: Sink, B: Sink> Sink for Both<'_, A, B> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        self.0.record(record)?;
        self.1.record(record)
    }
}
