//! CONNECT (MQTT 5.0 section 3.1).

use std::num::{NonZeroU16, NonZeroU32};

use super::{Body, PublishProperties, Qos};
use crate::mqtt::primitives::{Reader, binary_bytes, put_binary, put_text, put_u16, text_bytes};
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, put_section, rules, section_bytes,
};
use crate::mqtt::topic::check_no_control;
use crate::mqtt::{ProtocolVersion, ReasonCode, TopicName, UserProperties, Violation};

/// A CONNECT packet. Its `Debug` form tells no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version that protocol name and level announce.
    pub version: ProtocolVersion,
    /// Clean start (MQTT 5.0) or clean session (MQTT 3).
    pub clean_start: bool,
    /// Keep-alive interval in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// The client identifier as sent; empty asks for an assigned one.
    pub client_id: Box<str>,
    /// The will, where the connection has one.
    pub will: Option<Box<Will>>,
    /// The user name.
    pub user_name: Option<Box<str>>,
    /// The password.
    pub password: Option<Box<[u8]>>,
    /// Seconds the session outlives the connection; `u32::MAX` never ends. For MQTT 3 the
    /// decoder sets 0 with clean session and `u32::MAX` without.
    pub session_expiry_s: u32,
    /// QoS 1 and 2 publications the client takes at a time.
    pub receive_maximum: NonZeroU16,
    /// The largest packet the client takes, in bytes; `None` is no limit.
    pub maximum_packet_bytes: Option<NonZeroU32>,
    /// The highest topic alias the client takes.
    pub topic_alias_maximum: u16,
    /// The client asks for response information in CONNACK.
    pub request_response_information: bool,
    /// The client takes reason strings and user properties anywhere.
    pub request_problem_information: bool,
    /// User properties.
    pub user_properties: UserProperties,
    /// The authentication method of an extended authentication.
    pub authentication_method: Option<Box<str>>,
    /// Data of the authentication method.
    pub authentication_data: Option<Box<[u8]>>,
}

/// The will message in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The topic.
    pub topic: TopicName,
    /// The payload.
    pub payload: Box<[u8]>,
    /// The QoS to publish with.
    pub qos: Qos,
    /// Retain the message.
    pub retain: bool,
    /// Seconds between the end of the connection and the will.
    pub delay_s: u32,
    /// The message's properties; no topic alias and no subscription identifiers.
    pub properties: Option<Box<PublishProperties>>,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("session_expiry_s", &self.session_expiry_s)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("user_name", &self.user_name)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("authentication_method", &self.authentication_method)
            .field("will", &self.will)
            .finish_non_exhaustive()
    }
}

/// The parts of the connect flags (MQTT 5.0 section 3.1.2.3).
mod flags {
    pub(super) const RESERVED: u8 = 0b0000_0001;
    pub(super) const CLEAN_START: u8 = 0b0000_0010;
    pub(super) const WILL: u8 = 0b0000_0100;
    pub(super) const WILL_QOS: u8 = 0b0001_1000;
    pub(super) const WILL_QOS_SHIFT: u32 = 3;
    pub(super) const WILL_RETAIN: u8 = 0b0010_0000;
    pub(super) const PASSWORD: u8 = 0b0100_0000;
    pub(super) const USER_NAME: u8 = 0b1000_0000;
}

impl Connect {
    /// A CONNECT that asks for nothing beyond the defaults of its version.
    #[must_use]
    pub fn new(version: ProtocolVersion, client_id: &str, clean_start: bool) -> Self {
        Self {
            version,
            clean_start,
            keep_alive_s: 0,
            client_id: client_id.into(),
            will: None,
            user_name: None,
            password: None,
            session_expiry_s: if version.is_v5() || clean_start { 0 } else { u32::MAX },
            receive_maximum: NonZeroU16::MAX,
            maximum_packet_bytes: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::default(),
            authentication_method: None,
            authentication_data: None,
        }
    }

