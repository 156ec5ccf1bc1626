//! Further ways to prove who one is: passwords, tokens, SCRAM, or the word of a back end.
//!
//! Here is what each of them decides from bytes and records alone. Nothing here reads a socket,
//! waits, or goes on to another method: "not my kind" is said by the kind of what was offered,
//! before any of it is judged, and every error after that is a refusal.

pub mod answer;
pub mod password;
pub mod scram;
pub mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::{CertificateFacts, Identity, PrincipalKind};
use crate::pki;

/// The longest name of a principal, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The longest value of a tag, in bytes.
const TAG_BYTES_MAX: usize = 256;
/// The most groups that one answer or token may confer.
const GROUPS_MAX: usize = 64;

/// What a client offers in CONNECT to prove who it is. Its `Debug` form tells no secret.
#[derive(Clone, Copy)]
pub struct Offer<'a> {
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// The method of an enhanced authentication.
    pub method: Option<&'a str>,
    /// The data of that method.
    pub data: &'a [u8],
}

impl std::fmt::Debug for Offer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("method", &self.method).finish_non_exhaustive()
    }
}

impl<'a> Offer<'a> {
    /// User name and password, where both are there and no enhanced authentication is asked for.
    #[must_use]
    pub fn as_password(&self) -> Option<(&'a str, &'a [u8])> {
        self.username.zip(self.password).filter(|_| self.method.is_none())
    }
}

/// Reads `data` as a file of passwords. For the fuzzer: nothing may panic, and what is taken has a
/// hash for every name there is.
#[doc(hidden)]
pub fn fuzz_passwords(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(passwords) = password::Passwords::parse(std::path::Path::new("fuzz"), text) else {
        return;
    };
    for (name, hash) in passwords.iter() {
        assert!(passwords.hash_of(name) == (Some(hash), password::Known::Yes), "{name:?}");
    }
    assert!(passwords.hash_of("\u{0}").0.is_some(), "a decoy");
}

/// Reads `data` as a token. For the fuzzer: nothing may panic, and nobody has signed it.
#[doc(hidden)]
pub fn fuzz_token(data: &[u8]) {
    const KEYS: &[u8] = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let Ok(keys) = token::Keys::parse(KEYS) else { return };
    let settings = token::Settings {
        issuer: "https://id.example".to_owned(),
        audience: vec!["mqtt".to_owned()],
        leeway: std::time::Duration::ZERO,
        name_claim: "sub".to_owned(),
        client_id_claim: None,
        groups_claim: "groups".to_owned(),
        conferred: Conferred::default(),
    };
    let _ = token::is_token(data);
    assert!(token::verify(data, &keys, &settings).is_err(), "an unsigned token counts");
    let _ = token::Keys::parse(data);
    let _ = answer::read(data, "fuzz", &settings.conferred);
}

/// Reads `data` as a file of records, and as the messages of a client, of which a line feed is the
/// border. For the fuzzer: nothing may panic, and nobody is let in.
#[doc(hidden)]
pub fn fuzz_scram(data: &[u8]) {
    const RECORDS: &str = "!secret:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let path = std::path::Path::new("fuzz");
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = scram::Records::parse(path, text);
    }
    let Ok(records) = scram::Records::parse(path, RECORDS) else { return };
    let mut messages = data.splitn(2, |byte| *byte == b'\n');
    let first = messages.next().unwrap_or_default();
    if let Ok((exchange, _)) = scram::Exchange::begin(&records, first) {
        let last = messages.next().unwrap_or_default();
        assert!(exchange.finish(last).is_err(), "somebody without a record is let in");
    }
}

/// Who somebody has proven to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The id of the principal.
    pub name: Arc<str>,
    /// Groups that the proof confers.
    pub groups: Vec<Arc<str>>,
    /// Tags that the proof confers.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// When the proof ends.
    pub ends: Option<SystemTime>,
    /// The only client identifier it is good for.
    pub client_id: Option<Arc<str>>,
}

impl Accepted {
    /// A name alone.
    #[must_use]
    pub const fn named(name: Arc<str>) -> Self {
        Self { name, groups: Vec::new(), tags: BTreeMap::new(), ends: None, client_id: None }
    }

    /// The identity that it proves at a listener, beside the certificate that was shown there.
    #[must_use]
    pub fn identity(
        &self,
        kind: PrincipalKind,
        certificate: Option<Arc<CertificateFacts>>,
    ) -> Identity {
        let Self { name, groups, tags, .. } = self.clone();
        Identity { kind, name, groups, tags, certificate }
    }
}

/// Why an offer of the right kind proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is wrong, which counts as a failure of its address and name.
    #[error("{0}")]
    Wrong(String),
    /// It cannot be judged: a file, a key or a server is not there.
    #[error("{0}")]
    Unavailable(String),
    /// More is waiting to be judged than may.
    #[error("{0}")]
    Busy(String),
    /// Too much has failed before.
    #[error("{0}")]
    Throttled(String),
}

