//! A broker put together from its configuration, and taken apart again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::reloader::{Reloader, Source, config_hash, version};
use super::revocation::Lists;
use super::watch::{FolderWatch, keep_watch};
use super::{Failure, commands, confine};
use crate::admin::control::Control;
use crate::admin::http::Http;
use crate::audit::{self, AuditLog, Event, Kind, Version};
use crate::broker::{self, Broker, Now};
use crate::config::{Config, WatchPolicies};
use crate::gates::flapping::{self, Flapping};
use crate::metrics::Metrics;
use crate::mqtt::ReasonCode;
use crate::policy::{Bundle, PolicyEpoch, UNJUDGED};
use crate::registry::{self, Registry};
use crate::router::RetainedSettings;
use crate::server::{Server, listener};
use crate::store::{self, Recovered, Store};

/// How often it is looked whether all clients have left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// What the broker's own tasks need to say goodbye, however little clients are given.
const DRAIN_MIN: Duration = Duration::from_secs(1);
/// How long the audit log may take to be written at the end.
const AUDIT_CLOSE: Duration = Duration::from_secs(10);

/// A broker that serves.
pub(super) struct Running {
    /// The name of each listener with its address.
    pub(super) addresses: Vec<(Arc<str>, String)>,
    /// The address of the metrics page.
    pub(super) metrics_address: Option<SocketAddr>,
    broker: Arc<Broker>,
    reloader: Arc<Reloader>,
    stop: watch::Sender<bool>,
    ready: Arc<AtomicBool>,
    drain: Duration,
    /// What runs as long as the broker does, each task with what it is for. Ends with the value.
    background: JoinSet<&'static str>,
}

impl Running {
    /// Opens everything that `config` names, and serves.
    pub(super) async fn start(config: Config, source: Source) -> Result<Self, Failure> {
        confine::confine();
        for warning in config.warnings.iter().chain(&mixed_bindings(&config)) {
            warn!("{warning}");
        }
        refuse_unjudged(&config)?;
        let metrics = Arc::new(Metrics::new());
        let audit = open_audit(&config, &metrics)?;
        let watching = match config.watch_policies {
            WatchPolicies::Off => None,
            // Before the folder is loaded, so that no change is missed.
            mode => Some((FolderWatch::begin(&config.policies)?, mode)),
        };
        let policies = load_policies(config.policies.clone(), PolicyEpoch(1)).await?;
        let listeners = Listeners::of(&config);
        listeners.check(&policies)?;
        let policy = version(&policies);
        let settings = broker::Settings {
            sessions_max: config.broker.sessions_max,
            queued_bytes_max: config.broker.queued_bytes_max,
            retained: RetainedSettings {
                messages_max: config.broker.retained_messages_max,
                bytes_max: config.broker.retained_bytes_max,
            },
        };
        let opened = open_store(config.store.clone()).await?;
        let registered = (config.devices, config.flapping);
        let shared = (Arc::clone(&metrics), audit.clone());
        let broker = put_together(&settings, policies, shared, opened, registered);
        let server = Server::bind(
            config.listeners,
            (&config.methods, &config.login),
            &broker,
            config.broker.unauthenticated_bytes_max,
            config.quarantine.as_ref(),
            config.ocsp,
        )?;
        let addresses = server.addresses();
        let lists = Arc::new(Lists::new(Arc::clone(&broker)));
        let prepared = lists.prepare(config.revocation, server.trusted_issuers()).await?;
        lists.put_in_force(prepared);
        let reloader = Arc::new(Reloader {
            policies: watch::Sender::new(config.policies.clone()),
            broker: Arc::clone(&broker),
            tls: server.tls_reload(),
            lists: Arc::clone(&lists),
            reloading: tokio::sync::Mutex::new(()),
            config: Mutex::new(Version { hash: config_hash(&config.origins), epoch: 1 }),
            origins: config.origins,
            listeners,
            source,
            last_epoch: AtomicU64::new(1),
            started: Instant::now(),
        });

        let mut background = JoinSet::new();
        let ready = Arc::new(AtomicBool::new(false));
        let mut metrics_address = None;
        if let Some(address) = config.metrics {
            let http = Http::bind(address, Arc::clone(&metrics), Arc::clone(&ready)).await;
            let http = http.map_err(|error| {
                let remedy = listener::remedy(&error);
                Failure(format!("metrics.address: cannot listen at {address}: {error}{remedy}"))
            })?;
            metrics_address = Some(http.address()?);
            background.spawn(lasting("the metrics page", http.serve()));
        }
        if let Some(settings) = config.control {
            let handle = commands::handle(&reloader);
            let path = settings.path.clone();
            let control = Control::bind(settings, handle, audit.clone())
                .map_err(|error| about_control(&path, &error))?;
            background.spawn(lasting("the control socket", control.serve(Arc::clone(&metrics))));
        }
        if let Some((watch, mode)) = watching {
            let watching = keep_watch(Arc::clone(&reloader), watch, mode);
            background.spawn(lasting("the watch on the policies", watching));
        }
        let fetching = Arc::clone(&lists).keep_fetching();
        background.spawn(lasting("the fetching of revocation lists", fetching));
        background.spawn(lasting("the watch on revocation lists", lists.keep_watch()));
        let agenda = Arc::clone(&broker);
        let agenda = async move { agenda.keep_agenda().await };
        background.spawn(lasting("the agenda", agenda));
        let (stop, stopped) = watch::channel(false);
        background.spawn(lasting("the listeners", server.run(stopped)));
        let program_version = env!("CARGO_PKG_VERSION");
        audit.record(Event::broker(Kind::BrokerStarted { program_version, policy }));
        for (listener, address) in &addresses {
            info!(%listener, %address, "listening");
        }
        ready.store(true, Ordering::Release);
        let drain = config.broker.drain;
        Ok(Self { addresses, metrics_address, broker, reloader, stop, ready, drain, background })
    }

