//! The authority's lists of revoked certificates by plain HTTP (RFC 5280, section 4.2.1.13): they
//! are signed, and no secret.
//!
//! | path | what |
//! |---|---|
//! | `/issuing.crl`, `/root.crl` | the list of the present authority, DER |
//! | `/HASH.crl` | the list of the authority whose key has a hash that begins so, also of one before |
//! | `/crls.pem` | all that are in force, each with the certificate of who signed it: for brokers |
//!
//! A request is answered from memory: who asks makes nobody read a disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use time::OffsetDateTime;
use tokio::net::TcpStream;

use super::ListSettings;
use super::server::ANSWER_DEADLINE;
use crate::gates::admission::Slot;
use crate::pki::inventory::Role;
use crate::pki::{Ca, Published, sha256_hex};
use crate::server::http::{self, Page, TEXT, page};

const DER: &str = "application/pkix-crl";
const PEM: &str = "application/x-pem-file";
const ALL: &str = "/crls.pem";

/// What is served.
pub(super) struct Lists {
    table: ArcSwap<Table>,
    max_age: Duration,
    first_byte_deadline: Duration,
    request_deadline: Duration,
    rate: DefaultDirectRateLimiter,
}

/// What is at each path.
type Table = BTreeMap<String, Arc<Served>>;

/// One list, or all of them in one file.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    media_type: &'static str,
    bytes: Bytes,
    tag: String,
    next_update: OffsetDateTime,
}

impl Served {
    fn new(media_type: &'static str, bytes: Vec<u8>, next_update: OffsetDateTime) -> Arc<Self> {
        let tag = format!("\"{}\"", sha256_hex(&bytes));
        Arc::new(Self { media_type, bytes: bytes.into(), tag, next_update })
    }
}

impl Lists {
    pub(super) fn new(settings: &ListSettings) -> Self {
        let quota =
            Quota::per_second(settings.requests_per_second).allow_burst(settings.requests_burst);
        Self {
            table: ArcSwap::default(),
            max_age: settings.max_age,
            first_byte_deadline: settings.admission.first_byte_deadline,
            request_deadline: settings.admission.connect_deadline,
            rate: RateLimiter::direct(quota),
        }
    }

    /// From now on these are served. What is not among them, since its file cannot be used at
    /// present, stays as it was.
    pub(super) fn publish(&self, lists: Vec<Published>, all: Option<Vec<u8>>) {
        let mut table = Table::clone(&self.table.load());
        if let (Some(all), Some(first)) = (all, lists.iter().map(|it| it.next_update).min()) {
            table.insert(ALL.to_owned(), Served::new(PEM, all, first));
        }
        for list in lists {
            let path = format!("/{}.crl", list.short_issuer());
            let served = Served::new(DER, list.der, list.next_update);
            if list.is_current {
                let path = match list.role {
                    Role::Issuing => "/issuing.crl",
                    Role::Root => "/root.crl",
                };
                table.insert(path.to_owned(), Arc::clone(&served));
            }
            table.insert(path, served);
        }
        self.table.store(Arc::new(table));
    }

    /// Answers one request of somebody who was admitted.
    pub(super) async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        mut slot: Slot,
    ) {
        let first = self.first_byte_deadline;
        let peeked = tokio::time::timeout(first, stream.peek(&mut [0])).await;
        if !matches!(peeked, Ok(Ok(1..))) {
            return tracing::debug!(%peer, "nothing was sent within {first:?}");
        }
        slot.connected();
        let lists = Arc::clone(&self);
        let answer =
            |request| std::future::ready(lists.answer(&request, OffsetDateTime::now_utc()));
        let answered = http::serve_one(stream, self.request_deadline, answer);
        match tokio::time::timeout(self.request_deadline + ANSWER_DEADLINE, answered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, %peer, "a request for a list failed"),
            Err(_) => tracing::debug!(%peer, "a list was not taken"),
        }
        drop(slot);
    }

    fn answer<B>(&self, request: &Request<B>, now: OffsetDateTime) -> Page {
        if self.rate.check().is_err() {
            let mut refusal =
                page(StatusCode::TOO_MANY_REQUESTS, TEXT, "too many lists are asked for\n");
            refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return refusal;
        }
        let table = self.table.load();
        let Some(list) = table.get(request.uri().path()) else {
            return page(StatusCode::NOT_FOUND, TEXT, "there is no list here\n");
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return http::method_not_allowed("GET, HEAD");
        }
        let mut answer = if is_known(request.headers(), &list.tag) {
            page(StatusCode::NOT_MODIFIED, list.media_type, Bytes::new())
        } else {
            page(StatusCode::OK, list.media_type, list.bytes.clone())
        };
        // Beyond its end it would be refused; and until a cache asks again, it hides what was
        // revoked since.
        let left = Duration::try_from(list.next_update - now).unwrap_or_default();
        let control = format!("public, max-age={}", self.max_age.min(left).as_secs());
        for (name, value) in [(header::CACHE_CONTROL, &control), (header::ETAG, &list.tag)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }
}

