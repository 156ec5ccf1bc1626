//! The further methods of authentication at work: what the listeners' lists name.
//!
//! A [`Chain`] is the list of one listener. The first method whose kind of credential was offered
//! decides; nothing but "not my kind" leads to the next, and no error, no timeout and no missing
//! file does. Before anything is computed, failures are counted ([`Grinding`]); what is slow is
//! computed elsewhere ([`pool`]) or asked for elsewhere ([`https`]), within the connection's own
//! deadline.

mod backend;
mod cache;
mod https;
mod keep;
mod method;
mod pool;
mod proof;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::gates::grinding::{self, Grinding};
use crate::identity::PrincipalKind;
use crate::identity::method::password::CredentialFileError;
use crate::identity::method::token::{self, KeysError};
use crate::identity::method::{Conferred, Offer, Verdict};
use crate::pki::files::FileError;

use cache::YesCache;
pub use https::{Settings as ServerSettings, SetupError};
use method::{Method, State};
use pool::Hashers;
pub(super) use proof::{Ends, Pending, Proof};

/// One method as configured: `[authentication.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// The principal type of those it accepts; `None`: what the listener says.
    pub kind: Option<PrincipalKind>,
    /// What it is.
    pub how: How,
}

impl Settings {
    /// True for a method that writes to its file: a hash that is no longer good enough is replaced
    /// at the next login.
    #[must_use]
    pub const fn replaces_hashes(&self) -> bool {
        matches!(self.how, How::Password { .. })
    }
}

/// The kinds of method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// User name and password, against a file of hashes.
    Password {
        /// The file.
        file: PathBuf,
    },
    /// A JSON Web Token, in the password or by enhanced authentication.
    Token {
        /// Where the keys come from.
        keys: KeysFrom,
        /// What tokens have to say.
        tokens: token::Settings,
    },
    /// SCRAM-SHA-256, by enhanced authentication.
    Scram {
        /// The file of records.
        file: PathBuf,
    },
    /// User name and password, judged by a server.
    Http {
        /// The server.
        server: ServerSettings,
        /// What it may confer.
        conferred: Conferred,
        /// How long a yes is kept.
        kept: Duration,
        /// Requests under way at a time.
        requests_max: u32,
    },
}

impl How {
    /// What its tokens or answers may confer.
    #[must_use]
    pub const fn conferred(&self) -> Option<&Conferred> {
        match self {
            Self::Token { tokens, .. } => Some(&tokens.conferred),
            Self::Http { conferred, .. } => Some(conferred),
            Self::Password { .. } | Self::Scram { .. } => None,
        }
    }

    /// True when it takes every password there is.
    #[must_use]
    pub const fn takes_passwords(&self) -> bool {
        matches!(self, Self::Password { .. } | Self::Http { .. })
    }
}

/// Where the keys of tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysFrom {
    /// A file with a JSON Web Key Set.
    File(PathBuf),
    /// A server that gives one.
    Url {
        /// The server.
        server: ServerSettings,
        /// How often it is asked.
        refresh: Duration,
    },
}

/// Bounds of all methods together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How much may fail.
    pub failures: grinding::Settings,
    /// Passwords that may wait to be hashed.
    pub hashes_waiting_max: u32,
}

/// Why a method cannot be used, under the key that is about it.
#[derive(Debug, thiserror::Error)]
#[error("authentication.{method}.{key}: {error}")]
pub struct LoginError {
    /// The method.
    pub method: Arc<str>,
    /// The key within `[authentication.NAME]`.
    pub key: &'static str,
    /// What is wrong.
    #[source]
    pub error: LoginProblem,
}

/// What is wrong with a method.
#[derive(Debug, thiserror::Error)]
pub enum LoginProblem {
    /// A file of passwords or records.
    #[error(transparent)]
    Credentials(#[from] CredentialFileError),
    /// A file of keys.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("{}: {error}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KeysError,
    },
    /// The files for a server.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The system.
    #[error("the system gives no threads or no random numbers")]
    System,
}

/// Reads the files of a method, as a start would.
///
/// # Errors
/// What is wrong with them.
pub fn check(settings: &Settings) -> Result<(), Box<LoginError>> {
    State::load(settings).map(drop)
}

