//! Pages of a queue: all that one batch adds to one session, and messages that several share.

use std::num::NonZeroU64;
use std::sync::Arc;

use smallvec::SmallVec;

use super::codec::{Clock, Damage, Fields, Record, put_u64, put_varint, unseal};
use super::content::{put_message, put_subscription, qos, take_message, take_subscription};
use super::keys;
use super::{Expiry, SessionNo, Waiting};
use crate::mqtt::SubscriptionFilter;
use crate::mqtt::packet::Qos;
use crate::session::{Delivery, Message, MessageId, Seq, Subscription, SubscriptionOptions, Via};

/// Bytes from which on a page takes no further entry.
const PAGE_BYTES: usize = 64 * 1024;

/// What stands before the message of an entry.
mod flags {
    pub(super) const QOS: u8 = 0b0000_0011;
    pub(super) const RETAIN: u8 = 0b0000_0100;
    pub(super) const EXPIRES: u8 = 0b0000_1000;
    pub(super) const IDS: u8 = 0b0001_0000;
    pub(super) const SHARED: u8 = 0b0010_0000;
    /// The message is not here, but in `bodies`.
    pub(super) const REFERENCE: u8 = 0b0100_0000;
    pub(super) const KNOWN: u8 = QOS | RETAIN | EXPIRES | IDS | SHARED | REFERENCE;
}

/// Which page this is, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageRef {
    /// The first sequence number in it.
    pub(super) first: u64,
    /// The last.
    pub(super) last: u64,
    /// What it refers to in `bodies`, once for each reference.
    pub(super) bodies: Box<[u64]>,
}

/// A page that is ready to be stored.
pub(super) struct Written {
    pub(super) key: [u8; 16],
    pub(super) record: Vec<u8>,
    pub(super) page: PageRef,
}

/// What is queued, without its message.
#[derive(Clone, Copy)]
pub(super) struct Queued<'a> {
    pub(super) qos: Qos,
    pub(super) retain: bool,
    /// Identifiers of the subscriptions.
    pub(super) ids: &'a [u32],
    /// The shared subscription that it came through.
    pub(super) shared: Option<(&'a SubscriptionFilter, SubscriptionOptions)>,
    /// What the message counts for.
    pub(super) bytes: u64,
    pub(super) expires_unix_ms: Option<u64>,
}

/// Where the message is.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Here(&'a Message),
    /// In `bodies`, under this number.
    Body(u64),
}

/// A page that takes entries.
pub(super) struct Writing {
    number: SessionNo,
    first: u64,
    last: u64,
    record: Record,
    bodies: Vec<u64>,
}

impl Writing {
    /// A page that begins with this sequence number.
    pub(super) fn new(number: SessionNo, first: u64) -> Self {
        let record = Record::with_capacity(1024);
        Self { number, first, last: first, record, bodies: Vec::new() }
    }

    /// True when the page should take no further entry.
    pub(super) fn is_full(&self) -> bool {
        self.record.len() >= PAGE_BYTES
    }

    /// Appends an entry. Its number is higher than those before; its message lies in `bodies`
    /// where `body` says so, else with it.
    pub(super) fn push(&mut self, seq: u64, delivery: &Delivery, body: Option<u64>, clock: &Clock) {
        let Delivery { message, via, qos, retain, .. } = delivery;
        let shared = via.shared().map(|it| (&it.filter, it.options));
        let expires_unix_ms = message.expires_at.map(|at| clock.unix_ms_of(at));
        let content = body.map_or(Content::Here(message), Content::Body);
        let (ids, bytes) = (&*via.ids, message.bytes());
        let queued = Queued { qos: *qos, retain: *retain, ids, shared, bytes, expires_unix_ms };
        self.put(seq, &queued, content);
    }

    /// As [`Self::push`].
    pub(super) fn put(&mut self, seq: u64, queued: &Queued<'_>, content: Content<'_>) {
        let Queued { qos, retain, ids, shared, bytes, expires_unix_ms } = *queued;
        let flag = |set, flag| if set { flag } else { 0 };
        let out = self.record.fields();
        put_varint(out, seq.saturating_sub(self.last));
        out.push(
            qos.as_u8()
                | flag(retain, flags::RETAIN)
                | flag(expires_unix_ms.is_some(), flags::EXPIRES)
                | flag(!ids.is_empty(), flags::IDS)
                | flag(shared.is_some(), flags::SHARED)
                | flag(matches!(content, Content::Body(_)), flags::REFERENCE),
        );
        put_varint(out, bytes);
        if let Some(at) = expires_unix_ms {
            put_u64(out, at);
        }
        if !ids.is_empty() {
            put_varint(out, ids.len() as u64);
            for id in ids {
                put_varint(out, (*id).into());
            }
        }
        if let Some((filter, options)) = shared {
            put_subscription(out, filter, options);
        }
        match content {
            Content::Body(id) => {
                put_u64(out, id);
                self.bodies.push(id);
            }
            Content::Here(message) => put_message(out, message),
        }
        self.last = seq;
    }

    pub(super) fn seal(self) -> Written {
        let key = keys::page(self.number, self.first);
        let page = PageRef { first: self.first, last: self.last, bodies: self.bodies.into() };
        Written { key, record: self.record.seal(&key), page }
    }
}