/// What one method says to an offer.
#[derive(Debug)]
pub enum Verdict {
    /// It is none of its kind: the next method is asked.
    NotMyKind,
    /// It is proven who this is.
    Accepted(Accepted),
    /// It is not, and no other method is asked.
    Refused(Refusal),
}

/// The groups and tags that a token or an answer may confer; anything else it says is passed
/// over, so that its maker has no more to say than it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conferred {
    /// Groups.
    pub groups: BTreeSet<Arc<str>>,
    /// Names of tags.
    pub tags: BTreeSet<Arc<str>>,
}

/// Why what somebody else says of a principal is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A name is empty, too long, or holds what no name needs.
    #[error("{claim} is no name: one to {NAME_BYTES_MAX} bytes, without invisible characters")]
    NotAName {
        /// Which claim.
        claim: String,
    },
    /// A claim has another type.
    #[error("{claim} is not {expected}")]
    Type {
        /// Which claim.
        claim: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A claim that has to be there is not.
    #[error("{claim} is missing")]
    Missing {
        /// Which claim.
        claim: String,
    },
    /// There are too many groups.
    #[error("{claim} has more than {GROUPS_MAX} groups that count")]
    TooMany {
        /// Which claim.
        claim: String,
    },
}

/// A name that somebody else has chosen.
///
/// # Errors
/// When it is empty, too long, or holds a character that no name needs.
pub fn check_name(claim: &str, name: &str) -> Result<Arc<str>, ClaimError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if fits && pki::unsafe_character(name).is_none() {
        Ok(name.into())
    } else {
        Err(ClaimError::NotAName { claim: claim.to_owned() })
    }
}

type Claims = serde_json::Map<String, serde_json::Value>;

impl Conferred {
    /// The groups among `claims`, as far as they count.
    fn groups_of(&self, claims: &Claims, claim: &str) -> Result<Vec<Arc<str>>, ClaimError> {
        let wrong = || ClaimError::Type { claim: claim.to_owned(), expected: "a list of texts" };
        let Some(value) = claims.get(claim).filter(|_| !self.groups.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut groups = BTreeSet::new();
        for group in value.as_array().ok_or_else(wrong)? {
            let group = group.as_str().ok_or_else(wrong)?;
            groups.extend(self.groups.get(group).map(Arc::clone));
        }
        if groups.len() > GROUPS_MAX {
            return Err(ClaimError::TooMany { claim: claim.to_owned() });
        }
        Ok(groups.into_iter().collect())
    }

    /// The tags among `claims`, as far as they count.
    fn tags_of(&self, claims: &Claims) -> Result<BTreeMap<Arc<str>, Arc<str>>, ClaimError> {
        let mut tags = BTreeMap::new();
        for name in &self.tags {
            let Some(value) = claims.get(&**name) else { continue };
            let wrong = || ClaimError::Type {
                claim: name.to_string(),
                expected: "a text of at most 256 bytes without invisible characters",
            };
            let value = value.as_str().ok_or_else(wrong)?;
            if value.len() > TAG_BYTES_MAX || pki::unsafe_character(value).is_some() {
                return Err(wrong());
            }
            tags.insert(Arc::clone(name), value.into());
        }
        Ok(tags)
    }
}

/// A claim that has to be a text.
fn text<'a>(claims: &'a Claims, claim: &str) -> Result<&'a str, ClaimError> {
    let value = claims.get(claim).ok_or_else(|| ClaimError::Missing { claim: claim.to_owned() })?;
    let wrong = || ClaimError::Type { claim: claim.to_owned(), expected: "a text" };
    value.as_str().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{fuzz_passwords, fuzz_scram, fuzz_token};

    /// The corpora of the fuzzers, a piece of each replaced.
    fn damaged() -> impl Strategy<Value = Vec<u8>> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut inputs = Vec::new();
        for target in ["password", "scram", "token"] {
            for entry in std::fs::read_dir(folder.join(target)).unwrap() {
                inputs.push(std::fs::read(entry.unwrap().path()).unwrap());
            }
        }
        let piece = prop_oneof!["[$:=.,\n0-9a-zA-Z]{0,12}", ".{0,4}"];
        (proptest::sample::select(inputs), 0_usize..512, 0_usize..16, piece).prop_map(
            |(mut input, at, removed, inserted)| {
                let start = at.min(input.len());
                let end = (start + removed).min(input.len());
                input.splice(start..end, inserted.into_bytes());
                input
            },
        )
    }

    proptest! {
        #[test]
        fn no_damage_panics_or_lets_anybody_in(input in damaged()) {
            fuzz_passwords(&input);
            fuzz_scram(&input);
            fuzz_token(&input);
        }
    }
}
