//! `portcullis ca`: a certificate authority in a folder.

use std::path::PathBuf;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;

use super::cert::{self, CertificateCommandError};
use crate::pki::Ca;

/// Makes and looks after a certificate authority.
#[derive(Debug, clap::Args)]
pub struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CaCommand {
    /// Makes a certificate authority: ca.pem for everybody, ca.key for nobody else
    Init(InitArgs),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The folder for ca.pem and ca.key; made with mode 0700 where there is none
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What the authority is called
    #[arg(long, value_name = "NAME", default_value = "Portcullis CA")]
    name: String,
    /// How long it is valid [default: as certs/ca.toml says, ten years]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
}

impl CaArgs {
    /// Does what the command line says.
    ///
    /// # Errors
    /// When it cannot be done; nothing is half done then.
    pub fn run(self) -> Result<(), CertificateCommandError> {
        let CaCommand::Init(init) = self.command;
        let validity = init.days.map(|days| Duration::from_hours(24) * days);
        let ca = Ca::create(&init.dir, &init.name, validity)?;
        let (certificate, key) = (Ca::certificate_path(&init.dir), Ca::key_path(&init.dir));
        let not_after = ca.not_after().format(&Rfc3339).unwrap_or_default();
        eprintln!(
            "Made the authority {:?}, valid until {not_after}.\n\
             Give {} to every client and broker. Keep {} to yourself: whoever has it can be anyone.\n\
             The last line is the hash of its public key, the `issuer` in principals.toml.",
            init.name,
            certificate.display(),
            key.display()
        );
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        cert::print_lines(&[certificate, key, ca.issuer_hash()])
    }
}
