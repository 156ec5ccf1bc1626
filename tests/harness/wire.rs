//! MQTT packets by hand, as bytes: independent on purpose of the codec they test.

/// The protocol versions a test client can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1, protocol level 3.
    Mqtt31,
    /// MQTT 3.1.1, protocol level 4.
    Mqtt311,
    /// MQTT 5.0.
    Mqtt5,
}

impl Version {
    /// The name and level at the start of CONNECT.
    fn preamble(self) -> Vec<u8> {
        match self {
            Self::Mqtt31 => [text("MQIsdp"), vec![3]].concat(),
            Self::Mqtt311 => [text("MQTT"), vec![4]].concat(),
            Self::Mqtt5 => [text("MQTT"), vec![5]].concat(),
        }
    }

    /// The properties of a packet: with their length in MQTT 5, absent before.
    fn properties(self, content: &[u8]) -> Vec<u8> {
        if self == Self::Mqtt5 {
            [varint(content.len()), content.to_vec()].concat()
        } else {
            assert!(content.is_empty(), "only MQTT 5 has properties");
            Vec::new()
        }
    }
}

/// A variable byte integer.
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A UTF-8 string with its length.
pub fn text(value: &str) -> Vec<u8> {
    binary(value.as_bytes())
}

/// Bytes with their length.
pub fn binary(value: &[u8]) -> Vec<u8> {
    [&(u16::try_from(value.len()).unwrap()).to_be_bytes()[..], value].concat()
}

/// A whole packet from its first byte and what follows the fixed header.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], varint(body.len()), body.to_vec()].concat()
}

/// Properties of MQTT 5, each as its bytes; join them with `concat`.
pub mod property {
    use super::{binary, text, varint};

    macro_rules! property {
        ($($(#[$doc:meta])* $name:ident($kind:ty) = $id:literal, $encode:expr;)*) => {
            $($(#[$doc])* pub fn $name(value: $kind) -> Vec<u8> {
                let encode: fn($kind) -> Vec<u8> = $encode;
                [vec![$id], encode(value)].concat()
            })*
        };
    }

    property! {
        /// Payload Format Indicator.
        payload_format(u8) = 0x01, |v| vec![v];
        /// Message Expiry Interval, seconds.
        message_expiry(u32) = 0x02, |v| v.to_be_bytes().to_vec();
        /// Content Type.
        content_type(&str) = 0x03, text;
        /// Response Topic.
        response_topic(&str) = 0x08, text;
        /// Correlation Data.
        correlation_data(&[u8]) = 0x09, binary;
        /// Subscription Identifier.
        subscription_id(usize) = 0x0b, varint;
        /// Session Expiry Interval, seconds.
        session_expiry(u32) = 0x11, |v| v.to_be_bytes().to_vec();
        /// Authentication Method.
        authentication_method(&str) = 0x15, text;
        /// Authentication Data.
        authentication_data(&[u8]) = 0x16, binary;
        /// Request Problem Information.
        request_problem_information(u8) = 0x17, |v| vec![v];
        /// Will Delay Interval, seconds.
        will_delay(u32) = 0x18, |v| v.to_be_bytes().to_vec();
        /// Request Response Information.
        request_response_information(u8) = 0x19, |v| vec![v];
        /// Reason String.
        reason_string(&str) = 0x1f, text;
        /// Receive Maximum.
        receive_maximum(u16) = 0x21, |v| v.to_be_bytes().to_vec();
        /// Topic Alias Maximum.
        topic_alias_maximum(u16) = 0x22, |v| v.to_be_bytes().to_vec();
        /// Topic Alias.
        topic_alias(u16) = 0x23, |v| v.to_be_bytes().to_vec();
        /// Maximum Packet Size.
        maximum_packet_size(u32) = 0x27, |v| v.to_be_bytes().to_vec();
    }

    /// User Property.
    pub fn user(name: &str, value: &str) -> Vec<u8> {
        [vec![0x26], text(name), text(value)].concat()
    }
}

/// Splits the content of a property section into identifiers and the bytes of their values.
pub fn properties(mut content: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&id, rest)) = content.split_first() {
        let length = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0b => rest.iter().take_while(|byte| **byte >= 0x80).count() + 1,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => 2 + be16(rest),
            0x26 => {
                let name = 2 + be16(rest);
                name + 2 + be16(&rest[name..])
            }
            _ => panic!("an unknown property 0x{id:02x} from the broker"),
        };
        found.push((id, rest[..length].to_vec()));
        content = &rest[length..];
    }
    found
}

