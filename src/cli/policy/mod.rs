//! `portcullis policy`: what can be asked of policy files without a broker.

mod check;
mod diff;
mod import;
mod test;

use super::Failure;

/// Works with policy files; no broker is needed.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Parses and validates every *.cedar file of a folder, and runs its cases
    Check(check::CheckArgs),
    /// Shows which decisions change from one folder of policies to another
    Diff(diff::DiffArgs),
    /// Translates the ACL file of another broker
    Import(import::ImportArgs),
    /// Runs the case tables of policy folders
    Test(test::TestArgs),
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            PolicyCommand::Check(args) => args.run(),
            PolicyCommand::Diff(args) => args.run(),
            PolicyCommand::Import(args) => args.run(),
            PolicyCommand::Test(args) => args.run(),
        }
    }
}