    /// Begins to load configuration, policies and certificates again; the log says how it went.
    pub(super) fn begin_reload(&self) {
        let reloader = Arc::clone(&self.reloader);
        tokio::spawn(async move { drop(reloader.reload_and_say().await) });
    }

    /// Waits until something fails that the broker cannot do without, and says what: the store, or
    /// one of its own tasks. A broker that no longer looks at lists of revoked certificates, say,
    /// must not go on.
    pub(super) async fn failed(&mut self) -> (&'static str, Failure) {
        let store = self.broker.store.clone();
        let store_failed = async {
            match &store {
                Some(store) => store.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = store_failed => ("the store failed", Failure(format!("store.folder: {error}"))),
            ended = ended(&mut self.background) => {
                self.broker.metrics.panics.inc();
                let message = ended.clone().into();
                let panicked = Kind::TaskPanicked { task: "background", message };
                self.broker.audit.record(Event::broker(panicked));
                error!("{ended}");
                ("a task of the broker ended", Failure(ended))
            }
        }
    }

    /// Accepts nothing more, tells every client to go, and waits for them within the configured
    /// time. Then the audit log is closed.
    pub(super) async fn stop(self, why: &'static str) {
        self.ready.store(false, Ordering::Release);
        self.stop.send_replace(true);
        info!("{why}: closing connections");
        let deadline = Instant::now() + self.drain.max(DRAIN_MIN);
        loop {
            // Again and again: a client may have been on its way in.
            self.broker.close_all(ReasonCode::ServerShuttingDown);
            if self.broker.is_quiet() || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        if let Some(store) = self.broker.store.clone() {
            let closed = tokio::task::spawn_blocking(move || store.close()).await;
            match closed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!("the store could not be written to its end: {error}"),
                Err(error) => error!("the store could not be closed: {error}"),
            }
        }
        let audit = self.broker.audit.clone();
        audit.record(Event::broker(Kind::BrokerStopped { why: why.into() }));
        let closed = tokio::task::spawn_blocking(move || audit.close(AUDIT_CLOSE)).await;
        if !closed.unwrap_or(false) {
            warn!("the audit log could not be written to its end");
        }
    }
}

/// A task with what it is for.
async fn lasting(what: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    what
}

/// Waits until one of the tasks ends, which none should, and says which.
async fn ended(tasks: &mut JoinSet<&'static str>) -> String {
    match tasks.join_next().await {
        Some(Ok(what)) => format!("{what} ended, and the broker cannot do without"),
        Some(Err(error)) => format!("a task that the broker cannot do without failed: {error}"),
        None => std::future::pending().await,
    }
}

/// Opens the store, where there is to be one, and reads what it holds.
async fn open_store(
    settings: Option<store::Settings>,
) -> Result<(Option<Arc<Store>>, Option<Recovered>), Failure> {
    let Some(settings) = settings else { return Ok((None, None)) };
    let opened = tokio::task::spawn_blocking(move || {
        let now = Now::read();
        Store::open(&settings, (now.instant, now.wall))
    });
    let (store, recovered) =
        opened.await?.map_err(|error| Failure(format!("store.folder: {error}")))?;
    Ok((Some(store), Some(recovered)))
}

/// A broker with all that the store held.
fn put_together(
    settings: &broker::Settings,
    policies: Arc<Bundle>,
    (metrics, audit): (Arc<Metrics>, AuditLog),
    (store, recovered): (Option<Arc<Store>>, Option<Recovered>),
    (devices, flapping): (registry::Settings, Option<flapping::Settings>),
) -> Arc<Broker> {
    let mut broker = Broker::new(settings, policies, metrics, audit, store);
    broker.registry = Registry::new(devices);
    broker.flapping = Flapping::new(flapping);
    if let Some(recovered) = recovered {
        broker.restore(recovered, Now::read());
    }
    Arc::new(broker)
}

/// A program that judges no message is for measuring on one machine.
fn refuse_unjudged(config: &Config) -> Result<(), Failure> {
    let exposed = config.listeners.iter().find(|listener| !listener.endpoint.is_local());
    match exposed.filter(|_| UNJUDGED) {
        Some(listener) => Err(Failure(format!(
            "listener `{}` can be reached from other machines, and this program was built with \
             --cfg portcullis_unjudged: build it without",
            listener.name
        ))),
        None => Ok(()),
    }
}

/// What policies have to fit in the configuration.
pub(super) struct Listeners {
    pub(super) names: Vec<Arc<str>>,
    /// One where clients choose their client ids freely.
    unbound: Option<Arc<str>>,
    /// The groups that the configuration confers, each with the key that does.
    conferred: Vec<(String, Arc<str>)>,
}

impl Listeners {
    pub(super) fn of(config: &Config) -> Self {
        let names = config.listeners.iter().map(|listener| Arc::clone(&listener.name));
        let conferred = config.methods.iter().flat_map(|method| {
            let groups = method.how.conferred().into_iter().flat_map(|it| &it.groups);
            let key = format!("authentication.{}.groups", method.name);
            groups.map(move |group| (key.clone(), Arc::clone(group)))
        });
        let by_rules = config.listeners.iter().flat_map(|listener| {
            listener.identity.rules.iter().flat_map(|rule| {
                let key = format!("listener.{}.rule.{}.groups", listener.name, rule.name);
                rule.groups.iter().map(move |group| (key.clone(), Arc::clone(group)))
            })
        });
        let quarantine = config.devices.quarantine.iter();
        let quarantine =
            quarantine.map(|group| ("devices.pending_group".to_owned(), Arc::clone(group)));
        Self {
            names: names.collect(),
            unbound: unbound_listener(config),
            conferred: conferred.chain(by_rules).chain(quarantine).collect(),
        }
    }

