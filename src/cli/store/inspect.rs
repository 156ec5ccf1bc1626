//! `portcullis store inspect`.

use std::time::SystemTime;

use super::failure;
use super::place::FromArgs;
use crate::cli::{Failure, count};
use crate::harmless::harmless;
use crate::store::{Inspected, inspect};

/// What to look at.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    from: FromArgs,
    /// Prints it as JSON
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let inspected = inspect(self.from.reading()?, SystemTime::now());
        let inspected = inspected.map_err(|error| failure(&error))?;
        if self.json {
            say!("{}", serde_json::to_value(&inspected)?);
        } else {
            print(&inspected);
        }
        Ok(())
    }
}

const TITLES: [&str; 7] = ["client", "principal", "filters", "waiting", "bytes", "QoS 2", "until"];

fn print(inspected: &Inspected) {
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(inspected.sessions.iter().map(|session| {
        let until = match (&session.expires_at, &session.parked_at, session.expiry_s) {
            (Some(at), ..) => at.clone(),
            (None, None, _) => "connected".to_owned(),
            (None, Some(_), None) => "for ever".to_owned(),
            (None, Some(_), Some(_)) => "later than any date".to_owned(),
        };
        [
            harmless(&format!("{:?}", session.client_id)),
            harmless(&session.principal),
            session.subscriptions.to_string(),
            session.waiting_messages.to_string(),
            session.waiting_bytes.to_string(),
            (session.received + session.released).to_string(),
            until,
        ]
    }));
    if rows.len() > 1 {
        let mut widths = [0; TITLES.len()];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            say!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
    let waiting: u64 = inspected.sessions.iter().map(|session| session.waiting_messages).sum();
    let disk = match inspected.disk_bytes {
        Some(bytes) => format!("; {bytes} bytes on the disk"),
        None => String::new(),
    };
    if inspected.bans > 0 || !inspected.devices.is_empty() {
        let devices = inspected.devices.iter().map(|(state, number)| format!("{number} {state}"));
        let devices = devices.collect::<Vec<_>>().join(", ");
        let devices = if devices.is_empty() { "none" } else { &devices };
        let bans = usize::try_from(inspected.bans).unwrap_or(usize::MAX);
        say!("{}; devices: {devices}", count(bans, "ban", "bans"));
    }
    say!(
        "{}, {waiting} waiting; {} retained, {} bytes; format {}{disk}",
        count(inspected.sessions.len(), "session", "sessions"),
        inspected.retained_messages,
        inspected.retained_bytes,
        inspected.store_format,
    );
}
