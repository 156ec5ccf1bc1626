//! Making an authority, and taking one over that was made elsewhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, IsCa, Issuer, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::ca::Ca;
use super::files::{self, Access, FileError};
use super::inventory::{AuthorityRecord, Inventory, Record, Role};
use super::key::{KeySource, KeyType, PrivateKey, Protection};
use super::place::inside;
use super::profile::{Profile, ProfileName};
use super::revoke::write_crl;
use super::rotate::remaining;
use super::signer::{Signer, Unlock, parameters};
use super::{CRL_VALIDITY, PkiError, sha256_hex};

/// An authority to be made.
#[derive(Debug)]
pub struct NewAuthority<'a> {
    /// What it is called; a root is `NAME Root` beside it.
    pub name: &'a str,
    /// The root's key.
    pub root_key: KeySource<'a>,
    /// The issuing key; that of one that is its own root.
    pub key: KeySource<'a>,
    /// How long the root is valid; as the profile `ca` says without it.
    pub root_validity: Option<Duration>,
    /// How long the issuing authority is valid; as the profile `issuing` says without it.
    pub issuing_validity: Option<Duration>,
    /// Whether there is a root above the issuing authority.
    pub layout: Layout,
    /// How the root's key is kept.
    pub root_protection: &'a Protection,
    /// How the issuing key is kept.
    pub protection: &'a Protection,
}

impl<'a> NewAuthority<'a> {
    /// One for a trial: its keys, on P-256, are not encrypted.
    #[must_use]
    pub fn unprotected(name: &'a str, layout: Layout) -> Self {
        static PLAIN: Protection = Protection::None;
        Self {
            name,
            root_key: KeySource::New(KeyType::P256),
            key: KeySource::New(KeyType::P256),
            root_validity: None,
            issuing_validity: None,
            layout,
            root_protection: &PLAIN,
            protection: &PLAIN,
        }
    }
}

/// What an authority consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A root, and an issuing authority that it signs: the root's key can be kept elsewhere.
    RootAndIssuing,
    /// One that is its own root: for a trial on one machine.
    RootOnly,
}

/// An authority's certificate that was just made.
pub(super) struct Made {
    pub(super) key: PrivateKey,
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
    pub(super) record: AuthorityRecord,
}

/// Authorities that may stand between a root and a certificate: the root after it, vouched for
/// while both are about, and an issuing one.
pub(super) const BELOW_ROOT: u8 = 2;
/// An issuing authority makes certificates of clients and brokers, and no further authorities.
pub(super) const BELOW_ISSUING: u8 = 0;

/// Makes an authority: under `parent`, or its own root without one.
pub(super) fn make_authority(
    profile: &Profile,
    name: &str,
    (key, authorities_below): (KeySource<'_>, u8),
    parent: Option<(&Issuer<'static, PrivateKey>, OffsetDateTime)>,
    now: OffsetDateTime,
) -> Result<Made, PkiError> {
    profile.name_rule.check(name)?;
    let mut params = parameters(profile, name, now)?;
    let role = if profile.name == ProfileName::Ca { Role::Root } else { Role::Issuing };
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities_below));
    let key = key.key()?;
    let certificate = match parent {
        None => params.self_signed(&key)?,
        Some((parent, ends)) => {
            if params.not_after > ends {
                return Err(PkiError::OutlivesCa { ca_not_after: ends });
            }
            params.signed_by(&key, parent)?
        }
    };
    let record = AuthorityRecord {
        name: name.to_owned(),
        issuer: sha256_hex(&key.subject_public_key_info()),
        role,
        not_after: params.not_after,
    };
    Ok(Made { key, pem: certificate.pem(), der: certificate.der().clone(), record })
}

/// Files that are all made, or none: those that were are taken away again on drop.
#[derive(Default)]
struct Files(Vec<PathBuf>);

