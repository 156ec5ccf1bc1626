//! The configuration of `portcullis pki serve`, a file of its own: nothing of it is the broker's.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::admission;
use super::checked::collide;
use super::error::ConfigError;
use super::file::Value;
use super::kind::{Flag, Kind, Location, Word, Wrong, address, list_not_empty, quoted};
use super::listener::check_socket_path;
use super::logs::{AuditSettings, LogSettings, read_audit, read_log};
use super::quantity::{count, span};
use super::reading::{checked, load};
use super::revocation::read_lists;
use super::sandbox::{SandboxMode, read_sandbox};
use super::section::{Origin, Section};
use crate::est::{Factory, ListSettings, NamePattern, Offered, Settings};
use crate::gates::grinding;
use crate::identity::revocation;
use crate::pki::{CRL_VALIDITY, ProfileName};
use crate::server::listener::Tls;

/// A whole configuration of enrolment.
#[derive(Clone, Debug)]
pub struct EstConfig {
    /// How enrolment is offered.
    pub est: Settings,
    /// The lists of certificates that were taken back; `None`: only our own are known.
    pub revocation: Option<revocation::Settings>,
    /// The audit log.
    pub audit: AuditSettings,
    /// The diagnostic log.
    pub log: LogSettings,
    /// Whether the system holds the process to the files that it needs.
    pub sandbox: SandboxMode,
    /// Every key with its effective value and where it was set, in the order of the keys.
    pub origins: Vec<Origin>,
    /// What is allowed and yet risky.
    pub warnings: Vec<String>,
}

impl EstConfig {
    /// Reads the file at `path`, lays `overrides` (each `key=value`) over it, and checks the
    /// whole. Relative paths are meant from the folder of the file. No other file is opened.
    ///
    /// # Errors
    /// Everything that is wrong, with key, line and remedy.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let (mut config, is_open) =
            load(path, |name, text, folder| Self::from_text(name, text, folder, overrides))?;
        config.warnings.extend(is_open);
        Ok(config)
    }

    /// As [`EstConfig::load`], from text: `name` is for messages, `folder` for relative paths.
    ///
    /// # Errors
    /// Everything that is wrong, with key, line and remedy.
    pub fn from_text(
        name: &str,
        text: &str,
        folder: &Path,
        overrides: &[String],
    ) -> Result<Self, ConfigError> {
        let (config, told) = checked(name, text, overrides, |root| read(root, folder))?;
        // INVARIANT: what is missing was reported, and nothing with a problem comes here.
        let Some(config) = config else { return Err(ConfigError::new(Vec::new())) };
        Ok(Self { origins: told.origins, warnings: told.warnings, ..config })
    }
}

fn read(root: &mut Section<'_>, folder: &Path) -> Option<EstConfig> {
    let path = Location { folder: folder.into() };
    let revocation = read_lists(&mut root.section("revocation"), &path, None);
    // Not the broker's, where both have one folder.
    let audit = read_audit(&mut root.section("audit"), &path, "audit/pki.jsonl");
    let log = read_log(&mut root.section("log"));
    let lists = read_served(&mut root.section("lists"));
    let mut section = root.section("est");
    let sandbox = read_sandbox(&mut section);
    let est = read_est(&mut section, folder, lists)?;
    drop(section);
    if let Some(address) = est.lists.address.filter(|it| collide(*it, est.address)) {
        let message = format!("is {address}, where est.address listens already");
        root.refuse("lists.address", &message, "give each its own");
    }
    let (origins, warnings) = (Vec::new(), Vec::new());
    Some(EstConfig { est, revocation, audit, log, sandbox, origins, warnings })
}

const PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(100).unwrap();
const PER_ADDRESS: NonZeroU32 = NonZeroU32::new(30).unwrap();
const PER_NAME: NonZeroU32 = NonZeroU32::new(10).unwrap();
const MOST: NonZeroU32 = NonZeroU32::new(100_000).unwrap();

fn read_est(section: &mut Section<'_>, folder: &Path, lists: ListSettings) -> Option<Settings> {
    let path = Location { folder: folder.into() };
    let listen = section.find("address", &address());
    if !section.has("address") {
        section.refuse("address", "is missing", "write address = \"0.0.0.0:8443\"");
    }
    let tls = read_tls(&mut section.section("tls"), &path);
    let number = count(NonZeroU32::MIN, MOST);
    let broker_socket = section.find("broker_socket", &path);
    if let Some(socket) = &broker_socket {
        check_socket_path(section, "broker_socket", socket);
    }
    let profiles = read_profiles(section, folder);
    let factories = read_factories(section, folder);
    for factory in &factories {
        if !profiles.iter().any(|offered| offered.profile == factory.profile) {
            let message = format!("is {:?}, which is not given", factory.profile.as_str());
            let remedy = format!("add [est.profile.{}]", factory.profile.as_str());
            section.refuse(&format!("factory.{}.profile", factory.name), &message, &remedy);
        }
    }
    let authority = section.take("authority", &path, folder.join("ca"));
    let passphrase_file = section.find("passphrase_file", &path);
    let policies = section.take("policies", &path, folder.join("enrolment"));
    let admission = admission::read(section, &ADMISSION);
    let requests_per_second = section.take("requests_per_second", &number, PER_SECOND);
    let requests_burst = section.take("requests_burst", &number, BURST);
    let failures = grinding::Settings {
        per_address: section.take("failures_per_address", &number, PER_ADDRESS),
        per_name: section.take("failures_per_name", &number, PER_NAME),
        forgotten_after: section.take(
            "failure_forgotten_after",
            &span(Duration::from_secs(1), Duration::from_hours(1)),
            Duration::from_secs(30),
        ),
    };
    // Only now, so that every key was read, and is known.
    Some(Settings {
        address: listen?,
        tls: tls?,
        authority,
        passphrase_file,
        policies,
        profiles,
        factories,
        admission,
        requests_per_second,
        requests_burst,
        failures,
        broker_socket,
        lists,
    })
}

