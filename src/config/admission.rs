//! Who may connect: the keys that everything has that takes connections.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::kind::{list, list_not_empty, network};
use super::quantity::{count, span};
use super::section::Section;
use crate::gates::admission::Settings;

/// What differs from one to the other.
pub(super) struct Defaults {
    /// The key of the deadline that all has to be done by.
    pub(super) deadline: &'static str,
    pub(super) connections_max: u32,
    pub(super) connections_per_address_max: u32,
    pub(super) connections_per_second: NonZeroU32,
    pub(super) connections_burst: NonZeroU32,
    /// The key `handshakes_max`; without one all connections may be unfinished.
    pub(super) handshakes_max: Option<u32>,
    /// The most that the numbers of connections may be set to.
    pub(super) connections_bound: u32,
    /// The most that the rates may be set to.
    pub(super) rate_bound: NonZeroU32,
}

/// Every address.
pub(super) fn everywhere() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    ]
}

pub(super) fn read(section: &mut Section<'_>, defaults: &Defaults) -> Settings {
    let allow = list_not_empty(network(), "name networks, or leave the key out to allow every one");
    let connections = count(1, defaults.connections_bound);
    let rate = count(NonZeroU32::MIN, defaults.rate_bound);
    let deadline = span(Duration::from_millis(100), Duration::from_mins(5));
    let connect_deadline = section.take(defaults.deadline, &deadline, Duration::from_secs(10));
    let first_byte_deadline = section.take(
        "first_byte_deadline",
        &deadline,
        Duration::from_secs(2).min(connect_deadline),
    );
    if first_byte_deadline > connect_deadline {
        let which = defaults.deadline;
        let message =
            format!("is longer than {which}, which ends the wait for a first byte as well");
        section.refuse("first_byte_deadline", &message, "make it the shorter one");
    }
    let connections_max = section.take("connections_max", &connections, defaults.connections_max);
    let handshakes_max = defaults.handshakes_max.map_or(connections_max, |default| {
        section.take("handshakes_max", &count(1, 1_000_000), default)
    });
    Settings {
        allow: section.take("allow", &allow, everywhere()),
        deny: section.take("deny", &list(network()), Vec::new()),
        connections_per_address_max: section.take(
            "connections_per_address_max",
            &connections,
            defaults.connections_per_address_max,
        ),
        connections_per_second_per_address: section.take(
            "connections_per_second_per_address",
            &rate,
            defaults.connections_per_second,
        ),
        connections_burst_per_address: section.take(
            "connections_burst_per_address",
            &rate,
            defaults.connections_burst,
        ),
        connections_max,
        handshakes_max,
        first_byte_deadline,
        connect_deadline,
    }
}
