//! What a running broker was started with, loaded anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Failure;
use super::revocation::Lists;
use super::running::{Listeners, load_policies};
use super::sandbox::InForce;
use crate::audit::{self, Event, Kind, Version};
use crate::broker::Broker;
use crate::config::{Config, Origin};
use crate::pki::sha256_hex;
use crate::policy::{Bundle, PolicyEpoch};
use crate::server::TlsReload;

/// Where the configuration came from, to read it again.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) overrides: Vec<String>,
    /// What may be read when it is read again.
    pub(super) sandbox: InForce,
}

/// Loads anew what a running broker was started with.
pub(super) struct Reloader {
    /// Where the policies are.
    pub(super) policies: watch::Sender<PathBuf>,
    pub(super) broker: Arc<Broker>,
    pub(super) tls: TlsReload,
    pub(super) lists: Arc<Lists>,
    /// The configuration that the broker was started with, value by value.
    pub(super) origins: Vec<Origin>,
    /// The one that was taken last.
    pub(super) config: Mutex<Version>,
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) listeners: Listeners,
    pub(super) source: Source,
    pub(super) last_epoch: AtomicU64,
    pub(super) started: Instant,
}

impl Reloader {
    /// Checks everything, then puts policies and certificates in force together. What else has
    /// changed in the configuration needs a restart, and is named. One reload at a time: what is
    /// in force afterwards is what was read last.
    async fn reload(&self) -> Result<serde_json::Value, Failure> {
        let _one_at_a_time = self.reloading.lock().await;
        let Source { path, overrides, sandbox } = &self.source;
        let within = sandbox.check_configuration(path);
        within.map_err(|Failure(why)| self.config_refused(why))?;
        let (path, overrides) = (path.clone(), overrides.clone());
        let read = tokio::task::spawn_blocking(move || Config::load(&path, &overrides)).await?;
        let config = read.map_err(|error| self.config_refused(error.render(false)))?;
        let within = sandbox.check_reloaded(&config.origins, is_reloaded);
        within.map_err(|Failure(why)| self.config_refused(why))?;
        let bundle = self.load(&config.policies).await?;
        let tls = self.tls.prepare(&config.listeners);
        let tls = tls.map_err(|error| self.config_refused(error.to_string()))?;
        let lists = self.lists.prepare(config.revocation.clone(), tls.trusted_issuers()).await;
        let lists = lists.map_err(|Failure(why)| self.config_refused(why))?;
        tls.put_in_force();
        self.lists.put_in_force(lists);
        self.lists.hurry();
        let needs_restart = self.take_config(&config.origins);
        self.policies.send_if_modified(|path| {
            let moved = *path != config.policies;
            path.clone_from(&config.policies);
            moved
        });
        let (new, changed) = self.put_in_force(&bundle);
        Ok(json!({
            "policies": bundle.policies(),
            "epoch": new.epoch,
            "hash": &*new.hash,
            "changed": changed,
            "needs_restart": needs_restart,
        }))
    }

    /// As [`Self::reload`]; says in the log when it failed.
    pub(super) async fn reload_and_say(&self) -> Result<serde_json::Value, Failure> {
        let reloaded = self.reload().await;
        if let Err(Failure(why)) = &reloaded {
            warn!("reload refused, everything stays as it was: {why}");
        }
        reloaded
    }

    /// Loads the policies alone and puts them in force, if the folder is `still` the one that
    /// was to be loaded when that is done.
    pub(super) async fn reload_policies(&self, still: impl Fn() -> bool) -> Result<(), Failure> {
        let _one_at_a_time = self.reloading.lock().await;
        let path = self.policies.borrow().clone();
        let bundle = self.load(&path).await?;
        if !still() {
            let why = "the policy folder changed again while it was loaded";
            return Err(self.policies_refused(why.to_owned()));
        }
        self.put_in_force(&bundle);
        Ok(())
    }

    async fn load(&self, path: &Path) -> Result<Arc<Bundle>, Failure> {
        let epoch = PolicyEpoch(self.last_epoch.fetch_add(1, Ordering::Relaxed) + 1);
        if let Err(Failure(why)) = self.source.sandbox.check_policies(path) {
            return Err(self.policies_refused(why));
        }
        let loaded = load_policies(path.to_owned(), epoch).await.and_then(|bundle| {
            self.listeners.check(&bundle)?;
            Ok(bundle)
        });
        loaded.map_err(|Failure(why)| self.policies_refused(why))
    }