    /// Refuses policies that do not fit.
    pub(super) fn check(&self, policies: &Bundle) -> Result<(), Failure> {
        policies.check_listeners(&self.names).map_err(|error| Failure::policies(&error))?;
        self.refuse_unbound(policies)?;
        self.refuse_groups(policies)
    }

    /// Whoever is put into a group that does not exist would be denied everything.
    pub(super) fn refuse_groups(&self, policies: &Bundle) -> Result<(), Failure> {
        let undeclared = self.conferred.iter().find(|(_, group)| !policies.declares_group(group));
        let Some((key, group)) = undeclared else { return Ok(()) };
        Err(Failure(format!(
            "{key} names {group:?}, which principals.toml does not \
             declare; add [group.{group}] there, or remove it"
        )))
    }

    /// Where clients choose their client ids freely, a policy must not depend on them.
    pub(super) fn refuse_unbound(&self, policies: &Bundle) -> Result<(), Failure> {
        let (Some(listener), Some(policy)) = (&self.unbound, policies.reads_client_id()) else {
            return Ok(());
        };
        Err(Failure(format!(
            "policy `{policy}` reads the client id, which clients of listener `{listener}` choose \
             freely; write client_id = \"exact\" or \"prefix\" there, or use ${{cn}} or \
             ${{principal}} in the policy"
        )))
    }
}

/// A listener where clients choose their client ids freely.
fn unbound_listener(config: &Config) -> Option<Arc<str>> {
    let unbound = config.listeners.iter().find(|one| one.identity.is_unbound())?;
    Some(Arc::clone(&unbound.name))
}

/// Clients of a listener that binds nothing can occupy the names of those whose are bound.
pub(super) fn mixed_bindings(config: &Config) -> Option<String> {
    let unbound = unbound_listener(config)?;
    let bound =
        config.listeners.iter().find(|one| one.identity.is_bound() && one.name != unbound)?;
    Some(format!(
        "clients of listener `{unbound}` choose their client ids freely and may take those of \
         listener `{}`, whose own clients are refused then",
        bound.name
    ))
}

pub(super) async fn load_policies(
    path: PathBuf,
    epoch: PolicyEpoch,
) -> Result<Arc<Bundle>, Failure> {
    let loaded = tokio::task::spawn_blocking(move || Bundle::load_dir(&path, epoch)).await?;
    let bundle = loaded.map_err(|error| Failure::policies(&error))?;
    let warnings = bundle.warnings().count();
    if warnings > 0 {
        warn!(warnings, "the policies have warnings, which `portcullis policy check DIR` shows");
    }
    Ok(bundle)
}

fn open_audit(config: &Config, metrics: &Arc<Metrics>) -> Result<AuditLog, Failure> {
    let path = &config.audit.path;
    let about = |error| about_audit(path, &error);
    let mut settings = audit::Settings::at(path);
    settings.queue_events_max = config.audit.queue_max;
    AuditLog::open(&settings, Arc::clone(metrics)).map_err(about)
}

/// Why the audit log cannot be opened.
pub(super) fn about_audit(path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("audit.path: {}: {error}{}", path.display(), file_remedy(error)))
}

/// Why the control socket cannot be opened.
pub(super) fn about_control(path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("control.socket: {}: {error}{}", path.display(), file_remedy(error)))
}

/// What to do, where the system's own words do not say.
fn file_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied if error.raw_os_error().is_some() => {
            "; give the broker's user the right, or choose another path"
        }
        std::io::ErrorKind::NotFound => "; make the folder around it, or choose another path",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_told_and_none_is_waited_for() {
        let mut tasks = JoinSet::new();
        tasks.spawn(lasting("the agenda", std::future::pending()));
        let waited = tokio::time::timeout(Duration::from_millis(1), ended(&mut tasks));
        assert!(waited.await.is_err());
        tasks.spawn(lasting("the watch", async {}));
        assert!(ended(&mut tasks).await.starts_with("the watch ended"));
        tasks.spawn(lasting("the watch", async { panic!("on purpose") }));
        assert!(ended(&mut tasks).await.contains("on purpose"));
        let mut none = JoinSet::new();
        let waited = tokio::time::timeout(Duration::from_millis(1), ended(&mut none));
        assert!(waited.await.is_err());
    }
}
