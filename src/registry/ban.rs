//! A ban: whom it keeps out, how long, why, and who said so.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{Misnamed, Principal, cut};
use crate::identity::Identity;
use crate::mqtt::ClientId;

/// Names a ban while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BanId(pub u64);

/// Whom a ban keeps out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A principal, whatever its client id.
    Principal(Principal),
    /// A client id, whoever uses it.
    ClientId(Arc<str>),
    /// A principal under one client id: what shares its name goes on.
    Client(Principal, Arc<str>),
    /// An address or a network.
    Network(IpNet),
    /// A certificate, by its SHA-256 in lower-case hexadecimal.
    Certificate(Arc<str>),
}

/// Whom a ban keeps out, as people write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetText {
    /// `Device::pump-7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// A client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// An address or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The SHA-256 of a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl TargetText {
    /// What it says.
    ///
    /// # Errors
    /// [`Misnamed`].
    pub fn parse(&self) -> Result<Target, Misnamed> {
        let Self { principal, client_id, address, certificate } = self;
        let principal = principal.as_deref().map(Principal::parse).transpose()?;
        let client_id = client_id
            .as_deref()
            .map(|text| ClientId::parse(text).map(|id| id.shared()).ok_or(Misnamed::ClientId));
        match (principal, client_id.transpose()?, address, certificate) {
            (Some(principal), None, None, None) => Ok(Target::Principal(principal)),
            (None, Some(client_id), None, None) => Ok(Target::ClientId(client_id)),
            (Some(principal), Some(client_id), None, None) => {
                Ok(Target::Client(principal, client_id))
            }
            (None, None, Some(address), None) => network(address).map(Target::Network),
            (None, None, None, Some(certificate)) => {
                fingerprint(certificate).map(Target::Certificate)
            }
            _ => Err(Misnamed::Shape),
        }
    }
}

impl From<&Target> for TargetText {
    fn from(target: &Target) -> Self {
        let nothing = Self::default();
        match target {
            Target::Principal(principal) => {
                Self { principal: Some(principal.to_string()), ..nothing }
            }
            Target::ClientId(client_id) => {
                Self { client_id: Some((**client_id).to_owned()), ..nothing }
            }
            Target::Client(principal, client_id) => Self {
                principal: Some(principal.to_string()),
                client_id: Some((**client_id).to_owned()),
                ..nothing
            },
            Target::Network(network) => Self { address: Some(network.to_string()), ..nothing },
            Target::Certificate(sha256) => {
                Self { certificate: Some((**sha256).to_owned()), ..nothing }
            }
        }
    }
}

impl Target {
    /// What kind of thing it names.
    #[must_use]
    pub const fn noun(&self) -> &'static str {
        match self {
            Self::Principal(_) => "the principal",
            Self::ClientId(_) => "the client id",
            Self::Client(..) => "the principal under this client id",
            Self::Network(_) => "the address",
            Self::Certificate(_) => "the certificate",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(principal) => write!(f, "principal {principal}"),
            Self::ClientId(client_id) => write!(f, "client id {client_id}"),
            Self::Client(principal, client_id) => {
                write!(f, "principal {principal} as client id {client_id}")
            }
            Self::Network(network) => write!(f, "address {network}"),
            Self::Certificate(sha256) => write!(f, "certificate {sha256}"),
        }
    }
}

/// A network that a single address may stand for. Addresses of IPv4 that are mapped into IPv6 are
/// those of IPv4, as they are everywhere.
fn network(text: &str) -> Result<IpNet, Misnamed> {
    let given = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => network,
        (_, Ok(address)) => address.into(),
        _ => return Err(Misnamed::Network { text: cut(text) }),
    };
    if given.prefix_len() == 0 {
        return Err(Misnamed::Everybody);
    }
    if given.trunc() != given {
        return Err(Misnamed::HostBits { given, meant: given.trunc() });
    }
    Ok(canonical(given))
}

fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    let mapped = six.network().to_ipv4_mapped();
    let four = mapped.zip(six.prefix_len().checked_sub(96));
    let four = four.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    four.filter(|four| four.prefix_len() > 0).map_or(network, IpNet::V4)
}

