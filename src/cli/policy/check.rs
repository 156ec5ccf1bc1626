//! `portcullis policy check`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{drawn, folders};
use crate::cli::{Failure, coloured, count};
use crate::policy::{Bundle, LoadError, PolicyEpoch, Problems};

/// Parses and validates every *.cedar file of a folder, runs its cases, and looks
/// for likely mistakes.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The folder, or one that holds policy folders
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Lists the policies
    #[arg(long, conflicts_with = "json")]
    verbose: bool,
    /// Prints what was found as JSON, a line for each folder
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folders = folders(&self.folder)?;
        let mut failures = Vec::new();
        for folder in &folders {
            let loaded = Bundle::load_dir(folder, PolicyEpoch(1));
            if self.json {
                say!("{}", told(folder, &loaded));
            } else if let Ok(bundle) = &loaded {
                self.print(bundle);
            }
            if let Err(error) = loaded {
                let failure = if self.json { Failure(error.to_string()) } else { drawn(&error) };
                failures.push(failure);
            }
        }
        match failures.len() {
            0 => Ok(()),
            1 if folders.len() == 1 => failures.pop().map_or(Ok(()), Err),
            several => {
                let of = count(folders.len(), "folder", "folders");
                Err(Failure(format!("the policies in {several} of {of} cannot be loaded")))
            }
        }
    }

    fn print(&self, bundle: &Bundle) {
        if self.verbose {
            for id in bundle.policy_ids() {
                say!("{id}");
            }
        }
        eprint!("{}", bundle.warnings().draw(coloured()));
        let policies = count(bundle.policies(), "policy", "policies");
        let warnings = match bundle.warnings().count() {
            0 => String::new(),
            some => format!(", {}", count(some, "warning", "warnings")),
        };
        eprintln!("fine: {policies}, hash {}{warnings}", bundle.hash());
    }
}

/// What came of one folder.
fn told(folder: &Path, loaded: &Result<Arc<Bundle>, LoadError>) -> Value {
    let none = Problems::default();
    let (policies, hash, problems, warnings) = match loaded {
        Ok(bundle) => (bundle.policies(), Some(bundle.hash()), &none, bundle.warnings()),
        Err(error) => (0, None, error.problems(), &none),
    };
    json!({
        "folder": folder.display().to_string(),
        "fine": loaded.is_ok(),
        "policies": policies,
        "hash": hash,
        "problems": problems.told(),
        "warnings": warnings.told(),
    })
}
