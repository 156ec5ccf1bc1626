//! The revocation lists of a running broker: loaded at the start, and again when a file changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::Failure;
use crate::audit::{Event, Kind};
use crate::broker::Broker;
use crate::identity::TrustedIssuers;
use crate::identity::revocation::{self, Beside, Fetch, Loaded, Revocations, Settings};
use crate::pki::files::{self, Access};
use crate::pki::sha256_hex;
use crate::server::fetch;

/// How often it is looked whether a file has changed: a certificate that is taken back is to be
/// out within a second.
const LOOK: Duration = Duration::from_millis(200);
/// How soon a list is fetched or read again after that has failed.
const RETRY: Duration = Duration::from_mins(1);
/// How long it may take.
const FETCH_TIME: Duration = Duration::from_mins(2);
/// How long somebody waits who says that lists have changed.
const HURRY: Duration = Duration::from_secs(10);
/// How soon they are fetched once more then, and at the soonest.
const AGAIN: Duration = Duration::from_secs(2);
/// How many are fetched at a time.
const FETCHES_MAX: usize = 4;
/// How large it may be.
const FETCHED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What lists there are to be, and those in force.
pub(super) struct Lists {
    settings: Mutex<Option<Settings>>,
    broker: Arc<Broker>,
    /// The authorities that lists have to come from.
    trusted: Mutex<Arc<TrustedIssuers>>,
    /// The files as they were before they were loaded last.
    seen: Mutex<State>,
    /// The lists that are fetched, by URL.
    turns: Mutex<BTreeMap<String, Turn>>,
    /// One of them was fetched, or could not be.
    fetched: Notify,
    loading: tokio::sync::Mutex<()>,
}

/// Lists that were loaded, and are not in force yet.
pub(super) struct Prepared {
    settings: Option<Settings>,
    trusted: Arc<TrustedIssuers>,
    revocations: Revocations,
    seen: State,
}

impl Lists {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self {
            settings: Mutex::default(),
            broker,
            trusted: Mutex::default(),
            seen: Mutex::default(),
            turns: Mutex::default(),
            fetched: Notify::new(),
            loading: tokio::sync::Mutex::default(),
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
        let seen = match settings.clone() {
            Some(settings) => tokio::task::spawn_blocking(move || State::of(&settings)).await?,
            None => State::default(),
        };
        let revocations = match settings.clone() {
            Some(settings) => self.load(settings, Arc::clone(&trusted)).await?,
            None => Revocations::none(),
        };
        Ok(Prepared { settings, trusted, revocations, seen })
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
        let Prepared { settings, trusted, revocations, seen } = prepared;
        *self.seen.lock() = seen;
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

    /// Loads the lists again; where one cannot be taken, the one in force stays. How many certificates
    /// are revoked.
    async fn load_again(&self) -> Result<usize, String> {
        let Some(settings) = self.settings.lock().clone() else { return Ok(0) };
        let (trusted, in_force) =
            (Arc::clone(&self.trusted.lock()), self.broker.revocations.load_full());
        let loaded = tokio::task::spawn_blocking(move || {
            revocation::load_what_can_be(&settings, &trusted, &in_force, now_unix_s())
        });
        let failures = match loaded.await.map_err(|error| error.to_string())? {
            Ok((Loaded { revocations, warnings }, failures)) => {
                for warning in warnings {
                    warn!("{warning}");
                }
                let is_told = revocations.have_more_than(&self.broker.revocations.load());
                self.replace(revocations, is_told);
                failures
            }
            Err(failure) => vec![failure],
        };
        for failure in &failures {
            let why = failure.to_string();
            warn!("a revocation list cannot be taken: {why}");
            self.broker.audit.record(Event::broker(Kind::RevocationFailed { why: why.into() }));
        }
        match failures.first() {
            Some(failure) => Err(failure.to_string()),
            None => Ok(self.broker.revocations.load().len()),
        }
    }

    /// Loads the lists if a file of them has changed since. How many certificates are revoked.
    ///
    /// # Errors
    /// Why the lists in force stay.
    pub(super) async fn look(&self) -> Result<usize, String> {
        let _one_at_a_time = self.loading.lock().await;
        let Some(settings) = self.settings.lock().clone() else { return Ok(0) };
        let now = tokio::task::spawn_blocking(move || State::of(&settings)).await;
        let now = now.map_err(|error| error.to_string())?;
        if *self.seen.lock() == now {
            return Ok(self.broker.revocations.load().len());
        }
        *self.seen.lock() = now;
        self.load_again().await
    }

