//! `portcullis ca show`.

use std::path::PathBuf;

use serde::Serialize;
use time::OffsetDateTime;

use crate::cli::Failure;
use crate::cli::authority::{days_left, rfc3339};
use crate::harmless::harmless;
use crate::pki::Ca;
use crate::pki::inventory::{Contents, Role, State};

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Prints an object of JSON for each authority
    #[arg(long)]
    json: bool,
}

/// An authority, as it is shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    role: Role,
    /// Whether it is the one that is in use.
    current: bool,
    issuer: String,
    not_after: String,
    days_left: i64,
    valid: usize,
    revoked: usize,
    expired: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl_next_update: Option<String>,
    #[serde(skip)]
    crl_days_left: Option<i64>,
}

impl ShowArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = OffsetDateTime::now_utc();
        let shown = Ca::look(&self.dir, |contents| shown(contents, now))?;
        for one in &shown {
            if self.json {
                say!("{}", serde_json::to_string(one)?);
            } else {
                one.say();
            }
        }
        if shown.is_empty() {
            eprintln!("This authority was made before there were inventories, and has none yet.");
        }
        for one in shown.iter().filter(|one| one.crl_days_left.is_some_and(|days| days < 7)) {
            eprintln!(
                "note: the list of revoked certificates of {:?} ends on {}; run: portcullis ca crl --dir {}",
                one.name,
                one.crl_next_update.as_deref().unwrap_or_default(),
                self.dir.display()
            );
        }
        Ok(())
    }
}

fn shown(contents: &Contents, now: OffsetDateTime) -> Vec<Shown> {
    let last = |role| contents.authorities().filter(|one| one.role == role).last();
    let current = [last(Role::Root), last(Role::Issuing)];
    let authorities = contents.authorities().map(|authority| {
        let states: Vec<State> = contents
            .entries()
            .filter(|entry| entry.certificate.issuer == authority.issuer)
            .map(|entry| entry.state(now))
            .collect();
        let count = |state| states.iter().filter(|one| **one == state).count();
        let crl = contents.crl(&authority.issuer);
        Shown {
            name: authority.name.clone(),
            role: authority.role,
            current: current.contains(&Some(authority)),
            issuer: authority.issuer.clone(),
            not_after: rfc3339(authority.not_after),
            days_left: days_left(authority.not_after, now),
            valid: count(State::Valid),
            revoked: count(State::Revoked),
            expired: count(State::Expired),
            crl_number: crl.map(|crl| crl.number),
            crl_next_update: crl.map(|crl| rfc3339(crl.next_update)),
            crl_days_left: crl.map(|crl| days_left(crl.next_update, now)),
        }
    });
    authorities.collect()
}

impl Shown {
    fn say(&self) {
        let role = match (self.role, self.current) {
            (Role::Root, true) => "root",
            (Role::Root, false) => "root before",
            (Role::Issuing, true) => "issuing authority",
            (Role::Issuing, false) => "issuing authority before",
        };
        say!("{}", harmless(&self.name));
        say!("  role         {role}");
        say!("  issuer       {}", self.issuer);
        say!("  valid until  {} ({} days)", self.not_after, self.days_left);
        if self.role == Role::Issuing {
            say!(
                "  issued       {} valid, {} revoked, {} expired",
                self.valid,
                self.revoked,
                self.expired
            );
        }
        if let (Some(number), Some(next)) = (self.crl_number, &self.crl_next_update) {
            say!("  revocations  list {number}, good until {next}");
        }
    }
}
