//! `portcullis policy`: what can be asked of policy files without a broker.

mod check;
mod import;

use super::Failure;

/// Works with policy files; no broker is needed.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Parses and validates every *.cedar file of a folder
    Check(check::CheckArgs),
    /// Translates the ACL file of another broker
    Import(import::ImportArgs),
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            PolicyCommand::Check(args) => args.run(),
            PolicyCommand::Import(args) => args.run(),
        }
    }
}
