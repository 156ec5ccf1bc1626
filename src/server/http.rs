//! What all listeners of HTTP have in common: one request a connection, its head within bounds, and
//! pages as an answer.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

/// The kind of a page of words.
pub const TEXT: &str = "text/plain; charset=utf-8";

const HEADERS_MAX: usize = 32;
/// Bytes of the head of a request; hyper takes no less.
const BUFFER_BYTES_MAX: usize = 8 * 1024;

/// An answer.
pub type Page = Response<Full<Bytes>>;

/// Reads one request, whose head has to come within `head_deadline`, answers it, and ends the
/// connection. How long the rest may take is up to the caller.
///
/// # Errors
/// When the connection breaks off, or what comes is no request within the bounds.
pub async fn serve_one<S, F, A>(stream: S, head_deadline: Duration, answer: F) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Page>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_deadline)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// A page that nobody keeps, and that is taken for nothing but what it says it is.
pub fn page(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

/// The answer to a method that is not taken here.
pub fn method_not_allowed(allowed: &'static str) -> Page {
    let mut page = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("{allowed} only\n"));
    page.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    page
}
