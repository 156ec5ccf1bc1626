//! `portcullis policy check`.

use std::path::PathBuf;

use serde_json::json;

use super::drawn;
use crate::cli::{Failure, coloured};
use crate::policy::{Bundle, PolicyEpoch, Problems};

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
        if self.json {
            return self.print_json();
        }
        let loaded = Bundle::load_dir(&self.folder, PolicyEpoch(1));
        let bundle = loaded.map_err(|error| drawn(&error))?;
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
        Ok(())
    }

    fn print_json(&self) -> Result<(), Failure> {
        let none = Problems::default();
        let loaded = Bundle::load_dir(&self.folder, PolicyEpoch(1));
        let (policies, hash, problems, warnings) = match &loaded {
            Ok(bundle) => (bundle.policies(), Some(bundle.hash()), &none, bundle.warnings()),
            Err(error) => (0, None, error.problems(), &none),
        };
        let told = json!({
            "fine": loaded.is_ok(),
            "policies": policies,
            "hash": hash,
            "problems": problems.told(),
            "warnings": warnings.told(),
        });
        println!("{told}");
        loaded.map(drop).map_err(|error| Failure(error.to_string()))
    }
}
