//! Issuing a certificate, with a new key.

use rcgen::{IsCa, KeyPair};
use time::OffsetDateTime;

use super::ca::{Ca, parameters};
use super::profile::{Profile, ProfileName};
use super::{AlternativeNames, PkiError, serial_hex, sha256_hex};

/// A new certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The certificate and those of the authority that a peer has to be sent, PEM, leaf first.
    pub chain_pem: String,
    /// The private key, PEM. A secret.
    pub key_pem: String,
    /// Lower-case hex of the serial number, without leading zeros.
    pub serial: String,
    /// Lower-case hex of the SHA-256 of the certificate.
    pub fingerprint: String,
    /// The last second of validity.
    pub not_after: OffsetDateTime,
}

impl std::fmt::Debug for Issued {
    /// Everything but the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("serial", &self.serial)
            .field("fingerprint", &self.fingerprint)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Ca {
    /// Issues a certificate of `profile` for `name`, with a new P-256 key.
    ///
    /// # Errors
    /// When a name is not allowed by the profile, or the certificate would outlive the authority.
    pub fn issue(
        &self,
        profile: &Profile,
        name: &str,
        alternative_names: &AlternativeNames,
    ) -> Result<Issued, PkiError> {
        if profile.name == ProfileName::Ca {
            return Err(PkiError::IssuedByProfileCa);
        }
        profile.name_rule.check(name)?;
        let mut params = parameters(profile, name, OffsetDateTime::now_utc())?;
        if params.not_after > self.not_after {
            return Err(PkiError::OutlivesCa { ca_not_after: self.not_after });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names =
            alternative_names.checked(profile.name_rule, name, &profile.alternative_names)?;

        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let certificate_pem = certificate.pem();
        let serial = params.serial_number.as_ref().ok_or(PkiError::NoRandomness)?;
        Ok(Issued {
            chain_pem: certificate_pem.clone() + &self.chain_pem,
            key_pem: key.serialize_pem(),
            serial: serial_hex(&serial.to_bytes()),
            fingerprint: sha256_hex(certificate.der()),
            not_after: params.not_after,
            certificate_pem,
        })
    }
}
