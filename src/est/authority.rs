//! The authority that signs, and what follows from it: whom to trust, and whose certificates count.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsAcceptor;

use super::{Settings, message};
use crate::identity::TrustedIssuers;
use crate::identity::revocation;
use crate::pki::{Ca, PkiError};
use crate::server::tls_config::{self, ClientVerifier, TlsWarning};

use super::server::StartError;

/// Opens the authority: at the start, and again after `ca rotate`.
pub type Open = Box<dyn Fn() -> Result<Ca, PkiError> + Send + Sync>;

/// The authority, with another in its place after `ca rotate`.
pub struct Authority {
    open: Open,
    settings: Arc<Settings>,
    revocations: revocation::Current,
    opening: Mutex<()>,
    current: ArcSwap<Opened>,
}

/// One authority, and all that is made of its files.
pub(super) struct Opened {
    pub(super) ca: Ca,
    /// The answer to `cacerts`.
    pub(super) certificates: String,
    pub(super) tls: TlsAcceptor,
    /// The authorities whose certificates are taken in the handshake.
    pub(super) trusted: Arc<TrustedIssuers>,
    pub(super) factories: Vec<(Arc<str>, ClientVerifier)>,
}

impl Authority {
    /// Opens the authority and reads all files.
    ///
    /// # Errors
    /// Which file is unfit.
    pub fn new(
        open: Open,
        settings: Arc<Settings>,
        revocations: revocation::Current,
    ) -> Result<Self, StartError> {
        let opened = Opened::new(open()?, &settings, &revocations)?;
        Ok(Self {
            open,
            settings,
            revocations,
            opening: Mutex::default(),
            current: ArcSwap::from_pointee(opened),
        })
    }

    pub(super) fn current(&self) -> Arc<Opened> {
        self.current.load_full()
    }

    /// The folder of the authority.
    pub(super) fn folder(&self) -> &Path {
        &self.settings.authority
    }

    /// The authorities whose certificates, and lists of revoked ones, are taken.
    #[must_use]
    pub fn trusted_issuers(&self) -> Arc<TrustedIssuers> {
        Arc::clone(&self.current().trusted)
    }

    /// Reads everything again: after `ca rotate`, or when files have changed.
    ///
    /// # Errors
    /// Which file is unfit; what was read before stays.
    pub fn open_again(&self) -> Result<(), StartError> {
        self.replace(&self.current())
    }

    /// Opens the authority anew, unless somebody else has put another in place of `known` meanwhile:
    /// deriving a key from its passphrase takes a while.
    fn replace(&self, known: &Arc<Opened>) -> Result<(), StartError> {
        let _one_at_a_time = self.opening.lock();
        if Arc::ptr_eq(known, &self.current()) {
            let opened = Opened::new((self.open)()?, &self.settings, &self.revocations)?;
            self.current.store(Arc::new(opened));
        }
        Ok(())
    }

    /// Does something with the authority; where another has taken its place, with that one.
    pub(super) fn work<T>(
        &self,
        work: impl Fn(&Ca) -> Result<T, PkiError>,
    ) -> Result<T, StartError> {
        let current = self.current();
        match work(&current.ca) {
            Err(PkiError::Rotated { name }) => {
                tracing::info!(%name, "another authority is in place; it is opened");
                self.replace(&current)?;
                Ok(work(&self.current().ca)?)
            }
            done => Ok(done?),
        }
    }

    /// What works but should be looked after.
    ///
    /// # Errors
    /// Which file is unfit.
    pub fn warnings(&self) -> Result<Vec<TlsWarning>, StartError> {
        let current = self.current();
        Ok(Opened::tls(&current.ca, &self.settings, &self.revocations)?.warnings)
    }
}

impl Opened {
    fn new(
        ca: Ca,
        settings: &Settings,
        revocations: &revocation::Current,
    ) -> Result<Self, StartError> {
        let tls = Self::tls(&ca, settings, revocations)?;
        let ours = certificates(&ca.certificates_pem()?)?;
        let ders: Vec<&[u8]> = ours.iter().map(AsRef::as_ref).collect();
        let factories = settings
            .factories
            .iter()
            .map(|factory| {
                let verifier = tls_config::client_verifier(&factory.ca, revocations)?;
                Ok((Arc::clone(&factory.name), verifier))
            })
            .collect::<Result<Vec<_>, StartError>>()?;
        Ok(Self {
            certificates: message::certificates(&ders)?,
            trusted: tls.trusted_issuers,
            tls: TlsAcceptor::from(tls.config),
            factories,
            ca,
        })
    }

    fn tls(
        ca: &Ca,
        settings: &Settings,
        revocations: &revocation::Current,
    ) -> Result<tls_config::TlsSetup, StartError> {
        let mut all = certificates(&ca.client_authorities_pem()?)?;
        for factory in &settings.factories {
            all.extend(tls_config::certificates(&factory.ca)?);
        }
        let path = Ca::trust_path(ca.folder());
        Ok(tls_config::server_config_with_optional(&settings.tls, (&path, all), revocations)?)
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| StartError::NotPem)?;
        if !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    Ok(all)
}
