//! Which client identifiers an identity may use.

use super::Identity;
use crate::mqtt::{ClientId, ReasonCode};

/// Which client identifiers an identity may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The client id equals the identity.
    Exact,
    /// The client id is the identity, or begins with the identity and this separator, which no
    /// identity may contain.
    Prefix(String),
    /// Any client id. A session still belongs to the principal that made it.
    Unbound,
}

/// Why an identity may not use a client identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// Exact binding: the two differ.
    #[error("the client id has to equal the identity")]
    NotTheIdentity,
    /// Prefix binding: the client id is neither the identity nor begins with it and the separator.
    #[error(
        "the client id has to be the identity, or to begin with the identity and `{separator}`"
    )]
    NotBelowTheIdentity {
        /// The separator of the binding.
        separator: String,
    },
    /// Prefix binding: an identity `a-b` could pose as `a` with the client id `a-b`.
    #[error("the identity contains the separator `{separator}`, so that it could pose as another")]
    SeparatorInIdentity {
        /// The separator of the binding.
        separator: String,
    },
    /// Prefix binding without a separator binds nothing.
    #[error("the binding has an empty separator")]
    EmptySeparator,
    /// An identifier that the broker would have to assign is not a client id.
    #[error("no client id can be made from the identity")]
    NotAClientId,
}

impl BindingError {
    /// What the client is told.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        ReasonCode::ClientIdentifierNotValid
    }
}

impl Binding {
    /// Refuses a client id that `identity` may not use.
    ///
    /// # Errors
    /// When the binding does not allow the pair.
    pub fn check(&self, identity: &Identity, client_id: &ClientId) -> Result<(), BindingError> {
        match self {
            Self::Unbound => Ok(()),
            Self::Exact if client_id.as_str() == &*identity.name => Ok(()),
            Self::Exact => Err(BindingError::NotTheIdentity),
            Self::Prefix(separator) => {
                let rest = refuse_separator_in(identity, separator)
                    .map(|()| client_id.as_str().strip_prefix(&*identity.name))?;
                match rest {
                    Some(rest) if rest.is_empty() || rest.starts_with(separator) => Ok(()),
                    _ => Err(BindingError::NotBelowTheIdentity { separator: separator.clone() }),
                }
            }
        }
    }

    /// The client id for a client that sent none; `random` has to be hard to guess and new.
    ///
    /// # Errors
    /// When the binding allows the identity no client id at all.
    pub fn assign(&self, identity: &Identity, random: &str) -> Result<ClientId, BindingError> {
        let text = match self {
            Self::Exact => identity.name.to_string(),
            Self::Prefix(separator) => {
                refuse_separator_in(identity, separator)?;
                format!("{}{separator}{random}", identity.name)
            }
            Self::Unbound => format!("auto-{random}"),
        };
        ClientId::parse(&text).ok_or(BindingError::NotAClientId)
    }
}

fn refuse_separator_in(identity: &Identity, separator: &str) -> Result<(), BindingError> {
    if separator.is_empty() {
        Err(BindingError::EmptySeparator)
    } else if identity.name.contains(separator) {
        Err(BindingError::SeparatorInIdentity { separator: separator.to_owned() })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PrincipalKind;

    fn identity(name: &str) -> Identity {
        Identity { name: name.into(), kind: PrincipalKind::Device, ..Identity::anonymous() }
    }

    fn check(binding: &Binding, name: &str, client_id: &str) -> Result<(), BindingError> {
        binding.check(&identity(name), &ClientId::parse(client_id).unwrap())
    }

    #[test]
    fn a_client_id_is_allowed_only_where_its_binding_says_so() {
        let prefix = Binding::Prefix("-".into());
        let wide = Binding::Prefix("::".into());
        for (binding, name, client_id, allowed) in [
            (&Binding::Exact, "pump", "pump", true),
            (&Binding::Exact, "pump", "Pump", false),
            (&Binding::Exact, "pump", "pump ", false),
            (&Binding::Exact, "pump", "pum", false),
            (&prefix, "pump", "pump", true),
            (&prefix, "pump", "pump-1", true),
            (&prefix, "pump", "pump-", true),
            (&prefix, "pump", "pump-1-2", true),
            (&prefix, "pump", "pump1", false),
            (&prefix, "pump", "pum", false),
            (&prefix, "pump", "xpump-1", false),
            (&prefix, "pump-1", "pump-1", false),
            (&wide, "pump:1", "pump:1::a", true),
            (&wide, "pump", "pump:a", false),
            (&wide, "a::b", "a::b", false),
            (&Binding::Prefix(String::new()), "pump", "pumpkin", false),
            (&Binding::Unbound, "pump", "anything", true),
        ] {
            assert_eq!(
                check(binding, name, client_id).is_ok(),
                allowed,
                "{binding:?} {name} {client_id}"
            );
        }
    }

    #[test]
    fn an_assigned_client_id_obeys_its_binding() {
        for (binding, expected) in [
            (Binding::Exact, "pump"),
            (Binding::Prefix("-".into()), "pump-7f3a"),
            (Binding::Unbound, "auto-7f3a"),
        ] {
            let assigned = binding.assign(&identity("pump"), "7f3a").unwrap();
            assert_eq!(assigned.as_str(), expected);
            binding.check(&identity("pump"), &assigned).unwrap();
        }
    }

    #[test]
    fn no_client_id_is_assigned_to_an_identity_that_holds_the_separator() {
        assert_eq!(
            Binding::Prefix("-".into()).assign(&identity("pump-1"), "7f3a"),
            Err(BindingError::SeparatorInIdentity { separator: "-".into() })
        );
    }
}
