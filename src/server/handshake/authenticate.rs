//! Between the size of CONNECT and the right to it: the listener's list of methods.
//!
//! Everything happens within the one deadline of the connection. Where the listener asks for
//! certificates as well, both have to be proven, and who is meant by the certificate stays the
//! principal, unless the listener takes identities from its methods.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use super::first_packet::read_auth;
use super::{Gatehouse, Refused};
use crate::audit::Gate;
use crate::broker::Now;
use crate::identity::method::{Accepted, Offer, Refusal, Verdict};
use crate::identity::{CertificateFacts, Identity};
use crate::mqtt::packet::{Auth, Connect, Packet};
use crate::mqtt::{ProtocolVersion, ReasonCode, UserProperties};
use crate::server::login::{Attempt, Chain, Proof, Step};
use crate::server::transport::Transport;

/// Who somebody is before the methods of the listener were asked.
#[derive(Debug)]
pub(super) enum Who {
    /// It is known: from a certificate, from a proxy, or as nobody.
    Known(Arc<Identity>),
    /// The methods will say it; with the certificate that was shown, where one was.
    ByMethod(Option<Arc<CertificateFacts>>),
}

/// Who somebody is.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) identity: Arc<Identity>,
    /// What the listener's methods say, where it has some.
    pub(super) proof: Option<Proof>,
    /// What CONNACK brings for the method of an enhanced authentication.
    pub(super) data: Option<Box<[u8]>>,
}

/// A connection that waits to be told who it is.
pub(super) struct Asking<'a> {
    pub(super) gatehouse: &'a Gatehouse,
    pub(super) connect: &'a Connect,
    pub(super) address: Option<SocketAddr>,
    pub(super) transport: &'a mut Transport,
    /// What came behind CONNECT.
    pub(super) unread: &'a mut Vec<u8>,
}

impl Asking<'_> {
    /// Has the methods of the listener judge what the client offers.
    pub(super) async fn authenticate(self, who: Who) -> Result<Authenticated, Refused> {
        let chain = self.gatehouse.chain.as_ref();
        let Some(chain) = chain else {
            if self.connect.authentication_method.is_some() {
                let reason = ReasonCode::BadAuthenticationMethod;
                return Err(Refused::by(Gate::Connect, reason, &"no such authentication method"));
            }
            return match who {
                Who::Known(identity) => Ok(Authenticated { identity, proof: None, data: None }),
                Who::ByMethod(_) => Err(by_nobody("the listener has no methods")),
            };
        };
        self.by_methods(chain, who).await
    }

    async fn by_methods(mut self, chain: &Chain, who: Who) -> Result<Authenticated, Refused> {
        let settings = &self.gatehouse.settings;
        let connect = self.connect;
        let enhanced = connect.authentication_method.as_deref();
        let era = chain.logins().era();
        let attempt = Attempt {
            offer: Offer {
                username: connect.user_name.as_deref(),
                password: connect.password.as_deref(),
                method: enhanced,
                data: connect.authentication_data.as_deref().unwrap_or_default(),
            },
            listener: &settings.name,
            client_id: &connect.client_id,
            address: self.address.map(|address| address.ip()),
            now: Now::read().instant,
        };
        let (method, step) = chain.judge(&attempt).await;
        let Some(method) = method else {
            return Err(match enhanced {
                Some(_) => Refused::by(
                    Gate::Authenticate,
                    ReasonCode::BadAuthenticationMethod,
                    &"no method of the listener is the one that CONNECT names",
                ),
                None => by_nobody("the client offers nothing that a method of the listener takes"),
            });
        };
        let by = |refusal: &Refusal| refused(method.name(), enhanced.is_some(), refusal);
        let (accepted, data) = match step {
            Step::Decided(Verdict::Accepted(accepted)) => (accepted, None),
            Step::Decided(Verdict::Refused(refusal)) => return Err(by(&refusal)),
            Step::Decided(Verdict::NotMyKind) => return Err(by_nobody("no method has decided")),
            Step::Challenge(pending, challenge) => {
                let answer = self.exchange(challenge).await?;
                let finished = pending.finish(&answer, chain.logins());
                let (accepted, data) = finished.map_err(|refusal| by(&refusal))?;
                (accepted, Some(data.into()))
            }
        };
        check_client_id(&accepted, connect)?;
        let identity = match who {
            Who::Known(identity) => identity,
            Who::ByMethod(certificate) => {
                let kind = method.kind().unwrap_or(settings.identity.kind);
                Arc::new(accepted.identity(kind, certificate))
            }
        };
        let now = Now::read();
        let proof = Proof::new(chain.logins(), method, accepted, enhanced, era, now);
        if proof.ends_at.is_some_and(|ends| ends <= now.instant) {
            return Err(by(&Refusal::Wrong("the proof has ended already".to_owned())));
        }
        Ok(Authenticated { identity, proof: Some(proof), data })
    }

    /// Sends a challenge and waits for the answer.
    async fn exchange(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, Refused> {
        let method = self.connect.authentication_method.clone();
        let auth = Auth {
            reason: ReasonCode::ContinueAuthentication,
            method: method.clone(),
            data: Some(challenge.into()),
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        let packet = Packet::Auth(Box::new(auth));
        let room = self.connect.maximum_packet_bytes;
        let bytes = packet.encoded_bytes(ProtocolVersion::V5);
        if room.is_some_and(|most| bytes > most.get() as usize) {
            let why = "the client takes no packet as large as the challenge it has to be sent";
            return Err(Refused::by(Gate::Size, ReasonCode::PacketTooLarge, &why));
        }
        let mut out = Vec::with_capacity(bytes);
        packet.encode(ProtocolVersion::V5, &mut out);
        // An error shows again at the next read.
        let _ = poll_fn(|cx| self.transport.poll_write(cx, &out)).await;
        let auth = read_auth(self.transport, self.gatehouse, self.unread).await?;
        let continues = auth.reason == ReasonCode::ContinueAuthentication && auth.method == method;
        if !continues {
            let why = "the client's AUTH does not continue what CONNECT began";
            return Err(Refused::by(Gate::Authenticate, ReasonCode::ProtocolError, &why));
        }
        Ok(auth.data.map(Vec::from).unwrap_or_default())
    }
}

/// Nothing was offered that could be judged.
fn by_nobody(why: &'static str) -> Refused {
    Refused::by(Gate::Authenticate, ReasonCode::BadUserNameOrPassword, &why)
}

/// What a refusal becomes: the operator learns all of it, the client next to nothing.
fn refused(method: &str, enhanced: bool, refusal: &Refusal) -> Refused {
    let reason = match refusal {
        Refusal::Wrong(_) if enhanced => ReasonCode::NotAuthorized,
        Refusal::Wrong(_) => ReasonCode::BadUserNameOrPassword,
        Refusal::Unavailable(_) => ReasonCode::ServerUnavailable,
        Refusal::Busy(_) => ReasonCode::ServerBusy,
        Refusal::Throttled(_) => ReasonCode::ConnectionRateExceeded,
    };
    Refused::by(Gate::Authenticate, reason, &format!("by method `{method}`: {refusal}"))
}

/// Refuses a client id that the proof is not good for.
fn check_client_id(accepted: &Accepted, connect: &Connect) -> Result<(), Refused> {
    match &accepted.client_id {
        Some(client_id) if **client_id != *connect.client_id => {
            let why = "the proof is good for another client id";
            Err(Refused::by(Gate::Identity, ReasonCode::ClientIdentifierNotValid, &why))
        }
        _ => Ok(()),
    }
}
