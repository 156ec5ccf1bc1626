//! CONNACK (MQTT 5.0 section 3.2).

use std::num::{NonZeroU16, NonZeroU32};

use super::reading::reason;
use super::{Body, Qos};
use crate::mqtt::primitives::Reader;
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, put_section, rules, section_bytes,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, UserProperties, Violation};

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// True when the broker holds a session for this client; false unless `reason` is `Success`.
    pub session_present: bool,
    /// The outcome.
    pub reason: ReasonCode,
    /// What MQTT 5.0 adds; ignored when encoding for MQTT 3.
    pub properties: ConnackProperties,
}

/// The properties of CONNACK. `None` stands for the specification's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties {
    /// Seconds the session outlives the connection, where it differs from what was asked.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 publications the broker takes at a time (default 65,535).
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS the client may publish with; only 0 or 1 may stand here.
    pub maximum_qos: Option<Qos>,
    /// `Some(false)`: retained messages are not supported.
    pub retain_available: Option<bool>,
    /// The largest packet the broker takes, in bytes.
    pub maximum_packet_bytes: Option<NonZeroU32>,
    /// The identifier the broker chose for a client that sent none.
    pub assigned_client_id: Option<Box<str>>,
    /// The highest topic alias the client may use (default 0: none).
    pub topic_alias_maximum: Option<u16>,
    /// A text for people.
    pub reason_string: Option<Box<str>>,
    /// User properties.
    pub user_properties: UserProperties,
    /// `Some(false)`: wildcard subscriptions are not supported.
    pub wildcard_subscriptions_available: Option<bool>,
    /// `Some(false)`: subscription identifiers are not supported.
    pub subscription_ids_available: Option<bool>,
    /// `Some(false)`: shared subscriptions are not supported.
    pub shared_subscriptions_available: Option<bool>,
    /// The keep-alive interval, in seconds, that the client has to use instead of its own.
    pub server_keep_alive_s: Option<u16>,
    /// A topic prefix for responses.
    pub response_information: Option<Box<str>>,
    /// Another server to use.
    pub server_reference: Option<Box<str>>,
    /// The authentication method.
    pub authentication_method: Option<Box<str>>,
    /// Data of the authentication method.
    pub authentication_data: Option<Box<[u8]>>,
}

impl Connack {
    /// A refusal without properties.
    #[must_use]
    pub fn refused(reason: ReasonCode) -> Self {
        Self { session_present: false, reason, properties: ConnackProperties::default() }
    }
}

/// The reason codes of CONNACK (MQTT 5.0 section 3.2.2.2).
const REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::UnsupportedProtocolVersion,
    ReasonCode::ClientIdentifierNotValid,
    ReasonCode::BadUserNameOrPassword,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerUnavailable,
    ReasonCode::ServerBusy,
    ReasonCode::Banned,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QosNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::ConnectionRateExceeded,
];

impl Connack {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
    ) -> Result<Self, Violation> {
        let flags = reader.u8()?;
        let mut connack = Self::refused(ReasonCode::Success);
        if version.is_v5() {
            connack.reason = reason(reader, REASONS, "MQTT-3.2.2-8")?;
            connack.properties = ConnackProperties::decode(reader)?;
        } else {
            connack.reason = reason_of_return_code(reader.u8()?)?;
        }
        // MQTT 3.1 does not use the byte that later holds the flags.
        if version != ProtocolVersion::V31 {
            connack.session_present = session_present(flags)?;
        }
        if connack.session_present && connack.reason != ReasonCode::Success {
            return Err(Violation::protocol(
                "MQTT-3.2.2-6",
                "a CONNACK refuses, and says that a session is present",
            ));
        }
        Ok(connack)
    }

    fn code(&self, version: ProtocolVersion) -> Option<u8> {
        match version {
            ProtocolVersion::V5 => Some(self.reason.as_u8()),
            ProtocolVersion::V31 | ProtocolVersion::V311 => self.reason.v3_connect_return_code(),
        }
    }

    /// False when MQTT 3 has no return code for the reason: nothing is sent then.
    pub(super) fn can_be_said(&self, version: ProtocolVersion) -> bool {
        self.code(version).is_some()
    }
}

fn session_present(flags: u8) -> Result<bool, Violation> {
    match flags {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Violation::malformed("MQTT-3.2.2-1", "a CONNACK sets reserved flags")),
    }
}

