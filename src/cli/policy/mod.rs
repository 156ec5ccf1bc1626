//! `portcullis policy`: what can be asked of policy files without a broker.

mod check;
mod explain;
mod fmt;
mod schema;

use std::path::Path;
use std::sync::Arc;

use super::{Failure, coloured};
use crate::policy::{Bundle, LoadError, PolicyEpoch};

/// Works with policy files; no broker is needed.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Parses and validates every *.cedar file of a folder, and looks for likely mistakes
    Check(check::CheckArgs),
    /// Says what the policies answer to a question, and why
    Explain(explain::ExplainArgs),
    /// Lays out policy files
    Fmt(fmt::FmtArgs),
    /// Prints the schema: everything a policy may name
    Schema(schema::SchemaArgs),
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            PolicyCommand::Check(args) => args.run(),
            PolicyCommand::Explain(args) => args.run(),
            PolicyCommand::Fmt(args) => args.run(),
            PolicyCommand::Schema(args) => args.run(),
        }
    }
}

/// Loads the policies of a folder; what is wrong with them is drawn on standard error.
fn load(folder: &Path) -> Result<Arc<Bundle>, Failure> {
    Bundle::load_dir(folder, PolicyEpoch(1)).map_err(|error| drawn(&error))
}

/// Draws what is wrong on standard error.
fn drawn(error: &LoadError) -> Failure {
    eprintln!("{}", error.problems().draw(coloured()));
    Failure(error.to_string())
}
