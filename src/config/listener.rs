//! Listeners: `[listener.NAME]`, and what may not be combined in one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::kind::{
    Flag, Kind, Location, Text, Word, address, list, list_not_empty, network, origin,
};
use super::rule;
use super::section::Section;
use super::{admission, authentication, profile};
use crate::gates::{self, Profile};
use crate::identity::{self, Binding, PrincipalKind, Source};
use crate::server::listener::{Endpoint, Settings, Tls, WebSocket};
use crate::suggest::nearest;

const SOURCE: Word<Source> = Word(&[
    ("certificate-cn", Source::CertificateCn),
    ("certificate-san-dns", Source::CertificateSanDns),
    ("certificate-san-uri", Source::CertificateSanUri),
    ("anonymous", Source::Anonymous),
    ("authentication", Source::Authentication),
    ("rules", Source::Rules),
    ("proxy", Source::Proxy),
]);
const PRINCIPAL: Word<PrincipalKind> = Word(&[
    ("device", PrincipalKind::Device),
    ("user", PrincipalKind::User),
    ("service", PrincipalKind::Service),
    ("anonymous", PrincipalKind::Anonymous),
]);

/// Whether a TLS listener demands certificates of its clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientCertificates {
    Required,
    None,
}

const CLIENT_CERTIFICATES: Word<ClientCertificates> =
    Word(&[("required", ClientCertificates::Required), ("none", ClientCertificates::None)]);

/// A binding without its separator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientIdRule {
    Exact,
    Prefix,
    Unbound,
}

pub(super) const CLIENT_ID: Word<ClientIdRule> = Word(&[
    ("exact", ClientIdRule::Exact),
    ("prefix", ClientIdRule::Prefix),
    ("unbound", ClientIdRule::Unbound),
]);

/// The profiles there are, by name.
pub(super) type Profiles = BTreeMap<String, Arc<Profile>>;

/// Reads one listener. `None` when it lacks what has no default; that is then reported.
pub(super) fn read(
    name: &str,
    section: &mut Section<'_>,
    folder: &Path,
    profiles: &Profiles,
) -> Option<Settings> {
    let endpoint = read_endpoint(section, folder);
    let tls = read_tls(section, folder);
    let websocket = read_websocket(section);
    let proxy_protocol = read_proxy_protocol(section, endpoint.as_ref());
    let authentication = authentication::read_list(section);
    let mut rule_profiles = BTreeMap::new();
    let identity = read_identity(section, profiles, &mut rule_profiles);
    let admission = read_admission(section);
    let profile = read_profile(section, profiles)?;
    let settings = Settings {
        name: name.into(),
        endpoint: endpoint?,
        tls: tls.ok()?,
        websocket,
        proxy_protocol,
        identity: identity?,
        authentication,
        admission,
        profile,
        rule_profiles,
    };
    check_identity(section, &settings);
    authentication::check_list(section, &settings);
    warn(section, &settings);
    Some(settings)
}

fn read_endpoint(section: &mut Section<'_>, folder: &Path) -> Option<Endpoint> {
    let tcp = section.find("address", &address());
    let unix = section.find("unix", &Location { folder: folder.into() });
    match (tcp, unix) {
        (Some(_), Some(_)) => {
            section.refuse("unix", "stands beside address", "keep one of the two");
            None
        }
        (Some(tcp), None) => Some(Endpoint::Tcp(tcp)),
        (None, Some(unix)) => {
            check_socket_path(section, "unix", &unix);
            Some(Endpoint::Unix(unix))
        }
        (None, None) => {
            if !section.has("address") && !section.has("unix") {
                let remedy = "write address = \"0.0.0.0:8883\", or unix = \"path\"";
                section.refuse("address", "is missing", remedy);
            }
            None
        }
    }
}

/// The kernel bounds the path of a Unix socket (unix(7)), in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Refuses a path that no Unix socket can have.
pub(super) fn check_socket_path(section: &Section<'_>, key: &str, path: &Path) {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message = format!("is longer than {SOCKET_PATH_BYTES_MAX} bytes with its folder");
        section.refuse(key, &message, "choose a shorter path");
    }
}

/// TLS, or `None` for plaintext that was asked for by name; `Err` when that is not clear.
fn read_tls(section: &mut Section<'_>, folder: &Path) -> Result<Option<Tls>, ()> {
    let plaintext = section.take("plaintext", &Flag, false);
    let Some(mut tls) = section.find_section("tls") else {
        if plaintext {
            return Ok(None);
        }
        let remedy = format!("add [{}], or ask for plaintext = true by name", section.key("tls"));
        section.refuse("tls", "is missing", &remedy);
        return Err(());
    };
    if plaintext {
        section.refuse("plaintext", "is true beside tls", "keep one of the two");
    }
    let path = Location { folder: folder.into() };
    let mut required = |key| {
        let found = tls.find(key, &path);
        if !tls.has(key) {
            tls.refuse(key, "is missing", "write the path of a PEM file");
        }
        found
    };
    let certificate = required("certificate");
    let key = required("key");
    let client_ca = tls.find("client_ca", &path);
    let demanded =
        tls.take("client_certificates", &CLIENT_CERTIFICATES, ClientCertificates::Required);
    let tls_1_2 = tls.take("tls_1_2", &Flag, false);
    match demanded {
        ClientCertificates::Required if !tls.has("client_ca") => tls.refuse(
            "client_ca",
            "is missing",
            "write the path of the CA's PEM file, or client_certificates = \"none\"",
        ),
        ClientCertificates::None if tls.has("client_ca") => {
            tls.refuse(
                "client_certificates",
                "is \"none\" beside client_ca",
                "keep one of the two",
            );
        }
        ClientCertificates::Required | ClientCertificates::None => {}
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(Tls { certificate, key, client_ca, tls_1_2 })),
        _ => Err(()),
    }
}

