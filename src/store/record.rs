//! What a session and a retained message are on disk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::Durability;
use super::codec::{
    Clock, Damage, Fields, Record, put_data, put_list, put_option, put_text, put_time, put_u64,
    put_varint, unseal,
};
use super::content::{put_message, put_publish, qos, take_message, take_publish};
use crate::identity::{Account, CertificateFacts, Identity, PrincipalKind};
use crate::mqtt::packet::{PublishBody, Will};
use crate::mqtt::{ClientId, ProtocolVersion};
use crate::policy::SessionFacts;
use crate::session::{Message, MessageId, Overflow};

/// Who a session belongs to and how it is judged while nobody is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The principal of the present or last connection.
    pub identity: Arc<Identity>,
    /// The facts of that connection, the client identifier among them.
    pub facts: Arc<SessionFacts>,
    /// For whom the session and its retained messages count.
    pub account: Arc<Account>,
    /// How much that account may keep retained.
    pub retained: QueueBounds,
    /// How much may wait for the session.
    pub queue: QueueBounds,
    /// How much may wait for all sessions of its account together.
    pub principal: QueueBounds,
    /// What happens when the queue is full.
    pub overflow: Overflow,
    /// What an acknowledgement promises of it.
    pub durability: Durability,
    /// Seconds it outlives its connection; `u32::MAX` for ever, 0 for one that has ended and left a
    /// queue to others.
    pub expiry_s: u32,
    /// When its last connection ended; `None` while it has one, and of one that has ended when nothing
    /// of its queue can have been sent.
    pub parked_at: Option<SystemTime>,
    /// What to publish when its connection ends, or has ended and the delay is not over.
    pub will: Option<StoredWill>,
}

/// A will that was not sent and not taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWill {
    /// The message.
    pub will: Will,
    /// When it is due; `None` while its connection lives.
    pub due_at: Option<SystemTime>,
}

/// A bound in messages and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Messages.
    pub messages_max: u32,
    /// Bytes of them all.
    pub bytes_max: u64,
}

/// A retained message with the account that keeps it.
#[derive(Debug)]
pub struct RetainedRecord {
    /// The message.
    pub message: Arc<Message>,
    /// The account.
    pub account: Arc<Account>,
}

impl SessionRecord {
    /// The record as it is stored under `key`.
    pub(super) fn seal(&self, key: &[u8]) -> Vec<u8> {
        let mut record = Record::with_capacity(512);
        let out = record.fields();
        put_identity(out, &self.identity);
        put_facts(out, &self.facts);
        put_account(out, &self.account);
        put_bounds(out, self.retained);
        put_bounds(out, self.queue);
        put_bounds(out, self.principal);
        out.push(match self.overflow {
            Overflow::DropNewest => 0,
            Overflow::DropOldest => 1,
            Overflow::RefusePublisher => 2,
        });
        out.push(match self.durability {
            Durability::Os => 0,
            Durability::Fsync => 1,
        });
        put_varint(out, self.expiry_s.into());
        put_option(out, self.parked_at, put_time);
        put_option(out, self.will.as_ref(), put_will);
        record.seal(key)
    }

    /// Reads what [`Self::seal`] wrote.
    pub(super) fn unseal(key: &[u8], stored: &[u8]) -> Result<Self, Damage> {
        let mut fields = unseal(key, stored)?;
        let identity = Arc::new(take_identity(&mut fields)?);
        let facts = Arc::new(take_facts(&mut fields)?);
        let account = Arc::new(take_account(&mut fields)?);
        let (retained, queue) = (take_bounds(&mut fields)?, take_bounds(&mut fields)?);
        let (principal, overflow, durability) = if fields.version() == 1 {
            // It knew of no bounds but these, and of one promise.
            (UNBOUNDED, take_overflow(&mut fields)?, Durability::Fsync)
        } else {
            let principal = take_bounds(&mut fields)?;
            (principal, take_overflow(&mut fields)?, take_durability(&mut fields)?)
        };
        let record = Self {
            identity,
            facts,
            account,
            retained,
            queue,
            principal,
            overflow,
            durability,
            expiry_s: fields.varint_u32()?,
            parked_at: fields.option(Fields::time)?,
            will: fields.option(take_will)?,
        };
        fields.finish()?;
        Ok(record)
    }
}