/// A SHA-256, as programs print it: colons and capitals are taken.
fn fingerprint(text: &str) -> Result<Arc<str>, Misnamed> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let is_one = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_one { Ok(digits.into()) } else { Err(Misnamed::Certificate) }
}

/// Who has said that somebody is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The broker, of a client that comes and goes all the time.
    Flapping,
    /// Somebody at the control socket, with this user id, where the kernel has told it.
    Operator(Option<u32>),
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Its name.
    pub id: BanId,
    /// Whom it keeps out.
    pub target: Target,
    /// Since when.
    pub since: SystemTime,
    /// When it ends; `None`: when it is removed.
    pub until: Option<SystemTime>,
    /// Why.
    pub why: Arc<str>,
    /// Who has said so.
    pub by: By,
}

impl Ban {
    /// Whether it is in force.
    #[must_use]
    pub fn is_in_force(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What is known of a client that may be banned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'a> {
    /// Who it is.
    pub identity: Option<&'a Identity>,
    /// The SHA-256 of its certificate, where it has shown one.
    pub certificate: Option<&'a Arc<str>>,
    /// Its client identifier.
    pub client_id: Option<&'a Arc<str>>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
}

/// Somebody is banned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is banned (ban {})", id.0)]
pub struct Banned {
    /// By which ban.
    pub id: BanId,
    /// What of the client it is that is banned.
    pub what: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Target, Misnamed> {
        TargetText { address: Some(text.to_owned()), ..TargetText::default() }.parse()
    }

    #[test]
    fn a_target_is_read_as_it_is_written() {
        let sha256 = "AB:".repeat(31) + "AB";
        for (text, shown) in [
            (TargetText { principal: Some("Device::a".into()), ..Default::default() }, None),
            (TargetText { client_id: Some("a\u{9b}".into()), ..Default::default() }, None),
            (TargetText { address: Some("192.0.2.0/24".into()), ..Default::default() }, None),
            (
                TargetText { certificate: Some(sha256), ..Default::default() },
                Some(format!("certificate {}", "ab".repeat(32))),
            ),
        ] {
            let target = text.parse().unwrap();
            assert_eq!(TargetText::from(&target).parse().unwrap(), target);
            if let Some(shown) = shown {
                assert_eq!(target.to_string(), shown);
            }
        }
    }

    #[test]
    fn a_malformed_network_says_what_is_wrong_with_it() {
        assert_eq!(address("192.0.2.7").unwrap().to_string(), "address 192.0.2.7/32");
        assert_eq!(address("::ffff:192.0.2.7").unwrap().to_string(), "address 192.0.2.7/32");
        assert_eq!(address("::ffff:192.0.2.0/120").unwrap().to_string(), "address 192.0.2.0/24");
        assert_eq!(address("2001:db8::/32").unwrap().to_string(), "address 2001:db8::/32");
        assert_eq!(
            address("10.0.0.1/8").unwrap_err().to_string(),
            "10.0.0.1/8 has bits behind its prefix; write 10.0.0.0/8"
        );
        assert_eq!(address("0.0.0.0/0"), Err(Misnamed::Everybody));
        assert_eq!(address("::/0"), Err(Misnamed::Everybody));
        for wrong in ["", "10.0.0.0/33", "10.0.0", "localhost", "10.0.0.0/8/8", "::1%lo"] {
            assert!(matches!(address(wrong), Err(Misnamed::Network { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_ban_of_nobody_or_of_too_much_is_none() {
        assert_eq!(TargetText::default().parse(), Err(Misnamed::Shape));
        let both = TargetText {
            principal: Some("Device::a".into()),
            address: Some("192.0.2.7".into()),
            ..TargetText::default()
        };
        assert_eq!(both.parse(), Err(Misnamed::Shape));
        for (text, wrong) in [
            (
                TargetText { client_id: Some(String::new()), ..Default::default() },
                Misnamed::ClientId,
            ),
            (
                TargetText { certificate: Some("c0ffee".into()), ..Default::default() },
                Misnamed::Certificate,
            ),
        ] {
            assert_eq!(text.parse(), Err(wrong));
        }
    }
}
