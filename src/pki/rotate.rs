//! Putting a new authority in place of the present one, while both are trusted.
//!
//! What the new one needs is prepared beside and put in place with one rename of a folder; what
//! follows from there can be done again by whoever opens the authority next. The old one is kept:
//! it signs lists of revoked certificates until the last certificate that it issued has ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, IsCa};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::ca::{Ca, short};
use super::create::{BELOW_ISSUING, BELOW_ROOT, Made, make_authority};
use super::files::{self, Access, FileError};
use super::inventory::{AuthorityRecord, Held, Inventory, Reason, Record, Revocation, Role};
use super::key::{KeySource, Passphrase, Protection};
use super::place::inside;
use super::profile::{Profile, ProfileName};
use super::revoke::write_crl;
use super::signer::{Signer, Unlock, parameters};
use super::{CRL_VALIDITY, Crl, KeyError, PkiError, sha256_hex};

/// Where the next authority waits to be put in place.
const NEXT: &str = "next";
/// The present root's certificate, signed by the root before.
const CROSS: &str = "cross.pem";
/// The files that are put in place, keys before what is public of them.
const IN_PLACE: [&str; 6] = ["root.key", "root.pem", "cross.pem", "trust.pem", "ca.key", "ca.pem"];

/// What is to be put in place.
#[derive(Debug)]
pub struct Rotation<'a> {
    /// Whether the root is replaced as well.
    pub with_root: bool,
    /// Whether the old issuing key may be in other hands: then the root revokes it, and with it
    /// everything that it issued.
    pub is_compromised: bool,
    /// What the new issuing authority is called; as the old one, with the next number, without it.
    pub name: Option<&'a str>,
    /// The key of a new root.
    pub new_root_key: KeySource<'a>,
    /// The new issuing key.
    pub key: KeySource<'a>,
    /// How long the new issuing authority is valid; as its profile says without it.
    pub issuing_validity: Option<Duration>,
    /// Where the key of the present root is; in the folder without it.
    pub root_key: Option<&'a Path>,
    /// How the key of a new root is kept.
    pub root_protection: &'a Protection,
    /// How the new issuing key is kept.
    pub protection: &'a Protection,
}

/// What came of a rotation.
#[derive(Debug)]
pub struct Rotated {
    /// The authority that is in place now.
    pub ca: Ca,
    /// The lists of revoked certificates that were signed, of old and new.
    pub crls: Vec<Crl>,
    /// The old issuing authority, where it was revoked.
    pub revoked: Option<Revocation>,
}

impl Ca {
    /// Puts a new issuing authority, or a new root and one below it, in place of the present one.
    /// `unlock` is asked for the passphrase of each key that is encrypted; it is told whether the
    /// key is a new one, since the old ones of the same path may have had another.
    ///
    /// # Errors
    /// When the root's key is not at hand, or files cannot be written; then all is as it was.
    pub fn rotate(
        folder: &Path,
        rotation: &Rotation<'_>,
        unlock: &mut dyn FnMut(&Path, bool) -> Result<Passphrase, KeyError>,
        now: OffsetDateTime,
    ) -> Result<Rotated, PkiError> {
        let old = Self::open(folder, &mut |path| unlock(path, false), now)?;
        let prepared = Prepared::new(folder)?;
        let root_path = Self::root_certificate_path(folder);
        let has_root = root_path.exists();
        let root = if has_root {
            let key = rotation.root_key.map_or_else(|| Self::root_key_path(folder), PathBuf::from);
            Some(Signer::read(&root_path, &key, &mut |path| unlock(path, false))?)
        } else {
            None
        };
        if let Some(root) = &root {
            if rotation.with_root {
                prepared.root_and_issuing(&old.signer, root, rotation, now)?;
            } else {
                let issuing = next_issuing(&old.signer, root, rotation, now)?;
                // While some trust the root before alone, they need the way to it.
                let cross = match files::read(&folder.join(CROSS)) {
                    Ok(pem) => String::from_utf8_lossy(&pem).into_owned(),
                    Err(_) => String::new(),
                };
                let chain = format!("{}{cross}", issuing.pem);
                prepared.add_issuing(&issuing, &chain, rotation.protection)?;
            }
        } else if rotation.is_compromised {
            return Err(PkiError::NoRootHere { folder: folder.to_owned() });
        } else if old.signer.is_root {
            prepared.root_only(&old.signer, rotation, now)?;
        } else {
            return Err(PkiError::NoRootHere { folder: folder.to_owned() });
        }
        retire(folder, &old.signer.hash, &["ca.pem", "ca.key", "ca.crl", "ca.crl.der"])?;
        if has_root && rotation.with_root {
            retire(
                folder,
                &root_hash(&root_path)?,
                &["root.pem", "root.key", "root.crl", "root.crl.der"],
            )?;
        }
        prepared.commit()?;

        finish(folder, now)?;
        let revocation = Revocation {
            serial: old.signer.serial.clone(),
            issuer: root.as_ref().map(|root| root.hash.clone()).unwrap_or_default(),
            name: old.signer.name.clone(),
            not_after: old.signer.not_after,
            reason: Reason::CaCompromise,
        };
        let mut unlock_new = |path: &Path| unlock(path, true);
        let (certificate, key) = (Self::certificate_path(folder), Self::key_path(folder));
        let new = Self {
            folder: folder.to_owned(),
            signer: Signer::read(&certificate, &key, &mut unlock_new)?,
            // It signs a last list, even where it has issued nothing.
            retired: std::iter::once(old.signer).chain(old.retired).collect(),
            inventory: old.inventory,
        };
        let revoked = rotation.is_compromised.then_some(revocation);
        let crls = new.inventory.hold(|held| {
            let mut crls = Vec::new();
            if let (Some(revocation), Some(root)) = (&revoked, &root) {
                held.append(now, &[Record::Revoked(revocation.clone())])?;
                let kept = Self::retired_path(folder).join(short(&root.hash));
                let path = Self::root_crl_path(if rotation.with_root { &kept } else { folder });
                crls.push(write_crl(root, held, &path, remaining(root, now), now)?);
            }
            if has_root && rotation.with_root {
                crls.push(new.write_root_crl(held, &mut unlock_new, now)?);
            }
            crls.extend(new.write_crls_held(held, CRL_VALIDITY, now)?);
            Ok::<_, PkiError>(crls)
        })?;
        Ok(Rotated { ca: new, crls, revoked })
    }

