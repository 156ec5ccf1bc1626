//! Which authority issued a certificate.
//!
//! Revocation is keyed by the issuer's public key, so a wrong answer here would let a revoked
//! certificate pass. A client chooses which intermediates it sends, and can make a certificate
//! with any subject and with a key under which a given signature is valid; therefore an
//! intermediate counts only where a trusted authority vouches for it.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use super::certificate::{self, CertificateError};
use super::revocation::{CrlError, Fingerprint, Header};
use crate::pki;

/// Signatures checked to find the issuer of one certificate. A chain is short; more is an attempt
/// to spend our time.
pub(super) const SIGNATURE_CHECKS_MAX: u32 = 16;

/// The authorities that client certificates of a listener have to come from.
#[derive(Clone, Debug, Default)]
pub struct TrustedIssuers(Vec<Arc<Authority>>);

/// The trusted authority that a chain ends at, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor(Arc<str>);

/// Who vouches for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    /// The fingerprint of the key that signed it.
    pub(super) issuer: Arc<str>,
    /// Where the chain ends.
    pub(super) anchor: Anchor,
    /// The authorities between, from the certificate up, with the numbers of their certificates.
    pub(super) between: Vec<(Arc<str>, Box<[u8]>)>,
}

/// A public key that signs certificates, and the name it signs under.
#[derive(Clone, Debug, Default)]
pub(super) struct Authority {
    /// DER of the subject.
    pub(super) subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    /// The contents of the `AlgorithmIdentifier` of the key.
    key_algorithm: Vec<u8>,
    /// The contents of the key's BIT STRING.
    pub(super) key: Vec<u8>,
    /// Lower-case hex of the SHA-256 of the `SubjectPublicKeyInfo`.
    pub(super) fingerprint: Arc<str>,
    /// It may sign revocation lists.
    signs_lists: bool,
}

/// An intermediate that the client sent.
struct Intermediate<'a> {
    authority: Arc<Authority>,
    certificate: &'a X509Certificate<'a>,
}

