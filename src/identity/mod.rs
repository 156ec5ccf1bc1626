//! Who a client is, and which client identifiers it may use.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A client's identity, as proven by its certificate or granted by its listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The Cedar type of the principal.
    pub kind: PrincipalKind,
    /// The Cedar id of the principal.
    pub name: Arc<str>,
    /// Groups it is directly in.
    pub groups: Vec<Arc<str>>,
    /// Tags, for `${tag:NAME}` and `principal.getTag("NAME")`.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// The verified certificate.
    pub certificate: Option<Arc<CertificateFacts>>,
}

/// The types a principal can have in policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PrincipalKind {
    /// A machine.
    Device,
    /// A person.
    User,
    /// A backend workload.
    Service,
    /// A client without credentials.
    Anonymous,
}

impl PrincipalKind {
    /// The name of the Cedar entity type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "Device",
            Self::User => "User",
            Self::Service => "Service",
            Self::Anonymous => "Anonymous",
        }
    }
}

/// What policies and the audit log may know of a verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The common name of the subject; empty where it has none.
    pub cn: Arc<str>,
    /// Lower-case hex of the SHA-256 of the certificate.
    pub fingerprint: Arc<str>,
    /// Lower-case hex of the SHA-256 of the issuing CA's SubjectPublicKeyInfo.
    pub issuer: Arc<str>,
    /// Lower-case hex of the serial number, without leading zeros.
    pub serial: Arc<str>,
    /// The last second of validity, Unix time.
    pub not_after_unix_s: i64,
    /// The first SAN URI with scheme `spiffe`.
    pub spiffe: Option<Arc<str>>,
    /// SAN DNS names, in order.
    pub dns_names: Vec<Arc<str>>,
    /// SAN URIs, in order.
    pub uris: Vec<Arc<str>>,
}

/// Where identities of a listener come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The source of the identity.
    pub source: Source,
    /// The principal type that clients of this listener get.
    pub kind: PrincipalKind,
    /// Which client identifiers an identity may use.
    pub binding: Binding,
}

/// The source of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The common name of the client certificate.
    CertificateCn,
    /// The first DNS name among its subject alternative names.
    CertificateSanDns,
    /// The first URI among its subject alternative names.
    CertificateSanUri,
    /// Nobody is asked: every client is `Anonymous::"anonymous"`.
    Anonymous,
    /// What a trusted proxy says in the PROXY protocol's TLS common-name field.
    Proxy,
}

/// Which client identifiers an identity may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The client id equals the identity.
    Exact,
    /// The client id is the identity, or begins with the identity and this separator, which no
    /// identity may contain.
    Prefix(String),
    /// Any client id. A session still belongs to the principal that made it.
    Unbound,
}
