//! Connections: admitted, given TLS, and answered one request each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use super::authority::Authority;
use super::door::Door;
use super::enroll::Peer;
use super::lists::Lists;
use super::notice::{self, Notices};
use super::upkeep::Upkeep;
use super::{LISTENER, Offered, Settings, http};
use crate::audit::{AuditLog, Event, Kind, event::Subject};
use crate::gates::admission::{self, Refused, Slot};
use crate::gates::grinding::Grinding;
use crate::gates::records::RecordLimit;
use crate::identity::CertificateError;
use crate::metrics::Metrics;
use crate::pki::{PkiError, Profile, ProfileError, Tokens};
use crate::policy::Bundle;
use crate::server::tls_config::{self, TlsError, TlsProblem};

/// Requests that are decided at a time, each by a thread that waits for the disk.
const DECISIONS_MAX: usize = 4;
/// From the end of a request to the end of its answer: the inventory may be in use for a while.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// Beyond that they are counted.
const REFUSALS_RECORDED_PER_SECOND: u32 = 200;

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
    #[error("est.{0}")]
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
        "{key}: cannot listen on {address}: {source}{}",
        crate::server::listener::remedy(source)
    )]
    Bind {
        /// The key of the configuration.
        key: &'static str,
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
    door: Door,
    /// Where lists are served.
    lists_door: Option<Door>,
    lists: Arc<Lists>,
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
    /// Reads the profiles, and binds the addresses.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(
        settings: Arc<Settings>,
        authority: Arc<Authority>,
        Parts { policies, audit, metrics }: Parts,
    ) -> Result<Self, StartError> {
        let profiles = settings.profiles.iter().map(Offered::read).collect::<Result<_, _>>()?;
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
        let settings = &shared.settings;
        let door = bind("est.address", settings.address, &settings.admission).await?;
        let lists_door = match settings.lists.address {
            Some(address) => Some(bind("lists.address", address, &settings.lists.admission).await?),
            None => None,
        };
        let lists = Arc::new(Lists::new(&settings.lists));
        Ok(Self { door, lists_door, lists, shared: Arc::new(shared), issued })
    }

    /// Where certificates are given.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.door.address()
    }

    /// Where lists are served.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn lists_address(&self) -> io::Result<Option<SocketAddr>> {
        self.lists_door.as_ref().map(Door::address).transpose()
    }

    /// From now on these policies decide.
    pub fn put_in_force(&self) -> impl Fn(Arc<Bundle>) + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |policies| shared.policies.store(policies)
    }

    /// Serves until the future is dropped, looks after the lists of revoked certificates, and tells
    /// the broker, where there is one to tell; connections end with it.
    pub async fn serve(self) {
        let Self { door, lists_door, lists, shared, issued } = self;
        let validity = shared.settings.lists.validity;
        let authority = Arc::clone(&shared.authority);
        let upkeep = Upkeep::new(authority, Arc::clone(&lists), shared.audit.clone(), validity);
        let mut tasks = JoinSet::new();
        tasks.spawn(upkeep.keep_looking());
        tasks.spawn(notice::keep_telling(Arc::clone(&shared), issued));
        if let Some(door) = lists_door {
            let ours = Arc::clone(&shared);
            tasks.spawn(async move {
                let connection =
                    |stream, peer, slot| Arc::clone(&lists).connection(stream, peer, slot);
                let refused =
                    |peer, why| tracing::debug!(%peer, %why, "no list is given to somebody");
                door.keep_open(JoinSet::new(), connection, refused, |error| ours.panicked(error))
                    .await;
            });
        }
        let connection = |stream, peer, slot| Arc::clone(&shared).connection(stream, peer, slot);
        let refused = |peer, why: Refused| shared.refused(peer, None, why.to_string());
        door.keep_open(tasks, connection, refused, |error| shared.panicked(error)).await;
    }
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
    admission: &admission::Settings,
) -> Result<Door, StartError> {
    let bound = Door::bind(key, address, admission.clone()).await;
    bound.map_err(|source| StartError::Bind { key, address, source })
}

impl Shared {
    fn panicked(&self, error: &JoinError) {
        self.metrics.panics.inc();
        let kind = Kind::TaskPanicked { task: "est", message: error.to_string().into() };
        self.audit.record(Event::broker(kind));
    }

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
