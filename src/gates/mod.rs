//! The gates, each in a file, and what they have in common: profiles and refusals.
//!
//! THE LIST, in the order in which `server::connection` passes them:
//! [`admission`] → (TLS, identity) → [`rate`] → [`size`] → [`features`] → session →
//! [`authorize`].

pub mod admission;
pub mod authorize;
pub mod features;
pub mod rate;
pub mod size;

/// The limits, caps and features of a group of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name in the configuration.
    pub name: std::sync::Arc<str>,
    /// Packets and bytes per principal.
    pub rate: rate::Settings,
    /// Caps on sizes.
    pub size: size::Settings,
    /// What of the protocol is offered.
    pub features: features::Settings,
    /// How refusals are told.
    pub authorize: authorize::Settings,
    /// Bounds of a session's state.
    pub session: crate::session::Settings,
    /// Bounds of what waits for a client.
    pub mailbox: crate::router::mailbox::Settings,
}
