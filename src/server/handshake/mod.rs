//! The rungs from an accepted socket to a session: each consumes the one before.
//!
//! [`Admitted`] → [`Encrypted`] → [`Identified`] → [`Connected`]. Who is on a rung has passed
//! every gate below it; the one deadline from accept to CONNACK is set by the caller.

mod authenticate;
mod connect;
mod first_packet;
mod registered;

use bytes::BufMut;
use rustls::pki_types::CertificateDer;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::connection::{Connected, FAREWELL, Grounds, Held};
use super::tls_config::{TlsSetup, Trust};
use super::transport::{CloseCode, Socket, Transport};
use super::{Gatehouse, listener, proxy_protocol, tls, websocket};
use crate::audit::{self, Event, Gate, Kind};
use crate::broker::{Now, Opened, Opening};
use crate::gates::{Refusal, admission};
use crate::identity::certificate::{Shown, TrustPath};
use crate::identity::rule::identity_by;
use crate::identity::{CertificateFacts, Identity, Rule, Source};
use crate::mqtt::packet::{Connack, Connect, Packet};
use crate::mqtt::{ClientId, ProtocolVersion, ReasonCode, Violation};

use authenticate::{Asking, Authenticated, Who};
use connect::{Judged, Request, connack, refused_session};
pub(super) use first_packet::Unauthenticated;
use first_packet::read_connect;
use registered::Welcome;
pub(super) use registered::reason;

/// Why a connection got no session.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) gate: Gate,
    pub(super) reason: ReasonCode,
    pub(super) why: String,
    /// The normative statement that the client violated, where it did.
    pub(super) statement: Option<&'static str>,
}

impl Refused {
    pub(super) fn by(gate: Gate, reason: ReasonCode, why: &dyn ToString) -> Self {
        Self { gate, reason, why: why.to_string(), statement: None }
    }

    pub(super) fn by_admission(refused: &admission::Refused) -> Self {
        Self::by(Gate::Admission, refused.reason(), refused)
    }

    /// By the CONNECT packet that violates the specification.
    fn by_violation(violation: &Violation) -> Self {
        let statement = Some(violation.statement);
        Self { statement, ..Self::by(Gate::Connect, violation.reason, violation) }
    }

    fn by_refusal(refusal: &Refusal) -> Self {
        let gate = match refusal {
            Refusal::Violation(violation) => return Self::by_violation(violation),
            Refusal::Size(_)
            | Refusal::RetainedFull(_)
            | Refusal::DiskFull
            | Refusal::QueueFull
            | Refusal::Subscriptions { .. } => Gate::Size,
            Refusal::Feature(_) => Gate::Features,
            Refusal::Rate => Gate::Rate,
            Refusal::Denied(_) => Gate::Authorize,
        };
        Self::by(gate, refusal.reason(), refusal)
    }
}

/// First rung: the address and the counts are fine.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) socket: Socket,
    /// `None` for a Unix socket.
    pub(super) address: Option<SocketAddr>,
    pub(super) slot: admission::Slot,
}

