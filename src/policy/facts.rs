//! What a policy may know of a session and of a packet.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::mqtt::packet::Qos;
use crate::mqtt::{ClientId, ProtocolVersion, TopicName, UserProperties};

/// Facts fixed for the life of one connection: `context.session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// The client identifier as accepted.
    pub client_id: ClientId,
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The peer's address, of a trusted proxy the one it announced. An IPv4 address inside an
    /// IPv6 one is judged as IPv4.
    pub source_ip: IpAddr,
    /// The protocol version.
    pub protocol: ProtocolVersion,
    /// 12 or 13; 0 without TLS.
    pub tls_version: u8,
}

/// Facts of a CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct ConnectFacts {
    /// Clean start, or clean session.
    pub clean_start: bool,
    /// Seconds the session outlives the connection; `u32::MAX` never ends.
    pub session_expiry_s: u32,
    /// The keep-alive interval; 0 is none.
    pub keep_alive_s: u16,
    /// The connection has a will.
    pub has_will: bool,
    /// The present time.
    pub now: SystemTime,
}

/// Facts of a PUBLISH or of a will.
#[derive(Clone, Copy, Debug)]
pub struct PublishFacts<'a> {
    /// The quality of service.
    pub qos: Qos,
    /// The message is to be retained.
    pub retain: bool,
    /// The message is a will.
    pub will: bool,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// MQTT 5's content type.
    pub content_type: Option<&'a str>,
    /// MQTT 5's user properties.
    pub user_properties: Option<&'a UserProperties>,
}

/// Facts of one entry of a SUBSCRIBE.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeFacts {
    /// The highest quality of service asked for.
    pub qos: Qos,
    /// Do not deliver what the client publishes itself.
    pub no_local: bool,
    /// The present time.
    pub now: SystemTime,
}

/// Facts of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveFacts<'a> {
    /// The quality of service the message is delivered with.
    pub qos: Qos,
    /// The retain flag as delivered.
    pub retain: bool,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// MQTT 5's content type.
    pub content_type: Option<&'a str>,
    /// MQTT 5's user properties.
    pub user_properties: Option<&'a UserProperties>,
    /// The present time.
    pub now: SystemTime,
}

/// Facts of an enrolment.
#[derive(Clone, Debug)]
pub struct EnrollFacts {
    /// The profile that the certificate would be issued with.
    pub profile: Arc<str>,
    /// What proves who it is: `token`, `factory` or `renewal`.
    pub method: Arc<str>,
    /// The name of the factory, of that method.
    pub factory: Option<Arc<str>>,
    /// The present time.
    pub now: SystemTime,
}

/// A message that can be judged: its topic and facts are its own, so that what is judged is
/// what is sent.
pub trait Publication {
    /// The topic, after any alias was resolved.
    fn topic(&self) -> &TopicName;
    /// The facts.
    fn facts(&self) -> PublishFacts<'_>;
}
