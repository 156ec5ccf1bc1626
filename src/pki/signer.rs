//! A certificate that can sign, and its key.

use std::path::Path;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, Issuer, KeyIdMethod, PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use super::key::{Passphrase, PrivateKey};
use super::profile::{Profile, VALIDITY_MAX};
use super::{KeyError, PkiError, files, serial_hex, sha256_hex};

/// Certificates begin this long ago, for devices whose clock is late.
const BACKDATED: time::Duration = time::Duration::HOUR;

/// Asks for the passphrase of the key in a file.
pub type Unlock<'a> = &'a mut dyn FnMut(&Path) -> Result<Passphrase, KeyError>;

/// For keys that are not encrypted: there is no passphrase to give.
///
/// # Errors
/// Always: the key is encrypted after all.
pub fn no_passphrase(path: &Path) -> Result<Passphrase, KeyError> {
    Err(KeyError::NoPassphrase { path: path.to_owned() })
}

/// An authority that can sign.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, PrivateKey>,
    /// What it is called: its common name.
    pub(super) name: String,
    /// Its certificate and those that follow it in its file, PEM.
    pub(super) pem: String,
    pub(super) is_root: bool,
    /// Its own serial number, as the inventory writes them.
    pub(super) serial: String,
    pub(super) not_after: OffsetDateTime,
    /// Lower-case hex of the SHA-256 of its `SubjectPublicKeyInfo`.
    pub(super) hash: String,
    /// Its key identifier, which what it signs names.
    pub(super) key_identifier: KeyIdMethod,
}

impl Signer {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// When the files are missing or unfit, do not belong together, or the key is open to others.
    pub(super) fn read(
        certificate_path: &Path,
        key_path: &Path,
        unlock: Unlock<'_>,
    ) -> Result<Self, PkiError> {
        let unfit =
            |problem| PkiError::NotAnAuthority { path: certificate_path.to_owned(), problem };
        let pem =
            String::from_utf8(files::read(certificate_path)?).map_err(|_| unfit("not PEM"))?;
        let own = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| unfit("no certificate in PEM in it"))?;
        let (_, parsed) =
            X509Certificate::from_der(&own).map_err(|_| unfit("the certificate is malformed"))?;
        if !parsed.is_ca() {
            return Err(unfit("not the certificate of an authority"));
        }
        if let Ok(Some(usage)) = parsed.key_usage()
            && !(usage.value.key_cert_sign() && usage.value.crl_sign())
        {
            return Err(unfit("its key may not sign certificates and lists of revoked ones"));
        }
        let key = PrivateKey::read(key_path, unlock)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unfit("the key beside it is not its key"));
        }
        let subject = parsed.subject().as_raw().to_vec();
        let signer = Self::of(&own, pem, key)?;
        if signer.names_itself_as(&subject)? {
            Ok(signer)
        } else {
            Err(unfit("its name cannot be written the way it is; no certificate would lead to it"))
        }
    }

    /// A certificate with its key, PEM and DER of the same.
    pub(super) fn of(
        certificate: &CertificateDer<'_>,
        pem: String,
        key: PrivateKey,
    ) -> Result<Self, PkiError> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let name = parsed.subject().iter_common_name().next();
        let identifier = parsed.iter_extensions().find_map(|one| match one.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            key_identifier: identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified),
            name: name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            hash: sha256_hex(parsed.public_key().raw),
            not_after: parsed.validity().not_after.to_datetime(),
            is_root: parsed.subject().as_raw() == parsed.issuer().as_raw(),
            serial: serial_hex(parsed.raw_serial()),
            issuer: Issuer::from_ca_cert_der(certificate, key)?,
            pem,
        })
    }

    /// Whether the issuer of what it signs is written as its own subject is, byte by byte.
    fn names_itself_as(&self, subject: &[u8]) -> Result<bool, PkiError> {
        let mut probe = CertificateParams::default();
        probe.serial_number = Some(SerialNumber::from(vec![1]));
        let probe = probe.signed_by(self.issuer.key(), &self.issuer)?;
        let (_, parsed) = X509Certificate::from_der(probe.der())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(parsed.issuer().as_raw() == subject)
    }

    /// What follows a certificate of its own in a chain, PEM: nothing, if it is a root.
    pub(super) const fn chain_pem(&self) -> &str {
        if self.is_root { "" } else { self.pem.as_str() }
    }
}

/// What every certificate has: names, validity, usages, a random serial number.
pub(super) fn parameters(
    profile: &Profile,
    name: &str,
    now: OffsetDateTime,
) -> Result<CertificateParams, PkiError> {
    if profile.validity > VALIDITY_MAX {
        return Err(PkiError::ValidityTooLong);
    }
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let validity =
        time::Duration::try_from(profile.validity).map_err(|_| PkiError::ValidityTooLong)?;
    let mut params = CertificateParams::default();
    params.not_before = now.checked_sub(BACKDATED).ok_or(PkiError::ValidityTooLong)?;
    params.not_after = now.checked_add(validity).ok_or(PkiError::ValidityTooLong)?;
    params.serial_number = Some(SerialNumber::from(serial()?.to_vec()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages.clone_from(&profile.key_usages);
    params.extended_key_usages.clone_from(&profile.extended_key_usages);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 126 random bits in 16 bytes, positive and never shorter.
fn serial() -> Result<[u8; 16], PkiError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PkiError::NoRandomness)?;
    let [first, ..] = &mut bytes;
    *first = *first & 0x7f | 0x40;
    Ok(bytes)
}
