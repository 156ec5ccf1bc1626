//! Sessions as JSON has them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::message::PropertiesText;
use super::value::{Data, Time, Wrong, qos, topic, wrong};
use crate::identity::{Account, CertificateFacts, Identity, PrincipalKind};
use crate::mqtt::packet::Will;
use crate::mqtt::{ClientId, ProtocolVersion};
use crate::policy::SessionFacts;
use crate::session::Overflow;
use crate::store::{Durability, QueueBounds, SessionRecord, StoredWill};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Device,
    User,
    Service,
    Anonymous,
}

impl From<PrincipalKind> for Kind {
    fn from(kind: PrincipalKind) -> Self {
        match kind {
            PrincipalKind::Device => Self::Device,
            PrincipalKind::User => Self::User,
            PrincipalKind::Service => Self::Service,
            PrincipalKind::Anonymous => Self::Anonymous,
        }
    }
}

impl From<Kind> for PrincipalKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Device => Self::Device,
            Kind::User => Self::User,
            Kind::Service => Self::Service,
            Kind::Anonymous => Self::Anonymous,
        }
    }
}

/// For whom something counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountText {
    kind: Kind,
    name: Arc<str>,
}

impl AccountText {
    pub(super) fn of(account: &Account) -> Self {
        Self { kind: account.kind.into(), name: Arc::clone(&account.name) }
    }

