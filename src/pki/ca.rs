//! A certificate authority in a folder.
//!
//! | file | what it is | who may have it |
//! |---|---|---|
//! | `trust.pem` | whom brokers and clients trust: the roots | everybody |
//! | `ca.pem`, `ca.key` | the issuing authority: what signs certificates | everybody; this program |
//! | `root.pem`, `root.key` | the root, needed for `ca rotate` only | everybody; better kept elsewhere |
//! | `cross.pem` | after a new root: its certificate signed by the root before | everybody |
//! | `ca.crl`, `ca.crl.der`, `root.crl` | lists of revoked certificates | everybody |
//! | `crls.pem` | all of those that are in force, and whose they are, in one file | everybody |
//! | `public/`, `issuing/` | what is for everybody, and `ca.key`: the names above, but for `root.key`, lead there | everybody; this program |
//! | `inventory.jsonl` | everything issued and revoked | this program |
//! | `tokens.json`, `tokens/` | hashes of one-time tokens | this program |
//! | `retired/HASH` | issuing authorities whose certificates are still about | this program |
//!
//! An authority without a root of its own has `ca.pem` alone: one for a trial, or an imported one.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::files::Access;
use super::inventory::{Contents, Entry, Inventory, Role};
use super::place::{ISSUING, PUBLIC, TOKENS};
use super::signer::{Signer, Unlock};
use super::{PkiError, rotate};

/// A certificate authority, able to sign. Several threads may use one at a time, and several
/// processes a folder: each change is made under a lock on the inventory.
pub struct Ca {
    pub(super) folder: PathBuf,
    pub(super) signer: Signer,
    pub(super) retired: Vec<Signer>,
    pub(super) inventory: Inventory,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca")
            .field("folder", &self.folder)
            .field("name", &self.signer.name)
            .field("not_after", &self.signer.not_after)
            .finish_non_exhaustive()
    }
}

impl Ca {
    /// The file of the issuing authority's certificate in a folder.
    #[must_use]
    pub fn certificate_path(folder: &Path) -> PathBuf {
        folder.join("ca.pem")
    }

    /// The file of the issuing authority's private key in a folder.
    #[must_use]
    pub fn key_path(folder: &Path) -> PathBuf {
        folder.join("ca.key")
    }

    /// The file of the root's certificate in a folder.
    #[must_use]
    pub fn root_certificate_path(folder: &Path) -> PathBuf {
        folder.join("root.pem")
    }

    /// The file of the root's private key in a folder.
    #[must_use]
    pub fn root_key_path(folder: &Path) -> PathBuf {
        folder.join("root.key")
    }

    /// True when the issuing key is in a token (PKCS#11), as far as that can be read.
    #[must_use]
    pub fn has_key_in_token(folder: &Path) -> bool {
        let key = super::files::read_key(&Self::key_path(folder)).map(zeroize::Zeroizing::new);
        key.is_ok_and(|key| key.trim_ascii_start().starts_with(b"pkcs11:"))
    }

    /// Makes the folders that an authority of an earlier version does not have.
    ///
    /// # Errors
    /// When there is no authority, or a folder cannot be made.
    pub fn prepare(folder: &Path) -> Result<(), PkiError> {
        super::files::read(&Self::certificate_path(folder))?;
        super::files::beside(&Self::trust_path(folder), PUBLIC, Access::Everybody)?;
        super::files::beside(&super::Tokens::path(folder), TOKENS, Access::Owner)?;
        super::files::beside(&Self::key_path(folder), ISSUING, Access::Owner)?;
        super::files::create_private_folder(&Self::retired_path(folder))?;
        Ok(())
    }

    /// The file of whom brokers and clients trust.
    #[must_use]
    pub fn trust_path(folder: &Path) -> PathBuf {
        folder.join("trust.pem")
    }

    /// The folder of the issuing authorities that no longer issue.
    pub(super) fn retired_path(folder: &Path) -> PathBuf {
        folder.join("retired")
    }

    /// Opens the authority in `folder`. `unlock` is asked for the passphrase of each key that is
    /// encrypted: of the issuing authority, and of those before it that still sign lists of
    /// revoked certificates.
    ///
    /// # Errors
    /// When its files are missing or unfit, do not belong together, the key is open to others, or
    /// the passphrase is wrong.
    pub fn open(folder: &Path, unlock: Unlock<'_>, now: OffsetDateTime) -> Result<Self, PkiError> {
        rotate::finish(folder, now)?;
        for inside in ["", PUBLIC, ISSUING, TOKENS] {
            super::files::remove_abandoned(&folder.join(inside));
        }
        Self::read(folder, unlock, now)
    }

