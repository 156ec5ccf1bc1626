//! `portcullis store import`.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::failure;
use super::place::ConfigArgs;
use crate::cli::{Failure, count};
use crate::harmless::harmless;
use crate::pki::files::open_regular;
use crate::store;

/// What to import, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let place = self.config.place()?;
        let name = harmless(&self.file.to_string_lossy());
        let mut input: Box<dyn BufRead> = if self.file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            let file = open_regular(&self.file);
            let file = file.map_err(|error| Failure(format!("{name}: {error}")))?;
            Box::new(BufReader::with_capacity(256 * 1024, file))
        };
        let name = if name == "-" { "standard input".to_owned() } else { name };
        let lines =
            store::import(&mut input, &name, &place.settings).map_err(|error| failure(&error))?;
        let lines = usize::try_from(lines).unwrap_or(usize::MAX);
        let folder = place.settings.folder.display();
        eprintln!("fine: {}, in {folder}", count(lines, "line", "lines"));
        Ok(())
    }
}
