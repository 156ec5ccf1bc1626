//! A message on its way through the broker, and one delivery of it.

use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use smallvec::SmallVec;

use super::Subscription;
use crate::mqtt::packet::{PublishBody, PublishHead, PublishProperties, Qos, encode_publish};
use crate::mqtt::{ProtocolVersion, TopicName};

/// Names a message within one broker: unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u64);

/// The broker that took a message from its publisher. One broker stands alone for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub u32);

impl Origin {
    /// This broker.
    pub const LOCAL: Self = Self(0);
}

/// An application message, immutable and shared by all its deliveries.
#[derive(Debug)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// Where it came from.
    pub origin: Origin,
    /// The topic, with any alias resolved.
    pub topic: TopicName,
    /// The payload.
    pub payload: Box<[u8]>,
    /// The QoS it was published with.
    pub qos: Qos,
    /// The retain flag it was published with.
    pub retain: bool,
    /// It is a will.
    pub will: bool,
    /// Its properties, without topic alias and subscription identifiers.
    pub properties: Option<Box<PublishProperties>>,
    /// When it expires: its arrival plus its message expiry interval.
    pub expires_at: Option<Instant>,
    frames: OnceLock<Box<Frames>>,
}

/// The frames of a QoS 0 delivery, encoded once per version.
#[derive(Debug, Default)]
struct Frames {
    v3: OnceLock<Box<[u8]>>,
    v5: OnceLock<Box<[u8]>>,
}

impl Message {
    /// A message that arrived at `now`.
    #[must_use]
    pub fn new(
        id: MessageId,
        topic: TopicName,
        payload: Box<[u8]>,
        qos: Qos,
        retain: bool,
        properties: Option<Box<PublishProperties>>,
        now: Instant,
    ) -> Self {
        let expires_at = properties
            .as_ref()
            .and_then(|properties| properties.message_expiry_s)
            .and_then(|seconds| now.checked_add(std::time::Duration::from_secs(seconds.into())));
        Self {
            id,
            origin: Origin::LOCAL,
            topic,
            payload,
            qos,
            retain,
            will: false,
            properties,
            expires_at,
            frames: OnceLock::new(),
        }
    }

    /// The same message, sent as a will.
    #[must_use]
    pub fn as_will(self) -> Self {
        Self { will: true, ..self }
    }

    /// What the message counts for in bounds given in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let properties = self.properties.as_ref().map_or(0, |properties| {
            64 + properties.content_type.as_ref().map_or(0, |text| text.len())
                + properties.response_topic.as_ref().map_or(0, |text| text.len())
                + properties.correlation_data.as_ref().map_or(0, |data| data.len())
                + properties
                    .user_properties
                    .0
                    .iter()
                    .map(|(name, value)| 32 + name.len() + value.len())
                    .sum::<usize>()
        });
        (self.topic.as_str().len() + self.payload.len() + properties) as u64
    }

    /// True when the message has expired.
    #[must_use]
    pub fn has_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Seconds of life left to forward: rounded up, so that a live message never says 0; and no
    /// more than it came with, since `now` may have been read before it arrived [MQTT-3.3.2-6].
    #[must_use]
    pub fn expiry_left_s(&self, now: Instant) -> Option<u32> {
        let left = self.expires_at?.saturating_duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let at_first = self.properties.as_ref()?.message_expiry_s?;
        Some(u32::try_from(seconds).unwrap_or(u32::MAX).min(at_first))
    }

    /// The message as it goes on the wire, with what differs between deliveries.
    #[must_use]
    pub fn body<'a>(&'a self, expiry_s: Option<u32>, ids: &'a [u32]) -> PublishBody<'a> {
        PublishBody {
            topic: self.topic.as_str(),
            topic_alias: None,
            properties: self.properties.as_deref(),
            message_expiry_s: expiry_s,
            subscription_ids: ids,
            payload: &self.payload,
        }
    }

    /// The frame of a QoS 0 delivery without retain flag and subscription identifiers, encoded
    /// at the first call per version and shared by the whole fan-out. Not for a message that
    /// expires: its frame differs from second to second.
    #[must_use]
    pub fn shared_frame(&self, version: ProtocolVersion) -> &[u8] {
        let frames = self.frames.get_or_init(Box::default);
        let frame = if version.is_v5() { &frames.v5 } else { &frames.v3 };
        frame.get_or_init(|| {
            let mut out = Vec::with_capacity(self.payload.len() + self.topic.as_str().len() + 16);
            encode_publish(
                &mut out,
                version,
                PublishHead::at_most_once(false),
                &self.body(None, &[]),
            );
            out.into_boxed_slice()
        })
    }
}

/// The place of a delivery in the queue of a durable session. The first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub NonZeroU64);

impl Seq {
    /// The first.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// So many places later.
    #[must_use]
    pub const fn after(self, places: u64) -> Self {
        Self(self.0.saturating_add(places))
    }

    /// The one before; `None` before the first.
    #[must_use]
    pub const fn before(self) -> Option<Self> {
        match NonZeroU64::new(self.0.get() - 1) {
            Some(before) => Some(Self(before)),
            None => None,
        }
    }
}

/// The subscriptions of one client through which a message reaches it.
#[derive(Debug)]
pub struct Via {
    /// The matching subscriptions; for a shared one, just that one. None for a delivery that was
    /// read back from the store, unless it is a shared one's.
    pub subscriptions: SmallVec<[Arc<Subscription>; 1]>,
    /// Their subscription identifiers.
    pub ids: SmallVec<[u32; 2]>,
}

impl Via {
    /// The way through one subscription.
    #[must_use]
    pub fn one(subscription: Arc<Subscription>) -> Self {
        let ids = subscription.options.id.iter().map(|id| id.get()).collect();
        Self { subscriptions: smallvec::smallvec![subscription], ids }
    }

    /// The shared subscription this is, if it is one.
    #[must_use]
    pub fn shared(&self) -> Option<&Arc<Subscription>> {
        self.subscriptions.first().filter(|subscription| subscription.filter.share.is_some())
    }
}

/// One message for one client.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What.
    pub message: Arc<Message>,
    /// Why this client gets it.
    pub via: Arc<Via>,
    /// The QoS to deliver with: the lower of the message's and the subscription's.
    pub qos: Qos,
    /// The retain flag to deliver with.
    pub retain: bool,
    /// True when many clients get the message, so that sharing its frame pays.
    pub wide: bool,
    /// Its place in the queue, where the session is durable and the QoS above 0.
    pub seq: Option<Seq>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_forwarded_of_an_expiry_is_never_more_than_came() {
        let (topic, properties) = (TopicName::parse("a").unwrap(), PublishProperties::default());
        let properties = PublishProperties { message_expiry_s: Some(100), ..properties };
        let before = Instant::now();
        let arrived = before + Duration::from_millis(1);
        let message = Message::new(
            MessageId(0),
            topic,
            b"x".as_slice().into(),
            Qos::AtMostOnce,
            false,
            Some(Box::new(properties)),
            arrived,
        );
        let at = |millis| arrived + Duration::from_millis(millis);
        // The receiver's task read the clock a moment before the publisher's did.
        assert_eq!(message.expiry_left_s(before), Some(100));
        assert_eq!(message.expiry_left_s(at(1)), Some(100));
        assert_eq!(message.expiry_left_s(at(1001)), Some(99));
        assert_eq!(message.expiry_left_s(at(99_999)), Some(1));
    }
}