    /// As [`Ca::open`], and changes nothing: neither is a rotation finished that was cut short, nor
    /// is anything tidied up.
    ///
    /// # Errors
    /// As [`Ca::open`].
    pub fn read(folder: &Path, unlock: Unlock<'_>, now: OffsetDateTime) -> Result<Self, PkiError> {
        let signer =
            Signer::read(&Self::certificate_path(folder), &Self::key_path(folder), unlock)?;
        let inventory = Inventory::in_folder(folder);
        let mut retired = Vec::new();
        for folder in inventory.look(|contents| retired_in_use(folder, &signer, contents, now))? {
            let (certificate, key) = (Self::certificate_path(&folder), Self::key_path(&folder));
            retired.push(Signer::read(&certificate, &key, unlock)?);
        }
        Ok(Self { folder: folder.to_owned(), signer, retired, inventory })
    }

    /// Looks into the inventory of the authority in `folder`, without any key.
    ///
    /// # Errors
    /// When there is no authority, or its inventory cannot be read or is damaged.
    pub fn look<T>(folder: &Path, looking: impl FnOnce(&Contents) -> T) -> Result<T, PkiError> {
        // So that a wrong folder is not taken for an authority that issued nothing.
        super::files::read(&Self::certificate_path(folder))?;
        Ok(Inventory::in_folder(folder).look(looking)?)
    }

    /// Looks into the inventory.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn contents<T>(&self, looking: impl FnOnce(&Contents) -> T) -> Result<T, PkiError> {
        Ok(self.inventory.look(looking)?)
    }

    /// The certificate with a serial number, as the inventory has it.
    ///
    /// # Errors
    /// When the inventory cannot be read or is damaged, or has none such.
    pub fn entry(&self, serial: &str) -> Result<Entry, PkiError> {
        let entry = self.contents(|contents| contents.by_serial(serial).cloned())?;
        entry.ok_or_else(|| PkiError::NotIssued { what: format!("serial number {serial}") })
    }

    /// The folder of the authority.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the issuing authority is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.signer.name
    }

    /// The end of the issuing authority.
    #[must_use]
    pub const fn not_after(&self) -> OffsetDateTime {
        self.signer.not_after
    }

    /// Lower-case hex of the SHA-256 of its `SubjectPublicKeyInfo`: what policies and
    /// `principals.toml` know an issuer by.
    #[must_use]
    pub fn issuer_hash(&self) -> String {
        self.signer.hash.clone()
    }

    /// The certificates of the issuing authority and of those above it that a client needs to
    /// verify what it issues, PEM: for the answer to `cacerts` of EST.
    ///
    /// # Errors
    /// When the file of the roots cannot be read.
    pub fn certificates_pem(&self) -> Result<String, PkiError> {
        let trust = super::files::read(&Self::trust_path(&self.folder))?;
        Ok(format!("{}{}", self.signer.chain_pem(), String::from_utf8_lossy(&trust)))
    }

    /// The certificates of all authorities whose clients may show what they were issued, PEM: of
    /// this one, of those before it that have clients yet, and of the roots.
    ///
    /// # Errors
    /// When the file of the roots cannot be read.
    pub fn client_authorities_pem(&self) -> Result<String, PkiError> {
        let retired: String = self.retired.iter().map(Signer::chain_pem).collect();
        Ok(format!("{}{retired}", self.certificates_pem()?))
    }

    /// Looks whether this is the authority that is in place.
    ///
    /// # Errors
    /// [`PkiError::Rotated`], or when the inventory cannot be read.
    pub fn check_in_place(&self) -> Result<(), PkiError> {
        self.contents(|contents| self.check_current(contents))?
    }

    /// Refuses to go on when `ca rotate` has put another authority in place of this one since it
    /// was opened.
    pub(super) fn check_current(&self, contents: &Contents) -> Result<(), PkiError> {
        let current = contents.authorities().filter(|one| one.role == Role::Issuing).last();
        match current {
            Some(current) if current.issuer != self.signer.hash => {
                Err(PkiError::Rotated { name: current.name.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// The folders of the authorities that issued certificates which have not come to their end yet,
/// but for the present one.
fn retired_in_use(
    folder: &Path,
    current: &Signer,
    contents: &Contents,
    now: OffsetDateTime,
) -> Vec<PathBuf> {
    let retired = contents.authorities().filter(|one| {
        one.role == Role::Issuing && one.issuer != current.hash && one.not_after > now
    });
    let in_use: std::collections::HashSet<&str> = contents
        .entries()
        .filter(|entry| entry.certificate.not_after > now)
        .map(|entry| entry.certificate.issuer.as_str())
        .collect();
    retired
        .filter(|one| in_use.contains(one.issuer.as_str()))
        .map(|one| Ca::retired_path(folder).join(short(&one.issuer)))
        .filter(|folder| folder.exists())
        .collect()
}

/// The beginning of a hash, for the name of a folder, and in the URL of a list.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

#[cfg(test)]
mod tests;