/// The lists of revoked certificates.
fn read_served(section: &mut Section<'_>) -> ListSettings {
    let days = |days: u64| Duration::from_hours(24 * days);
    let number = count(NonZeroU32::MIN, MOST);
    ListSettings {
        address: section.find("address", &address()),
        validity: section.take("validity", &span(Duration::from_hours(1), days(400)), CRL_VALIDITY),
        max_age: section.take(
            "max_age",
            &span(Duration::from_secs(1), days(400)),
            Duration::from_mins(5),
        ),
        admission: admission::read(section, &ADMISSION),
        requests_per_second: section.take("requests_per_second", &number, PER_SECOND),
        requests_burst: section.take("requests_burst", &number, BURST),
    }
}

const CONNECTIONS_PER_SECOND: NonZeroU32 = NonZeroU32::new(4).unwrap();
const CONNECTIONS_BURST: NonZeroU32 = NonZeroU32::new(32).unwrap();

/// Each connection is one request, so these bound requests as well.
const ADMISSION: admission::Defaults = admission::Defaults {
    deadline: "request_deadline",
    connections_max: 256,
    connections_per_address_max: 16,
    connections_per_second: CONNECTIONS_PER_SECOND,
    connections_burst: CONNECTIONS_BURST,
    handshakes_max: None,
    connections_bound: 100_000,
    rate_bound: MOST,
};

fn read_tls(tls: &mut Section<'_>, path: &Location) -> Option<Tls> {
    let mut required = |key| {
        let found = tls.find(key, path);
        if !tls.has(key) {
            tls.refuse(key, "is missing", "write the path of a PEM file");
        }
        found
    };
    let (certificate, key) = (required("certificate"), required("key"));
    let tls_1_2 = tls.take("tls_1_2", &Flag, false);
    Some(Tls { certificate: certificate?, key: key?, client_ca: None, tls_1_2 })
}

/// Names of a kind.
struct Pattern;

impl Kind for Pattern {
    type Meant = NamePattern;

    fn parse(&self, value: &Value) -> Result<NamePattern, Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::noun(value)) };
        NamePattern::parse(text)
            .map_err(|problem| Wrong::because(format!("holds {text:?}, which {problem}")))
    }

    fn show(&self, meant: &NamePattern) -> String {
        quoted(meant.as_str())
    }

    fn expects(&self) -> String {
        "names such as \"pump-*\", with one * at most".into()
    }
}

const PROFILE: Word<ProfileName> = Word(&[
    (ProfileName::Device.as_str(), ProfileName::Device),
    (ProfileName::Server.as_str(), ProfileName::Server),
    (ProfileName::Service.as_str(), ProfileName::Service),
    (ProfileName::User.as_str(), ProfileName::User),
]);

fn pattern(text: &str) -> Vec<NamePattern> {
    NamePattern::parse(text).into_iter().collect()
}

/// The profiles that are given: `device` to everybody, where none is named.
fn read_profiles(section: &mut Section<'_>, folder: &Path) -> Vec<Offered> {
    let typed = section.named_sections("profile");
    if typed.is_empty() {
        let (profile, names) = (ProfileName::Device, pattern("*"));
        return vec![Offered { profile, file: None, names }];
    }
    let mut offered = Vec::new();
    for (name, mut typed) in typed {
        let file: Option<PathBuf> = typed.find("file", &Location { folder: folder.into() });
        let names = list_not_empty(Pattern, "name some, or leave the key out for all");
        let names = typed.take("names", &names, pattern("*"));
        if names.iter().any(NamePattern::names_common_name) {
            let remedy = "write it in [est.factory.NAME], where a certificate is shown";
            typed.refuse("names", "has ${cn}, which only a factory's certificate has", remedy);
        }
        match PROFILE.parse(&Value::Text(name.to_owned())) {
            Ok(profile) => offered.push(Offered { profile, file, names }),
            Err(wrong) => {
                let remedy = wrong.remedy.unwrap_or_else(|| format!("name {}", PROFILE.expects()));
                section.refuse(&format!("profile.{name}"), "is no profile", &remedy);
            }
        }
    }
    offered
}

fn read_factories(section: &mut Section<'_>, folder: &Path) -> Vec<Factory> {
    let mut factories = Vec::new();
    for (name, mut typed) in section.named_sections("factory") {
        let ca = typed.find("ca", &Location { folder: folder.into() });
        if !typed.has("ca") {
            typed.refuse("ca", "is missing", "write the path of its certificates, PEM");
        }
        let profile = typed.take("profile", &PROFILE, ProfileName::Device);
        let names = list_not_empty(Pattern, "name some, or leave the key out for the common name");
        let names = typed.take("names", &names, pattern(NamePattern::COMMON_NAME));
        if names.iter().any(|pattern| !pattern.names_common_name()) {
            typed.warn(
                "names",
                "lets a device of the factory have a name that its certificate does not say",
            );
        }
        factories.extend(ca.map(|ca| Factory { name: name.into(), ca, profile, names }));
    }
    factories
}