    /// The version in which to refuse a CONNECT, however wrong the rest of it is: the one that it
    /// announces, and for a level that nobody knows the nearest [MQTT-3.1.2-2]. `None` when it is
    /// another protocol.
    #[must_use]
    pub fn announced_version(body: &[u8]) -> Option<ProtocolVersion> {
        if let Ok(version) = decode_version(&mut Reader::new(body)) {
            return Some(version);
        }
        let mut reader = Reader::new(body);
        // Bridges of older brokers set the highest bit, and fall back when they are refused in
        // the words of MQTT 3.
        match (reader.binary().ok()?, reader.u8().ok()?) {
            (b"MQTT", 6..0x80) => Some(ProtocolVersion::V5),
            (b"MQTT" | b"MQIsdp", _) => Some(ProtocolVersion::V311),
            _ => None,
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        let version = decode_version(reader)?;
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive_s = reader.u16()?;
        let mut connect = Self::new(version, "", flags & flags::CLEAN_START != 0);
        connect.keep_alive_s = keep_alive_s;
        if version.is_v5() {
            connect.decode_properties(reader)?;
        }
        connect.client_id = reader.text()?.into();
        check_no_control(&connect.client_id, "a client id holds a control character")
            .map_err(|it| Violation { reason: ReasonCode::ClientIdentifierNotValid, ..it })?;
        connect.check_client_id()?;
        if flags & flags::WILL != 0 {
            connect.will = Some(Box::new(Will::decode(reader, flags, version)?));
        }
        // In MQTT 3.1 the remaining length takes precedence over these two flags (its section
        // 3.1): the fields may be missing at the end.
        let may_be_missing = version == ProtocolVersion::V31;
        if flags & flags::USER_NAME != 0 && !(may_be_missing && reader.is_empty()) {
            let user_name = reader.text()?;
            check_no_control(user_name, "a user name holds a control character")?;
            connect.user_name = Some(user_name.into());
        }
        if flags & flags::PASSWORD != 0 && !(may_be_missing && reader.is_empty()) {
            connect.password = Some(reader.binary()?.into());
        }
        Ok(connect)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Violation> {
        for property in PropertyReader::open(reader, &rules::CONNECT)? {
            match property? {
                Property::SessionExpiryS(seconds) => self.session_expiry_s = seconds,
                Property::ReceiveMaximum(maximum) => self.receive_maximum = maximum,
                Property::MaximumPacketBytes(bytes) => self.maximum_packet_bytes = Some(bytes),
                Property::TopicAliasMaximum(maximum) => self.topic_alias_maximum = maximum,
                Property::RequestResponseInformation(yes) => {
                    self.request_response_information = yes;
                }
                Property::RequestProblemInformation(yes) => self.request_problem_information = yes,
                Property::User(name, value) => self.user_properties.push(name, value),
                Property::AuthenticationMethod(method) => {
                    self.authentication_method = Some(method.into());
                }
                Property::AuthenticationData(data) => self.authentication_data = Some(data.into()),
                _ => return Err(misplaced()),
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(Violation::protocol(
                "3.1.2.11.10",
                "a CONNECT has authentication data and no method",
            ));
        }
        Ok(())
    }

    /// An empty identifier asks for an assigned one: never in MQTT 3.1, only for a clean
    /// session in MQTT 3.1.1.
    fn check_client_id(&self) -> Result<(), Violation> {
        let may_be_empty = match self.version {
            ProtocolVersion::V31 => false,
            ProtocolVersion::V311 => self.clean_start,
            ProtocolVersion::V5 => true,
        };
        if self.client_id.is_empty() && !may_be_empty {
            return Err(Violation::because(
                ReasonCode::ClientIdentifierNotValid,
                "MQTT-3.1.3-8",
                "a client identifier is empty where its version does not allow it",
            ));
        }
        Ok(())
    }

    /// The password that `version` can send: MQTT 3 has none without a user name.
    fn sent_password(&self) -> Option<&[u8]> {
        self.password.as_deref().filter(|_| self.version.is_v5() || self.user_name.is_some())
    }

    fn flags(&self) -> u8 {
        let set = |bit, condition| if condition { bit } else { 0 };
        let will = self.will.as_deref().map_or(0, |will| {
            flags::WILL
                | will.qos.as_u8() << flags::WILL_QOS_SHIFT
                | set(flags::WILL_RETAIN, will.retain)
        });
        set(flags::CLEAN_START, self.clean_start)
            | will
            | set(flags::PASSWORD, self.sent_password().is_some())
            | set(flags::USER_NAME, self.user_name.is_some())
    }
}

const fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 => "MQIsdp",
        ProtocolVersion::V311 | ProtocolVersion::V5 => "MQTT",
    }
}

fn decode_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, Violation> {
    let name = reader.binary()?;
    let versions: &[ProtocolVersion] = match name {
        b"MQTT" => &[ProtocolVersion::V5, ProtocolVersion::V311],
        b"MQIsdp" => &[ProtocolVersion::V31],
        _ => {
            return Err(Violation::because(
                ReasonCode::UnsupportedProtocolVersion,
                "MQTT-3.1.2-1",
                "the protocol name is neither MQTT nor MQIsdp",
            ));
        }
    };
    let level = reader.u8()?;
    versions.iter().copied().find(|version| version.level() == level).ok_or(Violation::because(
        ReasonCode::UnsupportedProtocolVersion,
        "MQTT-3.1.2-2",
        "the protocol level is none that is spoken here",
    ))
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), Violation> {
    // MQTT 3.1 gives the lowest bit no meaning, and no value.
    if flags & flags::RESERVED != 0 && version != ProtocolVersion::V31 {
        return Err(Violation::malformed("MQTT-3.1.2-3", "a CONNECT sets its reserved flag"));
    }
    if flags & flags::WILL == 0 {
        if flags & flags::WILL_QOS != 0 {
            return Err(Violation::malformed("MQTT-3.1.2-11", "a CONNECT has a will QoS, no will"));
        }
        if flags & flags::WILL_RETAIN != 0 {
            return Err(Violation::malformed(
                "MQTT-3.1.2-13",
                "a CONNECT retains a will, has none",
            ));
        }
    }
    if flags & flags::PASSWORD != 0 && flags & flags::USER_NAME == 0 && !version.is_v5() {
        return Err(Violation::malformed(
            "MQTT-3.1.2-22",
            "a CONNECT of MQTT 3 has a password and no user name",
        ));
    }
    Ok(())
}

impl Will {
    fn decode(
        reader: &mut Reader<'_>,
        flags: u8,
        version: ProtocolVersion,
    ) -> Result<Self, Violation> {
        let qos = Qos::from_u8((flags & flags::WILL_QOS) >> flags::WILL_QOS_SHIFT)
            .ok_or(Violation::malformed("MQTT-3.1.2-12", "a will has QoS 3"))?;
        let (delay_s, properties) =
            if version.is_v5() { decode_will_properties(reader)? } else { (0, None) };
        Ok(Self {
            topic: TopicName::parse(reader.text()?)?,
            payload: reader.binary()?.into(),
            qos,
            retain: flags & flags::WILL_RETAIN != 0,
            delay_s,
            properties,
        })
    }
}

type WillProperties = (u32, Option<Box<PublishProperties>>);

fn decode_will_properties(reader: &mut Reader<'_>) -> Result<WillProperties, Violation> {
    let mut delay_s = 0;
    let mut it = PublishProperties::default();
    for property in PropertyReader::open(reader, &rules::WILL)? {
        match property? {
            Property::WillDelayS(seconds) => delay_s = seconds,
            Property::PayloadIsUtf8(yes) => it.payload_is_utf8 = Some(yes),
            Property::MessageExpiryS(seconds) => it.message_expiry_s = Some(seconds),
            Property::ContentType(text) => it.content_type = Some(text.into()),
            Property::ResponseTopic(topic) => it.response_topic = Some(topic.into()),
            Property::CorrelationData(data) => it.correlation_data = Some(data.into()),
            Property::User(name, value) => it.user_properties.push(name, value),
            _ => return Err(misplaced()),
        }
    }
    let properties = (it != PublishProperties::default()).then(|| Box::new(it));
    Ok((delay_s, properties))
}

/// The version is the packet's own, whatever the connection speaks.
impl Body for Connect {
    fn body_bytes(&self, _: ProtocolVersion) -> usize {
        let is_v5 = self.version.is_v5();
        let will = self.will.as_deref().map_or(0, |will| {
            let properties = if is_v5 { section_bytes(will) } else { 0 };
            properties + text_bytes(will.topic.as_str()) + binary_bytes(&will.payload)
        });
        // Level, flags and keep-alive interval take four bytes.
        text_bytes(protocol_name(self.version))
            + 4
            + if is_v5 { section_bytes(self) } else { 0 }
            + text_bytes(&self.client_id)
            + will
            + self.user_name.as_deref().map_or(0, text_bytes)
            + self.sent_password().map_or(0, binary_bytes)
    }

