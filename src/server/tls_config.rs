//! TLS of a listener: from files to a rustls configuration.
//!
//! Every connection makes a full handshake. A resumed one would skip the verifier, and with it
//! expiry and revocation of the client's certificate; so there are no tickets, no session store
//! and no early data.

mod client_verifier;
mod error;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedCipherSuite, version};
use x509_parser::certificate::X509Certificate;

pub use error::{TlsError, TlsProblem, TlsWarning};

use super::{listener, ocsp};
use crate::identity::certificate::TrustPath;
use crate::identity::revocation::{self, NotGood};
use crate::identity::{CertificateError, TrustedIssuers, certificate};
use crate::pki::files;
pub use client_verifier::{ClientVerifier, RefusedCertificate};

/// The days before its end at which the server's certificate is worth a warning.
const EXPIRY_WARNING_DAYS: i64 = 14;
const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// TLS of a listener, ready for use.
#[derive(Debug)]
pub struct TlsSetup {
    /// What connections are made with.
    pub config: Arc<ServerConfig>,
    /// The authorities that clients' certificates have to come from; empty where the listener
    /// asks for none.
    pub client_cas: Arc<[CertificateDer<'static>]>,
    /// The same authorities, to find the issuer of a client's certificate.
    pub trusted_issuers: Arc<TrustedIssuers>,
    /// The last second of validity of the server's certificate, Unix time.
    pub certificate_not_after_unix_s: i64,
    /// What works but should be looked after.
    pub warnings: Vec<TlsWarning>,
}

/// How long a client's certificate is good for: to its end, and as long as the listener has the
/// authority that its chain ends at.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    path: TrustPath,
    tls: Arc<ArcSwap<TlsSetup>>,
    revocations: revocation::Current,
    /// What OCSP responders say, where they are asked.
    pub(super) status: Option<Arc<ocsp::Status>>,
    /// When the certificate ends.
    pub(super) ends_at: Option<Instant>,
}

impl Trust {
    pub(super) fn new(
        path: TrustPath,
        tls: &Arc<ArcSwap<TlsSetup>>,
        revocations: &revocation::Current,
    ) -> Self {
        let (tls, revocations) = (Arc::clone(tls), Arc::clone(revocations));
        Self { path, tls, revocations, status: None, ends_at: None }
    }

    /// Looks whether the TLS files in force still have the authority, no revocation list in force
    /// names a certificate of the path, and the last answer of a responder still counts.
    ///
    /// # Errors
    /// Why it is trusted no longer.
    pub(super) fn stands(&self) -> Result<(), Withdrawn> {
        if !self.tls.load().trusted_issuers.trust(&self.path.anchor) {
            return Err(Withdrawn::Authority);
        }
        match self.revocations.load().revoked(&self.path.certificates) {
            Some(revoked) => Err(Withdrawn::Certificate(revoked)),
            None => self.status.as_ref().map_or(Ok(()), |status| {
                status.judge(unix_seconds(UnixTime::now())).map_err(Withdrawn::Status)
            }),
        }
    }
}

/// Why a certificate that was accepted is trusted no longer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Withdrawn {
    /// Its authority was taken away from the listener.
    #[error("the authority behind the client's certificate is not trusted any more")]
    Authority,
    /// It was revoked.
    #[error(transparent)]
    Certificate(NotGood),
    /// A responder says so, or does not say the contrary.
    #[error(transparent)]
    Status(ocsp::NotGood),
}

/// The client's certificate that was refused last on this thread, if the last one was.
#[must_use]
pub fn take_refused() -> Option<RefusedCertificate> {
    client_verifier::take_refused()
}

/// Sets up TLS as a listener is told to. Clients' certificates are held against the `revocations`
/// that are in force when they are shown.
///
/// TLS 1.3 only, unless `tls_1_2`; with `client_ca` a client has to show a certificate.
///
/// # Errors
/// When a file is missing, unfit, open to others, or out of date.
pub fn server_config(
    tls: &listener::Tls,
    revocations: &revocation::Current,
) -> Result<TlsSetup, TlsProblem> {
    server_config_at(tls, revocations, UnixTime::now())
}

/// As [`server_config`], for clients that may show a certificate of these authorities, which are
/// in the file at `path`, and need not show any.
///
/// # Errors
/// As [`server_config`].
pub fn server_config_with_optional(
    tls: &listener::Tls,
    (path, authorities): (&Path, Vec<CertificateDer<'static>>),
    revocations: &revocation::Current,
) -> Result<TlsSetup, TlsProblem> {
    let now = UnixTime::now();
    let (provider, now_unix_s) = (Arc::new(provider(tls.tls_1_2)), unix_seconds(now));
    let verifier = ClientVerifier::new(path, &authorities, &provider, revocations)
        .map_err(TlsError::under("client_ca"))?;
    let warnings = verifier.warnings(path, now_unix_s).collect();
    let clients = Clients { verifier: Arc::new(verifier.optional()), authorities, warnings };
    set_up(tls, provider, now_unix_s, |_| Ok(clients))
}

/// A verifier of clients' certificates by the authorities in a file.
///
/// # Errors
/// When the file is missing or unfit.
pub fn client_verifier(
    path: &Path,
    revocations: &revocation::Current,
) -> Result<ClientVerifier, TlsError> {
    ClientVerifier::new(path, &certificates(path)?, &provider(true), revocations)
}

/// What a client may have to show.
struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    warnings: Vec<TlsWarning>,
}

