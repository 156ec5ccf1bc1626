//! `portcullis policy fmt`.

use std::path::{Path, PathBuf};

use super::{drawn, folders};
use crate::cli::{Failure, coloured, count};
use crate::pki::files::replace;
use crate::policy::{Formatted, policy_files};

/// Lays out policy files; their meaning never changes.
#[derive(Debug, clap::Args)]
pub(super) struct FmtArgs {
    /// Files, and folders that have *.cedar files in them or below
    #[arg(value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,
    /// Changes nothing; fails if a file is not laid out
    #[arg(long)]
    check: bool,
}

impl FmtArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (mut files, mut changed, mut refused) = (0_usize, 0_usize, 0_usize);
        for path in &self.paths {
            for file in listed(path)? {
                files += 1;
                match Formatted::of_file(&file) {
                    Err(error) => {
                        refused += 1;
                        eprintln!("{}", error.problems().draw(coloured()));
                    }
                    Ok(formatted) if formatted.is_as_it_should_be() => {}
                    Ok(formatted) => {
                        changed += 1;
                        if !self.check {
                            replace(&file, formatted.after.as_bytes())?;
                        }
                        say!("{}", file.display());
                    }
                }
            }
        }
        let of = count(files, "file", "files");
        if refused > 0 {
            return Err(Failure(format!("{refused} of {of} cannot be laid out")));
        }
        match (changed, self.check) {
            (0, _) => eprintln!("fine: {of}"),
            (_, false) => eprintln!("laid out: {changed} of {of}"),
            (_, true) => {
                return Err(Failure(format!(
                    "not laid out: {changed} of {of}; run `portcullis policy fmt`"
                )));
            }
        }
        Ok(())
    }
}

/// The files that a path stands for: of a folder, those in it and below it.
fn listed(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for folder in folders(path)? {
        files.extend(policy_files(&folder).map_err(|error| drawn(&error))?);
    }
    Ok(files)
}
