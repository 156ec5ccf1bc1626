//! Which groups exist, who is in them, and which tags somebody has: `principals.toml`.
//!
//! The file lies beside the policies and is loaded with them, whole or not at all. A group exists
//! only if it is declared there, and somebody is in it only because the file says so: by name, by
//! certificate, or by a field of a certificate that the one authority named there has issued. The
//! same field from any other authority decides nothing; it is an [`IgnoredClaim`].

mod file;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::groups::{DeclaredGroups, GROUPS_MAX};
use super::problem::LoadError;
use super::source::Source;
use crate::identity::field::Field;
use crate::identity::{CertificateFacts, Identity, PrincipalKind};

/// The content of a `principals.toml`. Without one, no group exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principals {
    groups: DeclaredGroups,
    named: BTreeMap<(PrincipalKind, Arc<str>), Holdings>,
    /// By the fingerprint of the certificate.
    certificates: BTreeMap<Arc<str>, Holdings>,
    grants: Grants,
}

/// What an entry of the file gives to whom it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    groups: BTreeSet<Arc<str>>,
    tags: BTreeMap<Arc<str>, Arc<str>>,
}

/// Groups that fields of certificates confer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Grants {
    /// By the one value that confers them.
    exact: BTreeMap<(Field, Arc<str>), BTreeSet<Grant>>,
    /// Patterns with wildcards.
    patterns: BTreeSet<(Field, Arc<str>, Grant)>,
}

/// A group, and the authority whose certificates confer it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    group: Arc<str>,
    /// Lower-case hex of the SHA-256 of the authority's public key.
    issuer: Arc<str>,
}

/// A field of a certificate that confers a group, if the right authority issued it.
struct Claim<'a> {
    grant: &'a Grant,
    field: Field,
    value: &'a Arc<str>,
}

/// A principal as one set of policies sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The groups it is directly in.
    pub(super) direct: Vec<Arc<str>>,
    /// Every group it is in, directly or through other groups, in order of name.
    pub(super) groups: Vec<Arc<str>>,
    /// Its tags.
    pub(super) tags: BTreeMap<Arc<str>, Arc<str>>,
}

/// Why a principal cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    /// Whoever made the identity put it into a group that does not exist.
    #[error("group {group:?} of the principal is not declared in principals.toml")]
    Undeclared {
        /// The group.
        group: Arc<str>,
    },
    /// More than [`GROUPS_MAX`].
    #[error("the principal is in more than {GROUPS_MAX} groups")]
    TooManyGroups,
}

/// A claim to a group by a certificate whose authority may not confer it. It decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredClaim {
    /// The group.
    pub group: Arc<str>,
    /// The field: `organizational_unit`, `san_uri` or `san_dns`.
    pub field: &'static str,
    /// What the certificate says there.
    pub value: Arc<str>,
    /// The authority that issued it: lower-case hex of the SHA-256 of its public key.
    pub issuer: Arc<str>,
}

