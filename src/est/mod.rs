//! Enrolment over the network: EST (RFC 7030, base64 as RFC 8951), a process of its own beside the
//! broker, which has the issuing key.
//!
//! ```text
//! address ─▶ admission ─▶ TLS ─▶ one request ─▶ rate ▸ who (token, factory, certificate) ▸ what
//!                                               (request by its profile) ▸ policy ─▶ spent ─▶ signed
//! ```
//!
//! `server` takes connections, `http` reads a request and answers it, `enroll` decides, in that
//! order and in one place. Whatever goes wrong on the way is a refusal, which is audited; the peer
//! is told why only where it has proven who it is.
//!
//! Beside it `lists` serves the authority's lists of revoked certificates, without TLS, and `upkeep`
//! renews them.

mod authority;
mod door;
mod enroll;
mod http;
mod lists;
mod message;
mod notice;
mod server;
mod upkeep;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use authority::{Authority, Open};
pub use server::{Est, Parts, StartError};

use crate::gates::{admission, grinding};
use crate::pki::{Profile, ProfileError, ProfileName};
use crate::server::listener::Tls;

/// The name of the listener, in policies and in the audit log.
pub const LISTENER: &str = "est";

/// How enrolment is offered.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate and key.
    pub tls: Tls,
    /// The folder of the authority.
    pub authority: PathBuf,
    /// The file with the passphrase of its key.
    pub passphrase_file: Option<PathBuf>,
    /// The folder of the policies.
    pub policies: PathBuf,
    /// What may be issued, at least one.
    pub profiles: Vec<Offered>,
    /// Whose certificates count as proof for somebody who has none of ours.
    pub factories: Vec<Factory>,
    /// Who may connect, and how long a request may take to come.
    pub admission: admission::Settings,
    /// Requests for certificates a second, from everybody together.
    pub requests_per_second: NonZeroU32,
    /// Requests for certificates at once, from everybody together.
    pub requests_burst: NonZeroU32,
    /// How often tokens may be wrong.
    pub failures: grinding::Settings,
    /// The control socket of the broker that is told what was issued and revoked.
    pub broker_socket: Option<PathBuf>,
    /// The authority's lists of revoked certificates.
    pub lists: ListSettings,
}

/// How the authority's lists of revoked certificates are renewed, and served.
#[derive(Clone, Debug)]
pub struct ListSettings {
    /// Where they are served by plain HTTP; `None`: nowhere.
    pub address: Option<SocketAddr>,
    /// How long one is good for that is written here; it is renewed when half of that is left.
    pub validity: Duration,
    /// How long a cache may keep one.
    pub max_age: Duration,
    /// Who may connect, and how long a request may take to come.
    pub admission: admission::Settings,
    /// Requests a second, from everybody together.
    pub requests_per_second: NonZeroU32,
    /// Requests at once, from everybody together.
    pub requests_burst: NonZeroU32,
}

/// A profile that certificates are issued with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Which.
    pub profile: ProfileName,
    /// A file that takes the place of the built-in one.
    pub file: Option<PathBuf>,
    /// The names that it is for.
    pub names: Vec<NamePattern>,
}

impl Offered {
    /// The profile, as built in or from its file.
    ///
    /// # Errors
    /// When the file is no profile.
    pub fn read(&self) -> Result<Profile, ProfileError> {
        match &self.file {
            Some(path) => Profile::from_file(self.profile, path),
            None => Profile::built_in(self.profile),
        }
    }
}

/// An authority elsewhere whose certificates devices come with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factory {
    /// What it is called.
    pub name: Arc<str>,
    /// Its certificates, PEM.
    pub ca: PathBuf,
    /// What a device with one of them gets.
    pub profile: ProfileName,
    /// The names that it may ask for.
    pub names: Vec<NamePattern>,
}

/// Names of a kind: text with at most one `*` for any characters, and `${cn}` for the common name
/// of the certificate that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
}

impl NamePattern {
    /// What stands for the common name.
    pub const COMMON_NAME: &'static str = "${cn}";

    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.replace(Self::COMMON_NAME, "");
        if text.is_empty() {
            Err("is empty")
        } else if rest.contains('$') {
            Err("has a placeholder other than ${cn}")
        } else if rest.matches('*').count() > 1 {
            Err("has more than one *")
        } else {
            Ok(Self { text: text.to_owned() })
        }
    }

    /// True when a common name decides.
    #[must_use]
    pub fn names_common_name(&self) -> bool {
        self.text.contains(Self::COMMON_NAME)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it stands for a name, for somebody with a common name. Nothing of that is taken for
    /// a pattern.
    #[must_use]
    pub fn is_for(&self, name: &str, common_name: &str) -> bool {
        if self.names_common_name() && common_name.is_empty() {
            return false;
        }
        let filled = |part: &str| part.replace(Self::COMMON_NAME, common_name);
        match self.text.split_once('*') {
            None => name == filled(&self.text),
            Some((before, after)) => {
                let (before, after) = (filled(before), filled(after));
                name.len() >= before.len().saturating_add(after.len())
                    && name.starts_with(&before)
                    && name.ends_with(&after)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_what_it_says_and_nothing_of_a_common_name_is_a_pattern() {
        for (pattern, name, common_name, is_for) in [
            ("*", "anything", "", true),
            ("pump-*", "pump-7", "", true),
            ("pump-*", "pum", "", false),
            ("ab*bc", "abc", "", false),
            ("ab*bc", "abbc", "", true),
            ("pump-7", "pump-7", "", true),
            ("pump-7", "pump-70", "", false),
            ("${cn}", "dev1", "dev1", true),
            ("${cn}", "dev1", "dev2", false),
            ("${cn}", "", "", false),
            ("${cn}", "dev1", "*", false),
            ("plant-${cn}", "plant-dev1", "dev1", true),
            ("${cn}-*", "dev1-left", "dev1", true),
            ("${cn}-*", "dev2-left", "dev*", false),
        ] {
            let parsed = NamePattern::parse(pattern).unwrap();
            assert_eq!(parsed.is_for(name, common_name), is_for, "{pattern} {name} {common_name}");
        }
        for pattern in ["", "a*b*", "${ou}", "$"] {
            assert!(NamePattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
