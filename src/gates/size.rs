//! The size gate: caps on everything a client can make large.
//!
//! The cap on the whole packet is enforced by the frame reader, before anything is allocated;
//! the rest here, after decoding and before the session sees the packet.

use crate::mqtt::packet::{Connect, Packet, PublishProperties};
use crate::mqtt::{ReasonCode, UserProperties};

/// The caps. All are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a whole packet, fixed header included; enforced before allocation.
    pub packet_bytes_max: u32,
    /// Bytes of a payload, or of a will's.
    pub payload_bytes_max: u32,
    /// Bytes of a topic name or filter.
    pub topic_bytes_max: u16,
    /// Levels of a topic name or filter.
    pub topic_levels_max: u16,
    /// Bytes of a client identifier.
    pub client_id_bytes_max: u16,
    /// Bytes of all properties of one packet that hold text or data.
    pub property_bytes_max: u32,
    /// User properties in one packet.
    pub user_properties_max: u16,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet_max: u16,
}

/// A cap that a packet exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {actual}, the most allowed is {allowed}")]
pub struct Exceeded {
    /// What is too large.
    pub what: &'static str,
    /// How large it is.
    pub actual: usize,
    /// How large it may be.
    pub allowed: usize,
    /// What the client is told.
    pub reason: ReasonCode,
}

impl Settings {
    /// Checks a packet. Filters of SUBSCRIBE are checked one by one, with
    /// [`Settings::check_topic`], since each has an answer of its own.
    ///
    /// # Errors
    /// The first cap that is exceeded.
    pub fn check(&self, packet: &Packet<'_>) -> Result<(), Exceeded> {
        match packet {
            Packet::Publish(publish) => {
                self.check_topic(publish.topic, ReasonCode::TopicNameInvalid)?;
                self.check_payload(publish.payload)?;
                self.check_publish_properties(publish.properties.as_deref())
            }
            Packet::Subscribe(subscribe) => {
                self.check_filters(subscribe.entries.len())?;
                self.check_properties(&subscribe.user_properties, 0)
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.check_filters(unsubscribe.filters.len())?;
                self.check_properties(&unsubscribe.user_properties, 0)
            }
            Packet::Connect(connect) => self.check_connect(connect),
            Packet::Puback(ack)
            | Packet::Pubrec(ack)
            | Packet::Pubrel(ack)
            | Packet::Pubcomp(ack) => {
                if ack.user_properties.is_empty() && ack.reason_string.is_none() {
                    return Ok(());
                }
                let text = ack.reason_string.as_ref().map_or(0, |text| text.len());
                self.check_properties(&ack.user_properties, text)
            }
            Packet::Disconnect(disconnect) => {
                let text = disconnect.reason_string.as_ref().map_or(0, |text| text.len());
                self.check_properties(&disconnect.user_properties, text)
            }
            Packet::Auth(auth) => {
                let data = auth.data.as_ref().map_or(0, |data| data.len());
                self.check_properties(&auth.user_properties, data)
            }
            Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingreq
            | Packet::Pingresp => Ok(()),
        }
    }

    /// Checks the text of a topic name or filter.
    ///
    /// # Errors
    /// [`Exceeded`] with the given reason, for too many bytes or levels.
    pub fn check_topic(&self, text: &str, reason: ReasonCode) -> Result<(), Exceeded> {
        at_most("topic bytes", text.len(), self.topic_bytes_max.into(), reason)?;
        let levels_max = usize::from(self.topic_levels_max);
        // A level takes a byte at least, but for the first: short texts need no counting.
        if text.len() >= levels_max {
            at_most("topic levels", text.split('/').count(), levels_max, reason)?;
        }
        Ok(())
    }

    /// Checks a CONNECT, its will included.
    ///
    /// # Errors
    /// The first cap that is exceeded.
    pub fn check_connect(&self, connect: &Connect) -> Result<(), Exceeded> {
        let client_id_max = self.client_id_bytes_max.into();
        let invalid = ReasonCode::ClientIdentifierNotValid;
        at_most("client identifier bytes", connect.client_id.len(), client_id_max, invalid)?;
        let mut text = connect.authentication_data.as_ref().map_or(0, |data| data.len());
        text += connect.authentication_method.as_ref().map_or(0, |method| method.len());
        self.check_properties(&connect.user_properties, text)?;
        if let Some(will) = &connect.will {
            self.check_topic(will.topic.as_str(), ReasonCode::TopicNameInvalid)?;
            self.check_payload(&will.payload)?;
            self.check_publish_properties(will.properties.as_deref())?;
        }
        Ok(())
    }

    fn check_payload(&self, payload: &[u8]) -> Result<(), Exceeded> {
        let allowed = self.payload_bytes_max as usize;
        at_most("payload bytes", payload.len(), allowed, ReasonCode::PacketTooLarge)
    }

    fn check_filters(&self, count: usize) -> Result<(), Exceeded> {
        let allowed = self.filters_per_packet_max.into();
        at_most("filters in one packet", count, allowed, ReasonCode::QuotaExceeded)
    }

    fn check_publish_properties(
        &self,
        properties: Option<&PublishProperties>,
    ) -> Result<(), Exceeded> {
        let Some(properties) = properties else { return Ok(()) };
        if let Some(topic) = &properties.response_topic {
            self.check_topic(topic, ReasonCode::TopicNameInvalid)?;
        }
        let text = properties.correlation_data.as_ref().map_or(0, |data| data.len())
            + properties.content_type.as_ref().map_or(0, |text| text.len())
            + properties.response_topic.as_ref().map_or(0, |text| text.len());
        self.check_properties(&properties.user_properties, text)
    }

    fn check_properties(&self, user: &UserProperties, other: usize) -> Result<(), Exceeded> {
        let reason = ReasonCode::QuotaExceeded;
        at_most("user properties", user.0.len(), self.user_properties_max.into(), reason)?;
        let user: usize = user.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        at_most("property bytes", user + other, self.property_bytes_max as usize, reason)
    }
}

fn at_most(
    what: &'static str,
    actual: usize,
    allowed: usize,
    reason: ReasonCode,
) -> Result<(), Exceeded> {
    if actual > allowed { Err(Exceeded { what, actual, allowed, reason }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::packet::{Publish, Qos};

    const SETTINGS: Settings = Settings {
        packet_bytes_max: 1000,
        payload_bytes_max: 10,
        topic_bytes_max: 12,
        topic_levels_max: 3,
        client_id_bytes_max: 4,
        property_bytes_max: 8,
        user_properties_max: 2,
        filters_per_packet_max: 2,
    };

    fn publish<'a>(topic: &'a str, payload: &'a [u8]) -> Packet<'a> {
        Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: None,
            payload,
        })
    }

    #[test]
    fn each_cap_is_inclusive_and_has_its_reason() {
        assert_eq!(SETTINGS.check(&publish("a/b/c", &[0; 10])), Ok(()));
        let too_large = SETTINGS.check(&publish("a", &[0; 11])).unwrap_err();
        assert_eq!(too_large.reason, ReasonCode::PacketTooLarge);
        assert_eq!(SETTINGS.check(&publish("//", b"")), Ok(()));
        for topic in ["a/b/c/d", "///", "1234567890123"] {
            let refused = SETTINGS.check(&publish(topic, b"")).unwrap_err();
            assert_eq!(refused.reason, ReasonCode::TopicNameInvalid, "{topic}");
        }
    }
}
