//! Connections: admitted, given TLS, and answered one request each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::authority::Authority;
use super::enroll::Peer;
use super::notice::{self, Notices};
use super::{LISTENER, Settings, http};
use crate::audit::{AuditLog, Event, Kind, event::Subject};
use crate::gates::admission::{Admission, Slot};
use crate::gates::grinding::Grinding;
use crate::gates::records::RecordLimit;
use crate::identity::CertificateError;
use crate::metrics::{ListenerGauges, Metrics};
use crate::pki::{PkiError, Profile, ProfileError, Tokens};
use crate::policy::Bundle;
use crate::server::tls_config::{self, TlsError, TlsProblem};

/// Requests that are decided at a time, each by a thread that waits for the disk.
const DECISIONS_MAX: usize = 4;
/// From the end of a request to the end of its answer: the inventory may be in use for a while.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// Beyond that they are counted.
const REFUSALS_RECORDED_PER_SECOND: u32 = 200;
/// The pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why enrolment cannot be offered, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The authority cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A file of TLS.
    #[error("est.tls: {0}")]
    Tls(#[from] TlsProblem),
    /// A file of certificates.
    #[error("est: {0}")]
    Certificates(#[from] TlsError),
    /// A certificate that cannot be read.
    #[error("est: {0}")]
    Certificate(#[from] CertificateError),
    /// The authority's own files hold something else than certificates.
    #[error("the authority's certificates are no PEM")]
    NotPem,
    /// A certificate cannot be put into a message.
    #[error("the authority's certificates cannot be sent: {0}")]
    Encoding(#[from] der::Error),
    /// The address cannot be bound.
    #[error(
        "est.address: cannot listen on {address}: {source}{}",
        crate::server::listener::remedy(source)
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What enrolment is made of, besides its settings.
#[derive(Debug)]
pub struct Parts {
    /// The policies.
    pub policies: Arc<Bundle>,
    /// The audit log.
    pub audit: AuditLog,
    /// What counts panics.
    pub metrics: Arc<Metrics>,
}

/// Enrolment, bound and not serving yet.
pub struct Est {
    listener: TcpListener,
    shared: Arc<Shared>,
    issued: mpsc::Receiver<String>,
}

pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) authority: Arc<Authority>,
    pub(super) profiles: Vec<Profile>,
    pub(super) tokens: Tokens,
    pub(super) policies: ArcSwap<Bundle>,
    pub(super) audit: AuditLog,
    pub(super) grinding: Grinding,
    pub(super) rate: DefaultDirectRateLimiter,
    pub(super) decisions: Arc<Semaphore>,
    pub(super) notices: Notices,
    /// Held by who enrolls by a factory's certificate: that nobody has the name yet holds until it
    /// is given.
    pub(super) factory_turn: Mutex<()>,
    records: RecordLimit,
    metrics: Arc<Metrics>,
}

impl Est {
    /// Reads the profiles, and binds the address.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(
        settings: Arc<Settings>,
        authority: Arc<Authority>,
        Parts { policies, audit, metrics }: Parts,
    ) -> Result<Self, StartError> {
        let address = settings.address;
        let profiles = settings
            .profiles
            .iter()
            .map(|offered| match &offered.file {
                Some(path) => Profile::from_file(offered.profile, path),
                None => Profile::built_in(offered.profile),
            })
            .collect::<Result<_, _>>()?;
        let quota =
            Quota::per_second(settings.requests_per_second).allow_burst(settings.requests_burst);
        let (notices, issued) = notice::queue();
        let shared = Shared {
            notices,
            factory_turn: Mutex::new(()),
            tokens: Tokens::of(&settings.authority)?,
            grinding: Grinding::new(settings.failures, Instant::now()),
            rate: RateLimiter::direct(quota),
            decisions: Arc::new(Semaphore::new(DECISIONS_MAX)),
            records: RecordLimit::per_second(REFUSALS_RECORDED_PER_SECOND),
            policies: ArcSwap::new(policies),
            settings,
            authority,
            profiles,
            audit,
            metrics,
        };
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| StartError::Bind { address, source })?;
        Ok(Self { listener, shared: Arc::new(shared), issued })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// From now on these policies decide.
    pub fn put_in_force(&self) -> impl Fn(Arc<Bundle>) + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |policies| shared.policies.store(policies)
    }

    /// Serves until the future is dropped, and tells the broker, where there is one to tell;
    /// connections end with it.
    pub async fn serve(self) {
        let Self { listener, shared, issued } = self;
        let admission = shared.settings.admission.clone();
        let admission = Admission::new(admission, ListenerGauges::default(), Instant::now());
        let mut connections = JoinSet::new();
        connections.spawn(notice::keep_telling(Arc::clone(&shared), issued));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => match admission.admit(peer.ip(), Instant::now()) {
                        Ok(slot) => {
                            let shared = Arc::clone(&shared);
                            connections.spawn(async move { shared.connection(stream, peer, slot).await });
                        }
                        Err(refused) => shared.refused(peer, None, refused.to_string()),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "enrolment cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        shared.metrics.panics.inc();
                        let kind = Kind::TaskPanicked { task: "est", message: error.to_string().into() };
                        shared.audit.record(Event::broker(kind));
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Records a connection that never came to a request.
    fn refused(&self, peer: SocketAddr, fingerprint: Option<Arc<str>>, why: String) {
        let subject = Arc::new(Subject::connection(&LISTENER.into(), Some(peer)));
        let (name, method, status) = (None, None, None);
        let refused = Kind::EnrollRefused { name, method, status, fingerprint, why: why.into() };
        self.record(Event::about(&subject, refused));
    }

    /// Records a refusal; so many in a second that a flood does not fill the disk.
    pub(super) fn record(&self, refusal: Event) {
        if self.records.may_record(Instant::now()) {
            self.audit.record(refusal);
        } else {
            self.audit.leave_out();
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr, mut slot: Slot) {
        let deadline = tokio::time::Instant::now() + self.settings.admission.connect_deadline;
        let first = self.settings.admission.first_byte_deadline;
        let peeked = tokio::time::timeout(first, stream.peek(&mut [0])).await;
        if !matches!(peeked, Ok(Ok(1..))) {
            return self.refused(address, None, format!("nothing was sent within {first:?}"));
        }
        let current = self.authority.current();
        let handshake = async {
            let accepted = current.tls.accept(stream).await;
            // The verifier ran on this thread, in the same poll.
            accepted.map_err(|error| (error, tls_config::take_refused()))
        };
        let stream = match tokio::time::timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, refused))) => {
                let (fingerprint, why) = match refused {
                    Some(refused) => (
                        Some(refused.fingerprint.into()),
                        refused.why.map_or_else(|| error.to_string(), |why| why.to_string()),
                    ),
                    None => (None, error.to_string()),
                };
                return self.refused(address, fingerprint, format!("TLS: {why}"));
            }
            Err(_) => return self.refused(address, None, "the handshake took too long".to_owned()),
        };
        slot.connected();
        let (_, tls) = stream.get_ref();
        let is_1_3 = tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let certificates = tls.peer_certificates().unwrap_or_default();
        let certificates: Vec<CertificateDer<'static>> =
            certificates.iter().map(|it| it.clone().into_owned()).collect();
        let tls_version = if is_1_3 { 13 } else { 12 };
        let peer = Arc::new(Peer { address, tls_version, certificates });
        let answered = http::answer(Arc::clone(&self), stream, peer, deadline);
        if tokio::time::timeout_at(deadline + ANSWER_DEADLINE, answered).await.is_err() {
            tracing::debug!("an answer was not taken");
        }
        drop(slot);
    }
}
