//! Messages and filters as JSON has them.

use std::num::NonZeroU32;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::value::{Data, Wrong, qos, topic, wrong};
use crate::mqtt::packet::PublishProperties;
use crate::mqtt::{SubscriptionFilter, UserProperties};
use crate::session::{Message, MessageId, SubscriptionOptions};

/// A message but its expiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageText {
    topic: String,
    qos: u8,
    retain: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    will: bool,
    payload: Data,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PropertiesText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_is_utf8: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_expiry_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response_topic: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_data: Option<Data>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    user_properties: Vec<(Box<str>, Box<str>)>,
}

impl MessageText {
    pub(super) fn of(message: &Message) -> Self {
        Self {
            topic: message.topic.as_str().to_owned(),
            qos: message.qos.as_u8(),
            retain: message.retain,
            will: message.will,
            payload: Data(message.payload.to_vec()),
            properties: message.properties.as_deref().map(PropertiesText::of),
        }
    }

    /// The message, which expires at this moment.
    pub(super) fn message(&self, now: Instant, at: Option<Instant>) -> Result<Message, Wrong> {
        let (id, qos, topic) = (MessageId(0), qos(self.qos)?, topic(&self.topic)?);
        let payload = self.payload.0.clone().into();
        let properties = self.properties.as_ref().map(|it| Box::new(it.properties()));
        let mut message = Message::new(id, topic, payload, qos, self.retain, properties, now);
        message.expires_at = at;
        Ok(if self.will { message.as_will() } else { message })
    }
}

impl PropertiesText {
    pub(super) fn of(properties: &PublishProperties) -> Self {
        let data = |data: &[u8]| Data(data.to_vec());
        Self {
            payload_is_utf8: properties.payload_is_utf8,
            message_expiry_s: properties.message_expiry_s,
            response_topic: properties.response_topic.clone(),
            correlation_data: properties.correlation_data.as_deref().map(data),
            content_type: properties.content_type.clone(),
            user_properties: properties.user_properties.0.clone(),
        }
    }

    pub(super) fn properties(&self) -> PublishProperties {
        PublishProperties {
            payload_is_utf8: self.payload_is_utf8,
            message_expiry_s: self.message_expiry_s,
            response_topic: self.response_topic.clone(),
            correlation_data: self.correlation_data.clone().map(|data| data.0.into()),
            content_type: self.content_type.clone(),
            user_properties: UserProperties(self.user_properties.clone()),
            ..PublishProperties::default()
        }
    }
}

/// A filter, and how what matches it is delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterText {
    filter: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_local: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retain_as_published: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<NonZeroU32>,
}

impl FilterText {
    pub(super) fn of(filter: &SubscriptionFilter, options: SubscriptionOptions) -> Self {
        let SubscriptionOptions { qos, no_local, retain_as_published, id } = options;
        let (filter, qos) = (filter.to_string(), qos.as_u8());
        Self { filter, qos, no_local, retain_as_published, id }
    }

    pub(super) fn parse(&self) -> Result<(SubscriptionFilter, SubscriptionOptions), Wrong> {
        let filter = SubscriptionFilter::parse(&self.filter)
            .map_err(|error| wrong("filter", &format!("{}; correct it", error.what)))?;
        let Self { no_local, retain_as_published, id, .. } = *self;
        Ok((filter, SubscriptionOptions { qos: qos(self.qos)?, no_local, retain_as_published, id }))
    }
}
