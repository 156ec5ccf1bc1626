//! A listener: where connections come from, and what is demanded of them.

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
    /// Who may connect.
    pub admission: admission::Settings,
    /// Limits, caps and features.
    pub profile: Arc<Profile>,
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket; created with mode 0600.
    Unix(PathBuf),
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
