//! What an operator asks of a session, and the answer.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::policy::Explanation;

/// A question of a session: its principal and the facts of its connection are what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuestion {
    /// The session's client identifier.
    pub client_id: String,
    /// `connect`, `publish`, `subscribe` or `receive`.
    pub action: String,
    /// The topic; of subscribe the filter, of connect the listener.
    pub resource: String,
    /// Facts of the packet.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
}

/// The answer to a question of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAnswer {
    /// The client identifier.
    pub client_id: String,
    /// True while it has a connection; otherwise its last one is meant.
    pub connected: bool,
    /// The listener.
    pub listener: String,
    /// The address of the client.
    pub source_ip: IpAddr,
    /// MQTT's protocol level: 3, 4 or 5.
    pub protocol_version: u8,
    /// 12 or 13; 0 without TLS.
    pub tls_version: u8,
    /// What the policies in force say.
    pub explanation: Explanation,
}
