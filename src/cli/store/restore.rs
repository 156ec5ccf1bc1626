//! `portcullis store restore`.

use std::path::PathBuf;

use super::failure;
use super::place::ConfigArgs;
use crate::cli::{Failure, count};
use crate::harmless::harmless;
use crate::store;

/// What to restore, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The folder of the backup
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl RestoreArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let place = self.config.place()?;
        let manifest = store::restore(&self.folder, &place.settings);
        let manifest = manifest.map_err(|error| failure(&error))?;
        let records = usize::try_from(manifest.records.all()).unwrap_or(usize::MAX);
        eprintln!(
            "fine: {} of {}, in {}",
            count(records, "record", "records"),
            harmless(&manifest.taken_at),
            place.settings.folder.display()
        );
        Ok(())
    }
}