fn read_websocket(section: &mut Section<'_>) -> Option<WebSocket> {
    let mut websocket = section.find_section("websocket")?;
    let path = Text { bytes_max: 256, expects: "a path such as \"/mqtt\"" };
    let path = websocket.take("path", &path, "/mqtt".into());
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%');
    if !path.starts_with('/') || !path.bytes().all(is_plain) {
        websocket.refuse(
            "path",
            "is no path of a URL",
            "begin it with \"/\", without query, escapes or spaces",
        );
    }
    Some(WebSocket { path, origins: websocket.take("origins", &list(origin()), Vec::new()) })
}

fn read_proxy_protocol(
    section: &mut Section<'_>,
    endpoint: Option<&Endpoint>,
) -> Option<Vec<IpNet>> {
    let mut proxy = section.find_section("proxy_protocol")?;
    let networks = list_not_empty(network(), "name the proxies: without one nobody can connect");
    let trusted = proxy.find("trusted", &networks);
    if !proxy.has("trusted") {
        proxy.refuse("trusted", "is missing", "write the networks of the proxies");
    }
    if matches!(endpoint, Some(Endpoint::Unix(_))) {
        section.refuse(
            "proxy_protocol",
            "stands beside unix, where a proxy has no address to be trusted by",
            "listen on a loopback address",
        );
    }
    let trusted = trusted?;
    if trusted.iter().any(|network| network.prefix_len() == 0) {
        section.refuse(
            "proxy_protocol.trusted",
            "holds every address, so that any client could claim to be another",
            "name the networks of the proxies only",
        );
    }
    Some(trusted)
}

fn read_identity(
    section: &mut Section<'_>,
    profiles: &Profiles,
    rule_profiles: &mut BTreeMap<Arc<str>, Arc<Profile>>,
) -> Option<identity::Settings> {
    let source = section.take("identity", &SOURCE, authentication::default_source(section));
    let anonymous = source == Source::Anonymous;
    let (kind, rule) = match source {
        Source::Anonymous => (PrincipalKind::Anonymous, ClientIdRule::Unbound),
        Source::Authentication => (PrincipalKind::User, ClientIdRule::Exact),
        _ => (PrincipalKind::Device, ClientIdRule::Exact),
    };
    let kind = section.take("principal", &PRINCIPAL, kind);
    if anonymous != (kind == PrincipalKind::Anonymous) {
        let identity = SOURCE.show(&source);
        section.refuse(
            "principal",
            &format!("is {} beside identity = {identity}", PRINCIPAL.show(&kind)),
            "anonymous clients are of type \"anonymous\", and nobody else is",
        );
    }
    let rule_of_ids = section.take("client_id", &CLIENT_ID, rule);
    if anonymous && rule_of_ids != ClientIdRule::Unbound {
        section.refuse(
            "client_id",
            "binds client ids to an identity that all clients share",
            "write \"unbound\" beside identity = \"anonymous\"",
        );
    }
    let binding = read_binding(section, rule_of_ids)?;
    let rules = rule::read(section, profiles, rule_profiles);
    if source == Source::Rules {
        for key in ["principal", "client_id", "client_id_separator"] {
            if section.has(key) {
                let remedy = "write it into the rules";
                section.refuse(key, "has no effect beside identity = \"rules\"", remedy);
            }
        }
        if rules.is_empty() && !section.has("rule") {
            let remedy = "add [listener.NAME.rule.RULE]: nobody could connect";
            section.refuse("rule", "is missing beside identity = \"rules\"", remedy);
        }
    } else if section.has("rule") {
        let remedy = "write identity = \"rules\", or remove it";
        section.refuse("rule", "has no effect here", remedy);
    }
    Some(identity::Settings { source, kind, binding, rules })
}

pub(super) fn read_binding(section: &mut Section<'_>, rule: ClientIdRule) -> Option<Binding> {
    let separator = Text { bytes_max: 8, expects: "one to eight characters such as \":\"" };
    let separator = section.find("client_id_separator", &separator);
    if rule != ClientIdRule::Prefix {
        if section.has("client_id_separator") {
            let remedy = "write client_id = \"prefix\", or remove the separator";
            section.refuse("client_id_separator", "has no effect here", remedy);
        }
        return Some(match rule {
            ClientIdRule::Unbound => Binding::Unbound,
            ClientIdRule::Exact | ClientIdRule::Prefix => Binding::Exact,
        });
    }
    if !section.has("client_id_separator") {
        section.refuse(
            "client_id_separator",
            "is missing beside client_id = \"prefix\"",
            "write what stands between identity and suffix, and in no identity, such as \":\"",
        );
    }
    separator.map(Binding::Prefix)
}

