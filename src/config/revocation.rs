//! Revocation lists: `[revocation]`.

use std::time::Duration;

use super::kind::{Location, Text, Word, list_not_empty};
use super::quantity::span;
use super::section::Section;
use crate::identity::revocation::{self, Doubt};

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
    let urls = Text { bytes_max: 1024, expects: "a URL such as \"http://crl.example.com/ca.crl\"" };
    let urls = list_not_empty(urls, "name a URL, or leave the key out");
    let urls = section.find("fetch", &urls).unwrap_or_default();
    for url in &urls {
        let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        if host.is_none_or(|host| host.is_empty() || host.contains('@')) {
            let remedy = "write http://HOST/PATH: a list is signed, and needs no TLS";
            section.refuse("fetch", &format!("holds {url:?}, which is no such URL"), remedy);
        }
    }
    let each = Location { folder: path.folder.clone() };
    let fetched = section.take("fetched", &each, path.folder.join("crls"));
    let often = span(Duration::from_secs(10), Duration::from_hours(24 * 7));
    let every = section.take("fetch_every", &often, Duration::from_hours(1));
    (!urls.is_empty()).then_some(revocation::Fetch { urls, folder: fetched, every })
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