impl Files {
    fn write(&mut self, path: PathBuf, bytes: &[u8], access: Access) -> Result<(), PkiError> {
        if path.symlink_metadata().is_ok() {
            return Err(FileError::Exists { path }.into());
        }
        let inside = path.file_name().and_then(|name| inside(name.to_str()?));
        if let Some(inside) = inside {
            let real = files::beside(&path, inside, access)?;
            files::write_new(&real, bytes, access)?;
            self.0.push(real);
            files::link_beside(&path, inside)?;
        } else {
            files::write_new(&path, bytes, access)?;
        }
        self.0.push(path);
        Ok(())
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Ca {
    /// Makes an authority in `folder`, which is made too where there is none.
    ///
    /// # Errors
    /// When the name is not allowed, the validity is too long, the files cannot be written, or
    /// there is an authority already.
    pub fn create(
        folder: &Path,
        new: &NewAuthority<'_>,
        now: OffsetDateTime,
    ) -> Result<Self, PkiError> {
        let mut root_profile = Profile::built_in(ProfileName::Ca)?;
        root_profile.validity = new.root_validity.unwrap_or(root_profile.validity);
        let mut profile = Profile::built_in(ProfileName::Issuing)?;
        profile.validity = new.issuing_validity.unwrap_or(profile.validity);
        let mut made = Files::default();
        let mut records = Vec::new();

        let (issuing, trust, root) = match new.layout {
            Layout::RootOnly => {
                let alone =
                    make_authority(&root_profile, new.name, (new.key, BELOW_ISSUING), None, now)?;
                let trust = alone.pem.clone();
                (alone, trust, None)
            }
            Layout::RootAndIssuing => {
                let name = format!("{} Root", new.name);
                let root =
                    make_authority(&root_profile, &name, (new.root_key, BELOW_ROOT), None, now)?;
                records.push(Record::Authority(root.record));
                let root = Signer::of(&root.der, root.pem, root.key)?;
                let parent = Some((&root.issuer, root.not_after));
                let kind = (new.key, BELOW_ISSUING);
                let issuing = make_authority(&profile, new.name, kind, parent, now)?;
                files::create_private_folder(folder)?;
                let key = root.issuer.key().to_pem(new.root_protection)?;
                made.write(Self::root_key_path(folder), key.as_bytes(), Access::Owner)?;
                let certificate = root.pem.as_bytes();
                made.write(Self::root_certificate_path(folder), certificate, Access::Everybody)?;
                (issuing, root.pem.clone(), Some(root))
            }
        };
        files::create_private_folder(folder)?;
        let key = issuing.key.to_pem(new.protection)?;
        made.write(Self::key_path(folder), key.as_bytes(), Access::Owner)?;
        made.write(Self::certificate_path(folder), issuing.pem.as_bytes(), Access::Everybody)?;
        made.write(Self::trust_path(folder), trust.as_bytes(), Access::Everybody)?;
        // Whatever it signs, it issues; a root that is alone does too.
        records.push(Record::Authority(AuthorityRecord { role: Role::Issuing, ..issuing.record }));

        let ca = Self {
            folder: folder.to_owned(),
            signer: Signer::of(&issuing.der, issuing.pem, issuing.key)?,
            retired: Vec::new(),
            inventory: Inventory::in_folder(folder),
        };
        ca.inventory.hold(|held| {
            held.append(now, &records)?;
            if let Some(root) = &root {
                let path = Self::root_crl_path(folder);
                write_crl(root, held, &path, remaining(root, now), now)?;
            }
            ca.write_crls_held(held, CRL_VALIDITY, now)
        })?;
        made.keep();
        Ok(ca)
    }

    /// Takes over an authority that was made elsewhere: its certificate, with those above it in
    /// the same file if it is no root, and its key, RSA or other. `trust` has the roots that
    /// brokers and clients trust; without it, they trust the authority itself.
    ///
    /// # Errors
    /// When the files are unfit or do not belong together, or there is an authority already.
    pub fn import(
        folder: &Path,
        (certificate, key): (&Path, &Path),
        trust: Option<&Path>,
        protection: &Protection,
        unlock: Unlock<'_>,
        now: OffsetDateTime,
    ) -> Result<Self, PkiError> {
        let signer = Signer::read(certificate, key, unlock)?;
        if signer.not_after <= now {
            return Err(PkiError::NotAnAuthority {
                path: certificate.to_owned(),
                problem: "the certificate has expired",
            });
        }
        let trust = match trust {
            Some(path) => files::read(path)?,
            None => signer.pem.clone().into_bytes(),
        };
        let record = Record::Authority(AuthorityRecord {
            name: signer.name.clone(),
            issuer: signer.hash.clone(),
            role: Role::Issuing,
            not_after: signer.not_after,
        });
        let key = signer.issuer.key().to_pem(protection)?;
        let mut made = Files::default();
        files::create_private_folder(folder)?;
        made.write(Self::key_path(folder), key.as_bytes(), Access::Owner)?;
        made.write(Self::certificate_path(folder), signer.pem.as_bytes(), Access::Everybody)?;
        made.write(Self::trust_path(folder), &trust, Access::Everybody)?;
        let inventory = Inventory::in_folder(folder);
        let ca = Self { folder: folder.to_owned(), signer, retired: Vec::new(), inventory };
        ca.inventory.hold(|held| {
            held.append(now, &[record])?;
            ca.write_crls_held(held, CRL_VALIDITY, now)
        })?;
        made.keep();
        Ok(ca)
    }
}
