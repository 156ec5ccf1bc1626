//! A device: in which state it is, and by whose certificates it is known.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Principal;

/// Authorities that a device may have certificates of: the present one, and those it is moving
/// to or from.
pub(super) const ISSUERS_MAX: usize = 8;

/// What a device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It connects.
    Active,
    /// It has come with a certificate that nobody has approved yet.
    Pending,
    /// It is kept out until it is activated.
    Suspended,
    /// It is kept out for good: only forgetting it changes that.
    Revoked,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A device, or another principal that somebody has given a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Who it is.
    pub principal: Principal,
    /// What it may do.
    pub state: State,
    /// The SHA-256 of the public keys of the authorities whose certificates are its own,
    /// lower-case hex; none: of any that the listener trusts.
    pub issuers: Vec<Arc<str>>,
    /// The SHA-256 of the certificate that it came with first.
    pub certificate: Option<Arc<str>>,
    /// When it was taken down.
    pub registered_at: SystemTime,
    /// When its state changed.
    pub changed_at: SystemTime,
}

/// Why a client is kept out, by what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// Nobody has approved it yet.
    #[error("the device is pending; `ctl device approve` lets it in")]
    Pending,
    /// Nobody knows it, and nobody has approved it.
    #[error("the device is not known any more; its next connection makes it so")]
    Unknown,
    /// It is suspended.
    #[error("the device is suspended; `ctl device activate` lets it in")]
    Suspended,
    /// It is revoked.
    #[error("the device is revoked")]
    Revoked,
    /// Its certificate is of another authority than those it is known by.
    #[error(
        "the device is known by certificates of another authority than {issuer}; \
         `ctl device approve --issuer` takes this one too"
    )]
    OtherIssuer {
        /// The authority that has issued the certificate.
        issuer: Arc<str>,
    },
    /// There is no room for another device.
    #[error("there are {devices_max} devices, the most there may be; forget some")]
    Full {
        /// The bound.
        devices_max: usize,
    },
    /// There is no room for another one that waits.
    #[error("{pending_max} devices are pending, the most there may be; approve or forget some")]
    PendingFull {
        /// The bound.
        pending_max: usize,
    },
    /// New devices come too fast.
    #[error("new devices come too fast; it may come again later")]
    TooFast,
}
