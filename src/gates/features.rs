//! The features gate: what of the protocol a profile offers at all.

use crate::mqtt::packet::Qos;

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
    /// Seconds a session may outlive its connection; `u32::MAX` is for ever.
    pub session_expiry_s_max: u32,
    /// The shortest keep-alive interval a client may choose, in seconds.
    pub keep_alive_s_min: u16,
    /// The longest keep-alive interval, in seconds; also used where a client turns it off.
    /// 0 lets a client turn it off.
    pub keep_alive_s_max: u16,
}
