//! One request of HTTP, read within its bounds, and its answer.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::enroll::{Asked, Credentials, Operation, Peer, Refusal};
use super::message;
use super::server::Shared;
use crate::pki::ProfileName;
use crate::pki::request::REQUEST_BYTES_MAX;
use crate::server::http::{self, Page, TEXT, page};

/// Bytes of a body: the largest request, in base64 with its lines.
const BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX;
const ROOT: &str = "/.well-known/est/";

const CERTIFICATES: &str = "application/pkcs7-mime; smime-type=certs-only";
const ATTRIBUTES: &str = "application/csrattrs";
const REQUEST: &str = "application/pkcs10";

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Certificates,
    Attributes,
    Enrolment(Operation),
}

/// Answers one request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    stream: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    deadline: Instant,
) {
    let answer = |request| {
        let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
        async move { respond(&shared, &peer, request, deadline).await }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let connection = http::serve_one(stream, left, answer);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a request of EST failed");
    }
}

async fn respond(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
    deadline: Instant,
) -> Page {
    match resolve(shared, peer, request, deadline).await {
        Ok(response) => response,
        Err(refusal) => {
            shared.record_refusal(peer, &refusal);
            refused(&refusal)
        }
    }
}

async fn resolve(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
    deadline: Instant,
) -> Result<Page, Refusal> {
    let (label, resource) = route(request.uri().path())
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is nothing here"))?;
    let profile = label.map(|label| offered(shared, label)).transpose()?;
    let allowed = match resource {
        Resource::Enrolment(_) => Method::POST,
        Resource::Certificates | Resource::Attributes => Method::GET,
    };
    if request.method() != allowed {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{allowed} only"))
            .with_header(header::ALLOW, allowed.as_str()));
    }
    match resource {
        Resource::Certificates => {
            Ok(encoded(CERTIFICATES, shared.authority.current().certificates.clone()))
        }
        Resource::Attributes => {
            let attributes = message::attributes().map_err(|error| Refusal::of_ours(&error))?;
            Ok(encoded(ATTRIBUTES, attributes))
        }
        Resource::Enrolment(operation) => {
            let asked = read(shared, operation, profile, request, deadline).await?;
            let der = decide(shared, peer, asked).await?;
            let body = message::certificates(&[&der]).map_err(|error| Refusal::of_ours(&error))?;
            Ok(encoded(CERTIFICATES, body))
        }
    }
}

/// The label, if there is one, and what is asked of it.
fn route(path: &str) -> Option<(Option<&str>, Resource)> {
    let rest = path.strip_prefix(ROOT)?;
    let (label, name) = match rest.split_once('/') {
        Some((label, name)) => (Some(label), name),
        None => (None, rest),
    };
    let resource = match name {
        "cacerts" => Resource::Certificates,
        "csrattrs" => Resource::Attributes,
        "simpleenroll" => Resource::Enrolment(Operation::Enroll),
        "simplereenroll" => Resource::Enrolment(Operation::Renew),
        _ => return None,
    };
    Some((label, resource))
}

/// The profile that a label names, if it is one of those that are issued.
fn offered(shared: &Shared, label: &str) -> Result<ProfileName, Refusal> {
    let named = |profile: &&crate::pki::Profile| profile.name.as_str() == label;
    let found = shared.profiles.iter().find(named).map(|profile| profile.name);
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no profile of this label"))
}

/// Reads what is asked for; the rate, sizes and kinds of content come first.
async fn read(
    shared: &Shared,
    operation: Operation,
    profile: Option<ProfileName>,
    request: Request<Incoming>,
    deadline: Instant,
) -> Result<Asked, Refusal> {
    if shared.rate.check().is_err() {
        let refusal =
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many certificates are asked for");
        return Err(refusal.with_header(header::RETRY_AFTER, "1"));
    }
    if !is_request(request.headers()) {
        let message = format!("send {REQUEST}: a signing request (PKCS#10), in base64");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let credentials = credentials(request.headers());
    let too_large = || {
        let message = format!("a request has {BODY_BYTES_MAX} bytes at most");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let body = request.into_body();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    let body = tokio::time::timeout_at(deadline, body)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request took too long"))?;
    let body = body.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            too_large()
        } else {
            Refusal::new(StatusCode::BAD_REQUEST, "the request broke off")
        }
    })?;
    Ok(Asked { operation, profile, credentials, body: body.to_bytes() })
}

/// Decides on a thread that may wait for the disk.
async fn decide(shared: &Arc<Shared>, peer: &Arc<Peer>, asked: Asked) -> Result<Vec<u8>, Refusal> {
    let place = Arc::clone(&shared.decisions).acquire_owned().await;
    let place = place.map_err(|error| Refusal::of_ours(&error))?;
    let (ours, peer) = (Arc::clone(shared), Arc::clone(peer));
    let decided = tokio::task::spawn_blocking(move || {
        let decided = ours.decide(&peer, &asked);
        drop(place);
        decided
    });
    let issued = decided.await.map_err(|error| Refusal::of_ours(&error))??;
    // Nothing depends on it: where too many wait, it is not told.
    let _ = shared.notices.try_send(issued.about);
    Ok(issued.der)
}

fn is_request(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(REQUEST)
}

/// Name and token, as HTTP Basic has them (RFC 7617).
fn credentials(headers: &HeaderMap) -> Credentials {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Credentials::None };
    let basic = || {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
        let (name, token) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some((name.to_owned(), Zeroizing::new(token.to_owned())))
    };
    match basic() {
        Some((name, token)) if all.next().is_none() => Credentials::Token { name, token },
        _ => Credentials::Unreadable,
    }
}

fn refused(refusal: &Refusal) -> Page {
    let mut response = page(refusal.status, TEXT, format!("{}\n", refusal.told));
    let headers = response.headers_mut();
    for (name, value) in &refusal.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// What was asked for, in base64.
fn encoded(media_type: &'static str, body: String) -> Page {
    let mut page = page(StatusCode::OK, media_type, body);
    // For clients from before RFC 8951, which does without it.
    let name = HeaderName::from_static("content-transfer-encoding");
    page.headers_mut().insert(name, HeaderValue::from_static("base64"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_rfc_7030_with_at_most_one_label() {
        let enroll = Resource::Enrolment(Operation::Enroll);
        for (path, expected) in [
            ("/.well-known/est/cacerts", Some((None, Resource::Certificates))),
            ("/.well-known/est/device/simpleenroll", Some((Some("device"), enroll))),
            ("/.well-known/est/csrattrs", Some((None, Resource::Attributes))),
            ("/.well-known/est/a/b/cacerts", None),
            ("/.well-known/est/", None),
            ("/.well-known/est/serverkeygen", None),
            ("/cacerts", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn credentials_are_basic_once_or_unreadable() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            credentials(&headers)
        };
        assert!(matches!(with(&[]), Credentials::None));
        let Credentials::Token { name, token } = with(&["Basic ZGV2MTpzOmNyZXQ="]) else {
            panic!()
        };
        assert_eq!((&*name, &**token), ("dev1", "s:cret"));
        for wrong in [
            &["Bearer abc"][..],
            &["Basic"],
            &["Basic !"],
            &["Basic ZGV2MQ=="],
            &["Basic /w=="],
            &["Basic ZGV2MTpzOmNyZXQ=", "Basic ZGV2MTpzOmNyZXQ="],
        ] {
            assert!(matches!(with(wrong), Credentials::Unreadable), "{wrong:?}");
        }
    }
}
