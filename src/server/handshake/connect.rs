//! CONNECT before the gates, and the CONNACK that answers it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Gatehouse, Refused};
use crate::audit::{self, Event, Gate, Kind, Target, Verb};
use crate::broker::{NoSession, Now};
use crate::gates::rate::PrincipalRate;
use crate::gates::{Profile, Refusal, authorize};
use crate::identity::{Account, Binding, Identity};
use crate::mqtt::packet::{Connack, ConnackProperties, Connect, Qos};
use crate::mqtt::{ClientId, ReasonCode};
use crate::policy::{ConnectFacts, IgnoredClaim, SessionFacts, Subject};
use crate::router::{Keeper, Standing};
use crate::server::terms::Terms;
use crate::session::{Link, Message};
use crate::store::Durability;

/// A CONNECT and what is known of who sent it.
pub(super) struct Request<'a> {
    pub(super) connect: &'a Connect,
    pub(super) identity: &'a Arc<Identity>,
    /// Which client ids it may use.
    pub(super) binding: &'a Binding,
    pub(super) address: Option<SocketAddr>,
    pub(super) tls_version: u8,
    pub(super) terms: &'a Terms,
}

/// A CONNECT that passed every gate.
pub(super) struct Judged {
    pub(super) client_id: ClientId,
    pub(super) assigned: bool,
    pub(super) standing: Standing,
    pub(super) subject: Subject,
    pub(super) rate: Arc<PrincipalRate>,
    pub(super) granted: Granted,
    pub(super) facts: ConnectFacts,
}

/// Size and features, in this order: what needs nobody to be known.
pub(super) fn check(connect: &Connect, profile: &Profile) -> Result<(), Refused> {
    let sized = profile.size.check_connect(connect);
    sized.map_err(|error| Refused::by_refusal(&error.into()))?;
    let offered = profile.features.check_connect(connect);
    offered.map_err(|error| Refused::by_refusal(&error.into()))
}

impl Request<'_> {
    /// Client id, rate and policy, in this order.
    pub(super) fn judge(
        &self,
        gatehouse: &Gatehouse,
        client: &mut audit::Subject,
        now: Now,
    ) -> Result<Judged, Refused> {
        let Self { connect, identity, terms, .. } = *self;
        let profile = &terms.profile;
        let (client_id, assigned) = client_id(connect, self.binding, identity)?;
        client.client_id = Some(client_id.shared());
        let account = Account::of(identity, self.address.map(|at| at.ip()));
        let rate = gatehouse.rates.of(account, &profile.rate, now.instant);
        let rate = rate.map_err(|full| Refused::by(Gate::Rate, ReasonCode::ServerBusy, &full))?;
        let granted = Granted::of(connect, profile);
        let facts = ConnectFacts {
            clean_start: connect.clean_start,
            session_expiry_s: granted.expiry_s,
            keep_alive_s: granted.keep_alive_s,
            has_will: connect.will.is_some(),
            now: now.wall,
        };
        let standing = self.standing(&client_id, rate.account(), gatehouse);
        let mut subject = Subject::new(
            gatehouse.broker.policies(),
            Arc::clone(identity),
            Arc::clone(&standing.facts),
        );
        record_ignored_claims(gatehouse, client, &subject);
        subject
            .connect(&facts)
            .map_err(|denial| denied(gatehouse, client, Verb::Connect, None, &denial.into()))?;
        if let Some(will) = &connect.will {
            let message = Message::new(
                gatehouse.broker.router.next_message_id(),
                will.topic.clone(),
                will.payload.clone(),
                will.qos,
                will.retain,
                will.properties.clone(),
                now.instant,
            );
            let judged = authorize::publish(&mut subject, message.as_will(), now.wall);
            judged.map_err(|denial| {
                let target = Target::Topic(will.topic.as_str().into());
                denied(gatehouse, client, Verb::Will, Some(target), &denial.into())
            })?;
        }
        Ok(Judged { client_id, assigned, standing, subject, rate, granted, facts })
    }

    fn standing(
        &self,
        client_id: &ClientId,
        account: &Arc<Account>,
        gatehouse: &Gatehouse,
    ) -> Standing {
        let facts = SessionFacts {
            client_id: client_id.clone(),
            listener: Arc::clone(&gatehouse.settings.name),
            source_ip: self.address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |at| at.ip()),
            protocol: self.connect.version,
            tls_version: self.tls_version,
        };
        Standing {
            identity: Arc::clone(self.identity),
            facts: Arc::new(facts),
            keeper: Keeper {
                account: Arc::clone(account),
                bounds: Arc::clone(&self.terms.retained),
            },
        }
    }
}

/// Records the groups that a certificate claims in vain.
fn record_ignored_claims(gatehouse: &Gatehouse, client: &audit::Subject, subject: &Subject) {
    for IgnoredClaim { group, field, value, issuer } in subject.ignored_claims() {
        let kind = Kind::GroupClaimIgnored { group, field, value, issuer };
        gatehouse.broker.audit.record(Event::about(&Arc::new(client.clone()), kind));
    }
}

/// Counts and records what the policy refused.
fn denied(
    gatehouse: &Gatehouse,
    client: &audit::Subject,
    verb: Verb,
    target: Option<Target>,
    refusal: &Refusal,
) -> Refused {
    let policies = match refusal {
        Refusal::Denied(denial) => denial.policies.iter().cloned().collect(),
        _ => Arc::default(),
    };
    let kind = Kind::Denied {
        verb,
        target,
        policies,
        reason: refusal.reason(),
        why: refusal.to_string().into(),
    };
    gatehouse.broker.metrics.denials.of(verb).inc();
    gatehouse.broker.audit.record(Event::about(&Arc::new(client.clone()), kind));
    Refused::by_refusal(refusal)
}

