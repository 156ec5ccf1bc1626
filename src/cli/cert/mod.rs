//! `portcullis cert`: certificates for brokers, devices, services and people.

mod bulk;
mod issue;
mod list;
mod output;
mod renew;
mod revoke;
mod sign;
mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;

use super::Failure;
use crate::harmless::harmless;
use crate::pki::inventory::{Contents, Entry};
use crate::pki::{PkiError, Profile, ProfileName, plain_serial};

/// Issues, renews, revokes and lists certificates.
#[derive(Debug, clap::Args)]
pub struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CertCommand {
    /// Issues a certificate with a new key, NAME.pem and NAME.key; or one for each line of a table
    Issue(issue::IssueArgs),
    /// Issues a certificate for a signing request, whose key stays where it is
    Sign(sign::SignArgs),
    /// Issues a certificate in place of one that there is, with the same names
    Renew(renew::RenewArgs),
    /// Revokes certificates, for good, and writes the lists of revoked ones
    Revoke(revoke::RevokeArgs),
    /// Lists the certificates that were issued
    List(list::ListArgs),
    /// Shows all that is known of a certificate
    Show(list::ShowArgs),
    /// Makes, lists and deletes one-time tokens, for enrolment over the network
    Token(token::TokenArgs),
}

impl CertArgs {
    /// Does what the command line says.
    ///
    /// # Errors
    /// When it cannot be done; no file is left behind then.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            CertCommand::Issue(args) => args.run(),
            CertCommand::Sign(args) => args.run(),
            CertCommand::Renew(args) => args.run(),
            CertCommand::Revoke(args) => args.run(),
            CertCommand::List(args) => args.run(),
            CertCommand::Show(args) => args.run(),
            CertCommand::Token(args) => args.run(),
        }
        .map_err(|Failure(text)| Failure(harmless(&text)))
    }
}

/// The profiles that certificates are issued with, on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum IssuedProfile {
    /// A machine, as a client
    Device,
    /// A broker
    Server,
    /// A backend workload, as a client
    Service,
    /// A person, as a client
    User,
}

impl From<IssuedProfile> for ProfileName {
    fn from(profile: IssuedProfile) -> Self {
        match profile {
            IssuedProfile::Device => Self::Device,
            IssuedProfile::Server => Self::Server,
            IssuedProfile::Service => Self::Service,
            IssuedProfile::User => Self::User,
        }
    }
}

/// The profile of a name: built in, or from a file; with another validity where one is given.
fn profile(
    name: ProfileName,
    file: Option<&Path>,
    validity: Option<Duration>,
) -> Result<Profile, PkiError> {
    let mut profile = match file {
        Some(path) => Profile::from_file(name, path)?,
        None => Profile::built_in(name)?,
    };
    profile.validity = validity.unwrap_or(profile.validity);
    Ok(profile)
}

