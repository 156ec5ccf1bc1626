//! `portcullis store backup`.

use std::path::PathBuf;

use super::failure;
use super::place::ConfigArgs;
use crate::cli::{Failure, count};
use crate::harmless::harmless;
use crate::store;

/// What to back up, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The folder to be made; it has to be empty or absent
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl BackupArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let reading = self.config.place()?.reading()?;
        let made = store::receive(reading, &self.folder).map_err(|error| failure(&error))?;
        let records = usize::try_from(made.manifest.records.all()).unwrap_or(usize::MAX);
        let folder = harmless(&self.folder.to_string_lossy());
        say!("{folder}");
        if let Some(finding) = made.checked.findings.first() {
            let all = made.checked.findings.len();
            return Err(Failure(format!(
                "the backup is made, and the store is damaged: {}; `portcullis store verify \
                 {folder}` says all of {}",
                harmless(&finding.to_string()),
                count(all, "finding", "findings"),
            )));
        }
        eprintln!(
            "fine: {}, {} bytes, SHA-256 {}",
            count(records, "record", "records"),
            made.manifest.bytes,
            made.manifest.sha256
        );
        Ok(())
    }
}