    fn put_body(&self, _: ProtocolVersion, out: &mut Vec<u8>) {
        put_text(out, protocol_name(self.version));
        out.push(self.version.level());
        out.push(self.flags());
        put_u16(out, self.keep_alive_s);
        if self.version.is_v5() {
            put_section(out, self);
        }
        put_text(out, &self.client_id);
        if let Some(will) = self.will.as_deref() {
            if self.version.is_v5() {
                put_section(out, will);
            }
            put_text(out, will.topic.as_str());
            put_binary(out, &will.payload);
        }
        if let Some(user_name) = &self.user_name {
            put_text(out, user_name);
        }
        if let Some(password) = self.sent_password() {
            put_binary(out, password);
        }
    }
}

/// Only what differs from its default is written.
impl Properties for Connect {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if self.session_expiry_s != 0 {
            visit(Property::SessionExpiryS(self.session_expiry_s));
        }
        if self.receive_maximum != NonZeroU16::MAX {
            visit(Property::ReceiveMaximum(self.receive_maximum));
        }
        if let Some(bytes) = self.maximum_packet_bytes {
            visit(Property::MaximumPacketBytes(bytes));
        }
        if self.topic_alias_maximum != 0 {
            visit(Property::TopicAliasMaximum(self.topic_alias_maximum));
        }
        if self.request_response_information {
            visit(Property::RequestResponseInformation(true));
        }
        if !self.request_problem_information {
            visit(Property::RequestProblemInformation(false));
        }
        self.user_properties.visit(visit);
        if let Some(method) = &self.authentication_method {
            visit(Property::AuthenticationMethod(method));
        }
        if let Some(data) = &self.authentication_data {
            visit(Property::AuthenticationData(data));
        }
    }
}

impl Properties for Will {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if self.delay_s != 0 {
            visit(Property::WillDelayS(self.delay_s));
        }
        if let Some(properties) = &self.properties {
            properties.visit_message(properties.message_expiry_s, visit);
        }
    }
}
