//! Bans and the states of devices, at CONNECT.

use std::net::SocketAddr;
use std::sync::Arc;

use super::authenticate::{Asking, Authenticated, Who};
use super::{Gatehouse, Refused};
use crate::audit::{self, Gate};
use crate::broker::{Now, Unwelcome};
use crate::identity::{Identity, Rule};
use crate::mqtt::packet::Connect;
use crate::mqtt::{ClientId, ReasonCode};
use crate::registry::{Barred, Client};
use crate::server::terms::Terms;

/// A client that has proven who it is, and may come in.
pub(super) struct Welcome<'a> {
    pub(super) authenticated: Authenticated,
    /// What it gets.
    pub(super) terms: &'a Terms,
    /// Its device waits to be approved.
    pub(super) is_quarantined: bool,
    /// When all that was found.
    pub(super) now: Now,
}

/// Has the methods of the listener say who it is, unless it is banned by what is known before, and
/// judges whoever that is.
pub(super) async fn welcome<'a>(
    asking: Asking<'_>,
    gatehouse: &'a Gatehouse,
    (who, rule): (Who, Option<&Arc<Rule>>),
    client: &mut audit::Subject,
) -> Result<Welcome<'a>, Refused> {
    let Asking { connect, address, .. } = asking;
    check_early(&who, &connect.client_id, address, gatehouse)?;
    let mut authenticated = asking.authenticate(who).await?;
    *client = client.clone().identified(&authenticated.identity);
    let now = Now::read();
    let (identity, is_quarantined) =
        admit(authenticated.identity, &connect.client_id, gatehouse, client, now)?;
    authenticated.identity = identity;
    let terms = terms(is_quarantined, rule, connect, gatehouse)?;
    Ok(Welcome { authenticated, terms, is_quarantined, now })
}

/// Refuses who is banned by what shows before any method was asked: nothing is hashed for it.
fn check_early(
    who: &Who,
    client_id: &str,
    address: Option<SocketAddr>,
    gatehouse: &Gatehouse,
) -> Result<(), Refused> {
    let (identity, certificate) = match who {
        Who::Known(identity) => (Some(&**identity), identity.certificate.as_ref()),
        Who::ByMethod(certificate) => (None, certificate.as_ref()),
    };
    let client_id = ClientId::parse(client_id).map(|client_id| client_id.shared());
    let client = Client {
        identity,
        certificate: certificate.map(|facts| &facts.fingerprint),
        client_id: client_id.as_ref(),
        address: address.map(|address| address.ip()),
    };
    let bans = &gatehouse.broker.registry.bans;
    bans.check(&client, Now::read().wall).map_err(|banned| refused(&banned.into()))
}

/// Refuses who is banned or whose device is not active, now that all is known. Who is in
/// quarantine comes in with one group more.
fn admit(
    identity: Arc<Identity>,
    client_id: &str,
    gatehouse: &Gatehouse,
    client: &audit::Subject,
    now: Now,
) -> Result<(Arc<Identity>, bool), Refused> {
    // One that is assigned later is banned by nobody.
    let client_id = ClientId::parse(client_id).map(|client_id| client_id.shared());
    let broker = &gatehouse.broker;
    let admitted = broker.admit_registered(&identity, &client_id.unwrap_or_default(), client, now);
    match admitted.map_err(|unwelcome| refused(&unwelcome))?.quarantine {
        None => Ok((identity, false)),
        Some(group) => {
            let mut marked = Identity::clone(&identity);
            marked.groups.push(group);
            Ok((Arc::new(marked), true))
        }
    }
}

/// What a client gets, by its rule or its listener: less, as long as its device waits. Where that is
/// not what its listener gives, it must not have asked for more.
fn terms<'a>(
    is_quarantined: bool,
    rule: Option<&Arc<Rule>>,
    connect: &Connect,
    gatehouse: &'a Gatehouse,
) -> Result<&'a Terms, Refused> {
    let all = &gatehouse.terms;
    let terms = match (is_quarantined, all.of_rule(rule)) {
        (true, _) => all.quarantine.as_ref().ok_or_else(|| refused(&Barred::Pending.into()))?,
        (false, Some(terms)) => terms,
        (false, None) => return Ok(&all.usual),
    };
    super::connect::check(connect, &terms.profile)?;
    Ok(terms)
}

fn refused(unwelcome: &Unwelcome) -> Refused {
    Refused::by(Gate::Identity, reason(unwelcome), unwelcome)
}

/// What the client is told.
pub(in crate::server) const fn reason(unwelcome: &Unwelcome) -> ReasonCode {
    match unwelcome {
        Unwelcome::Banned(_) => ReasonCode::Banned,
        Unwelcome::Barred(_) => ReasonCode::NotAuthorized,
    }
}