/// All methods of a broker, and what they share.
#[derive(Debug)]
pub(super) struct Logins {
    methods: BTreeMap<Arc<str>, Arc<Method>>,
    grinding: Grinding,
    hashers: Hashers,
    cache: YesCache,
    broker: Arc<Broker>,
    /// Counts the times that files were read anew: who logged in before is looked at again.
    era: AtomicU64,
}

impl Logins {
    /// Reads what the methods need, and starts the threads that hash.
    pub(super) fn open(
        settings: &[Settings],
        limits: &Limits,
        broker: &Arc<Broker>,
        now: Instant,
    ) -> Result<Arc<Self>, Box<LoginError>> {
        let mut methods = BTreeMap::new();
        for one in settings {
            methods.insert(Arc::clone(&one.name), Arc::new(Method::open(one)?));
        }
        let system = || {
            let method = settings.first().map_or_else(|| "".into(), |one| Arc::clone(&one.name));
            Box::new(LoginError { method, key: "method", error: LoginProblem::System })
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let hashes = settings.iter().any(|one| matches!(one.how, How::Password { .. }));
        let threads = if hashes { cores.saturating_sub(1).max(1) } else { 0 };
        let waiting_max = usize::try_from(limits.hashes_waiting_max).unwrap_or(1);
        Ok(Arc::new(Self {
            methods,
            grinding: Grinding::new(limits.failures, now),
            hashers: Hashers::start(threads, waiting_max).map_err(|_| system())?,
            cache: YesCache::new().ok_or_else(system)?,
            broker: Arc::clone(broker),
            era: AtomicU64::new(0),
        }))
    }

    /// The list of a listener; `None` where it has none.
    pub(super) fn chain(self: &Arc<Self>, names: &[Arc<str>]) -> Option<Chain> {
        let methods: Vec<_> =
            names.iter().filter_map(|name| self.methods.get(name)).map(Arc::clone).collect();
        (!methods.is_empty()).then(|| Chain { methods, logins: Arc::clone(self) })
    }

    /// Drops every yes that is kept.
    pub(super) fn forget(&self) {
        self.cache.clear();
    }

    /// Reads all files again; what was wrong stays as it was.
    pub(super) fn prepare(&self) -> Result<Prepared, Box<LoginError>> {
        let load = |method: &Arc<Method>| {
            let state = State::load(method.settings())?;
            Ok((Arc::clone(method), state))
        };
        self.methods.values().map(load).collect::<Result<_, _>>().map(Prepared)
    }

    /// What was prepared holds from now on, and what rests on what was before is looked at again.
    pub(super) fn put_in_force(&self, prepared: Prepared) {
        for (method, state) in prepared.0 {
            method.put(state);
        }
        self.cache.clear();
        self.era.fetch_add(1, Ordering::AcqRel);
        if !self.methods.is_empty() {
            self.broker.rouse_all();
        }
    }
}

/// Files that were read and are not in force yet.
#[derive(Debug)]
pub(super) struct Prepared(Vec<(Arc<Method>, State)>);

/// What a client offers, and where.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) offer: Offer<'a>,
    pub(super) listener: &'a str,
    pub(super) client_id: &'a str,
    pub(super) address: Option<IpAddr>,
    pub(super) now: Instant,
}

/// What comes of an attempt.
#[derive(Debug)]
pub(super) enum Step {
    /// It is decided.
    Decided(Verdict),
    /// The client has to answer this.
    Challenge(Box<Pending>, Vec<u8>),
}

/// The methods of a listener, in their order.
#[derive(Debug)]
pub(super) struct Chain {
    methods: Vec<Arc<Method>>,
    logins: Arc<Logins>,
}

impl Chain {
    /// Asks one method after the other until one recognises what is offered: that one, and what
    /// it says.
    pub(super) async fn judge(&self, attempt: &Attempt<'_>) -> (Option<&Arc<Method>>, Step) {
        for method in &self.methods {
            match Box::pin(method.judge(attempt, &self.logins)).await {
                Step::Decided(Verdict::NotMyKind) => {}
                step => return (Some(method), step),
            }
        }
        (None, Step::Decided(Verdict::NotMyKind))
    }

    /// What they share.
    pub(super) fn logins(&self) -> &Arc<Logins> {
        &self.logins
    }
}