    /// Puts policies in force and records it: which they are, and whether they are others.
    fn put_in_force(&self, bundle: &Arc<Bundle>) -> (Version, bool) {
        let old = version(&self.broker.policies());
        let new = version(bundle);
        self.broker.set_policies(Arc::clone(bundle));
        let (policies, epoch, hash) = (bundle.policies(), new.epoch, bundle.hash());
        info!(policies, epoch, hash, "reloaded");
        let put = (new.clone(), new.hash != old.hash);
        self.broker.metrics.policy_reloads.of(audit::Outcome::Done).inc();
        self.broker.audit.record(Event::broker(Kind::PolicyReloaded { old, new }));
        put
    }

    /// Records a configuration that is taken; the keys that need a restart.
    fn take_config(&self, origins: &[Origin]) -> Vec<String> {
        let (audit, metrics) = (&self.broker.audit, &self.broker.metrics);
        let needs_restart = self.changed(origins);
        if !needs_restart.is_empty() {
            let keys = needs_restart.join(", ");
            warn!(%keys, "changed, and not in force before a restart");
        }
        let hash = config_hash(origins);
        let mut present = self.config.lock();
        if *hash != *present.hash {
            let new = Version { hash, epoch: present.epoch + 1 };
            let old = std::mem::replace(&mut *present, new.clone());
            let keys = needs_restart.iter().map(|key| Arc::from(key.as_str())).collect();
            metrics.config_reloads.of(audit::Outcome::Done).inc();
            audit.record(Event::broker(Kind::ConfigReloaded { old, new, needs_restart: keys }));
        }
        needs_restart
    }

    /// Records that the configuration, or a file of keys and certificates that it names, is not
    /// fit to be taken.
    fn config_refused(&self, why: String) -> Failure {
        let old = self.config.lock().clone();
        self.broker.metrics.config_reloads.of(audit::Outcome::Failed).inc();
        let failed = Kind::ConfigReloadFailed { old, why: why.clone().into() };
        self.broker.audit.record(Event::broker(failed));
        Failure(why)
    }

    /// Records that the policies are not fit to be taken.
    fn policies_refused(&self, why: String) -> Failure {
        let old = version(&self.broker.policies());
        self.broker.metrics.policy_reloads.of(audit::Outcome::Failed).inc();
        let failed = Kind::PolicyReloadFailed { old, why: why.clone().into() };
        self.broker.audit.record(Event::broker(failed));
        Failure(why)
    }

    /// The keys whose values are not what the broker runs with, but for those that a reload
    /// puts in force.
    fn changed(&self, now: &[Origin]) -> Vec<String> {
        let values = |origins: &[Origin]| -> BTreeMap<String, String> {
            let kept = origins.iter().filter(|origin| !is_reloaded(&origin.key));
            kept.map(|origin| (origin.key.clone(), origin.value.clone())).collect()
        };
        let (before, now) = (values(&self.origins), values(now));
        let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
        keys.filter(|key| before.get(*key) != now.get(*key)).cloned().collect()
    }

    pub(super) fn status(&self) -> serde_json::Value {
        let (sessions, connected) = self.broker.session_count();
        let (retained, retained_bytes) = self.broker.router.retained_size();
        let policies = self.broker.policies();
        let (batches, syncs) = self.broker.store.as_ref().map_or((0, 0), |store| store.batches());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "policies": policies.policies(),
            "policy_epoch": policies.epoch().0,
            "policy_hash": policies.hash(),
            "connections": connected,
            "sessions": sessions,
            "subscriptions": self.broker.router.subscriptions(),
            "retained_messages": retained,
            "retained_bytes": retained_bytes,
            "queued_messages": self.broker.router.budget().all_messages(),
            "queued_bytes": self.broker.router.budget().all_bytes(),
            "store_batches": batches,
            "store_syncs": syncs,
        })
    }
}

/// True for a key whose value a reload puts in force.
fn is_reloaded(key: &str) -> bool {
    key == "policies"
        || key.starts_with("revocation.")
        || (key.starts_with("listener.") && key.contains(".tls."))
}

/// SHA-256 of every effective value.
pub(super) fn config_hash(origins: &[Origin]) -> Arc<str> {
    let values = origins.iter().map(|origin| format!("{} = {}\n", origin.key, origin.value));
    sha256_hex(values.collect::<String>().as_bytes()).into()
}

pub(super) fn version(bundle: &Bundle) -> Version {
    Version { hash: bundle.hash().into(), epoch: bundle.epoch().0 }
}
