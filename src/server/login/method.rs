//! One method: what it takes for its kind, and how it judges that.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tracing::warn;
use zeroize::Zeroizing;

use super::backend;
use super::cache::KEPT_MAX;
use super::https::Https;
use super::keep::{Mark, mark};
use super::proof::Pending;
use super::{Attempt, How, KeysFrom, LoginError, LoginProblem, Logins, Settings, Step};
use crate::audit::{Event, Kind};
use crate::gates::grinding;
use crate::gates::records::RecordLimit;
use crate::identity::PrincipalKind;
use crate::identity::method::password::{self, Hash, Known, PASSWORD_BYTES_MAX, Passwords};
use crate::identity::method::scram::{self, Exchange, Records};
use crate::identity::method::token::{self, Keys, TokenError};
use crate::identity::method::{Accepted, Refusal, Verdict};
use crate::pki::files;
use crate::server::breaker::Breaker;

/// The name of the enhanced authentication by token.
pub(super) const TOKEN_METHOD: &str = "JWT";
/// Keys of a server that has not answered for so long are not good any more.
const KEYS_AGE_MAX: Duration = Duration::from_hours(24);

/// One method.
#[derive(Debug)]
pub(in crate::server) struct Method {
    settings: Settings,
    state: ArcSwap<State>,
    /// Keys that came from a server, and when.
    pub(super) fetched: ArcSwapOption<(Instant, Keys)>,
    /// A token names a key that is not there.
    pub(super) wanted: Notify,
    pub(super) breaker: Breaker,
    pub(super) requests: Semaphore,
    /// What its file was by when it was read.
    seen: Mutex<Option<Mark>>,
    /// Upgrades that fail are told once a second.
    upgrades: RecordLimit,
}

/// What its files hold.
#[derive(Debug)]
pub(super) enum State {
    Passwords(Passwords),
    Keys(Keys),
    /// Keys come from there.
    KeyServer(Https),
    Records(Records),
    Backend(Https),
}

impl State {
    /// Reads the files of a method.
    pub(super) fn load(settings: &Settings) -> Result<Self, Box<LoginError>> {
        let under = |key| {
            move |error| Box::new(LoginError { method: Arc::clone(&settings.name), key, error })
        };
        match &settings.how {
            How::Password { file } => Passwords::load(file)
                .map(Self::Passwords)
                .map_err(|error| under("file")(error.into())),
            How::Scram { file } => {
                Records::load(file).map(Self::Records).map_err(|error| under("file")(error.into()))
            }
            How::Token { keys: KeysFrom::File(file), .. } => {
                load_keys(file).map(Self::Keys).map_err(under("keys"))
            }
            How::Token { keys: KeysFrom::Url { server, .. }, .. } => Https::new(server)
                .map(Self::KeyServer)
                .map_err(|error| under("keys_url")(error.into())),
            How::Http { server, .. } => {
                Https::new(server).map(Self::Backend).map_err(|error| under("url")(error.into()))
            }
        }
    }
}

fn load_keys(path: &Path) -> Result<Keys, LoginProblem> {
    let json = files::read(path)?;
    Keys::parse(&json).map_err(|error| LoginProblem::Keys { path: path.to_owned(), error })
}

fn refused(refusal: Refusal) -> Step {
    Step::Decided(Verdict::Refused(refusal))
}

fn accepted(accepted: Accepted) -> Step {
    Step::Decided(Verdict::Accepted(accepted))
}

const NOT_MY_KIND: Step = Step::Decided(Verdict::NotMyKind);

/// A state that is not of the method: cannot be, and would be a refusal.
fn not_ready() -> Step {
    refused(Refusal::Unavailable("the method is not ready".to_owned()))
}

impl Method {
    pub(super) fn open(settings: &Settings) -> Result<Self, Box<LoginError>> {
        let requests = match settings.how {
            How::Http { requests_max, .. } => usize::try_from(requests_max).unwrap_or(1),
            _ => 1,
        };
        // Before the file is read, so that no change is missed.
        let seen = settings.how.file().and_then(|file| mark(file));
        Ok(Self {
            seen: Mutex::new(seen),
            state: ArcSwap::from_pointee(State::load(settings)?),
            settings: settings.clone(),
            fetched: ArcSwapOption::empty(),
            wanted: Notify::new(),
            breaker: Breaker::default(),
            requests: Semaphore::new(requests),
            upgrades: RecordLimit::per_second(1),
        })
    }