/// Second rung: the transport stands, with TLS and WebSocket where the listener has them.
#[derive(Debug)]
pub(super) struct Encrypted {
    transport: Transport,
    address: Option<SocketAddr>,
    slot: admission::Slot,
    tls_version: u8,
    /// The client's chain, and the setup that verified it.
    certificates: Option<(Vec<CertificateDer<'static>>, Arc<TlsSetup>)>,
    announced_name: Option<String>,
}

/// Third rung: it is known who this is, as far as it shows before CONNECT.
#[derive(Debug)]
pub(super) struct Identified {
    transport: Transport,
    address: Option<SocketAddr>,
    slot: admission::Slot,
    tls_version: u8,
    who: Who,
    /// Where a certificate was shown that counts.
    trust: Option<Trust>,
    /// The rule that said who it is.
    rule: Option<Arc<Rule>>,
}

impl Admitted {
    /// Reads the PROXY header, shakes hands for TLS and upgrades to WebSocket, as far as the
    /// listener says so. Whoever is refused after its header is `client` by the announced address.
    pub(super) async fn encrypt(
        self,
        gatehouse: &Gatehouse,
        client: impl Fn(SocketAddr),
    ) -> Result<Encrypted, Refused> {
        let Self { mut socket, mut address, mut slot } = self;
        let settings = &gatehouse.settings;
        let mut prefix = Vec::new();
        let mut announced_name = None;
        if settings.proxy_protocol.is_some() {
            let header = proxy_protocol::read_header(&mut socket);
            let announced = in_time(header, gatehouse, Gate::Proxy).await?;
            let announced = announced
                .map_err(|failure| Refused::by(Gate::Proxy, ReasonCode::ProtocolError, &failure))?;
            prefix = announced.rest;
            if settings.identity.source == Source::Proxy {
                announced_name = announced.common_name;
            }
            // Without a source the connection is the proxy's own (LOCAL).
            if let Some(source) = announced.source {
                address = Some(source);
                client(source);
                gatehouse.check_address(source.ip())?;
                slot = slot
                    .reannounce(source.ip(), Now::read().instant)
                    .map_err(|refused| Refused::by_admission(&refused))?;
            }
        }
        if prefix.is_empty() {
            // The one byte is read: that a socket is readable may be said too early.
            let byte = poll_fn(|cx| socket.poll_read(cx, &mut (&mut prefix).limit(1)));
            // The end of the stream, or an error, shows again at the next read.
            let _ = in_time(byte, gatehouse, gate_of_first_byte(settings)).await?;
        }
        let mut encrypted = match &gatehouse.tls {
            None => Encrypted {
                transport: Transport::plain(socket, prefix),
                address,
                slot,
                tls_version: 0,
                certificates: None,
                announced_name,
            },
            Some(setup) => {
                let setup = setup.load_full();
                let (config, slots) = (Arc::clone(&setup.config), Arc::clone(&gatehouse.slots));
                let accepted = Box::pin(tls::accept(socket, prefix, config, slots)).await;
                let accepted = accepted.map_err(|failure| {
                    Refused::by(Gate::Tls, ReasonCode::NotAuthorized, &failure)
                })?;
                Encrypted {
                    transport: accepted.transport,
                    address,
                    slot,
                    tls_version: accepted.tls_version,
                    certificates: accepted.peer_certificates.map(|chain| (chain, setup)),
                    announced_name,
                }
            }
        };
        if let Some(websocket) = &settings.websocket {
            let frame_bytes_max = u64::from(settings.profile.size.packet_bytes_max);
            let upgraded =
                Box::pin(websocket::accept(encrypted.transport, websocket, frame_bytes_max)).await;
            encrypted.transport = upgraded.map_err(|failure| {
                Refused::by(Gate::WebSocket, ReasonCode::ProtocolError, &failure)
            })?;
        }
        Ok(encrypted)
    }
}

/// The gate that a client's own first byte is for.
pub(super) const fn gate_of_first_byte(settings: &listener::Settings) -> Gate {
    match (&settings.tls, &settings.websocket) {
        (Some(_), _) => Gate::Tls,
        (None, Some(_)) => Gate::WebSocket,
        (None, None) => Gate::Connect,
    }
}

/// Waits for the first that a client or a proxy has to say, no longer than the listener allows.
async fn in_time<T>(
    first: impl Future<Output = T>,
    gatehouse: &Gatehouse,
    gate: Gate,
) -> Result<T, Refused> {
    let deadline = gatehouse.settings.admission.first_byte_deadline;
    tokio::time::timeout(deadline, first).await.map_err(|_| {
        let why = "nothing came before the deadline for the first byte";
        Refused::by(gate, ReasonCode::UnspecifiedError, &why)
    })
}

impl Encrypted {
    /// Finds out who the client is: from its certificate, from its proxy, or nobody.
    pub(super) fn identify(self, gatehouse: &Gatehouse) -> Result<Identified, Refused> {
        let Self { transport, address, slot, tls_version, certificates, announced_name } = self;
        let settings = &gatehouse.settings.identity;
        let refused =
            |why: &dyn ToString| Refused::by(Gate::Identity, ReasonCode::NotAuthorized, why);
        let mut trust = None;
        let mut rule = None;
        let who = match settings.source {
            Source::CertificateCn | Source::CertificateSanDns | Source::CertificateSanUri => {
                let shown =
                    certificates.ok_or_else(|| refused(&"the client showed no certificate"))?;
                let (facts, by) = certificate_facts(&shown, gatehouse)?;
                trust = by;
                let identity = Identity::from_certificate(settings, facts);
                Who::Known(Arc::new(identity.map_err(|error| refused(&error))?))
            }
            Source::Rules => {
                let (chain, setup) =
                    certificates.ok_or_else(|| refused(&"the client showed no certificate"))?;
                let shown = Shown::read(&chain, &setup.trusted_issuers);
                let shown = shown.map_err(|error| refused(&error))?;
                let (identity, by) =
                    identity_by(&settings.rules, &shown).map_err(|error| refused(&error))?;
                trust = trust_in((&chain, &setup), shown.path, gatehouse)?;
                rule = Some(by);
                Who::Known(Arc::new(identity))
            }
            Source::Authentication => match certificates {
                None => Who::ByMethod(None),
                Some(shown) => {
                    let (facts, by) = certificate_facts(&shown, gatehouse)?;
                    trust = by;
                    Who::ByMethod(Some(Arc::new(facts)))
                }
            },
            Source::Anonymous => Who::Known(Arc::clone(&gatehouse.anonymous)),
            Source::Proxy => {
                let name = announced_name
                    .ok_or_else(|| refused(&"the proxy announced no certificate name"))?;
                let identity = Identity::from_proxy(settings, &name);
                Who::Known(Arc::new(identity.map_err(|error| refused(&error))?))
            }
        };
        Ok(Identified { transport, address, slot, tls_version, who, trust, rule })
    }
}

/// What a verified certificate says, and how long it is good for.
fn certificate_facts(
    (chain, setup): &(Vec<CertificateDer<'static>>, Arc<TlsSetup>),
    gatehouse: &Gatehouse,
) -> Result<(CertificateFacts, Option<Trust>), Refused> {
    let facts = CertificateFacts::from_verified_chain(chain, &setup.trusted_issuers);
    let (facts, path) =
        facts.map_err(|error| Refused::by(Gate::Identity, ReasonCode::NotAuthorized, &error))?;
    Ok((facts, trust_in((chain, setup), path, gatehouse)?))
}

/// What the trust in a chain stands on.
fn trust_in(
    (chain, setup): (&[CertificateDer<'static>], &TlsSetup),
    path: TrustPath,
    gatehouse: &Gatehouse,
) -> Result<Option<Trust>, Refused> {
    let Some(tls) = &gatehouse.tls else { return Ok(None) };
    let own = path.certificates.first().copied();
    let mut trust = Trust::new(path, tls, &gatehouse.broker.revocations);
    if let (Some(ocsp), Some(own)) = (&gatehouse.ocsp, own) {
        let status = ocsp.status_of(own, chain, setup, Now::read().instant);
        let refused = |error| Refused::by(Gate::Tls, ReasonCode::NotAuthorized, &error);
        trust.status = Some(status.map_err(refused)?);
    }
    Ok(Some(trust))
}

impl Identified {
    /// The same client in the audit log, with what is known of it now.
    pub(super) fn described(&self, client: audit::Subject) -> audit::Subject {
        match &self.who {
            Who::Known(identity) => client.identified(identity),
            Who::ByMethod(certificate) => {
                audit::Subject { certificate: certificate.clone(), ..client }
            }
        }
    }

    /// Reads CONNECT, passes it through the gates, and claims the session.
    pub(super) async fn connect(
        mut self,
        gatehouse: &Gatehouse,
        client: audit::Subject,
    ) -> Result<Connected, (Refused, audit::Subject, Option<Farewell>)> {
        let read = read_connect(&mut self.transport, gatehouse).await;
        let (connect, unread) = match read {
            Ok(read) => read,
            Err((refused, version)) => {
                let farewell = Farewell::of(self.transport, version, &refused, None);
                return Err((refused, client, Some(farewell)));
            }
        };
        let (version, room) = (connect.version, connect.maximum_packet_bytes);
        let mut client = client;
        match self.admit(*connect, unread, gatehouse, &mut client).await {
            Ok(connected) => Ok(connected),
            Err((refused, transport)) => {
                let farewell = Farewell::of(transport, Some(version), &refused, room);
                Err((refused, client, Some(farewell)))
            }
        }
    }

    /// The gates of CONNECT in their order. Gives the transport back with a refusal.
    #[expect(
        clippy::too_many_lines,
        reason = "the gates stand in a row, where their order is seen"
    )]
    async fn admit(
        self,
        mut connect: Connect,
        mut unread: Vec<u8>,
        gatehouse: &Gatehouse,
        client: &mut audit::Subject,
    ) -> Result<Connected, (Refused, Transport)> {
        let Self { mut transport, address, mut slot, tls_version, who, trust, rule } = self;
        let broker = &gatehouse.broker;
        if let Err(refused) = connect::check(&connect, &gatehouse.terms.usual.profile) {
            return Err((refused, transport));
        }
        client.client_id = ClientId::parse(&connect.client_id).map(|asked| asked.shared());
        let status = trust.as_ref().and_then(|trust| trust.status.as_ref());
        if let (Some(ocsp), Some(status)) = (&gatehouse.ocsp, status)
            && let Err(not_good) = ocsp.check(status).await
        {
            let reason = ReasonCode::NotAuthorized;
            return Err((Refused::by(Gate::Tls, reason, &not_good), transport));
        }
        let asking = Asking {
            gatehouse,
            connect: &connect,
            address,
            transport: &mut transport,
            unread: &mut unread,
        };
        let welcome =
            match registered::welcome(asking, gatehouse, (who, rule.as_ref()), client).await {
                Ok(welcome) => welcome,
                Err(refused) => return Err((refused, transport)),
            };
        let Welcome { authenticated, terms, is_quarantined, now } = welcome;
        let Authenticated { identity, proof, data } = authenticated;
        let profile = &terms.profile;
        let binding = rule.as_ref().map_or(&gatehouse.settings.identity.binding, |it| &it.binding);
        let request = Request {
            connect: &connect,
            identity: &identity,
            binding,
            address,
            tls_version,
            terms,
        };
        let judged = match request.judge(gatehouse, client, now) {
            Ok(judged) => judged,
            Err(refused) => return Err((refused, transport)),
        };
        // After the policies, which a reload changes last: who was judged by new ones sees the new
        // authorities here, and who was judged by old ones will be judged again.
        if let Some(Err(withdrawn)) = trust.as_ref().map(Trust::stands) {
            let reason = ReasonCode::NotAuthorized;
            return Err((Refused::by(Gate::Tls, reason, &withdrawn), transport));
        }
        let Judged { client_id, assigned, standing, subject, rate, granted, facts } = judged;
        let opening = Opening {
            client_id: client_id.clone(),
            standing,
            clean_start: connect.clean_start,
            link: granted.link(&connect, profile),
            settings: profile.session.clone(),
            mailbox: Arc::clone(&terms.mailbox),
            sessions_max: profile.sessions_max,
            address: address.map(|address| address.ip().to_canonical()),
            expiry_s: granted.expiry_s,
            will: connect.will.clone(),
        };
        let mut connack = connack(&connect, &granted, &client_id, assigned, profile);
        connack.properties.authentication_data = data;
        if let Err(refused) = check_room(&connect, &connack) {
            return Err((refused, transport));
        }
        let opened = match broker.open(opening, now).await {
            Ok(opened) => opened,
            Err(no_session) => {
                return Err((refused_session(&no_session, gatehouse, client), transport));
            }
        };
        let Opened { peer, session, term, resumed, commit } = opened;
        let mut connack = Connack { session_present: resumed, ..connack };
        connect::say_durability(&connect, &mut connack, peer.durability());
        let mut greeting = Vec::with_capacity(64);
        Packet::Connack(Box::new(connack)).encode(connect.version, &mut greeting);
        let held = match commit {
            Some(commit) => Held::greeting(commit, greeting),
            None => {
                // What the socket does not take waits in the transport, before everything else;
                // an error shows again at the next write.
                let _ = poll_fn(|cx| Poll::Ready(transport.poll_write(cx, &greeting))).await;
                Held::default()
            }
        };
        slot.connected();
        let client = Arc::new(client.clone());
        let accepted = Kind::ConnectionAccepted {
            protocol: connect.version,
            session_present: resumed,
            method: proof.as_ref().map(|proof| Arc::clone(proof.method())),
        };
        broker.audit.record(Event::about(&client, accepted));
        Ok(Connected {
            broker: Arc::clone(broker),
            transport,
            unread,
            session,
            subject,
            peer,
            term,
            profile: Arc::clone(profile),
            rate,
            client,
            grounds: Grounds::of(trust, proof, is_quarantined),
            connect_facts: facts,
            expiry_s: granted.expiry_s,
            will: connect.will.take(),
            held,
            slot,
        })
    }
}

/// Refuses a client that takes no packet as large as its CONNACK.
fn check_room(connect: &Connect, connack: &Connack) -> Result<(), Refused> {
    let bytes = Packet::Connack(Box::new(connack.clone())).encoded_bytes(connect.version);
    if connect.maximum_packet_bytes.is_some_and(|most| bytes > most.get() as usize) {
        let why = "the client takes no packet as large as the CONNACK it has to be sent";
        return Err(Refused::by(Gate::Size, ReasonCode::PacketTooLarge, &why));
    }
    Ok(())
}

/// The last words to a refused client. They are said after the refusal is on record and its
/// place is free: the client decides how long that takes.
#[derive(Debug)]
pub(super) struct Farewell(Transport);

impl Farewell {
    /// Answers CONNECT with a refusal, where the version has one for it and the client takes it.
    fn of(
        mut transport: Transport,
        version: Option<ProtocolVersion>,
        refused: &Refused,
        room: Option<NonZeroU32>,
    ) -> Self {
        let mut answer = Vec::new();
        if let Some(version) = version {
            let fits = |packet: &Packet<'_>| {
                room.is_none_or(|most| packet.encoded_bytes(version) <= most.get() as usize)
            };
            let mut connack = Connack::refused(refused.reason);
            let bare = Packet::Connack(Box::new(connack.clone()));
            // What the peer can mend is explained; what concerns who it is, is not.
            let explained = matches!(refused.gate, Gate::Connect | Gate::Size | Gate::Features);
            connack.properties.reason_string = explained.then(|| refused.why.as_str().into());
            let packet = Packet::Connack(Box::new(connack));
            if let Some(packet) = [packet, bare].iter().find(|packet| fits(packet)) {
                packet.encode(version, &mut answer);
            }
        }
        // What the socket does not take waits in the transport for `say`.
        let mut context = Context::from_waker(Waker::noop());
        let _ = transport.poll_write(&mut context, &answer);
        Self(transport)
    }

    /// Waits, within reason, until the client has heard it, and closes.
    pub(super) async fn say(self) {
        let _ = tokio::time::timeout(FAREWELL, self.0.finish(CloseCode::Normal)).await;
    }
}