    fn write_root_crl(
        &self,
        held: &mut Held<'_>,
        unlock: Unlock<'_>,
        now: OffsetDateTime,
    ) -> Result<Crl, PkiError> {
        let path = Self::root_certificate_path(&self.folder);
        let root = Signer::read(&path, &Self::root_key_path(&self.folder), unlock)?;
        let path = Self::root_crl_path(&self.folder);
        write_crl(&root, held, &path, remaining(&root, now), now)
    }
}

/// A root's list is good until the root ends: its key is hardly ever at hand.
pub(super) fn remaining(root: &Signer, now: OffsetDateTime) -> Duration {
    Duration::try_from(root.not_after - now).unwrap_or(CRL_VALIDITY)
}

/// What the authority after one is called.
fn next_name(name: &str) -> String {
    if let Some((base, number)) = name.rsplit_once(' ')
        && let Ok(number) = number.parse::<u32>()
    {
        format!("{base} {}", number.saturating_add(1))
    } else {
        format!("{name} 2")
    }
}

fn next_issuing(
    old: &Signer,
    root: &Signer,
    rotation: &Rotation<'_>,
    now: OffsetDateTime,
) -> Result<Made, PkiError> {
    let mut profile = Profile::built_in(ProfileName::Issuing)?;
    profile.validity = rotation.issuing_validity.unwrap_or(profile.validity);
    let name = rotation.name.map_or_else(|| next_name(&old.name), ToOwned::to_owned);
    let parent = Some((&root.issuer, root.not_after));
    make_authority(&profile, &name, (rotation.key, BELOW_ISSUING), parent, now)
}

/// What is to be put in place, in a folder that goes away unless it is committed.
struct Prepared {
    folder: PathBuf,
    path: PathBuf,
}

impl Prepared {
    fn new(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join(".next");
        // Left behind by a rotation that was cut short: nothing of it is in use.
        let _ = fs::remove_dir_all(&path);
        files::create_private_folder(&path)?;
        Ok(Self { folder: folder.to_owned(), path })
    }

    fn add(&self, name: &str, bytes: &[u8], access: Access) -> Result<(), PkiError> {
        Ok(files::write_new(&self.path.join(name), bytes, access)?)
    }

    fn add_issuing(
        &self,
        issuing: &Made,
        pem: &str,
        protection: &Protection,
    ) -> Result<(), PkiError> {
        self.add("ca.key", issuing.key.to_pem(protection)?.as_bytes(), Access::Owner)?;
        self.add("ca.pem", pem.as_bytes(), Access::Everybody)
    }

    /// A root, which the old root vouches for as well, and an issuing authority below it.
    fn root_and_issuing(
        &self,
        old: &Signer,
        old_root: &Signer,
        rotation: &Rotation<'_>,
        now: OffsetDateTime,
    ) -> Result<(), PkiError> {
        let profile = Profile::built_in(ProfileName::Ca)?;
        let name = next_name(&old_root.name);
        let root = make_authority(&profile, &name, (rotation.new_root_key, BELOW_ROOT), None, now)?;
        let mut cross = parameters(&profile, &name, now)?;
        cross.not_after = cross.not_after.min(old_root.not_after);
        cross.is_ca = IsCa::Ca(BasicConstraints::Constrained(BELOW_ROOT - 1));
        let cross = cross.signed_by(&root.key, &old_root.issuer)?.pem();
        let root_pem = root.pem.clone();
        self.add("root.key", root.key.to_pem(rotation.root_protection)?.as_bytes(), Access::Owner)?;
        self.add("root.pem", root_pem.as_bytes(), Access::Everybody)?;
        self.add(CROSS, cross.as_bytes(), Access::Everybody)?;
        self.add_trust(&root_pem)?;
        let root = Signer::of(&root.der, root_pem, root.key)?;
        let issuing = next_issuing(old, &root, rotation, now)?;
        // Who trusts the old root alone finds a way from the new certificates to it.
        self.add_issuing(&issuing, &format!("{}{cross}", issuing.pem), rotation.protection)
    }