fn be16(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Reads a variable byte integer at the start of some bytes; the value, and the bytes after it.
pub fn read_varint(bytes: &[u8]) -> (usize, &[u8]) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, &bytes[at + 1..]);
        }
    }
    panic!("a variable byte integer without an end: {bytes:02x?}");
}

/// Cuts a property section, with its length, off the start of some bytes.
fn read_properties(bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
    let (length, rest) = read_varint(bytes);
    (properties(&rest[..length]), &rest[length..])
}

/// A will.
#[derive(Clone, Debug, Default)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS of the message.
    pub qos: u8,
    /// Whether it is published as retained.
    pub retain: bool,
    /// Will properties, MQTT 5.
    pub properties: Vec<u8>,
}

impl Will {
    /// A QoS 0 will that is not retained.
    pub fn new(topic: &str, payload: &str) -> Self {
        Self { topic: topic.to_owned(), payload: payload.into(), ..Self::default() }
    }

    /// With this QoS.
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    /// Retained.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// With these properties.
    pub fn properties(mut self, properties: Vec<u8>) -> Self {
        self.properties = properties;
        self
    }
}

/// CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Version.
    pub version: Version,
    /// Client identifier.
    pub client_id: String,
    /// Clean Start, or Clean Session.
    pub clean: bool,
    /// Keep-alive, seconds.
    pub keep_alive: u16,
    /// Properties, MQTT 5.
    pub properties: Vec<u8>,
    /// Will.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<Vec<u8>>,
    /// Password.
    pub password: Option<Vec<u8>>,
}

impl Connect {
    /// A clean start without anything optional.
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// With Clean Start, or Clean Session, 0.
    pub fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    /// A session that outlives its connection: Clean Session 0 in MQTT 3, a Session Expiry
    /// Interval of an hour in MQTT 5.
    pub fn durable(mut self) -> Self {
        self.clean = false;
        if self.version == Version::Mqtt5 {
            self.properties.extend(property::session_expiry(3600));
        }
        self
    }

    /// With this keep-alive in seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    /// With these properties, after those it has.
    pub fn properties(mut self, properties: &[u8]) -> Self {
        self.properties.extend(properties);
        self
    }

    /// With this will.
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// The flag byte.
    pub fn flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.username.is_some()) << 7
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with_flags(self.flags())
    }

    /// The packet with another flag byte, which then may contradict what follows.
    pub fn bytes_with_flags(&self, flags: u8) -> Vec<u8> {
        let mut body = self.version.preamble();
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(self.version.properties(&self.properties));
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(self.version.properties(&will.properties));
            body.extend(text(&will.topic));
            body.extend(binary(&will.payload));
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            body.extend(binary(field));
        }
        packet(0x10, &body)
    }
}

/// CONNACK as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// The acknowledge flags, whole.
    pub flags: u8,
    /// Reason code, or return code.
    pub code: u8,
    /// Properties, MQTT 5.
    pub properties: Vec<(u8, Vec<u8>)>,
}

impl Connack {
    /// Reads a packet.
    pub fn parse(version: Version, bytes: &[u8]) -> Self {
        assert_eq!(bytes[0], 0x20, "not a CONNACK: {bytes:02x?}");
        let (length, body) = read_varint(&bytes[1..]);
        assert_eq!(length, body.len());
        let properties = if version == Version::Mqtt5 {
            let (properties, rest) = read_properties(&body[2..]);
            assert!(rest.is_empty(), "CONNACK has bytes after its properties");
            properties
        } else {
            assert_eq!(body.len(), 2, "CONNACK of MQTT 3 has two bytes");
            Vec::new()
        };
        Self { flags: body[0], code: body[1], properties }
    }