impl Principals {
    /// Reads a `principals.toml`; problems are shown under the given name.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, LoadError> {
        Self::read(&Source::new(name, text))
    }

    pub(super) fn read(source: &Source) -> Result<Self, LoadError> {
        file::read(source)
    }

    /// The groups that exist.
    #[must_use]
    pub fn groups(&self) -> &DeclaredGroups {
        &self.groups
    }

    /// All groups and tags of a principal. Of two tags with one name, what the identity brings
    /// itself comes first, then that of its certificate, which is the narrower entry, then that
    /// of its name.
    ///
    /// # Errors
    /// A group that does not exist, or too many; nothing may be allowed then.
    pub(super) fn resolve(&self, identity: &Identity) -> Result<Resolved, Unresolved> {
        if let Some(group) = identity.groups.iter().find(|group| !self.groups.contains(group)) {
            return Err(Unresolved::Undeclared { group: Arc::clone(group) });
        }
        let mut tags = BTreeMap::new();
        for holdings in self.holdings(identity) {
            tags.extend(holdings.tags.clone());
        }
        tags.extend(identity.tags.clone());
        let direct = self.direct(identity);
        let groups = self.groups.closure(&direct).ok_or(Unresolved::TooManyGroups)?;
        Ok(Resolved { direct, groups, tags })
    }

    /// Claims that confer nothing, one for each group that the principal is not in anyway.
    pub(super) fn ignored_claims(&self, identity: &Identity) -> Vec<IgnoredClaim> {
        let Some(certificate) = &identity.certificate else { return Vec::new() };
        let claims = self.grants.claims(certificate);
        if claims.is_empty() {
            return Vec::new();
        }
        let direct = self.direct(identity);
        let held = self.groups.closure(&direct).unwrap_or(direct);
        let mut ignored: BTreeMap<&Arc<str>, IgnoredClaim> = BTreeMap::new();
        for Claim { grant, field, value } in claims {
            if grant.issuer == certificate.issuer || held.contains(&grant.group) {
                continue;
            }
            ignored.entry(&grant.group).or_insert_with(|| IgnoredClaim {
                group: Arc::clone(&grant.group),
                field: field.as_str(),
                value: Arc::clone(value),
                issuer: Arc::clone(&certificate.issuer),
            });
        }
        ignored.into_values().take(GROUPS_MAX).collect()
    }

    /// Hands out everything that decides, in an order that depends on nothing but itself.
    pub(super) fn each_part(&self, part: &mut impl FnMut(&str)) {
        part(&self.groups.iter().count().to_string());
        for (group, parents) in self.groups.iter() {
            part(group);
            part(&parents.len().to_string());
            for parent in parents {
                part(parent);
            }
        }
        part(&self.named.len().to_string());
        for ((kind, name), holdings) in &self.named {
            part(kind.as_str());
            part(name);
            holdings.each_part(part);
        }
        part(&self.certificates.len().to_string());
        for (fingerprint, holdings) in &self.certificates {
            part(fingerprint);
            holdings.each_part(part);
        }
        for (field, text, Grant { group, issuer }) in self.grants.all() {
            for text in [field.as_str(), text, group, issuer] {
                part(text);
            }
        }
    }

    /// The groups that the file and the identity name for a principal, each once.
    fn direct(&self, identity: &Identity) -> Vec<Arc<str>> {
        let mut direct: BTreeSet<Arc<str>> = identity.groups.iter().cloned().collect();
        for holdings in self.holdings(identity) {
            direct.extend(holdings.groups.iter().cloned());
        }
        if let Some(certificate) = &identity.certificate {
            let claims = self.grants.claims(certificate).into_iter().map(|claim| claim.grant);
            let granted = claims.filter(|grant| grant.issuer == certificate.issuer);
            direct.extend(granted.map(|grant| Arc::clone(&grant.group)));
        }
        direct.into_iter().collect()
    }

    /// The entries about a principal: of its name, then of its certificate.
    fn holdings(&self, identity: &Identity) -> impl Iterator<Item = &Holdings> {
        let named = self.named.get(&(identity.kind, Arc::clone(&identity.name)));
        let certificate = identity.certificate.as_ref();
        let certified = certificate.and_then(|it| self.certificates.get(&it.fingerprint));
        named.into_iter().chain(certified)
    }
}

impl Holdings {
    fn each_part(&self, part: &mut impl FnMut(&str)) {
        part(&self.groups.len().to_string());
        for group in &self.groups {
            part(group);
        }
        part(&self.tags.len().to_string());
        for (name, value) in &self.tags {
            part(name);
            part(value);
        }
    }
}

impl Resolved {
    /// A principal as it stands, where nothing says which groups exist.
    ///
    /// # Errors
    /// Too many groups.
    pub(super) fn as_it_stands(identity: &Identity) -> Result<Self, Unresolved> {
        let groups = DeclaredGroups::default().closure(&identity.groups);
        Ok(Self {
            direct: identity.groups.clone(),
            groups: groups.ok_or(Unresolved::TooManyGroups)?,
            tags: identity.tags.clone(),
        })
    }
}

impl Grants {
    fn add(&mut self, field: Field, pattern: &str, grant: Grant) {
        let pattern = Arc::from(field.comparable(pattern));
        if str::contains(&pattern, '*') {
            self.patterns.insert((field, pattern, grant));
        } else {
            self.exact.entry((field, pattern)).or_default().insert(grant);
        }
    }

    fn all(&self) -> impl Iterator<Item = (Field, &Arc<str>, &Grant)> {
        let exact = self.exact.iter().flat_map(|((field, value), grants)| {
            grants.iter().map(move |grant| (*field, value, grant))
        });
        exact.chain(self.patterns.iter().map(|(field, pattern, grant)| (*field, pattern, grant)))
    }

    /// Every grant that a field of the certificate matches, whoever issued it.
    fn claims<'a>(&'a self, certificate: &'a CertificateFacts) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        if self.exact.is_empty() && self.patterns.is_empty() {
            return claims;
        }
        for field in Field::ALL {
            for value in field.values(certificate) {
                let comparable = field.comparable(value);
                let exact = self.exact.get(&(field, Arc::from(&*comparable)));
                let patterns = self
                    .patterns
                    .iter()
                    .filter(|(of, pattern, _)| *of == field && field.matches(pattern, &comparable));
                let grants = exact.into_iter().flatten();
                let grants = grants.chain(patterns.map(|(_, _, grant)| grant));
                claims.extend(grants.map(|grant| Claim { grant, field, value }));
            }
        }
        claims
    }
}