/// The reason that comes nearest to a return code of MQTT 3 (MQTT 3.1.1 table 3.1).
fn reason_of_return_code(code: u8) -> Result<ReasonCode, Violation> {
    match code {
        0 => Ok(ReasonCode::Success),
        1 => Ok(ReasonCode::UnsupportedProtocolVersion),
        2 => Ok(ReasonCode::ClientIdentifierNotValid),
        3 => Ok(ReasonCode::ServerUnavailable),
        4 => Ok(ReasonCode::BadUserNameOrPassword),
        5 => Ok(ReasonCode::NotAuthorized),
        _ => Err(Violation::protocol("MQTT-3.2.2-8", "a CONNACK has a reserved return code")),
    }
}

impl ConnackProperties {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        let mut it = Self::default();
        for property in PropertyReader::open(reader, &rules::CONNACK)? {
            match property? {
                Property::SessionExpiryS(seconds) => it.session_expiry_s = Some(seconds),
                Property::ReceiveMaximum(maximum) => it.receive_maximum = Some(maximum),
                Property::MaximumQos(qos) => it.maximum_qos = Some(qos),
                Property::RetainAvailable(yes) => it.retain_available = Some(yes),
                Property::MaximumPacketBytes(bytes) => it.maximum_packet_bytes = Some(bytes),
                Property::AssignedClientId(id) => it.assigned_client_id = Some(id.into()),
                Property::TopicAliasMaximum(maximum) => it.topic_alias_maximum = Some(maximum),
                Property::ReasonString(text) => it.reason_string = Some(text.into()),
                Property::User(name, value) => it.user_properties.push(name, value),
                Property::WildcardSubscriptionsAvailable(yes) => {
                    it.wildcard_subscriptions_available = Some(yes);
                }
                Property::SubscriptionIdsAvailable(yes) => {
                    it.subscription_ids_available = Some(yes);
                }
                Property::SharedSubscriptionsAvailable(yes) => {
                    it.shared_subscriptions_available = Some(yes);
                }
                Property::ServerKeepAliveS(seconds) => it.server_keep_alive_s = Some(seconds),
                Property::ResponseInformation(text) => it.response_information = Some(text.into()),
                Property::ServerReference(server) => it.server_reference = Some(server.into()),
                Property::AuthenticationMethod(method) => {
                    it.authentication_method = Some(method.into());
                }
                Property::AuthenticationData(data) => it.authentication_data = Some(data.into()),
                _ => return Err(misplaced()),
            }
        }
        Ok(it)
    }
}

impl Body for Connack {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        2 + if version.is_v5() { section_bytes(&self.properties) } else { 0 }
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let session_present = self.session_present
            && self.reason == ReasonCode::Success
            && version != ProtocolVersion::V31;
        out.push(session_present.into());
        // `can_be_said` was asked before; whatever it is, it is never a success.
        out.push(self.code(version).unwrap_or(0x80));
        if version.is_v5() {
            put_section(out, &self.properties);
        }
    }
}

impl Properties for ConnackProperties {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(seconds) = self.session_expiry_s {
            visit(Property::SessionExpiryS(seconds));
        }
        if let Some(maximum) = self.receive_maximum {
            visit(Property::ReceiveMaximum(maximum));
        }
        // QoS 2 is what absence says; the property has no value for it.
        if let Some(qos @ (Qos::AtMostOnce | Qos::AtLeastOnce)) = self.maximum_qos {
            visit(Property::MaximumQos(qos));
        }
        if let Some(yes) = self.retain_available {
            visit(Property::RetainAvailable(yes));
        }
        if let Some(bytes) = self.maximum_packet_bytes {
            visit(Property::MaximumPacketBytes(bytes));
        }
        if let Some(id) = &self.assigned_client_id {
            visit(Property::AssignedClientId(id));
        }
        if let Some(maximum) = self.topic_alias_maximum {
            visit(Property::TopicAliasMaximum(maximum));
        }
        if let Some(text) = &self.reason_string {
            visit(Property::ReasonString(text));
        }
        self.user_properties.visit(visit);
        if let Some(yes) = self.wildcard_subscriptions_available {
            visit(Property::WildcardSubscriptionsAvailable(yes));
        }
        if let Some(yes) = self.subscription_ids_available {
            visit(Property::SubscriptionIdsAvailable(yes));
        }
        if let Some(yes) = self.shared_subscriptions_available {
            visit(Property::SharedSubscriptionsAvailable(yes));
        }
        if let Some(seconds) = self.server_keep_alive_s {
            visit(Property::ServerKeepAliveS(seconds));
        }
        if let Some(text) = &self.response_information {
            visit(Property::ResponseInformation(text));
        }
        if let Some(server) = &self.server_reference {
            visit(Property::ServerReference(server));
        }
        if let Some(method) = &self.authentication_method {
            visit(Property::AuthenticationMethod(method));
        }
        if let Some(data) = &self.authentication_data {
            visit(Property::AuthenticationData(data));
        }
    }
}
