//! DISCONNECT (MQTT 5.0 section 3.14).

use super::reading::reason;
use super::{Body, Side};
use crate::mqtt::primitives::{Reader, varint_bytes};
use crate::mqtt::property::{
    Properties, Property, PropertyReader, misplaced, properties_bytes, put_section, rules,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, UserProperties, Violation};

/// A DISCONNECT packet; in MQTT 3 it is empty and only a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: ReasonCode,
    /// A session expiry, in seconds, that replaces the one in CONNECT (from a client only).
    pub session_expiry_s: Option<u32>,
    /// A text for people.
    pub reason_string: Option<Box<str>>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Another server to use (from the server only).
    pub server_reference: Option<Box<str>>,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            user_properties: UserProperties::default(),
            server_reference: None,
        }
    }
}

/// The reason codes that a client may send (MQTT 5.0 table 3-10).
const FROM_CLIENT: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::DisconnectWithWill,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
];

/// The reason codes that a server may send: those of table 3-10, and
/// `BadAuthenticationMethod`, which section 2.4 lists for DISCONNECT.
const FROM_SERVER: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerBusy,
    ReasonCode::ServerShuttingDown,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::KeepAliveTimeout,
    ReasonCode::SessionTakenOver,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QosNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::ConnectionRateExceeded,
    ReasonCode::MaximumConnectTime,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

impl Disconnect {
    /// MQTT 3 has no body; MQTT 5.0 leaves out the properties when there are none, and the
    /// reason too when it is `Success` (sections 3.14.2.1 and 3.14.2.2.1).
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        side: Side,
    ) -> Result<Self, Violation> {
        let mut disconnect = Self::new(ReasonCode::Success);
        if !version.is_v5() || reader.is_empty() {
            return Ok(disconnect);
        }
        let reasons = match side {
            Side::FromClient => FROM_CLIENT,
            Side::FromServer => FROM_SERVER,
        };
        disconnect.reason = reason(reader, reasons, "MQTT-3.14.2-1")?;
        if !reader.is_empty() {
            disconnect.decode_properties(reader)?;
            disconnect.check_sender(side)?;
        }
        Ok(disconnect)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Violation> {
        for property in PropertyReader::open(reader, &rules::DISCONNECT)? {
            match property? {
                Property::SessionExpiryS(seconds) => self.session_expiry_s = Some(seconds),
                Property::ReasonString(text) => self.reason_string = Some(text.into()),
                Property::User(name, value) => self.user_properties.push(name, value),
                Property::ServerReference(server) => self.server_reference = Some(server.into()),
                _ => return Err(misplaced()),
            }
        }
        Ok(())
    }

    fn check_sender(&self, side: Side) -> Result<(), Violation> {
        match side {
            Side::FromClient if self.server_reference.is_some() => Err(Violation::protocol(
                "3.14.2.2.5",
                "a client's DISCONNECT refers to another server",
            )),
            Side::FromServer if self.session_expiry_s.is_some() => Err(Violation::protocol(
                "MQTT-3.14.2-2",
                "a server's DISCONNECT sets the session expiry",
            )),
            _ => Ok(()),
        }
    }
}

impl Body for Disconnect {
    fn body_bytes(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            return 0;
        }
        match (properties_bytes(self), self.reason) {
            (0, ReasonCode::Success) => 0,
            (0, _) => 1,
            (bytes, _) => 1 + varint_bytes(bytes) + bytes,
        }
    }

    fn put_body(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let bytes = self.body_bytes(version);
        if bytes > 0 {
            out.push(self.reason.as_u8());
        }
        if bytes > 1 {
            put_section(out, self);
        }
    }
}

impl Properties for Disconnect {
    fn each(&self, visit: &mut impl FnMut(Property<'_>)) {
        if let Some(seconds) = self.session_expiry_s {
            visit(Property::SessionExpiryS(seconds));
        }
        if let Some(text) = &self.reason_string {
            visit(Property::ReasonString(text));
        }
        self.user_properties.visit(visit);
        if let Some(server) = &self.server_reference {
            visit(Property::ServerReference(server));
        }
    }
}
