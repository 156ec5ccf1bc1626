//! The configuration as meant: settings of every module, checked one by one and together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::ConfigError;
use super::kind::{Flag, Location, Word, address, list};
use super::logs::{AuditSettings, LogSettings, read_audit, read_log};
use super::quantity::{bytes, count, show_bytes, span};
use super::reading::{checked, load};
use super::revocation::{read_ocsp, read_revocation};
use super::sandbox::{SandboxMode, read_sandbox};
use super::section::{Origin, Section};
use super::{authentication, listener, profile, registered};
use crate::admin::control;
use crate::gates::{Profile, flapping};
use crate::identity::revocation::{self};
use crate::registry;
use crate::server::listener::{Endpoint, Settings as Listener};
use crate::server::{login, ocsp};
use crate::store::{self, Durability};

/// A whole configuration that contradicts neither itself nor the rules of safety.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listeners, at least one, by name.
    pub listeners: Vec<Listener>,
    /// The methods of authentication that listeners name.
    pub methods: Vec<login::Settings>,
    /// What they share.
    pub login: login::Limits,
    /// The folder of the policies.
    pub policies: PathBuf,
    /// What happens when it changes.
    pub watch_policies: WatchPolicies,
    /// The lists of certificates that were taken back; `None`: nobody looks.
    pub revocation: Option<revocation::Settings>,
    /// OCSP responders that are asked.
    pub ocsp: Option<ocsp::Settings>,
    /// How devices become known.
    pub devices: registry::Settings,
    /// The profile of those that wait to be approved; `None`: they are refused.
    pub quarantine: Option<Arc<Profile>>,
    /// How often somebody may come and go; `None`: as often as it likes.
    pub flapping: Option<flapping::Settings>,
    /// The audit log.
    pub audit: AuditSettings,
    /// The durable state; `None`: everything is in memory, and gone with the process.
    pub store: Option<store::Settings>,
    /// The listener of `/metrics`, `/healthz` and `/readyz`.
    pub metrics: Option<SocketAddr>,
    /// The socket of `portcullis ctl`.
    pub control: Option<control::Settings>,
    /// Limits of the broker as a whole.
    pub broker: BrokerSettings,
    /// The diagnostic log.
    pub log: LogSettings,
    /// Every key with its effective value and where it was set, in the order of the keys.
    pub origins: Vec<Origin>,
    /// What is allowed and yet risky.
    pub warnings: Vec<String>,
}

/// Limits of the broker as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Bytes waiting in all mailboxes together.
    pub queued_bytes_max: u64,
    /// Retained messages.
    pub retained_messages_max: u32,
    /// Bytes of retained messages: topics, payloads and properties.
    pub retained_bytes_max: u64,
    /// Sessions, with and without connection.
    pub sessions_max: u32,
    /// How long clients are given to leave on shutdown; zero does not wait.
    pub drain: Duration,
    /// Bytes held for all connections that have not been answered with CONNACK yet.
    pub unauthenticated_bytes_max: u64,
    /// Whether the system holds the broker to the files that it needs.
    pub sandbox: SandboxMode,
}

/// What happens when the policy folder changes while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchPolicies {
    /// Nothing; nobody looks.
    Off,
    /// The diagnostic log says so.
    Tell,
    /// It is loaded, if it was replaced as a whole; otherwise the diagnostic log says so.
    Reload,
}

const WATCH_POLICIES: Word<WatchPolicies> = Word(&[
    ("off", WatchPolicies::Off),
    ("tell", WatchPolicies::Tell),
    ("reload", WatchPolicies::Reload),
]);

/// What an acknowledgement promises.
pub(super) const DURABILITY: Word<Option<Durability>> =
    Word(&[("fsync", Some(Durability::Fsync)), ("os", Some(Durability::Os)), ("memory", None)]);

/// The highest sum of bytes that can be configured: far beyond any machine, far below overflow.
const BYTES_MAX: u64 = 1 << 44;

