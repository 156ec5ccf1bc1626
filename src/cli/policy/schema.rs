//! `portcullis policy schema`.

use crate::cli::{Failure, put};
use crate::policy::{SCHEMA, schema_json};

/// Prints the schema: everything a policy may name.
#[derive(Debug, clap::Args)]
pub(super) struct SchemaArgs {
    /// Prints it in Cedar's JSON form
    #[arg(long)]
    json: bool,
}

impl SchemaArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.json { put(&format!("{:#}\n", schema_json()?)) } else { put(SCHEMA) }
    }
}
