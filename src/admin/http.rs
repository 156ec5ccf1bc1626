//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Loopback only, GET only, one request per connection. A page in the operator's browser cannot
//! read it either: it sends the name it was loaded from as `Host`, and only addresses and
//! `localhost` are answered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::header;
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::metrics::{self, Metrics};
use crate::server::accept::Trouble;
use crate::server::http::{self, Page, TEXT, page};

/// More wait in the kernel's queue; scrapes and probes are few and short.
const CONNECTIONS_MAX: usize = 16;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// From accept to the end of the answer.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// The server, bound and not serving yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    pages: Arc<Pages>,
}

#[derive(Debug)]
struct Pages {
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl Http {
    /// Binds a loopback address. `ready` is what `/readyz` tells.
    ///
    /// # Errors
    /// When the address is not a loopback address, or cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the HTTP server is for loopback only, and {address} is not"),
            ));
        }
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, pages: Arc::new(Pages { metrics, ready }) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped; connections end with it.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        let mut trouble = Trouble::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    match accepted {
                        Ok((stream, _)) => {
                            trouble.ends();
                            connections.spawn(serve_one(stream, Arc::clone(&self.pages)));
                        }
                        Err(error) => trouble.bear("metrics.address", &error).await,
                    }
                }
                Some(ended) = connections.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        self.pages.metrics.panics.inc();
                    }
                }
            }
        }
    }
}

async fn serve_one(stream: TcpStream, pages: Arc<Pages>) {
    let answer = |request| std::future::ready(pages.answer(&request));
    let connection = http::serve_one(stream, HEADER_DEADLINE, answer);
    match tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP request failed"),
        Err(_) => tracing::debug!("an HTTP request took too long"),
    }
}

impl Pages {
    fn answer<B>(&self, request: &Request<B>) -> Page {
        if !is_for_this_machine(request) {
            return page(StatusCode::MISDIRECTED_REQUEST, TEXT, "not served under this name\n");
        }
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return page(StatusCode::NOT_FOUND, TEXT, "not found\n");
        }
        if request.method() != Method::GET {
            return http::method_not_allowed("GET");
        }
        match path {
            "/metrics" => page(StatusCode::OK, metrics::MEDIA_TYPE, self.metrics.render()),
            "/readyz" if !self.ready.load(Ordering::Relaxed) => {
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n")
            }
            // Refusals go unrecorded: whoever can should take clients elsewhere.
            "/readyz" if self.metrics.audit_failing.get() != 0 => {
                let why = "the audit log cannot be written\n";
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
            }
            "/readyz" => page(StatusCode::OK, TEXT, "ready\n"),
            _ => page(StatusCode::OK, TEXT, "ok\n"),
        }
    }
}

/// True when `Host` is an address or `localhost`, which no name server can point elsewhere, or
/// when there is none.
fn is_for_this_machine<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(header::HOST) else { return true };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    let unbracketed =
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || unbracketed.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Served {
        address: SocketAddr,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
        _task: JoinSet<()>,
    }

    async fn serve() -> Served {
        let (metrics, ready) = (Arc::new(Metrics::new()), Arc::new(AtomicBool::new(false)));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let http = Http::bind(any, Arc::clone(&metrics), Arc::clone(&ready)).await.unwrap();
        let address = http.address().unwrap();
        let mut task = JoinSet::new();
        task.spawn(http.serve());
        Served { address, metrics, ready, _task: task }
    }

    /// Sends the bytes and reads to the end of the connection, which the server has to close.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await
    }

    #[tokio::test]
    async fn metrics_are_shown_as_they_are_counted() {
        let served = serve().await;
        served.metrics.panics.inc_by(3);
        let answer = get(served.address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("application/openmetrics-text"));
        assert!(answer.contains("portcullis_panics_total 3\n"));
    }

    #[tokio::test]
    async fn ready_is_told_apart_from_alive() {
        let served = serve().await;
        assert!(get(served.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(served.address, "/readyz").await.starts_with("HTTP/1.1 503 "));
        served.ready.store(true, Ordering::Relaxed);
        assert!(get(served.address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn a_broker_that_cannot_write_its_audit_log_is_alive_and_not_ready() {
        let served = serve().await;
        served.ready.store(true, Ordering::Relaxed);
        served.metrics.audit_failing.set(1);
        let answer = get(served.address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthe audit log cannot be written\n"), "{answer}");
        assert!(get(served.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        served.metrics.audit_failing.set(0);
        assert!(get(served.address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let served = serve().await;
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("GET /metrics/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("GET /../metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "405"),
            ("DELETE /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "421"),
            ("GET /metrics HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", "421"),
            ("GET /metrics HTTP/1.1\r\nHost: a b\r\n\r\n", "421"),
            ("GET /healthz HTTP/1.1\r\nHost: LOCALHOST:9100\r\n\r\n", "200"),
            ("GET /healthz HTTP/1.1\r\nHost: [::1]:9100\r\n\r\n", "200"),
            ("GET /healthz HTTP/1.0\r\n\r\n", "200"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = exchange(served.address, request).await;
            assert_eq!(answer.split(' ').nth(1), Some(status), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_is_refused() {
        let served = serve().await;
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(9_000));
        // The server may close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn one_connection_is_one_request() {
        let served = serve().await;
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n";
        let answer = exchange(served.address, &request.repeat(2)).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    }

    #[tokio::test]
    async fn only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let bound = Http::bind(
                address.parse().unwrap(),
                Arc::new(Metrics::new()),
                Arc::new(AtomicBool::new(true)),
            )
            .await;
            assert_eq!(bound.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{address}");
        }
    }
}
