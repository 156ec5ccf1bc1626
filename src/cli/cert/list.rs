//! `portcullis cert list` and `portcullis cert show`.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use time::OffsetDateTime;

use super::{IssuedProfile, Selection};
use crate::cli::Failure;
use crate::cli::authority::{days_left, rfc3339};
use crate::harmless::harmless;
use crate::pki::inventory::{Certificate, Entry, Reason, State};
use crate::pki::{Ca, ProfileName};

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Only those in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only those of this profile
    #[arg(long, value_enum)]
    profile: Option<IssuedProfile>,
    /// Only those of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only those that are valid and end within so many days
    #[arg(long, value_name = "DAYS")]
    ends_within: Option<u32>,
    /// Only those that are valid and may never have been written, since `cert issue` was stopped
    #[arg(long)]
    unwritten: bool,
    /// Prints an object of JSON for each certificate
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    #[command(flatten)]
    which: Selection,
    /// Prints it as JSON
    #[arg(long)]
    json: bool,
}

/// A certificate, as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    certificate: &'a Certificate,
    state: State,
    days_left: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewed_by: Option<&'a str>,
    written: bool,
}

impl<'a> Shown<'a> {
    fn new(entry: &'a Entry, now: OffsetDateTime) -> Self {
        Self {
            certificate: &entry.certificate,
            state: entry.state(now),
            days_left: days_left(entry.certificate.not_after, now),
            revoked: entry.revoked.map(|(time, _)| rfc3339(time)),
            reason: entry.revoked.map(|(_, reason)| reason),
            renewed_by: entry.renewed_by.as_deref(),
            written: entry.is_written,
        }
    }

    fn state(&self) -> &'static str {
        match self.state {
            State::Valid if !self.written => "unwritten",
            State::Valid => "valid",
            State::Revoked => "revoked",
            State::Expired => "expired",
        }
    }
}

impl ListArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = OffsetDateTime::now_utc();
        let profile: Option<ProfileName> = self.profile.map(ProfileName::from);
        let wanted = |entry: &Entry| {
            let state = entry.state(now);
            let left = days_left(entry.certificate.not_after, now);
            self.state.is_none_or(|wanted| wanted == state)
                && !(self.unwritten && (entry.is_written || state != State::Valid))
                && profile.is_none_or(|wanted| wanted == entry.certificate.profile)
                && self.name.as_ref().is_none_or(|wanted| *wanted == entry.certificate.name)
                && self
                    .ends_within
                    .is_none_or(|days| state == State::Valid && left < i64::from(days))
        };
        let entries: Vec<Entry> = Ca::look(&self.ca, |contents| {
            contents.entries().filter(|entry| wanted(entry)).cloned().collect()
        })?;
        let mut text = String::new();
        let width = entries.iter().map(|entry| harmless(&entry.certificate.name).chars().count());
        let width = width.max().unwrap_or_default().clamp(4, 32);
        if !self.json && !entries.is_empty() {
            let _ = writeln!(
                text,
                "{:width$}  {:8}  {:9}  {:>6}  {:20}  SERIAL",
                "NAME", "PROFILE", "STATE", "DAYS", "VALID UNTIL"
            );
        }
        for entry in &entries {
            let shown = Shown::new(entry, now);
            let line = if self.json {
                serde_json::to_string(&shown)?
            } else {
                format!(
                    "{:width$}  {:8}  {:9}  {:>6}  {:20}  {}",
                    harmless(&entry.certificate.name),
                    entry.certificate.profile.as_str(),
                    shown.state(),
                    shown.days_left,
                    rfc3339(entry.certificate.not_after),
                    entry.certificate.serial
                )
            };
            text.push_str(&line);
            text.push('\n');
        }
        crate::cli::put(&text)
    }
}

impl ShowArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = OffsetDateTime::now_utc();
        let entry = Ca::look(&self.ca, |contents| self.which.one(contents, now))??;
        let shown = Shown::new(&entry, now);
        if self.json {
            say!("{}", serde_json::to_string(&shown)?);
            return Ok(());
        }
        let certificate = shown.certificate;
        let names = &certificate.alternative_names;
        let addresses: Vec<String> = names.ip.iter().map(ToString::to_string).collect();
        let all = [&names.dns, &addresses, &names.uri, &names.email];
        let all: Vec<&str> = all.into_iter().flatten().map(String::as_str).collect();
        let revoked = match (&shown.revoked, shown.reason) {
            (Some(time), Some(reason)) => format!(" since {time}, {}", reason.as_str()),
            _ => String::new(),
        };
        say!("name          {}", harmless(&certificate.name));
        say!("profile       {}", certificate.profile.as_str());
        say!("state         {}{revoked}", shown.state());
        say!("valid from    {}", rfc3339(certificate.not_before));
        say!("valid until   {} ({} days)", rfc3339(certificate.not_after), shown.days_left);
        if !all.is_empty() {
            say!("other names   {}", harmless(&all.join(", ")));
        }
        say!("serial        {}", certificate.serial);
        say!("fingerprint   {}", certificate.fingerprint);
        say!("key           {}", certificate.key);
        say!("issuer        {}", certificate.issuer);
        if let Some(renews) = &certificate.renews {
            say!("renews        {renews}");
        }
        if let Some(renewed_by) = shown.renewed_by {
            say!("renewed by    {renewed_by}");
        }
        Ok(())
    }
}
