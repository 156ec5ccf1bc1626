//! Revoking certificates, and the signed lists of revoked ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, PublicKeyData as _, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::ca::{Ca, short};
use super::files::{self, Access};
use super::inventory::{Contents, Held, Reason, Record, Revocation, SignedCrl};
use super::place::PUBLIC;
use super::published::der_path;
use super::signer::Signer;
use super::{PkiError, serial_hex};

/// How long a list of revoked certificates is good for, when nobody says otherwise.
pub const CRL_VALIDITY: Duration = Duration::from_hours(30 * 24);
/// How long a certificate stays in the lists after its end: longer than a list is good for, so
/// that it is in one that was made after (RFC 5280, section 3.3).
const KEPT_AFTER_END: time::Duration = time::Duration::days(400);

/// A list of revoked certificates, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    /// Its number, how many it lists, and when the next one is due.
    pub signed: SignedCrl,
    /// What the authority that signed it is called.
    pub authority: String,
    /// The file it is in, PEM.
    pub path: PathBuf,
    /// The list, DER.
    pub der: Vec<u8>,
}

/// What came of revoking certificates.
#[derive(Debug)]
pub struct Revoked {
    /// Those that were not revoked before. They are now, whatever became of the lists.
    pub certificates: Vec<Revocation>,
    /// The new lists of revoked certificates, or why they are not there; then
    /// [`Ca::write_crls`] is to be called again.
    pub crls: Result<Vec<Crl>, PkiError>,
}

/// Which certificate is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    serial: String,
    issuer: String,
    name: String,
    not_after: OffsetDateTime,
}

impl Ca {
    /// The file of the list of revoked certificates in a folder, PEM; DER is in the same with
    /// `.der` added.
    #[must_use]
    pub fn crl_path(folder: &Path) -> PathBuf {
        folder.join("ca.crl")
    }

    /// The file of all lists of revoked certificates that are in force, each with the certificate
    /// of the issuing authority that signed it: what `revocation.lists` of a broker names.
    #[must_use]
    pub fn crls_path(folder: &Path) -> PathBuf {
        folder.join("crls.pem")
    }

    /// The root's list of revoked issuing authorities.
    #[must_use]
    pub fn root_crl_path(folder: &Path) -> PathBuf {
        folder.join("root.crl")
    }

    /// The certificate with a serial number, to be revoked. A serial number may be written in
    /// upper case, with colons and leading zeros.
    ///
    /// # Errors
    /// When the inventory has none such.
    pub fn by_serial(&self, serial: &str) -> Result<Vec<Target>, PkiError> {
        let plain = plain_serial(serial);
        let targets = self.targets(|contents| contents.by_serial(&plain).into_iter().collect())?;
        if targets.is_empty() {
            return Err(PkiError::NotIssued { what: format!("serial number {plain}") });
        }
        Ok(targets)
    }

    /// The certificates of a name that are neither revoked nor at their end, to be revoked.
    ///
    /// # Errors
    /// When the inventory has none such.
    pub fn by_name(&self, name: &str, now: OffsetDateTime) -> Result<Vec<Target>, PkiError> {
        let targets = self.targets(|contents| {
            let usable = contents
                .by_name(name)
                .filter(|entry| entry.revoked.is_none() && entry.certificate.not_after >= now);
            usable.collect()
        })?;
        if targets.is_empty() {
            return Err(PkiError::NotIssued { what: format!("valid certificate for {name:?}") });
        }
        Ok(targets)
    }