impl RetainedRecord {
    /// The record as it is stored under the topic.
    pub(super) fn seal(message: &Message, account: &Account, clock: &Clock) -> Vec<u8> {
        let bytes = message.topic.as_str().len() + message.payload.len();
        let mut record = Record::with_capacity(128 + bytes);
        let out = record.fields();
        put_account(out, account);
        put_option(out, message.expires_at, |out, at| put_u64(out, clock.unix_ms_of(at)));
        put_message(out, message);
        record.seal(message.topic.as_str().as_bytes())
    }

    /// Reads what [`Self::seal`] wrote; `None` when the message has expired.
    pub(super) fn unseal(
        key: &[u8],
        stored: &[u8],
        id: MessageId,
        clock: &Clock,
    ) -> Result<Option<Self>, Damage> {
        let mut fields = unseal(key, stored)?;
        let account = Arc::new(take_account(&mut fields)?);
        let expires = fields.option(Fields::u64)?;
        if expires.is_some_and(|at| at <= clock.unix_ms()) {
            return Ok(None);
        }
        let expires_at = expires.and_then(|at| clock.instant_of(at));
        let message = take_message(&mut fields, id, expires_at, clock.instant())?;
        fields.finish()?;
        if message.topic.as_str().as_bytes() != key {
            return Err(Damage("a retained message lies under another topic"));
        }
        Ok(Some(Self { message: Arc::new(message), account }))
    }
}

/// No bound.
const UNBOUNDED: QueueBounds = QueueBounds { messages_max: u32::MAX, bytes_max: u64::MAX };

fn take_overflow(fields: &mut Fields<'_>) -> Result<Overflow, Damage> {
    Ok(match fields.u8()? {
        0 => Overflow::DropNewest,
        1 => Overflow::DropOldest,
        2 => Overflow::RefusePublisher,
        _ => return Err(Damage("what happens to a full queue is unknown")),
    })
}

fn take_durability(fields: &mut Fields<'_>) -> Result<Durability, Damage> {
    Ok(match fields.u8()? {
        0 => Durability::Os,
        1 => Durability::Fsync,
        _ => return Err(Damage("what is promised of a session is unknown")),
    })
}

type Out = Vec<u8>;

pub(super) fn put_kind(out: &mut Out, kind: PrincipalKind) {
    out.push(match kind {
        PrincipalKind::Device => 0,
        PrincipalKind::User => 1,
        PrincipalKind::Service => 2,
        PrincipalKind::Anonymous => 3,
    });
}

pub(super) fn take_kind(fields: &mut Fields<'_>) -> Result<PrincipalKind, Damage> {
    Ok(match fields.u8()? {
        0 => PrincipalKind::Device,
        1 => PrincipalKind::User,
        2 => PrincipalKind::Service,
        3 => PrincipalKind::Anonymous,
        _ => return Err(Damage("the kind of a principal is unknown")),
    })
}

pub(super) fn put_shared_text(out: &mut Out, text: &Arc<str>) {
    put_text(out, text);
}

pub(super) fn take_shared_text(fields: &mut Fields<'_>) -> Result<Arc<str>, Damage> {
    fields.text().map(Into::into)
}

fn put_identity(out: &mut Out, identity: &Identity) {
    put_kind(out, identity.kind);
    put_text(out, &identity.name);
    put_list(out, identity.groups.iter(), put_shared_text);
    put_list(out, identity.tags.iter(), |out, (name, value)| {
        put_text(out, name);
        put_text(out, value);
    });
    put_option(out, identity.certificate.as_deref(), put_certificate);
}

fn take_identity(fields: &mut Fields<'_>) -> Result<Identity, Damage> {
    Ok(Identity {
        kind: take_kind(fields)?,
        name: take_shared_text(fields)?,
        groups: fields.list(take_shared_text)?,
        tags: fields.list(|fields| Ok((take_shared_text(fields)?, take_shared_text(fields)?)))?,
        certificate: fields.option(take_certificate)?.map(Arc::new),
    })
}

