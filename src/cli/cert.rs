//! `portcullis cert`: certificates for brokers, devices and services.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;

use crate::pki::{AlternativeNames, Ca, Issued, PkiError, Profile, ProfileName, files};

/// Issues certificates.
#[derive(Debug, clap::Args)]
pub struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CertCommand {
    /// Issues a certificate with a new key: NAME.pem and NAME.key
    Issue(IssueArgs),
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// What the certificate is for
    #[arg(long, value_enum)]
    profile: IssuedProfile,
    /// A file that takes the place of the built-in profile
    #[arg(long, value_name = "FILE")]
    profile_file: Option<PathBuf>,
    /// Whom it is for: the identity of a client, the host name or address of a broker
    #[arg(long, value_name = "NAME")]
    name: String,
    /// A DNS name to add; may be given several times
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// An IP address to add; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// A URI to add, such as a SPIFFE ID; may be given several times
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// How long it is valid [default: as the profile says]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
    /// The folder for NAME.pem and NAME.key
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print what was issued as JSON; the key itself is never printed
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum IssuedProfile {
    /// A machine, as a client
    Device,
    /// A broker
    Server,
    /// A backend workload, as a client
    Service,
}

impl From<IssuedProfile> for ProfileName {
    fn from(profile: IssuedProfile) -> Self {
        match profile {
            IssuedProfile::Device => Self::Device,
            IssuedProfile::Server => Self::Server,
            IssuedProfile::Service => Self::Service,
        }
    }
}

/// Why a command about certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateCommandError {
    /// The authority could not do it.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// It was done, but nobody could be told.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CertArgs {
    /// Does what the command line says.
    ///
    /// # Errors
    /// When it cannot be done; no file is left behind then.
    pub fn run(self) -> Result<(), CertificateCommandError> {
        let CertCommand::Issue(issue) = self.command;
        issue.run()
    }
}

impl IssueArgs {
    fn run(self) -> Result<(), CertificateCommandError> {
        let profile = self.profile()?;
        let alternative_names = AlternativeNames { dns: self.dns, ip: self.ip, uri: self.uri };
        let issued = Ca::open(&self.ca)?.issue(&profile, &self.name, &alternative_names)?;

        // The rule for names leaves no `/` in any, so that they stay in the folder.
        let certificate = self.out.join(format!("{}.pem", self.name));
        let key = self.out.join(format!("{}.key", self.name));
        files::create_private_folder(&self.out).map_err(PkiError::from)?;
        files::write_new_pair(
            (&key, issued.key_pem.as_bytes()),
            (&certificate, issued.chain_pem.as_bytes()),
        )
        .map_err(PkiError::from)?;

        let not_after = issued.not_after.format(&Rfc3339).unwrap_or_default();
        let Issued { serial, fingerprint, .. } = issued;
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        eprintln!(
            "Issued a {} certificate for {:?}, valid until {not_after}, serial {serial}.",
            profile.name.as_str(),
            self.name
        );
        if self.json {
            let summary = serde_json::json!({
                "name": self.name,
                "profile": profile.name.as_str(),
                "certificate": certificate,
                "key": key,
                "serial": serial,
                "fingerprint": fingerprint,
                "not_after": not_after,
            });
            print_lines(&[summary.to_string()])
        } else {
            print_lines(&[certificate, key])
        }
    }

    fn profile(&self) -> Result<Profile, PkiError> {
        let name = self.profile.into();
        let mut profile = match &self.profile_file {
            Some(path) => Profile::from_file(name, path)?,
            None => Profile::built_in(name)?,
        };
        if let Some(days) = self.days {
            profile.validity = Duration::from_hours(24) * days;
        }
        Ok(profile)
    }
}

/// Prints data, a line each.
pub(super) fn print_lines(lines: &[String]) -> Result<(), CertificateCommandError> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::cli::ca::CaArgs;

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
        .map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_commands_write_makes_a_listener() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for line in [
            "ca init --dir @/ca --name Factory --days 30",
            "cert issue --ca @/ca --profile server --name localhost --ip 127.0.0.1 --days 9 --out @",
            "cert issue --ca @/ca --profile device --name pump-1 --days 9 --out @ --json",
        ] {
            run(folder, line).unwrap();
        }
        let tls = crate::server::listener::Tls {
            certificate: folder.join("localhost.pem"),
            key: folder.join("localhost.key"),
            client_ca: Some(folder.join("ca/ca.pem")),
            tls_1_2: false,
        };
        let revocations = crate::identity::revocation::none();
        let setup = crate::server::tls_config::server_config(&tls, &revocations);
        let issuers = setup.unwrap().trusted_issuers;
        let described: Vec<_> = issuers.described().collect();
        let hash = Ca::open(&folder.join("ca")).unwrap().issuer_hash();
        assert_eq!(described, [("CN=Factory".to_owned(), &*hash)]);
        assert!(files::read_key(&folder.join("pump-1.key")).is_ok());
    }

    #[test]
    fn a_command_that_fails_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run(folder, "ca init --dir @/ca").unwrap();
        for (line, expected) in [
            ("ca init --dir @/ca", "exists already"),
            ("cert issue --ca @/ca --profile device --name a/b --out @/out", "`/`"),
            ("cert issue --ca @/ca --profile device --name ../b --out @/out", "`/`"),
            ("cert issue --ca @/ca --profile device --name a --ip ::1 --out @/out", "IP addresses"),
            ("cert issue --ca @/ca --profile device --name a --days 7000 --out @/out", "outlive"),
            ("cert issue --ca @/ca --profile device --name a --days 0 --out @/out", "--days"),
            ("cert issue --ca @/ca --profile ca --name a --out @/out", "invalid value"),
            ("cert issue --ca @/none --profile device --name a --out @/out", "ca.key"),
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
        run(folder, "ca init --dir @/ca").unwrap();
        let profile = include_str!("../../certs/device.toml").replace("[\"dns\", \"uri\"]", "[]");
        std::fs::write(folder.join("device.toml"), profile).unwrap();
        let line = "cert issue --ca @/ca --profile device --name a --uri urn:a --out @";
        let error = run(folder, &format!("{line} --profile-file @/device.toml")).unwrap_err();
        assert!(error.contains("does not allow URIs"), "{error}");
        run(folder, line).unwrap();
    }
}
