//! Whose allowance something counts against.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Identity, PrincipalKind};

/// A principal; of clients without credentials, who are all one principal, an address (of IPv6:
/// a /64, of which a single host can use every address): one must not use up what is everybody's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// The type of the principal.
    pub kind: PrincipalKind,
    /// Its id, or the address.
    pub name: Arc<str>,
}

impl Account {
    /// The account of a client at this address; `None` for a Unix socket.
    #[must_use]
    pub fn of(identity: &Identity, address: Option<IpAddr>) -> Self {
        let name = match address.map(|address| address.to_canonical()) {
            Some(address) if identity.kind == PrincipalKind::Anonymous => match address {
                IpAddr::V4(address) => address.to_string().into(),
                IpAddr::V6(address) => {
                    let prefix = address.to_bits() & !u128::from(u64::MAX);
                    format!("{}/64", std::net::Ipv6Addr::from_bits(prefix)).into()
                }
            },
            _ => Arc::clone(&identity.name),
        };
        Self { kind: identity.kind, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_where_there_is_no_principal() {
        let device = Identity { kind: PrincipalKind::Device, ..Identity::anonymous() };
        let anonymous = Identity::anonymous();
        for (identity, address, name) in [
            (&device, Some("192.0.2.1"), "anonymous"),
            (&anonymous, None, "anonymous"),
            (&anonymous, Some("192.0.2.1"), "192.0.2.1"),
            (&anonymous, Some("::ffff:192.0.2.1"), "192.0.2.1"),
            (&anonymous, Some("2001:db8::1"), "2001:db8::/64"),
            (&anonymous, Some("2001:db8::ffff:ffff:ffff:ffff"), "2001:db8::/64"),
            (&anonymous, Some("2001:db8:0:1::1"), "2001:db8:0:1::/64"),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            let account = Account::of(identity, address);
            assert_eq!((account.kind, &*account.name), (identity.kind, name));
        }
    }
}
