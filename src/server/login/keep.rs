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
                tasks.spawn(keep_keys(Arc::clone(method), refresh, FETCH_INTERVAL));
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
async fn keep_keys(method: Arc<Method>, refresh: Duration, interval: Duration) {
    loop {
        let state = method.state();
        if let State::KeyServer(server) = &*state {
            match fetch(server).await {
                Ok(keys) => method.fetched.store(Some(Arc::new((Instant::now(), keys)))),
                Err(error) => {
                    let (name, url) = (method.name(), server.place());
                    warn!(method = %name, %url, %error, "the keys of tokens were not fetched");
                }
            }
        }
        drop(state);
        tokio::time::sleep(interval).await;
        let wanted = method.wanted.notified();
        let _ = tokio::time::timeout(refresh.saturating_sub(interval), wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::Uri;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::identity::method::Conferred;
    use crate::identity::method::token;
    use crate::server::login::{ServerSettings, Settings};

    const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "KID",
                            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    /// Threat: a key that is taken back goes on counting; tokens that have keys fetched for ever.
    #[tokio::test]
    async fn keys_are_fetched_again_when_one_is_wanted_and_no_more_often_than_may_be() {
        const INTERVAL: Duration = Duration::from_millis(100);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let body = Arc::new(Mutex::new(KEYS.replace("KID", "k1")));
        let requests = Arc::new(AtomicUsize::new(0));
        let (answers, counted) = (Arc::clone(&body), Arc::clone(&requests));
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let body = answers.lock().clone();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let timeout = Duration::from_secs(5);
        let server_settings = ServerSettings { url, ca: None, client: None, timeout };
        let refresh = Duration::from_hours(1);
        let tokens = token::Settings {
            issuer: "i".into(),
            audience: vec!["a".into()],
            leeway: Duration::ZERO,
            name_claim: "sub".into(),
            client_id_claim: None,
            groups_claim: "groups".into(),
            conferred: Conferred::default(),
        };
        let keys = KeysFrom::Url { server: server_settings, refresh };
        let settings = Settings { name: "t".into(), kind: None, how: How::Token { keys, tokens } };
        let method = Arc::new(Method::open(&settings).unwrap());
        let keeps = tokio::spawn(keep_keys(Arc::clone(&method), refresh, INTERVAL));
        let has = async |kid: &str| {
            loop {
                let fetched = method.fetched.load_full();
                if fetched.is_some_and(|fetched| format!("{:?}", fetched.1).contains(kid)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        has("k1").await;
        *body.lock() = KEYS.replace("KID", "k2");
        let begun = Instant::now();
        method.wanted.notify_one();
        has("k2").await;
        assert!(begun.elapsed() < refresh / 2);
        // However often one is wanted.
        let begun = Instant::now();
        let before = requests.load(Ordering::Relaxed);
        while begun.elapsed() < 3 * INTERVAL {
            method.wanted.notify_one();
            tokio::task::yield_now().await;
        }
        assert!(requests.load(Ordering::Relaxed) - before <= 4);
        // What cannot be used changes nothing.
        *body.lock() = "{}".to_owned();
        let before = requests.load(Ordering::Relaxed);
        while requests.load(Ordering::Relaxed) < before + 2 {
            method.wanted.notify_one();
            tokio::task::yield_now().await;
        }
        has("k2").await;
        keeps.abort();
        server.abort();
    }
}
