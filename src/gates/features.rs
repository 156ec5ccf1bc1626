//! The features gate: what of the protocol a profile offers at all.

use std::sync::Arc;

use crate::mqtt::packet::{Connect, Packet, Qos, SubscribeEntry};
use crate::mqtt::{ClientId, ProtocolVersion, ReasonCode};

/// What is offered. Where MQTT 5 can announce it, CONNACK does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// MQTT 3.1.
    pub mqtt_3_1: bool,
    /// MQTT 3.1.1.
    pub mqtt_3_1_1: bool,
    /// MQTT 5.0.
    pub mqtt_5_0: bool,
    /// The highest QoS a client may publish with.
    pub qos_max: Qos,
    /// Retained messages.
    pub retain: bool,
    /// Filters with `+` or `#`.
    pub wildcard_subscriptions: bool,
    /// `$share/<name>/<filter>`.
    pub shared_subscriptions: bool,
    /// Subscription identifiers.
    pub subscription_ids: bool,
    /// Wills.
    pub wills: bool,
    /// The highest topic alias a client may use; 0 turns aliases off.
    pub topic_alias_max: u16,
    /// Topic aliases the broker sets towards a client that takes them; 0 sets none.
    pub outgoing_topic_alias_max: u16,
    /// Seconds a session may outlive its connection; `u32::MAX` is for ever.
    pub session_expiry_s_max: u32,
    /// The shortest keep-alive interval a client of MQTT 5 may choose, in seconds.
    pub keep_alive_s_min: u16,
    /// The longest keep-alive interval of MQTT 5, in seconds; also used where a client, of any
    /// version, turns it off. 0 lets a client turn it off.
    pub keep_alive_s_max: u16,
    /// Response information for clients that ask for it, such as the prefix of the topics they
    /// may give for responses; `${client_id}` in it stands for the client identifier.
    pub response_information: Option<Arc<str>>,
}

/// Something of the protocol that is not offered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} not offered by this profile")]
pub struct NotOffered {
    /// What.
    pub what: &'static str,
    /// What the client is told.
    pub reason: ReasonCode,
}

impl NotOffered {
    const fn new(what: &'static str, reason: ReasonCode) -> Self {
        Self { what, reason }
    }
}

impl Settings {
    /// Checks what a CONNECT announces.
    ///
    /// # Errors
    /// [`NotOffered`] for the version or the will [MQTT-3.2.2-12], [MQTT-3.2.2-13].
    pub fn check_connect(&self, connect: &Connect) -> Result<(), NotOffered> {
        let offered = match connect.version {
            ProtocolVersion::V31 => self.mqtt_3_1,
            ProtocolVersion::V311 => self.mqtt_3_1_1,
            ProtocolVersion::V5 => self.mqtt_5_0,
        };
        if !offered {
            let reason = ReasonCode::UnsupportedProtocolVersion;
            return Err(NotOffered::new("this protocol version is", reason));
        }
        let Some(will) = &connect.will else { return Ok(()) };
        if !self.wills {
            let reason = ReasonCode::ImplementationSpecificError;
            return Err(NotOffered::new("a will is", reason));
        }
        self.check_publication(will.qos, will.retain)
    }

    /// Checks a packet of an established connection. The filters of SUBSCRIBE are checked one
    /// by one, with [`Settings::check_subscription`], since each has an answer of its own.
    ///
    /// # Errors
    /// [`NotOffered`].
    pub fn check(&self, packet: &Packet<'_>) -> Result<(), NotOffered> {
        match packet {
            Packet::Publish(publish) => self.check_publication(publish.qos, publish.retain),
            Packet::Subscribe(subscribe)
                if subscribe.subscription_id.is_some() && !self.subscription_ids =>
            {
                let reason = ReasonCode::SubscriptionIdentifiersNotSupported;
                Err(NotOffered::new("a subscription identifier is", reason))
            }
            _ => Ok(()),
        }
    }

    /// Checks one filter of a SUBSCRIBE.
    ///
    /// # Errors
    /// [`NotOffered`].
    pub fn check_subscription(&self, entry: &SubscribeEntry) -> Result<(), NotOffered> {
        if entry.filter.share.is_some() && !self.shared_subscriptions {
            let reason = ReasonCode::SharedSubscriptionsNotSupported;
            return Err(NotOffered::new("a shared subscription is", reason));
        }
        if entry.filter.filter.has_wildcard() && !self.wildcard_subscriptions {
            let reason = ReasonCode::WildcardSubscriptionsNotSupported;
            return Err(NotOffered::new("a wildcard subscription is", reason));
        }
        Ok(())
    }

    /// The keep-alive interval in force for a client that asks for `wanted_s` seconds; 0 is off.
    ///
    /// Clients of MQTT 5 are told another one than theirs. Those of MQTT 3 cannot be, and are
    /// counted by their own word [MQTT-3.1.2-24]; who gave none may be ended for silence at any
    /// time (MQTT 3.1.1, 3.1.2.10).
    #[must_use]
    pub fn keep_alive_s(&self, version: ProtocolVersion, wanted_s: u16) -> u16 {
        match (wanted_s, self.keep_alive_s_max) {
            (0, 0) => 0,
            (0, most) => most,
            (wanted, _) if !version.is_v5() => wanted,
            (wanted, 0) => wanted.max(self.keep_alive_s_min),
            (wanted, most) => wanted.clamp(self.keep_alive_s_min.min(most), most),
        }
    }

    /// The response information for this client.
    #[must_use]
    pub fn response_information(&self, client_id: &ClientId) -> Option<Box<str>> {
        let information = self.response_information.as_ref()?;
        Some(information.replace("${client_id}", client_id.as_str()).into())
    }

    /// The session expiry in force for a client that asks for `wanted_s` seconds.
    #[must_use]
    pub fn session_expiry_s(&self, wanted_s: u32) -> u32 {
        wanted_s.min(self.session_expiry_s_max)
    }

    fn check_publication(&self, qos: Qos, retain: bool) -> Result<(), NotOffered> {
        if qos > self.qos_max {
            return Err(NotOffered::new("this QoS is", ReasonCode::QosNotSupported));
        }
        if retain && !self.retain {
            return Err(NotOffered::new("a retained message is", ReasonCode::RetainNotSupported));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn who_cannot_be_told_another_keep_alive_is_held_to_its_own() {
        use ProtocolVersion::{V5, V31, V311};
        let text = r#"
            [listener.x]
            address = "127.0.0.1:0"
            plaintext = true
            identity = "anonymous"
            [profile.default.features]
            keep_alive_min = "10s"
            keep_alive_max = "100s"
        "#;
        let config = Config::from_text("test", text, std::path::Path::new("/"), &[]).unwrap();
        let bounded = config.listeners[0].profile.features.clone();
        let unbounded = Settings { keep_alive_s_max: 0, ..bounded.clone() };
        for (settings, version, wanted_s, in_force_s) in [
            (&bounded, V5, 2, 10),
            (&bounded, V5, 20, 20),
            (&bounded, V5, 200, 100),
            (&bounded, V5, 0, 100),
            (&bounded, V311, 2, 2),
            (&bounded, V31, 2, 2),
            (&bounded, V311, 200, 200),
            (&bounded, V311, 0, 100),
            (&unbounded, V5, 2, 10),
            (&unbounded, V5, 0, 0),
            (&unbounded, V311, 2, 2),
            (&unbounded, V311, 0, 0),
        ] {
            assert_eq!(
                settings.keep_alive_s(version, wanted_s),
                in_force_s,
                "{version} asks for {wanted_s} s"
            );
        }
    }
}
