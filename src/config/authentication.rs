//! Methods of authentication, `[authentication.NAME]`, and the bounds of failures, `[login]`.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;

use super::kind::{Kind, Location, Text, Word, Wrong, list, list_not_empty};
use super::listener::is_loopback;
use super::quantity::{count, span};
use super::section::Section;
use crate::gates::grinding;
use crate::identity::method::{Conferred, token};
use crate::identity::{PrincipalKind, Source};
use crate::server::listener::Settings as Listener;
use crate::server::login::{How, KeysFrom, Limits, ServerSettings, Settings};
use crate::suggest::nearest;

/// What kind of method a table is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MethodKind {
    Password,
    Jwt,
    Scram,
    Http,
}

const METHOD: Word<MethodKind> = Word(&[
    ("password", MethodKind::Password),
    ("jwt", MethodKind::Jwt),
    ("scram", MethodKind::Scram),
    ("http", MethodKind::Http),
]);

/// Whoever has proven something is not anonymous.
const PRINCIPAL: Word<PrincipalKind> = Word(&[
    ("device", PrincipalKind::Device),
    ("user", PrincipalKind::User),
    ("service", PrincipalKind::Service),
]);

/// The methods that a listener may name.
const METHODS_MAX: usize = 8;

/// A URL, `https`, or `http` to a loopback address.
struct Url;

impl Kind for Url {
    type Meant = Uri;

    fn parse(&self, value: &super::file::Value) -> Result<Uri, Wrong> {
        let text = Text { bytes_max: 1024, expects: "" }.parse(value)?;
        let url: Uri = text.parse().map_err(|error| Wrong::because(format!("is {error}")))?;
        let loopback = url.host().is_some_and(|host| {
            let address = host.trim_matches(['[', ']']).parse();
            address.is_ok_and(|address| is_loopback(std::net::SocketAddr::new(address, 0)))
        });
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Wrong::because("holds a user name"));
        }
        match url.scheme_str() {
            Some("https") if url.host().is_some() => Ok(url),
            Some("http") if loopback => Ok(url),
            Some("http") => {
                Err(Wrong::because("is without TLS, and its host is no loopback address"))
            }
            _ => Err(Wrong::because("is no URL of a server")),
        }
    }

    fn show(&self, meant: &Uri) -> String {
        super::kind::quoted(&meant.to_string())
    }

    fn expects(&self) -> String {
        "a URL such as \"https://id.example.com/keys\"".into()
    }
}

/// Reads all methods.
pub(super) fn read_methods(root: &mut Section<'_>, folder: &Path) -> Vec<Settings> {
    let mut sections = root.named_sections("authentication");
    let read = |(name, section): &mut (&str, Section<'_>)| {
        let kind = section.find("principal", &PRINCIPAL);
        let how = read_method(section, folder)?;
        Some(Settings { name: (*name).into(), kind, how })
    };
    sections.iter_mut().filter_map(read).collect()
}

fn read_method(section: &mut Section<'_>, folder: &Path) -> Option<How> {
    let kind = section.find("method", &METHOD);
    if !section.has("method") {
        let remedy = "write method = \"password\", \"jwt\", \"scram\" or \"http\"";
        section.refuse("method", "is missing", remedy);
    }
    let path = Location { folder: folder.into() };
    Some(match kind? {
        MethodKind::Password => How::Password { file: read_file(section, &path)? },
        MethodKind::Scram => How::Scram { file: read_file(section, &path)? },
        MethodKind::Jwt => return read_tokens(section, &path),
        MethodKind::Http => return read_http(section, &path),
    })
}

fn read_file(section: &mut Section<'_>, path: &Location) -> Option<PathBuf> {
    let file = section.find("file", path);
    if !section.has("file") {
        let remedy = "write the path of the file that `portcullis password set` makes";
        section.refuse("file", "is missing", remedy);
    }
    file
}

const LABEL: Text = Text { bytes_max: 256, expects: "a name" };