/// Which certificate a command is about.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// The name that it was issued for
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Its serial number, in hex
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// A file that it is in, PEM
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Selection {
    /// The one certificate that this is about, as the inventory has it. Of a name, the one that
    /// is valid and has not been renewed.
    fn one(&self, contents: &Contents, now: OffsetDateTime) -> Result<Entry, Failure> {
        let not_issued = |what| Failure::from(PkiError::NotIssued { what });
        if let Some(name) = &self.name {
            let all: Vec<&Entry> = contents.by_name(name).collect();
            let usable: Vec<&Entry> = all
                .iter()
                .copied()
                .filter(|entry| entry.revoked.is_none() && entry.renewed_by.is_none())
                .collect();
            let valid = usable.iter().copied().filter(|one| one.certificate.not_after >= now);
            let valid: Vec<&Entry> = valid.collect();
            return match (valid.as_slice(), usable.last().or(all.last())) {
                ([], Some(last)) => Ok((*last).clone()),
                ([one], _) => Ok((*one).clone()),
                ([], None) => Err(not_issued(format!("certificate for {name:?}"))),
                (several, _) => {
                    let serials: Vec<&str> =
                        several.iter().map(|one| one.certificate.serial.as_str()).collect();
                    Err(Failure(format!(
                        "{name:?} has {} valid certificates; say which with --serial: {}",
                        several.len(),
                        serials.join(", ")
                    )))
                }
            };
        }
        let serial = match (&self.serial, &self.file) {
            (Some(serial), _) => plain_serial(serial),
            (None, Some(file)) => output::serial_in(file)?,
            // INVARIANT: clap requires one of the three.
            (None, None) => String::new(),
        };
        let entry = contents.by_serial(&serial).cloned();
        entry.ok_or_else(|| not_issued(format!("serial number {serial}")))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::ca::CaArgs;
    use crate::pki::files;

    #[derive(clap::Parser)]
    enum Command {
        Ca(CaArgs),
        Cert(CertArgs),
    }

    /// Runs a command line, with `folder` for each `@`.
    fn run(folder: &Path, line: &str) -> Result<(), String> {
        let words = line.split(' ').map(|word| word.replace('@', &folder.display().to_string()));
        let command = std::iter::once("portcullis".to_owned()).chain(words);
        match Command::try_parse_from(command).map_err(|error| error.to_string())? {
            Command::Ca(args) => args.run(),
            Command::Cert(args) => args.run(),
        }
        .map_err(|Failure(text)| text)
    }

    #[test]
    fn what_the_commands_write_makes_a_listener() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for line in [
            "ca init --dir @/ca --name Factory --days 30 --no-passphrase",
            "cert issue --ca @/ca --profile server --name localhost --ip 127.0.0.1 --days 9 --out @",
            "cert issue --ca @/ca --profile device --name pump-1 --days 9 --out @ --json",
        ] {
            run(folder, line).unwrap();
        }
        let tls = crate::server::listener::Tls {
            certificate: folder.join("localhost.pem"),
            key: folder.join("localhost.key"),
            client_ca: Some(folder.join("ca/trust.pem")),
            tls_1_2: false,
        };
        let revocations = crate::identity::revocation::none();
        let setup = crate::server::tls_config::server_config(&tls, &revocations);
        let issuers = setup.unwrap().trusted_issuers;
        let described: Vec<_> = issuers.described().collect();
        let root = std::fs::read(folder.join("ca/root.pem")).unwrap();
        assert_eq!(std::fs::read(folder.join("ca/trust.pem")).unwrap(), root);
        assert!(matches!(&*described, [(name, _)] if name == "CN=Factory Root"), "{described:?}");
        assert!(files::read_key(&folder.join("pump-1.key")).is_ok());
    }

    #[test]
    fn a_command_that_fails_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run(folder, "ca init --dir @/ca --no-passphrase").unwrap();
        for (line, expected) in [
            ("ca init --dir @/ca --no-passphrase", "exists already"),
            ("cert issue --ca @/ca --profile device --name a/b --out @/out", "`/`"),
            ("cert issue --ca @/ca --profile device --name ../b --out @/out", "`/`"),
            ("cert issue --ca @/ca --profile device --name a --ip ::1 --out @/out", "IP addresses"),
            ("cert issue --ca @/ca --profile device --name a --days 7000 --out @/out", "outlive"),
            ("cert issue --ca @/ca --profile device --name a --days 0 --out @/out", "--days"),
            ("cert issue --ca @/ca --profile ca --name a --out @/out", "invalid value"),
            ("cert issue --ca @/none --profile device --name a --out @/out", "ca.pem"),
        ] {
            let error = run(folder, line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
        assert!(!folder.join("out").exists());
        let line = "cert issue --ca @/ca --profile device --name a --out @/out";
        run(folder, line).unwrap();
        assert!(run(folder, line).unwrap_err().contains("exists already"));
    }

    #[test]
    fn a_profile_file_takes_the_place_of_the_built_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run(folder, "ca init --dir @/ca --no-passphrase").unwrap();
        let profile =
            include_str!("../../../certs/device.toml").replace("[\"dns\", \"uri\"]", "[]");
        std::fs::write(folder.join("device.toml"), profile).unwrap();
        let line = "cert issue --ca @/ca --profile device --name a --uri urn:a --out @";
        let error = run(folder, &format!("{line} --profile-file @/device.toml")).unwrap_err();
        assert!(error.contains("does not allow URIs"), "{error}");
        run(folder, line).unwrap();
    }
}
