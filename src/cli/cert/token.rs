//! `portcullis cert token`: one-time tokens for enrolment over the network.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

use super::{IssuedProfile, profile};
use crate::audit::Kind;
use crate::cli::Failure;
use crate::cli::authority::{AuditArgs, AuditFile, rfc3339};
use crate::pki::{Subject, Token, Tokens};

/// The longest that a token may be good for: a delivery by ship.
const TTL_MAX: Duration = Duration::from_hours(24 * 90);

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a token, and prints it once
    Create(CreateArgs),
    /// Lists the tokens that have not ended, without what they are
    List(ListArgs),
    /// Deletes tokens, so that nothing can be had for them
    Delete(DeleteArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The only name that may get a certificate for it
    #[arg(long = "for", value_name = "NAME")]
    name: String,
    /// How long it is good for, such as 1h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// What the certificate is for
    #[arg(long, value_enum, default_value = "device")]
    profile: IssuedProfile,
    #[command(flatten)]
    audit: AuditArgs,
    /// Print it as JSON, with its id and its end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Print a line of JSON for each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    audit: AuditArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The token with this id, as `list` has it
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// All tokens of this name
    #[arg(long = "for", value_name = "NAME")]
    name: Option<String>,
}

impl TokenArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Create(args) => args.run(),
            Command::List(args) => args.run(),
            Command::Delete(args) => args.run(),
        }
    }
}

impl CreateArgs {
    fn run(self) -> Result<(), Failure> {
        if self.ttl.is_zero() || self.ttl > TTL_MAX {
            return Err(Failure("--ttl: write a time of 1s to 90d, such as 1h".to_owned()));
        }
        let profile = profile(self.profile.into(), None, None)?;
        Subject::named(self.name.as_str()).check(&profile)?;
        if self.name.contains(':') {
            let why =
                "--for: HTTP ends a name at its first colon, so that no device could show this";
            return Err(Failure(why.to_owned()));
        }
        let tokens = Tokens::of(&self.ca)?;
        let audit = AuditFile::open(&self.audit, &self.ca)?;
        let ttl = time::Duration::try_from(self.ttl)?;
        let (token, text) =
            tokens.create(&self.name, profile.name, ttl, OffsetDateTime::now_utc())?;
        audit.record(Kind::TokenCreated {
            id: token.id.as_str().into(),
            name: token.name.as_str().into(),
            profile: token.profile.as_str(),
            ends: rfc3339(token.ends).into(),
        });
        audit.close()?;
        eprintln!(
            "One certificate for {:?}, profile `{}`, until {}. This is shown once:",
            token.name,
            token.profile.as_str(),
            rfc3339(token.ends.truncate_to_second())
        );
        if self.json {
            let ends = rfc3339(token.ends);
            say!("{}", json!({"id": token.id, "name": token.name, "ends": ends, "token": *text}));
        } else {
            say!("{}", *text);
        }
        Ok(())
    }
}

impl ListArgs {
    fn run(self) -> Result<(), Failure> {
        let now = OffsetDateTime::now_utc();
        let mut tokens = Tokens::of(&self.ca)?.list()?;
        tokens.retain(|token| token.ends > now);
        if !self.json {
            say!("{:<14}{:<10}{:<8}{:<22}NAME", "ID", "PROFILE", "STATE", "ENDS");
        }
        for Token { id, name, profile, ends, spent, .. } in &tokens {
            let (profile, ends) = (profile.as_str(), rfc3339(ends.truncate_to_second()));
            let state = if spent.is_some() { "spent" } else { "open" };
            if self.json {
                let line = json!({
                    "id": id, "name": name, "profile": profile, "state": state, "ends": ends,
                });
                say!("{line}");
            } else {
                say!("{id:<14}{profile:<10}{state:<8}{ends:<22}{name}");
            }
        }
        Ok(())
    }
}

impl DeleteArgs {
    fn run(self) -> Result<(), Failure> {
        let Which { id, name } = &self.which;
        let is_meant = |token: &Token| {
            id.as_ref().is_none_or(|id| *id == token.id)
                && name.as_ref().is_none_or(|name| *name == token.name)
        };
        let tokens = Tokens::of(&self.ca)?;
        let audit = AuditFile::open(&self.audit, &self.ca)?;
        let gone = tokens.delete(is_meant)?;
        for token in &gone {
            let (id, name) = (token.id.as_str().into(), token.name.as_str().into());
            audit.record(Kind::TokenDeleted { id, name });
        }
        audit.close()?;
        if gone.is_empty() {
            let remedy = "there is no such token; see: portcullis cert token list";
            return Err(Failure(remedy.to_owned()));
        }
        for token in &gone {
            say!("{}", token.id);
        }
        Ok(())
    }
}