    /// Loads the lists whenever a file of them changes.
    pub(super) async fn keep_watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed_at: Option<Instant> = None;
        loop {
            ticks.tick().await;
            // What could not be read for want of something may be readable now, though no file has
            // changed.
            if failed_at.is_some_and(|at| at.elapsed() >= RETRY) {
                *self.seen.lock() = State::default();
                failed_at = None;
            }
            // What is wrong is in the logs by then.
            if self.look().await.is_err() {
                failed_at = Some(Instant::now());
            }
        }
    }

    /// Fetches the lists that are to be fetched, and those that certificates have named and may name,
    /// again and again; a slow server holds up nobody else. What would not be taken is not kept: it
    /// must not stand in the way of the others.
    pub(super) async fn keep_fetching(self: Arc<Self>) {
        let mut fetching = JoinSet::new();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while fetching.try_join_next().is_some() {}
            let wanted = self.to_fetch();
            let is_wanted = |url: &String| wanted.iter().any(|(other, ..)| other == url);
            self.turns.lock().retain(|url, turn| turn.is_under_way || is_wanted(url));
            for (url, beside, fetch) in wanted {
                if let Some(turn) = self.take_turn(&url, &fetch) {
                    let lists = Arc::clone(&self);
                    fetching.spawn(async move {
                        let rest = lists.fetch_and_say(&url, beside, &fetch).await;
                        lists.turn_is_due(&url, rest);
                        drop(turn);
                    });
                }
            }
        }
    }

    /// The lists that are to be fetched.
    fn to_fetch(&self) -> Vec<(String, Beside, Fetch)> {
        let fetch = self.settings.lock().as_ref().and_then(|settings| settings.fetch.clone());
        let Some(fetch) = fetch else { return Vec::new() };
        let named = fetch.urls.iter().map(|url| (url.clone(), Beside::default()));
        let all = named.chain(self.broker.revocations.load().points());
        all.map(|(url, beside)| (url, beside, fetch.clone())).collect()
    }

    /// Begins the turn of a list that is due. A host that does not answer has one place, whatever it
    /// has to offer.
    fn take_turn(self: &Arc<Self>, url: &str, fetch: &Fetch) -> Option<TurnTaken> {
        let mut turns = self.turns.lock();
        let now = Instant::now();
        let under_way = || turns.iter().filter(|(_, turn)| turn.is_under_way);
        let is_due = turns.get(url).is_none_or(|turn| turn.due_at <= now && !turn.is_under_way);
        let is_busy = under_way().any(|(other, _)| host_of(other) == host_of(url));
        if !is_due || is_busy || under_way().count() >= FETCHES_MAX {
            return None;
        }
        let turn = Turn { due_at: now + fetch.every, begun_at: now, is_under_way: true };
        turns.insert(url.to_owned(), turn);
        Some(TurnTaken { lists: Arc::clone(self), url: url.to_owned() })
    }

    /// Has a list fetched after this time, or earlier where it is due before.
    fn turn_is_due(&self, url: &str, rest: Duration) {
        if let Some(turn) = self.turns.lock().get_mut(url) {
            turn.due_at = turn.due_at.min(Instant::now() + rest);
        }
    }

    /// Has every list that is fetched fetched soon, without waiting for it.
    pub(super) fn hurry(&self) {
        for turn in self.turns.lock().values_mut() {
            // Whoever says again and again that something has changed is no reason for more.
            turn.due_at = turn.due_at.min(Instant::now().max(turn.begun_at + AGAIN));
        }
    }

    /// Looks at all lists, those that are fetched too: somebody says that they have changed. How many
    /// certificates are revoked.
    ///
    /// # Errors
    /// Why the lists in force stay.
    pub(super) async fn look_everywhere(&self) -> Result<usize, String> {
        let asked_at = Instant::now();
        let wanted: Vec<String> = self.to_fetch().into_iter().map(|(url, ..)| url).collect();
        self.hurry();
        let waiting = async {
            loop {
                let fetched = self.fetched.notified();
                let is_fresh = |turn: &Turn| turn.begun_at >= asked_at && !turn.is_under_way;
                let are_fresh = {
                    let turns = self.turns.lock();
                    wanted.iter().all(|url| turns.get(url).is_some_and(is_fresh))
                };
                if are_fresh {
                    break;
                }
                fetched.await;
            }
        };
        // What takes longer than whoever says so waits is fetched all the same.
        let _ = tokio::time::timeout(HURRY, waiting).await;
        // Whoever says so may be ahead of whoever publishes.
        self.hurry();
        self.look().await
    }

    /// Fetches one list; how soon it is due again.
    async fn fetch_and_say(&self, url: &str, beside: Beside, fetch: &Fetch) -> Duration {
        let Err(why) = self.fetch(url, beside, fetch).await else { return fetch.every };
        let why = format!("{url}: {why}");
        warn!("a revocation list cannot be fetched: {why}");
        let failed = Kind::RevocationFailed { why: why.into() };
        self.broker.audit.record(Event::broker(failed));
        fetch.every.min(RETRY)
    }

    /// Fetches one list; whoever has signed it may be one of `beside`.
    async fn fetch(&self, url: &str, beside: Beside, fetch: &Fetch) -> Result<(), String> {
        let bytes_max = usize::try_from(FETCHED_BYTES_MAX).unwrap_or(usize::MAX);
        let bytes = fetch::get(url, bytes_max, FETCH_TIME).await?.to_vec();
        let name = format!("{}.crl", sha256_hex(url.as_bytes()));
        let path = fetch.folder.join(name);
        let (trusted, in_force) =
            (Arc::clone(&self.trusted.lock()), self.broker.revocations.load_full());
        let kept = tokio::task::spawn_blocking(move || {
            let now = now_unix_s();
            let bytes = revocation::check(bytes, &beside, &path, &trusted, &in_force, now);
            let bytes = bytes.map_err(|error| error.to_string())?;
            if std::fs::read(&path).is_ok_and(|before| before == bytes) {
                return Ok(());
            }
            let folder = path.parent().unwrap_or(Path::new("."));
            files::create_private_folder(folder).map_err(|error| error.to_string())?;
            let kept = if path.exists() {
                files::replace(&path, &bytes)
            } else {
                files::write_new(&path, &bytes, Access::Everybody)
            };
            kept.map_err(|error| error.to_string())
        });
        kept.await.map_err(|error| error.to_string())?
    }
}