/// The values in force where CONNECT may be overruled.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) expiry_s: u32,
    pub(super) keep_alive_s: u16,
}

impl Granted {
    fn of(connect: &Connect, profile: &Profile) -> Self {
        let features = &profile.features;
        Self {
            expiry_s: features.session_expiry_s(connect.session_expiry_s),
            keep_alive_s: features.keep_alive_s(connect.version, connect.keep_alive_s),
        }
    }
}

impl Granted {
    /// What the two sides have agreed on.
    pub(super) fn link(&self, connect: &Connect, profile: &Profile) -> Link {
        let features = &profile.features;
        Link {
            version: connect.version,
            receive_maximum: connect.receive_maximum,
            packet_bytes_max: connect.maximum_packet_bytes,
            problem_information: connect.request_problem_information,
            topic_alias_max: features.topic_alias_max,
            outgoing_alias_max: connect.topic_alias_maximum.min(features.outgoing_topic_alias_max),
            keep_alive: (self.keep_alive_s > 0)
                .then(|| Duration::from_secs(self.keep_alive_s.into())),
        }
    }
}

/// The client identifier, bound to the identity; and whether it was assigned.
fn client_id(
    connect: &Connect,
    binding: &Binding,
    identity: &Identity,
) -> Result<(ClientId, bool), Refused> {
    let refused = |reason, why: &dyn ToString| Refused::by(Gate::Identity, reason, why);
    match ClientId::parse(&connect.client_id) {
        Some(client_id) => {
            let bound = binding.check(identity, &client_id);
            bound.map_err(|error| refused(error.reason(), &error))?;
            Ok((client_id, false))
        }
        None => {
            let mut random = [0; 16];
            let filled = aws_lc_rs::rand::fill(&mut random);
            filled.map_err(|_| refused(ReasonCode::ServerUnavailable, &"no random numbers"))?;
            let assigned = binding.assign(identity, &hex::encode(random));
            let client_id = assigned.map_err(|error| refused(error.reason(), &error))?;
            Ok((client_id, true))
        }
    }
}

pub(super) fn refused_session(
    no_session: &NoSession,
    gatehouse: &Gatehouse,
    client: &audit::Subject,
) -> Refused {
    let reason = match no_session {
        NoSession::OwnedByAnother(_) => ReasonCode::ClientIdentifierNotValid,
        NoSession::Full | NoSession::AccountFull { .. } => ReasonCode::QuotaExceeded,
        NoSession::Busy => ReasonCode::ServerBusy,
    };
    if let NoSession::OwnedByAnother(owner) = no_session {
        let kind = Kind::SessionRefusedOwner { owner: (owner.kind, Arc::clone(&owner.name)) };
        gatehouse.broker.audit.record(Event::about(&Arc::new(client.clone()), kind));
    }
    Refused::by(Gate::Session, reason, no_session)
}

/// CONNACK of an accepted connection: what is not offered is announced.
pub(super) fn connack(
    connect: &Connect,
    granted: &Granted,
    client_id: &ClientId,
    assigned: bool,
    profile: &Profile,
) -> Connack {
    let features = &profile.features;
    let differs = |is: bool| (!is).then_some(false);
    let properties = ConnackProperties {
        session_expiry_s: (granted.expiry_s != connect.session_expiry_s)
            .then_some(granted.expiry_s),
        receive_maximum: Some(profile.session.receive_maximum)
            .filter(|maximum| maximum.get() != u16::MAX),
        maximum_qos: Some(features.qos_max).filter(|qos| *qos != Qos::ExactlyOnce),
        retain_available: differs(features.retain),
        maximum_packet_bytes: NonZeroU32::new(profile.size.packet_bytes_max),
        assigned_client_id: assigned.then(|| client_id.as_str().into()),
        topic_alias_maximum: Some(features.topic_alias_max).filter(|maximum| *maximum > 0),
        wildcard_subscriptions_available: differs(features.wildcard_subscriptions),
        subscription_ids_available: differs(features.subscription_ids),
        shared_subscriptions_available: differs(features.shared_subscriptions),
        server_keep_alive_s: (granted.keep_alive_s != connect.keep_alive_s)
            .then_some(granted.keep_alive_s),
        response_information: connect
            .request_response_information
            .then(|| features.response_information(client_id))
            .flatten(),
        // It was asked for and proven [MQTT-4.12.0-5].
        authentication_method: connect.authentication_method.clone(),
        ..ConnackProperties::default()
    };
    let mut connack = Connack { session_present: false, reason: ReasonCode::Success, properties };
    say_durability(connect, &mut connack, None);
    connack
}

/// The user property of CONNECT, of any value, that asks what an acknowledgement promises; CONNACK
/// answers with one of the same name.
const DURABILITY: &str = "portcullis-durability";

/// Says what an acknowledgement of this session promises, where the client has asked. `None`: what
/// is in memory. No answer is longer than that one.
pub(super) fn say_durability(connect: &Connect, connack: &mut Connack, kept: Option<Durability>) {
    if !connect.user_properties.0.iter().any(|(name, _)| **name == *DURABILITY) {
        return;
    }
    let properties = &mut connack.properties.user_properties;
    properties.0.retain(|(name, _)| **name != *DURABILITY);
    properties.push(DURABILITY, kept.map_or("memory", Durability::as_str));
}