    /// The certificate in a file, to be revoked; it need not be in the inventory, but has to be
    /// signed by this authority or one that it took the place of.
    ///
    /// # Errors
    /// When the file holds no certificate, or one of another authority.
    pub fn by_file(&self, path: &Path) -> Result<Vec<Target>, PkiError> {
        let unfit = |problem| PkiError::NotACertificate { path: path.to_owned(), problem };
        let pem = files::read(path)?;
        let der = CertificateDer::from_pem_slice(&pem)
            .map_err(|_| unfit("no certificate in PEM in it"))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| unfit("the certificate is malformed"))?;
        let issuer = self.signers().find(|signer| {
            let spki = signer.issuer.key().subject_public_key_info();
            SubjectPublicKeyInfo::from_der(&spki)
                .is_ok_and(|(_, spki)| parsed.verify_signature(Some(&spki)).is_ok())
        });
        let issuer = issuer.ok_or_else(|| unfit("it is of another authority"))?;
        let name = parsed.subject().iter_common_name().next();
        Ok(vec![Target {
            serial: serial_hex(parsed.raw_serial()),
            issuer: issuer.hash.clone(),
            name: name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            not_after: parsed.validity().not_after.to_datetime(),
        }])
    }

    fn targets(
        &self,
        find: impl FnOnce(&Contents) -> Vec<&super::inventory::Entry>,
    ) -> Result<Vec<Target>, PkiError> {
        self.contents(|contents| {
            let targets = find(contents).into_iter().map(|entry| Target {
                serial: entry.certificate.serial.clone(),
                issuer: entry.certificate.issuer.clone(),
                name: entry.certificate.name.clone(),
                not_after: entry.certificate.not_after,
            });
            targets.collect()
        })
    }

    /// Revokes certificates, for good, and writes new lists of revoked ones at once. Those that
    /// are revoked already stay as they are.
    ///
    /// # Errors
    /// When all of them are revoked already, no list could name them, or it cannot be recorded;
    /// then none was revoked.
    pub fn revoke(
        &self,
        targets: &[Target],
        reason: Reason,
        now: OffsetDateTime,
    ) -> Result<Revoked, PkiError> {
        self.inventory.hold(|held| {
            self.check_current(held.contents())?;
            let new: Vec<Revocation> = targets
                .iter()
                .filter(|one| !held.contents().is_revoked(&one.issuer, &one.serial))
                .map(|one| Revocation {
                    serial: one.serial.clone(),
                    issuer: one.issuer.clone(),
                    name: one.name.clone(),
                    not_after: one.not_after,
                    reason,
                })
                .collect();
            if let (true, Some(first)) = (new.is_empty(), targets.first()) {
                return Err(PkiError::AlreadyRevoked { serial: first.serial.clone() });
            }
            if let Some(one) = new.iter().find(|one| !self.signs_for(&one.issuer)) {
                let (serial, issuer) = (one.serial.clone(), one.issuer.clone());
                return Err(PkiError::NotSignedFor { serial, issuer });
            }
            let records: Vec<Record> = new.iter().cloned().map(Record::Revoked).collect();
            held.append(now, &records)?;
            let crls = self.write_crls_held(held, CRL_VALIDITY, now);
            Ok(Revoked { certificates: new, crls })
        })
    }

    /// Signs and writes the lists of revoked certificates: of this authority, and of each before
    /// it whose certificates are still about.
    ///
    /// # Errors
    /// When they cannot be recorded or written.
    pub fn write_crls(
        &self,
        validity: Duration,
        now: OffsetDateTime,
    ) -> Result<Vec<Crl>, PkiError> {
        self.inventory.hold(|held| {
            self.check_current(held.contents())?;
            self.write_crls_held(held, validity, now)
        })
    }

    /// Those that sign lists of revoked certificates, the present one first.
    pub(super) fn signers(&self) -> impl Iterator<Item = &Signer> {
        std::iter::once(&self.signer).chain(&self.retired)
    }

    fn signs_for(&self, issuer: &str) -> bool {
        self.signers().any(|signer| signer.hash == issuer)
    }

    /// The file of the list of one of them, PEM.
    pub(super) fn crl_path_of(&self, signer: &Signer) -> PathBuf {
        if signer.hash == self.signer.hash {
            return Self::crl_path(&self.folder);
        }
        Self::crl_path(&Self::retired_path(&self.folder).join(short(&signer.hash)))
    }

    pub(super) fn write_crls_held(
        &self,
        held: &mut Held<'_>,
        validity: Duration,
        now: OffsetDateTime,
    ) -> Result<Vec<Crl>, PkiError> {
        let mut crls = Vec::new();
        for signer in self.signers() {
            crls.push(write_crl(signer, held, &self.crl_path_of(signer), validity, now)?);
        }
        let mut all = String::new();
        for (signer, crl) in self.signers().zip(&crls) {
            // A broker that trusts the root has to know whose list it is.
            all.push_str(signer.chain_pem());
            all.push_str(&pem_of(&crl.der));
        }
        // The root's is signed when the root's key is at hand, and stays until then.
        for root in root_crls(&self.folder) {
            all.push_str(&String::from_utf8_lossy(&files::read(&root)?));
        }
        let path = Self::crls_path(&self.folder);
        files::put_beside(&path, PUBLIC, all.as_bytes(), Access::Everybody)?;
        // An authority of an earlier version has it among its keys.
        let trust = Self::trust_path(&self.folder);
        if trust.symlink_metadata().is_ok_and(|it| it.is_file()) {
            files::put_beside(&trust, PUBLIC, &files::read(&trust)?, Access::Everybody)?;
        }
        Ok(crls)
    }
}