/// An entry whose message is not decoded yet.
pub(super) struct Entry<'a> {
    pub(super) seq: u64,
    /// What the message counts for.
    pub(super) bytes: u64,
    /// Milliseconds since 1970.
    pub(super) expires_unix_ms: Option<u64>,
    /// Where the message is, if not here.
    pub(super) body: Option<u64>,
    flags: u8,
    ids: SmallVec<[u32; 2]>,
    shared: Option<Subscription>,
    message: Fields<'a>,
}

/// The entries of a page, in order.
pub(super) struct Entries<'a> {
    last: u64,
    fields: Fields<'a>,
}

impl<'a> Entries<'a> {
    /// The page as it was stored under `key`.
    pub(super) fn open(key: &[u8], stored: &'a [u8]) -> Result<Self, Damage> {
        let (_, first) = keys::parse_page(key)?;
        Ok(Self { last: first, fields: unseal(key, stored)? })
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'a>>, Damage> {
        if self.fields.is_empty() {
            return Ok(None);
        }
        let fields = &mut self.fields;
        let seq = self.last.checked_add(fields.varint()?).ok_or(Damage("a number is too large"))?;
        let flags = fields.u8()?;
        if flags & !flags::KNOWN != 0 {
            return Err(Damage("an entry has flags that are unknown"));
        }
        let has = |flag| flags & flag != 0;
        let bytes = fields.varint()?;
        let expires_unix_ms = has(flags::EXPIRES).then(|| fields.u64()).transpose()?;
        let ids = has(flags::IDS).then(|| fields.list(Fields::varint_u32)).transpose()?;
        let shared = has(flags::SHARED).then(|| take_subscription(fields)).transpose()?;
        let body = has(flags::REFERENCE).then(|| fields.u64()).transpose()?;
        let message = *fields;
        if body.is_none() {
            // The flags of the message, and the message after its length.
            fields.u8()?;
            fields.data()?;
        }
        self.last = seq;
        Ok(Some(Entry {
            seq,
            bytes,
            expires_unix_ms,
            body,
            flags,
            ids: ids.unwrap_or_default(),
            shared: shared.map(|(filter, options)| Subscription::new(filter, options)),
            message,
        }))
    }
}

impl Entry<'_> {
    /// What waits with this number, and nothing of the message is needed for.
    pub(super) fn waiting(&self, clock: &Clock) -> Option<Waiting> {
        Some(Waiting {
            seq: Seq(NonZeroU64::new(self.seq)?),
            bytes: u32::try_from(self.bytes).unwrap_or(u32::MAX),
            expiry: Expiry::of(self.expires_unix_ms.and_then(|at| clock.instant_of(at))),
        })
    }

    pub(super) fn has_expired(&self, clock: &Clock) -> bool {
        self.expires_unix_ms.is_some_and(|at| at <= clock.unix_ms())
    }

    /// The message, which is here.
    pub(super) fn message(&self, id: MessageId, clock: &Clock) -> Result<Message, Damage> {
        let expires_at = self.expires_unix_ms.and_then(|at| clock.instant_of(at));
        take_message(&mut self.message.clone(), id, expires_at, clock.instant())
    }

    /// The message, read from what `bodies` has for it.
    pub(super) fn message_in(
        &self,
        key: &[u8],
        stored: &[u8],
        id: MessageId,
        clock: &Clock,
    ) -> Result<Message, Damage> {
        let expires_at = self.expires_unix_ms.and_then(|at| clock.instant_of(at));
        let mut fields = unseal(key, stored)?;
        let message = take_message(&mut fields, id, expires_at, clock.instant())?;
        fields.finish()?;
        Ok(message)
    }

    /// What was queued, without the message.
    ///
    /// # Errors
    /// Where [`Self::delivery`] has one.
    pub(super) fn check(&self) -> Result<Queued<'_>, Damage> {
        if self.seq == 0 {
            return Err(Damage("a sequence number is 0"));
        }
        Ok(Queued {
            qos: qos(self.flags & flags::QOS)?,
            retain: self.flags & flags::RETAIN != 0,
            ids: &self.ids,
            shared: self.shared.as_ref().map(|it| (&it.filter, it.options)),
            bytes: self.bytes,
            expires_unix_ms: self.expires_unix_ms,
        })
    }

    /// The delivery, with its message.
    pub(super) fn delivery(self, message: Arc<Message>) -> Result<Delivery, Damage> {
        let seq = NonZeroU64::new(self.seq).ok_or(Damage("a sequence number is 0"))?;
        let qos: Qos = qos(self.flags & flags::QOS)?;
        let subscriptions = self.shared.map(Arc::new).into_iter().collect();
        Ok(Delivery {
            message,
            via: Arc::new(Via { subscriptions, ids: self.ids }),
            qos,
            retain: self.flags & flags::RETAIN != 0,
            wide: false,
            seq: Some(Seq(seq)),
        })
    }
}

/// A message as `bodies` has it.
pub(super) fn seal_body(key: &[u8], message: &Message) -> Vec<u8> {
    let bytes = message.topic.as_str().len() + message.payload.len();
    let mut record = Record::with_capacity(64 + bytes);
    put_message(record.fields(), message);
    record.seal(key)
}
