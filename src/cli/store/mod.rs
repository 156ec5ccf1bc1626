//! `portcullis store`: what the broker keeps on disk, taken out, put back and looked at.

mod backup;
mod export;
mod import;
mod inspect;
mod place;
mod restore;
mod sending;
mod verify;

pub(super) use sending::Backups;

use super::Failure;
use crate::harmless::harmless;
use crate::store::StoreError;

/// Backs up, restores, checks and shows what the broker keeps on disk.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Makes a backup; a running broker goes on serving
    ///
    /// A backup is a folder with `data` and `manifest.json`, which only you can read. It holds the
    /// payloads of all messages. A running broker sends it over its control socket, as the store is
    /// between two batches: all that was acknowledged before is in it. A store that no broker uses
    /// is locked meanwhile, and read in a copy: see `verify`.
    Backup(backup::BackupArgs),
    /// Makes a store of a backup, where there is none yet
    ///
    /// All of the backup is read and checked before anything is put in place.
    Restore(restore::RestoreArgs),
    /// Reads every record, and says what is damaged
    ///
    /// Each record's checksum is compared, and whether all is there that it refers to; what is wrong
    /// is named by keyspace, key and session, and the exit code is 1. Nothing is repaired. The
    /// storage engine writes to what it opens: a store that no broker uses is locked and read in a
    /// copy, `copy` in its folder, which takes as much room as its journals and is removed in the
    /// end. Of a running broker the records are checked, not the files.
    Verify(verify::VerifyArgs),
    /// Says which sessions there are, what waits for them, and how much is retained
    Inspect(inspect::InspectArgs),
    /// Writes everything to standard output as lines of JSON
    ///
    /// One object a line, by `kind`: `store`, `message` (one that several sessions wait for),
    /// `next_session`, `session` (with its will), `subscription`, `received` (QoS 2, waits for
    /// PUBREL), `progress` (how far a queue is finished), `released` (QoS 2, waits for PUBCOMP),
    /// `delivery`, `retained`, `end`. Payloads are in base64. They are all there: write the lines where
    /// nobody else can read them (`umask 077`).
    Export(export::ExportArgs),
    /// Makes a store of such lines, where there is none yet
    ///
    /// Nothing is put in place before all lines were taken. Lines may be changed, left out and
    /// added: a message comes before the deliveries that name it, a session before what is its own.
    Import(import::ImportArgs),
}

/// Why it failed. A backup may hold anything, and what is said of it goes to a terminal.
fn failure(error: &StoreError) -> Failure {
    Failure(harmless(&error.to_string()))
}

impl StoreArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            StoreCommand::Backup(args) => args.run(),
            StoreCommand::Restore(args) => args.run(),
            StoreCommand::Verify(args) => args.run(),
            StoreCommand::Inspect(args) => args.run(),
            StoreCommand::Export(args) => args.run(),
            StoreCommand::Import(args) => args.run(),
        }
    }
}
