//! `portcullis cert sign`.

use std::path::PathBuf;

use time::OffsetDateTime;

use super::output::{Paths, tell, write_certificate};
use super::{IssuedProfile, profile};
use crate::cli::Failure;
use crate::cli::authority::{AuthorityArgs, days};
use crate::pki::Request;
use crate::pki::files;

#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    #[command(flatten)]
    authority: AuthorityArgs,
    /// What the certificate is for
    #[arg(long, value_enum)]
    profile: IssuedProfile,
    /// A file that takes the place of the built-in profile
    #[arg(long, value_name = "FILE")]
    profile_file: Option<PathBuf>,
    /// Whom it is for [default: as the request says]; a request for anybody else is refused
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long it is valid [default: as the profile says]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
    /// The folder for NAME.pem
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print what was issued as JSON
    #[arg(long)]
    json: bool,
    /// The request (PKCS#10), PEM or DER
    #[arg(value_name = "REQUEST")]
    request: PathBuf,
}

impl SignArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let profile = profile(self.profile.into(), self.profile_file.as_deref(), days(self.days))?;
        let refused =
            |error: &dyn std::error::Error| Failure(format!("{}: {error}", self.request.display()));
        let bytes = files::read(&self.request)?;
        let request = Request::read(&bytes).map_err(|error| refused(&error))?;
        let subject =
            request.subject(&profile, self.name.as_deref()).map_err(|error| refused(&error))?;
        let (ca, audit) = self.authority.open()?;
        let certificate = self.out.join(format!("{}.pem", subject.name));
        let paths = Paths { certificate, key: None };
        paths.check_absent()?;
        let now = OffsetDateTime::now_utc();
        let issued = ca.sign(&profile, &request, self.name.as_deref(), now)?;
        audit.issued(&issued.certificate);
        audit.close()?;
        write_certificate(&issued, &paths.certificate)?;
        tell(&issued, &paths, self.json);
        Ok(())
    }
}
