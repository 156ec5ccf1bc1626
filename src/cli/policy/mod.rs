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

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use super::serve::log_to_stderr;
use super::{Failure, coloured};
use crate::config::{LogLevel, LogSettings};
use crate::policy::{LoadError, policy_folders};

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
    #[cfg(not(feature = "verify"))]
    #[command(hide = true, disable_help_flag = true)]
    Verify(NoVerify),
}

/// Whatever is asked of a command that this program was built without.
#[cfg(not(feature = "verify"))]
#[derive(Debug, clap::Args)]
struct NoVerify {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<std::ffi::OsString>,
}

impl PolicyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        show_progress();
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
            #[cfg(not(feature = "verify"))]
            PolicyCommand::Verify(_) => Err(Failure(
                "this program was built without the feature verify; build it with: cargo build \
                 --release --features verify"
                    .to_owned(),
            )),
        }
    }
}

/// Says on a terminal how far the reading of a large folder has come.
fn show_progress() {
    if std::io::stderr().is_terminal() {
        log_to_stderr(&LogSettings { level: LogLevel::Info, json: false });
    }
}

/// The policy folders in a folder and below it; where there is none, the folder.
fn folders(named: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let found = policy_folders(named).map_err(|error| drawn(&error))?;
    Ok(if found.is_empty() { BTreeSet::from([named.to_owned()]) } else { found })
}

/// Draws what is wrong on standard error.
pub(super) fn drawn(error: &LoadError) -> Failure {
    eprintln!("{}", error.problems().draw(coloured()));
    Failure(error.to_string())
}