    pub(super) fn account(&self) -> Account {
        Account { kind: self.kind.into(), name: Arc::clone(&self.name) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundsText {
    messages_max: u32,
    bytes_max: u64,
}

impl From<QueueBounds> for BoundsText {
    fn from(QueueBounds { messages_max, bytes_max }: QueueBounds) -> Self {
        Self { messages_max, bytes_max }
    }
}

impl From<BoundsText> for QueueBounds {
    fn from(BoundsText { messages_max, bytes_max }: BoundsText) -> Self {
        Self { messages_max, bytes_max }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OverflowText {
    DropNewest,
    DropOldest,
    RefusePublisher,
}

impl From<Overflow> for OverflowText {
    fn from(overflow: Overflow) -> Self {
        match overflow {
            Overflow::DropNewest => Self::DropNewest,
            Overflow::DropOldest => Self::DropOldest,
            Overflow::RefusePublisher => Self::RefusePublisher,
        }
    }
}

impl From<OverflowText> for Overflow {
    fn from(overflow: OverflowText) -> Self {
        match overflow {
            OverflowText::DropNewest => Self::DropNewest,
            OverflowText::DropOldest => Self::DropOldest,
            OverflowText::RefusePublisher => Self::RefusePublisher,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DurabilityText {
    Os,
    Fsync,
}

impl From<Durability> for DurabilityText {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Os => Self::Os,
            Durability::Fsync => Self::Fsync,
        }
    }
}

impl From<DurabilityText> for Durability {
    fn from(durability: DurabilityText) -> Self {
        match durability {
            DurabilityText::Os => Self::Os,
            DurabilityText::Fsync => Self::Fsync,
        }
    }
}

/// A session without what has lines of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionText {
    pub(super) session: u64,
    client_id: String,
    principal: PrincipalText,
    listener: Arc<str>,
    source_ip: IpAddr,
    protocol_version: u8,
    tls_version: u8,
    account: AccountText,
    retained: BoundsText,
    queue: BoundsText,
    principal_queue: BoundsText,
    overflow: OverflowText,
    durability: DurabilityText,
    expiry_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parked_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<WillText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalText {
    kind: Kind,
    name: Arc<str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<CertificateText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateText {
    cn: Arc<str>,
    fingerprint: Arc<str>,
    issuer: Arc<str>,
    serial: Arc<str>,
    not_after_unix_s: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dns_names: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    uris: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    organizational_units: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WillText {
    topic: String,
    qos: u8,
    retain: bool,
    delay_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<Time>,
    payload: Data,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesText>,
}

impl SessionText {
    pub(super) fn of(number: u64, record: &SessionRecord) -> Self {
        let SessionRecord { identity, facts, account, retained, queue, .. } = record;
        let principal_queue = &record.principal;
        Self {
            session: number,
            client_id: facts.client_id.as_str().to_owned(),
            principal: PrincipalText::of(identity),
            listener: Arc::clone(&facts.listener),
            source_ip: facts.source_ip,
            protocol_version: facts.protocol.level(),
            tls_version: facts.tls_version,
            account: AccountText::of(account),
            retained: (*retained).into(),
            queue: (*queue).into(),
            principal_queue: (*principal_queue).into(),
            overflow: record.overflow.into(),
            durability: record.durability.into(),
            expiry_s: record.expiry_s,
            parked_at: record.parked_at.map(Time::of),
            will: record.will.as_ref().map(WillText::of),
        }
    }

    pub(super) fn record(&self) -> Result<SessionRecord, Wrong> {
        let client_id = ClientId::parse(&self.client_id)
            .ok_or_else(|| wrong("client_id", "it is empty or too long; shorten it"))?;
        let protocol = match self.protocol_version {
            3 => ProtocolVersion::V31,
            4 => ProtocolVersion::V311,
            5 => ProtocolVersion::V5,
            _ => return Err(wrong("protocol_version", "there is none such; write 3, 4 or 5")),
        };
        Ok(SessionRecord {
            identity: Arc::new(self.principal.identity()),
            facts: Arc::new(SessionFacts {
                client_id,
                listener: Arc::clone(&self.listener),
                source_ip: self.source_ip,
                protocol,
                tls_version: self.tls_version,
            }),
            account: Arc::new(self.account.account()),
            retained: self.retained.into(),
            queue: self.queue.into(),
            principal: self.principal_queue.into(),
            overflow: self.overflow.into(),
            durability: self.durability.into(),
            expiry_s: self.expiry_s,
            parked_at: self.parked_at.map(Time::system),
            will: self.will.as_ref().map(WillText::will).transpose()?,
        })
    }
}

impl PrincipalText {
    fn of(identity: &Identity) -> Self {
        Self {
            kind: identity.kind.into(),
            name: Arc::clone(&identity.name),
            groups: identity.groups.clone(),
            tags: identity.tags.clone(),
            certificate: identity.certificate.as_deref().map(CertificateText::of),
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            kind: self.kind.into(),
            name: Arc::clone(&self.name),
            groups: self.groups.clone(),
            tags: self.tags.clone(),
            certificate: self.certificate.as_ref().map(|it| Arc::new(it.facts())),
        }
    }
}

impl CertificateText {
    fn of(facts: &CertificateFacts) -> Self {
        let CertificateFacts {
            cn,
            fingerprint,
            issuer,
            serial,
            not_after_unix_s,
            spiffe,
            dns_names,
            uris,
            organizational_units,
        } = facts.clone();
        Self {
            cn,
            fingerprint,
            issuer,
            serial,
            not_after_unix_s,
            spiffe,
            dns_names,
            uris,
            organizational_units,
        }
    }

    fn facts(&self) -> CertificateFacts {
        let Self {
            cn,
            fingerprint,
            issuer,
            serial,
            not_after_unix_s,
            spiffe,
            dns_names,
            uris,
            organizational_units,
        } = self.clone();
        CertificateFacts {
            cn,
            fingerprint,
            issuer,
            serial,
            not_after_unix_s,
            spiffe,
            dns_names,
            uris,
            organizational_units,
        }
    }
}

impl WillText {
    fn of(stored: &StoredWill) -> Self {
        let Will { topic, payload, qos, retain, delay_s, properties } = &stored.will;
        Self {
            topic: topic.as_str().to_owned(),
            qos: qos.as_u8(),
            retain: *retain,
            delay_s: *delay_s,
            due_at: stored.due_at.map(Time::of),
            payload: Data(payload.to_vec()),
            properties: properties.as_deref().map(PropertiesText::of),
        }
    }

    fn will(&self) -> Result<StoredWill, Wrong> {
        let will = Will {
            topic: topic(&self.topic)?,
            payload: self.payload.0.clone().into(),
            qos: qos(self.qos)?,
            retain: self.retain,
            delay_s: self.delay_s,
            properties: self.properties.as_ref().map(|it| Box::new(it.properties())),
        };
        Ok(StoredWill { will, due_at: self.due_at.map(Time::system) })
    }
}