fn server_config_at(
    tls: &listener::Tls,
    revocations: &revocation::Current,
    now: UnixTime,
) -> Result<TlsSetup, TlsProblem> {
    let now_unix_s = unix_seconds(now);
    set_up(tls, Arc::new(provider(tls.tls_1_2)), now_unix_s, |provider| match &tls.client_ca {
        None => Ok(Clients {
            verifier: Arc::new(NoClientAuth),
            authorities: Vec::new(),
            warnings: Vec::new(),
        }),
        Some(path) => {
            let authorities = certificates(path)?;
            let verifier = ClientVerifier::new(path, &authorities, provider, revocations)?;
            let warnings = verifier.warnings(path, now_unix_s).collect();
            Ok(Clients { verifier: Arc::new(verifier), authorities, warnings })
        }
    })
}

fn set_up(
    tls: &listener::Tls,
    provider: Arc<CryptoProvider>,
    now_unix_s: i64,
    clients: impl FnOnce(&CryptoProvider) -> Result<Clients, TlsError>,
) -> Result<TlsSetup, TlsProblem> {
    let mut warnings = Vec::new();

    let in_certificate = TlsError::under("certificate");
    let chain = certificates(&tls.certificate).map_err(&in_certificate)?;
    let not_after = check_server_certificate(&tls.certificate, &chain, now_unix_s);
    let not_after = not_after.map_err(&in_certificate)?;
    let days = (not_after - now_unix_s) / SECONDS_PER_DAY;
    if days < EXPIRY_WARNING_DAYS {
        warnings.push(TlsWarning::CertificateEndsSoon { path: tls.certificate.clone(), days });
    }
    let key = certified_key(tls, chain, &provider).map_err(TlsError::under("key"))?;

    let in_client_ca = TlsError::under("client_ca");
    let Clients { verifier, authorities: client_cas, warnings: of_clients } =
        clients(&provider).map_err(&in_client_ca)?;
    warnings.extend(of_clients);
    let trusted_issuers = client_ca_result(tls, TrustedIssuers::new(&client_cas));
    let trusted_issuers = trusted_issuers.map_err(&in_client_ca)?;

    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls.tls_1_2 { &[&version::TLS13, &version::TLS12] } else { &[&version::TLS13] };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|source| TlsError::Unusable { path: tls.certificate.clone(), source })
        .map_err(&in_certificate)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    // INVARIANT: no handshake is resumed. The ticketer of a new configuration makes none.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // TLS 1.2 without it allows an attacker to splice two handshakes (RFC 7627).
    config.require_ems = true;

    Ok(TlsSetup {
        config: Arc::new(config),
        client_cas: client_cas.into(),
        trusted_issuers: Arc::new(trusted_issuers),
        certificate_not_after_unix_s: not_after,
        warnings,
    })
}

/// The algorithms that are spoken, the preferred first.
pub(super) fn provider(tls_1_2: bool) -> CryptoProvider {
    const TLS_1_3: [SupportedCipherSuite; 3] = [
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    const TLS_1_2: [SupportedCipherSuite; 6] = [
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut cipher_suites = TLS_1_3.to_vec();
    if tls_1_2 {
        cipher_suites.extend(TLS_1_2);
    }
    CryptoProvider {
        cipher_suites,
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn unix_seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The certificates in a file, at least one.
///
/// # Errors
/// When it cannot be read, is no PEM, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = files::read(path)?;
    let found = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::NotPem { path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

fn certified_key(
    tls: &listener::Tls,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let path = || tls.key.clone();
    let pem = files::read_key(&tls.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|source| match source {
        rustls::pki_types::pem::Error::NoItemsFound if is_encrypted(&pem) => {
            TlsError::EncryptedKey { path: path() }
        }
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey { path: path() },
        source => TlsError::NotPem { path: path(), source },
    })?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|source| TlsError::BadKey { path: path(), source })?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|_| TlsError::KeyMismatch { key: path(), certificate: tls.certificate.clone() })?;
    Ok(certified)
}

fn is_encrypted(pem: &[u8]) -> bool {
    const MARK: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    pem.windows(MARK.len()).any(|window| window == MARK)
}

/// Parses one certificate of a file.
fn parse<'a>(
    path: &Path,
    number: usize,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, TlsError> {
    certificate::parse(der).map_err(|source| TlsError::BadCertificate {
        path: path.to_owned(),
        number,
        source,
    })
}

/// Refuses a certificate that clients would refuse. The last second of its validity, otherwise.
fn check_server_certificate(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now_unix_s: i64,
) -> Result<i64, TlsError> {
    let path_owned = || path.to_owned();
    let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate { path: path_owned() })?;
    let leaf = parse(path, 1, leaf)?;
    let validity = leaf.validity();
    if validity.not_after.timestamp() < now_unix_s {
        let not_after = validity.not_after.to_string();
        return Err(TlsError::Expired { path: path_owned(), not_after });
    }
    if validity.not_before.timestamp() > now_unix_s {
        let not_before = validity.not_before.to_string();
        return Err(TlsError::NotYetValid { path: path_owned(), not_before });
    }
    let usage = leaf.extended_key_usage().map_err(|_| TlsError::BadCertificate {
        path: path_owned(),
        number: 1,
        source: CertificateError::Malformed,
    })?;
    match usage {
        Some(usage) if !usage.value.server_auth => {
            Err(TlsError::NotForServers { path: path_owned() })
        }
        _ => Ok(validity.not_after.timestamp()),
    }
}

fn client_ca_result<T>(
    tls: &listener::Tls,
    result: Result<T, CertificateError>,
) -> Result<T, TlsError> {
    result.map_err(|source| TlsError::BadCertificate {
        path: tls.client_ca.clone().unwrap_or_default(),
        number: 1,
        source,
    })
}

#[cfg(test)]
mod tests;