/// Governor counts intervals in whole nanoseconds.
const CONNECTION_RATE_MAX: NonZeroU32 = NonZeroU32::new(1_000_000_000).unwrap();
const CONNECTIONS_PER_SECOND: NonZeroU32 = NonZeroU32::new(16).unwrap();
const CONNECTIONS_BURST: NonZeroU32 = NonZeroU32::new(64).unwrap();

const ADMISSION: admission::Defaults = admission::Defaults {
    deadline: "connect_deadline",
    connections_max: 10_000,
    connections_per_address_max: 64,
    connections_per_second: CONNECTIONS_PER_SECOND,
    connections_burst: CONNECTIONS_BURST,
    handshakes_max: Some(256),
    connections_bound: 10_000_000,
    rate_bound: CONNECTION_RATE_MAX,
};

fn read_admission(section: &mut Section<'_>) -> gates::admission::Settings {
    let settings = admission::read(section, &ADMISSION);
    if section.has("unix") && !section.has("address") {
        for key in ["allow", "deny"] {
            if section.has(key) {
                section.refuse(
                    key,
                    "stands beside unix, where clients have no address",
                    "remove it",
                );
            }
        }
    }
    settings
}

fn read_profile(section: &mut Section<'_>, profiles: &Profiles) -> Option<Arc<Profile>> {
    let text = Text { bytes_max: 64, expects: "the NAME of a [profile.NAME]" };
    let name = section.take("profile", &text, profile::DEFAULT.to_owned());
    named_profile(section, &name, profiles)
}

/// The profile that the key `profile` names.
pub(super) fn named_profile(
    section: &mut Section<'_>,
    name: &str,
    profiles: &Profiles,
) -> Option<Arc<Profile>> {
    let profile = profiles.get(name);
    if profile.is_none() {
        let remedy = nearest(name, profiles.keys().map(String::as_str)).map_or_else(
            || format!("add [profile.{name}]"),
            |known| format!("did you mean \"{known}\"?"),
        );
        section.refuse("profile", &format!("is {name:?}, which is not defined"), &remedy);
    }
    profile.cloned()
}

/// An identity has to come from somewhere that proves it.
fn check_identity(section: &Section<'_>, settings: &Settings) {
    let certificates = settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let identity = SOURCE.show(&settings.identity.source);
    match settings.identity.source {
        Source::CertificateCn
        | Source::CertificateSanDns
        | Source::CertificateSanUri
        | Source::Rules => {
            let demanded = section.has("tls") && !section.has("tls.client_certificates");
            if !certificates && !demanded {
                section.refuse(
                    "identity",
                    &format!("is {identity}, but clients show no certificates"),
                    "set tls.client_ca, or ask for identity = \"anonymous\" by name",
                );
            }
        }
        Source::Anonymous => {
            if certificates {
                section.refuse(
                    "identity",
                    "is \"anonymous\" beside tls.client_ca: certificates would be shown in vain",
                    "take the identity from them, or write tls.client_certificates = \"none\"",
                );
            }
        }
        // See `authentication::check_list`.
        Source::Authentication => {}
        Source::Proxy => {
            if settings.proxy_protocol.is_none() {
                section.refuse(
                    "identity",
                    "is \"proxy\" without proxy_protocol",
                    "write proxy_protocol = { trusted = [\"…\"] }",
                );
            }
            if certificates {
                section.refuse(
                    "identity",
                    "is \"proxy\" beside tls.client_ca: two sources of one identity",
                    "write tls.client_certificates = \"none\", or take it from certificates",
                );
            }
        }
    }
}

/// What is allowed, because it was asked for by name, and yet deserves a word.
fn warn(section: &Section<'_>, settings: &Settings) {
    let exposed = !settings.endpoint.is_local();
    if exposed && settings.tls.is_none() {
        section.warn("plaintext", "lets anyone on the way read and change what clients send");
    }
    match settings.identity.source {
        Source::Anonymous if exposed => {
            section.warn("identity", "is \"anonymous\" on an address others can reach");
        }
        Source::Proxy => {
            section.warn("identity", "is \"proxy\": who the proxy is, decides who everyone is");
        }
        _ => {}
    }
    if settings.identity.is_unbound() && settings.identity.source != Source::Anonymous {
        section.warn("client_id", "is \"unbound\": clients may choose each other's client ids");
    }
    if let Some(websocket) = &settings.websocket
        && websocket.origins.iter().any(|origin| origin.starts_with("http://"))
    {
        section.warn("websocket.origins", "allows a page that was loaded without TLS");
    }
    if exposed
        && let Some(websocket) = &settings.websocket
        && websocket.origins.iter().any(|origin| origin == "*")
    {
        section.warn("websocket.origins", "allows every page on the web to connect");
    }
}

/// True for addresses that only this machine can reach.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
