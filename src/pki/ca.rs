//! A certificate authority in a folder: `ca.pem` and `ca.key`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PublicKeyData as _, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::profile::{Profile, ProfileName, VALIDITY_MAX};
use super::{PkiError, files};

/// Certificates begin this long ago, for devices whose clock is late.
const BACKDATED: time::Duration = time::Duration::HOUR;

/// A certificate authority, able to sign.
pub struct Ca {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// What follows a certificate of its own in a chain, PEM: nothing, if it is a root.
    pub(super) chain_pem: String,
    pub(super) not_after: OffsetDateTime,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Ca {
    /// The file of the authority's certificate in its folder.
    #[must_use]
    pub fn certificate_path(folder: &Path) -> PathBuf {
        folder.join("ca.pem")
    }

    /// The file of the authority's private key in its folder.
    #[must_use]
    pub fn key_path(folder: &Path) -> PathBuf {
        folder.join("ca.key")
    }

    /// Makes an authority of its own in `folder`, which is made too where there is none. Without
    /// `validity` it is as the profile `ca` says.
    ///
    /// # Errors
    /// When the name is not allowed, the validity is too long, the files cannot be written, or
    /// there is an authority already.
    pub fn create(folder: &Path, name: &str, validity: Option<Duration>) -> Result<Self, PkiError> {
        let mut profile = Profile::built_in(ProfileName::Ca)?;
        if let Some(validity) = validity {
            profile.validity = validity;
        }
        profile.name_rule.check(name)?;
        let mut params = parameters(&profile, name, OffsetDateTime::now_utc())?;
        // It issues certificates of clients and brokers, and no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        files::create_private_folder(folder)?;
        files::write_new_pair(
            (&Self::key_path(folder), key.serialize_pem().as_bytes()),
            (&Self::certificate_path(folder), certificate.pem().as_bytes()),
        )?;
        Self::open(folder)
    }

    /// Opens the authority in `folder`.
    ///
    /// # Errors
    /// When its files are missing or unfit, do not belong together, or the key is open to others.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let certificate_path = Self::certificate_path(folder);
        let key_path = Self::key_path(folder);
        let unfit =
            |path: &Path, problem| PkiError::NotAnAuthority { path: path.to_owned(), problem };

        let key_pem = files::read_key(&key_path)?;
        let key = std::str::from_utf8(&key_pem)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| unfit(&key_path, "not a private key in PEM that can sign"))?;

        let pem = String::from_utf8(files::read(&certificate_path)?)
            .map_err(|_| unfit(&certificate_path, "not PEM"))?;
        let own = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| unfit(&certificate_path, "no certificate in PEM in it"))?;
        let (_, parsed) = X509Certificate::from_der(&own)
            .map_err(|_| unfit(&certificate_path, "the certificate is malformed"))?;
        if !parsed.is_ca() {
            return Err(unfit(&certificate_path, "not the certificate of an authority"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unfit(&certificate_path, "ca.key beside it is not its key"));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let is_root = parsed.subject().as_raw() == parsed.issuer().as_raw();
        let chain_pem = if is_root { String::new() } else { pem };
        Ok(Self { issuer: Issuer::from_ca_cert_der(&own, key)?, chain_pem, not_after })
    }

    /// The end of the authority.
    #[must_use]
    pub const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Lower-case hex of the SHA-256 of its `SubjectPublicKeyInfo`: what policies and
    /// `principals.toml` know an issuer by.
    #[must_use]
    pub fn issuer_hash(&self) -> String {
        super::sha256_hex(&self.issuer.key().subject_public_key_info())
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

#[cfg(test)]
mod tests;
