//! `portcullis policy fmt`.

use std::path::{Path, PathBuf};

use super::drawn;
use crate::cli::Failure;
use crate::pki::files;
use crate::policy::{Formatted, policy_files};

/// Lays out policy files; their meaning never changes.
#[derive(Debug, clap::Args)]
pub(super) struct FmtArgs {
    /// Folders of *.cedar files, and files
    #[arg(value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,
    /// Changes nothing; fails if a file is not laid out
    #[arg(long)]
    check: bool,
}

impl FmtArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Everything is laid out before anything is written.
        let mut changed = Vec::new();
        let mut files = 0_usize;
        for path in &self.paths {
            for file in listed(path)? {
                files = files.saturating_add(1);
                let formatted = Formatted::of_file(&file).map_err(|error| drawn(&error))?;
                if !formatted.is_as_it_should_be() {
                    changed.push((file, formatted));
                }
            }
        }
        for (file, formatted) in &changed {
            if !self.check {
                files::replace(file, formatted.after.as_bytes())?;
            }
            println!("{}", file.display());
        }
        match (changed.len(), self.check) {
            (0, _) => eprintln!("fine: {files} files"),
            (several, false) => eprintln!("laid out: {several} of {files} files"),
            (several, true) => {
                return Err(Failure(format!(
                    "{several} of {files} files are not laid out; run `portcullis policy fmt`"
                )));
            }
        }
        Ok(())
    }
}

/// The files that a path stands for.
fn listed(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if path.is_dir() {
        policy_files(path).map_err(|error| drawn(&error))
    } else {
        Ok(vec![path.to_owned()])
    }
}
