//! Whether certificates are revoked: `[revocation]` for lists, `[ocsp]` for responders.

use std::time::Duration;

use super::kind::{Location, Text, Word, list_not_empty};
use super::quantity::span;
use super::section::Section;
use crate::identity::revocation::{self, Doubt};
use crate::server::listener;
use crate::server::ocsp::{self, WithoutAnswer};

const OCSP: Word<Option<WithoutAnswer>> = Word(&[
    ("off", None),
    ("soft", Some(WithoutAnswer::Admit)),
    ("hard", Some(WithoutAnswer::Refuse)),
]);
const DOUBT: Word<Doubt> = Word(&[("refuse", Doubt::Refuse), ("warn", Doubt::Warn)]);

/// The lists that a broker looks at, those that it fetches among them.
pub(super) fn read_revocation(
    section: &mut Section<'_>,
    path: &Location,
) -> Option<revocation::Settings> {
    let fetch = read_fetch(section, path);
    read_lists(section, path, fetch)
}

fn read_fetch(section: &mut Section<'_>, path: &Location) -> Option<revocation::Fetch> {
    let urls = read_urls(section, "fetch", "\"http://crl.example.com/ca.crl\"", "a list");
    let from = read_urls(section, "fetch_from", "\"http://crl.example.com/\"", "a list");
    let each = Location { folder: path.folder.clone() };
    let fetched = section.take("fetched", &each, path.folder.join("crls"));
    let often = span(Duration::from_secs(10), Duration::from_hours(24 * 7));
    let every = section.take("fetch_every", &often, Duration::from_hours(1));
    let is_asked = !urls.is_empty() || !from.is_empty();
    is_asked.then_some(revocation::Fetch { urls, from, folder: fetched, every })
}

/// URLs of plain HTTP, for what is signed.
fn read_urls(
    section: &mut Section<'_>,
    key: &'static str,
    example: &str,
    what: &str,
) -> Vec<String> {
    let each = Text { bytes_max: 1024, expects: "a URL such as \"http://example.com/path\"" };
    let urls = list_not_empty(each, "name a URL, or leave the key out");
    let urls = section.find(key, &urls).unwrap_or_default();
    for url in &urls {
        let rest = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
        if rest.is_none_or(|(host, _)| host.is_empty() || host.contains('@')) {
            let remedy = format!("write one such as {example}: {what} is signed, and needs no TLS");
            section.refuse(key, &format!("holds {url:?}, which is no such URL"), &remedy);
        }
    }
    urls
}

/// Which OCSP responders are asked, where any are.
pub(super) fn read_ocsp(
    section: &mut Section<'_>,
    listeners: &[listener::Settings],
) -> Option<ocsp::Settings> {
    let mode = section.take("mode", &OCSP, None);
    let responders = read_urls(section, "responders", "\"http://ocsp.example.com/\"", "an answer");
    let often = span(Duration::from_secs(1), Duration::from_hours(24 * 7));
    let every = section.take("every", &often, Duration::from_hours(1));
    let wait = span(Duration::from_millis(100), Duration::from_secs(30));
    let timeout = section.take("timeout", &wait, Duration::from_secs(3));
    let Some(without_answer) = mode else {
        for key in ["responders", "every", "timeout"] {
            if section.has(key) {
                section.warn(key, "has no effect while ocsp.mode is \"off\"");
            }
        }
        return None;
    };
    if responders.is_empty() {
        let remedy = "name the URLs of the responders that may be asked";
        section.refuse("responders", "is missing: nobody may be asked", remedy);
    }
    if without_answer == WithoutAnswer::Admit {
        section.warn("mode", "is \"soft\": whoever keeps a responder from the broker undoes it");
    }
    let is_late = |it: &&listener::Settings| timeout >= it.admission.connect_deadline;
    if let Some(late) = listeners.iter().find(is_late) {
        let message = format!("is not shorter than listener.{}.connect_deadline", late.name);
        let remedy = "shorten it, or clients are gone before the answer comes";
        section.refuse("timeout", &message, remedy);
    }
    Some(ocsp::Settings { without_answer, responders, every, timeout })
}

pub(super) fn read_lists(
    section: &mut Section<'_>,
    path: &Location,
    fetch: Option<revocation::Fetch>,
) -> Option<revocation::Settings> {
    let each = Location { folder: path.folder.clone() };
    let paths = list_not_empty(each, "name a file or folder, or leave the key out");
    let lists = section.find("lists", &paths);
    let expired = section.take("expired", &DOUBT, Doubt::Refuse);
    let missing = section.take("missing", &DOUBT, Doubt::Refuse);
    for key in ["expired", "missing"] {
        if section.has(key) && !section.has("lists") && fetch.is_none() {
            section.refuse(key, "has no effect without lists", "set lists, or remove it");
        }
    }
    if expired == Doubt::Warn {
        section.warn("expired", "is \"warn\": whoever keeps a new list from the broker undoes it");
    }
    let is_asked = lists.is_some() || fetch.is_some();
    let lists = lists.unwrap_or_default();
    is_asked.then_some(revocation::Settings { lists, expired, missing, fetch })
}
