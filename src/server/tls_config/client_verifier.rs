//! The verifier of clients' certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{TlsError, TlsWarning};
use crate::identity::certificate;

/// Demands a certificate and verifies it, as webpki does, with bounds and with the authorities'
/// own validity, which webpki does not look at.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    authorities: Vec<Authority>,
    /// Of all authorities; right as long as all of them are within their time.
    all: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Authority {
    certificate: CertificateDer<'static>,
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
        provider: &Arc<CryptoProvider>,
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
                Ok(Authority {
                    certificate: der.clone(),
                    subject,
                    not_before_unix_s: certificate.validity().not_before.timestamp(),
                    not_after_unix_s: certificate.validity().not_after.timestamp(),
                })
            })
            .collect::<Result<Vec<_>, TlsError>>()?;
        let all = webpki_verifier(authorities.iter(), provider)
            .map_err(|source| TlsError::Unusable { path: path.to_owned(), source })?;
        Ok(Self { authorities, all, provider: Arc::clone(provider) })
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

    /// The verifier with those authorities that are within their time.
    fn at(&self, now: UnixTime) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let now_unix_s = super::unix_seconds(now);
        if self.authorities.iter().all(|authority| authority.is_valid_at(now_unix_s)) {
            return Ok(Arc::clone(&self.all));
        }
        let valid = self.authorities.iter().filter(|authority| authority.is_valid_at(now_unix_s));
        webpki_verifier(valid, &self.provider)
    }
}

fn webpki_verifier<'a>(
    authorities: impl Iterator<Item = &'a Authority>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.certificate.clone())?;
    }
    // Without any it is an error to build one: nobody is let in.
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.all.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        certificate::check_chain_size(end_entity, intermediates).map_err(|error| {
            let error = rustls::OtherError(Arc::new(error));
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(error))
        })?;
        self.at(now)?.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.all.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.all.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.all.supported_verify_schemes()
    }
}
