//! MQTT on the wire: bytes to packets and back, and the words of the protocol as types.
//!
//! One decoder and one encoder serve MQTT 3.1, 3.1.1 and 5.0, in both directions. Nothing here
//! reads a socket, a clock or a setting, and nothing panics on any bytes.

pub mod client_id;
pub mod frame;
pub mod packet;
mod primitives;
mod property;
pub mod reason;
pub mod topic;
mod version;

pub use client_id::ClientId;
pub use property::UserProperties;
pub use reason::{ReasonCode, Violation};
pub use topic::{ShareName, SubscriptionFilter, TopicFilter, TopicName};
pub use version::ProtocolVersion;
