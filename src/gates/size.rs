//! The size gate: caps on everything a client can make large.

/// The caps. All are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a whole packet, fixed header included; enforced before allocation.
    pub packet_bytes_max: u32,
    /// Bytes of a payload, or of a will's.
    pub payload_bytes_max: u32,
    /// Bytes of a topic name or filter.
    pub topic_bytes_max: u16,
    /// Levels of a topic name or filter.
    pub topic_levels_max: u16,
    /// Bytes of a client identifier.
    pub client_id_bytes_max: u16,
    /// Bytes of all properties of one packet that hold text or data.
    pub property_bytes_max: u32,
    /// User properties in one packet.
    pub user_properties_max: u16,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet_max: u16,
}
