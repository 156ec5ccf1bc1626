//! `portcullis policy check`.

use std::path::PathBuf;

use crate::cli::Failure;
use crate::policy::{Bundle, PolicyEpoch};

/// Parses and validates every *.cedar file of a folder, and runs its cases.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let bundle = Bundle::load_dir(&self.folder, PolicyEpoch(1))
            .map_err(|error| Failure::policies(&error))?;
        for id in bundle.policy_ids() {
            println!("{id}");
        }
        eprintln!("fine: {} policies, hash {}", bundle.policies(), bundle.hash());
        Ok(())
    }
}