/// What the maker of tokens or answers may confer.
fn read_conferred(section: &mut Section<'_>) -> Conferred {
    let set =
        |names: Vec<String>| -> BTreeSet<Arc<str>> { names.into_iter().map(Arc::from).collect() };
    Conferred {
        groups: set(section.take("groups", &list(LABEL), Vec::new())),
        tags: set(section.take("tags", &list(LABEL), Vec::new())),
    }
}

fn read_tokens(section: &mut Section<'_>, path: &Location) -> Option<How> {
    let issuer = Text { bytes_max: 1024, expects: "what tokens have in iss" };
    let issuer = section.find("issuer", &issuer);
    let empty = "name the audience: a token for somebody else must not be good here";
    let audience = section.find("audience", &list_not_empty(LABEL, empty));
    for (key, what) in [("issuer", "who makes the tokens"), ("audience", "whom they are for")] {
        if !section.has(key) {
            section.refuse(key, "is missing", &format!("write {what}"));
        }
    }
    let tokens = token::Settings {
        issuer: issuer.unwrap_or_default(),
        audience: audience.unwrap_or_default(),
        leeway: section.take(
            "leeway",
            &span(Duration::ZERO, Duration::from_mins(5)),
            Duration::ZERO,
        ),
        name_claim: section.take("name_claim", &LABEL, "sub".to_owned()),
        client_id_claim: section.find("client_id_claim", &LABEL),
        groups_claim: section.take("groups_claim", &LABEL, "groups".to_owned()),
        conferred: read_conferred(section),
    };
    let file = section.find("keys", path);
    let refresh = span(Duration::from_mins(1), Duration::from_hours(24));
    let url = section.has("keys_url").then(|| {
        let server = read_server(section, "keys_url", path);
        let refresh = section.take("keys_refresh", &refresh, Duration::from_mins(10));
        server.map(|server| KeysFrom::Url { server, refresh })
    });
    let keys = match (file, url) {
        (Some(_), Some(_)) => {
            section.refuse("keys_url", "stands beside keys", "keep one of the two");
            None
        }
        (Some(file), None) => Some(KeysFrom::File(file)),
        (None, Some(url)) => url,
        (None, None) => {
            if !section.has("keys") {
                let remedy = "write the path of a JSON Web Key Set, or keys_url";
                section.refuse("keys", "is missing", remedy);
            }
            None
        }
    };
    let complete = !tokens.issuer.is_empty() && !tokens.audience.is_empty();
    keys.filter(|_| complete).map(|keys| How::Token { keys, tokens })
}

fn read_http(section: &mut Section<'_>, path: &Location) -> Option<How> {
    if !section.has("url") {
        section.refuse("url", "is missing", "write where logins are asked about");
    }
    let server = read_server(section, "url", path);
    let kept = span(Duration::ZERO, Duration::from_mins(1));
    let http = How::Http {
        server: server?,
        conferred: read_conferred(section),
        kept: section.take("cache", &kept, Duration::from_secs(30)),
        requests_max: section.take("requests_max", &count(1, 10_000), 32),
    };
    Some(http)
}

fn read_server(
    section: &mut Section<'_>,
    key: &'static str,
    path: &Location,
) -> Option<ServerSettings> {
    let url = section.find(key, &Url);
    let ca = section.find("ca", path);
    let certificate = section.find("certificate", path);
    let client_key = section.find("key", path);
    let timeout = section.take(
        "timeout",
        &span(Duration::from_millis(100), Duration::from_mins(1)),
        Duration::from_secs(3),
    );
    let url = url?;
    match (url.scheme_str() == Some("https"), section.has("ca")) {
        (true, false) => {
            let remedy = "write the path of the CA of the server's certificate, PEM";
            section.refuse("ca", "is missing", remedy);
        }
        (false, true) => section.refuse("ca", "has no effect without https", "remove it"),
        _ => {}
    }
    let client = match (certificate, client_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            let remedy = "write certificate and key, or neither";
            section.refuse("certificate", "and key go together", remedy);
            None
        }
    };
    Some(ServerSettings { url, ca, client, timeout })
}

