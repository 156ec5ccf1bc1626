//! The revocation lists of a running broker: loaded at the start, and again when a file changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::Failure;
use crate::audit::{Event, Kind};
use crate::broker::Broker;
use crate::identity::TrustedIssuers;
use crate::identity::revocation::{self, Loaded, Revocations, Settings};

/// How often it is looked whether a file has changed: a certificate that is taken back is to be
/// out within a second.
const LOOK: Duration = Duration::from_millis(200);

/// What lists there are to be, and those in force.
pub(super) struct Lists {
    settings: Mutex<Option<Settings>>,
    broker: Arc<Broker>,
    /// The authorities that lists have to come from.
    trusted: Mutex<Arc<TrustedIssuers>>,
    loading: tokio::sync::Mutex<()>,
    /// The files as they were when they were loaded last.
    seen: tokio::sync::Mutex<Option<State>>,
}

/// Lists that were loaded, and are not in force yet.
pub(super) struct Prepared {
    settings: Option<Settings>,
    trusted: Arc<TrustedIssuers>,
    revocations: Revocations,
}

impl Lists {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self {
            settings: Mutex::default(),
            broker,
            trusted: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            seen: tokio::sync::Mutex::default(),
        }
    }

    /// Loads the lists that `settings` name, of these authorities; what works but should be looked
    /// after goes to the log.
    pub(super) async fn prepare(
        &self,
        settings: Option<Settings>,
        trusted: TrustedIssuers,
    ) -> Result<Prepared, Failure> {
        let trusted = Arc::new(trusted);
        let revocations = match settings.clone() {
            Some(settings) => self.load(settings, Arc::clone(&trusted)).await?,
            None => Revocations::none(),
        };
        Ok(Prepared { settings, trusted, revocations })
    }

    async fn load(
        &self,
        settings: Settings,
        trusted: Arc<TrustedIssuers>,
    ) -> Result<Revocations, Failure> {
        let in_force = self.broker.revocations.load_full();
        let loaded = tokio::task::spawn_blocking(move || {
            revocation::load(&settings, &trusted, &in_force, now_unix_s())
        });
        let Loaded { revocations, warnings } =
            loaded.await?.map_err(|error| Failure(format!("revocation.lists: {error}")))?;
        for warning in warnings {
            warn!("{warning}");
        }
        Ok(revocations)
    }

    /// From now on these lists count, for those that are connected too.
    pub(super) fn put_in_force(&self, prepared: Prepared) {
        let Prepared { settings, trusted, revocations } = prepared;
        let is_told = settings.is_some();
        *self.settings.lock() = settings;
        *self.trusted.lock() = trusted;
        self.replace(revocations, is_told);
    }

    fn replace(&self, revocations: Revocations, is_told: bool) {
        let (before, certificates) = (self.broker.revocations.load().len(), revocations.len());
        self.broker.set_revocations(revocations);
        if before != certificates {
            info!(certificates, "revocation lists loaded");
        }
        if !is_told {
            return;
        }
        let loaded = Kind::RevocationLoaded { certificates: certificates as u64 };
        self.broker.audit.record(Event::broker(loaded));
    }

    /// Loads the lists again; where one cannot be taken, those in force stay. How many certificates
    /// are revoked.
    async fn load_again(&self) -> Result<usize, String> {
        let _one_at_a_time = self.loading.lock().await;
        let Some(settings) = self.settings.lock().clone() else { return Ok(0) };
        let trusted = Arc::clone(&self.trusted.lock());
        match self.load(settings, trusted).await {
            Ok(revocations) => {
                let certificates = revocations.len();
                self.replace(revocations, true);
                Ok(certificates)
            }
            Err(Failure(why)) => {
                warn!("the revocation lists in force stay: {why}");
                let failed = Kind::RevocationFailed { why: why.clone().into() };
                self.broker.audit.record(Event::broker(failed));
                Err(why)
            }
        }
    }

    /// Loads the lists if a file of them has changed since. How many certificates are revoked.
    ///
    /// # Errors
    /// Why the lists in force stay.
    pub(super) async fn look(&self) -> Result<usize, String> {
        let mut seen = self.seen.lock().await;
        let paths = self.settings.lock().as_ref().map(|settings| settings.lists.clone());
        let Some(paths) = paths else { return Ok(0) };
        let now = tokio::task::spawn_blocking(move || State::of(&paths)).await;
        let now = now.map_err(|error| error.to_string())?;
        // What changed between the first load and the first look is loaded once more.
        if seen.as_ref() == Some(&now) {
            return Ok(self.broker.revocations.load().len());
        }
        *seen = Some(now);
        self.load_again().await
    }

    /// Loads the lists whenever a file of them changes.
    pub(super) async fn keep_watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // What is wrong is in the logs by then.
            let _ = self.look().await;
        }
    }
}

/// What tells one state of the files from another.
#[derive(PartialEq, Eq)]
pub(super) struct State(BTreeMap<PathBuf, Option<(SystemTime, u64, u64)>>);

impl State {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut state = BTreeMap::new();
        for path in paths {
            state.insert(path.clone(), mark(path));
            let Ok(entries) = std::fs::read_dir(path) else { continue };
            for entry in entries.flatten().take(revocation::FILES_MAX) {
                state.insert(entry.path(), mark(&entry.path()));
            }
        }
        Self(state)
    }
}

fn mark(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// The time, Unix seconds.
pub(super) fn now_unix_s() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
