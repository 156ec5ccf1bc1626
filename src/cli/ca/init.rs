//! `portcullis ca init` and `portcullis ca import`.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::FolderArgs;
use crate::cli::Failure;
use crate::cli::authority::{AuditFile, KeyTypeArg, NewKeyArgs, Passphrases, days, rfc3339};
use crate::pki::files::create_private_folder;
use crate::pki::{Ca, KeyError, KeySource, Layout, NewAuthority, Protection};

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// Its files are made here; with mode 0700 where there is no such folder
    #[command(flatten)]
    folder: FolderArgs,
    /// What the authority is called; its root has ` Root` added
    #[arg(long, value_name = "NAME", default_value = "Portcullis CA")]
    name: String,
    /// The kind of its keys
    #[arg(long, value_enum, default_value_t)]
    key_type: KeyTypeArg,
    /// How long the root is valid [default: as certs/ca.toml says, ten years]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    root_days: Option<u32>,
    /// How long the issuing authority is valid [default: as certs/issuing.toml says, five years]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
    /// Make one authority that is its own root, for a trial: its key cannot be kept elsewhere
    #[arg(long, conflicts_with = "root_days")]
    root_only: bool,
    #[command(flatten)]
    keys: NewKeyArgs,
}

impl InitArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = &self.folder.dir;
        if let Some(existing) = [Ca::certificate_path(folder), Ca::key_path(folder)]
            .into_iter()
            .find(|path| path.symlink_metadata().is_ok())
        {
            // Before a passphrase is asked for.
            return Err(Failure(format!(
                "{}: exists already and is not overwritten; move it away or choose another folder",
                existing.display()
            )));
        }
        let mut passphrases = Passphrases::new(&self.keys.passphrases);
        let root_protection = if self.root_only {
            Protection::None
        } else {
            self.keys.protection(&mut passphrases, &Ca::root_key_path(folder))?
        };
        let key_type = self.key_type.into();
        let key = self.keys.issuing_key(key_type, &mut passphrases, &Ca::key_path(folder))?;
        let validity = days(self.days);
        let new = NewAuthority {
            name: &self.name,
            root_key: KeySource::New(key_type),
            key: key.source(),
            root_validity: if self.root_only { validity } else { days(self.root_days) },
            issuing_validity: validity,
            layout: if self.root_only { Layout::RootOnly } else { Layout::RootAndIssuing },
            root_protection: &root_protection,
            protection: key.protection(),
        };
        create_private_folder(folder)?;
        let audit = AuditFile::open(&self.folder.audit, folder)?;
        let ca = Ca::create(folder, &new, OffsetDateTime::now_utc())?;
        audit.created(&ca);
        audit.close()?;
        let root_key = (!self.root_only).then(|| Ca::root_key_path(folder));
        tell(&ca, "Made", root_key.as_deref());
        Ok(())
    }
}

/// Says what there is now, and who may have it.
fn tell(ca: &Ca, done: &str, root_key: Option<&Path>) {
    let folder = ca.folder();
    let (trust, key) = (Ca::trust_path(folder), Ca::key_path(folder));
    eprintln!(
        "{done} the authority {:?}, valid until {}.\n\
         Give {} to every client and broker. Keep {} to yourself: whoever has it can be anyone.",
        ca.name(),
        rfc3339(ca.not_after()),
        trust.display(),
        key.display()
    );
    if let Some(key) = root_key {
        eprintln!(
            "{} is needed for `ca rotate` only: keep it elsewhere until then.",
            key.display()
        );
    }
    eprintln!("The last line is the hash of its public key, the `issuer` in principals.toml.");
    say!("{}", trust.display());
    say!("{}", key.display());
    say!("{}", ca.issuer_hash());
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Its certificate, PEM, and after it those above it if it is no root
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Its private key, PEM: RSA, P-256, P-384 or Ed25519
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The roots that clients and brokers trust, PEM [default: the certificate itself]
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The passphrase that the key has now is the line in this file [default: a question at the
    /// terminal]
    #[arg(long, value_name = "FILE")]
    old_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: NewKeyArgs,
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = &self.folder.dir;
        let mut passphrases = Passphrases::new(&self.keys.passphrases);
        let protection = self.keys.protection(&mut passphrases, &Ca::key_path(folder))?;
        let old = crate::cli::authority::key_passphrase(self.old_passphrase_file.as_deref())?;
        create_private_folder(folder)?;
        let audit = AuditFile::open(&self.folder.audit, folder)?;
        let ca = Ca::import(
            folder,
            (&self.certificate, &self.key),
            self.trust.as_deref(),
            &protection,
            &mut |path| match &old {
                Some(passphrase) => Ok(passphrase.clone()),
                None => passphrases.existing(path).map_err(|error| match error {
                    KeyError::NoPassphrase { path } => KeyError::NoOldPassphrase { path },
                    other => other,
                }),
            },
            OffsetDateTime::now_utc(),
        )?;
        audit.created(&ca);
        audit.close()?;
        tell(&ca, "Took over", None);
        Ok(())
    }
}
