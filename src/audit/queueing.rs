//! What an event is to the queue: who can bring it about, and what it costs while it waits.

use super::event::{Kind, Target};

impl Kind {
    /// True for what a client can bring about as often as it likes. Such events leave a part of
    /// the queue free, so that a flood of them cannot hide a reload or a control call.
    #[must_use]
    pub const fn is_client_driven(&self) -> bool {
        match self {
            Self::ConnectionAccepted { .. }
            | Self::ConnectionRefused { .. }
            | Self::ConnectionClosed { .. }
            | Self::AuthenticationRenewed { .. }
            | Self::CredentialUpgraded { .. }
            | Self::Denied { .. }
            | Self::Violation { .. }
            | Self::GroupClaimIgnored { .. }
            | Self::SessionTakenOver { .. }
            | Self::SessionRefusedOwner { .. }
            | Self::SubscriptionWithdrawn { .. }
            | Self::SessionQueueFull { .. }
            | Self::WillDiscarded { .. }
            | Self::DeviceRegistered { .. }
            | Self::EnrollRefused { .. }
            | Self::TaskPanicked { .. } => true,
            Self::BrokerStarted { .. }
            | Self::BrokerStopped { .. }
            | Self::StoreLossAccepted { .. }
            | Self::PolicyReloaded { .. }
            | Self::PolicyReloadFailed { .. }
            | Self::ConfigReloaded { .. }
            | Self::ConfigReloadFailed { .. }
            | Self::CredentialsReloaded { .. }
            | Self::CredentialsReloadFailed { .. }
            | Self::RevocationLoaded { .. }
            | Self::RevocationFailed { .. }
            | Self::ControlCall { .. }
            | Self::BanAdded { .. }
            | Self::BanRemoved { .. }
            | Self::BanExpired { .. }
            | Self::DeviceChanged { .. }
            | Self::CaCreated { .. }
            | Self::CaRotated { .. }
            | Self::CertificateIssued { .. }
            | Self::CertificateRevoked { .. }
            | Self::CrlIssued { .. }
            | Self::TokenCreated { .. }
            | Self::TokenDeleted { .. }
            | Self::EnrollIssued { .. }
            | Self::BrokerTold { .. }
            | Self::AuditOverflow { .. } => false,
        }
    }

    pub(super) fn weight_bytes(&self) -> usize {
        let target = |target: &Target| match target {
            Target::Topic(text) | Target::Filter(text) => text.len(),
        };
        match self {
            Self::Denied { target: asked, why, .. } => {
                why.len().saturating_add(asked.as_ref().map_or(0, target))
            }
            Self::SubscriptionWithdrawn { filter: text, .. }
            | Self::WillDiscarded { topic: text, .. }
            | Self::BanAdded { target: text, .. }
            | Self::BanRemoved { target: text, .. }
            | Self::BanExpired { target: text, .. }
            | Self::GroupClaimIgnored { value: text, .. } => text.len(),
            Self::EnrollRefused { name, why, .. } => {
                why.len().saturating_add(name.as_ref().map_or(0, |name| name.len()))
            }
            Self::ControlCall { about, why, .. } | Self::BrokerTold { about, why, .. } => {
                about.len().saturating_add(why.len())
            }
            Self::ConnectionRefused { why, .. }
            | Self::ConnectionClosed { why, .. }
            | Self::BrokerStopped { why }
            | Self::StoreLossAccepted { what: why }
            | Self::PolicyReloadFailed { why, .. }
            | Self::ConfigReloadFailed { why, .. }
            | Self::CredentialsReloadFailed { why, .. }
            | Self::RevocationFailed { why }
            | Self::TaskPanicked { message: why, .. } => why.len(),
            // The rest shares its texts with what lives anyway, or has none.
            _ => 0,
        }
    }
}
