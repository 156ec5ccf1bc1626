//! Profiles: what the certificates of authorities, brokers, devices, services and people say.
//!
//! The defaults are the files in `certs/`, built into the program; a file of the same form can
//! take the place of one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

use super::ca::short;
use super::files::{self, FileError};
use super::name::{AlternativeForm, NameRule};

/// The shortest validity: less is a slip of the keyboard.
const VALIDITY_MIN: Duration = Duration::from_mins(1);
/// The longest: twenty years.
pub(super) const VALIDITY_MAX: Duration = Duration::from_hours(20 * 365 * 24);

/// URLs of lists of revoked certificates in one certificate.
const CRL_URLS_MAX: usize = 4;
/// Bytes of such a URL.
const CRL_URL_BYTES_MAX: usize = 512;
/// What stands in such a URL for the beginning of the hash of the authority that issues: a list is
/// that of one authority, also when another has taken its place.
const ISSUER: &str = "${issuer}";

/// The profiles there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// A root.
    Ca,
    /// An issuing authority below a root.
    Issuing,
    /// A broker.
    Server,
    /// A machine.
    Device,
    /// A backend workload.
    Service,
    /// A person.
    User,
}

impl ProfileName {
    /// Those that certificates are issued with on request.
    pub const ISSUED: [Self; 4] = [Self::Device, Self::Server, Self::Service, Self::User];

    /// Whether it is one of an authority.
    #[must_use]
    pub const fn is_authority(self) -> bool {
        matches!(self, Self::Ca | Self::Issuing)
    }

    /// The name in the command line and of the file in `certs/`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Device => "device",
            Self::Service => "service",
            Self::Issuing => "issuing",
            Self::User => "user",
        }
    }

    const fn built_in(self) -> &'static str {
        match self {
            Self::Ca => include_str!("../../certs/ca.toml"),
            Self::Server => include_str!("../../certs/server.toml"),
            Self::Device => include_str!("../../certs/device.toml"),
            Self::Service => include_str!("../../certs/service.toml"),
            Self::Issuing => include_str!("../../certs/issuing.toml"),
            Self::User => include_str!("../../certs/user.toml"),
        }
    }
}

/// What a certificate says, apart from its names and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Which profile it is.
    pub name: ProfileName,
    /// From the moment of issue to the end.
    pub validity: Duration,
    /// What the subject's name may be.
    pub name_rule: NameRule,
    pub(super) key_usages: Vec<KeyUsagePurpose>,
    pub(super) extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
    pub(super) alternative_names: Vec<AlternativeForm>,
    pub(super) crl_urls: Vec<String>,
}

