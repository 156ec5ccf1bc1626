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
        let is_backup = self.from.is_backup();
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
        let remedy = match (checked.is_loss, is_backup) {
            (false, _) => "nothing is lost",
            (true, false) => "restore a backup, or serve the rest with `--accept-loss`",
            (true, true) => "take another backup while the broker still has it all",
        };
        Err(Failure(format!("{}{more} in {records}: {remedy}", count(all, "finding", "findings"))))
    }
}