    /// An authority that is its own root.
    fn root_only(
        &self,
        old: &Signer,
        rotation: &Rotation<'_>,
        now: OffsetDateTime,
    ) -> Result<(), PkiError> {
        let profile = Profile::built_in(ProfileName::Ca)?;
        let name = rotation.name.map_or_else(|| next_name(&old.name), ToOwned::to_owned);
        let root = make_authority(&profile, &name, (rotation.key, BELOW_ISSUING), None, now)?;
        self.add_trust(&root.pem)?;
        self.add_issuing(&root, &root.pem, rotation.protection)
    }

    /// Whom brokers and clients trust from now on: the new root, and those before it.
    fn add_trust(&self, root_pem: &str) -> Result<(), PkiError> {
        let before = files::read(&Ca::trust_path(&self.folder))
            .or_else(|_| files::read(&Ca::certificate_path(&self.folder)))?;
        let trust = [root_pem.as_bytes(), &before].concat();
        self.add("trust.pem", &trust, Access::Everybody)
    }

    /// From here on the new authority is the one.
    fn commit(self) -> Result<(), PkiError> {
        let next = self.folder.join(NEXT);
        let io = |source| FileError::Io { path: next.clone(), action: "put it in place", source };
        fs::rename(&self.path, &next).map_err(io)?;
        files::sync_folder(&self.folder).map_err(io)?;
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Keeps files of an authority that is replaced.
fn retire(folder: &Path, hash: &str, names: &[&str]) -> Result<(), PkiError> {
    let kept = Ca::retired_path(folder).join(short(hash));
    files::create_private_folder(&kept)?;
    for name in names {
        let (from, to) = (folder.join(name), kept.join(name));
        if !from.exists() {
            continue;
        }
        if Path::new(name).extension().is_some_and(|extension| extension == "key") {
            let key = zeroize::Zeroizing::new(files::read_key(&from)?);
            files::put(&to, &key, Access::Owner)?;
        } else {
            files::put(&to, &files::read(&from)?, Access::Everybody)?;
        }
    }
    Ok(())
}

/// Puts in place what a rotation committed, as far as that is not done.
pub(super) fn finish(folder: &Path, now: OffsetDateTime) -> Result<(), PkiError> {
    let next = folder.join(NEXT);
    if !next.exists() {
        return Ok(());
    }
    Inventory::in_folder(folder).hold(|held| {
        for (file, role) in [("root.pem", Role::Root), ("ca.pem", Role::Issuing)] {
            let path = next.join(file);
            if !path.exists() {
                continue;
            }
            let record = record_of(&path, role)?;
            let is_known = held.contents().authorities().any(|one| one.issuer == record.issuer);
            if !is_known {
                held.append(now, &[Record::Authority(record)])?;
            }
        }
        let io = |source| FileError::Io { path: next.clone(), action: "put it in place", source };
        for name in IN_PLACE {
            let (from, to) = (next.join(name), folder.join(name));
            let access = if name.ends_with("key") { Access::Owner } else { Access::Everybody };
            if !from.exists() {
                continue;
            }
            let real = match inside(name) {
                Some(inside) => files::settle(&to, inside, access)?,
                None => to,
            };
            fs::rename(&from, &real).map_err(io)?;
            files::sync_folder(real.parent().unwrap_or(folder)).map_err(io)?;
        }
        files::sync_folder(folder).map_err(io)?;
        fs::remove_dir(&next).map_err(io)?;
        Ok(())
    })
}

fn record_of(path: &Path, role: Role) -> Result<AuthorityRecord, PkiError> {
    let malformed =
        || PkiError::NotAnAuthority { path: path.to_owned(), problem: "no certificate in it" };
    let der = CertificateDer::from_pem_slice(&files::read(path)?).map_err(|_| malformed())?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| malformed())?;
    let name = parsed.subject().iter_common_name().next();
    Ok(AuthorityRecord {
        name: name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
        issuer: sha256_hex(parsed.public_key().raw),
        role,
        not_after: parsed.validity().not_after.to_datetime(),
    })
}

fn root_hash(path: &Path) -> Result<String, PkiError> {
    record_of(path, Role::Root).map(|record| record.issuer)
}

#[cfg(test)]
mod tests {
    use super::next_name;

    #[test]
    fn the_next_authority_has_the_next_number() {
        for (name, next) in [
            ("Factory", "Factory 2"),
            ("Factory 2", "Factory 3"),
            ("Factory Root", "Factory Root 2"),
            ("7", "7 2"),
        ] {
            assert_eq!(next_name(name), next);
        }
    }
}