impl Config {
    /// Reads the file at `path`, lays `overrides` (each `key=value`) over it, and checks the
    /// whole. Relative paths are meant from the folder of the file. No other file is opened.
    ///
    /// # Errors
    /// Everything that is wrong, with key, line and remedy; the file counts as wrong when it
    /// cannot be read, is larger than 1 MiB or is not UTF-8.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let (mut config, is_open) =
            load(path, |name, text, folder| Self::from_text(name, text, folder, overrides))?;
        config.warnings.extend(is_open);
        Ok(config)
    }

    /// As [`Config::load`], from text: `name` is for messages, `folder` for relative paths.
    ///
    /// # Errors
    /// Everything that is wrong, with key, line and remedy.
    pub fn from_text(
        name: &str,
        text: &str,
        folder: &Path,
        overrides: &[String],
    ) -> Result<Self, ConfigError> {
        let (mut config, told) = checked(name, text, overrides, |root| read(root, folder))?;
        config.origins = told.origins;
        config.warnings = told.warnings;
        Ok(config)
    }
}

fn read(root: &mut Section<'_>, folder: &Path) -> Config {
    let path = Location { folder: folder.into() };
    let profiles = read_profiles(root);
    let (devices, quarantine) = registered::read_devices(&mut root.section("devices"), &profiles);
    let listeners = read_listeners(root, folder, &profiles, quarantine.as_ref());
    let methods = authentication::read_methods(root, folder);
    for method in &methods {
        if !listeners.iter().any(|listener| listener.authentication.contains(&method.name)) {
            root.warn(&format!("authentication.{}", method.name), "is used by no listener");
        }
    }
    for listener in &listeners {
        authentication::check_names(root, listener, &methods);
    }
    let config = Config {
        policies: root.take("policies", &path, folder.join("policies")),
        methods,
        login: authentication::read_limits(&mut root.section("login")),
        watch_policies: root.take("watch_policies", &WATCH_POLICIES, WatchPolicies::Tell),
        revocation: read_revocation(&mut root.section("revocation"), &path),
        ocsp: read_ocsp(&mut root.section("ocsp"), &listeners),
        devices,
        quarantine,
        flapping: registered::read_flapping(&mut root.section("flapping")),
        audit: read_audit(&mut root.section("audit"), &path, "audit/audit.jsonl"),
        store: read_store(&mut root.section("store"), &path),
        metrics: read_metrics(&mut root.section("metrics")),
        control: read_control(&mut root.section("control"), &path),
        broker: read_broker(&mut root.section("broker")),
        log: read_log(&mut root.section("log")),
        origins: Vec::new(),
        warnings: Vec::new(),
        listeners,
    };
    if config.store.is_none() && config.devices != registry::Settings::default() {
        root.warn("devices", "is kept in memory: states and bans are gone with the process");
    }
    check_sums(root, &config.broker, &profiles);
    warn_of_shares(root, &config.broker, &profiles);
    check_endpoints(root, &config);
    config
}

/// All profiles: `default` first, since the others inherit what they leave unset from it.
fn read_profiles(root: &mut Section<'_>) -> BTreeMap<String, Arc<Profile>> {
    let mut typed = root.named_sections("profile");
    let base = match typed.iter().position(|(name, _)| *name == profile::DEFAULT) {
        Some(at) => profile::read(profile::DEFAULT, &mut typed.remove(at).1, &profile::built_in()),
        None => profile::read(
            profile::DEFAULT,
            &mut root.absent("profile.default"),
            &profile::built_in(),
        ),
    };
    let mut profiles = BTreeMap::new();
    for (name, mut section) in typed {
        section.inherit_from("profile.default");
        profiles.insert(name.to_owned(), profile::read(name, &mut section, &base));
    }
    profiles.insert(profile::DEFAULT.to_owned(), base);
    profiles
}

