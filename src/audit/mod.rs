//! The audit log: who was refused what, and everything that changed what is refused.
//!
//! [`event`] has the events as types, [`line`](mod@line) writes one as a line of JSON that is
//! safe to show anywhere, [`writer`] brings lines to the file without ever blocking whoever has
//! something to record. [`Recorded`] reads back what was asked. The catalogue for readers of the
//! log, with its JSON schema, is the folder `audit/` at the root of the repository.

mod authority;
pub mod event;
mod line;
mod queueing;
mod recorded;
mod subject;
mod text;
mod writer;

pub use event::{Event, Gate, Kind, Outcome, Subject, Target, Verb, Version};
pub use recorded::{Recorded, RecordedQuestion, Skipped};
pub use writer::{AuditLog, Settings, check, prepare};

#[cfg(test)]
mod catalogue_tests;
