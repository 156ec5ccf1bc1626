//! What the methods do by themselves: files that change are read again, and keys are fetched.
//!
//! A file is put in force only if all of it is fine; else what was before stays. One that is
//! still being written is the beginning of a file: it lets fewer in, never more.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::https::{Https, NoAnswer};
use super::method::{Method, State};
use super::{How, KeysFrom, Logins, Prepared};
use crate::audit::{Event, Kind};
use crate::identity::method::token::{KEYS_BYTES_MAX, Keys, KeysError};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Keys are not fetched more often, whatever tokens name.
const FETCH_INTERVAL: Duration = Duration::from_secs(30);

/// What a file is by: that it has changed shows in one of these.
pub(super) type Mark = (u64, u64, i64, i64, u64);

pub(super) fn mark(path: &Path) -> Option<Mark> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.size()))
}

impl How {
    /// The file that is watched.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Password { file }
            | Self::Scram { file }
            | Self::Token { keys: KeysFrom::File(file), .. } => Some(file),
            Self::Token { keys: KeysFrom::Url { .. }, .. } | Self::Http { .. } => None,
        }
    }
}

impl Logins {
    /// Keeps files and keys up to date for as long as it is polled.
    pub(in crate::server) async fn keep(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for method in self.methods.values() {
            if let How::Token { keys: KeysFrom::Url { refresh, .. }, .. } = method.settings().how {
                tasks.spawn(keep_keys(Arc::clone(method), refresh));
            }
        }
        let watched = self.methods.values().any(|method| method.settings().how.file().is_some());
        if watched {
            tasks.spawn(Arc::clone(&self).keep_files());
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn keep_files(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let logins = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || logins.look()).await.is_err() {
                return;
            }
        }
    }

    /// Reads what has changed.
    fn look(&self) {
        for method in self.methods.values() {
            let settings = method.settings();
            if settings.how.file().is_none() || !method.has_changed() {
                continue;
            }
            let name = Arc::clone(&settings.name);
            let kind = match State::load(settings) {
                Ok(state) => {
                    self.put_in_force(Prepared(vec![(Arc::clone(method), state)]));
                    info!(method = %name, "credentials reloaded");
                    Kind::CredentialsReloaded { method: name }
                }
                Err(error) => {
                    let why = error.to_string();
                    warn!("{why}; what was read before stays in force");
                    Kind::CredentialsReloadFailed { method: name, why: why.into() }
                }
            };
            self.broker.audit.record(Event::broker(kind));
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum NoKeys {
    #[error(transparent)]
    Server(#[from] NoAnswer),
    #[error("its answer {0}")]
    Keys(#[from] KeysError),
}

async fn fetch(server: &Https) -> Result<Keys, NoKeys> {
    let json = server.get(KEYS_BYTES_MAX).await?;
    Ok(Keys::parse(&json)?)
}

/// Fetches the keys of one method, now and then, and when a token names one that is not there.
async fn keep_keys(method: Arc<Method>, refresh: Duration) {
    loop {
        let state = method.state();
        if let State::KeyServer(server) = &*state {
            match fetch(server).await {
                Ok(keys) => method.fetched.store(Some(Arc::new((Instant::now(), keys)))),
                Err(error) => {
                    let (name, url) = (method.name(), server.url());
                    warn!(method = %name, %url, %error, "the keys of tokens were not fetched");
                }
            }
        }
        drop(state);
        tokio::time::sleep(FETCH_INTERVAL).await;
        let _ =
            tokio::time::timeout(refresh.saturating_sub(FETCH_INTERVAL), method.wanted.notified())
                .await;
    }
}
