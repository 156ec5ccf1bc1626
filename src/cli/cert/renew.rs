//! `portcullis cert renew`.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::output::{Bundle, OutputArgs, Paths, tell, write_certificate};
use super::{Selection, profile};
use crate::cli::Failure;
use crate::cli::authority::{AuthorityArgs, KeyTypeArg, days};
use crate::pki::Request;
use crate::pki::files;

#[derive(Debug, clap::Args)]
pub(super) struct RenewArgs {
    #[command(flatten)]
    authority: AuthorityArgs,
    #[command(flatten)]
    which: Selection,
    /// A file that takes the place of the built-in profile
    #[arg(long, value_name = "FILE")]
    profile_file: Option<PathBuf>,
    /// A signing request for the new certificate; without one a new key is made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key_type", "bundle", "key_passphrase_file"])]
    request: Option<PathBuf>,
    /// The kind of the new key
    #[arg(long, value_enum, default_value_t)]
    key_type: KeyTypeArg,
    /// How long it is valid [default: as the profile says]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
    /// Move files of the older certificate that are in the way to NAME.SERIAL.pem and so on
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl RenewArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = OffsetDateTime::now_utc();
        let (ca, audit) = self.authority.open()?;
        let old = ca.contents(|contents| self.which.one(contents, now))??;
        let name = old.certificate.profile;
        let profile = profile(name, self.profile_file.as_deref(), days(self.days))?;
        let output = match self.request {
            Some(_) => None,
            None => Some(self.output.prepare(&ca)?),
        };
        let paths = match &output {
            Some(output) => output.paths(&old.certificate.name),
            None => Paths {
                certificate: self.output.out.join(format!("{}.pem", old.certificate.name)),
                key: None,
            },
        };
        if !self.replace {
            paths.check_absent().map_err(|error| {
                Failure(format!("{error}, or say --replace to have it moved aside"))
            })?;
        }
        let (issued, key) = match &self.request {
            Some(path) => {
                let request = Request::read(&files::read(path)?)
                    .map_err(|error| Failure(format!("{}: {error}", path.display())))?;
                (ca.renew_by_request(&profile, &old, &request, now)?, None)
            }
            None => {
                let (issued, key) = ca.renew(&profile, &old, self.key_type.into(), now)?;
                (issued, Some(key))
            }
        };
        audit.issued(&issued.certificate);
        audit.close()?;
        if self.replace {
            set_aside(&paths, &old.certificate.serial)?;
        }
        match (&output, &key) {
            (Some(output), Some(key)) => drop(output.write(&issued, key)?),
            _ => write_certificate(&issued, &paths.certificate)?,
        }
        tell(&issued, &paths, self.output.json);
        if self.output.bundle == Bundle::Pem {
            eprintln!(
                "The older one, serial {}, stays good until it ends.",
                old.certificate.serial
            );
        }
        Ok(())
    }
}

/// Moves the files of the older certificate to names with its serial number in them.
fn set_aside(paths: &Paths, serial: &str) -> Result<(), Failure> {
    for path in std::iter::once(&paths.certificate).chain(&paths.key) {
        if path.symlink_metadata().is_err() {
            continue;
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
        let aside = path.with_extension(format!("{serial}.{}", ending.unwrap_or_default()));
        if aside.symlink_metadata().is_ok() {
            return Err(exists(&aside));
        }
        std::fs::rename(path, &aside).map_err(|error| {
            Failure(format!("{}: cannot move it aside: {error}", path.display()))
        })?;
    }
    Ok(())
}

fn exists(path: &Path) -> Failure {
    Failure(format!("{}: exists already, and nothing is moved over it", path.display()))
}
