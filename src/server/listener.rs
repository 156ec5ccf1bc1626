//! A listener: where connections come from, and what is demanded of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::gates::{Profile, admission};
use crate::identity;

/// One listener as configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name: `Listener::"name"` in policies.
    pub name: Arc<str>,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// TLS, unless the listener is plaintext.
    pub tls: Option<Tls>,
    /// MQTT inside WebSocket.
    pub websocket: Option<WebSocket>,
    /// Senders that have to announce the client by PROXY protocol v1 or v2; `None` is off.
    pub proxy_protocol: Option<Vec<IpNet>>,
    /// Where a client's identity comes from, and which client ids it may use.
    pub identity: identity::Settings,
    /// The methods by which clients prove who they are beside certificates, in their order.
    pub authentication: Vec<Arc<str>>,
    /// Who may connect.
    pub admission: admission::Settings,
    /// Limits, caps and features.
    pub profile: Arc<Profile>,
    /// The limits of those clients whose rule names others, by the rule.
    pub rule_profiles: BTreeMap<Arc<str>, Arc<Profile>>,
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket; created with mode 0600.
    Unix(PathBuf),
}

impl Endpoint {
    /// True when only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The key within `[listener.NAME]`.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "address",
            Self::Unix(_) => "unix",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What to do where the system lets nobody listen, as the end of a message.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another, or end what listens there",
        io::ErrorKind::AddrNotAvailable => "; name an address of this machine",
        io::ErrorKind::PermissionDenied => {
            "; choose a port from 1024 on or a folder of this user, or give it the right"
        }
        io::ErrorKind::NotFound => "; make its folder first",
        _ => "",
    }
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// The private key, PEM; refused when others may read it.
    pub key: PathBuf,
    /// CAs that client certificates must come from, PEM; `None` only when the listener asks for
    /// no client certificates by name.
    pub client_ca: Option<PathBuf>,
    /// Take TLS 1.2 as well (ECDHE and AEAD only).
    pub tls_1_2: bool,
}

/// WebSocket of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// The path of the upgrade request.
    pub path: String,
    /// Values of `Origin` that are allowed. Empty refuses every request that has an `Origin`,
    /// that is: every browser. `*` allows every page.
    pub origins: Vec<String>,
}