impl TrustedIssuers {
    /// Reads the authorities' certificates.
    ///
    /// # Errors
    /// When one of them is not a certificate.
    pub fn new(authorities: &[CertificateDer<'_>]) -> Result<Self, CertificateError> {
        authorities
            .iter()
            .map(|der| Authority::read(&certificate::parse(der)?).map(Arc::new))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The authorities of several, each once.
    #[must_use]
    pub fn of_all(several: impl Iterator<Item = Arc<Self>>) -> Self {
        let mut all = Self::default();
        for authority in several.flat_map(|some| some.0.clone()) {
            let is_known = |other: &Arc<Authority>| {
                other.fingerprint == authority.fingerprint && other.subject == authority.subject
            };
            if !all.0.iter().any(is_known) {
                all.0.push(authority);
            }
        }
        all
    }

    /// Each authority: its subject, and the lower-case hex of the SHA-256 of its
    /// `SubjectPublicKeyInfo`, in order.
    pub fn described(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|authority| {
            let subject = X509Name::from_der(&authority.subject);
            let subject = subject.map_or_else(|_| String::new(), |(_, name)| name.to_string());
            (subject, &*authority.fingerprint)
        })
    }

    /// True when an authority with this key is among these.
    pub(super) fn has(&self, key: Fingerprint) -> bool {
        let key = hex::encode(key.0);
        self.0.iter().any(|authority| *authority.fingerprint == *key)
    }

    /// These and those of `certificates` that are of authorities, within their time, and that one of
    /// these vouches for.
    ///
    /// # Errors
    /// When one of them is not a certificate.
    pub(super) fn with_intermediates(
        &self,
        certificates: &[CertificateDer<'_>],
        now_unix_s: i64,
    ) -> Result<Self, CertificateError> {
        let parsed: Vec<_> =
            certificates.iter().map(|der| certificate::parse(der)).collect::<Result<_, _>>()?;
        let mut all = self.clone();
        for certificate in &parsed {
            let validity = certificate.validity();
            let is_in_time = (validity.not_before.timestamp()..=validity.not_after.timestamp())
                .contains(&now_unix_s);
            let is_fit = certificate.is_ca() && is_in_time;
            if is_fit && self.issuer_of(certificate, &parsed).is_ok() {
                all.0.push(Arc::new(Authority::read(certificate)?));
            }
        }
        Ok(all)
    }

    /// Whose key signed a revocation list.
    ///
    /// # Errors
    /// When nobody's did who has the name in it and may sign lists.
    pub(super) fn signer_of(&self, list: &Header<'_>) -> Result<Fingerprint, CrlError> {
        let issuer = || list.issuer_name();
        let has_key =
            |authority: &&Arc<Authority>| match (list.key_identifier, &authority.key_identifier) {
                (Some(wanted), Some(own)) => wanted == own.as_slice(),
                _ => true,
            };
        let named = || self.0.iter().filter(|it| it.subject == list.issuer).filter(has_key);
        if named().next().is_none() {
            return Err(CrlError::UnknownIssuer { issuer: issuer() });
        }
        if !named().any(|authority| authority.signs_lists) {
            return Err(CrlError::NotForLists { issuer: issuer() });
        }
        let mut checks_left = SIGNATURE_CHECKS_MAX;
        let signed = Signed {
            message: list.signed,
            algorithm: list.signature_algorithm,
            signature: list.signature,
        };
        named()
            .filter(|authority| authority.signs_lists)
            .find(|authority| matches!(authority.made(&signed, &mut checks_left), Ok(true)))
            .and_then(|authority| fingerprint(&authority.fingerprint))
            .ok_or_else(|| CrlError::BadSignature { issuer: issuer() })
    }

    /// Who has issued the first certificate of a verified chain.
    ///
    /// # Errors
    /// As [`Self::issuer_of`].
    pub(super) fn authority_behind(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Result<Arc<Authority>, CertificateError> {
        let parsed = chain.iter().map(|der| certificate::parse(der));
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        let (leaf, between) = parsed.split_first().ok_or(CertificateError::Missing)?;
        let issuer = self.issuer_of(leaf, between)?.issuer;
        let is_it =
            |it: &Authority| it.fingerprint == issuer && it.subject == leaf.issuer().as_raw();
        if let Some(trusted) = self.0.iter().find(|it| is_it(it)) {
            return Ok(Arc::clone(trusted));
        }
        for certificate in between {
            let authority = Authority::read(certificate)?;
            if is_it(&authority) {
                return Ok(Arc::new(authority));
            }
        }
        Err(CertificateError::IssuerUnknown)
    }

    /// Whether an authority is still among these.
    #[must_use]
    pub fn trust(&self, anchor: &Anchor) -> bool {
        self.0.iter().any(|authority| authority.fingerprint == anchor.0)
    }

    /// Who signed `leaf`, and which of these authorities stands behind that.
    ///
    /// The chain has been verified against these authorities, so an authority that is alone with
    /// its name needs no second check; where names are shared, signatures decide.
    pub(super) fn issuer_of(
        &self,
        leaf: &X509Certificate<'_>,
        intermediates: &[X509Certificate<'_>],
    ) -> Result<Vouched, CertificateError> {
        let intermediates: Vec<Intermediate<'_>> = intermediates
            .iter()
            .map(|certificate| {
                let authority = Arc::new(Authority::read(certificate)?);
                Ok(Intermediate { authority, certificate })
            })
            .collect::<Result<_, CertificateError>>()?;
        let is_named = |authority: &&Arc<Authority>| authority.subject == leaf.issuer().as_raw();
        let candidates: Vec<_> = self
            .0
            .iter()
            .chain(intermediates.iter().map(|intermediate| &intermediate.authority))
            .filter(is_named)
            .collect();
        let first = candidates.first().ok_or(CertificateError::IssuerUnknown)?;
        if !candidates.iter().any(|authority| authority.may_have_issued(leaf)) {
            return Err(CertificateError::IssuerKeyDiffers);
        }
        let is_alone = candidates.iter().all(|other| other.fingerprint == first.fingerprint);
        if is_alone && self.0.iter().any(|authority| is_named(&authority)) {
            return Ok(first.vouching());
        }
        let mut checks_left = SIGNATURE_CHECKS_MAX;
        self.vouched_issuer(leaf, &intermediates, intermediates.len(), &mut checks_left)?
            .ok_or(CertificateError::IssuerUnknown)
    }

    /// The authority that signed `certificate`: a trusted one, or an intermediate that is itself
    /// signed by such an authority, over at most `depth` more steps.
    fn vouched_issuer(
        &self,
        certificate: &X509Certificate<'_>,
        intermediates: &[Intermediate<'_>],
        depth: usize,
        checks_left: &mut u32,
    ) -> Result<Option<Vouched>, CertificateError> {
        for authority in &self.0 {
            if authority.signed(certificate, checks_left)? {
                return Ok(Some(authority.vouching()));
            }
        }
        let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
        for Intermediate { authority, certificate: own } in intermediates {
            if authority.signed(certificate, checks_left)?
                && let Some(above) = self.vouched_issuer(own, intermediates, depth, checks_left)?
            {
                let issuer = Arc::clone(&authority.fingerprint);
                let Vouched { issuer: above_issuer, anchor, mut between } = above;
                between.insert(0, (above_issuer, own.raw_serial().into()));
                return Ok(Some(Vouched { issuer, anchor, between }));
            }
        }
        Ok(None)
    }
}

impl Authority {
    pub(super) fn read(certificate: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let spki = certificate.public_key();
        let key_identifier = match extension(certificate, &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)? {
            Some(ParsedExtension::SubjectKeyIdentifier(identifier)) => Some(identifier.0.to_vec()),
            _ => None,
        };
        let (_, fields) = first_element(spki.raw)?;
        let (_, key_algorithm) = first_element(fields)?;
        let usage = extension(certificate, &OID_X509_EXT_KEY_USAGE)?;
        Ok(Self {
            subject: certificate.subject().as_raw().to_vec(),
            key_identifier,
            key_algorithm: key_algorithm.to_vec(),
            key: spki.subject_public_key.data.to_vec(),
            fingerprint: pki::sha256_hex(spki.raw).into(),
            signs_lists: match usage {
                Some(ParsedExtension::KeyUsage(usage)) => usage.crl_sign(),
                Some(_) => false,
                // RFC 5280, 6.3.3: where it is present it has to allow it.
                None => true,
            },
        })
    }

    /// What this authority vouches for as a trusted one.
    fn vouching(&self) -> Vouched {
        let issuer = Arc::clone(&self.fingerprint);
        Vouched { anchor: Anchor(Arc::clone(&issuer)), issuer, between: Vec::new() }
    }

    /// Whether names and key identifiers allow that this authority issued `certificate`.
    fn may_have_issued(&self, certificate: &X509Certificate<'_>) -> bool {
        let wanted = match extension(certificate, &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER) {
            Ok(Some(ParsedExtension::AuthorityKeyIdentifier(identifier))) => {
                identifier.key_identifier.as_ref().map(|identifier| identifier.0)
            }
            Ok(_) => None,
            Err(_) => return false,
        };
        let keys_agree = match (wanted, &self.key_identifier) {
            (Some(wanted), Some(own)) => wanted == own.as_slice(),
            _ => true,
        };
        keys_agree && self.subject == certificate.issuer().as_raw()
    }

    /// Whether this authority's key made the signature of `certificate`.
    pub(super) fn signed(
        &self,
        certificate: &X509Certificate<'_>,
        checks_left: &mut u32,
    ) -> Result<bool, CertificateError> {
        if !self.may_have_issued(certificate) {
            return Ok(false);
        }
        let (_, fields) = first_element(certificate.as_raw())?;
        let (after_tbs, _) = first_element(fields)?;
        let (_, algorithm) = first_element(after_tbs)?;
        let message = certificate.tbs_certificate.as_ref();
        let signature = &certificate.signature_value.data;
        self.made(&Signed { message, algorithm, signature }, checks_left)
    }

    /// Whether this authority's key made a signature.
    pub(super) fn made(
        &self,
        signed: &Signed<'_>,
        checks_left: &mut u32,
    ) -> Result<bool, CertificateError> {
        // The same algorithms that the verifier of the handshake accepts.
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        for algorithm in algorithms.iter().filter(|algorithm| {
            *algorithm.public_key_alg_id() == *self.key_algorithm
                && *algorithm.signature_alg_id() == *signed.algorithm
        }) {
            *checks_left = checks_left.checked_sub(1).ok_or(CertificateError::IssuerUnclear)?;
            if algorithm.verify_signature(&self.key, signed.message, signed.signature).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Something signed.
pub(super) struct Signed<'a> {
    pub(super) message: &'a [u8],
    /// The contents of the `AlgorithmIdentifier`.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

/// A fingerprint from its lower-case hex.
pub(super) fn fingerprint(hex: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex, &mut bytes).ok()?;
    Some(Fingerprint(bytes))
}

/// The first DER element: what follows it, and its contents.
pub(super) fn first_element(der: &[u8]) -> Result<(&[u8], &[u8]), CertificateError> {
    let (rest, element) = Any::from_der(der).map_err(|_| CertificateError::Malformed)?;
    Ok((rest, element.data))
}

fn extension<'a>(
    certificate: &'a X509Certificate<'_>,
    oid: &x509_parser::asn1_rs::Oid<'_>,
) -> Result<Option<&'a ParsedExtension<'a>>, CertificateError> {
    certificate
        .get_extension_unique(oid)
        .map(|found| found.map(X509Extension::parsed_extension))
        .map_err(|_| CertificateError::Malformed)
}
