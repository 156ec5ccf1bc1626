//! `portcullis pki`: the authority as a service of its own, beside the broker.

mod check;
mod lists;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::json;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::lists::Lists;
use super::authority::{PassphraseArgs, Passphrases};
use super::revocation::now_unix_s;
use super::sandbox::Sandbox;
use super::serve::{log_to_stderr, to_its_end};
use super::{Failure, coloured, confine};
use crate::audit::{AuditLog, Event, Kind, Settings as Audit, Version};
use crate::config::EstConfig;
use crate::est::{Authority, Est, Parts, Settings};
use crate::identity::revocation;
use crate::metrics::Metrics;
use crate::pki::{Ca, KeyError, PkiError};
use crate::policy::{Bundle, PolicyEpoch};

/// How long the audit log may take to be written at the end.
const AUDIT_CLOSE: Duration = Duration::from_secs(10);

/// Runs the authority as a service, apart from the broker.
#[derive(Debug, clap::Args)]
pub(super) struct PkiArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Gives certificates over the network: EST (RFC 7030)
    Serve(ServeArgs),
    /// Checks its configuration and all files that it names; nothing is bound
    Check(check::CheckArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// The configuration file; every key is explained in config/pki.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets a key of the configuration, such as est.address=127.0.0.1:0
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints one line of JSON when certificates are given, with the address
    #[arg(long)]
    ready_json: bool,
}

impl PkiArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(args) => args.run(),
            Command::Check(args) => args.run(),
        }
    }
}

impl ServeArgs {
    fn run(self) -> Result<(), Failure> {
        let config = EstConfig::load(&self.config, &self.set)
            .map_err(|error| Failure(error.render(coloured())))?;
        log_to_stderr(&config.log);
        confine::confine();
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Sandbox::prepare_enrolment(&config);
        Sandbox::of_enrolment(&self.config, &config)?.begin()?;
        // Before anything else runs: it may ask at the terminal.
        let opening = Opening::new(&config.est);
        to_its_end(serve(config, opening, self.ready_json))
    }
}

/// Opens the authority, now and after `ca rotate`, with the passphrase that was given once.
struct Opening {
    folder: PathBuf,
    passphrases: Mutex<Passphrases>,
}

impl Opening {
    fn new(settings: &Settings) -> Self {
        let args = PassphraseArgs::from_file(settings.passphrase_file.clone());
        let folder = settings.authority.clone();
        Self { folder, passphrases: Mutex::new(Passphrases::new(&args)) }
    }

    fn open(&self) -> Result<Ca, PkiError> {
        let mut passphrases = self.passphrases.lock();
        let now = OffsetDateTime::now_utc();
        let opened = Ca::open(&self.folder, &mut |path: &Path| passphrases.existing(path), now);
        opened.map_err(|error| match error {
            PkiError::Key(KeyError::NoPassphrase { path }) => {
                PkiError::Key(KeyError::NoPassphraseToServe { path })
            }
            other => other,
        })
    }
}

