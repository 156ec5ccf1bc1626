//! `portcullis policy`: what can be asked of policy files without a broker.

use std::path::PathBuf;

use super::Failure;
use crate::policy::{Bundle, PolicyEpoch};

/// Checks policies.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Parses and validates every *.cedar file of a folder
    Check {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let PolicyCommand::Check { folder } = self.command;
        let bundle = Bundle::load_dir(&folder, None, PolicyEpoch(1))
            .map_err(|error| Failure::policies(&error))?;
        for id in bundle.policy_ids() {
            println!("{id}");
        }
        eprintln!("fine: {} policies, hash {}", bundle.policies(), bundle.hash());
        Ok(())
    }
}
