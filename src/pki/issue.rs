//! Issuing certificates: with a new key, for a request, or in place of an older one.
//!
//! A certificate is made first and recorded then; [`Unrecorded`] is what nobody may have yet, and
//! [`Ca::hand_out`] is the only way from there to an [`Issued`] one.

use rcgen::{CrlDistributionPoint, IsCa, PublicKeyData};
use time::OffsetDateTime;

use super::ca::Ca;
use super::inventory::{Certificate, Entry, Record};
use super::key::{KeyType, PrivateKey};
use super::profile::Profile;
use super::request::{Request, RequestError, Subject};
use super::signer::parameters;
use super::{PkiError, serial_hex, sha256_hex};

/// A certificate that was issued, and recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The certificate and those of the authority that a peer has to be sent, PEM, leaf first.
    pub chain_pem: String,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// What the inventory says of it: serial number, names, validity.
    pub certificate: Certificate,
}

/// A certificate that is not recorded yet, and may not be handed out.
#[derive(Debug)]
#[must_use = "what is not recorded may not be handed out; see Ca::hand_out"]
pub struct Unrecorded(Issued);

impl Unrecorded {
    /// The same, to be written to files with its key: it counts as unwritten until
    /// [`Ca::note_written`].
    pub fn for_files(mut self) -> Self {
        self.0.certificate.to_file = true;
        self
    }
}

impl Ca {
    /// Issues a certificate of `profile` for `subject`, with a new key.
    ///
    /// # Errors
    /// When a name is not allowed by the profile, the certificate would outlive the authority, or
    /// it cannot be recorded.
    pub fn issue(
        &self,
        profile: &Profile,
        subject: &Subject,
        key_type: KeyType,
        now: OffsetDateTime,
    ) -> Result<(Issued, PrivateKey), PkiError> {
        let key = PrivateKey::generate(key_type)?;
        let made = self.make(profile, subject, &key, None, now)?;
        Ok((self.hand_out_one(made, now)?, key))
    }