/// Reads the bounds of failures.
pub(super) fn read_limits(section: &mut Section<'_>) -> Limits {
    const PER_ADDRESS: NonZeroU32 = NonZeroU32::new(30).unwrap();
    const PER_NAME: NonZeroU32 = NonZeroU32::new(10).unwrap();
    const MOST: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
    let failures = count(NonZeroU32::MIN, MOST);
    Limits {
        failures: grinding::Settings {
            per_address: section.take("failures_per_address", &failures, PER_ADDRESS),
            per_name: section.take("failures_per_name", &failures, PER_NAME),
            forgotten_after: section.take(
                "failure_forgotten_after",
                &span(Duration::from_secs(1), Duration::from_hours(1)),
                Duration::from_secs(30),
            ),
        },
        hashes_waiting_max: section.take("hashes_waiting_max", &count(1, 10_000), 64),
    }
}

/// Reads which methods a listener has, by name.
pub(super) fn read_list(section: &mut Section<'_>) -> Vec<Arc<str>> {
    let names = list_not_empty(
        Text { bytes_max: 64, expects: "the NAME of an [authentication.NAME]" },
        "name a method, or leave the key out",
    );
    let names = section.find("authentication", &names).unwrap_or_default();
    names.into_iter().map(Arc::from).collect()
}

/// Where identities come from, unless it is said.
pub(super) fn default_source(section: &Section<'_>) -> Source {
    let alone = section.has("authentication") && !section.has("tls.client_ca");
    if alone { Source::Authentication } else { Source::CertificateCn }
}

/// Refuses lists that mean nothing, or what they do not say.
pub(super) fn check_list(section: &Section<'_>, listener: &Listener) {
    let has_list = section.has("authentication");
    match listener.identity.source {
        Source::Authentication if !has_list => section.refuse(
            "identity",
            "is \"authentication\" without a list of methods",
            "write authentication = [\"NAME\"]",
        ),
        Source::Anonymous if has_list => section.refuse(
            "identity",
            "is \"anonymous\" beside authentication: nobody would be who was proven",
            "write identity = \"authentication\", or remove the list",
        ),
        _ => {}
    }
    if has_list && listener.tls.is_none() && !listener.endpoint.is_local() {
        section.refuse(
            "authentication",
            "stands on a listener without TLS that others can reach: who listens has the secrets",
            "add tls, or listen on a loopback address",
        );
    }
}

/// Refuses names of methods that are not there, and methods that nobody would reach.
pub(super) fn check_names(root: &Section<'_>, listener: &Listener, methods: &[Settings]) {
    let key = format!("listener.{}.authentication", listener.name);
    if listener.authentication.len() > METHODS_MAX {
        root.refuse(&key, &format!("has more than {METHODS_MAX} methods"), "remove some");
    }
    let mut takes_all: Option<&Arc<str>> = None;
    let mut seen = BTreeSet::new();
    for name in &listener.authentication {
        let typed = format!("authentication.{name}");
        let Some(method) = methods.iter().find(|method| method.name == *name) else {
            if !root.has(&typed) {
                let known = methods.iter().map(|method| &*method.name);
                let remedy = nearest(name, known).map_or_else(
                    || format!("add [{typed}]"),
                    |known| format!("did you mean \"{known}\"?"),
                );
                root.refuse(&key, &format!("names {name:?}, which is not defined"), &remedy);
            }
            continue;
        };
        if !seen.insert(name) {
            root.refuse(&key, &format!("names {name:?} twice"), "name it once");
        }
        let reached = matches!(method.how, How::Scram { .. });
        if let Some(before) = takes_all.filter(|_| !reached) {
            let message = format!("names {name:?} behind {before:?}, which decides every password");
            root.refuse(&key, &message, "put it before, or remove it");
        }
        if method.how.takes_passwords() {
            takes_all = Some(name);
        }
    }
}
