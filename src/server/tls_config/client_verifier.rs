//! The verifier of clients' certificates.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use smallvec::SmallVec;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{TlsError, TlsWarning};
use crate::identity::certificate;
use crate::identity::revocation::{self, CertificateId, Fingerprint, NotGood, Serial};

/// Verifies a client's certificate, and demands one unless told otherwise, as webpki does, with bounds, with the authorities'
/// own validity, which webpki does not look at, and with the revocation lists that are in force.
#[derive(Debug)]
pub struct ClientVerifier {
    mandatory: bool,
    authorities: Vec<Authority>,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    revocations: revocation::Current,
}

/// A certificate that was refused, for the audit log. rustls tells a verifier's caller nothing of
/// it, and calls the verifier from the thread that hands it the peer's bytes.
#[derive(Debug)]
pub struct RefusedCertificate {
    /// Lower-case hex of the SHA-256 of the certificate.
    pub fingerprint: String,
    /// Where revocation lists are why.
    pub why: Option<NotGood>,
}

thread_local! {
    static REFUSED: Cell<Option<RefusedCertificate>> = const { Cell::new(None) };
}

/// The certificate that was refused last on this thread, if the last one was.
pub(super) fn take_refused() -> Option<RefusedCertificate> {
    REFUSED.take()
}

#[derive(Debug)]
struct Authority {
    anchor: TrustAnchor<'static>,
    key: Fingerprint,
    subject: String,
    not_before_unix_s: i64,
    not_after_unix_s: i64,
}

impl Authority {
    fn is_valid_at(&self, now_unix_s: i64) -> bool {
        (self.not_before_unix_s..=self.not_after_unix_s).contains(&now_unix_s)
    }
}

impl ClientVerifier {
    pub(super) fn new(
        path: &Path,
        certificates: &[CertificateDer<'static>],
        provider: &CryptoProvider,
        revocations: &revocation::Current,
    ) -> Result<Self, TlsError> {
        let authorities = certificates
            .iter()
            .zip(1..)
            .map(|(der, number)| {
                let certificate = super::parse(path, number, der)?;
                let subject = certificate.subject().to_string();
                if !certificate.is_ca() {
                    return Err(TlsError::NotAnAuthority {
                        path: path.to_owned(),
                        number,
                        subject,
                    });
                }
                let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| {
                    let source = refused(error);
                    TlsError::Unusable { path: path.to_owned(), source }
                })?;
                Ok(Authority {
                    anchor: anchor.to_owned(),
                    key: fingerprint(certificate.public_key().raw),
                    subject,
                    not_before_unix_s: certificate.validity().not_before.timestamp(),
                    not_after_unix_s: certificate.validity().not_after.timestamp(),
                })
            })
            .collect::<Result<Vec<_>, TlsError>>()?;
        let subject =
            |authority: &Authority| DistinguishedName::in_sequence(&authority.anchor.subject);
        Ok(Self {
            mandatory: true,
            subjects: authorities.iter().map(subject).collect(),
            authorities,
            algorithms: provider.signature_verification_algorithms,
            revocations: Arc::clone(revocations),
        })
    }

    /// The same, for clients that need not show a certificate.
    pub(super) fn optional(self) -> Self {
        Self { mandatory: false, ..self }
    }

    /// Looks whether a chain, the client's own certificate first, is good by these authorities.
    #[must_use]
    pub fn is_good(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let verified = |(leaf, between): (&CertificateDer<'_>, &[CertificateDer<'_>])| {
            self.verify_client_cert(leaf, between, now).is_ok()
        };
        let is_good = chain.split_first().is_some_and(verified);
        REFUSED.take();
        is_good
    }

    pub(super) fn warnings(
        &self,
        path: &Path,
        now_unix_s: i64,
    ) -> impl Iterator<Item = TlsWarning> {
        self.authorities.iter().filter(move |authority| !authority.is_valid_at(now_unix_s)).map(
            |authority| TlsWarning::AuthorityOutsideItsTime {
                path: path.to_owned(),
                subject: authority.subject.clone(),
            },
        )
    }

    /// The certificates of a path, the client's own first, as revocation lists name them.
    fn ids(&self, path: &VerifiedPath<'_>) -> Option<SmallVec<[CertificateId; 2]>> {
        let anchor = self.authorities.iter().find(|it| it.anchor == *path.anchor())?;
        let between: SmallVec<[_; 4]> = path.intermediate_certificates().collect();
        let issuers = between.iter().map(|it| fingerprint(&it.subject_public_key_info()));
        let issuers = issuers.chain(std::iter::once(anchor.key));
        let serials = std::iter::once(path.end_entity().serial());
        let serials = serials.chain(between.iter().map(|it| it.serial()));
        let id = |(issuer, serial): (_, &[u8])| {
            Some(CertificateId { issuer, serial: Serial::new(serial)? })
        };
        issuers.zip(serials).map(id).collect()
    }
}

