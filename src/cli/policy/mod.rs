//! `portcullis policy`: what can be asked of policy files without a broker.

mod check;
mod diff;
mod explain;
mod fmt;
mod import;
mod schema;
mod test;
#[cfg(feature = "verify")]
mod verify;

use super::{Failure, coloured};
use crate::policy::LoadError;

/// Works with policy files; no broker is needed.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Parses and validates every *.cedar file of a folder, runs its cases, and looks for likely
    /// mistakes
    Check(check::CheckArgs),
    /// Shows which decisions change from one folder of policies to another
    Diff(diff::DiffArgs),
    /// Says what the policies answer to a question, and why
    Explain(explain::ExplainArgs),
    /// Lays out policy files
    Fmt(fmt::FmtArgs),
    /// Translates the ACL file of another broker
    Import(import::ImportArgs),
    /// Prints the schema: everything a policy may name
    Schema(schema::SchemaArgs),
    /// Runs the case tables of policy folders
    Test(test::TestArgs),
    /// Proves or refutes a claim about every request at once, with the solver cvc5
    #[cfg(feature = "verify")]
    Verify(Box<verify::VerifyArgs>),
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            PolicyCommand::Check(args) => args.run(),
            PolicyCommand::Diff(args) => args.run(),
            PolicyCommand::Import(args) => args.run(),
            PolicyCommand::Test(args) => args.run(),
            PolicyCommand::Explain(args) => args.run(),
            PolicyCommand::Fmt(args) => args.run(),
            PolicyCommand::Schema(args) => args.run(),
            #[cfg(feature = "verify")]
            PolicyCommand::Verify(args) => args.run(),
        }
    }
}

/// Draws what is wrong on standard error.
fn drawn(error: &LoadError) -> Failure {
    eprintln!("{}", error.problems().draw(coloured()));
    Failure(error.to_string())
}