    /// Whether a session was resumed.
    pub fn session_present(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The value of a property, as bytes.
    pub fn property(&self, id: u8) -> Option<&[u8]> {
        self.properties.iter().find(|(found, _)| *found == id).map(|(_, value)| &value[..])
    }
}

/// PUBLISH, made or received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Re-delivery.
    pub dup: bool,
    /// QoS.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// Topic name.
    pub topic: String,
    /// Packet identifier, with QoS 1 and 2.
    pub id: Option<u16>,
    /// The content of the property section.
    pub properties: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Publish {
    /// QoS 0, not retained.
    pub fn new(topic: &str, payload: &str) -> Self {
        Self { topic: topic.to_owned(), payload: payload.into(), ..Self::default() }
    }

    /// With this QoS and packet identifier.
    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        self.qos = qos;
        self.id = (qos > 0).then_some(id);
        self
    }

    /// With RETAIN 1.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// With DUP 1.
    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// With these properties, after those it has.
    pub fn properties(mut self, properties: &[u8]) -> Self {
        self.properties.extend(properties);
        self
    }

    /// The packet.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = text(&self.topic);
        body.extend(self.id.into_iter().flat_map(u16::to_be_bytes));
        body.extend(version.properties(&self.properties));
        body.extend(&self.payload);
        packet(first, &body)
    }

    /// Reads a packet.
    pub fn parse(version: Version, bytes: &[u8]) -> Self {
        assert_eq!(bytes[0] >> 4, 3, "not a PUBLISH: {bytes:02x?}");
        let (length, body) = read_varint(&bytes[1..]);
        assert_eq!(length, body.len());
        let topic_length = be16(body);
        let topic = String::from_utf8(body[2..2 + topic_length].to_vec()).unwrap();
        let mut rest = &body[2 + topic_length..];
        let qos = bytes[0] >> 1 & 3;
        let mut id = None;
        if qos > 0 {
            id = Some(be16(rest) as u16);
            assert_ne!(id, Some(0), "a packet identifier of 0 [MQTT-2.2.1-4]");
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if version == Version::Mqtt5 {
            let (length, after) = read_varint(rest);
            properties = after[..length].to_vec();
            rest = &after[length..];
        }
        Self {
            dup: bytes[0] & 8 != 0,
            qos,
            retain: bytes[0] & 1 == 1,
            topic,
            id,
            properties,
            payload: rest.to_vec(),
        }
    }

    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The first value of a property, as bytes.
    pub fn property(&self, id: u8) -> Option<Vec<u8>> {
        self.all(id).into_iter().next()
    }

    /// Every value of a property, in order.
    pub fn all(&self, id: u8) -> Vec<Vec<u8>> {
        let found = properties(&self.properties).into_iter();
        found.filter(|(found, _)| *found == id).map(|(_, value)| value).collect()
    }

    /// The subscription identifiers, sorted.
    pub fn subscription_ids(&self) -> Vec<usize> {
        let mut ids: Vec<_> = self.all(0x0b).iter().map(|bytes| read_varint(bytes).0).collect();
        ids.sort_unstable();
        ids
    }
}

/// SUBSCRIBE: each filter with its options byte.
pub fn subscribe(version: Version, id: u16, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(version.properties(properties));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(version.properties(&[]));
    for filter in filters {
        body.extend(text(filter));
    }
    packet(0xa2, &body)
}

/// The first bytes of the acknowledgements.
pub const PUBACK: u8 = 0x40;
/// See [`PUBACK`].
pub const PUBREC: u8 = 0x50;
/// See [`PUBACK`].
pub const PUBREL: u8 = 0x62;
/// See [`PUBACK`].
pub const PUBCOMP: u8 = 0x70;

/// PUBACK, PUBREC, PUBREL or PUBCOMP in its short form: success.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP of MQTT 5 with a reason code.
pub fn ack_with(first: u8, id: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()[..], &[reason]].concat())
}

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// PINGRESP.
pub const PINGRESP: [u8; 2] = [0xd0, 0];

/// DISCONNECT in its short form: normal.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// DISCONNECT of MQTT 5 with a reason code and properties.
pub fn disconnect_with(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(0xe0, &[vec![reason], varint(properties.len()), properties.to_vec()].concat())
}

/// AUTH.
pub fn auth(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(0xf0, &[vec![reason], varint(properties.len()), properties.to_vec()].concat())
}

/// AUTH with this reason, method and data.
pub fn auth_by(reason: u8, method: &str, data: &[u8]) -> Vec<u8> {
    let method = property::authentication_method(method);
    auth(reason, &[method, property::authentication_data(data)].concat())
}
