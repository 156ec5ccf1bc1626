//! `portcullis policy check`.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::{Failure, coloured};
use crate::policy::{Bundle, PolicyEpoch, Problem};

/// Parses and validates every *.cedar file of a folder, runs its cases, and looks
/// for likely mistakes.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Prints what was found as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = Bundle::load_dir(&self.folder, PolicyEpoch(1));
        let failure = loaded.as_ref().err().map(|error| Failure(error.to_string()));
        if self.json {
            let problems: &[Problem] = loaded.as_ref().err().map_or(&[], |it| it.problems().told());
            let warnings: &[Problem] = loaded.as_ref().map_or(&[], |it| it.warnings().told());
            let told = json!({
                "fine": loaded.is_ok(),
                "policies": loaded.as_ref().map_or(0, |bundle| bundle.policies()),
                "hash": loaded.as_ref().ok().map(|bundle| bundle.hash()),
                "problems": problems,
                "warnings": warnings,
            });
            println!("{told}");
            return failure.map_or(Ok(()), Err);
        }
        match &loaded {
            Ok(bundle) => {
                for id in bundle.policy_ids() {
                    println!("{id}");
                }
                eprint!("{}", bundle.warnings().draw(coloured()));
                let warnings = match bundle.warnings().count() {
                    0 => String::new(),
                    1 => ", 1 warning".to_owned(),
                    several => format!(", {several} warnings"),
                };
                eprintln!("fine: {} policies, hash {}{warnings}", bundle.policies(), bundle.hash());
            }
            Err(error) => eprintln!("{}", error.problems().draw(coloured())),
        }
        failure.map_or(Ok(()), Err)
    }
}
