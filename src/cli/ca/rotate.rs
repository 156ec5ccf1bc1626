//! `portcullis ca rotate`.

use std::path::PathBuf;

use time::OffsetDateTime;

use super::FolderArgs;
use crate::audit::Kind;
use crate::cli::Failure;
use crate::cli::authority::{AuditFile, KeyTypeArg, NewKeyArgs, Passphrases, days, rfc3339};
use crate::pki::{Ca, KeySource, Protection, Rotated, Rotation};

#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Replace the root as well; brokers and clients have to be given the new trust.pem
    #[arg(long)]
    root: bool,
    /// The issuing key may be in other hands: revoke it, and with it all that it issued
    #[arg(long)]
    compromised: bool,
    /// The key of the present root, where it is kept [default: root.key in the folder]
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// What the new issuing authority is called [default: as the old one, with the next number]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The kind of the new keys
    #[arg(long, value_enum, default_value_t)]
    key_type: KeyTypeArg,
    /// How long the new issuing authority is valid [default: as certs/issuing.toml says]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: Option<u32>,
    #[command(flatten)]
    keys: NewKeyArgs,
}

impl RotateArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = &self.folder.dir;
        let mut passphrases =
            Passphrases::new(&self.keys.passphrases).with_root_key(self.root_key.clone());
        // Opened with the old passphrases, before new ones are asked for.
        let now = OffsetDateTime::now_utc();
        let old = Ca::open(folder, &mut |path| passphrases.existing(path), now)?;
        let mut new_passphrases = Passphrases::new(&self.keys.passphrases);
        let root_protection = if self.root {
            self.keys.protection(&mut new_passphrases, &Ca::root_key_path(folder))?
        } else {
            Protection::None
        };
        let key_type = self.key_type.into();
        let key = self.keys.issuing_key(key_type, &mut new_passphrases, &Ca::key_path(folder))?;
        let audit = AuditFile::open(&self.folder.audit, folder)?;
        let rotation = Rotation {
            with_root: self.root,
            is_compromised: self.compromised,
            name: self.name.as_deref(),
            new_root_key: KeySource::New(key_type),
            key: key.source(),
            issuing_validity: days(self.days),
            root_key: self.root_key.as_deref(),
            root_protection: &root_protection,
            protection: key.protection(),
        };
        let Rotated { ca, crls, revoked } = Ca::rotate(
            folder,
            &rotation,
            &mut |path, is_new| {
                if is_new { new_passphrases.existing(path) } else { passphrases.existing(path) }
            },
            now,
        )?;
        audit.record(Kind::CaRotated {
            name: ca.name().into(),
            old: old.issuer_hash().into(),
            new: ca.issuer_hash().into(),
        });
        if let Some(revocation) = &revoked {
            audit.revoked(revocation);
        }
        audit.crls(&crls);
        audit.close()?;

        let trust = Ca::trust_path(folder);
        let before = if self.compromised {
            "which is revoked, and with it all that it issued: give out crls.pem, and issue anew"
        } else {
            "whose certificates stay good"
        };
        eprintln!(
            "{:?}, valid until {}, issues from now on in place of {:?}, {before}.",
            ca.name(),
            rfc3339(ca.not_after()),
            old.name()
        );
        if self.root {
            eprintln!(
                "Give {} to every client and broker, then renew the brokers' certificates, then \
                 those of the clients.",
                trust.display()
            );
        } else {
            eprintln!("Nobody has to be told: the root that all trust vouches for it.");
        }
        eprintln!(
            "Groups in principals.toml that name the old issuer need the new one beside it: the \
             last line. `pki serve` takes the new authority up by itself, where its passphrase is \
             the same."
        );
        eprintln!(
            "A broker with [devices] registration knows devices by their issuer: those with a new \
             certificate wait or are refused until a [devices.approve.NAME] rule, or `ctl device \
             approve --issuer`, names it."
        );
        super::tell_crls(&crls);
        say!("{}", trust.display());
        say!("{}", Ca::key_path(folder).display());
        say!("{}", ca.issuer_hash());
        Ok(())
    }
}
