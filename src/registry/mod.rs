//! What the operator has said about clients by name: bans, and the states of devices.
//!
//! Both are tables in memory, read at every CONNECT and when something changes, never for a
//! packet; the store keeps them. Nothing here reads a clock, a socket or a setting of its own:
//! `now` is an argument, and whoever changes something gets what has to be kept.

mod ban;
mod bans;
mod device;
mod devices;
mod rules;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

pub use ban::{Ban, BanId, Banned, By, Client, Target, TargetText};
pub use bans::{Bans, BansFull};
pub use device::{Barred, Device, State};
pub use devices::{Admitted, Devices, Registration, Settings, Unchanged};
pub use rules::Rule;

use parking_lot::Mutex;

use crate::identity::{Identity, PrincipalKind};

/// Bytes of a principal's name.
const NAME_BYTES_MAX: usize = 1024;
/// The longest ban that has an end, in seconds: 100 years.
pub const BAN_S_MAX: u64 = 100 * 366 * 24 * 60 * 60;
/// Bytes of a text that says why.
pub const WHY_BYTES_MAX: usize = 256;

/// Bans and devices of one broker.
#[derive(Debug, Default)]
pub struct Registry {
    /// Who is kept out.
    pub bans: Bans,
    /// What is known of devices.
    pub devices: Devices,
    /// Held from a change until it was handed to the store, so that they are kept in their order.
    pub order: Mutex<()>,
}

impl Registry {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { devices: Devices::new(settings), ..Self::default() }
    }
}

/// Whom a ban or a state is about: the type and id of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    /// The type.
    pub kind: PrincipalKind,
    /// The id.
    pub name: Arc<str>,
}

/// Why a text names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misnamed {
    /// It has no type, or one that there is not.
    #[error(
        "{text:?} names no principal; write Device::NAME, User::NAME, Service::NAME or \
         Anonymous::NAME"
    )]
    Kind {
        /// What was written, cut where it is long.
        text: String,
    },
    /// It has no id, or one that no principal can have.
    #[error("the name of a principal has 1 to {NAME_BYTES_MAX} bytes and no NUL; correct it")]
    Name,
    /// It is no client identifier.
    #[error("a client id has 1 to 65535 bytes, and no NUL; correct it")]
    ClientId,
    /// It is no network.
    #[error("{text:?} is no address or network; write one such as 192.0.2.7 or 2001:db8::/32")]
    Network {
        /// What was written, cut where it is long.
        text: String,
    },
    /// It has bits behind its prefix.
    #[error("{given} has bits behind its prefix; write {meant}")]
    HostBits {
        /// What was written.
        given: ipnet::IpNet,
        /// What that would be.
        meant: ipnet::IpNet,
    },
    /// It is all there is.
    #[error("a network of prefix length 0 is everybody; name a smaller one")]
    Everybody,
    /// It is no fingerprint.
    #[error("a certificate is named by its SHA-256, 64 hexadecimal digits; correct it")]
    Certificate,
    /// It names too little or too much.
    #[error(
        "a ban names a principal, a client id, both of them, an address or a certificate; write \
         one of these"
    )]
    Shape,
    /// It says too much.
    #[error("why it is has at most {WHY_BYTES_MAX} bytes; shorten it")]
    Why,
}

/// A moment as text; of one that no calendar has, the seconds.
#[must_use]
pub fn time_text(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    // The last second of the year 9999.
    if since > 253_402_300_799 {
        return format!("@{since}");
    }
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A text for a message, cut where it is long.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Principal {
    /// The principal that an identity is.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self { kind: identity.kind, name: Arc::clone(&identity.name) }
    }

    /// Reads `Device::pump-7`: all behind the type is the id, as it is. Quoted like in a policy it is
    /// refused: it would be another name.
    ///
    /// # Errors
    /// [`Misnamed`].
    pub fn parse(text: &str) -> Result<Self, Misnamed> {
        let unknown = || Misnamed::Kind { text: cut(text) };
        let (kind, name) = text.split_once("::").ok_or_else(unknown)?;
        let kind = match kind {
            "Device" => PrincipalKind::Device,
            "User" => PrincipalKind::User,
            "Service" => PrincipalKind::Service,
            "Anonymous" => PrincipalKind::Anonymous,
            _ => return Err(unknown()),
        };
        if name.starts_with('"') {
            return Err(unknown());
        }
        Self::new(kind, name)
    }

    /// Reads the name of a device, or any principal with its type.
    ///
    /// # Errors
    /// [`Misnamed`].
    pub fn parse_device(text: &str) -> Result<Self, Misnamed> {
        if text.contains("::") { Self::parse(text) } else { Self::new(PrincipalKind::Device, text) }
    }

    fn new(kind: PrincipalKind, name: &str) -> Result<Self, Misnamed> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return Err(Misnamed::Name);
        }
        Ok(Self { kind, name: name.into() })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.kind.as_str(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_its_type_and_its_name() {
        for (text, kind, name) in [
            ("Device::pump-7", PrincipalKind::Device, "pump-7"),
            ("User::an\"n", PrincipalKind::User, "an\"n"),
            ("Service::a::b", PrincipalKind::Service, "a::b"),
        ] {
            let principal = Principal::parse(text).unwrap();
            assert_eq!((principal.kind, &*principal.name), (kind, name));
        }
        assert_eq!(&*Principal::parse_device("pump-7").unwrap().name, "pump-7");
        assert_eq!(Principal::parse_device("User::ann").unwrap().kind, PrincipalKind::User);
        for wrong in ["", "pump-7", "device::pump-7", "Robot::x", "::x", "User::\"ann\""] {
            assert!(matches!(Principal::parse(wrong), Err(Misnamed::Kind { .. })), "{wrong}");
        }
        let long = format!("Device::{}", "x".repeat(NAME_BYTES_MAX + 1));
        for wrong in ["Device::", "Device::a\0b", &long] {
            assert_eq!(Principal::parse(wrong), Err(Misnamed::Name));
        }
    }
}
