//! The admission gate: who may take up a connection at all, judged by address and by count.

use std::time::Duration;

use ipnet::IpNet;

/// Limits of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Only these networks may connect; empty allows every network.
    pub allow: Vec<IpNet>,
    /// These networks may not; a deny wins over an allow.
    pub deny: Vec<IpNet>,
    /// Connections from one address (of IPv6: from one /64).
    pub connections_per_address_max: u32,
    /// Connections of the listener.
    pub connections_max: u32,
    /// Connections of the listener that have not been answered with CONNACK yet.
    pub handshakes_max: u32,
    /// From accept to CONNACK.
    pub connect_deadline: Duration,
}
