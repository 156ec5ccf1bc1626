//! `portcullis ca`: a certificate authority in a folder.

mod init;
mod rotate;
mod show;

use std::path::PathBuf;

use super::Failure;
use super::authority::{AuditArgs, AuditFile, PassphraseArgs, Passphrases, days, rfc3339};
use crate::harmless::harmless;
use crate::pki::{CRL_VALIDITY, Ca, Crl};

/// Makes and looks after a certificate authority.
#[derive(Debug, clap::Args)]
pub struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CaCommand {
    /// Makes a root and an issuing authority: trust.pem for everybody, keys for nobody else
    Init(init::InitArgs),
    /// Takes over an authority that was made elsewhere
    Import(init::ImportArgs),
    /// Shows the authority, its lists of revoked certificates, and those before it
    Show(show::ShowArgs),
    /// Writes new lists of revoked certificates; to be done before the last ones end
    Crl(CrlArgs),
    /// Puts a new issuing authority, or a new root, in place of the present one
    Rotate(rotate::RotateArgs),
}

/// Which authority, by the name that the commands about it have for its folder.
#[derive(Clone, Debug, clap::Args)]
struct FolderArgs {
    /// The folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    audit: AuditArgs,
}

#[derive(Debug, clap::Args)]
struct CrlArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    passphrases: PassphraseArgs,
    /// How long the lists are good for [default: 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=400))]
    days: Option<u32>,
}

impl CaArgs {
    /// Does what the command line says.
    ///
    /// # Errors
    /// When it cannot be done; nothing is half done then.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            CaCommand::Init(args) => args.run(),
            CaCommand::Import(args) => args.run(),
            CaCommand::Show(args) => args.run(),
            CaCommand::Crl(args) => args.run(),
            CaCommand::Rotate(args) => args.run(),
        }
        .map_err(|Failure(text)| Failure(harmless(&text)))
    }
}

impl CrlArgs {
    fn run(self) -> Result<(), Failure> {
        let FolderArgs { dir, audit } = &self.folder;
        let mut passphrases = Passphrases::new(&self.passphrases);
        let now = time::OffsetDateTime::now_utc();
        let ca = Ca::open(dir, &mut |path| passphrases.existing(path), now)?;
        let audit = AuditFile::open(audit, dir)?;
        let crls = ca.write_crls(days(self.days).unwrap_or(CRL_VALIDITY), now)?;
        audit.crls(&crls);
        audit.close()?;
        tell_crls(&crls);
        say!("{}", Ca::crls_path(dir).display());
        Ok(())
    }
}

/// Says which lists were written, and where.
pub(super) fn tell_crls(crls: &[Crl]) {
    for crl in crls {
        eprintln!(
            "Wrote the list of revoked certificates {} of {:?}: {}, due again by {}.",
            crl.signed.number,
            crl.authority,
            super::count(
                usize::try_from(crl.signed.certificates).unwrap_or(usize::MAX),
                "certificate",
                "certificates"
            ),
            rfc3339(crl.signed.next_update)
        );
    }
}
