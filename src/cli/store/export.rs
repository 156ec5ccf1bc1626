//! `portcullis store export`.

use std::io::{self, BufWriter, Write};

use super::failure;
use super::place::FromArgs;
use crate::cli::Failure;
use crate::store::export;

/// What to export.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    from: FromArgs,
    /// Lines of JSON: the only form there is
    #[arg(long, required = true)]
    jsonl: bool,
}

impl ExportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let reading = self.from.reading()?;
        let mut out = Enough { out: BufWriter::new(io::stdout().lock()), has_enough: false };
        match export(reading, &mut out) {
            // A reader that has seen enough is no failure.
            Err(_) if out.has_enough => Ok(()),
            exported => exported.map_err(|error| failure(&error)),
        }
    }
}

/// Knows when its reader has gone.
struct Enough<W> {
    out: W,
    has_enough: bool,
}

impl<W> Enough<W> {
    fn note<T>(&mut self, written: io::Result<T>) -> io::Result<T> {
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        self.has_enough |= written.as_ref().err().is_some_and(is_gone);
        written
    }
}

impl<W: Write> Write for Enough<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}