    /// The principal type of those it accepts, where it is not the listener's.
    pub(in crate::server) fn kind(&self) -> Option<PrincipalKind> {
        self.settings.kind
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its name in the configuration.
    pub(in crate::server) fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// True when its file is another one than it was the last time.
    pub(super) fn has_changed(&self) -> bool {
        let now = self.settings.how.file().and_then(|file| mark(file));
        std::mem::replace(&mut *self.seen.lock(), now) != now
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    pub(super) fn put(&self, state: State) {
        self.state.store(Arc::new(state));
        self.wanted.notify_one();
    }

    /// False once the file it rests on does not have the name any more.
    pub(super) fn knows(&self, name: &str) -> bool {
        match &**self.state.load() {
            State::Passwords(passwords) => passwords.has(name),
            State::Records(records) => records.has(name),
            State::Keys(_) | State::KeyServer(_) | State::Backend(_) => true,
        }
    }

    pub(super) async fn judge(&self, attempt: &Attempt<'_>, logins: &Logins) -> Step {
        match &self.settings.how {
            How::Password { file } => self.judge_password(attempt, logins, file).await,
            How::Http { .. } => self.judge_by_backend(attempt, logins).await,
            How::Token { .. } | How::Scram { .. } => self.judge_at_once(attempt, logins),
        }
    }

    /// As [`Self::judge`], for the kinds that have nothing to wait for.
    pub(super) fn judge_at_once(&self, attempt: &Attempt<'_>, logins: &Logins) -> Step {
        match &self.settings.how {
            How::Token { tokens, .. } => self.judge_token(attempt, logins, tokens),
            How::Scram { .. } => self.begin_scram(attempt, logins),
            How::Password { .. } | How::Http { .. } => NOT_MY_KIND,
        }
    }

    async fn judge_password(&self, attempt: &Attempt<'_>, logins: &Logins, file: &Path) -> Step {
        let Some((username, password)) = attempt.offer.as_password() else { return NOT_MY_KIND };
        let counted = match logins.grinding.take(attempt.address, Some(username), attempt.now) {
            Ok(counted) => counted,
            Err(throttled) => return refused(throttled.into()),
        };
        if password.len() > PASSWORD_BYTES_MAX {
            return refused(Refusal::Wrong(format!("a password of {} bytes", password.len())));
        }
        let key = logins.cache.key(&[
            b"password",
            self.settings.name.as_bytes(),
            username.as_bytes(),
            password,
        ]);
        let era = match logins.cache.find(&key, attempt.now) {
            Ok(known) => {
                logins.grinding.give_back(counted);
                return accepted(known);
            }
            Err(era) => era,
        };
        let state = self.state();
        let State::Passwords(passwords) = &*state else { return not_ready() };
        let (hash, known) = passwords.hash_of(username);
        let Some(hash) = hash.cloned() else { return not_ready() };
        let (secret, compared) = (Zeroizing::new(password.to_vec()), hash.clone());
        let hashes = logins.broker.metrics.password_hashes.clone();
        let computed = logins.hashers.compute(move || {
            hashes.inc();
            compared.is_of(&secret)
        });
        let same = match computed.await {
            Ok(Some(same)) => same,
            Ok(None) => {
                logins.grinding.give_back(counted);
                return refused(Refusal::Unavailable("the password was not hashed".to_owned()));
            }
            Err(full) => {
                logins.grinding.give_back(counted);
                return refused(Refusal::Busy(full.to_string()));
            }
        };
        match (known, same) {
            (Known::Yes, true) => {
                logins.grinding.give_back(counted);
                let yes = Accepted::named(username.into());
                logins.cache.keep(key, era, &yes, KEPT_MAX, attempt.now);
                if hash.is_outdated() {
                    self.upgrade(logins, file, username, password, &hash).await;
                }
                accepted(yes)
            }
            (Known::Yes, false) => {
                refused(Refusal::Wrong(format!("the password of {username:?} is wrong")))
            }
            (Known::No, _) => refused(Refusal::Wrong(format!("there is no name {username:?}"))),
        }
    }

    /// Puts a hash of today in the place of an old one. The login does not depend on it.
    async fn upgrade(
        &self,
        logins: &Logins,
        file: &Path,
        username: &str,
        password: &[u8],
        old: &Hash,
    ) {
        let secret = Zeroizing::new(password.to_vec());
        let hashed = logins.hashers.compute(move || password::hash(&secret)).await;
        // Whoever waits for it is served first: the next login tries again.
        let Ok(Some(Ok(new))) = hashed else { return };
        let (file, name, old, scheme) =
            (file.to_owned(), username.to_owned(), old.clone(), old.scheme());
        let method = Arc::clone(&self.settings.name);
        let audit = logins.broker.audit.clone();
        let may_tell = self.upgrades.may_record(Instant::now());
        tokio::task::spawn_blocking(move || match password::upgrade(&file, &name, &old, &new) {
            Ok(()) => {
                let name = name.into();
                audit.record(Event::broker(Kind::CredentialUpgraded { method, name, scheme }));
            }
            Err(error) if may_tell => warn!(%method, %error, "a hash stays outdated"),
            Err(_) => {}
        });
    }

    async fn judge_by_backend(&self, attempt: &Attempt<'_>, logins: &Logins) -> Step {
        let Some((username, password)) = attempt.offer.as_password() else { return NOT_MY_KIND };
        let counted = match logins.grinding.take(attempt.address, Some(username), attempt.now) {
            Ok(counted) => counted,
            Err(throttled) => return refused(throttled.into()),
        };
        let answer = backend::ask(self, attempt, username, password, logins).await;
        if !matches!(answer, Err(Refusal::Wrong(_))) {
            logins.grinding.give_back(counted);
        }
        match answer {
            Ok(yes) => accepted(yes),
            Err(refusal) => refused(refusal),
        }
    }

    fn judge_token(
        &self,
        attempt: &Attempt<'_>,
        logins: &Logins,
        tokens: &token::Settings,
    ) -> Step {
        let offer = &attempt.offer;
        let data = match (offer.method, offer.password) {
            (Some(TOKEN_METHOD), _) => offer.data,
            (None, Some(password)) if token::is_token(password) => password,
            _ => return NOT_MY_KIND,
        };
        let counted = match logins.grinding.take(attempt.address, None, attempt.now) {
            Ok(counted) => counted,
            Err(throttled) => return refused(throttled.into()),
        };
        let state = self.state();
        let fetched = self.fetched.load_full();
        let keys = match (&*state, fetched.as_deref()) {
            (State::Keys(keys), _) => keys,
            (State::KeyServer(_), Some((at, keys)))
                if attempt.now.saturating_duration_since(*at) < KEYS_AGE_MAX =>
            {
                keys
            }
            _ => {
                logins.grinding.give_back(counted);
                self.wanted.notify_one();
                return refused(Refusal::Unavailable("there are no keys yet".to_owned()));
            }
        };
        match token::verify(data, keys, tokens) {
            Ok(yes) => {
                logins.grinding.give_back(counted);
                accepted(yes)
            }
            Err(error) => {
                if matches!(error, TokenError::UnknownKey { kid: Some(_) }) {
                    self.wanted.notify_one();
                }
                refused(Refusal::Wrong(error.to_string()))
            }
        }
    }

    fn begin_scram(&self, attempt: &Attempt<'_>, logins: &Logins) -> Step {
        let Some(scram::METHOD) = attempt.offer.method else { return NOT_MY_KIND };
        let name = scram::name_of(attempt.offer.data);
        let counted = match logins.grinding.take(attempt.address, name.as_deref(), attempt.now) {
            Ok(counted) => counted,
            Err(throttled) => return refused(throttled.into()),
        };
        let state = self.state();
        let State::Records(records) = &*state else { return not_ready() };
        match Exchange::begin(records, attempt.offer.data) {
            Ok((exchange, challenge)) => {
                Step::Challenge(Box::new(Pending { exchange, counted }), challenge)
            }
            Err(error) => refused(Refusal::Wrong(error.to_string())),
        }
    }
}

impl From<grinding::Throttled> for Refusal {
    fn from(throttled: grinding::Throttled) -> Self {
        Self::Throttled(throttled.to_string())
    }
}
