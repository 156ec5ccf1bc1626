//! The files of running listeners, read again.

use std::sync::Arc;

use super::login::{self, Logins};
use super::tls_config::{self, TlsSetup};
use super::{BindError, Gatehouse, listener};
use crate::identity::TrustedIssuers;

/// Reads the files of all listeners again: those of TLS, and of passwords, records and keys.
#[derive(Debug)]
pub struct TlsReload(pub(super) Vec<Arc<Gatehouse>>, pub(super) Arc<Logins>);

impl TlsReload {
    /// Reads and checks the files of every listener, of TLS as `settings` name them now.
    ///
    /// # Errors
    /// Of the first whose files are not fine; nothing has changed.
    pub fn prepare(&self, settings: &[listener::Settings]) -> Result<PreparedTls, BindError> {
        let mut prepared = Vec::new();
        for gatehouse in &self.0 {
            let Some(running) = &gatehouse.settings.tls else { continue };
            let named = settings.iter().find(|one| one.name == gatehouse.settings.name);
            let tls = named.and_then(|one| one.tls.as_ref()).unwrap_or(running);
            let setup = tls_config::server_config(tls, &gatehouse.broker.revocations);
            let setup = setup.map_err(|error| BindError::Tls {
                listener: Arc::clone(&gatehouse.settings.name),
                error: error.into(),
            })?;
            prepared.push((Arc::clone(gatehouse), Arc::new(setup)));
        }
        let logins = self.1.prepare()?;
        Ok(PreparedTls(prepared, Arc::clone(&self.1), logins))
    }
}

impl TlsReload {
    /// Drops every yes that methods of authentication have said and that was kept: somebody is
    /// not to be let in any more.
    pub fn forget_logins(&self) {
        self.1.forget();
    }
}

/// Files that were read and are not in force yet.
#[derive(Debug)]
pub struct PreparedTls(Vec<(Arc<Gatehouse>, Arc<TlsSetup>)>, Arc<Logins>, login::Prepared);

impl PreparedTls {
    /// The authorities that clients' certificates will have to come from, of all listeners.
    #[must_use]
    pub fn trusted_issuers(&self) -> TrustedIssuers {
        let setups = self.0.iter().map(|(_, setup)| Arc::clone(&setup.trusted_issuers));
        TrustedIssuers::of_all(setups)
    }

    /// New connections use them from now on.
    pub fn put_in_force(self) {
        for (gatehouse, setup) in self.0 {
            if let Some(tls) = &gatehouse.tls {
                tls.store(setup);
            }
        }
        self.1.put_in_force(self.2);
    }
}