/// When a list is fetched.
#[derive(Clone, Copy, Debug)]
struct Turn {
    due_at: Instant,
    begun_at: Instant,
    is_under_way: bool,
}

/// A turn that has begun; it is over with the value, however that comes about.
struct TurnTaken {
    lists: Arc<Lists>,
    url: String,
}

impl Drop for TurnTaken {
    fn drop(&mut self) {
        if let Some(turn) = self.lists.turns.lock().get_mut(&self.url) {
            turn.is_under_way = false;
        }
        self.lists.fetched.notify_waiters();
    }
}

/// The host of a URL, with its port.
fn host_of(url: &str) -> Option<&str> {
    url.split('/').nth(2)
}

/// What tells one state of the files from another.
#[derive(Default, PartialEq, Eq)]
pub(super) struct State(BTreeMap<PathBuf, Option<(SystemTime, u64, u64)>>);

impl State {
    pub(super) fn of(settings: &Settings) -> Self {
        let mut state = BTreeMap::new();
        let fetched = settings.fetch.iter().map(|fetch| &fetch.folder);
        for path in settings.lists.iter().chain(fetched) {
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

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;

    use time::OffsetDateTime;
    use tokio::time::sleep;

    use super::*;
    use crate::audit::AuditLog;
    use crate::broker;
    use crate::config::EstConfig;
    use crate::metrics::Metrics;
    use crate::pki::inventory::Reason;
    use crate::pki::{Ca, KeyType, Layout, NewAuthority, Profile, ProfileName, Subject};
    use crate::router::{RetainedSettings, tests::open_policies};
    use crate::server::tls_config;

    /// An authority in a folder, and settings that name its lists.
    pub(in crate::cli) fn authority(folder: &Path) -> (Ca, Settings) {
        let new = NewAuthority::unprotected("Factory", Layout::RootAndIssuing);
        let text = "[est]\naddress = \"127.0.0.1:0\"\n[est.tls]\ncertificate = \"c\"\nkey = \"k\"\n\
                    [revocation]\nlists = [\"crls.pem\"]\n";
        let config = EstConfig::from_text("pki.toml", text, folder, &[]).unwrap();
        let ca = Ca::create(folder, &new, OffsetDateTime::now_utc()).unwrap();
        (ca, config.revocation.unwrap())
    }

    /// Revokes a certificate, and puts something unreadable in the place of the new lists, which are
    /// returned.
    pub(in crate::cli) fn revoke_unreadably(ca: &Ca) -> Vec<u8> {
        let (now, list) = (OffsetDateTime::now_utc(), Ca::crls_path(ca.folder()));
        let profile = Profile::built_in(ProfileName::Device).unwrap();
        ca.issue(&profile, &Subject::named("pump"), KeyType::P256, now).unwrap();
        let targets = ca.by_name("pump", now).unwrap();
        ca.revoke(&targets, Reason::KeyCompromise, now).unwrap().crls.unwrap();
        let good = std::fs::read(&list).unwrap();
        std::fs::write(&list, vec![b'x'; good.len()]).unwrap();
        good
    }

    /// Writes the lists so that nothing tells the file from what was there.
    pub(in crate::cli) fn write_unseen(ca: &Ca, bytes: &[u8]) {
        let list = Ca::crls_path(ca.folder());
        let before = list.metadata().unwrap();
        assert_eq!(before.len(), bytes.len() as u64);
        std::fs::write(&list, bytes).unwrap();
        let file = File::options().write(true).open(&list).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }

    /// Whom the authority's clients and brokers trust.
    pub(in crate::cli) fn trusted(ca: &Ca) -> TrustedIssuers {
        let roots = tls_config::certificates(&Ca::trust_path(ca.folder())).unwrap();
        TrustedIssuers::new(&roots).unwrap()
    }

    fn lists() -> Arc<Lists> {
        let limits = broker::Settings {
            sessions_max: 1,
            queued_bytes_max: 1 << 20,
            retained: RetainedSettings { messages_max: 1, bytes_max: 1 << 20 },
        };
        let audit = AuditLog::to_writer(std::io::sink()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let broker = Broker::new(&limits, open_policies(), metrics, audit, None);
        Arc::new(Lists::new(Arc::new(broker)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_has_its_turn_when_it_is_due_and_a_host_one_at_a_time() {
        let (lists, every) = (lists(), Duration::from_hours(1));
        let fetch = Fetch { urls: Vec::new(), from: Vec::new(), folder: PathBuf::new(), every };
        let turn = |url: &str| lists.take_turn(url, &fetch);
        let first = turn("http://a/1").unwrap();
        assert!(turn("http://a/1").is_none() && turn("http://a/2").is_none());
        let others = ["http://b/1", "http://c/1", "http://d/1"].map(|url| turn(url).unwrap());
        assert!(turn("http://e/1").is_none(), "as many as may be");
        drop(first);
        // It was fetched; what is said to have changed is fetched again, but not at once.
        assert!(turn("http://a/1").is_none());
        lists.hurry();
        assert!(turn("http://a/1").is_none());
        assert!(turn("http://a/2").is_some());
        drop(others);
        tokio::time::advance(AGAIN).await;
        drop(turn("http://a/1").unwrap());
        // One that has failed is due again before its time.
        lists.turn_is_due("http://a/1", RETRY);
        tokio::time::advance(RETRY).await;
        assert!(turn("http://a/1").is_some());
        assert!(turn("http://b/1").is_some());
    }

    /// Time stands still, and goes on by what is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_could_not_be_read_is_read_again_though_its_file_has_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, settings) = authority(folder.path());
        let lists = lists();
        let broker = Arc::clone(&lists.broker);
        let prepared = lists.prepare(Some(settings), trusted(&ca)).await.ok().unwrap();
        lists.put_in_force(prepared);
        let _watching = tokio::spawn(Arc::clone(&lists).keep_watch());
        let good = revoke_unreadably(&ca);
        sleep(Duration::from_secs(1)).await;
        write_unseen(&ca, &good);
        sleep(RETRY / 2).await;
        assert_eq!(broker.revocations.load().len(), 0, "nobody knows");
        sleep(RETRY / 2).await;
        assert_eq!(broker.revocations.load().len(), 1);
    }
}
