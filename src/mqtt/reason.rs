//! Reason codes of MQTT 5.0, and what they become in MQTT 3.
//!
//! Inside the broker every outcome is an MQTT 5 reason code; only the codec knows that MQTT 3
//! has return codes in CONNACK, one failure code in SUBACK, and nothing anywhere else.

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// A reason code (MQTT 5.0 section 2.4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])* $name = $value,)*
        }

        impl ReasonCode {
            /// The code with this value, where the specification defines one.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name that the specification gives the code, for logs and reason strings.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reason_codes! {
    /// Success; in SUBACK, granted QoS 0; in DISCONNECT, a normal disconnection.
    Success = 0x00, "Success";
    /// SUBACK: granted QoS 1.
    GrantedQos1 = 0x01, "Granted QoS 1";
    /// SUBACK: granted QoS 2.
    GrantedQos2 = 0x02, "Granted QoS 2";
    /// DISCONNECT by a client that wants its will to be sent.
    DisconnectWithWill = 0x04, "Disconnect with Will Message";
    /// The message was accepted and nobody subscribes to it.
    NoMatchingSubscribers = 0x10, "No matching subscribers";
    /// UNSUBACK: there was no such subscription.
    NoSubscriptionExisted = 0x11, "No subscription existed";
    /// AUTH: continue the exchange.
    ContinueAuthentication = 0x18, "Continue authentication";
    /// AUTH: the client starts a re-authentication.
    ReAuthenticate = 0x19, "Re-authenticate";
    /// No reason is told.
    UnspecifiedError = 0x80, "Unspecified error";
    /// The bytes do not follow the specification.
    MalformedPacket = 0x81, "Malformed Packet";
    /// The packet may not be sent here, or contradicts another.
    ProtocolError = 0x82, "Protocol Error";
    /// Valid, but not accepted by this server.
    ImplementationSpecificError = 0x83, "Implementation specific error";
    /// The protocol version is not spoken here.
    UnsupportedProtocolVersion = 0x84, "Unsupported Protocol Version";
    /// The client identifier is not allowed.
    ClientIdentifierNotValid = 0x85, "Client Identifier not valid";
    /// User name or password not accepted.
    BadUserNameOrPassword = 0x86, "Bad User Name or Password";
    /// The policy refuses this.
    NotAuthorized = 0x87, "Not authorized";
    /// The server is not available.
    ServerUnavailable = 0x88, "Server unavailable";
    /// The server is busy.
    ServerBusy = 0x89, "Server busy";
    /// The client is banned.
    Banned = 0x8A, "Banned";
    /// The server is going down.
    ServerShuttingDown = 0x8B, "Server shutting down";
    /// The authentication method is unknown, or not the one in use.
    BadAuthenticationMethod = 0x8C, "Bad authentication method";
    /// Nothing arrived for one and a half keep-alive intervals.
    KeepAliveTimeout = 0x8D, "Keep Alive timeout";
    /// Another connection uses the client identifier now.
    SessionTakenOver = 0x8E, "Session taken over";
    /// The filter is well-formed and not accepted.
    TopicFilterInvalid = 0x8F, "Topic Filter invalid";
    /// The topic is well-formed and not accepted.
    TopicNameInvalid = 0x90, "Topic Name invalid";
    /// The packet identifier is in use already.
    PacketIdentifierInUse = 0x91, "Packet Identifier in use";
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92, "Packet Identifier not found";
    /// More QoS 1 and 2 publications in flight than allowed.
    ReceiveMaximumExceeded = 0x93, "Receive Maximum exceeded";
    /// The topic alias is above the maximum, or unknown.
    TopicAliasInvalid = 0x94, "Topic Alias invalid";
    /// The packet is larger than allowed.
    PacketTooLarge = 0x95, "Packet too large";
    /// Messages arrive faster than allowed.
    MessageRateTooHigh = 0x96, "Message rate too high";
    /// A limit that an administrator set is exceeded.
    QuotaExceeded = 0x97, "Quota exceeded";
    /// The connection is closed by an administrator.
    AdministrativeAction = 0x98, "Administrative action";
    /// The payload is not what the payload format indicator says.
    PayloadFormatInvalid = 0x99, "Payload format invalid";
    /// Retained messages are not supported here.
    RetainNotSupported = 0x9A, "Retain not supported";
    /// The QoS is above what CONNACK announced.
    QosNotSupported = 0x9B, "QoS not supported";
    /// Use another server for now.
    UseAnotherServer = 0x9C, "Use another server";
    /// Use another server from now on.
    ServerMoved = 0x9D, "Server moved";
    /// Shared subscriptions are not supported here.
    SharedSubscriptionsNotSupported = 0x9E, "Shared Subscriptions not supported";
    /// Connections arrive faster than allowed.
    ConnectionRateExceeded = 0x9F, "Connection rate exceeded";
    /// The connection has reached its longest allowed time.
    MaximumConnectTime = 0xA0, "Maximum connect time";
    /// Subscription identifiers are not supported here.
    SubscriptionIdentifiersNotSupported = 0xA1, "Subscription Identifiers not supported";
    /// Wildcard subscriptions are not supported here.
    WildcardSubscriptionsNotSupported = 0xA2, "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// The value on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// True for 0x80 and above: the operation failed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1 and 3.1.1 that comes nearest
    /// (MQTT 3.1.1 table 3.1). `None`: no return code fits, close without CONNACK.
    #[must_use]
    pub const fn v3_connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::QuotaExceeded
            | Self::ConnectionRateExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(5),
            _ => None,
        }
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:02X} {}", self.as_u8(), self.name())
    }
}

/// A rule of the specification that the peer's bytes break.
///
/// Found by the codec (malformed packets) or by the session (protocol errors). It always ends
/// the connection, with `reason` where the version has one to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} [{statement}]")]
pub struct Violation {
    /// What a DISCONNECT or CONNACK tells the peer.
    pub reason: ReasonCode,
    /// The normative statement, such as `MQTT-3.3.2-2`, or the section where it has no number.
    pub statement: &'static str,
    /// What is wrong, for the operator.
    pub what: &'static str,
}

impl Violation {
    /// Bytes that cannot be parsed (0x81).
    #[must_use]
    pub const fn malformed(statement: &'static str, what: &'static str) -> Self {
        Self { reason: ReasonCode::MalformedPacket, statement, what }
    }

    /// A packet or a value that is not allowed here (0x82).
    #[must_use]
    pub const fn protocol(statement: &'static str, what: &'static str) -> Self {
        Self { reason: ReasonCode::ProtocolError, statement, what }
    }

    /// A rule with a reason code of its own.
    #[must_use]
    pub const fn because(reason: ReasonCode, statement: &'static str, what: &'static str) -> Self {
        Self { reason, statement, what }
    }
}
