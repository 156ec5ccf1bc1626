//! What an OCSP responder is asked about one certificate, and what it may answer (RFC 6960).
//!
//! The profile is that of RFC 5019, which every responder knows: one certificate a request, hashes
//! by SHA-1 (they name an authority, and prove nothing), no nonce, so that responders may answer
//! from a cache. An answer can be played back, then, until the time that it ends at itself.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::pki_types::CertificateDer;
use x509_cert_of_ocsp::der::asn1::{Null, ObjectIdentifier, OctetString};
use x509_cert_of_ocsp::der::{Decode as _, Encode as _, Error as DerError};
use x509_cert_of_ocsp::ext::Extension;
use x509_cert_of_ocsp::serial_number::SerialNumber;
use x509_cert_of_ocsp::spki::AlgorithmIdentifierOwned;
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse,
    OcspResponseStatus, Request, ResponseData, SingleResponse, TbsRequest,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OID_PKIX_ACCESS_DESCRIPTOR_OCSP, OID_PKIX_AUTHORITY_INFO_ACCESS};

use super::{CertificateId, Fingerprint, Revocations, Serial};
use crate::identity::certificate::{self, CertificateError};
use crate::identity::issuer::{
    Authority, SIGNATURE_CHECKS_MAX, Signed, TrustedIssuers, fingerprint, first_element,
};

/// The largest answer: with the certificate of a responder it has some 2 KiB.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an answer counts that does not say how long: later news may be there at any time.
const UNDATED_S: i64 = 5 * 60;
/// How far a responder's clock may be ahead.
const CLOCK_S: i64 = 5 * 60;
/// Certificates of responders in an answer.
const RESPONDERS_MAX: usize = 4;
const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const ID_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the certificate.
    pub status: CertificateStatus,
    /// Since when it is known to be right, Unix time.
    pub this_update_unix_s: i64,
    /// The last second at which the answer counts.
    pub until_unix_s: i64,
}

/// What a certificate is, as far as its responder knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateStatus {
    /// It is not revoked.
    Good,
    /// It is revoked.
    Revoked,
}

/// Why an answer counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    /// The certificate that is to be asked about cannot be.
    #[error("no question can be made: {0}")]
    Unaskable(String),
    /// It is not DER of an OCSP response.
    #[error("the answer is no OCSP response: {0}")]
    Malformed(DerError),
    /// The responder does not answer the question.
    #[error("the responder answers {0}")]
    Status(&'static str),
    /// A kind of answer that is not `id-pkix-ocsp-basic`.
    #[error("the answer is of another kind than id-pkix-ocsp-basic")]
    OtherKind,
    /// It is about something else.
    #[error("the answer is not about the certificate that was asked about")]
    OtherCertificate,
    /// It has an extension that it must not be understood without.
    #[error("the answer has a critical extension that is not supported")]
    CriticalExtension,
    /// Nobody signed it who may.
    #[error(
        "the answer is signed neither by the certificate's issuer nor by a responder that the \
         issuer has appointed (OCSPSigning)"
    )]
    BadSignature,
    /// It is of a time to come.
    #[error("the answer is dated in the future")]
    NotYetValid,
    /// It is too old.
    #[error("the answer has expired")]
    Expired,
    /// The responder knows nothing of the certificate.
    #[error("the responder does not know the certificate")]
    Unknown,
}

/// A question about one certificate.
#[derive(Debug)]
pub struct Question {
    /// The certificate as revocation lists name it.
    pub id: CertificateId,
    /// Where to ask: responders that the certificate names, in its order.
    pub urls: Box<[Box<str>]>,
    issuer: Arc<Authority>,
    serial: SerialNumber,
}

