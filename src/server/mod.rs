//! The asynchronous shell: sockets, TLS, WebSocket, and one task per connection.
//!
//! [`Server::bind`] opens every listener or none; [`Server::run`] accepts until it is told to
//! stop. An accepted socket climbs the rungs of [`handshake`] in a task of its own, under one
//! deadline, and becomes a [`connection`].

pub(crate) mod accept;
mod breaker;
mod connection;
pub mod fetch;
mod handshake;
pub mod http;
pub mod listener;
pub mod login;
pub mod ocsp;
pub mod proxy_protocol;
mod reload;
mod terms;
pub mod tls;
pub mod tls_config;
pub mod transport;
pub mod websocket;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;
use tracing::{info, warn};

pub(crate) use self::accept::remove_stale_socket;
use self::accept::{Bound, bind};
use self::handshake::{Admitted, Farewell, Refused, Unauthenticated, gate_of_first_byte};
use self::listener::Endpoint;
use self::login::{Chain, LoginError, Logins};
use self::ocsp::Ocsp;
pub use self::reload::{PreparedTls, TlsReload};
use self::terms::AllTerms;
use self::tls_config::{TlsProblem, TlsSetup};
use self::transport::Socket;
use crate::audit::{self, Event, Gate, Kind};
use crate::broker::{Broker, Now};
use crate::gates::Profile;
use crate::gates::admission::Admission;
use crate::gates::rate::RateLimits;
use crate::gates::records::RecordLimit;
use crate::identity::{Identity, PrincipalKind, TrustedIssuers};
use crate::mqtt::ReasonCode;

/// Refusals that are recorded one by one, by the admission gate of a listener, and by its other
/// gates before identity; more are counted together.
const REFUSALS_RECORDED_PER_SECOND: u32 = 100;
/// Principals whose rates are kept at a time; those that are back at their full allowance are
/// forgotten first.
const PRINCIPALS_MAX: usize = 1_000_000;
/// Everything one listener's connections share.
#[derive(Debug)]
struct Gatehouse {
    settings: listener::Settings,
    terms: AllTerms,
    tls: Option<Arc<ArcSwap<TlsSetup>>>,
    admission: Admission,
    /// CPU for handshakes: held while one computes, never while it waits for its peer, so that
    /// a flood of them leaves the other workers to established sessions.
    slots: Arc<Semaphore>,
    rates: Arc<RateLimits>,
    /// Asks whether certificates are revoked.
    ocsp: Option<Arc<Ocsp>>,
    /// The methods by which clients prove who they are, beside their certificates.
    chain: Option<Chain>,
    /// The identity of all clients of a listener that asks nobody.
    anonymous: Arc<Identity>,
    unauthenticated: Arc<Unauthenticated>,
    /// Refusals by the admission gate, which cost the refused least of all.
    admission_records: RecordLimit,
    /// Refusals by the gates between admission and identity.
    stranger_records: RecordLimit,
    broker: Arc<Broker>,
}

impl Gatehouse {
    /// Refuses an address that is banned.
    fn check_address(&self, address: IpAddr) -> Result<(), Refused> {
        let bans = &self.broker.registry.bans;
        let checked = bans.check_address(address, Now::read().wall);
        checked.map_err(|banned| Refused::by(Gate::Admission, ReasonCode::Banned, &banned))
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Its TLS files.
    #[error("listener.{listener}.{error}")]
    Tls {
        /// The listener.
        listener: Arc<str>,
        /// What is wrong.
        #[source]
        error: Box<TlsProblem>,
    },
    /// A method of authentication.
    #[error(transparent)]
    Login(#[from] Box<LoginError>),
    /// Its address.
    #[error(
        "listener.{listener}.{key}: cannot listen at {endpoint}: {error}{}",
        listener::remedy(error)
    )]
    Address {
        /// The listener.
        listener: Arc<str>,
        /// The key within `[listener.NAME]`.
        key: &'static str,
        /// The address or path.
        endpoint: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// Listeners that are open and do not accept yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<(Arc<Gatehouse>, Bound)>,
    logins: Arc<Logins>,
    ocsp: Option<Arc<Ocsp>>,
}

impl Server {
    /// Opens all listeners.
    ///
    /// # Errors
    /// [`BindError`] of the first that cannot be opened; then none is.
    pub fn bind(
        settings: Vec<listener::Settings>,
        methods: (&[login::Settings], &login::Limits),
        broker: &Arc<Broker>,
        unauthenticated_bytes_max: u64,
        quarantine: Option<&Arc<Profile>>,
        ocsp: Option<ocsp::Settings>,
    ) -> Result<Self, BindError> {
        let ocsp = ocsp.map(|settings| Arc::new(Ocsp::new(settings, broker)));
        let logins = Logins::open(methods.0, methods.1, broker, Now::read().instant)?;
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let slots = Arc::new(Semaphore::new(workers.saturating_sub(1).max(1)));
        let rates = Arc::new(RateLimits::new(PRINCIPALS_MAX));
        let unauthenticated = Arc::new(Unauthenticated::new(unauthenticated_bytes_max));
        let mut listeners = Vec::with_capacity(settings.len());
        for settings in settings {
            let tls = settings.tls.as_ref();
            let tls =
                tls.map(|tls| tls_config::server_config(tls, &broker.revocations)).transpose();
            let tls = tls.map_err(|error| BindError::Tls {
                listener: Arc::clone(&settings.name),
                error: error.into(),
            })?;
            for warning in tls.iter().flat_map(|setup| &setup.warnings) {
                warn!(listener = %settings.name, "{warning}");
            }
            let bound = bind(&settings.endpoint).map_err(|error| BindError::Address {
                listener: Arc::clone(&settings.name),
                key: settings.endpoint.key(),
                endpoint: settings.endpoint.to_string(),
                error,
            })?;
            let gatehouse = Gatehouse {
                terms: AllTerms::of(&settings, quarantine),
                admission: Admission::new(
                    settings.admission.clone(),
                    broker.metrics.listener(&settings.name),
                    Now::read().instant,
                ),
                slots: Arc::clone(&slots),
                rates: Arc::clone(&rates),
                ocsp: ocsp.clone(),
                chain: logins.chain(&settings.authentication),
                anonymous: Arc::new(Identity::anonymous()),
                unauthenticated: Arc::clone(&unauthenticated),
                admission_records: RecordLimit::per_second(REFUSALS_RECORDED_PER_SECOND),
                stranger_records: RecordLimit::per_second(REFUSALS_RECORDED_PER_SECOND),
                broker: Arc::clone(broker),
                settings,
                tls: tls.map(|setup| Arc::new(ArcSwap::from_pointee(setup))),
            };
            listeners.push((Arc::new(gatehouse), bound));
        }
        Ok(Self { listeners, logins, ocsp })
    }

