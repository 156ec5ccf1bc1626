//! The gates, each in a file, and what they have in common: profiles and refusals.
//!
//! THE LIST, in the order in which `server::connection` passes them:
//! [`admission`] → (TLS, identity) → [`grinding`] → [`flapping`] → [`rate`] → [`size`] → [`features`] → session →
//! [`authorize`].

pub mod admission;
pub mod authorize;
mod clock;
pub mod features;
pub mod flapping;
pub mod grinding;
pub mod rate;
pub mod records;
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
    /// Sessions of one principal, with and without connection.
    pub sessions_max: u32,
    /// Bounds of the retained messages that one principal has set.
    pub retained: crate::router::RetainedSettings,
}

use crate::mqtt::{ReasonCode, Violation};
use crate::policy::Denial;
use crate::router::RetainedFull;

/// Why a gate does not let something through.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The peer broke a rule of the specification.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A cap is exceeded.
    #[error(transparent)]
    Size(#[from] size::Exceeded),
    /// A feature is not offered.
    #[error(transparent)]
    Feature(#[from] features::NotOffered),
    /// More packets or bytes than the principal may send.
    #[error("more packets or bytes than the profile allows")]
    Rate,
    /// The policy refuses it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// Allowed, but there is no room.
    #[error(transparent)]
    RetainedFull(#[from] RetainedFull),
    /// Allowed, but the disk of the store is nearly full.
    #[error("the broker has no room for messages that are to be kept")]
    DiskFull,
    /// Allowed, but a session that would get it is full, and its profile has publishers told.
    #[error("the queue of a session that subscribes to it is full")]
    QueueFull,
    /// The session has as many subscriptions as its profile allows.
    #[error("the session has {allowed} subscriptions, the most its profile allows")]
    Subscriptions {
        /// The most allowed.
        allowed: u32,
    },
}

impl Refusal {
    /// What the client is told.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Violation(violation) => violation.reason,
            Self::Size(exceeded) => exceeded.reason,
            Self::Feature(not_offered) => not_offered.reason,
            Self::Rate => ReasonCode::MessageRateTooHigh,
            Self::Denied(_) => ReasonCode::NotAuthorized,
            Self::RetainedFull(_)
            | Self::DiskFull
            | Self::QueueFull
            | Self::Subscriptions { .. } => ReasonCode::QuotaExceeded,
        }
    }
}