fn read_listeners(
    root: &mut Section<'_>,
    folder: &Path,
    profiles: &BTreeMap<String, Arc<Profile>>,
    quarantine: Option<&Arc<Profile>>,
) -> Vec<Listener> {
    let mut sections = root.named_sections("listener");
    if sections.is_empty() {
        let remedy = "add [listener.NAME] with its address and tls";
        root.refuse("listener", "is missing: nobody could connect", remedy);
    }
    let read =
        |(name, section): &mut (&str, Section<'_>)| listener::read(name, section, folder, profiles);
    let listeners: Vec<Listener> = sections.iter_mut().filter_map(read).collect();
    for name in profiles.keys().filter(|name| *name != profile::DEFAULT) {
        let by_rules = listeners.iter().flat_map(|listener| listener.rule_profiles.values());
        let used = listeners.iter().map(|listener| &listener.profile).chain(quarantine);
        let mut used = used.chain(by_rules);
        if !used.any(|profile| *profile.name == **name) {
            root.warn(&format!("profile.{name}"), "is used by no listener");
        }
    }
    listeners
}

fn read_store(section: &mut Section<'_>, path: &Location) -> Option<store::Settings> {
    let folder = section.take("folder", path, path.folder.join("store"));
    let durability = section.take("durability", &DURABILITY, Some(Durability::Fsync));
    match durability {
        Some(Durability::Fsync) => {}
        Some(Durability::Os) => section
            .warn("durability", "is \"os\": what was acknowledged just before a power cut is lost"),
        None => section.warn(
            "durability",
            "is \"memory\": sessions, queues, retained messages, bans and the states of devices are gone with the process",
        ),
    }
    let free_bytes_min = section.find("free_bytes_min", &bytes(1024 * 1024, 1 << 60));
    let accept_loss = false;
    durability.map(|durability| store::Settings { folder, durability, accept_loss, free_bytes_min })
}

fn read_metrics(section: &mut Section<'_>) -> Option<SocketAddr> {
    let found = section.find("address", &address());
    let beyond_loopback = section.take("beyond_loopback", &Flag, false);
    let address = found?;
    if !listener::is_loopback(address) {
        if beyond_loopback {
            section.warn("address", "can be read by others: it has neither TLS nor login");
        } else {
            section.refuse(
                "address",
                &format!("is {address}, which others can reach, without TLS or login"),
                "write a loopback address, or ask for it by beyond_loopback = true",
            );
        }
    }
    Some(address)
}

/// Whom the kernel does not know the name of: whoever is not in the broker's user namespace.
const NOBODY: u32 = 65534;

fn read_control(section: &mut Section<'_>, path: &Location) -> Option<control::Settings> {
    let socket = section.find("socket", path);
    let mut read = |key| {
        let uids = section.take(key, &list(count(0, u32::MAX - 1)), Vec::new());
        if section.has(key) && !section.has("socket") {
            section.refuse(key, "has no effect without socket", "set socket, or remove it");
        }
        if uids.contains(&NOBODY) {
            let message =
                format!("has {NOBODY}, which stands for everybody whom the kernel cannot name");
            section.refuse(key, &message, "give the caller a user of its own");
        }
        uids
    };
    let (uids, authority_uids) = (read("uids"), read("authority_uids"));
    let path = socket?;
    listener::check_socket_path(section, "socket", &path);
    Some(control::Settings { path, uids, authority_uids })
}

fn read_broker(section: &mut Section<'_>) -> BrokerSettings {
    let octets = bytes(1 << 10, BYTES_MAX);
    let several = count(1, 100_000_000);
    BrokerSettings {
        queued_bytes_max: section.take("queued_bytes_max", &octets, 256 << 20),
        retained_messages_max: section.take("retained_messages_max", &several, 100_000),
        retained_bytes_max: section.take("retained_bytes_max", &octets, 64 << 20),
        sessions_max: section.take("sessions_max", &several, 100_000),
        drain: section.take(
            "drain",
            &span(Duration::ZERO, Duration::from_hours(1)),
            Duration::from_secs(10),
        ),
        unauthenticated_bytes_max: section.take("unauthenticated_bytes_max", &octets, 64 << 20),
        sandbox: read_sandbox(section),
    }
}

/// What one client may fill has to fit into what all may. A contradiction that a profile wholly
/// inherited is reported at `default` only.
fn check_sums(
    root: &Section<'_>,
    broker: &BrokerSettings,
    profiles: &BTreeMap<String, Arc<Profile>>,
) {
    for (name, profile) in profiles {
        let packet = u64::from(profile.size.packet_bytes_max);
        let mailbox = profile.mailbox.bytes_max;
        for (all_key, all, one_key, one) in [
            ("queued_bytes_max", broker.queued_bytes_max, "mailbox.bytes_max", mailbox),
            ("retained_bytes_max", broker.retained_bytes_max, "size.packet_bytes_max", packet),
            (
                "unauthenticated_bytes_max",
                broker.unauthenticated_bytes_max,
                "size.packet_bytes_max",
                packet,
            ),
        ] {
            let all_key = format!("broker.{all_key}");
            let one_key = format!("profile.{name}.{one_key}");
            if all >= one || (name != profile::DEFAULT && !root.has(&one_key)) {
                continue;
            }
            let (all, one) = (show_bytes(all), show_bytes(one));
            if root.has(&all_key) {
                let remedy = format!("set it to at least \"{one}\", or lower {one_key}");
                root.refuse(&all_key, &format!("is {all}, but {one_key} {one}"), &remedy);
            } else {
                let remedy = format!("lower it to \"{all}\", or raise {all_key}");
                root.refuse(&one_key, &format!("is {one}, but {all_key} {all}"), &remedy);
            }
        }
    }
}

/// What one principal may fill is meant to be a part of what all may.
fn warn_of_shares(
    root: &Section<'_>,
    broker: &BrokerSettings,
    profiles: &BTreeMap<String, Arc<Profile>>,
) {
    for (name, profile) in profiles {
        let retains = profile.features.retain;
        let retained = &profile.retained;
        for (counts, one_key, one, all_key, all) in [
            (
                true,
                "session.sessions_max",
                profile.sessions_max.into(),
                "sessions_max",
                broker.sessions_max.into(),
            ),
            (
                retains,
                "retained.messages_max",
                retained.messages_max.into(),
                "retained_messages_max",
                broker.retained_messages_max.into(),
            ),
            (
                retains,
                "retained.bytes_max",
                retained.bytes_max,
                "retained_bytes_max",
                broker.retained_bytes_max,
            ),
        ] {
            if counts && one >= all {
                let message = format!(
                    "is not less than broker.{all_key}: one principal can use up what is for all"
                );
                root.warn(&format!("profile.{name}.{one_key}"), &message);
            }
        }
    }
}

/// No two sockets in one place.
fn check_endpoints(root: &Section<'_>, config: &Config) {
    let mut taken: Vec<(String, Endpoint)> = Vec::new();
    let listeners = config.listeners.iter().map(|listener| {
        (
            format!("listener.{}.{}", listener.name, listener.endpoint.key()),
            listener.endpoint.clone(),
        )
    });
    let metrics = config.metrics.map(|address| ("metrics.address".into(), Endpoint::Tcp(address)));
    let control_socket = config.control.as_ref();
    let control_socket = control_socket
        .map(|control| ("control.socket".into(), Endpoint::Unix(control.path.clone())));
    for (key, endpoint) in listeners.chain(metrics).chain(control_socket) {
        match taken.iter().find(|(_, other)| collide_endpoints(&endpoint, other)) {
            Some((other, _)) => {
                let message = format!("is where {other} listens already");
                root.refuse(&key, &message, "give each its own");
            }
            None => taken.push((key, endpoint)),
        }
    }
}

/// True when two endpoints cannot be bound together.
fn collide_endpoints(left: &Endpoint, right: &Endpoint) -> bool {
    match (left, right) {
        (Endpoint::Unix(left), Endpoint::Unix(right)) => left == right,
        (Endpoint::Tcp(left), Endpoint::Tcp(right)) => collide(*left, *right),
        (Endpoint::Tcp(_), Endpoint::Unix(_)) | (Endpoint::Unix(_), Endpoint::Tcp(_)) => false,
    }
}

/// True when two addresses cannot be bound together. Port 0 stands for any free one.
pub(super) fn collide(left: SocketAddr, right: SocketAddr) -> bool {
    // A dual-stack [::] takes the port of IPv4 as well.
    let covers = |all: SocketAddr, one: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    let same_port = left.port() == right.port() && left.port() != 0;
    same_port && (left.ip() == right.ip() || covers(left, right) || covers(right, left))
}