async fn serve(config: EstConfig, opening: Opening, ready_json: bool) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let metrics = Arc::new(Metrics::new());
    let audit = Audit { queue_events_max: config.audit.queue_max, ..Audit::at(&config.audit.path) };
    let audit = AuditLog::open(&audit, Arc::clone(&metrics)).map_err(|error| {
        Failure(format!("audit.path: {}: {error}", config.audit.path.display()))
    })?;
    let settings = Arc::new(config.est);
    let policies = load(settings.policies.clone(), PolicyEpoch(1)).await?;
    let revocations = revocation::none();
    let authority = {
        let (settings, revocations) = (Arc::clone(&settings), Arc::clone(&revocations));
        let open = Box::new(move || opening.open());
        tokio::task::spawn_blocking(move || Authority::new(open, settings, revocations)).await??
    };
    let authority = Arc::new(authority);
    for warning in authority.warnings()? {
        warn!("{warning}");
    }
    let lists = match config.revocation {
        Some(settings) => {
            let of = Arc::clone(&authority);
            let trusted = Box::new(move || of.trusted_issuers());
            let load = move || Lists::load(settings, trusted, revocations, now_unix_s());
            Some(tokio::task::spawn_blocking(load).await??)
        }
        None => None,
    };
    let parts = Parts { policies: Arc::clone(&policies), audit: audit.clone(), metrics };
    let est = Est::bind(Arc::clone(&settings), Arc::clone(&authority), parts).await?;
    let (address, lists_address) = (est.address()?, est.lists_address()?);
    let put_in_force = est.put_in_force();
    let mut background = JoinSet::new();
    background.spawn(est.serve());
    if let Some(lists) = lists {
        background.spawn(lists.keep_watch());
    }
    info!(%address, "certificates are given");
    if let Some(address) = lists_address {
        info!(%address, "lists of revoked certificates are served");
    }
    if ready_json {
        let lists = lists_address.map(|address| address.to_string());
        say!("{}", json!({ "ready": true, "address": address.to_string(), "lists": lists }));
    }
    let reloading = Reloading {
        folder: settings.policies.clone(),
        authority,
        audit: audit.clone(),
        policies: ArcSwap::new(policies),
        epoch: AtomicU64::new(1),
    };
    let mut failure = None;
    let why = loop {
        tokio::select! {
            Some(ended) = background.join_next() => {
                let failed = ended.err().map_or_else(String::new, |error| format!(": {error}"));
                failure = Some(Failure(format!("a task of enrolment ended{failed}")));
                break "a task of enrolment ended";
            }
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hangup.recv() => reloading.reload(&put_in_force).await,
        }
    };
    info!("{why}: the end");
    background.shutdown().await;
    let closed = tokio::task::spawn_blocking(move || audit.close(AUDIT_CLOSE)).await;
    if !closed.unwrap_or(false) {
        warn!("the audit log could not be written to its end");
    }
    failure.map_or(Ok(()), Err)
}

async fn load(folder: PathBuf, epoch: PolicyEpoch) -> Result<Arc<Bundle>, Failure> {
    let loaded = tokio::task::spawn_blocking(move || Bundle::load_dir(&folder, epoch)).await?;
    loaded.map_err(|error| Failure::policies(&error))
}

/// What SIGHUP has read again.
struct Reloading {
    folder: PathBuf,
    authority: Arc<Authority>,
    audit: AuditLog,
    policies: ArcSwap<Bundle>,
    epoch: AtomicU64,
}

impl Reloading {
    /// Policies, certificates and the authority; what cannot be read stays as it was.
    async fn reload(&self, put_in_force: &impl Fn(Arc<Bundle>)) {
        let authority = Arc::clone(&self.authority);
        let opened = tokio::task::spawn_blocking(move || authority.open_again()).await;
        match opened {
            Ok(Ok(())) => info!("the authority and the certificates are read again"),
            Ok(Err(error)) => warn!("the authority and the certificates in use stay: {error}"),
            Err(error) => warn!("the authority and the certificates in use stay: {error}"),
        }
        let epoch = PolicyEpoch(self.epoch.fetch_add(1, Ordering::Relaxed) + 1);
        let old = version(&self.policies.load());
        let event = match load(self.folder.clone(), epoch).await {
            Ok(policies) => {
                let new = version(&policies);
                self.policies.store(Arc::clone(&policies));
                put_in_force(policies);
                info!("the policies are read again");
                Kind::PolicyReloaded { old, new }
            }
            Err(Failure(why)) => {
                warn!("the policies in force stay: {why}");
                Kind::PolicyReloadFailed { old, why: why.into() }
            }
        };
        self.audit.record(Event::broker(event));
    }
}

fn version(bundle: &Bundle) -> Version {
    Version { hash: bundle.hash().into(), epoch: bundle.epoch().0 }
}
