//! Which packet may carry which property, and how often (MQTT 5.0 section 2.2.2.2).

/// Identifiers as on the wire (MQTT 5.0 table 2-4).
pub(super) mod id {
    pub(crate) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// One property that a packet may carry.
pub(crate) struct Rule {
    /// The identifier.
    pub(super) id: u8,
    /// The section that rules it in this packet.
    pub(super) section: &'static str,
    /// It may stand more than once.
    pub(super) repeats: bool,
}

const fn once(id: u8, section: &'static str) -> Rule {
    Rule { id, section, repeats: false }
}

const fn many(id: u8, section: &'static str) -> Rule {
    Rule { id, section, repeats: true }
}

pub(crate) static CONNECT: [Rule; 9] = [
    once(id::SESSION_EXPIRY_INTERVAL, "3.1.2.11.2"),
    once(id::RECEIVE_MAXIMUM, "3.1.2.11.3"),
    once(id::MAXIMUM_PACKET_SIZE, "3.1.2.11.4"),
    once(id::TOPIC_ALIAS_MAXIMUM, "3.1.2.11.5"),
    once(id::REQUEST_RESPONSE_INFORMATION, "3.1.2.11.6"),
    once(id::REQUEST_PROBLEM_INFORMATION, "3.1.2.11.7"),
    many(id::USER_PROPERTY, "3.1.2.11.8"),
    once(id::AUTHENTICATION_METHOD, "3.1.2.11.9"),
    once(id::AUTHENTICATION_DATA, "3.1.2.11.10"),
];

pub(crate) static WILL: [Rule; 7] = [
    once(id::WILL_DELAY_INTERVAL, "3.1.3.2.2"),
    once(id::PAYLOAD_FORMAT_INDICATOR, "3.1.3.2.3"),
    once(id::MESSAGE_EXPIRY_INTERVAL, "3.1.3.2.4"),
    once(id::CONTENT_TYPE, "3.1.3.2.5"),
    once(id::RESPONSE_TOPIC, "3.1.3.2.6"),
    once(id::CORRELATION_DATA, "3.1.3.2.7"),
    many(id::USER_PROPERTY, "3.1.3.2.8"),
];

pub(crate) static CONNACK: [Rule; 17] = [
    once(id::SESSION_EXPIRY_INTERVAL, "3.2.2.3.2"),
    once(id::RECEIVE_MAXIMUM, "3.2.2.3.3"),
    once(id::MAXIMUM_QOS, "3.2.2.3.4"),
    once(id::RETAIN_AVAILABLE, "3.2.2.3.5"),
    once(id::MAXIMUM_PACKET_SIZE, "3.2.2.3.6"),
    once(id::ASSIGNED_CLIENT_IDENTIFIER, "3.2.2.3.7"),
    once(id::TOPIC_ALIAS_MAXIMUM, "3.2.2.3.8"),
    once(id::REASON_STRING, "3.2.2.3.9"),
    many(id::USER_PROPERTY, "3.2.2.3.10"),
    once(id::WILDCARD_SUBSCRIPTION_AVAILABLE, "3.2.2.3.11"),
    once(id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE, "3.2.2.3.12"),
    once(id::SHARED_SUBSCRIPTION_AVAILABLE, "3.2.2.3.13"),
    once(id::SERVER_KEEP_ALIVE, "3.2.2.3.14"),
    once(id::RESPONSE_INFORMATION, "3.2.2.3.15"),
    once(id::SERVER_REFERENCE, "3.2.2.3.16"),
    once(id::AUTHENTICATION_METHOD, "3.2.2.3.17"),
    once(id::AUTHENTICATION_DATA, "3.2.2.3.18"),
];

pub(crate) static PUBLISH: [Rule; 8] = [
    once(id::PAYLOAD_FORMAT_INDICATOR, "3.3.2.3.2"),
    once(id::MESSAGE_EXPIRY_INTERVAL, "3.3.2.3.3"),
    once(id::TOPIC_ALIAS, "3.3.2.3.4"),
    once(id::RESPONSE_TOPIC, "3.3.2.3.5"),
    once(id::CORRELATION_DATA, "3.3.2.3.6"),
    many(id::USER_PROPERTY, "3.3.2.3.7"),
    many(id::SUBSCRIPTION_IDENTIFIER, "3.3.2.3.8"),
    once(id::CONTENT_TYPE, "3.3.2.3.9"),
];

pub(crate) static PUBACK: [Rule; 2] =
    [once(id::REASON_STRING, "3.4.2.2.2"), many(id::USER_PROPERTY, "3.4.2.2.3")];

pub(crate) static PUBREC: [Rule; 2] =
    [once(id::REASON_STRING, "3.5.2.2.2"), many(id::USER_PROPERTY, "3.5.2.2.3")];

pub(crate) static PUBREL: [Rule; 2] =
    [once(id::REASON_STRING, "3.6.2.2.2"), many(id::USER_PROPERTY, "3.6.2.2.3")];

pub(crate) static PUBCOMP: [Rule; 2] =
    [once(id::REASON_STRING, "3.7.2.2.2"), many(id::USER_PROPERTY, "3.7.2.2.3")];

pub(crate) static SUBSCRIBE: [Rule; 2] =
    [once(id::SUBSCRIPTION_IDENTIFIER, "3.8.2.1.2"), many(id::USER_PROPERTY, "3.8.2.1.3")];

pub(crate) static SUBACK: [Rule; 2] =
    [once(id::REASON_STRING, "3.9.2.1.2"), many(id::USER_PROPERTY, "3.9.2.1.3")];

pub(crate) static UNSUBSCRIBE: [Rule; 1] = [many(id::USER_PROPERTY, "3.10.2.1.2")];

pub(crate) static UNSUBACK: [Rule; 2] =
    [once(id::REASON_STRING, "3.11.2.1.2"), many(id::USER_PROPERTY, "3.11.2.1.3")];

pub(crate) static DISCONNECT: [Rule; 4] = [
    once(id::SESSION_EXPIRY_INTERVAL, "3.14.2.2.2"),
    once(id::REASON_STRING, "3.14.2.2.3"),
    many(id::USER_PROPERTY, "3.14.2.2.4"),
    once(id::SERVER_REFERENCE, "3.14.2.2.5"),
];

pub(crate) static AUTH: [Rule; 4] = [
    once(id::AUTHENTICATION_METHOD, "3.15.2.2.2"),
    once(id::AUTHENTICATION_DATA, "3.15.2.2.3"),
    once(id::REASON_STRING, "3.15.2.2.4"),
    many(id::USER_PROPERTY, "3.15.2.2.5"),
];