    /// The name of each listener with the address it has in truth: a port 0 is resolved.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, String)> {
        let address = |(gatehouse, bound): &(Arc<Gatehouse>, Bound)| {
            let text = bound.address(&gatehouse.settings.endpoint);
            (Arc::clone(&gatehouse.settings.name), text)
        };
        self.listeners.iter().map(address).collect()
    }

    /// The authorities that clients' certificates have to come from, of all listeners.
    #[must_use]
    pub fn trusted_issuers(&self) -> TrustedIssuers {
        let tls = self.listeners.iter().filter_map(|(gatehouse, _)| gatehouse.tls.as_ref());
        TrustedIssuers::of_all(tls.map(|tls| Arc::clone(&tls.load().trusted_issuers)))
    }

    /// What reads the files again while the server runs.
    #[must_use]
    pub fn tls_reload(&self) -> TlsReload {
        let gatehouses = self.listeners.iter().map(|(gatehouse, _)| Arc::clone(gatehouse));
        TlsReload(gatehouses.collect(), Arc::clone(&self.logins))
    }

    /// Accepts connections until `stop` says true. Connections go on in their own tasks.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let mut tasks = tokio::task::JoinSet::new();
        let (logins, ocsp, mut stopping) = (self.logins, self.ocsp, stop.clone());
        tasks.spawn(async move {
            let renewing = async {
                match ocsp {
                    Some(ocsp) => ocsp.keep().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ((), ()) = async { tokio::join!(logins.keep(), renewing) } => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        });
        for (gatehouse, bound) in self.listeners {
            let (mut stop, stopping) = (stop.clone(), stop.clone());
            tasks.spawn(async move {
                let admitted = |socket, peer| admit(&gatehouse, socket, peer, stopping.clone());
                tokio::select! {
                    () = bound.accept_all(&gatehouse.settings.name, admitted) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                if let Endpoint::Unix(path) = &gatehouse.settings.endpoint {
                    let _ = std::fs::remove_file(path);
                }
                info!(listener = %gatehouse.settings.name, "listener closed");
            });
        }
        while let Some(ended) = tasks.join_next().await {
            // Whoever runs this has to know: without one of them the others must not go on.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// The admission gate, before a task is spent on the connection.
fn admit(
    gatehouse: &Arc<Gatehouse>,
    socket: Socket,
    peer: Option<SocketAddr>,
    stop: watch::Receiver<bool>,
) {
    let now = Now::read();
    let settings = &gatehouse.settings;
    let client = audit::Subject::connection(&settings.name, peer);
    let trusted = match (&settings.proxy_protocol, peer) {
        (Some(trusted), Some(peer)) => {
            trusted.iter().any(|net| net.contains(&peer.ip().to_canonical()))
        }
        (Some(_), None) => false,
        (None, _) => true,
    };
    if !trusted {
        let reason = ReasonCode::NotAuthorized;
        let refused = Refused::by(Gate::Proxy, reason, &"not a trusted PROXY protocol sender");
        return refuse(gatehouse, &refused, client);
    }
    if let (Some(peer), None) = (peer, &settings.proxy_protocol)
        && let Err(refused) = gatehouse.check_address(peer.ip())
    {
        return refuse(gatehouse, &refused, client);
    }
    let slot = match (peer, &settings.proxy_protocol) {
        // The sender's own address is no client's: only counts in total apply to it.
        (Some(_), Some(_)) | (None, _) => gatehouse.admission.admit_unaddressed(),
        (Some(peer), None) => gatehouse.admission.admit(peer.ip(), now.instant),
    };
    let slot = match slot {
        Ok(slot) => slot,
        Err(refused) => return refuse(gatehouse, &Refused::by_admission(&refused), client),
    };
    let admitted = Admitted { socket, address: peer, slot };
    let gatehouse = Arc::clone(gatehouse);
    let task = gatehouse.broker.task();
    tokio::spawn(async move {
        // The handshake's future is large and short-lived, the connection's small and long-lived:
        // so the one is boxed and gone before the other begins.
        let connected = Box::pin(climb_in_time(admitted, gatehouse, client, now, stop)).await;
        if let Some(connected) = connected {
            connected.serve().await;
        }
        drop(task);
    });
}

/// All rungs, within the deadline from accept to CONNACK, and before the broker stops: nobody waits
/// for somebody who may say nothing.
async fn climb_in_time(
    admitted: Admitted,
    gatehouse: Arc<Gatehouse>,
    client: audit::Subject,
    now: Now,
    mut stop: watch::Receiver<bool>,
) -> Option<Box<connection::Connected>> {
    let deadline = now.instant + gatehouse.settings.admission.connect_deadline;
    let progress = Mutex::new((Gate::Proxy, client));
    let climbing = timeout_at(deadline.into(), climb(admitted, &gatehouse, &progress));
    let climbed = tokio::select! {
        biased;
        climbed = climbing => {
            climbed.map_err(|_| (ReasonCode::UnspecifiedError, "not through before the deadline"))
        }
        _ = stop.wait_for(|stop| *stop) => {
            Err((ReasonCode::ServerShuttingDown, "the broker is shutting down"))
        }
    };
    let (refused, client, farewell) = match climbed {
        Ok(Ok(connected)) => {
            gatehouse.broker.metrics.connections_accepted.inc();
            return Some(connected);
        }
        Ok(Err(refused)) => refused,
        Err((reason, why)) => {
            let (gate, client) = progress.into_inner();
            (Refused::by(gate, reason, &why), client, None)
        }
    };
    refuse(&gatehouse, &refused, client);
    if let Some(farewell) = farewell {
        farewell.say().await;
    }
    None
}

/// All rungs, one after the other.
///
/// `progress` says which gate is being passed, and what is known of the client so far.
async fn climb(
    admitted: Admitted,
    gatehouse: &Gatehouse,
    progress: &Mutex<(Gate, audit::Subject)>,
) -> Result<Box<connection::Connected>, (Refused, audit::Subject, Option<Farewell>)> {
    let known = || progress.lock().1.clone();
    let settings = &gatehouse.settings;
    let first = match settings.proxy_protocol {
        Some(_) => Gate::Proxy,
        None => gate_of_first_byte(settings),
    };
    progress.lock().0 = first;
    let announced = |address: SocketAddr| {
        let client = &mut progress.lock().1;
        client.address = Some(address.ip().to_canonical());
        client.port = Some(address.port());
    };
    let encrypted = match admitted.encrypt(gatehouse, announced).await {
        Ok(encrypted) => encrypted,
        Err(refused) => return Err((refused, known(), None)),
    };
    let identified = match encrypted.identify(gatehouse) {
        Ok(identified) => identified,
        Err(refused) => return Err((refused, known(), None)),
    };
    let client = identified.described(known());
    *progress.lock() = (Gate::Connect, client.clone());
    identified.connect(gatehouse, client).await.map(Box::new)
}

/// Counts and records a connection that got no session.
fn refuse(gatehouse: &Gatehouse, refused: &Refused, client: audit::Subject) {
    let Refused { gate, reason, why, statement } = refused;
    gatehouse.broker.metrics.connections_refused.of(*gate).inc();
    if statement.is_some() {
        gatehouse.broker.metrics.violations.inc();
    }
    // Whoever did not get so far as to be somebody. What the broker itself has ended is nobody's
    // fault.
    let is_nobody =
        client.principal.as_ref().is_none_or(|(kind, _)| *kind == PrincipalKind::Anonymous);
    if is_nobody
        && let Some(address) = client.address
        && !matches!(gate, Gate::Admission | Gate::Proxy)
        && *reason != ReasonCode::ServerShuttingDown
    {
        gatehouse.broker.count_failed(address, Now::read());
    }
    // Who has an identity is limited by its rate; who has none may come from anywhere.
    let limit = match gate {
        Gate::Admission => Some(&gatehouse.admission_records),
        _ => client.principal.is_none().then_some(&gatehouse.stranger_records),
    };
    if limit.is_some_and(|limit| !limit.may_record(Now::read().instant)) {
        return gatehouse.broker.audit.leave_out();
    }
    let kind = Kind::ConnectionRefused {
        gate: *gate,
        reason: *reason,
        why: why.clone().into(),
        statement: *statement,
    };
    gatehouse.broker.audit.record(Event::about(&Arc::new(client), kind));
}