/// The lists that roots signed, of the present one and those before it.
fn root_crls(folder: &Path) -> Vec<PathBuf> {
    let before = std::fs::read_dir(Ca::retired_path(folder)).into_iter().flatten().flatten();
    let before = before.map(|entry| Ca::root_crl_path(&entry.path()));
    let mut paths: Vec<PathBuf> = before.filter(|path| path.exists()).collect();
    paths.sort();
    let own = Ca::root_crl_path(folder);
    if own.exists() {
        paths.insert(0, own);
    }
    paths
}

/// What stands in a list of an authority that is signed now.
pub(super) fn listed<'a>(
    contents: &'a Contents,
    issuer: &'a str,
    now: OffsetDateTime,
) -> impl Iterator<Item = &'a (OffsetDateTime, Revocation)> {
    let is_listed =
        move |one: &Revocation| one.issuer == issuer && one.not_after + KEPT_AFTER_END > now;
    contents.revocations().filter(move |(_, one)| is_listed(one))
}

/// Signs the next list of an authority and writes it, PEM and DER. Its number is on record before
/// anybody can see it, so that no number is ever used twice.
pub(super) fn write_crl(
    signer: &Signer,
    held: &mut Held<'_>,
    path: &Path,
    validity: Duration,
    now: OffsetDateTime,
) -> Result<Crl, PkiError> {
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let validity = time::Duration::try_from(validity).map_err(|_| PkiError::ValidityTooLong)?;
    let next_update = now.checked_add(validity).ok_or(PkiError::ValidityTooLong)?;
    let next_update = next_update.replace_nanosecond(0).unwrap_or(next_update);
    let mut revoked_certs = Vec::new();
    for (time, one) in listed(held.contents(), &signer.hash, now) {
        revoked_certs.push(RevokedCertParams {
            serial_number: serial_number(&one.serial)?,
            revocation_time: time.replace_nanosecond(0).unwrap_or(*time),
            reason_code: one.reason.in_crl(),
            invalidity_date: None,
        });
    }
    let number = held.contents().crl(&signer.hash).map_or(1, |last| last.number + 1);
    let signed = SignedCrl {
        issuer: signer.hash.clone(),
        number,
        next_update,
        certificates: revoked_certs.len() as u64,
    };
    let crl = CertificateRevocationListParams {
        this_update: now,
        next_update,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: signer.key_identifier.clone(),
    }
    .signed_by(&signer.issuer)?;
    held.append(now, &[Record::Crl(signed.clone())])?;
    let der = crl.der().to_vec();
    files::put_beside(&der_path(path), PUBLIC, &der, Access::Everybody)?;
    files::put_beside(path, PUBLIC, pem_of(&der).as_bytes(), Access::Everybody)?;
    Ok(Crl { signed, authority: signer.name.clone(), path: path.to_owned(), der })
}

pub(super) fn pem_of(der: &[u8]) -> String {
    pkcs8::der::pem::encode_string("X509 CRL", pkcs8::LineEnding::LF, der).unwrap_or_default()
}

/// A serial number as the inventory has it.
#[must_use]
pub fn plain_serial(text: &str) -> String {
    let hex: String = text.chars().filter(|c| *c != ':').collect();
    let hex = hex.to_ascii_lowercase();
    let significant = hex.trim_start_matches('0');
    if significant.is_empty() { "0".to_owned() } else { significant.to_owned() }
}

fn serial_number(serial: &str) -> Result<SerialNumber, PkiError> {
    let padded =
        if serial.len().is_multiple_of(2) { serial.to_owned() } else { format!("0{serial}") };
    let bytes = hex::decode(padded)
        .map_err(|_| PkiError::NotIssued { what: format!("serial number {serial:?}") })?;
    Ok(SerialNumber::from(bytes))
}

#[cfg(test)]
mod tests;