fn put_certificate(out: &mut Out, facts: &CertificateFacts) {
    for text in [&facts.cn, &facts.fingerprint, &facts.issuer, &facts.serial] {
        put_text(out, text);
    }
    out.extend_from_slice(&facts.not_after_unix_s.to_be_bytes());
    put_option(out, facts.spiffe.as_ref(), put_shared_text);
    for list in [&facts.dns_names, &facts.uris, &facts.organizational_units] {
        put_list(out, list.iter(), put_shared_text);
    }
}

fn take_certificate(fields: &mut Fields<'_>) -> Result<CertificateFacts, Damage> {
    Ok(CertificateFacts {
        cn: take_shared_text(fields)?,
        fingerprint: take_shared_text(fields)?,
        issuer: take_shared_text(fields)?,
        serial: take_shared_text(fields)?,
        not_after_unix_s: i64::from_be_bytes(fields.array()?),
        spiffe: fields.option(take_shared_text)?,
        dns_names: fields.list(take_shared_text)?,
        uris: fields.list(take_shared_text)?,
        organizational_units: fields.list(take_shared_text)?,
    })
}

fn put_facts(out: &mut Out, facts: &SessionFacts) {
    put_text(out, facts.client_id.as_str());
    put_text(out, &facts.listener);
    match facts.source_ip {
        IpAddr::V4(address) => put_data(out, &address.octets()),
        IpAddr::V6(address) => put_data(out, &address.octets()),
    }
    out.push(facts.protocol.level());
    out.push(facts.tls_version);
}

fn take_facts(fields: &mut Fields<'_>) -> Result<SessionFacts, Damage> {
    let client_id = ClientId::parse(fields.text()?);
    Ok(SessionFacts {
        client_id: client_id.ok_or(Damage("the record holds no client identifier"))?,
        listener: take_shared_text(fields)?,
        source_ip: take_address(fields.data()?)?,
        protocol: match fields.u8()? {
            3 => ProtocolVersion::V31,
            4 => ProtocolVersion::V311,
            5 => ProtocolVersion::V5,
            _ => return Err(Damage("the protocol version is unknown")),
        },
        tls_version: fields.u8()?,
    })
}

fn take_address(octets: &[u8]) -> Result<IpAddr, Damage> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Ok(octets.into());
    }
    <[u8; 16]>::try_from(octets)
        .map(Into::into)
        .map_err(|_| Damage("an address has a wrong length"))
}

fn put_account(out: &mut Out, account: &Account) {
    put_kind(out, account.kind);
    put_text(out, &account.name);
}

fn take_account(fields: &mut Fields<'_>) -> Result<Account, Damage> {
    Ok(Account { kind: take_kind(fields)?, name: take_shared_text(fields)? })
}

fn put_bounds(out: &mut Out, bounds: QueueBounds) {
    put_varint(out, bounds.messages_max.into());
    put_varint(out, bounds.bytes_max);
}

fn take_bounds(fields: &mut Fields<'_>) -> Result<QueueBounds, Damage> {
    Ok(QueueBounds { messages_max: fields.varint_u32()?, bytes_max: fields.varint()? })
}

fn put_will(out: &mut Out, stored: &StoredWill) {
    let will = &stored.will;
    let body = PublishBody {
        properties: will.properties.as_deref(),
        ..PublishBody::new(will.topic.as_str(), &will.payload)
    };
    out.push(will.properties.is_some().into());
    put_publish(out, &body);
    out.push(will.qos.as_u8());
    out.push(will.retain.into());
    put_varint(out, will.delay_s.into());
    put_option(out, stored.due_at, put_time);
}

fn take_will(fields: &mut Fields<'_>) -> Result<StoredWill, Damage> {
    let has_properties = fields.bool()?;
    let (topic, mut properties, payload) = take_publish(fields)?;
    if has_properties {
        properties.get_or_insert_default();
    }
    let will = Will {
        topic,
        payload: payload.into(),
        qos: qos(fields.u8()?)?,
        retain: fields.bool()?,
        delay_s: fields.varint_u32()?,
        properties,
    };
    Ok(StoredWill { will, due_at: fields.option(Fields::time)? })
}
