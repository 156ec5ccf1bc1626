//! Whom an event is about.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::identity::{CertificateFacts, Identity, PrincipalKind};

/// A client, as far as it is known at the time. One is shared by all events of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The listener that took the connection.
    pub listener: Option<Arc<str>>,
    /// The address of the peer, or the one that a trusted proxy announced.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// The client identifier.
    pub client_id: Option<Arc<str>>,
    /// The Cedar type and id of its identity.
    pub principal: Option<(PrincipalKind, Arc<str>)>,
    /// Its verified certificate.
    pub certificate: Option<Arc<CertificateFacts>>,
}

impl Subject {
    /// A connection of which nothing is known yet but where it comes from. IPv4 addresses
    /// mapped into IPv6 are written as IPv4.
    #[must_use]
    pub fn connection(listener: &Arc<str>, peer: Option<SocketAddr>) -> Self {
        Self {
            listener: Some(Arc::clone(listener)),
            address: peer.map(|peer| peer.ip().to_canonical()),
            port: peer.map(|peer| peer.port()),
            ..Self::default()
        }
    }

    /// The same connection, now that its identity is known.
    #[must_use]
    pub fn identified(mut self, identity: &Identity) -> Self {
        self.principal = Some((identity.kind, Arc::clone(&identity.name)));
        self.certificate.clone_from(&identity.certificate);
        self
    }

    /// The same connection, now that its client identifier is known.
    #[must_use]
    pub fn named(mut self, client_id: Arc<str>) -> Self {
        self.client_id = Some(client_id);
        self
    }

    pub(super) fn weight_bytes(&self) -> usize {
        let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        size_of::<Self>()
            + length(&self.client_id)
            + self.principal.as_ref().map_or(0, |(_, name)| name.len())
    }
}