fn fingerprint(spki: &[u8]) -> Fingerprint {
    let digest = digest(&SHA256, spki);
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    Fingerprint(bytes)
}

/// What webpki says, as rustls has it: the peer gets the alert that fits.
fn refused(error: webpki::Error) -> rustls::Error {
    use rustls::CertificateError as Why;
    use webpki::Error;
    let why = match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => Why::BadEncoding,
        Error::CertExpired { time, not_after } => Why::ExpiredContext { time, not_after },
        Error::CertNotValidYet { time, not_before } => Why::NotValidYetContext { time, not_before },
        Error::InvalidCertValidity => Why::Expired,
        Error::UnknownIssuer => Why::UnknownIssuer,
        Error::CertRevoked => Why::Revoked,
        Error::InvalidSignatureForPublicKey => Why::BadSignature,
        Error::RequiredEkuNotFoundContext(_) => Why::InvalidPurpose,
        error => Why::Other(OtherError(Arc::new(error))),
    };
    rustls::Error::InvalidCertificate(why)
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        REFUSED.take();
        let refuse = |error, why| {
            let fingerprint = certificate::fingerprint_of(end_entity);
            REFUSED.set(Some(RefusedCertificate { fingerprint, why }));
            error
        };
        certificate::check_chain_size(end_entity, intermediates).map_err(|error| {
            let error = rustls::OtherError(Arc::new(error));
            let error = rustls::CertificateError::Other(error);
            refuse(rustls::Error::InvalidCertificate(error), None)
        })?;
        let now_unix_s = super::unix_seconds(now);
        let valid = self.authorities.iter().filter(|authority| authority.is_valid_at(now_unix_s));
        let anchors: SmallVec<[_; 4]> = valid.map(|authority| authority.anchor.clone()).collect();
        let revocations = self.revocations.load();
        let not_good = Cell::new(None);
        let is_good = |path: &VerifiedPath<'_>| {
            let ids = self.ids(path).ok_or(webpki::Error::UnknownIssuer)?;
            let between: SmallVec<[_; 4]> =
                path.intermediate_certificates().map(webpki::Cert::der).collect();
            let named = |at: usize| {
                let certificate = at.checked_sub(1).map_or(Some(end_entity), |at| between.get(at));
                certificate.map(revocation::named_by).unwrap_or_default()
            };
            let checked = revocations.check(&ids, &named, now_unix_s);
            if !matches!(checked, Err(NotGood::Revoked { .. })) {
                revocations.note_points(end_entity, &between);
            }
            checked.map_err(|why| {
                not_good.set(Some(why));
                webpki::Error::CertRevoked
            })
        };
        let certificate =
            EndEntityCert::try_from(end_entity).map_err(|error| refuse(refused(error), None))?;
        let (algorithms, usage) = (self.algorithms.all, KeyUsage::client_auth());
        certificate
            .verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, Some(&is_good))
            .map(|_| ClientCertVerified::assertion())
            .map_err(|error| {
                let error = match not_good.get() {
                    Some(NotGood::Revoked { .. }) | None => refused(error),
                    // The peer is told that its certificate is revoked only where it is.
                    Some(why) => rustls::Error::InvalidCertificate(
                        rustls::CertificateError::Other(OtherError(Arc::new(why))),
                    ),
                };
                refuse(error, not_good.get())
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