impl Question {
    /// The question about the first certificate of a chain that was verified against `trusted`.
    ///
    /// # Errors
    /// [`OcspError::Unaskable`].
    pub fn about(
        chain: &[CertificateDer<'_>],
        trusted: &TrustedIssuers,
    ) -> Result<Self, OcspError> {
        let unaskable = |error: &dyn ToString| OcspError::Unaskable(error.to_string());
        let issuer = trusted.authority_behind(chain).map_err(|error| unaskable(&error))?;
        let leaf = chain.first().ok_or_else(|| unaskable(&CertificateError::Missing))?;
        let leaf = certificate::parse(leaf).map_err(|error| unaskable(&error))?;
        let invalid = || unaskable(&CertificateError::SerialInvalid);
        let serial = leaf.raw_serial();
        let key = fingerprint(&issuer.fingerprint).ok_or_else(invalid)?;
        let id = CertificateId { issuer: key, serial: Serial::new(serial).ok_or_else(invalid)? };
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        let serial = SerialNumber::new(serial.get(zeros..).unwrap_or_default());
        let serial = serial.map_err(|error| unaskable(&error))?;
        Ok(Self { id, urls: responders(&leaf), issuer, serial })
    }

    /// The request: what is sent as `application/ocsp-request`.
    ///
    /// # Errors
    /// [`OcspError::Unaskable`].
    pub fn request(&self) -> Result<Vec<u8>, OcspError> {
        let hash = |bytes: &[u8]| {
            OctetString::new(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec())
        };
        let request = || {
            let req_cert = CertId {
                hash_algorithm: AlgorithmIdentifierOwned {
                    oid: ID_SHA1,
                    parameters: Some(Null.into()),
                },
                issuer_name_hash: hash(&self.issuer.subject)?,
                issuer_key_hash: hash(&self.issuer.key)?,
                serial_number: self.serial.clone(),
            };
            let request = Request { req_cert, single_request_extensions: None };
            let tbs_request = TbsRequest { request_list: vec![request], ..TbsRequest::default() };
            OcspRequest { tbs_request, optional_signature: None }.to_der()
        };
        request().map_err(|error| OcspError::Unaskable(error.to_string()))
    }

    /// Reads and verifies an answer to the question. A responder that the issuer has appointed must
    /// not be on a list `in_force`.
    ///
    /// # Errors
    /// [`OcspError`]; the answer counts for nothing then.
    pub fn judge(
        &self,
        answer: &[u8],
        in_force: &Revocations,
        now_unix_s: i64,
    ) -> Result<Answer, OcspError> {
        let basic = read(answer)?;
        self.check_signature(&basic, in_force, now_unix_s)?;
        self.said(&basic.tbs_response_data, now_unix_s)
    }

    /// What was signed.
    fn said(&self, data: &ResponseData, now_unix_s: i64) -> Result<Answer, OcspError> {
        refuse_critical(data.response_extensions.as_deref())?;
        // Where it says two things of one certificate, the worse one counts.
        let about = data.responses.iter().filter(|one| self.is_about(&one.cert_id));
        let single = about.max_by_key(|one| matches!(one.cert_status, CertStatus::Revoked(_)));
        let single = single.ok_or(OcspError::OtherCertificate)?;
        refuse_critical(single.single_extensions.as_deref())?;
        if unix_s(&single.this_update) > now_unix_s.saturating_add(CLOCK_S) {
            return Err(OcspError::NotYetValid);
        }
        let until_unix_s = until(single);
        if until_unix_s < now_unix_s {
            return Err(OcspError::Expired);
        }
        let status = match single.cert_status {
            CertStatus::Good(_) => CertificateStatus::Good,
            CertStatus::Revoked(_) => CertificateStatus::Revoked,
            CertStatus::Unknown(_) => return Err(OcspError::Unknown),
        };
        let this_update_unix_s = unix_s(&single.this_update);
        Ok(Answer { status, this_update_unix_s, until_unix_s })
    }

    /// Compares by what was asked: some responders leave the parameters of the hash out.
    fn is_about(&self, id: &CertId) -> bool {
        let hash = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
        id.hash_algorithm.oid == ID_SHA1
            && id.issuer_name_hash.as_bytes() == hash(&self.issuer.subject).as_ref()
            && id.issuer_key_hash.as_bytes() == hash(&self.issuer.key).as_ref()
            && id.serial_number == self.serial
    }

    /// What is verified is what was parsed: in DER there is one way to write it.
    fn check_signature(
        &self,
        basic: &BasicOcspResponse,
        in_force: &Revocations,
        now_unix_s: i64,
    ) -> Result<(), OcspError> {
        let message = basic.tbs_response_data.to_der().map_err(OcspError::Malformed)?;
        let algorithm = basic.signature_algorithm.to_der().map_err(OcspError::Malformed)?;
        let (_, algorithm) = first_element(&algorithm).map_err(|_| OcspError::BadSignature)?;
        let signature = basic.signature.as_bytes().ok_or(OcspError::BadSignature)?;
        let signed = Signed { message: &message, algorithm, signature };
        let mut checks_left = SIGNATURE_CHECKS_MAX;
        if matches!(self.issuer.made(&signed, &mut checks_left), Ok(true)) {
            return Ok(());
        }
        for responder in basic.certs.iter().flatten().take(RESPONDERS_MAX) {
            let der = responder.to_der().map_err(OcspError::Malformed)?;
            let Ok(responder) = certificate::parse(&der) else { continue };
            if self.has_appointed(&responder, in_force, now_unix_s, &mut checks_left)
                && let Ok(key) = Authority::read(&responder)
                && matches!(key.made(&signed, &mut checks_left), Ok(true))
            {
                return Ok(());
            }
        }
        Err(OcspError::BadSignature)
    }

    /// RFC 6960, 4.2.2.2: the issuer itself has signed the responder's certificate, for this purpose.
    fn has_appointed(
        &self,
        responder: &X509Certificate<'_>,
        in_force: &Revocations,
        now_unix_s: i64,
        checks_left: &mut u32,
    ) -> bool {
        let validity = responder.validity();
        let is_in_time = (validity.not_before.timestamp()..=validity.not_after.timestamp())
            .contains(&now_unix_s);
        let usage = responder.extended_key_usage().ok().flatten();
        let is_for_this = usage.is_some_and(|usage| usage.value.ocsp_signing);
        let is_good = Serial::new(responder.raw_serial()).is_some_and(|serial| {
            let id = CertificateId { issuer: self.id.issuer, serial };
            in_force.revoked(&[id]).is_none()
        });
        is_in_time
            && is_for_this
            && is_good
            && matches!(self.issuer.signed(responder, checks_left), Ok(true))
    }
}

fn read(answer: &[u8]) -> Result<BasicOcspResponse, OcspError> {
    let response = OcspResponse::from_der(answer).map_err(OcspError::Malformed)?;
    let bytes = match (response.response_status, response.response_bytes) {
        (OcspResponseStatus::Successful, Some(bytes)) => bytes,
        (OcspResponseStatus::Successful, None) => return Err(OcspError::OtherKind),
        (status, _) => return Err(OcspError::Status(status_name(status))),
    };
    if bytes.response_type != ID_BASIC {
        return Err(OcspError::OtherKind);
    }
    BasicOcspResponse::from_der(bytes.response.as_bytes()).map_err(OcspError::Malformed)
}

/// The responders that a certificate names (RFC 5280 section 4.2.2.1), over plain HTTP: an answer is
/// signed.
fn responders(certificate: &X509Certificate<'_>) -> Box<[Box<str>]> {
    let found = certificate.get_extension_unique(&OID_PKIX_AUTHORITY_INFO_ACCESS).ok().flatten();
    let Some(ParsedExtension::AuthorityInfoAccess(access)) =
        found.map(X509Extension::parsed_extension)
    else {
        return Box::default();
    };
    let url = |place: &GeneralName<'_>| match place {
        GeneralName::URI(url) if url.starts_with("http://") => Some(Box::from(*url)),
        _ => None,
    };
    let ocsp = access.iter().filter(|it| it.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP);
    ocsp.filter_map(|it| url(&it.access_location)).take(RESPONDERS_MAX).collect()
}

