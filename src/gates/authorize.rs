//! The authorize gate: Cedar decides every connect, publish, subscribe and delivery.
//!
//! The decisions are `policy`'s; here its facts are gathered from packets and messages.

use std::time::SystemTime;

use crate::mqtt::packet::Qos;
use crate::mqtt::{SubscriptionFilter, TopicName};
use crate::policy::{
    Denial, Permitted, Publication, PublishFacts, ReceiveFacts, Subject, SubscribeFacts,
};
use crate::session::Message;

/// How refusals are told where the protocol leaves a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A refused PUBLISH of MQTT 3, which has no reason code.
    pub denied_publish_v3: DeniedPublish,
    /// A refused SUBSCRIBE of MQTT 3.1, which has no failure code.
    pub denied_subscribe_v31: DeniedSubscribe,
    /// A subscription that a new policy no longer allows.
    pub withdrawn_subscription: WithdrawnSubscription,
}

/// The answer to a refused PUBLISH of MQTT 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// Close the connection.
    Disconnect,
    /// Drop the message and acknowledge it as if it had been taken.
    DropAndAcknowledge,
}

/// The answer to a refused SUBSCRIBE of MQTT 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedSubscribe {
    /// SUBACK with 0x80, as MQTT 3.1.1 has it.
    Failure,
    /// Close the connection.
    Disconnect,
}

/// What happens when a policy reload takes away the right to a live subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithdrawnSubscription {
    /// Close the connection, with 0x87 in MQTT 5.
    Disconnect,
    /// Remove the subscription and say nothing.
    RemoveSilently,
}

impl Publication for Message {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn facts(&self) -> PublishFacts<'_> {
        let properties = self.properties.as_deref();
        PublishFacts {
            qos: self.qos,
            retain: self.retain,
            will: self.will,
            payload_bytes: self.payload.len(),
            content_type: properties.and_then(|properties| properties.content_type.as_deref()),
            user_properties: properties.map(|properties| &properties.user_properties),
        }
    }
}

/// Judges a message of the subject's own, as PUBLISH or as will.
///
/// # Errors
/// The [`Denial`].
pub fn publish(
    subject: &mut Subject,
    message: Message,
    now: SystemTime,
) -> Result<Permitted<'_, Message>, Denial> {
    subject.publish(message, now).map_err(|denied| denied.denial)
}

/// Judges one filter of a SUBSCRIBE.
///
/// # Errors
/// The [`Denial`].
pub fn subscribe<'p>(
    subject: &'p mut Subject,
    filter: &SubscriptionFilter,
    qos: Qos,
    no_local: bool,
    now: SystemTime,
) -> Result<Permitted<'p, SubscriptionFilter>, Denial> {
    subject.subscribe(filter, &SubscribeFacts { qos, no_local, now })
}

/// Judges a message for its receiver, as it would be delivered.
///
/// # Errors
/// The [`Denial`].
pub fn receive(
    subject: &mut Subject,
    message: &Message,
    qos: Qos,
    retain: bool,
    now: SystemTime,
) -> Result<(), Denial> {
    let properties = message.properties.as_deref();
    let facts = ReceiveFacts {
        qos,
        retain,
        payload_bytes: message.payload.len(),
        content_type: properties.and_then(|properties| properties.content_type.as_deref()),
        user_properties: properties.map(|properties| &properties.user_properties),
        now,
    };
    subject.receive(&message.topic, &facts)
}
