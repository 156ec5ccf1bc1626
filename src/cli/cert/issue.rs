//! `portcullis cert issue`.

use std::net::IpAddr;
use std::path::PathBuf;

use time::OffsetDateTime;

use super::output::{OutputArgs, tell};
use super::{IssuedProfile, bulk, profile};
use crate::cli::Failure;
use crate::cli::authority::{AuthorityArgs, KeyTypeArg, days};
use crate::pki::{AlternativeNames, PrivateKey, Subject};

#[derive(Debug, clap::Args)]
pub(super) struct IssueArgs {
    #[command(flatten)]
    authority: AuthorityArgs,
    /// What the certificate is for
    #[arg(long, value_enum)]
    profile: IssuedProfile,
    /// A file that takes the place of the built-in profile
    #[arg(long, value_name = "FILE")]
    profile_file: Option<PathBuf>,
    /// Whom it is for: the identity of a client, the host name or address of a broker
    #[arg(long, value_name = "NAME", required_unless_present = "csv")]
    name: Option<String>,
    /// A DNS name to add; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "csv")]
    dns: Vec<String>,
    /// An IP address to add; may be given several times
    #[arg(long, value_name = "ADDRESS", conflicts_with = "csv")]
    ip: Vec<IpAddr>,
    /// A URI to add, such as a SPIFFE ID; may be given several times
    #[arg(long, value_name = "URI", conflicts_with = "csv")]
    uri: Vec<String>,
    /// An address of e-mail to add; may be given several times
    #[arg(long, value_name = "ADDRESS", conflicts_with = "csv")]
    email: Vec<String>,
    /// Issue one for each line of this table, whose first line names its columns: name and, with
    /// `;` between several values, dns, ip, uri, email
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    csv: Option<PathBuf>,
    /// With --csv, leave out the lines whose files are there already
    #[arg(long, requires = "csv")]
    skip_existing: bool,
    /// The kind of the new keys
    #[arg(long, value_enum, default_value_t)]
    key_type: KeyTypeArg,
    /// How long it is valid [default: as the profile says]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

impl IssueArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let profile = profile(self.profile.into(), self.profile_file.as_deref(), days(self.days))?;
        let key_type = self.key_type.into();
        if let Some(path) = &self.csv {
            let table = bulk::Table::read(path, &profile)?;
            let job = bulk::Job {
                profile: &profile,
                key_type,
                output: &self.output,
                skip_existing: self.skip_existing,
            };
            return job.run(table, &self.authority);
        }
        let subject = Subject {
            name: self.name.unwrap_or_default(),
            alternative_names: AlternativeNames {
                dns: self.dns,
                ip: self.ip,
                uri: self.uri,
                email: self.email,
            },
        };
        subject.check(&profile)?;
        let (ca, audit) = self.authority.open()?;
        let output = self.output.prepare(&ca)?;
        output.paths(&subject.name).check_absent()?;
        let now = OffsetDateTime::now_utc();
        let key = PrivateKey::generate(key_type)?;
        let made = ca.make(&profile, &subject, &key, None, now)?.for_files();
        let issued = ca.hand_out_one(made, now)?;
        audit.issued(&issued.certificate);
        audit.close()?;
        let paths = output.write(&issued, &key)?;
        ca.note_written([&issued.certificate], now)?;
        tell(&issued, &paths, self.output.json);
        Ok(())
    }
}
