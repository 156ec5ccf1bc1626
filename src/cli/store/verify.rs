//! `portcullis store verify`.

use super::place::FromArgs;
use crate::cli::{Failure, count};
use crate::harmless::harmless;
use crate::store::{self, Reading};

/// What to read.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    from: FromArgs,
    /// Prints what was found as JSON
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let checked = self.from.read(store::verify, Reading::verify)?;
        if self.json {
            say!("{}", serde_json::to_value(&checked)?);
        } else {
            for finding in &checked.findings {
                say!("{}", harmless(&finding.to_string()));
            }
        }
        if let Some(note) = &checked.note {
            eprintln!("note: {note}");
        }
        let records = usize::try_from(checked.records).unwrap_or(usize::MAX);
        let records = count(records, "record", "records");
        let all = checked.findings.len();
        if all == 0 {
            eprintln!("fine: {records}");
            return Ok(());
        }
        let more =
            if checked.more == 0 { String::new() } else { format!(" and {} more", checked.more) };
        let remedy = if checked.is_loss {
            "restore a backup, or serve the rest with `--accept-loss`"
        } else {
            "nothing is lost"
        };
        Err(Failure(format!("{}{more} in {records}: {remedy}", count(all, "finding", "findings"))))
    }
}