    /// Issues a certificate of `profile` for a request. With `name`, it may be for nobody else.
    ///
    /// # Errors
    /// When the request asks for what the profile does not give or for another name, the
    /// certificate would outlive the authority, or it cannot be recorded.
    pub fn sign(
        &self,
        profile: &Profile,
        request: &Request,
        name: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Issued, PkiError> {
        let subject = request.subject(profile, name)?;
        let made = self.make(profile, &subject, &request.public_key, None, now)?;
        self.hand_out_one(made, now)
    }

    /// Issues a certificate in place of an older one, with the same names and a new key.
    ///
    /// # Errors
    /// When the older one is revoked or was issued with another profile, and as [`Ca::issue`].
    pub fn renew(
        &self,
        profile: &Profile,
        old: &Entry,
        key_type: KeyType,
        now: OffsetDateTime,
    ) -> Result<(Issued, PrivateKey), PkiError> {
        let key = PrivateKey::generate(key_type)?;
        let subject = renewed_subject(profile, old)?;
        let made = self.make(profile, &subject, &key, Some(&old.certificate.serial), now)?;
        Ok((self.hand_out_one(made, now)?, key))
    }

    /// Issues a certificate in place of an older one, for a request: it may ask for the same
    /// names, or for none (RFC 7030, section 4.2.2).
    ///
    /// # Errors
    /// When the request asks for other names, and as [`Ca::renew`].
    pub fn renew_by_request(
        &self,
        profile: &Profile,
        old: &Entry,
        request: &Request,
        now: OffsetDateTime,
    ) -> Result<Issued, PkiError> {
        let subject = renewed_subject(profile, old)?;
        let asked = request.subject(profile, Some(&subject.name))?;
        // What a broker is called may stand among its alternative names, or not: it is added.
        let names = |subject: &Subject| {
            let alternative = &subject.alternative_names;
            alternative.checked(profile.name_rule, &subject.name, &profile.alternative_names).map(
                |names| names.into_iter().collect::<std::collections::HashSet<rcgen::SanType>>(),
            )
        };
        let asks_for_none = request.alternative_names() == &super::AlternativeNames::default();
        if !asks_for_none && names(&asked)? != names(&subject)? {
            return Err(RequestError::OtherAlternativeNames.into());
        }
        let serial = Some(old.certificate.serial.as_str());
        let made = self.make(profile, &subject, &request.public_key, serial, now)?;
        self.hand_out_one(made, now)
    }

    /// Makes a certificate, which is not recorded yet. Takes no lock, so that several threads can
    /// do it at a time.
    ///
    /// # Errors
    /// When a name is not allowed by the profile, or the certificate would outlive the authority.
    pub fn make(
        &self,
        profile: &Profile,
        subject: &Subject,
        key: &impl PublicKeyData,
        renews: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Unrecorded, PkiError> {
        if profile.name.is_authority() {
            return Err(PkiError::IssuedByProfileCa { profile: profile.name.as_str() });
        }
        let Subject { name, alternative_names } = subject;
        profile.name_rule.check(name)?;
        let mut params = parameters(profile, name, now)?;
        if params.not_after > self.signer.not_after {
            return Err(PkiError::OutlivesCa { ca_not_after: self.signer.not_after });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        if !profile.crl_urls.is_empty() {
            let uris = profile.crl_urls_of(&self.signer.hash);
            params.crl_distribution_points.push(CrlDistributionPoint { uris });
        }
        params.subject_alt_names =
            alternative_names.checked(profile.name_rule, name, &profile.alternative_names)?;
        let serial = params.serial_number.as_ref().ok_or(PkiError::NoRandomness)?.to_bytes();
        let signed = params.signed_by(key, &self.signer.issuer)?;
        let certificate_pem = signed.pem();
        Ok(Unrecorded(Issued {
            chain_pem: format!("{certificate_pem}{}", self.signer.chain_pem()),
            certificate_pem,
            certificate: Certificate {
                serial: serial_hex(&serial),
                name: name.clone(),
                profile: profile.name,
                alternative_names: alternative_names.clone(),
                not_before: params.not_before,
                not_after: params.not_after,
                fingerprint: sha256_hex(signed.der()),
                key: sha256_hex(&key.subject_public_key_info()),
                issuer: self.signer.hash.clone(),
                renews: renews.map(ToOwned::to_owned),
                to_file: false,
            },
            der: signed.der().to_vec(),
        }))
    }

    /// Records certificates, all with one sync, and gives them out then.
    ///
    /// # Errors
    /// When one takes the place of a revoked certificate, `ca rotate` has put another authority in
    /// place, or they cannot be recorded; then none of them was issued.
    pub fn hand_out(
        &self,
        made: Vec<Unrecorded>,
        now: OffsetDateTime,
    ) -> Result<Vec<Issued>, PkiError> {
        let records: Vec<Record> = made
            .iter()
            .map(|Unrecorded(issued)| Record::Issued(Box::new(issued.certificate.clone())))
            .collect();
        self.inventory.hold(|held| {
            self.check_current(held.contents())?;
            for Unrecorded(issued) in &made {
                // Looked at under the lock: it may have been revoked a moment ago.
                let old = issued.certificate.renews.as_deref();
                let old = old.and_then(|serial| held.contents().by_serial(serial));
                if let Some(Entry { certificate, revoked: Some((_, reason)), .. }) = old {
                    let serial = certificate.serial.clone();
                    return Err(PkiError::Revoked { serial, reason: *reason });
                }
            }
            Ok(held.append(now, &records)?)
        })?;
        Ok(made.into_iter().map(|Unrecorded(issued)| issued).collect())
    }

    /// Records that the files of certificates are there, and durable.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn note_written<'a>(
        &self,
        certificates: impl IntoIterator<Item = &'a Certificate>,
        now: OffsetDateTime,
    ) -> Result<(), PkiError> {
        let serials: Vec<String> =
            certificates.into_iter().map(|certificate| certificate.serial.clone()).collect();
        if serials.is_empty() {
            return Ok(());
        }
        self.inventory.hold(|held| Ok(held.append(now, &[Record::written(serials)])?))
    }

    /// As [`Ca::hand_out`], of one.
    ///
    /// # Errors
    /// As [`Ca::hand_out`].
    pub fn hand_out_one(&self, made: Unrecorded, now: OffsetDateTime) -> Result<Issued, PkiError> {
        let issued = self.hand_out(vec![made], now)?;
        issued.into_iter().next().ok_or(PkiError::NoRandomness)
    }
}

/// Whom a certificate is for that takes the place of another.
fn renewed_subject(profile: &Profile, old: &Entry) -> Result<Subject, PkiError> {
    let certificate = &old.certificate;
    if profile.name != certificate.profile {
        return Err(PkiError::OtherProfile {
            serial: certificate.serial.clone(),
            issued: certificate.profile.as_str(),
            asked: profile.name.as_str(),
        });
    }
    let alternative_names = certificate.alternative_names.clone();
    Ok(Subject { name: certificate.name.clone(), alternative_names })
}
