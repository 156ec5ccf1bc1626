//! Who a client is, and which client identifiers it may use.
//!
//! An identity comes from a certificate that the TLS handshake has verified, from a trusted
//! proxy that has verified one, from a [`method`] that was proven, or from nobody. No byte that
//! the client writes in CONNECT makes one unless a method has proven it.

mod account;
mod binding;
pub mod certificate;
pub(crate) mod field;
mod issuer;
pub mod method;
pub mod revocation;
pub mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use account::Account;
pub use binding::{Binding, BindingError};
pub use certificate::{CertificateError, CertificateFacts};
pub use issuer::{Anchor, TrustedIssuers};

pub use rule::{Asked, NamedBy, Rule, RuleError};

use crate::mqtt::ReasonCode;
use crate::pki;
use certificate::NameForm;

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

/// Where identities of a listener come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The source of the identity.
    pub source: Source,
    /// The principal type that clients of this listener get.
    pub kind: PrincipalKind,
    /// Which client identifiers an identity may use.
    pub binding: Binding,
    /// The rules of [`Source::Rules`].
    pub rules: Vec<Arc<Rule>>,
}

impl Settings {
    /// True where clients choose their client ids freely, or some of them do.
    #[must_use]
    pub fn is_unbound(&self) -> bool {
        match self.source {
            Source::Rules => self.rules.iter().any(|rule| rule.binding == Binding::Unbound),
            _ => self.binding == Binding::Unbound,
        }
    }

    /// True where client ids are bound to identities, or some are.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        match self.source {
            Source::Rules => self.rules.iter().any(|rule| rule.binding != Binding::Unbound),
            _ => self.binding != Binding::Unbound,
        }
    }
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
    /// The methods of the listener's list: a password, a token, or another.
    Authentication,
    /// The only rule of the listener that fits the client certificate.
    Rules,
    /// What a trusted proxy says in the PROXY protocol's TLS common-name field.
    Proxy,
}

/// Why a client has no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate lacks the name that the listener takes identities from.
    #[error("the certificate has no {form} to take the identity from")]
    NameMissing {
        /// The name that is missing.
        form: NameForm,
    },
    /// A DNS name with a wildcard stands for many, so it identifies none.
    #[error("the DNS name of the certificate has a wildcard")]
    Wildcard,
    /// The certificate itself is not acceptable.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The name that the proxy says is not acceptable.
    #[error("from the proxy: {0}")]
    ProxyName(CertificateError),
    /// The identities of this listener come from another source.
    #[error("identities of this listener do not come from there, but from {expected:?}")]
    OtherSource {
        /// Where they come from.
        expected: Source,
    },
}

impl IdentityError {
    /// What the client is told.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        ReasonCode::NotAuthorized
    }
}

impl Identity {
    /// The identity that a verified certificate proves at a listener.
    ///
    /// # Errors
    /// When the certificate lacks the name that `settings` ask for, or `settings` take identities
    /// from elsewhere.
    pub fn from_certificate(
        settings: &Settings,
        facts: CertificateFacts,
    ) -> Result<Self, IdentityError> {
        let (form, name) = match settings.source {
            Source::CertificateCn => (NameForm::CommonName, Some(&facts.cn)),
            Source::CertificateSanDns => (NameForm::DnsName, facts.dns_names.first()),
            Source::CertificateSanUri => (NameForm::Uri, facts.uris.first()),
            expected @ (Source::Anonymous
            | Source::Proxy
            | Source::Authentication
            | Source::Rules) => {
                return Err(IdentityError::OtherSource { expected });
            }
        };
        let name = name
            .filter(|name| !name.is_empty())
            .map(Arc::clone)
            .ok_or(IdentityError::NameMissing { form })?;
        if form == NameForm::DnsName && name.contains('*') {
            return Err(IdentityError::Wildcard);
        }
        Ok(Self { certificate: Some(Arc::new(facts)), ..Self::named(settings.kind, name) })
    }

    /// The identity that a trusted proxy vouches for.
    ///
    /// # Errors
    /// When the name is empty, too long or unsafe, or `settings` take identities from elsewhere.
    pub fn from_proxy(settings: &Settings, common_name: &str) -> Result<Self, IdentityError> {
        if settings.source != Source::Proxy {
            return Err(IdentityError::OtherSource { expected: settings.source });
        }
        let name = certificate::check_name(NameForm::CommonName, common_name)
            .map_err(IdentityError::ProxyName)?;
        Ok(Self::named(settings.kind, name))
    }

    /// The identity of every client of a listener that asks nobody.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::named(PrincipalKind::Anonymous, "anonymous".into())
    }

    fn named(kind: PrincipalKind, name: Arc<str>) -> Self {
        Self { kind, name, groups: Vec::new(), tags: BTreeMap::new(), certificate: None }
    }
}

/// Reads `data` as a client's certificate that also is its own authority, and makes identities of
/// it. For the fuzzer: nothing may panic, whatever `data` is, no identity has a name that could
/// be read in two ways, and a client id that a binding assigns is one that it allows.
#[doc(hidden)]
pub fn fuzz_client_certificate(data: &[u8]) {
    let der = rustls::pki_types::CertificateDer::from(data);
    let Ok(trusted) = TrustedIssuers::new(std::slice::from_ref(&der)) else { return };
    let bindings = [Binding::Exact, Binding::Prefix("-".into()), Binding::Unbound];
    for chain in [vec![der.clone()], vec![der.clone(), der.clone()]] {
        let Ok((facts, _)) = CertificateFacts::from_verified_chain(&chain, &trusted) else {
            continue;
        };
        for source in [Source::CertificateCn, Source::CertificateSanDns, Source::CertificateSanUri]
        {
            let settings = Settings {
                source,
                kind: PrincipalKind::Device,
                binding: Binding::Exact,
                rules: Vec::new(),
            };
            let Ok(identity) = Identity::from_certificate(&settings, facts.clone()) else {
                continue;
            };
            assert_eq!(pki::unsafe_character(&identity.name), None, "{identity:?}");
            for binding in &bindings {
                if let Ok(assigned) = binding.assign(&identity, "fuzz") {
                    assert!(
                        binding.check(&identity, &assigned).is_ok(),
                        "{binding:?} {identity:?}"
                    );
                }
            }
        }
    }
}