/// Whether who asks has what is tagged so already (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    known.map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// Reads the lists in the folder of an authority; what is wrong goes to the log. Says whether all
/// could be read.
pub(super) fn read(folder: &std::path::Path) -> (Vec<Published>, Option<Vec<u8>>, bool) {
    let mut is_whole = true;
    let mut failed = |error: &dyn std::fmt::Display| {
        is_whole = false;
        tracing::warn!("a list of revoked certificates cannot be published: {error}");
    };
    let mut lists = Vec::new();
    for list in Ca::published_lists(folder) {
        match list {
            Ok(list) => lists.push(list),
            Err(error) => failed(&error),
        }
    }
    let all = match Ca::all_lists_pem(folder) {
        Ok(all) => Some(all),
        Err(error) => {
            failed(&error);
            None
        }
    };
    (lists, all, is_whole)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use std::num::NonZeroU32;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn lists(requests_burst: u32) -> Lists {
        let quota = Quota::per_hour(NonZeroU32::MIN);
        let lists = Lists {
            table: ArcSwap::default(),
            max_age: Duration::from_mins(5),
            first_byte_deadline: Duration::from_secs(1),
            request_deadline: Duration::from_secs(1),
            rate: RateLimiter::direct(quota.allow_burst(NonZeroU32::new(requests_burst).unwrap())),
        };
        lists.publish(vec![list("ab", Role::Issuing, b"one")], Some(b"all".to_vec()));
        lists
    }

    fn list(issuer: &str, role: Role, der: &[u8]) -> Published {
        Published {
            issuer: issuer.repeat(32),
            name: "Factory".to_owned(),
            role,
            is_current: true,
            number: 1,
            is_in_all: true,
            next_update: NOW + time::Duration::days(1),
            der: der.to_vec(),
        }
    }

    fn ask(lists: &Lists, method: &str, path: &str, known: &str, now: OffsetDateTime) -> Page {
        let request = Request::builder().method(method).uri(path);
        lists.answer(&request.header("If-None-Match", known).body(()).unwrap(), now)
    }

    fn header<'a>(page: &'a Page, name: &str) -> &'a str {
        page.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn each_authority_has_a_path_for_its_list_and_another_by_its_hash() {
        let lists = lists(100);
        lists.publish(vec![list("cd", Role::Root, b"two")], None);
        for (path, body, kind) in [
            ("/issuing.crl", "one", DER),
            ("/abababababababab.crl", "one", DER),
            ("/root.crl", "two", DER),
            ("/cdcdcdcdcdcdcdcd.crl", "two", DER),
            ("/crls.pem", "all", PEM),
        ] {
            let page = ask(&lists, "GET", path, "", NOW);
            assert_eq!((page.status().as_u16(), header(&page, "content-type")), (200, kind));
            let bytes = page.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes, body, "{path}");
        }
        for path in ["/", "/ca.key", "/../ca.key", "/abababababababa.crl", "/issuing.crl/"] {
            assert_eq!(ask(&lists, "GET", path, "", NOW).status(), 404, "{path}");
        }
        assert_eq!(ask(&lists, "HEAD", "/root.crl", "", NOW).status(), 200);
        let refused = ask(&lists, "POST", "/root.crl", "", NOW);
        assert_eq!((refused.status().as_u16(), header(&refused, "allow")), (405, "GET, HEAD"));
    }

    #[test]
    fn a_cache_keeps_a_list_for_a_while_and_never_beyond_its_end() {
        let lists = lists(100);
        let kept = |now| {
            let page = ask(&lists, "GET", "/issuing.crl", "", now);
            header(&page, "cache-control").to_owned()
        };
        let end = NOW + time::Duration::days(1);
        assert_eq!(kept(NOW), "public, max-age=300");
        assert_eq!(kept(end - time::Duration::seconds(10)), "public, max-age=10");
        assert_eq!(kept(end), "public, max-age=0");
        assert_eq!(kept(end + time::Duration::days(1)), "public, max-age=0");

        let page = ask(&lists, "GET", "/issuing.crl", "", NOW);
        let tag = header(&page, "etag").to_owned();
        for (known, status) in [
            (tag.clone(), 304),
            (format!("\"other\", W/{tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
        ] {
            let page = ask(&lists, "GET", "/issuing.crl", &known, NOW);
            assert_eq!((page.status().as_u16(), header(&page, "etag")), (status, &*tag), "{known}");
        }
        // Another list has another tag.
        lists.publish(vec![list("ab", Role::Issuing, b"new")], None);
        assert_eq!(ask(&lists, "GET", "/issuing.crl", &tag, NOW).status(), 200);
    }

    #[test]
    fn who_asks_too_often_is_told_to_come_again() {
        let lists = lists(2);
        let statuses: Vec<u16> =
            (0..3).map(|_| ask(&lists, "GET", "/issuing.crl", "", NOW).status().as_u16()).collect();
        assert_eq!(statuses, [200, 200, 429]);
    }
}