/// Why a profile is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Its file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not TOML, lacks a key or has one too many.
    #[error("{}: {source}", path.display())]
    NotAProfile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// Only an authority may sign certificates, and it may do nothing else.
    #[error("{}: the usages `key-cert-sign` and `crl-sign` are for the profiles `ca` and `issuing`, and the only ones of them", path.display())]
    AuthorityUsages {
        /// The file.
        path: PathBuf,
    },
    /// A client's or broker's name becomes an identity and a file name, so not any text will do.
    #[error("{}: the name rule `text` is for the profiles `ca` and `issuing` only", path.display())]
    FreeText {
        /// The file.
        path: PathBuf,
    },
    /// A list of revoked certificates would be nowhere.
    #[error("{}: `crl_urls` are {CRL_URLS_MAX} URLs at most, http:// or https:// and {CRL_URL_BYTES_MAX} bytes each at most, with no placeholder but {ISSUER}", path.display())]
    CrlUrls {
        /// The file.
        path: PathBuf,
    },
    /// The validity is too short or too long.
    #[error("{}: the validity has to be between a minute and 20 years", path.display())]
    Validity {
        /// The file.
        path: PathBuf,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "duration")]
    validity: Duration,
    key_usages: Vec<KeyUsage>,
    extended_key_usages: Vec<ExtendedKeyUsage>,
    name_rule: NameRule,
    alternative_names: Vec<AlternativeForm>,
    /// Where lists of revoked certificates are; only a profile of one's own has them.
    #[serde(default)]
    crl_urls: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyUsage {
    DigitalSignature,
    KeyEncipherment,
    KeyAgreement,
    KeyCertSign,
    CrlSign,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ExtendedKeyUsage {
    ServerAuth,
    ClientAuth,
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

impl Profile {
    /// The profile as built in.
    ///
    /// # Errors
    /// Never, as a test shows for each of them.
    pub fn built_in(name: ProfileName) -> Result<Self, ProfileError> {
        let path = Path::new("certs").join(name.as_str()).with_extension("toml");
        Self::parse(name, name.built_in(), &path)
    }

    /// The profile from a file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a profile of this name.
    pub fn from_file(name: ProfileName, path: &Path) -> Result<Self, ProfileError> {
        let bytes = files::read(path)?;
        Self::parse(name, &String::from_utf8_lossy(&bytes), path)
    }

    /// Where the list of the authority with this hash is.
    pub(super) fn crl_urls_of(&self, issuer: &str) -> Vec<String> {
        self.crl_urls.iter().map(|url| url.replace(ISSUER, short(issuer))).collect()
    }

    fn parse(name: ProfileName, text: &str, path: &Path) -> Result<Self, ProfileError> {
        let path_owned = || path.to_owned();
        let file: File = toml::from_str(text).map_err(|source| ProfileError::NotAProfile {
            path: path_owned(),
            source: Box::new(source),
        })?;
        let usages_fit = file.key_usages.iter().all(|usage| {
            let is_authoritys = matches!(usage, KeyUsage::KeyCertSign | KeyUsage::CrlSign);
            is_authoritys == name.is_authority()
        });
        if !usages_fit || file.key_usages.is_empty() {
            return Err(ProfileError::AuthorityUsages { path: path_owned() });
        }
        if file.name_rule == NameRule::Text && !name.is_authority() {
            return Err(ProfileError::FreeText { path: path_owned() });
        }
        if !(VALIDITY_MIN..=VALIDITY_MAX).contains(&file.validity) {
            return Err(ProfileError::Validity { path: path_owned() });
        }
        let is_url = |url: &String| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| !rest.is_empty())
                && url.len() <= CRL_URL_BYTES_MAX
                && !url.replace(ISSUER, "").contains("${")
                && url.chars().all(|c| c.is_ascii_graphic())
        };
        if file.crl_urls.len() > CRL_URLS_MAX || !file.crl_urls.iter().all(is_url) {
            return Err(ProfileError::CrlUrls { path: path_owned() });
        }
        Ok(Self {
            name,
            validity: file.validity,
            name_rule: file.name_rule,
            key_usages: file.key_usages.into_iter().map(KeyUsagePurpose::from).collect(),
            extended_key_usages: file
                .extended_key_usages
                .into_iter()
                .map(ExtendedKeyUsagePurpose::from)
                .collect(),
            alternative_names: file.alternative_names,
            crl_urls: file.crl_urls,
        })
    }
}

impl From<KeyUsage> for KeyUsagePurpose {
    fn from(usage: KeyUsage) -> Self {
        match usage {
            KeyUsage::DigitalSignature => Self::DigitalSignature,
            KeyUsage::KeyEncipherment => Self::KeyEncipherment,
            KeyUsage::KeyAgreement => Self::KeyAgreement,
            KeyUsage::KeyCertSign => Self::KeyCertSign,
            KeyUsage::CrlSign => Self::CrlSign,
        }
    }
}

impl From<ExtendedKeyUsage> for ExtendedKeyUsagePurpose {
    fn from(usage: ExtendedKeyUsage) -> Self {
        match usage {
            ExtendedKeyUsage::ServerAuth => Self::ServerAuth,
            ExtendedKeyUsage::ClientAuth => Self::ClientAuth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_usable() {
        for name in [ProfileName::Ca, ProfileName::Issuing].into_iter().chain(ProfileName::ISSUED) {
            Profile::built_in(name).unwrap();
        }
    }

    #[test]
    fn a_client_is_no_server_and_a_server_no_client() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        for (name, usages) in [
            (ProfileName::Ca, vec![]),
            (ProfileName::Server, vec![ServerAuth]),
            (ProfileName::Device, vec![ClientAuth]),
            (ProfileName::Issuing, vec![]),
            (ProfileName::Service, vec![ClientAuth]),
            (ProfileName::User, vec![ClientAuth]),
        ] {
            assert_eq!(Profile::built_in(name).unwrap().extended_key_usages, usages);
        }
    }

    #[test]
    fn a_profile_that_says_too_much_or_too_little_is_refused() {
        let device = ProfileName::Device.built_in();
        for (from, to) in [
            ("validity = \"365d\"", ""),
            ("validity = \"365d\"", "validity = \"365\""),
            ("validity = \"365d\"", "validity = \"1s\""),
            ("validity = \"365d\"", "validity = \"21years\""),
            ("validity = \"365d\"", "validity = \"365d\"\nvalid = true"),
            ("[\"digital-signature\"]", "[\"digital-signature\", \"key-cert-sign\"]"),
            ("[\"digital-signature\"]", "[]"),
            ("\"client-auth\"", "\"any\""),
            ("name_rule = \"client\"", "name_rule = \"text\""),
        ] {
            assert!(device.contains(from), "{from}");
            let text = device.replace(from, to);
            let outcome = Profile::parse(ProfileName::Device, &text, Path::new("device.toml"));
            assert!(outcome.is_err(), "{to}");
        }
    }
}