fn refuse_critical(extensions: Option<&[Extension]>) -> Result<(), OcspError> {
    let is_critical = extensions.into_iter().flatten().any(|extension| extension.critical);
    if is_critical { Err(OcspError::CriticalExtension) } else { Ok(()) }
}

fn until(single: &SingleResponse) -> i64 {
    let undated = || unix_s(&single.this_update).saturating_add(UNDATED_S);
    single.next_update.as_ref().map_or_else(undated, unix_s)
}

fn unix_s(time: &OcspGeneralizedTime) -> i64 {
    i64::try_from(time.0.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

const fn status_name(status: OcspResponseStatus) -> &'static str {
    match status {
        OcspResponseStatus::Successful => "successful",
        OcspResponseStatus::MalformedRequest => "malformedRequest",
        OcspResponseStatus::InternalError => "internalError",
        OcspResponseStatus::TryLater => "tryLater",
        OcspResponseStatus::SigRequired => "sigRequired",
        OcspResponseStatus::Unauthorized => "unauthorized",
    }
}

/// Reads an answer to a question that nobody asked, of an authority that has no key. For the fuzzer:
/// nothing may panic, and no signature counts.
#[doc(hidden)]
pub fn fuzz_answer(data: &[u8]) {
    let (Ok(basic), Ok(serial)) = (read(data), SerialNumber::new(&[1])) else { return };
    let id = CertificateId { issuer: Fingerprint([0; 32]), serial: Serial::default() };
    let issuer = Arc::new(Authority::default());
    let question = Question { id, urls: Box::default(), issuer, serial };
    let signed = question.check_signature(&basic, &Revocations::none(), 0);
    assert!(signed.is_err(), "nobody has signed it");
    let _ = question.said(&basic.tbs_response_data, 0);
}

#[cfg(test)]
mod tests;
